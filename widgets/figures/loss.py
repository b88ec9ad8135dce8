"""The loss of a run: every step's training loss, its running mean, and the held-out loss."""

from typing import Any

import numpy as np

from widgets.figures.layout import empty, layout, line, steps_axis
from widgets.figures.palette import GREY
from widgets.figures.picture import Picture, Plain
from widgets.figures.series import counts, numbers, stride, thin, thin_steps
from widgets.figures.text import clean, plain

TITLE = "Loss"


@Picture
def loss_curve(
    steps: Any, loss: Any, held_steps: Any = (), held_loss: Any = (), unit: str = "nats/token", title: str = TITLE
) -> Plain:
    """steps_S, loss_S: training loss of each step; held_steps_R, held_loss_R: held-out loss, measured now and then.

    The grey line is every step (its groups' means beyond 400 points), the coloured one the mean over about
    the last sixteenth of the run, the diamonds the held-out loss. `unit` is the task's: "nats/token", or "of the variance".
    """
    steps_S, loss_S = counts(steps), numbers(loss)
    held_steps_R, held_loss_R = counts(held_steps), numbers(held_loss)
    if not len(steps_S):
        return empty(title)
    every = stride(len(steps_S))
    x, y = thin_steps(steps_S, every), thin(loss_S, every)
    window = 1 << max(0, int(np.log2(len(y) / 16)))
    steps_a_point = every * max(1, round(float(steps_S[-1] - steps_S[0]) / max(1, len(steps_S) - 1)))
    data = [line(x, running_mean(y, window), f"mean of {window * steps_a_point}", "%{y:.4f}", line={"width": 2.5})]
    if len(held_steps_R):
        data.append(line(held_steps_R, held_loss_R, "held out", "%{y:.4f}", **_diamonds()))
    data.append(
        line(x, y, "each step" if steps_a_point == 1 else f"each {steps_a_point} steps", "%{y:.4f}", **_faint())
    )
    text = summary(steps_S, loss_S, held_loss_R, unit)
    return {"data": data, "layout": layout(plain(title), text, y=plain(unit), xaxis=steps_axis(steps_S))}


def running_mean(values_S: np.ndarray, window: int) -> np.ndarray:
    """The mean of each value and the window - 1 before it (fewer at the start); NaN is left out."""
    known = np.isfinite(values_S)
    total = np.cumsum(np.where(known, values_S, 0), dtype=np.float64)
    number = np.cumsum(known)
    total[window:] -= total[:-window].copy()
    number[window:] -= number[:-window].copy()
    with np.errstate(invalid="ignore", divide="ignore"):
        return (total / number).astype(np.float32)


def summary(steps_S: np.ndarray, loss_S: np.ndarray, held_loss_R: np.ndarray, unit: str) -> str:
    """One sentence: where the loss began, where it is."""
    held = f"; held out {held_loss_R[-1]:.3g}" if len(held_loss_R) else ""
    first, last = float(loss_S[0]), float(loss_S[-1])
    way = "fell" if last < first else "went"
    return f"Training loss {way} from {first:.3g} to {last:.3g} {clean(unit)} by step {steps_S[-1]}{held}."


def _diamonds() -> dict[str, Any]:
    return {"mode": "lines+markers", "marker": {"symbol": "diamond", "size": 8}, "line": {"dash": "dot"}}


def _faint() -> dict[str, Any]:
    return {"line": {"width": 1, "color": GREY}, "opacity": 0.55}
