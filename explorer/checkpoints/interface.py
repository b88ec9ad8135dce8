"""Overhearing the attention functions of transformers: every model asks one registry for the function it is to call.

What the registry hands out is wrapped while somebody listens, and put back after. The wrapped function computes as before;
whoever listens is shown its arguments afterwards. Modules nobody listens to, and other models on other threads, pass by.
"""

import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

Hear = Callable[[str, Any, dict[str, Any]], None]  # implementation, what it returned, its arguments by name

_lock = threading.Lock()
_listening: dict[nn.Module, list[Hear]] = {}
_undo: list[Callable[[], None]] = []


class Overheard:
    """An attention function that tells who listens to the module that called it."""

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self.function, self.name = function, name

    def __call__(
        self, module: nn.Module, query: Any, key: Any, value: Any, attention_mask: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        result = self.function(module, query, key, value, attention_mask, *args, **kwargs)
        if module in _listening:
            names = list(inspect.signature(self.function).parameters)[5:] if args else []
            given = {"query": query, "key": key, "value": value, "attention_mask": attention_mask}
            for hear in _listening[module]:
                hear(self.name, result, given | dict(zip(names, args, strict=False)) | kwargs)
        return result


def overheard(function: Any, name: str) -> Any:
    """The function, wrapped once."""
    return function if isinstance(function, Overheard) else Overheard(function, name)


def plain_forward(module: nn.Module) -> Any:
    """The forward method of a module's class, without decorators."""
    return inspect.unwrap(type(module).forward)


def asks_registry(module: nn.Module) -> bool:
    """Whether a module gets its attention function from the registry, read off the names its forward uses."""
    code = getattr(plain_forward(module), "__code__", None)
    return code is not None and "ALL_ATTENTION_FUNCTIONS" in code.co_names


@contextmanager
def overhear(listeners: dict[nn.Module, Hear]) -> Iterator[None]:
    """While inside, `hear` of a module is called after each attention it computes."""
    with _lock:
        for module, hear in listeners.items():
            _listening.setdefault(module, []).append(hear)
        _wrap(list(listeners))
    try:
        yield
    finally:
        with _lock:
            for module, hear in listeners.items():
                _listening[module].remove(hear)
                if not _listening[module]:
                    del _listening[module]
            if not _listening:
                while _undo:
                    _undo.pop()()


def _wrap(modules: list[nn.Module]) -> None:
    if not modules:
        return
    from transformers.modeling_utils import AttentionInterface

    if hasattr(AttentionInterface, "get_interface"):
        _replace(AttentionInterface, "get_interface", _get_interface)
    else:  # before version 5 the eager function is no part of the registry, but a name in the model's own file
        for names in {id(one): one for one in (plain_forward(module).__globals__ for module in modules)}.values():
            if "eager_attention_forward" in names:
                _replace_key(names, "eager_attention_forward", "eager")
    _replace(AttentionInterface, "__getitem__", lambda old: lambda self, name: overheard(old(self, name), name))


def _get_interface(old: Callable[..., Any]) -> Callable[..., Any]:
    def get_interface(self: Any, attn_implementation: str | None, default: Any) -> Any:
        return overheard(old(self, attn_implementation, default), attn_implementation or "eager")

    return get_interface


def _replace(owner: type, name: str, make: Callable[[Any], Any]) -> None:
    old = getattr(owner, name)
    if getattr(old, "_overhears", False):
        return
    inherited, new = name not in owner.__dict__, make(old)
    new._overhears = True
    setattr(owner, name, new)
    _undo.append(lambda: delattr(owner, name) if inherited else setattr(owner, name, old))


def _replace_key(names: dict[str, Any], key: str, implementation: str) -> None:
    old = names[key]
    if not isinstance(old, Overheard):
        names[key] = Overheard(old, implementation)
        _undo.append(lambda: names.__setitem__(key, old))
