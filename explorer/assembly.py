"""Assembly: from a mechanism, its knobs and the host's settings to a model, its parameter groups and its matched width."""

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from explorer.catalogue import Knob, Spec, build, spec
from explorer.counting import count
from explorer.errors import BadValue, unknown
from explorer.models import Experts, LanguageModel, MixtureOfExperts, SequenceModel, StackModel, VectorModel
from explorer.training.adamw import Group

if TYPE_CHECKING:
    from explorer.experiment import Experiment

# The host and its training. A mechanism's own knobs come first where a name is in both.
SETTINGS = {
    "layers": Knob(2, "how many blocks", low=1, high=16),
    "d_model": Knob(64, "width of the model", low=8, high=1024),
    "heads": Knob(4, "attention heads", low=1, high=32),
    "expert_width": Knob(64, "hidden width of an expert, or of the feed-forward network", low=1, high=8192),
    "attention": Knob("softmax-attention", "the mechanism in the attention socket"),
    "qk_norm": Knob("none", "RMS norm of the attention's queries and keys", choices=("none", "full")),
    "feed_forward": Knob("glu", "the mechanism in the feed-forward socket, or none"),
    "tied": Knob(True, "the output head shares the embedding's weights"),
    "kernel": Knob("auto", "how experts are computed", choices=("auto", "grouped_mm", "loop", "dense")),
    "batch": Knob(8, "sequences (or 32 points each) a step", low=1, high=1024, live=True),
    "learning_rate": Knob(3e-3, "of AdamW, after the warm-up", low=0, high=10, live=True),
    "router_rate": Knob(1.0, "the router's learning rate as a multiple of the others'", low=0, high=1000),
    "router_scale": Knob(1.0, "multiplies the router's initial weights", low=0, high=100),
    "attention_scale": Knob(1.0, "multiplies the attention's initial weights", low=0, high=100),
    "warmup": Knob(20, "steps over which the learning rate rises", low=0, high=100_000),
    "horizon": Knob(0, "steps over which it falls to a tenth along a cosine (0: it stays)", low=0, high=10_000_000),
    "clip": Knob(1.0, "largest gradient norm (0: no limit)", low=0, high=1e9, live=True),
    "weight_decay": Knob(0.0, "of AdamW", low=0, high=10),
}


