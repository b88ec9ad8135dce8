"""The claims of `adversarial-moe`: accuracy on digits under attack, with flips of the router and of the experts apart.

What hosts and trains is imported only when a claim is measured.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from explorer.catalogue import Claim
from explorer.kernels.ascent import ascend, divergence

STEPS, RADIUS = 150, 0.1


@dataclass(frozen=True)
class UnderAttack:
    """Shares of the held-out digits, 0 to 1. Each is right or not; its router flips (chooses another pathway) or does not.

    clean: right without attack; joint: right as it comes; experts: right on the clean image's pathway (experts fooled
    only); router: right if the clean image takes the attacked one's pathway (router flipped only); flips: router flipped.
    """

    clean: float
    joint: float
    experts: float
    router: float
    flips: float


def under_attack(model: Any, x_BTD: Tensor, labels_BT: Tensor, radius: float = RADIUS, aim: str = "all") -> UnderAttack:
    """What PGD of ten steps does to an AdversarialMoE in eval mode; aim: "router" (its scores alone), "experts" or "all"."""
    from explorer.mechanisms.routing.adversarial_moe import straight_through

    model.eval()
    with torch.no_grad():
        logits_BTE = model.gate.logits(x_BTD)
        own_BTE = straight_through(logits_BTE)
        y_BTD = model.pathway(x_BTD, own_BTE)

    def harm(moved_BTD: Tensor) -> Tensor:
        moved_BTE = model.gate.logits(moved_BTD)
        if aim == "router":
            return divergence(moved_BTE, logits_BTE)
        gate_BTE = own_BTE if aim == "experts" else straight_through(moved_BTE)
        return divergence(model.pathway(moved_BTD, gate_BTE), y_BTD)

    moved_BTD = ascend(harm, x_BTD, radius, 10, radius / 4)
    with torch.no_grad():
        moved_BTE = model.gate.logits(moved_BTD)
        flipped_BTE = straight_through(moved_BTE)

        def right(image_BTD: Tensor, gate_BTE: Tensor) -> float:
            return (model.pathway(image_BTD, gate_BTE).argmax(-1) == labels_BT).float().mean().item()

        flips = (moved_BTE.argmax(-1) != logits_BTE.argmax(-1)).float().mean().item()
        return UnderAttack(
            right(x_BTD, own_BTE),
            right(moved_BTD, flipped_BTE),
            right(moved_BTD, own_BTE),
            right(x_BTD, flipped_BTE),
            flips,
        )


def trained(seed: int, aim: str = "all", **knobs: Any) -> UnderAttack:
    """A model trained for 150 steps of 128 digits, under attack."""
    from explorer.experiment import Experiment
    from explorer.tasks.digits import Digits

    experiment = Experiment(
        "adversarial-moe", task=Digits(), seed=seed, watch=None, batch=4, horizon=STEPS, radius=RADIUS, **knobs
    )
    model: Any = experiment.run(STEPS).model
    held_out = experiment.data.held_out()
    torch.manual_seed(seed)
    return under_attack(model.ffn, held_out.inputs[None], held_out.labels[None], aim=aim)


def lost_to_the_router(seed: int) -> tuple[float, float]:
    """Accuracy lost to an attack on the router alone, when image and experts are clean: plain training, and AdvMoE."""
    plain, hard = trained(seed, "router", robust_loss=0.0), trained(seed, "router")
    return plain.clean - plain.router, hard.clean - hard.router


def robust_in_turns(seed: int) -> tuple[float, float]:
    """Accuracy under attack: AdvMoE, and one pathway as large as each of its two, trained as adversarially."""
    return trained(seed).joint, trained(seed, n_experts=1).joint


def flips_in_turns(seed: int) -> tuple[float, float]:
    """Share of images whose pathway flips under attack: trained in turns, and all together."""
    return trained(seed).flips, trained(seed, in_turns=False).flips


CLAIMS = (
    Claim(
        "routers-can-be-attacked",
        "An attack on the router alone, which no expert sees, costs a plainly trained model accuracy.",
        source="arXiv:2308.10110, section 3; 5 points proposed here",
        reported="robust routers and robust experts do not imply each other",
        metric="accuracy lost where only the pathway is the attacked image's",
        measure=lost_to_the_router,
        control_is="the same model trained as AdvMoE",
        relation=">=",
        threshold=0.05,
        why="18 of 360 digits",
    ),
    Claim(
        "more-robust-than-one-pathway",
        "At the work of one pathway, two that are chosen by a hardened router are more robust.",
        source="arXiv:2308.10110, abstract",
        reported="+1 to 4 % robust accuracy over dense training",
        metric="accuracy under PGD-10",
        measure=robust_in_turns,
        control_is="one pathway of the same size, as adversarially trained",
        effect="difference",
        relation=">=",
        threshold=0.01,
        why="the paper's smallest gain",
    ),
    Claim(
        "turns-calm-the-router",
        "Hardened in turns, the router flips less under attack than when all learn together.",
        source="arXiv:2308.10110, section 4; half proposed here",
        reported="",
        metric="share of images whose pathway flips under PGD-10",
        measure=flips_in_turns,
        control_is="router and experts learn together",
        effect="ratio",
        threshold=0.5,
        why="half of the flips",
    ),
)
