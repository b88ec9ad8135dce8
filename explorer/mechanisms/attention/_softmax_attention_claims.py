"""What softmax_attention.py claims: a sink is born where a head is sometimes not needed, and only there."""

from explorer.catalogue import Claim
from explorer.mechanisms.attention._backcopy import BACKCOPY

UNTRIGGERED = {"task": {"name": "bigram-backcopy", "trigger_share": 0.0}}

CLAIMS = (
    Claim(
        "grows-a-sink", "A head with nothing to look for parks its attention on the first token.",
        source="arXiv:2410.13835 (this task); arXiv:2309.17453",
        reported="46.7 % of all attention in a model of 15B (arXiv:2505.06708)",
        metric="sink_share", setup=BACKCOPY, control=UNTRIGGERED, control_is="no triggers: the head is never needed",
        relation=">=", threshold=0.35, why="ten times the 0.036 of even attention",
    ),
    Claim(
        "sinks-need-a-first-token", "It is the same token in every sequence that becomes the sink.",
        source="arXiv:2410.13835 (this task); arXiv:2410.10781", reported="",
        metric="sink_share", setup=BACKCOPY, control={"task": {"name": "bigram-backcopy", "bos": False}},
        control_is="sequences begin anywhere, without a token of their own for it",
        relation=">=", threshold=0.35, why="ten times the 0.036 of even attention",
    ),
    Claim(
        "sink-rate", "Most heads have a sink by the usual count: a first token that receives more than 0.3.",
        source="arXiv:2410.10781", reported="18.2 % of the heads of a model of 60M, 45 % at 1B",
        metric="sink_rate", setup=BACKCOPY, control=UNTRIGGERED, control_is="no triggers",
        relation=">=", threshold=0.5, why="here every head copies, so most should have one",
    ),
    Claim(
        "the-sink-says-nothing", "The first token's value is small: to look at it adds next to nothing.",
        source="arXiv:2410.10781", reported="small key and value norms of the first token",
        metric="first_value", setup=BACKCOPY, control=UNTRIGGERED, control_is="no triggers",
        relation="<=", threshold=0.45, why="less than half of an ordinary token's",
    ),
    Claim(
        "eviction", "A trained model that may no longer see its sink does worse.",
        source="arXiv:2309.17453", reported="perplexity 5.40 to 5158 (Llama-2-13B, window without the first tokens)",
        metric="eviction_cost", setup=BACKCOPY, control_metric="eviction_cost_of_another",
        control_is="the fourth token goes instead", relation=">=", threshold=None,
        why="one layer with rotation has little else to see: the cost is small and differs from seed to seed",
    ),
)  # fmt: skip