def split(card: Spec, knobs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the mechanism's knobs, the host's settings), complete and checked; an unknown name is an error."""
    for name in knobs:
        if name not in card.knobs and name not in SETTINGS:
            raise unknown(f"knob of {card.name}", name, [*card.knobs, *SETTINGS])
    own = card.check({name: value for name, value in knobs.items() if name in card.knobs})
    settings = {
        name: knob.check(name, knobs.get(name, knob.default) if name not in card.knobs else knob.default)
        for name, knob in SETTINGS.items()
    }
    return own, settings


def assemble(card: Spec, knobs: dict[str, Any], settings: dict[str, Any], data: Any) -> nn.Module:
    """The host that suits the data, with the mechanism in its socket and the settings' mechanisms in the others.

    A stack fills all sockets and brings its own depth: `layers`, `expert_width` and the other mechanisms are not asked for.
    """
    d_model = settings["d_model"]
    if data.kind == "vectors":
        if card.slot in ("attention", "stack", "readout"):
            raise BadValue(f"{card.name} attends over positions: choose a task of tokens, such as 'text'")
        ffn = _feed_forward(card, knobs, settings, data.width, linear=True)
        return VectorModel(ffn)
    if data.kind == "sequences":
        return _sequence_model(card, knobs, settings, data)
    if card.slot == "readout":
        raise BadValue(
            f"{card.name} reads one answer off a whole row: choose a task of pictures, such as 'digit-patches'"
        )
    if card.slot == "stack":
        return StackModel(data.vocab, d_model, [build(card.name, d_model=d_model, **knobs)], tied=settings["tied"])
    layers = [_layer(card, knobs, settings) for _ in range(settings["layers"])]
    _chain([ffn for _, ffn in layers])
    return LanguageModel(data.vocab, d_model, layers, tied=settings["tied"])


def _sequence_model(card: Spec, knobs: dict[str, Any], settings: dict[str, Any], data: Any) -> nn.Module:
    """The host of vectors in a row, whose attention looks both ways."""
    if card.slot == "stack":
        raise BadValue(f"{card.name} is a whole model of tokens: choose a task of tokens, such as 'text'")
    d_model, readout = settings["d_model"], None
    if card.slot == "readout":
        if not data.pooled:
            raise BadValue(f"{card.name} gives one answer a row, and this task wants one at every position")
        readout = build(card.name, d_model=d_model, **knobs)
        own = getattr(readout, "n_classes", data.outputs)
        if own != data.outputs:
            raise BadValue(f"{card.name} knows {own} classes, and this task has {data.outputs}")
        tasks = getattr(data, "tasks", None)
        if tasks is not None and getattr(readout, "n_tasks", tasks) != tasks:
            raise BadValue(f"n_tasks={readout.n_tasks}: this task comes in {tasks} stages, so it must be {tasks}")
    layers = [_layer(card, knobs, settings, causal=False) for _ in range(settings["layers"])]
    return SequenceModel(data.width, data.length, data.outputs, d_model, layers, data.pooled, readout)


def _chain(layers: list[Any]) -> None:
    """Mechanisms that carry something from layer to layer have a method `follow`: each is told which one is below it."""
    places = [getattr(layer, "router", layer) for layer in layers]
    for below, above in pairwise(places):
        if hasattr(above, "follow"):
            above.follow(below)


def _layer(
    card: Spec, knobs: dict[str, Any], settings: dict[str, Any], causal: bool = True
) -> tuple[nn.Module, nn.Module | None]:
    """(attention, feed-forward) of one block; no feed-forward where the settings say "none".

    causal: what the attention beside a mechanism is told, where it can be either.
    """
    d_model, other = settings["d_model"], settings["feed_forward"]
    place = card if card.slot == "attention" else spec(settings["attention"])
    if settings["qk_norm"] != "none" and "qk_norm" not in place.knobs:
        raise BadValue(f"qk_norm={settings['qk_norm']}: {place.name} norms no queries and keys; softmax-attention can")
    if card.slot != "attention":
        known = {"n_heads": settings["heads"], "causal": causal, "qk_norm": settings["qk_norm"]}
        attention = _other(settings["attention"], "attention", d_model, known)
        _scale(attention, settings["attention_scale"])
        if card.slot != "readout":
            return attention, _feed_forward(card, knobs, settings, d_model)
    else:
        attention = build(card.name, d_model=d_model, **knobs)
        _scale(attention, settings["attention_scale"])
    if other == "none":
        return attention, None
    return attention, _other(other, "feed-forward", d_model, {"width": settings["expert_width"]})


def _feed_forward(
    card: Spec, knobs: dict[str, Any], settings: dict[str, Any], d_model: int, linear: bool = False
) -> nn.Module:
    module = build(card.name, d_model=d_model, **knobs)
    if card.slot != "router":
        return module
    _scale(module, settings["router_scale"])
    n_experts = int(getattr(module, "n_experts"))  # noqa: B009 (nn.Module's attributes are untyped)
    width, activation = (None, "linear") if linear else (settings["expert_width"], "swiglu")
    scale = (2 * settings["layers"]) ** -0.5  # the residual stream keeps its variance over depth, as in GPT-2
    return MixtureOfExperts(
        module, Experts(d_model, n_experts, width, activation, kernel=settings["kernel"], out_scale=scale)
    )


def _scale(module: nn.Module, factor: float) -> None:
    """Multiply the initial matrices; the gains of norms, and biases, stay as they are."""
    with torch.no_grad():
        for weight in module.parameters():
            if weight.ndim > 1:
                weight.mul_(factor)


def _other(name: str, slot: str, d_model: int, known: dict[str, Any]) -> nn.Module:
    """The mechanism that fills a socket the experiment is not about, with those of the host's sizes it has knobs for."""
    card = spec(name)
    if card.slot != slot:
        raise BadValue(f"{name} is a {card.slot} mechanism: it does not fit the {slot} socket")
    return build(name, d_model=d_model, **{key: value for key, value in known.items() if key in card.knobs})


def groups(model: nn.Module, settings: dict[str, Any]) -> list[Group]:
    """Parameter groups: routers apart (their own rate), norms and single vectors without weight decay."""
    routers = {id(p) for m in model.modules() if isinstance(m, MixtureOfExperts) for p in m.router.parameters()}
    alike: dict[tuple[float, float], list[Tensor]] = {}
    for p in model.parameters():
        scale = settings["router_rate"] if id(p) in routers else 1.0
        alike.setdefault((scale, settings["weight_decay"] if p.ndim > 1 else 0.0), []).append(p)
    return [Group(params, scale, decay) for (scale, decay), params in alike.items()]


