"""Accuracy under attack, with what the router's flips and what the experts' mistakes cost drawn apart."""

from typing import Any

import numpy as np

from widgets.figures.layout import empty, layout, line
from widgets.figures.picture import Picture, Plain
from widgets.figures.series import numbers
from widgets.figures.text import plain


@Picture
def attack_accuracy(
    radius: Any, joint: Any, experts: Any, router: Any, flips: Any, title: str = "Accuracy under attack", of: str = ""
) -> Plain:
    """All (R,): radius of the attack (in grey values, 0..1) and shares 0..1 of the images at each.

    joint: right under attack; experts: right if the attacked image still took its own pathway, so only experts are fooled;
    router: right if the clean image took the attacked one's pathway, so only the choice is; flips: pathway changed.
    """
    radius_R = numbers(radius)
    title = f"{title}, {of}" if of else title
    if radius_R.ndim != 1 or not len(radius_R):
        return empty(title)
    shares = [numbers(one) for one in (joint, experts, router, flips)]
    names = ("both", "experts fooled only", "router flipped only", "pathways flipped")
    looks: list[Plain] = [{}, {"dash": "dash"}, {"dash": "dot"}, {"dash": "dashdot", "width": 1.5}]
    signs = ("circle", "square", "diamond", "x")
    data = [
        line(radius_R, share, name, "%{y:.1%}", line=look, mode="lines+markers", marker={"symbol": sign, "size": 8})
        for share, name, look, sign in zip(shares, names, looks, signs, strict=True)
    ]
    y_axis = {"tickformat": ".0%", "range": [0, 1.02], "title": {"text": "share of the images"}}
    x_axis = {"title": {"text": "radius of the attack"}, "rangemode": "tozero"}
    return {"data": data, "layout": layout(plain(title), summary(radius_R, shares), xaxis=x_axis, yaxis=y_axis)}


def summary(radius_R: np.ndarray, shares: list[np.ndarray]) -> str:
    """One sentence about the strongest attack."""
    at = int(radius_R.argmax())
    joint, experts, router, flips = (float(share[at]) for share in shares)
    return (
        f"At radius {radius_R[at]:.3g}, {joint:.0%} of the images are still right; {experts:.0%} if only the experts are "
        f"fooled, {router:.0%} if only the router is; the pathway of {flips:.0%} flips."
    )
