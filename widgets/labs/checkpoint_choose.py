"""The checkpoint lab's part that says which model is open: the demo, a folder or file, a hub id, a recording."""

from typing import TYPE_CHECKING, Any

import ipywidgets as W

from widgets.labs.controls import button
from widgets.labs.frame import escape
from widgets.states.checkpoint_sources import DEMO, folders

if TYPE_CHECKING:
    from widgets.labs.checkpoint import CheckpointLab

DEMO_KIND, PATH, HUB, RECORDING = "demo", "path", "hub", "recording"
NARROW = {"description_width": "64px"}
KINDS = {
    DEMO_KIND: DEMO,
    PATH: "a folder or a file",
    HUB: "a model of the hub",
    RECORDING: "a recording",
}
HELP = {
    DEMO_KIND: "A tiny mixture of experts, trained with this explorer: nothing is fetched.",
    PATH: "The folder of a model (config.json and .safetensors beside it), or one .safetensors file, on the computer that "
    "runs this page. Nothing is loaded but what is shown, however large it is; no code of it is run.",
    HUB: "Its name on huggingface.co. Only the parts that are shown are fetched.",
    RECORDING: "A file that was saved here (.safetensors), or what a serving engine wrote: sglang (.pt, .csv), vLLM (.json, "
    ".npy), OLMoE's analysis (.jsonl). Models that no single machine runs come in this way.",
}
EXAMPLES = {
    DEMO_KIND: "",
    PATH: "/home/me/models/my-mixtral",
    HUB: "allenai/OLMoE-1B-7B-0924",
    RECORDING: "trace.safetensors",
}


def kinds() -> list[tuple[str, str]]:
    """(what the menu says, kind): no files where a server opens none."""
    shut = folders() == []
    return [(words, kind) for kind, words in KINDS.items() if not (shut and kind in (PATH, RECORDING))]


def kind_of(given: str) -> str:
    """Under which kind a name from a link is shown."""
    if not given:
        return DEMO_KIND
    looks_like_hub = given.count("/") == 1 and given[:1] not in "./~" and not given.endswith(".safetensors")
    return HUB if looks_like_hub else PATH


class SourcePart:
    """A menu of kinds, a field and a button; `chosen(given)` is called with what is to be opened ("": the demo)."""

    def __init__(self, lab: "CheckpointLab", label: str, given: str, chosen: Any) -> None:
        self.lab, self._chosen, self._quiet = lab, chosen, False
        there = kinds()
        kind = kind_of(given)
        self.kind = W.Dropdown(
            options=there,
            value=kind if kind in [one for _, one in there] else DEMO_KIND,
            description=label,
            style=NARROW,
        )
        self.field = W.Text(value=given, description="where", style=NARROW)
        self.go = button("Open", "read what its files say", button_style="primary")
        self.help = W.HTML().add_class("ge-text")
        self.kind.observe(lab.safe(lambda _: self._turned()), names=["value"])
        self.go.on_click(lab.safe(lambda _: self.open()))
        self.field.on_msg(lab.safe(lambda _, said, __: self.open() if said.get("event") == "submit" else None))  # Enter
        self.widget = W.VBox([self.kind, self.field, self.go, self.help])
        self._show()

    @property
    def given(self) -> str:
        """What is chosen; "": the demo, or nothing yet."""
        return "" if self.kind.value == DEMO_KIND else self.field.value.strip()

    def open(self) -> None:
        """Hand over what is chosen."""
        self._chosen(self.given, self.kind.value == DEMO_KIND)

    def set(self, given: str) -> None:
        """Show what is open, without opening it again."""
        self._quiet = True
        try:
            kind = kind_of(given)
            if (kind != self.kind.value) and not (given and self.kind.value != DEMO_KIND):
                self.kind.value = kind
            if given:
                self.field.value = given
        finally:
            self._quiet = False
        self._show()

    def _turned(self) -> None:
        self._show()
        if not self._quiet and self.kind.value == DEMO_KIND:
            self.open()

    def _show(self) -> None:
        kind = self.kind.value
        self.field.placeholder = EXAMPLES[kind]
        display = "none" if kind == DEMO_KIND else ""
        self.field.layout.display = self.go.layout.display = display
        self.help.value = f"<p>{escape(HELP[kind])}</p>"
