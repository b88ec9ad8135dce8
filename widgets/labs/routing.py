"""The routing lab: a tiny mixture of experts trains live, and every decision of its routers is on the page."""

from typing import Any

from explorer import metrics
from widgets import figures as f
from widgets.labs.compare import ComparePart
from widgets.labs.controls import Folded
from widgets.labs.data import DataPart
from widgets.labs.lab import Lab, Panel
from widgets.labs.runs import Run
from widgets.labs.whatif import WhatIfPart
from widgets.states import about, advice
from widgets.states import routing_view as view
from widgets.states import special_view as special
from widgets.states.presets import PRESETS
from widgets.states.routing import RoutingState
from widgets.states.routing_view import Moment, Scene
from widgets.views import DecisionMap, TokenStrip


class RoutingLab(Lab):
    """What is the routing lab's own: its pictures, the probe of texts that is shown again and again, and what-if."""

    TITLE = "Routing lab"
    INTRODUCTION = (
        "Who gets the token? A tiny mixture of experts learns in front of you: for every token, a router picks a few of "
        "its experts. Press Train, then move a knob, or pick a preset to see what goes wrong."
    )
    SECTIONS = {
        "special": "What this mechanism does",
        "course": "How the run goes",
        "compare": "B against A",
        "decisions": "Which expert gets which token",
        "experts": "What the experts of this layer are like",
        "layers": "All layers",
    }
    RECORDED = ("loss", "load", "balance", "entropy", "specialisation", "map")
    VIEWS_IN = {"decisions": ("decisions", "strip")}
    STATE = RoutingState
    state: RoutingState
    probe: view.Probe

    def panels(self) -> dict[str, Panel]:
        return {
            "usage": Panel("Module of every token at every step", "special", _usage, fits=_is_stack),
            "field": Panel("The field, and who paints which part of it", "special", _field, fits=_is_field),
            "families": Panel("Families of motion, and who takes them", "special", _families, fits=_has_families),
            "attack": Panel("Accuracy under attack", "special", _attack, over_steps=True, fits=_is_attacked),
            "loss": Panel("Loss", "course", _loss, over_steps=True),
            "load": Panel("Load of each expert over the steps", "course", _load, over_steps=True),
            "balance": Panel("Imbalance", "course", _balance, over_steps=True),
            "entropy": Panel("Entropy of the load and of a token's choice", "course", _entropy, over_steps=True),
            "drops": Panel("Dropped tokens", "course", _drops, over_steps=True, fits=_can_drop),
            "bias": Panel("Bias of each expert", "course", _bias, over_steps=True, fits=_has_bias),
            "path": Panel("Path of one token through the layers", "decisions", _path),
            "margins": Panel("How near the tokens are to switching", "decisions", _margins, fits=_can_switch),
            "specialisation": Panel("Specialisation: which domain goes to which expert", "experts", _specialisation),
            "coactivation": Panel("Co-activation: which experts work together", "experts", _coactivation, fits=_has_pairs),
            "cosine": Panel("Likeness of the router's rows", "experts", _cosine, fits=_has_rows),
            "plane": Panel("Router rows and tokens in one plane", "experts", _plane, fits=_has_rows),
            "map": Panel("Utilisation of every expert in every layer", "layers", _map, over_steps=True),
            "percentiles": Panel("Spread of the load over the experts of each layer", "layers", _percentiles, over_steps=True),
            "both": Panel("Loss of A and B, and their difference", "compare", _both_losses, over_steps=True, both=True),
            "difference": Panel("Load of B less that of A, experts matched", "compare", _difference, both=True),
        }  # fmt: skip

    def views(self, side: str) -> dict[str, Any]:
        of = "" if side == "a" else ", B"
        strip = TokenStrip(label=f"Tokens coloured by expert{of}")
        strip.observe(self.safe(lambda event: self.choose_token(event["new"])), names=["selected"])
        label = f"Which expert the router gives each point of the plane to{of}"
        return {"strip": strip, "decisions": DecisionMap(label=label)}

    def view_of(self, side: str, name: str) -> Any:
        """The strip or the decision map of a run."""
        return self.own_views[side][name]

    def more_parts(self) -> dict[str, Any]:
        self.token = (0, 0)
        self.whatif, self.data = WhatIfPart(self), DataPart(self)
        self.comparison = ComparePart(self, self.state.comparison)
        what_if, data = (
            Folded("What if: edit the router", self.whatif.widget),
            Folded("Your own data", self.data.widget),
        )
        what_if.toggle.observe(self.safe(lambda _: self.turned()), names=["value"])
        self.what_if = what_if
        comparing = self.comparison.folded
        named = {"whatif": what_if, "data": data, "comparing": comparing}
        return {"left": [data], "right": [what_if, comparing], "named": named}

    def preset_titles(self) -> list[tuple[str, str]]:
        return [(preset.title, name) for name, preset in PRESETS.items()]

    # -- the run -----------------------------------------------------------------------------------------------------
    def begun(self) -> None:
        run = self.runs.a.experiment
        self.layers = special.layers(run)
        self.names = [view.short_layer(path) for path in self.layers]
        self.probe = view.Probe.of(run)
        self.token = (0, min(8, self.probe.batch.inputs.shape[1] - 1) if self.probe.texts else 0)
        self.state.layer = min(self.state.layer, len(self.layers) - 1)
        self.whatif.begin()
        self.data.follow()

    def look(self, run: Run[Moment]) -> Moment:
        return view.look(run.experiment, self.probe)

    def scene(self, run: Run[Moment]) -> Scene:
        i = min(self.state.layer, len(run.experiment.recorder.routers()) - 1)  # type: ignore[union-attr]
        return Scene(run.experiment, run.timeline, self.probe, run.held_out, i, self.state.cursor, self.token)

    def choose_token(self, place: dict[str, int]) -> None:
        """A token was clicked: its path, and its decision number by number."""
        if not place:
            return
        sequences, positions = len(self.probe.texts), self.probe.batch.inputs.shape[1]
        if 0 <= place["sequence"] < sequences and 0 <= place["position"] < positions:
            self.token = (place["sequence"], place["position"])
            self.show()

    def token_name(self, token: tuple[int, int]) -> str:
        """A token and what stands before it, or a point's number."""
        if not self.probe.texts:
            return f"point {token[1]}"
        text, at = self.probe.texts[token[0]], token[1]
        return f"“{''.join(text[max(0, at - 6) : at])}[{text[at]}]”"

    def choose_layer(self, layer: int | None) -> None:
        if layer is not None and layer != self.state.layer:
            self.state.layer = layer
            self.whatif.begin()
            self.show()

    # -- drawing -----------------------------------------------------------------------------------------------------
    def draw_live(self, everything: bool) -> None:
        """The decision map while it learns; at a step that is looked back at, it stands still."""
        for side, run in self.runs.sides.items():
            if (
                self.state.cursor < 0
                and view.is_plane(run.experiment)
                and (everything or self.view_of(side, "decisions").ready)
            ):
                self._draw_map(side, view.decision_map(run.experiment))

    def _draw_map(self, side: str, grid: tuple[Any, Any, view.Bounds]) -> None:
        run, points = self.runs.sides[side].experiment, self.probe.points
        if points is not None:
            expert, margin, bounds = grid
            E = run.recording.experts(special.layers(run)[0])
            self.view_of(side, "decisions").show(
                expert, margin, points.inputs, points.labels, bounds, label_names=run.data.label_names, n_experts=E
            )

    def draw_views(self, side: str, scene: Scene) -> None:
        moment = scene.moment
        if self.state.cursor >= 0 and moment.grid is not None:
            self._draw_map(side, moment.grid)
        if self.probe.texts:
            self.view_of(side, "strip").show(
                self.probe.texts, moment.index, moment.weights, moment.margin,
                names=scene.names, sequence_names=self.probe.names, n_experts=scene.E,
            )  # fmt: skip

    def fit_views(self) -> None:
        plane = view.is_plane(self.runs.a.experiment)
        for side, own in self.own_views.items():
            for name, fits in (("strip", bool(self.probe.texts)), ("decisions", plane)):
                there = side in self.runs.sides and fits and name not in self.state.hide
                own[name].layout.display = "" if there else "none"

    def turned(self) -> None:
        """What-if is computed when it is open, for it costs two forward passes."""
        if self.what_if.toggle.value:
            self.whatif.show()

    # -- in words ----------------------------------------------------------------------------------------------------
    def advice(self, scene: Scene) -> str:
        if special.is_stack(scene.run):
            return special.said_of_stack(scene)
        return " ".join(advice.advice(scene.run, scene.now, None if scene.cursor < 0 else scene.step))

    def note(self) -> str:
        preset, own = PRESETS.get(self.state.preset), self.state.own_task
        return f"{preset.title}. {preset.watch}" if preset else own.watch if own else ""


