"""The run of a page, and the one beside it: advanced together, a step each, so that one cursor serves both."""

from typing import Generic, TypeVar

from explorer.errors import BadValue
from explorer.experiment import Experiment, Step
from widgets.states.lab import LabState
from widgets.states.timeline import Timeline

Moment = TypeVar("Moment")


class Run(Generic[Moment]):
    """One experiment and what was seen of it on the way."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.timeline: Timeline[Moment] = Timeline()
        self.held_out: tuple[list[int], list[float]] = ([], [])

    def fork(self) -> "Run[Moment]":
        """The same run up to now, with a future of its own."""
        twin = Run[Moment](self.experiment.fork())
        twin.timeline = self.timeline.copy()
        twin.held_out = (list(self.held_out[0]), list(self.held_out[1]))
        return twin

    def measure_held_out(self) -> None:
        """The loss on data that training never sees, after the newest step."""
        steps, losses = self.held_out
        newest = self.experiment.step - 1
        if newest >= 0 and newest not in steps:
            losses.append(self.experiment.evaluate())
            steps.append(newest)


class Runs(Generic[Moment]):
    """What a trainer advances: A, and B where there is one. What a link planned for a step is done before that step."""

    def __init__(self, state: LabState) -> None:
        a, b = state.experiments()  # first: if one cannot be made, nothing has changed yet
        self.state = state
        self.sides: dict[str, Run[Moment]] = {"a": Run(a)} | ({"b": Run(b)} if b is not None else {})
        state.begin()

    @property
    def a(self) -> Run[Moment]:
        return self.sides["a"]

    @property
    def b(self) -> Run[Moment] | None:
        return self.sides.get("b")

    @property
    def step(self) -> int:
        return self.a.experiment.step

    def advance(self) -> Step:
        """One training step of each; returns A's."""
        due = [one for one in self.state.planned if one.step == self.step]
        for one in due:
            self.do(one.side, one.name, one.value)
        if due:
            self.state.planned = [one for one in self.state.planned if one not in due]
        if self.b is not None:
            self.b.experiment.advance()
        return self.a.experiment.advance()

    def do(self, side: str, name: str, value: object = None) -> None:
        """Fork, or move a live knob of one run; the state notes when."""
        if name == "fork":
            self.fork()
            return
        self.state.assign(name, value, side)
        if side not in self.sides:
            raise BadValue(f"there is no run {side.upper()}")
        self.sides[side].experiment.set(**{name: value})
        self.state.noted(self.step, side, name, value)

    def fork(self) -> None:
        """B becomes a copy of A at this step; what B was is gone."""
        if self.b is not None:
            self.b.experiment.close()
        self.sides["b"] = self.a.fork()
        self.state.b = self.state.a
        self.state.changes = [one for one in self.state.changes if one.side == "a" and one.name != "fork"]
        self.state.noted(self.step, "a", "fork")

    def alone(self) -> None:
        """Without B, from here on."""
        if self.b is not None:
            self.sides.pop("b").experiment.close()
            self.state.changes = [one for one in self.state.changes if one.side == "a" and one.name != "fork"]

    def close(self) -> None:
        """Stop recording."""
        for run in self.sides.values():
            run.experiment.close()
