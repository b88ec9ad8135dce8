"""The page's part that drives a run: Train, Pause, Step, Reset, Fork, how fast, and which recorded step is looked at."""

from typing import TYPE_CHECKING, Any

import ipywidgets as W

from widgets.labs.controls import STYLE, button, dropdown
from widgets.states.lab import SPEEDS

if TYPE_CHECKING:
    from widgets.labs.lab import Lab

HELP = {
    "Train": "train until paused",
    "Pause": "stop after the step under way",
    "Step": "take one training step",
    "Reset": "go back to step 0 with the same seed",
    "Fork": "copy the run at this step as B, to change one thing in it",
    "Newest": "look at the newest step again",
}
STEP_SHOWN = "step shown"


class TransportPart:
    """Buttons and sliders; what they set is in the state."""

    def __init__(self, lab: "Lab") -> None:
        self.lab, self._quiet = lab, False
        actions = {
            "Train": lab.train, "Pause": lab.pause, "Step": lab.one_step, "Reset": lab.reset, "Fork": lab.fork,
            "Newest": lambda: lab.look_at(-1),
        }  # fmt: skip
        self.buttons = {name: button(name, HELP[name]) for name in actions}
        self.buttons["Train"].button_style = "primary"
        for name, action in actions.items():
            self.buttons[name].on_click(lab.safe(lambda _, action=action: action()))
        speeds = [("as fast as it can", 0), *((f"{n} step{'s' if n > 1 else ''} a second", n) for n in SPEEDS if n)]
        self.speed = dropdown("speed", speeds, lab.state.speed, "how fast it trains; it changes nothing in the run")
        self.speed.observe(lab.safe(lambda event: lab.set_speed(event["new"])), names=["value"])
        self.scrub = W.IntSlider(
            value=0, min=0, max=0, description=STEP_SHOWN, style=STYLE, tooltip="look back at a recorded step"
        )
        self.scrub.observe(lab.safe(self._scrubbed), names=["value"])
        grid = W.HBox([self.buttons[name] for name in ("Train", "Pause", "Step", "Reset", "Fork", "Newest")])
        self.grid = grid.add_class("ge-buttons")
        self.parts = {"buttons": self.grid, "speed": self.speed, "scrub": self.scrub}

    def _scrubbed(self, event: dict[str, Any]) -> None:
        if not self._quiet:
            self.lab.look_at(-1 if event["new"] >= self.scrub.max else event["new"])

    def follow(self) -> None:
        """Bring buttons and slider in line with the run."""
        state = self.lab.state
        running = state.running
        for name in ("Train", "Step"):
            self._disable(name, running)
        self._disable("Pause", not running)
        self._disable("Fork", state.step == 0)
        self._disable("Newest", state.cursor < 0)
        shown = state.step if state.cursor < 0 else min(state.cursor, state.step)
        self._quiet = True  # these are ours, not the person's
        try:
            if self.scrub.max != state.step:
                if state.step < self.scrub.value:
                    self.scrub.value = min(shown, state.step)
                self.scrub.max = state.step
            if self.scrub.value != shown:
                self.scrub.value = shown
        finally:
            self._quiet = False

    def _disable(self, name: str, value: bool) -> None:
        if self.buttons[name].disabled != value:
            self.buttons[name].disabled = value