# -- the pictures, each from a scene -------------------------------------------------------------------------------------
def _is_stack(s: Scene) -> bool:
    return special.is_stack(s.run)


def _usage(s: Scene) -> Any:
    one = special.usage(s)
    return f.module_usage.as_dict(
        one.index, one.words, one.names, s.E, f"Module of every token at every step: {one.text}"
    )


def _is_field(s: Scene) -> bool:
    return special.is_field(s.run)


def _field(s: Scene) -> Any:
    one = special.canvas(s)
    return f.field_partition.as_dict(one.target, one.painted, one.expert, one.bounds, s.E)


def _has_families(s: Scene) -> bool:
    return special.has_families(s.run)


def _families(s: Scene) -> Any:
    one = special.families(s)
    return f.recovered_families.as_dict(one.pieces, one.family, one.expert, one.names, one.nmi)


def _is_attacked(s: Scene) -> bool:
    return special.is_attacked(s.run)


def _attack(s: Scene) -> Any:
    one = special.attacks(s)
    shares = (one.clean, one.joint, one.experts, one.router, one.flips)
    return f.attack_accuracy.as_dict(one.steps, *shares, one.radius)


def _loss(s: Scene) -> Any:
    return f.loss_curve.as_dict(s.curves.steps, s.curves.loss, *s.held_out, unit=s.unit)


