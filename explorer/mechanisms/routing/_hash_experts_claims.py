"""The claims of `hash-experts`, on the field: a picture that is smooth on one side and fine on the other."""

from explorer.catalogue import Claim

FIELD = {
    "task": {"name": "field", "noise": 1.0}, "steps": 300, "horizon": 300, "batch": 16, "learning_rate": 0.02
}  # fmt: skip

CLAIMS = (
    Claim(
        "experts-of-many-scales",
        "Experts of different fineness paint a picture better than as many that are all alike.",
        source="arXiv:2505.02005, section on heterogeneous experts; 0.5 dB proposed here",
        reported="",
        metric="held_out_loss",
        setup=FIELD,
        control={"smoothest": 64},
        control_is="every expert up to 64 cells, equal parameters",
        effect="ratio",
        threshold=0.89,
        why="0.89 of the squared error is 0.5 dB of PSNR",
    ),
    Claim(
        "fine-experts-take-the-grain",
        "Which expert a place gets tells whether the picture is smooth there or fine.",
        source="arXiv:2505.02005, figures of the decomposed scene",
        reported="",
        metric="nmi",
        setup=FIELD,
        control={"steps": 0},
        control_is="before training",
        relation=">=",
        threshold=0.3,
        why="a third of the one bit there is to know",
    ),
)
