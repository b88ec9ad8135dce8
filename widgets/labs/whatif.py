"""The page's part "What if": edits of a paused run's router, and the steps of one token's decision, number by number."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import ipywidgets as W

from widgets.labs.controls import STYLE, button, dropdown
from widgets.labs.frame import escape
from widgets.states import whatif

if TYPE_CHECKING:
    from widgets.labs.routing import RoutingLab

NAMES = {"logits": "score (logit)", "probs": "probability", "biased": "score + bias", "gate": "gate"}
HELP = (
    "Pause the run, click a token of the coloured text, then forbid or force an expert, or shift its score. The loss and the "
    "decision are computed anew at once; the run itself is not changed."
)


class WhatIfPart:
    """Controls, the outcome in a sentence, and the table; its state is `lab.state` and `self.what`."""

    def __init__(self, lab: "RoutingLab") -> None:
        self.lab = lab
        self.what: whatif.WhatIf | None = None
        self.expert = dropdown("expert", [], None)
        act = lab.safe
        self.buttons = {
            "Forbid": button("Forbid", "no token may go to this expert"),
            "Force": button("Force", "every token goes to this expert first"),
            "Clear": button("Clear edits", "the router as it was trained"),
        }
        self.shift = W.FloatSlider(
            value=0, min=-whatif.BIAS, max=whatif.BIAS, step=0.25, description="add to its score", style=STYLE,
            tooltip="a bias of the router, for this expert", continuous_update=False,
        )  # fmt: skip
        self.clamp = dropdown(
            "clamp the gate", [("as computed", ""), ("0", 0.0), ("0.5", 0.5), ("1", 1.0), ("2", 2.0)], ""
        )
        self.outcome, self.table = W.HTML().add_class("ge-text"), W.HTML().add_class("ge-steps")
        self.buttons["Forbid"].on_click(act(lambda _: self.edit("forbid")))
        self.buttons["Force"].on_click(act(lambda _: self.edit("force")))
        self.buttons["Clear"].on_click(act(lambda _: self.clear()))
        self.shift.observe(act(lambda event: self.edit("bias", event["new"])), names=["value"])
        self.clamp.observe(act(lambda event: self.set_clamp(event["new"])), names=["value"])
        row = W.HBox([self.expert, *self.buttons.values()]).add_class("ge-row")
        sliders = W.HBox([self.shift, self.clamp]).add_class("ge-row")
        self.controls = W.VBox([row, sliders])
        self.widget = W.VBox([W.HTML(f"<p>{escape(HELP)}</p>"), self.controls, self.outcome, self.table])
        self._quiet = False

    def begin(self) -> None:
        """A fresh run: nothing is edited."""
        self.what = None
        experts = self.lab.runs.a.experiment.recording.experts(self.lab.layers[self.lab.state.layer])
        self._set(self.expert, options=[(str(e), e) for e in range(experts)], value=0)
        self._set(self.shift, value=0.0)
        self._set(self.clamp, value="")

    def edit(self, what: str, value: float = 0.0) -> None:
        """A word about the expert in the menu."""
        if self._quiet or self.expert.value is None:
            return
        self.what = self._current().with_expert(self.expert.value, what, value)
        self.show()

    def set_clamp(self, value: float | str) -> None:
        """Every open gate gets this weight; "": the one that the router computes."""
        if not self._quiet:
            self.what = replace(self._current(), clamp=None if value == "" else float(value))
            self.show()

    def clear(self) -> None:
        self.begin()
        self.show()

    def _current(self) -> whatif.WhatIf:
        layer = self.lab.layers[self.lab.state.layer]
        return self.what if self.what is not None and self.what.layer == layer else whatif.WhatIf(layer)

    def show(self) -> None:
        """Compute and show, if the run stands still at its newest step."""
        lab = self.lab
        layer = lab.layers[lab.state.layer]
        reason = "Pause the run first." if lab.state.running else whatif.cannot(lab.runs.a.experiment, layer)
        for one in (self.expert, self.shift, self.clamp, *self.buttons.values()):
            one.disabled = bool(reason)
        if reason:
            self.outcome.value, self.table.value = f"<p>{escape(reason)}</p>", ""
            return
        what, token = self._current(), lab.token
        plain, changed = whatif.outcomes(lab.runs.a.experiment, lab.probe.batch, what, token)
        self.outcome.value = f'<div role="status"><p>{_sentence(lab, what, plain, changed, token)}</p></div>'
        self.table.value = _table(*whatif.table(plain, changed))

    def _set(self, widget: Any, **traits: Any) -> None:
        self._quiet = True
        try:
            for name, value in traits.items():
                setattr(widget, name, value)
        finally:
            self._quiet = False


def _sentence(
    lab: "RoutingLab",
    what: whatif.WhatIf,
    plain: whatif.Outcome,
    changed: whatif.Outcome | None,
    token: tuple[int, int],
) -> str:
    name = lab.token_name(token)
    where = escape(lab.names[lab.state.layer])
    said = f"{where}, token {escape(name)}: {escape(what.words())}. Loss on the texts shown: <b>{plain.loss:.4f}</b>"
    if changed is not None:
        moved = f"{changed.moved:.0%} of their tokens have other experts"
        said += f" → <b>{changed.loss:.4f}</b> ({changed.loss - plain.loss:+.4f}); {moved}"
    said += f". Next: {_next(plain)}"
    return said + (f" → {_next(changed)}." if changed is not None else ".")


def _next(outcome: whatif.Outcome) -> str:
    return ", ".join(f"<code>{escape(text)}</code> {value:.2f}" for text, value in outcome.next)


def _table(columns: list[str], rows: list[list[Any]]) -> str:
    """Rows chosen are marked by a tick and in bold; at most 64 experts, the chosen ones first where there are more."""
    places = [i for i, name in enumerate(columns) if name.startswith("chosen")]
    if len(rows) > 64:
        rows = sorted(rows, key=lambda row: (all(row[i] is None for i in places), row[0]))[:64]
    head = "".join(f'<th scope="col">{escape(_heading(name))}</th>' for name in columns)
    body = "".join(_row(row, places) for row in rows)
    caption = "How this token's expert is chosen, from left to right"
    return f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _heading(name: str) -> str:
    first, _, rest = name.partition(" ")
    return " ".join(filter(None, [NAMES.get(first, first), rest]))


def _row(row: list[Any], places: list[int]) -> str:
    chosen = any(row[i] is not None for i in places)
    cells = [f'<th scope="row">{row[0]}</th>']
    for i, value in enumerate(row[1:], 1):
        text = "" if value is None else f"✓ {value}." if i in places else f"{value:.3f}"
        cells.append(f"<td>{text}</td>")
    return f"<tr{' class=chosen' if chosen else ''}>{''.join(cells)}</tr>"
