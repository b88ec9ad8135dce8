"""What sigmoid_attention.py claims: weights that need not sum to one leave nothing over for a sink."""

from explorer.catalogue import Claim
from explorer.mechanisms.attention._backcopy import BACKCOPY

SOFTMAX = {"mechanism": "softmax-attention"}
REPORTED = "0.44 % of the heads have a sink, 18.18 % with softmax (60M)"

CLAIMS = (
    Claim(
        "no-sink", "No head has a sink, even when its rows are divided by their sums.",
        source="arXiv:2410.10781", reported=REPORTED, metric="proxy_sink_share", setup=BACKCOPY,
        control=SOFTMAX, control_is="softmax-attention", threshold=0.15, why="four times the 0.036 of even attention",
    ),
    Claim(
        "less-than-softmax", "The first token gets far less of a row than with a softmax.",
        source="arXiv:2410.10781", reported=REPORTED, metric="proxy_sink_share", setup=BACKCOPY,
        control=SOFTMAX, control_is="softmax-attention", effect="ratio", threshold=0.3,
        why="a third, rows divided by their sums: the raw weights are small by construction",
    ),
    Claim(
        "no-loss", "It costs no loss.",
        source="arXiv:2409.04431; arXiv:2410.10781", reported="validation loss 3.10 / 3.07 (1B)",
        metric="held_out_loss", setup=BACKCOPY, control=SOFTMAX, control_is="softmax-attention", effect="ratio",
        threshold=1.01, why="1 %, as much as the paper's difference",
    ),
)  # fmt: skip