def memory(experiment: "Experiment") -> float:
    """Bytes that training it needs, roughly and rather too many, without taking them; only what its sizes say."""
    card, knobs, settings = experiment.spec, experiment.knobs, experiment.settings
    T = getattr(experiment.task, "sequence", 1)
    with torch.device("meta"), _Unfilled():
        model = assemble(card, knobs, settings, experiment.data)
    # weights, gradients and the optimizer's two moments
    held = 16 * sum(p.numel() for p in model.parameters())
    E = int(knobs.get("n_experts") or 1)
    k = min(E, max(1, int(knobs.get("k") or 1)))
    heads = int(knobs.get("n_heads") or settings["heads"])
    # numbers that a layer keeps of a token until the way back
    kept = 30 * settings["d_model"] + 6 * settings["expert_width"] * k + 8 * E + 3 * heads * T
    return float(held + 4 * settings["batch"] * T * settings["layers"] * kept)


# of what stands in the constructors of mechanisms: which function gives what shape
SHAPES: dict[Any, Any] = {
    torch.randn: lambda *sizes: sizes,
    torch.rand: lambda *sizes: sizes,
    torch.linspace: lambda *ends_and_steps: ends_and_steps[2:],
    torch.eye: lambda n, m: (n, m),
    torch.cartesian_prod: lambda *lists: (math.prod(map(len, lists)), len(lists)),
}
# and by its name, what has the shape of its largest operand
ELEMENTWISE = {
    *("add", "sub", "mul", "div", "neg", "pow", "exp", "log", "normalize"),
    *("__radd__", "__rsub__", "__rmul__", "__rtruediv__", "__rpow__"),
}


class _Unfilled(TorchFunctionMode):
    """Fills no tensor: on the meta device there is nothing to see of it, and it would import torch._dynamo, 2 s and 75 MB."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name.endswith("_") and not name.endswith("__"):
            return args[0] if args else kwargs["tensor"]
        if func in SHAPES:
            return torch.empty(*SHAPES[func](*args))
        if func is torch.randint:
            return torch.empty(args[-1], dtype=torch.long)
        if name in ELEMENTWISE:
            return torch.empty(max((tuple(one.shape) for one in args if isinstance(one, Tensor)), key=math.prod))
        return func(*args, **(kwargs or {}))


DEFAULTS = {
    "router": "topk-softmax",
    "attention": "softmax-attention",
    "feed-forward": "glu",
    "stack": "topk-softmax",
    "readout": "softmax-attention",
}  # what `match` compares with


def width_knob(card: Spec) -> str:
    """The knob that `match` turns: a feed-forward mechanism's own width, else that of the host."""
    return "width" if "width" in card.knobs else "expert_width"


def matched_width(experiment: "Experiment", match: str, target: float | None = None) -> int:
    """The width at which the host's parameters or active FLOPs come nearest to `target`.

    Without a target: to those of the same host with the default mechanism in the socket.
    """
    card, settings, data = experiment.spec, experiment.settings, experiment.data
    T = getattr(experiment.task, "sequence", 1)

    def size(one: Spec, knobs: dict[str, Any], width: int) -> float:
        knobs = {**knobs, "width": width} if "width" in one.knobs else knobs
        with torch.device("meta"):
            return float(getattr(count(assemble(one, knobs, {**settings, "expert_width": width}, data), T), match))

    def own(width: int) -> float:
        try:
            return size(card, experiment.knobs, width)
        except BadValue:  # narrower than its other knobs allow
            return 0.0

    if target is None:
        default = spec(DEFAULTS[card.slot])
        shared = {
            name: value for name, value in experiment.knobs.items() if name in default.knobs and name != "aux_loss"
        }
        target = size(default, default.check(shared), settings["expert_width"])
    low, high = 1, 8192
    smallest, largest = own(low), size(card, experiment.knobs, high)
    if smallest == largest:
        linear = card.slot == "router" and data.kind == "vectors"
        fixed = ", ".join(name for name, knob in card.knobs.items() if not knob.live)
        why = "experts on plain vectors are single matrices" if linear else f"its size is set by {fixed}"
        raise BadValue(f"{card.name} cannot be matched, because it has no width here: {why}")
    if not smallest <= target <= largest:
        raise BadValue(f"{card.name} cannot be matched by its feed-forward width: {match} would have to be {target:g}")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if own(middle) <= target else (low, middle)
    return min((low, high), key=lambda width: abs(own(width) - target))
