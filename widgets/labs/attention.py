"""The attention lab: watch an attention sink being born, head by head, and a gate that makes it unnecessary."""

from typing import Any

from widgets import figures as f
from widgets.labs.attention_whatif import AttentionWhatIfPart
from widgets.labs.controls import Folded
from widgets.labs.lab import Lab, Panel
from widgets.labs.long_input import LongInputPart
from widgets.labs.runs import Run
from widgets.states import about, long_input, paper
from widgets.states import attention_special as special
from widgets.states import attention_view as view
from widgets.states import attention_whatif as whatif
from widgets.states.attention import ABOUT_TASKS, AttentionState
from widgets.states.attention_advice import advice
from widgets.states.attention_presets import PRESETS
from widgets.states.attention_view import Moment, Scene

HEAT = 0.02  # a learned sink that takes less than this is none


class AttentionLab(Lab):
    """What is the attention lab's own: its pictures, the probe, what-if, and long inputs."""

    TITLE = "Attention lab"
    INTRODUCTION = (
        "Why does every token look at the first one? Large language models do it too. It matters: such an attention sink "
        "swells a few numbers until cheap arithmetic cannot hold them, and a long chat falls apart once its first token is "
        "dropped. Here a tiny transformer learns in front of you. Press Train, give it about a thousand steps, and watch a "
        "sink being born; then put a gated model beside it."
    )
    SECTIONS = {
        "special": "What this mechanism does",
        "course": "How the run goes",
        "compare": "B against A",
        "heads": "Where the heads look",
        "gate": "What the gate lets through",
        "body": "Inside the rest of the model",
        "paper": "What the paper found, and what is seen here",
    }
    SHOWN = "head shown"
    RECORDED = ("loss", "birth", "map", "shares", "values", "massive")
    STATE = AttentionState
    state: AttentionState
    probe: view.Probe

    def panels(self) -> dict[str, Panel]:
        return {
            "locality": Panel("Gates that leave their place", "special", _locality, fits=special.leaves_its_place),
            "blocks": Panel("Blocks worth attending to", "special", _blocks, fits=special.has_blocks),
            "energy": Panel("Energy of a memory in the plane", "special", _energy, fits=special.is_memory),
            "regimes": Panel("From the mean of all to single patterns", "special", _regimes, fits=special.is_memory),
            "tasks": Panel("Tasks learnt and forgotten", "special", _tasks, fits=special.has_tasks),
            "joint": Panel("Near and far", "special", _joint, fits=special.has_near_and_far),
            "loss": Panel("Loss", "course", _loss, over_steps=True),
            "birth": Panel(
                "Attention on the first token, head by head", "course", _birth, over_steps=True, fits=_shares_out
            ),
            "both": Panel("Loss of A and B, and their difference", "compare", _both_losses, over_steps=True, both=True),
            "shares": Panel("Sinks of every head: the first token, and nowhere", "heads", _shares, fits=_shares_out),
            "map": Panel("Map of the head shown", "heads", _map, fits=_has_map),
            "received": Panel("What each token receives", "heads", _received, fits=_shared),
            "gates": Panel("Gate values", "gate", _gates, fits=_has_gate),
            "kinds": Panel("Gate by kind of token", "gate", _kinds, fits=_has_kinds),
            "paper": Panel("The paper, and here", "paper", _paper, fits=_has_paper),
            "values": Panel("Length of each token's value", "body", _values, fits=_has_values),
            "massive": Panel("Largest activation of every layer", "body", _massive),
        }

    def more_parts(self) -> dict[str, Any]:
        self.whatif, self.long = AttentionWhatIfPart(self), LongInputPart(self)
        self.what_if = Folded("What if: without the sink, without the gate", self.whatif.widget)
        self.what_if.toggle.observe(self.safe(lambda _: self.turned()), names=["value"])
        self.long_inputs = Folded("Long inputs", self.long.widget)
        parts = {"whatif": self.what_if, "long": self.long_inputs}
        return {"right": list(parts.values()), "named": parts}

    def preset_titles(self) -> list[tuple[str, str]]:
        return [(preset.title, name) for name, preset in PRESETS.items()]

    # -- the run -----------------------------------------------------------------------------------------------------
    def begun(self) -> None:
        run = self.runs.a.experiment
        found = view.heads(run)
        self.layers, self.names = [one.path for one in found], [one.name for one in found]
        self.probe = view.Probe.of(run)
        self.whatif.begin()
        self.long.begin()
        for name, useful in (("whatif", any(whatif.possible(run))), ("long", not long_input.cannot(run))):
            self.parts[name].layout.display = "" if useful and name not in self.state.hide else "none"

    def look(self, run: Run[Moment]) -> Moment:
        view.slim(run.timeline)
        return view.look(run.experiment, self.probe)

    def scene(self, run: Run[Moment]) -> Scene:
        return Scene(run.experiment, run.timeline, self.probe, run.held_out, self.state.layer, self.state.cursor)

    def set_knob(self, name: str, value: Any, side: str = "a") -> None:
        """Pictures that draw a mechanism's own mathematics follow a live knob at once."""
        super().set_knob(name, value, side)
        if not self.state.running:
            self.show()

    def turned(self) -> None:
        """What-if is computed when it is open, for it costs a few forward passes."""
        if self.what_if.toggle.value:
            self.whatif.show()

    # -- in words ----------------------------------------------------------------------------------------------------
    def advice(self, scene: Scene) -> str:
        b = self.runs.b
        return advice(scene) if b is None or not scene.step else f"A: {advice(scene)} B: {advice(self.scene(b))}"

    def note(self) -> str:
        preset, own = PRESETS.get(self.state.preset), self.state.own_task
        said = f"{preset.title}. {preset.watch}" if preset else own.watch if own else ""
        return f"{said} {ABOUT_TASKS[self.state.task]}".strip()