def _load(s: Scene) -> Any:
    load = s.curves.load.get(s.layer, s.now.new_zeros(0, s.E))
    return f.load_over_steps.as_dict(s.curves.steps, load, title=f"Load of each expert, {s.name}")


def _balance(s: Scene) -> Any:
    violation = {view.short_layer(path): values for path, values in s.curves.violation.items()}
    return f.balance.as_dict(s.curves.steps, violation, view.floor(s.run, s.layer))


def _entropy(s: Scene) -> Any:
    return f.entropy.as_dict(s.curves.steps, s.curves.load_entropy.get(s.layer), s.curves.token_entropy.get(s.layer))


def _can_drop(s: Scene) -> bool:
    """Whether the router has limited room, or leaves slots of the probe empty."""
    return "capacity_factor" in s.run.knobs or bool((s.moment.index < 0).any())


def _drops(s: Scene) -> Any:
    """With limited room, slots that found none; else, where experts or scores decide how many, tokens that got nobody."""
    if "capacity_factor" not in s.run.knobs:
        untaken = s.untaken
        rows = {name: untaken[:, i] for i, name in enumerate(s.names)}
        return f.drops.as_dict(s.timeline.steps, rows, title="Tokens without an expert, of those shown below")
    dropped = {view.short_layer(path): values for path, values in s.curves.empty.items()}
    return f.drops.as_dict(s.curves.steps, dropped, s.run.knobs.get("capacity_factor"), of="slots")


def _has_bias(s: Scene) -> bool:
    return bool(s.timeline.moments) and s.timeline.moments[-1].bias is not None


def _bias(s: Scene) -> Any:
    import torch

    rows = [moment.bias[s.i] for moment in s.timeline.moments if moment.bias is not None]
    return f.bias_trajectory.as_dict(torch.tensor(s.timeline.steps), torch.stack(rows), layer=s.name)


def _path(s: Scene) -> Any:
    moment, (b, t) = s.moment, s.token
    token = s.probe.texts[b][t] if s.probe.texts else f"point {t}"
    picked = [one[:, b, t] for one in (moment.index, moment.weights, moment.probs)]
    return f.token_path.as_dict(*picked[:2], s.names, s.E, token, picked[2], probabilities=s.probabilities)


def _margins(s: Scene) -> Any:
    of = "probabilities" if s.probabilities else "scores"
    return f.margin_histogram.as_dict(s.moment.margin[s.i].reshape(-1), s.name, of=of)


def _specialisation(s: Scene) -> Any:
    labels = s.probe.labels
    share, nmi = view.shares(s.moment, s.i, s.probe.batch.labels, s.E, len(labels))
    return f.specialisation.as_dict(share, labels, nmi=nmi, layer=s.name)


def _has_pairs(s: Scene) -> bool:
    return s.moment.index.shape[-1] > 1 and not view.goes_everywhere(s.moment, s.i, s.E)


def _can_switch(s: Scene) -> bool:
    return bool(s.moment.margin.isfinite().any())


def _has_rows(s: Scene) -> bool:
    """Whether the routers compare a token with a vector of each expert."""
    return bool(s.moment.cosine)


def _coactivation(s: Scene) -> Any:
    return f.coactivation_map.as_dict(metrics.co_activation(s.index(s.i), s.E), s.name)


def _cosine(s: Scene) -> Any:
    return f.router_cosine.as_dict(s.moment.cosine[s.i], s.name)


def _plane(s: Scene) -> Any:
    rows, tokens, explained = s.moment.plane[s.i]
    return f.router_plane.as_dict(rows, tokens, s.index(s.i)[: len(tokens), 0], float(explained), s.name)


def _map(s: Scene) -> Any:
    return f.load_map.as_dict(s.utilisation, s.names, step=s.step)


def _percentiles(s: Scene) -> Any:
    return f.utilisation_percentiles.as_dict(s.utilisation, s.names)


def _both_losses(a: Scene, b: Scene) -> Any:
    names = (a.run.spec.title, b.run.spec.title)
    forked = about.forked_at(b.run)
    return f.two_losses.as_dict(
        a.curves.steps, a.curves.loss, b.curves.steps, b.curves.loss, *names, unit=a.unit, forked_at=forked
    )


def _difference(a: Scene, b: Scene) -> Any:
    """Experts have no names of their own: B's are renumbered as those of A that get the same tokens."""
    import torch

    if not len(a.now) or not len(b.now):
        return f.utilisation_difference.as_dict(a.now, b.now, [], [], [])
    matched = view.match_experts(a, b)
    padded = torch.cat([b.utilisation, torch.full((len(b.utilisation), 1), torch.nan)], dim=1)  # -1: no expert of B
    rows = [padded[i, one.permutation] for i, one in enumerate(matched)]
    numbers = [one.permutation.tolist() for one in matched]
    agreement = [float(one.agreement) for one in matched]
    L = len(matched)
    return f.utilisation_difference.as_dict(a.utilisation[:L], torch.stack(rows), numbers, a.names[:L], agreement)


LAB = RoutingLab
