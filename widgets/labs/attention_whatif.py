"""The page's part "What if": no sink, or open gates, in a paused run; and what that costs."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import ipywidgets as W

from widgets.labs.controls import dropdown
from widgets.labs.frame import escape
from widgets.states import attention_whatif as whatif

if TYPE_CHECKING:
    from widgets.labs.attention import AttentionLab

HELP = (
    "Is the sink needed? Is the gate? Pause the run and take one away: the losses are computed anew at once, and the run "
    "itself is not changed."
)


class AttentionWhatIfPart:
    """Two menus and a table; what is edited is `self.what`."""

    def __init__(self, lab: "AttentionLab") -> None:
        self.lab, self.what, self._quiet = lab, whatif.Edit(), False
        self.sink = dropdown("first token", [(words, key) for key, words in whatif.SINKS.items()], "")
        self.gate = dropdown("every gate", [(words, key) for key, words in whatif.GATES.items()], "")
        self.sink.observe(lab.safe(lambda event: self._edit(sink=event["new"])), names=["value"])
        self.gate.observe(lab.safe(lambda event: self._edit(gate=event["new"])), names=["value"])
        self.outcome = W.HTML().add_class("ge-steps")
        self.widget = W.VBox([W.HTML(f"<p>{escape(HELP)}</p>"), self.sink, self.gate, self.outcome])

    def begin(self) -> None:
        """A fresh run: nothing is edited."""
        self.what, self._quiet = whatif.Edit(), True
        try:
            self.sink.value, self.gate.value = "", ""
        finally:
            self._quiet = False

    def _edit(self, **what: Any) -> None:
        if not self._quiet:
            self.what = replace(self.what, **what)
            self.show()

    def show(self) -> None:
        """Compute and show, if the run stands still."""
        lab = self.lab
        run = lab.runs.a.experiment
        maps, gates = whatif.possible(run)
        self.sink.disabled, self.gate.disabled = lab.state.running or not maps, lab.state.running or not gates
        self.sink.layout.display, self.gate.layout.display = ("" if there else "none" for there in (maps, gates))
        if lab.state.running:
            self.outcome.value = "<p>Pause the run first.</p>"
            return
        plain, changed = whatif.outcomes(run, lab.probe.batch, self.what, lab.probe.kinds)
        self.outcome.value = table(self.what, plain, changed, lab.scene(lab.runs.a).unit)


def table(what: whatif.Edit, plain: whatif.Outcome, changed: whatif.Outcome | None, unit: str) -> str:
    """Rows: all tokens, then each kind; columns: the loss as trained, under the edits, and the difference."""
    rows = [("all tokens", plain.loss, changed.loss if changed else None)]
    rows += [
        (f"{kind} tokens", loss, changed.by_kind[kind] if changed else None) for kind, loss in plain.by_kind.items()
    ]
    body = "".join(_row(*row) for row in rows)
    head = "".join(f'<th scope="col">{one}</th>' for one in ("after", "as trained", "edited", "difference"))
    caption = f"Loss on the sequences shown, {escape(unit)}: {escape(what.words())}"
    return (
        f'<div role="status"><table><caption>{caption}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _row(name: str, before: float, after: float | None) -> str:
    edited = "<td></td><td></td>" if after is None else f"<td>{after:.4f}</td><td>{after - before:+.4f}</td>"
    return f'<tr><th scope="row">{escape(name)}</th><td>{before:.4f}</td>{edited}</tr>'
