"""The claims of `gated-positional`, tried on the patches of handwritten digits.

What hosts and trains is imported only when a claim is measured.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from explorer.catalogue import Claim

HOST: dict[str, Any] = {"layers": 3, "d_model": 32, "n_heads": 4, "horizon": 300, "watch": None}
STEPS = 300


def experiment(seed: int, n_train: int, **knobs: Any) -> Any:
    """A fresh run on so many digits, in 16 patches."""
    from explorer.experiment import Experiment
    from explorer.tasks.digit_patches import DigitPatches

    return Experiment("gated-positional", task=DigitPatches(n_train=n_train), seed=seed, **{**HOST, **knobs})


@lru_cache(maxsize=4)
def layers(seed: int, steps: int) -> tuple[Tensor, Tensor]:
    """(gates, non-localities), each (L,) means over heads, on the held-out digits after so many steps on 1200 digits."""
    run = experiment(seed, 1200, batch=64, learning_rate=2e-3, weight_decay=0.05).run(steps)
    seen = run.examine(watch=["*/gate", "*/nonlocality"])[1]
    paths = [f"blocks.{layer}.attention" for layer in range(HOST["layers"])]
    gates, distances = ([seen.last(f"{path}/{tap}").mean() for path in paths] for tap in ("gate", "nonlocality"))
    return torch.stack(gates), torch.stack(distances)


def distance_at_the_start(seed: int) -> tuple[float, float]:
    """Non-locality before the first step, mean of the layers: of a fresh model, and of one that looks by content alone."""
    run = experiment(seed, 1200, start=-20.0)
    seen = run.examine(watch="*/nonlocality")[1]
    content = torch.stack([seen.last(path) for path in seen.paths() if path.endswith("/nonlocality")]).mean()
    return layers(seed, 0)[1].mean().item(), content.item()


def gate_of_the_last_layer(seed: int) -> tuple[float, float]:
    """Mean gate of the last layer, trained and untrained."""
    return layers(seed, STEPS)[0][-1].item(), layers(seed, 0)[0][-1].item()


def distance_of_the_last_layer(seed: int) -> tuple[float, float]:
    """Non-locality of the last layer, trained and untrained."""
    return layers(seed, STEPS)[1][-1].item(), layers(seed, 0)[1][-1].item()


def accuracy_on_little_data(seed: int) -> tuple[float, float]:
    """Held-out accuracy after 300 steps on 100 digits: with the position map, and with its gates shut from start to end."""
    return _accuracy(seed, 1.0), _accuracy(seed, -20.0)


def _accuracy(seed: int, start: float) -> float:
    run = experiment(seed, 100, batch=32, learning_rate=3e-3, start=start).run(STEPS)
    batch = run.data.held_out()
    with torch.no_grad():
        return (run.model.eval()(batch.inputs).argmax(1) == batch.labels).float().mean().item()


def error_of_the_shift(seed: int) -> tuple[float, float]:
    """Largest difference from the nine shifts of a 3 x 3 window, away from the border: gates open and bumps sharp; as built."""
    sharp, fresh = (_difference_from_shifts(seed, **knobs) for knobs in ({"locality": 50.0, "start": 20.0}, {}))
    return sharp, fresh


def _difference_from_shifts(seed: int, **knobs: Any) -> float:
    import explorer

    torch.manual_seed(seed)
    module: Any = explorer.build("gated-positional", d_model=36, n_heads=9, causal=False, **knobs)
    picture = torch.randn(1, 6, 6, 36)
    with torch.no_grad():
        module.out.weight.copy_(torch.eye(36))
        y = module(picture.view(1, 36, 36)).view(6, 6, 9, 4)[1:-1, 1:-1]
    heads = picture.view(6, 6, 9, 4)
    shifts = [heads[1 + i : 5 + i, 1 + j : 5 + j, 3 * (i + 1) + j + 1] for i in (-1, 0, 1) for j in (-1, 0, 1)]
    return (y - torch.stack(shifts, 2)).abs().max().item()


CLAIMS = (
    Claim(
        "starts-local",
        "Before training a head looks at its neighbourhood.",
        source="arXiv:2103.10697, figure 5 (non-locality at the start)",
        reported="",
        metric="mean distance in patches to where heads look, before training",
        measure=distance_at_the_start,
        control_is="the same model with its gates shut: content alone",
        threshold=1.3,
        why="looking at all 16 patches alike gives 2",
    ),
    Claim(
        "gates-of-late-layers-close",
        "In training the last layer's gates turn from position to content.",
        source="arXiv:2103.10697, figure 6; threshold from runs at this scale",
        reported="near 0 in layers 6 to 10, of 10",
        metric="mean gate of the last of three layers (lambda learns 20 times as fast as the rest)",
        measure=gate_of_the_last_layer,
        control_is="before training",
        threshold=0.6,
        why="0.73 at the start, and far below in all trial runs",
    ),
    Claim(
        "heads-escape",
        "In training the last layer's heads learn to look far.",
        source="arXiv:2103.10697, figure 5; threshold from runs at this scale",
        reported="",
        metric="mean distance in patches to where the last layer's heads look",
        measure=distance_of_the_last_layer,
        control_is="before training",
        relation=">=",
        threshold=1.45,
        why="midway from the start (1.1) to an even look at all patches (2), nearly",
    ),
    Claim(
        "helps-on-little-data",
        "With 100 digits to learn from, the built-in window makes the model better.",
        source="arXiv:2103.10697, table 3 (5 % of ImageNet)",
        reported="+13 points (47.8 against 34.8 %)",
        metric="accuracy on held-out digits",
        measure=accuracy_on_little_data,
        control_is="the same model with its gates shut; both have learned positions",
        effect="difference",
        relation=">=",
        threshold=0.05,
        why="18 of 360 digits",
    ),
    Claim(
        "is-a-convolution-at-the-limit",
        "With gates open and sharp bumps, nine heads are the nine shifts of a 3 x 3 convolution.",
        source="arXiv:2103.10697, section 3",
        reported="",
        metric="largest difference from the shifts, away from the border",
        measure=error_of_the_shift,
        control_is="alpha and lambda as they start",
        threshold=1e-3,
        why="rounding",
    ),
)