# -- the pictures, each from a scene -------------------------------------------------------------------------------------
def _locality(s: Scene) -> Any:
    gate, far = special.places(s)
    return f.locality.as_dict(s.steps, gate, s.names, far)


def _blocks(s: Scene) -> Any:
    one = special.blocks(s)
    return f.block_masks.as_dict(one.truth, one.scores, one.kept, one.recall, one.density)


def _energy(s: Scene) -> Any:
    one = special.memory(s.run.seed, float(s.run.knobs["beta"]))
    return f.hopfield_energy.as_dict(one.energy, one.x, one.y, one.patterns, one.path, one.beta)


def _regimes(s: Scene) -> Any:
    return f.hopfield_regimes.as_dict(*special.regimes(s.run.seed))


def _tasks(s: Scene) -> Any:
    accuracy, names = special.learnt(s)
    return f.tasks_forgotten.as_dict(accuracy, names)


def _joint(s: Scene) -> Any:
    near, far = special.near_and_far(s)
    return f.joint_attention.as_dict(near, far, s.tokens)


def _loss(s: Scene) -> Any:
    held_out = ((), ()) if special.has_tasks(s) else s.held_out  # on tasks to come it says nothing, at great length
    return f.loss_curve.as_dict(*s.course, *held_out, unit=s.unit)


def _shares_out(s: Scene) -> bool:
    return s.has_a_first


def _birth(s: Scene) -> Any:
    return f.sink_birth.as_dict(s.steps, s.births, s.names, even=s.even)


def _both_losses(a: Scene, b: Scene) -> Any:
    names = (a.run.spec.title, b.run.spec.title)
    forked = about.forked_at(b.run)
    return f.two_losses.as_dict(*a.course, *b.course, *names, unit=a.unit, forked_at=forked)


def _shares(s: Scene) -> Any:
    elsewhere = s.moment.elsewhere if bool((s.moment.elsewhere > HEAT).any()) else None
    return f.head_shares.as_dict(s.names, s.moment.first, elsewhere, even=s.even)


def _shared(s: Scene) -> bool:
    return s.shares_out


def _has_map(s: Scene) -> bool:
    return s.map is not None and s.shares_out


def _map(s: Scene) -> Any:
    shown = s.map
    assert shown is not None
    nowhere = (1 - shown.sum(-1)).clamp(min=0)
    return f.attention_map.as_dict(shown, s.tokens, s.head.name, nowhere if bool((nowhere > HEAT).any()) else None)


def _received(s: Scene) -> Any:
    return f.received_mass.as_dict(s.moment.received[:, : s.well_seen], s.tokens[: s.well_seen], s.names)


def _has_gate(s: Scene) -> bool:
    return len(s.moment.gate_values) > 0 and not special.leaves_its_place(s)  # that one shuts nothing


def _gates(s: Scene) -> Any:
    return f.gate_histogram.as_dict(s.moment.gate_values, "all layers")


def _has_kinds(s: Scene) -> bool:
    return s.moment.gate is not None and len(s.probe.kinds) > 1


def _kinds(s: Scene) -> Any:
    return f.gate_by_kind.as_dict(s.gates_by_kind, s.kinds, s.probe.kinds, s.detectors)


def _has_values(s: Scene) -> bool:
    return s.moment.values is not None and s.has_a_first


def _has_paper(s: Scene) -> bool:
    return paper.beside(s.run.spec.name) is not None


def _paper(s: Scene) -> Any:
    one = paper.beside(s.run.spec.name)
    assert one is not None
    return f.paper_beside.as_dict(one.names, one.paper, one.here, one.low, one.high, one.what)


def _values(s: Scene) -> Any:
    return f.value_norms.as_dict(s.moment.values, s.tokens, s.names)


def _massive(s: Scene) -> Any:
    names = ["input", *(f"layer {i}" for i in range(len(s.moment.largest) - 1))]
    return f.massive_activations.as_dict(s.moment.largest, s.moment.median, names)


LAB = AttentionLab
