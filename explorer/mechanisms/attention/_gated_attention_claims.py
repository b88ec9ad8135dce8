"""What gated_attention.py claims, each beside its twin without a gate or with another."""

import torch

from explorer.catalogue import Claim, build
from explorer.mechanisms.attention._backcopy import BACKCOPY

HEADWISE, ELEMENTWISE = {**BACKCOPY, "granularity": "headwise"}, {**BACKCOPY, "granularity": "elementwise"}
UNGATED = dict.fromkeys(("position", "granularity", "activation", "combine")) | {"mechanism": "softmax-attention"}
TABLE = "arXiv:2505.06708, table 4"
FAST = {  # two narrow layers, nothing clipped, at a rate that is too high
    "task": {"name": "bigram-backcopy", "sequence": 48}, "steps": 150, "warmup": 10, "horizon": 0, "clip": 0.0,
    "learning_rate": 0.1, "batch": 16, "layers": 2, "d_model": 32, "n_heads": 2, "tied": False, "attention_scale": 0.16,
}  # fmt: skip


def far_from_linear(seed: int) -> tuple[float, float]:
    """Share of a sequence of one token's output that no linear map of the token gives: with the G1 gate, and without."""
    x_ND = torch.randn(400, 24, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def unexplained(name: str) -> float:
        with torch.no_grad():
            y_ND = build(name, d_model=24).double()(x_ND[:, None])[:, 0]
        rest_ND = y_ND - x_ND @ torch.linalg.lstsq(x_ND, y_ND).solution
        return (rest_ND.square().sum() / y_ND.square().sum()).item()

    return unexplained("gated-attention"), unexplained("softmax-attention")


def variant(name: str, statement: str, reported: str, why: str, **knobs: str) -> Claim:
    """A form of the gate whose sink the paper measured, and which differs from it at this scale or is not judged."""
    return Claim(
        name, statement, source=TABLE, reported=reported, metric="sink_share", setup={**BACKCOPY, **knobs},
        control=UNGATED, control_is="softmax-attention", effect="ratio", threshold=None, why=why,
    )  # fmt: skip


CLAIMS = (
    Claim(
        "no-sink-headwise", "With one gate value a head, heads stop parking their attention on the first token.",
        source=TABLE, reported="0.073 / 0.467 = 0.16x", metric="sink_share", setup=HEADWISE,
        control=UNGATED, control_is="softmax-attention", effect="ratio", threshold=0.35,
        why="a third of what is there without a gate; the paper finds a sixth",
    ),
    Claim(
        "no-sink-elementwise", "With one gate value a channel, heads stop parking their attention on the first token.",
        source=TABLE, reported="0.048 / 0.467 = 0.10x", metric="sink_share", setup=ELEMENTWISE,
        control=UNGATED, control_is="softmax-attention", effect="ratio", threshold=0.6,
        why="many channels close less sharply than one value a head; 0.6 is beyond the spread of seeds",
    ),
    Claim(
        "no-loss-headwise", "The headwise gate costs no loss.",
        source=TABLE, reported="perplexity 5.792 / 6.026", metric="held_out_loss", setup=HEADWISE,
        control=UNGATED, control_is="softmax-attention", effect="ratio", threshold=1.02,
        why="2 %: more than twin runs differ by",
    ),
    Claim(
        "no-loss-elementwise", "The elementwise gate costs no loss.",
        source=TABLE, reported="perplexity 5.761 / 6.026", metric="held_out_loss", setup=ELEMENTWISE,
        control=UNGATED, control_is="softmax-attention", effect="ratio", threshold=1.02,
        why="2 %: more than twin runs differ by",
    ),
    Claim(
        "gate-knows-when", "The gate opens for the tokens at which its head is needed, and stays shut for others.",
        source="arXiv:2505.06708 (sparse gates that depend on the query)", reported="mean gate 0.172",
        metric="gate_auc", setup=HEADWISE, control={"steps": 0}, control_is="before training",
        relation=">=", threshold=0.95, why="as a detector of triggers: nearly without fault",
    ),
    Claim(
        "gate-shuts", "Where a head is not needed, its gate is all but shut.",
        source="arXiv:2505.06708 (sparse gates that depend on the query)", reported="mean gate 0.172",
        metric="gate_when_idle", setup=HEADWISE, control_metric="gate_when_needed", control_is="at triggers",
        threshold=0.05, why="a twentieth of what the head would say",
    ),
    Claim(
        "half-shut-keeps-the-sink", "A gate that cannot fall below a half (NS-sigmoid) leaves the sink where it is.",
        source=TABLE, reported="0.451 / 0.467 = 0.97x", metric="sink_share", setup={**ELEMENTWISE, "activation": "ns-sigmoid"},
        control=UNGATED, control_is="softmax-attention", effect="ratio", relation=">=", threshold=0.45,
        why="about half of it at least",
    ),
    Claim(
        "sparsity-not-non-linearity", "It is shutting that removes the sink: NS-sigmoid is as non-linear, and keeps it.",
        source=TABLE, reported="0.451 / 0.048 = 9.4x", metric="sink_share", setup={**ELEMENTWISE, "activation": "ns-sigmoid"},
        control={"activation": "sigmoid"}, control_is="the same gate with a sigmoid", effect="ratio", relation=">=",
        threshold=1.5, why="beyond the spread of seeds",
    ),
    Claim(
        "no-fixed-linear-map", "With one token an ungated head is one linear map of it; a gated head is none.",
        source="arXiv:2505.06708, section 4.1 (non-linearity)", reported="",
        metric="share of the output that no linear map gives", measure=far_from_linear, control_is="softmax-attention",
        relation=">=", threshold=0.01, why="the ungated share is zero up to rounding",
    ),
    Claim(
        "sink-not-needed", "What a gated model loses without its first token is less than what its twin loses.",
        source="arXiv:2505.06708 (long sequences)", reported="", metric="eviction_cost", setup=HEADWISE,
        control=UNGATED, control_is="softmax-attention", effect="difference", threshold=None,
        why="with rotation the cost is small even without a gate",
    ),
    variant("value-gate", "A gate on the values (G2) lowers the sink by a third.", "0.297 / 0.467 = 0.64x",
            "here it rises: a first token whose value is shut is a perfect place for what is left over", position="G2"),
    variant("head-shared", "One gate for all heads keeps most of the sink.", "0.301 / 0.467 = 0.64x",
            "here all heads have one and the same thing to do, so that one gate may serve them all",
            granularity="head-shared"),
    variant("input-independent", "Constant gates keep most of the sink.", "0.364 / 0.467 = 0.78x",
            "here one seed differs from another by more than the gate does", granularity="input-independent"),
    variant("norm-instead", "Normed heads, without a gate.", "", "the paper gives no share of the first token for it",
            granularity="norm", activation="identity"),
    Claim(
        "norm-loss", "Normed heads, without a gate, lower the loss.",
        source="arXiv:2505.06708, table 1", reported="perplexity 5.847 / 6.026", metric="held_out_loss",
        setup={**BACKCOPY, "granularity": "norm", "activation": "identity"}, control=UNGATED,
        control_is="softmax-attention", effect="ratio", threshold=None,
        why="a normed head cannot be quiet, which may cost something in a layer of two heads",
    ),
    variant("after-the-projection", "A gate behind the output projection (G5).", "",
            "the paper gives no share of the first token for it", position="G5"),
    Claim(
        "high-rate", "A gated model still learns at learning rates that are too high for its twin.",
        source="arXiv:2505.06708, table 2", reported="perplexity 7.325 / 9.195 (1.7B, rate 8e-3)",
        metric="held_out_loss", setup=FAST, control=UNGATED, control_is="softmax-attention", effect="ratio", threshold=None,
        why="here one seed differs from another by more than a gate does",
    ),
    Claim(
        "high-rate-by-constants", "Constant gates at the same rate.",
        source="arXiv:2505.06708, table 2", reported="", metric="held_out_loss",
        setup={**FAST, "granularity": "input-independent"}, control=UNGATED, control_is="softmax-attention",
        effect="ratio", threshold=None, why="the control of the claim before: what halving the output does by itself",
    ),
)  # fmt: skip
