"""The page's part "Your own data": which domains of the built-in text, and texts of one's own."""

from typing import TYPE_CHECKING, Any

import ipywidgets as W

from explorer.errors import BadValue
from explorer.tasks.sources import DOMAINS
from widgets.labs.controls import button
from widgets.labs.frame import escape
from widgets.views import OwnText

if TYPE_CHECKING:
    from widgets.labs.routing import RoutingLab

HELP = (
    "The model learns to continue text, and every text becomes a domain whose tokens are told apart in the pictures. "
    "Choose among the built-in ones, or paste and upload your own: it stays on this machine."
)


class DataPart:
    """Boxes of domains and the text that a person gives; what is used is `state.domains` and `state.own`."""

    def __init__(self, lab: "RoutingLab") -> None:
        self.lab, self._quiet = lab, False
        self.boxes = {name: W.Checkbox(description=name, indent=False) for name in DOMAINS}
        for box in self.boxes.values():
            box.observe(lab.safe(lambda _: self._ticked()), names=["value"])
        self.own = OwnText()
        self.own.on_texts(lab.safe(self.use))
        self.without = button("Without my text", "the built-in text again")
        self.without.on_click(lab.safe(lambda _: self.use([])))
        self.used = W.HTML().add_class("ge-text")
        self.widget = W.VBox(
            [W.HTML(f"<p>{escape(HELP)}</p>"), *self.boxes.values(), self.own, self.used, self.without]
        )

    def use(self, texts: Any) -> None:
        """These texts, and those domains that are ticked; with texts of one's own, none need be."""
        self._change(own=tuple((str(name), str(text)) for name, text in texts))

    def _ticked(self) -> None:
        if not self._quiet:
            ticked = tuple(name for name, box in self.boxes.items() if box.value)
            if not ticked and not self.lab.state.own:
                self.follow()
                raise BadValue("no text is left: tick at least one domain, or give a text of your own")
            self._change(domains=() if len(ticked) == len(DOMAINS) and not self.lab.state.own else ticked)

    def _change(self, **what: Any) -> None:
        """All or nothing: if the task cannot be made of it, everything stays as it was."""
        state = self.lab.state
        before = {name: getattr(state, name) for name in ("domains", "own", "task", "a", "b")}
        try:
            if state.task != "text":
                state.choose(task="text")
            for name, value in what.items():
                setattr(state, name, value)
            self.lab.reset()
        except Exception:
            for name, value in before.items():
                setattr(state, name, value)
            raise
        finally:
            self.follow()

    def follow(self) -> None:
        """The boxes as the state has them."""
        state = self.lab.state
        self._quiet = True
        try:
            for name, box in self.boxes.items():
                box.value = name in state.domains if state.domains else not state.own
        finally:
            self._quiet = False
        names = [name for name, _ in state.own]
        self.used.value = f"<p>In use: {escape(', '.join(names))}.</p>" if names else ""
        self.without.layout.display = "" if names else "none"
