"""Accuracy under attack over the steps of a run, with what the router's flips and the experts' mistakes cost drawn apart."""

from typing import Any

import numpy as np

from widgets.figures.layout import empty, layout, line, steps_axis
from widgets.figures.picture import Picture, Plain
from widgets.figures.series import counts, numbers
from widgets.figures.text import plain

NAMES = ("clean", "router flipped only", "experts fooled only", "attacked", "routes flipped")
LOOKS: tuple[Plain, ...] = ({}, {"dash": "dot"}, {"dash": "dash"}, {"width": 3}, {"dash": "dashdot", "width": 1.5})
SIGNS = ("circle", "diamond", "square", "triangle-up", "x")


@Picture
def attack_accuracy(
    steps: Any, clean: Any, joint: Any, experts: Any, router: Any, flips: Any, radius: float,
    title: str = "Accuracy under attack",
) -> Plain:  # fmt: skip
    """All (M,): the steps at which the images were attacked, and shares 0..1 of them there. radius: in grey values, 0..1.

    clean: right without an attack; joint: right under attack; experts: right if the attacked image still took its own
    route, so only experts are fooled; router: right if the clean image took the attacked one's route, so only the
    choice is; flips: the attack changed the route.
    """
    steps_M = counts(steps)
    if not len(steps_M):
        return empty(title)
    shares = [numbers(one) for one in (clean, router, experts, joint, flips)]
    data = [
        line(steps_M, share, name, "%{y:.0%}", line=look, mode="lines+markers", marker={"symbol": sign, "size": 7})
        for share, name, look, sign in zip(shares, NAMES, LOOKS, SIGNS, strict=True)
    ]
    y_axis = {"tickformat": ".0%", "range": [0, 1.02], "title": {"text": "share of the images"}}
    subtitle = f"every pixel may change by {radius:.2g} of the range from paper to ink"
    shape = layout(plain(title), summary(steps_M, shares), subtitle, xaxis=steps_axis(steps_M), yaxis=y_axis)
    return {"data": data, "layout": {**shape, "height": 360}}


def summary(steps_M: np.ndarray, shares: list[np.ndarray]) -> str:
    """One sentence about the newest attack."""
    clean, router, experts, joint, flips = (float(share[-1]) for share in shares)
    return (
        f"At step {steps_M[-1]}, {clean:.0%} of the images are right and {joint:.0%} under attack; {experts:.0%} if only the "
        f"experts are fooled, {router:.0%} if only the router is; the attack flips the route of {flips:.0%}."
    )
