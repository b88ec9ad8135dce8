"""A transformers model as the recorder sees it: its own modules untouched, an ear at each that decides something."""

import fnmatch
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from explorer.checkpoints.attention import AttentionEar, attention_ears, deaf
from explorer.checkpoints.batch import batch_of
from explorer.checkpoints.ear import Ear, Pass
from explorer.checkpoints.interface import Hear, overhear
from explorer.checkpoints.own_attention import OwnAttentionEar
from explorer.checkpoints.routers import RouterEar, router_ears
from explorer.checkpoints.table import gate_of, row_of, score_name
from explorer.errors import RecordingError
from explorer.taps import Instrumented, full_name


def is_foreign(model: nn.Module) -> bool:
    """Whether a model is, or contains, one of transformers; the library is never imported to find that out."""
    return bool(_parts(model))


def _parts(model: nn.Module) -> list[Any]:
    library = sys.modules.get("transformers.modeling_utils")
    return [] if library is None else [one for one in model.modules() if isinstance(one, library.PreTrainedModel)]


class LiveModel(Instrumented):
    """What a Recorder is given in place of a transformers model: the same paths, with ears in place of the modules.

    Its own taps say what each pass was given: tokens, their positions, and which are real (`valid`); not of models with
    an encoder and a decoder, whose two streams of tokens have no common places: there each router has a `valid`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        refuse(model)
        self._of, self._parts, self.now = (model,), tuple(_parts(model)), Pass()
        self._depth = 0
        two = any(getattr(part.config, "is_encoder_decoder", False) for part in self._parts)
        listening = attention_ears(model, self.now)
        ears: list[Ear] = [*listening, *router_ears(model, self.now, two)]
        self.ears = {ear.path: ear for ear in ears}
        self.deaf = {path: (kind, "first") for path, kind in deaf(model, [ear.path for ear in listening]).items()}
        self.deaf |= {path: (kind, "index") for path, kind in unknown_routers(model).items()}
        self.taps = {} if two else {"tokens": "B T", "position": "B T", "valid": "B T"}  # type: ignore[misc]

    def named_modules(self, *_: Any, **__: Any) -> Iterator[tuple[str, nn.Module]]:
        """Itself and the ears, by the paths of the model."""
        yield "", self
        yield from self.ears.items()

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Those of the model."""
        return self._of[0].parameters(recurse)

    def register_forward_hook(self, *args: Any, **kwargs: Any) -> Any:
        """On the model: a step of the recording ends where its forward pass does."""
        return self._of[0].register_forward_hook(*args, **kwargs)

    @property
    def _about(self) -> dict[str, Any]:
        """For the header of a recording: the model's class, its routers, and the layers nobody can listen to."""
        routers = {
            path: {
                "router": type(ear.module).__name__,
                "scores": score_name(ear.row, ear.module),
                "shared": ear.shared(),
            }
            for path, ear in self.ears.items()
            if isinstance(ear, RouterEar)
        }
        return {
            "model": type(self._of[0]).__name__,
            "routers": routers,
            "unheard": {path: kind for path, (kind, _) in self.deaf.items()},
        }

    def begin(self, part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Hook: a pass begins, with the outermost part of the model that is called."""
        self._depth += 1
        if self._depth == 1:
            self.now.batch = batch_of(part, args, kwargs)
            side = self.now.batch.main
            if self.taps and side is not None:
                self.tap("position", side.position)
                if side.tokens is not None:
                    self.tap("tokens", side.tokens)
                if self.watched("valid"):
                    valid = side.valid
                    self.tap("valid", side.position >= 0 if valid is None else valid)

    def end(self, *_: Any) -> None:
        """Hook: it is over, also by an error."""
        self._depth -= 1
        if self._depth == 0:
            self.now.batch = None

    def insist(self, pattern: str | list[str]) -> None:
        """Raise if the pattern asks for what cannot be heard."""
        if not self.ears and not self.deaf:
            raise RecordingError(f"{type(self._of[0]).__name__} has neither attention nor routers that can be heard")
        for path, (kind, tap) in self.deaf.items():
            for one in [pattern] if isinstance(pattern, str) else pattern:
                if fnmatch.fnmatchcase(full_name(path, tap), one):
                    others = "'*/index'" if tap == "first" else "'*/first'"
                    raise RecordingError(
                        f"{path} ({kind}) computes its {'attention' if tap == 'first' else 'routing'} in a way of its own, so "
                        f"that nothing there can be heard: {one!r} must leave it out, as {others} does"
                    )

    def with_valid(self, pattern: str | list[str]) -> str | list[str]:
        """The pattern and, where choices are asked for, what tells tokens from padding: else padding counts as empty slots."""
        wanted = [pattern] if isinstance(pattern, str) else list(pattern)
        choices = [full_name(path, "index") for path, ear in self.ears.items() if "index" in ear.taps]
        if not any(fnmatch.filter(choices, one) for one in wanted):
            return pattern
        told = {"": self.taps, **{path: ear.taps for path, ear in self.ears.items()}}
        return [*wanted, *(full_name(path, "valid") for path, taps in told.items() if "valid" in taps)]

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hooks and ears are in place while inside."""
        with ExitStack() as stack:
            hooks = []
            for part in self._parts:
                hooks.append(part.register_forward_pre_hook(self.begin, with_kwargs=True))
                hooks.append(part.register_forward_hook(self.end, always_call=True))
            for ear in self.ears.values():
                hooks += _hooks(ear)
            for hook in hooks:
                stack.callback(hook.remove)
            heard: dict[nn.Module, Hear] = {
                ear.module: ear.hear for ear in self.ears.values() if type(ear) is AttentionEar
            }
            stack.enter_context(overhear(heard))
            yield


def _hooks(ear: Ear) -> list[Any]:
    if isinstance(ear, OwnAttentionEar):
        return [
            ear.module.register_forward_pre_hook(ear.open, with_kwargs=True),
            ear.module.register_forward_hook(ear.close, always_call=True),
            ear.module.register_forward_hook(ear.end),
        ]
    if isinstance(ear, AttentionEar):
        return [ear.module.register_forward_pre_hook(ear.begin), ear.module.register_forward_hook(ear.end)]
    assert isinstance(ear, RouterEar)
    hooks = [ear.block.register_forward_pre_hook(ear.begin), ear.module.register_forward_hook(ear.decided)]
    if ear.experts is not None:
        hooks.append(ear.experts.register_forward_pre_hook(ear.given, with_kwargs=True))
    return [*hooks, ear.block.register_forward_hook(ear.end)]


@contextmanager
def live(model: nn.Module, pattern: str | list[str]) -> Iterator[LiveModel]:
    """A transformers model, made ready to be recorded while inside; it computes what it would have computed, bit by bit."""
    watched = LiveModel(model)
    watched.insist(pattern)
    with watched.listening():
        yield watched


def unknown_routers(model: nn.Module) -> dict[str, str]:
    """Path -> class of what is a router for transformers, or by its shape (experts beside a gate), but not for the table."""
    named = [one for part in _parts(model) for one in _named_routers(part)]
    gates = [gate_of(module) for module in model.modules()]
    found = {}
    for path, module in model.named_modules():
        parts = dict(module.named_children())
        shaped = "experts" in parts and ("gate" in parts or "router" in parts)
        called = any(type(module) is kind and name in path for kind, name in named)
        known = any(module is gate for gate in gates) or any(row_of(part) or gate_of(part) for part in module.modules())
        if (shaped or called) and not known:
            found[path] = type(module).__name__
    return found


def _named_routers(part: Any) -> list[tuple[type, str]]:
    """What transformers itself records of a model as router logits: classes, and words that the path must have."""
    recorded = (getattr(part, "_can_record_outputs", None) or {}).get("router_logits", [])
    found = []
    for one in recorded if isinstance(recorded, list) else [recorded]:
        kind, name = getattr(one, "target_class", one), getattr(one, "layer_name", None)
        found += [(kind, name or "")] if isinstance(kind, type) else []
    return found


def refuse(model: nn.Module) -> None:
    """Raise for a model whose layers would run without telling anybody."""
    for path, module in model.named_modules():
        where = f"{path or 'the model'} ({type(module).__name__})"
        if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None:
            raise RecordingError(f"{where} is compiled, so that nothing of it can be heard: record it uncompiled")
        if getattr(module, "use_kernels", False):
            raise RecordingError(
                f"{where} runs kernels of the hub in place of its layers: load it with use_kernels=False"
            )
