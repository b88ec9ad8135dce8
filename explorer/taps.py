"""Taps: a mechanism names the tensors worth watching on the line that computes them.

`probs = self.tap("probs", logits.softmax(-1))` costs one attribute look-up while nobody watches, adds neither a submodule
nor a state_dict key, and keeps working inside torch.compile, because what it looks up is an attribute of the very module
(a hook added after compilation never fires, and a global would mix up two models on two threads).
"""

import fnmatch
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from torch import Tensor, nn

from explorer.errors import BadValue, UnknownName, unknown

AXES = {
    "B": "batch", "T": "token position", "N": "flattened tokens, B*T", "D": "model width", "E": "experts (routed targets)",
    "K": "slots", "H": "heads", "S": "source position (keys)", "L": "layers", "C": "classes", "F": "feed-forward width",
    "M": "blocks of positions", "d": "head width", "1": "one",
}  # fmt: skip
SCORES = {
    "probabilities": "non-negative, summing to one over the targets",
    "independent": "each target scored by itself, in the mechanism's own range",
    "logits": "not normalised",
}


class Probe:
    """What hangs on a watched module: the edits and the listeners of its taps, resolved once when watching began."""

    def __init__(self) -> None:
        self.edits: list[tuple[str, Callable[[Tensor], Tensor]]] = []
        self.listeners: list[tuple[str, Listener]] = []  # each with the path by which its model knows this module

    def __call__(self, name: str, value: Tensor) -> Tensor:
        for edited, change in self.edits:
            if edited == name:
                value = change(value)
        for path, listener in self.listeners:
            if name in listener.wanted:
                listener.heard.append((path, name, value.detach()))
        return value


class Listener:
    """One recorder's ear at one module: `wanted` may change between steps, `heard` is shared and emptied by its recorder."""

    def __init__(self, wanted: frozenset[str], heard: list[tuple[str, str, Tensor]]) -> None:
        self.wanted = wanted
        self.heard = heard


class Instrumented(nn.Module):
    """A module that names the tensors worth watching; `taps` declares them with their axes, `scores` says what `probs` is."""

    taps: ClassVar[dict[str, str]] = {}
    scores: ClassVar[str | None] = None  # one of SCORES, for mechanisms that tap "probs"
    only_by_name: ClassVar[frozenset[str]] = frozenset({"attention"})  # too large to be caught by a wildcard
    auxiliary: Tensor | None = None  # a loss of the mechanism's own, set by forward; hosts add it to the task's
    _probe: Probe | None = None

    def tap(self, name: str, value: Tensor) -> Tensor:
        """Show `value` to whoever watches tap `name`; returns it (or what an `edit` made of it)."""
        probe = self._probe  # read once: another thread may stop watching between two looks
        return value if probe is None else probe(name, value)

    def watched(self, name: str) -> bool:
        """True while somebody listens to or edits tap `name`: ask before computing a tensor only watchers need."""
        probe = self._probe
        if probe is None:
            return False
        return any(name in listener.wanted for _, listener in probe.listeners) or any(name == n for n, _ in probe.edits)

    def __getstate__(self) -> dict[str, Any]:
        """A copy (deepcopy, pickle) is a model of its own: nobody watches it yet, and its last loss has no graph."""
        return {key: value for key, value in self.__dict__.items() if key not in ("_probe", "auxiliary")}


def instrumented(model: nn.Module) -> dict[str, Instrumented]:
    """Path -> instrumented module, in the order of the model; a compiled model is looked through to the original.

    A router is known by the place it fills: `blocks.0.ffn`, not `blocks.0.ffn.router`; a part that is compiled by itself
    by the same path as one that is not.
    """
    model = getattr(model, "_orig_mod", model)
    found = ((path, module) for path, module in model.named_modules() if isinstance(module, Instrumented))
    named = ((".".join(part for part in path.split(".") if part != "_orig_mod"), module) for path, module in found)
    return {path.removesuffix(".router"): module for path, module in named}


def full_name(path: str, tap: str) -> str:
    """`blocks.0.ffn/probs`; the root's own taps are `/tokens`."""
    return f"{path}/{tap}"


def resolve(model: nn.Module, pattern: str | list[str]) -> dict[str, list[str]]:
    """Path -> tap names that a shell-style pattern such as "*", "*/probs" or "blocks.0.*/logits" selects.

    A pattern that matches no declared tap is an error, so a watch that would see nothing is never silent.
    """
    modules = instrumented(model)
    if not any(module.taps for module in modules.values()):
        raise UnknownName(f"{type(model).__name__} has no taps: nothing in it is an explorer mechanism")
    declared = {full_name(p, t): (p, t) for p, module in modules.items() for t in module.taps}
    chosen: dict[str, list[str]] = {}
    for one in [pattern] if isinstance(pattern, str) else pattern:
        names = fnmatch.filter(declared, one)
        if not names:
            raise unknown("tap matching", one, declared)
        for name in names:
            path, tap = declared[name]
            by_wildcard = one.rsplit("/", 1)[-1] != tap
            if not (by_wildcard and tap in modules[path].only_by_name) and tap not in chosen.setdefault(path, []):
                chosen[path].append(tap)
    if not chosen:
        raise UnknownName(
            f"{pattern!r} selects no tap: large ones are recorded only by their own name, as '*/attention'"
        )
    return chosen


_attaching = threading.Lock()  # two threads may begin to watch two parts of one model at once


def attach(module: Instrumented, path: str, *, listener: Listener | None = None, edit: Any = None) -> None:
    """Let a listener or an edit hang on a module; several may."""
    with _attaching:
        if module._probe is None:
            module._probe = Probe()
        if listener is not None:
            module._probe.listeners = [*module._probe.listeners, (path, listener)]
        if edit is not None:
            module._probe.edits = [*module._probe.edits, edit]


def detach(module: Instrumented, *, listener: Listener | None = None, edit: Any = None) -> None:
    """Take it off again; a module on which nothing hangs is as it was before."""
    with _attaching:
        probe = module._probe
        if probe is None:
            return
        probe.listeners = [one for one in probe.listeners if one[1] is not listener]
        probe.edits = [one for one in probe.edits if one is not edit]
        if not probe.listeners and not probe.edits:
            module._probe = None


@contextmanager
def edit(model: nn.Module, pattern: str | list[str], change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """While inside, every tensor tapped under `pattern` is replaced by `change(tensor)` of the same shape.

    Forbid expert 3: `edit(model, "*/logits", lambda l: l.index_fill(-1, torch.tensor([3]), -torch.inf))`;
    force a gate open: `edit(model, "*/gate", torch.ones_like)`.
    """

    def checked(value: Tensor) -> Tensor:
        changed = change(value)
        if not isinstance(changed, Tensor):
            raise BadValue(
                f"edit({pattern!r}) returned {changed!r} for a tap: it must be a tensor of {tuple(value.shape)}"
            )
        if changed.shape != value.shape:
            raise BadValue(f"edit({pattern!r}) returned shape {tuple(changed.shape)} for a tap of {tuple(value.shape)}")
        return changed

    modules = instrumented(model)
    placed = [(modules[path], path, (tap, checked)) for path, taps in resolve(model, pattern).items() for tap in taps]
    for module, path, one in placed:
        attach(module, path, edit=one)
    try:
        yield
    finally:
        for module, _, one in placed:
            detach(module, edit=one)
