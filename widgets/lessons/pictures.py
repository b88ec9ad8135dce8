"""The live pictures of a lesson's run, by name: what the labs draw, from an experiment alone."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from widgets import figures as f

if TYPE_CHECKING:
    from explorer.experiment import Experiment


@dataclass(frozen=True)
class Drawn:
    """One picture: draw(experiment) -> a plain figure.

    every: seconds between two drawings, more than 0 where it looks at held-out data.
    """

    label: str
    draw: Callable[["Experiment"], Any]
    every: float = 0.0


def _course(run: "Experiment") -> Any:
    from widgets.states.routing_view import curves

    return curves(run)


def _loss(run: "Experiment") -> Any:
    import torch

    from widgets.states.curves import binned

    loss = run.losses()
    steps = binned(torch.arange(len(loss), dtype=torch.float64))
    return f.loss_curve.as_dict(steps, binned(loss), unit=getattr(run.data, "unit", "loss"))


def _load(run: "Experiment") -> Any:
    from widgets.states.routing_view import short_layer

    course = _course(run)
    layer = next(iter(course.load), "")
    return f.load_over_steps.as_dict(
        course.steps,
        course.load.get(layer, ()),
        title=f"Load of each expert, {short_layer(layer) if layer else 'none yet'}",
    )


def _balance(run: "Experiment") -> Any:
    from widgets.states.routing_view import floor, short_layer

    violation = _course(run).violation
    first = next(iter(violation), None)
    named = {short_layer(path): values for path, values in violation.items()}
    return f.balance.as_dict(_course(run).steps, named, floor(run, first) if first else None)


def _entropy(run: "Experiment") -> Any:
    course = _course(run)
    layer = next(iter(course.load_entropy), "")
    return f.entropy.as_dict(course.steps, course.load_entropy.get(layer), course.token_entropy.get(layer))


def _drops(run: "Experiment") -> Any:
    from widgets.states.routing_view import short_layer

    course = _course(run)
    empty = {short_layer(path): values for path, values in course.empty.items()}
    of = "tokens" if run.knobs.get("k", 1) == 1 else "choices"
    return f.drops.as_dict(course.steps, empty, run.knobs.get("capacity_factor"), of=of)


def _map(run: "Experiment") -> Any:
    from explorer import metrics
    from widgets.states.routing_view import recent_load, short_layer

    shares = recent_load(run.recording)
    return f.load_map.as_dict(
        metrics.utilisation(shares.nan_to_num()) if shares.numel() else shares,
        [short_layer(path) for path in run.recording.layers()],
        step=run.step,
    )


def _specialisation(run: "Experiment") -> Any:
    from explorer.analyses import domains
    from widgets.lessons.outcomes import held_out
    from widgets.states.routing_view import short_layer

    seen = held_out(run)
    layer = seen.layers()[0]
    return f.domain_loads.as_dict(domains.loads(seen, layer), run.data.label_names, short_layer(layer))


def _tells(run: "Experiment") -> Any:
    from widgets.lessons.outcomes import specialisation
    from widgets.states.routing_view import short_layer

    table = specialisation(run)
    columns = ("domain_nmi", "domain_floor", "vocabulary_nmi", "vocabulary_floor")
    layers = [short_layer(path) for path in table["layer"]]
    return f.specialisation_by_layer.as_dict(
        layers, *(table[name].to_numpy() for name in columns), title="What domain and byte tell of the expert"
    )


def _gates(run: "Experiment") -> Any:
    import torch

    names = [name for name in run.recording.paths() if name.endswith("/gate")]
    values = [run.recording.last(name).float().flatten() for name in names] if run.recording.steps() else []
    every = torch.cat(values) if values else torch.zeros(0)
    return f.gate_histogram.as_dict(every[:: max(1, len(every) // 4000)], "all layers")


def _sinks(run: "Experiment") -> Any:
    found = run.recording.attention()
    if not len(found):
        return f.sink_birth.as_dict([], [])
    layers = found["layer"].astype(str).str.extract(r"\.(\d+)\.", expand=False).fillna(found["layer"].astype(str))
    names = "layer " + layers + " · head " + found["head"].astype(str)
    shares = found.assign(name=names).pivot_table(index="step", columns="name", values="first_token_share")
    return f.sink_birth.as_dict(shares.index.to_numpy(), shares.to_numpy(), list(shares.columns))


PICTURES = {
    "loss": Drawn("Loss", _loss),
    "load": Drawn("Load of each expert over the steps", _load),
    "balance": Drawn("Imbalance", _balance),
    "entropy": Drawn("Entropy of the load and of a token's choice", _entropy),
    "drops": Drawn("Dropped tokens", _drops),
    "map": Drawn("Utilisation of every expert in every layer", _map),
    "specialisation": Drawn("Which domain goes to which expert", _specialisation, every=1.5),
    "tells": Drawn("What domain and byte tell of the expert", _tells, every=6.0),
    "gates": Drawn("Values of the gates", _gates),
    "sinks": Drawn("Attention sinks over training", _sinks),
}
