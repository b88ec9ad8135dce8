"""The state of the checkpoint lab: which trained model, which texts, what is looked at. Its link carries all but the texts."""

from collections.abc import Callable
from typing import Any

import traitlets as t

from explorer.errors import BadValue, ExplorerError, unknown
from widgets.states import links

WINDOWS = (0, 32, 64, 128, 256, 512, 1024, 2048)  # 0: as long as the model can read, at most 512
WINDOW = 0
EARLY, TEXTS = "early", "texts"  # what may stand for a second checkpoint: the demo's own early one, or other texts
MOST_TEXTS = 12
MOST_CHARACTERS = 200_000  # of all texts together
MOST_LAYERS = 4096
DEFAULTS = {
    "checkpoint": "", "beside": "", "layer": -1, "domain": "", "window": WINDOW, "attention": 0, "trace": 0, "large": 0,
}  # fmt: skip
Text = tuple[str, str]  # the name of its domain, and what it says (or its token ids, as text)


class CheckpointState(t.HasTraits):
    """One page of the checkpoint lab."""

    given = t.Unicode("")  # a path, a hub id or an address; "": the demo
    beside = t.Unicode("")  # the same of what it is compared with, EARLY or TEXTS; "": nothing
    layer = t.Int(-1)  # of the routed ones, counted from 0; -1: the middle one
    domain = t.Unicode("")  # "": all
    window = t.Int(WINDOW)  # tokens that are read with one context
    attention = t.Bool(False)
    traced = t.Bool(False)
    texts: tuple[Text, ...] = t.Tuple()  # type: ignore[assignment]
    others: tuple[Text, ...] = t.Tuple()  # type: ignore[assignment]  # what TEXTS means
    own = t.Bool(False)  # whether the texts are not those that came along
    ids = t.Bool(False)  # whether the texts are token ids
    large = t.Bool(False)
    theme = t.Unicode("light")
    error = t.Dict(allow_none=True, default_value=None)  # {"title", "message"}
    notices = t.List(t.Unicode())

    def __init__(self, query: str = "") -> None:
        super().__init__()
        self._read(query)

    def link(self) -> str:
        """The query string that opens this page with the same model, and traces what came along with it."""
        values = {
            "checkpoint": self.given, "beside": self.beside, "layer": self.layer, "domain": self.domain,
            "window": self.window, "attention": int(self.attention), "trace": int(self.traced and not self.own),
            "large": int(self.large),
        }  # fmt: skip
        if values["beside"] == TEXTS or not values["trace"]:
            values["beside"] = ""
        return links.write(values, DEFAULTS)

    def shown(self, layers: int) -> int:
        """The layer that is looked at, of so many."""
        return layers // 2 if self.layer < 0 else min(self.layer, max(layers - 1, 0))

    def _read(self, query: str) -> None:
        given, notices = links.read(query)
        changes: dict[str, Callable[[str], None]] = {
            "checkpoint": lambda v: setattr(self, "given", v.strip()),
            "beside": lambda v: setattr(self, "beside", v.strip()),
            "domain": lambda v: setattr(self, "domain", v[:100]),
            "layer": lambda v: setattr(self, "layer", _whole("layer", v, -1, MOST_LAYERS)),
            "window": lambda v: setattr(self, "window", window(v)),
            "attention": lambda v: setattr(self, "attention", bool(_whole("attention", v, 0, 1))),
            "trace": lambda v: setattr(self, "traced", bool(_whole("trace", v, 0, 1))),
            "large": lambda v: setattr(self, "large", bool(_whole("large", v, 0, 1))),
        }
        for name, value in given.items():
            try:
                if name not in changes:
                    raise unknown("setting of the checkpoint lab", links.short(name), changes)
                changes[name](value)
            except ExplorerError as error:
                said = f"{links.short(name)}={links.short(value)} was ignored: {links.short(str(error), 300)}"
                notices.append(said)
        self.notices = notices


def window(value: Any) -> int:
    """A window's length, or an error that says which there are."""
    found = _whole("window", value, WINDOWS[0], WINDOWS[-1])
    if found not in WINDOWS:
        raise BadValue(f"window={found} should be one of {', '.join(map(str, WINDOWS))}")
    return found


def _whole(name: str, value: Any, low: int, high: int) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        raise BadValue(f"{name}={links.short(str(value))} should be a whole number") from None
    if not low <= number <= high:
        raise BadValue(f"{name}={number} should lie between {low} and {high}")
    return number
