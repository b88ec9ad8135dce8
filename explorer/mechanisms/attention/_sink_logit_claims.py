"""What sink_logit.py claims: where there is a place for nothing, the first token is not needed as one."""

from explorer.catalogue import Claim
from explorer.mechanisms.attention._backcopy import BACKCOPY

PLAIN = {"mechanism": "softmax-attention", "kind": None}
KEY = {**BACKCOPY, "kind": "key"}

CLAIMS = (
    Claim(
        "no-sink", "With a learned sink, heads stop parking their attention on the first token.",
        source="arXiv:2410.10781 (sinks act as biases); gpt-oss, arXiv:2508.10925", reported="",
        metric="sink_share", setup=BACKCOPY, control=PLAIN, control_is="softmax-attention", effect="ratio", threshold=0.2,
        why="a fifth of what is there without it",
    ),
    Claim(
        "takes-the-mass", "The learned sink takes the weight of the queries with nothing to look for.",
        source="arXiv:2410.10781 (sinks act as biases); gpt-oss, arXiv:2508.10925", reported="",
        metric="mass_on_nothing", setup=BACKCOPY, control=PLAIN, control_is="softmax-attention, whose rows sum to one",
        relation=">=", threshold=0.6, why="more than half of it, in every head",
    ),
    Claim(
        "no-loss", "The learned sink costs no loss.",
        source="gpt-oss, arXiv:2508.10925", reported="",
        metric="held_out_loss", setup=BACKCOPY, control=PLAIN, control_is="softmax-attention", effect="ratio", threshold=1.02,
        why="2 %: more than twin runs differ by",
    ),
    Claim(
        "key-no-sink", "A learned key with a value of zero (K-bias) takes the sink away from the first token.",
        source="arXiv:2410.10781", reported="0.00 % on the first token, 73.34 % on the key (share of heads with a sink)",
        metric="sink_share", setup=KEY, control=PLAIN, control_is="softmax-attention", effect="ratio", threshold=0.2,
        why="a fifth of what is there without it",
    ),
    Claim(
        "key-takes-the-mass", "The learned key takes the weight of the queries with nothing to look for.",
        source="arXiv:2410.10781", reported="73.34 % of the heads have their sink there",
        metric="mass_on_nothing", setup=KEY, control=PLAIN, control_is="softmax-attention, whose rows sum to one",
        relation=">=", threshold=0.6, why="more than half of it, in every head",
    ),
    Claim(
        "off-by-one", "A sink's score fixed at zero takes the first token's place.",
        source="arXiv:2410.10781 (zero sink)", reported="",
        metric="sink_share", setup={**BACKCOPY, "kind": "off-by-one"}, control=PLAIN, control_is="softmax-attention",
        effect="ratio", threshold=None, why="the first token's scores can grow past a zero: seeds differ",
    ),
    Claim(
        "off-by-one-mass", "What a sink's score fixed at zero takes.",
        source="arXiv:2410.10781 (zero sink)", reported="",
        metric="mass_on_nothing", setup={**BACKCOPY, "kind": "off-by-one"}, control=BACKCOPY | {"kind": "learned"},
        control_is="a learned score", threshold=None, why="seeds differ, as they do in the share of the first token",
    ),
)  # fmt: skip
