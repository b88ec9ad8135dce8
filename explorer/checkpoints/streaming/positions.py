"""Rotary positions as config.json asks for them: by how much each pair of channels turns from one position to the next.

The kinds are those of transformers 5.23 (modeling_rope_utils), in the spelling of version 5 (`rope_parameters`) and of
version 4 (`rope_theta` beside `rope_scaling`). What is not known for certain is a reason in words, and never a guess.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

KNOWN = {
    "rope_type", "type", "rope_theta", "partial_rotary_factor", "factor", "original_max_position_embeddings",
    "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate", "low_freq_factor",
    "high_freq_factor",
}  # fmt: skip
LARGEST = 1 << 20  # channels of a head, and more than any has


class Rotation(NamedTuple):
    """How queries and keys are turned.

    angles (d/2) float32: radians from one position to the next. factor: cosines and sines are multiplied by it.
    sharper: what DeepSeek multiplies the scale of its softmax by. longest: beyond so many positions the angles would be
    others; None: never. A head may have more than d channels, which are left as they are.
    """

    angles: Tensor
    factor: float = 1.0
    sharper: float = 1.0
    longest: int | None = None

    def turn(self, x_THd: Tensor, start: int = 0, interleaved: bool = False) -> Tensor:
        """Heads (T, H, d or more) at the positions from `start`: channel i is paired with i + d/2.

        interleaved: with its neighbour; the first ones of all pairs come before the second ones in the result, which
        changes no product of a query and a key.
        """
        half = len(self.angles)
        places_T = torch.arange(start, start + len(x_THd), dtype=torch.float32)
        turned_T1d = (places_T[:, None] * self.angles)[:, None]
        cos, sin = turned_T1d.cos() * self.factor, turned_T1d.sin() * self.factor
        if interleaved:
            first, second = x_THd[..., 0 : 2 * half : 2], x_THd[..., 1 : 2 * half : 2]
        else:
            first, second = x_THd[..., :half], x_THd[..., half : 2 * half]
        return torch.cat([first * cos - second * sin, second * cos + first * sin, x_THd[..., 2 * half :]], -1)


def rotation(
    config: dict[str, Any], dim: int, base: float = 10_000.0, *, partial: bool = False, of: str | None = None
) -> Rotation | str:
    """The rotation of heads of `dim` channels, or why it is not known.

    base: theta where the configuration has none. partial: the family honours `partial_rotary_factor`, and turns only the
    first channels. of: the type of layer, where the settings are told by type.
    """
    try:
        return _rotation(_settings(config, base, of), dim, partial)
    except _UnknownError as error:
        return str(error)


class _UnknownError(Exception):
    pass


def _rotation(numbers: "_Numbers", dim: int, partial: bool) -> Rotation:
    share, theta = numbers.get("partial_rotary_factor", 1.0), numbers.get("rope_theta")
    if share != 1 and not partial:
        raise _UnknownError(f"partial_rotary_factor = {share:g} is not known of this family")
    width = int(dim * share) if 0 < share <= 1 and 0 < dim < LARGEST else 0
    if width < 2 or width % 2 or theta <= 1:
        raise _UnknownError(f"positions cannot turn {width} channels of a head of {dim} with theta = {theta:g}")
    kind = numbers.given.get("rope_type", numbers.given.get("type", "default"))
    if not isinstance(kind, str) or kind not in KINDS:
        raise _UnknownError(f"positions of the kind {str(kind)[:40]!r} are not known")
    made = KINDS[kind](numbers, theta ** (torch.arange(0, width, 2).float() / width))
    if not bool(made.angles.isfinite().all()) or not math.isfinite(made.factor):
        raise _UnknownError(f"positions of the kind {kind!r} have settings that make no finite angles")
    return made if kind == "default" else made._replace(sharper=_sharper(numbers))


def _settings(config: dict[str, Any], base: float, of: str | None) -> "_Numbers":
    """The part of config.json that is about positions, and what lies beside it."""
    given: Any = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if isinstance(given, dict) and of is not None and of in given:
        given = given[of]
    if not isinstance(given, dict):
        raise _UnknownError("the settings of the positions in config.json are not an object")
    strange = sorted(str(key)[:40] for key in given if key not in KNOWN)
    if strange:
        raise _UnknownError(f"the positions have a setting that is not known: {strange[0]!r}")
    beside = {key: config.get(key) for key in ("rope_theta", "partial_rotary_factor", "max_position_embeddings")}
    beside["rope_theta"] = base if beside["rope_theta"] is None else beside["rope_theta"]
    inside = {key: value for key, value in given.items() if value is not None or key == "factor"}
    original = config.get("original_max_position_embeddings")  # where both are there, transformers takes this one
    return _Numbers(beside | inside | ({} if original is None else {"original_max_position_embeddings": original}))


class _Numbers:
    """Settings that must be numbers."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.given = given

    def get(self, key: str, default: float | None = None) -> float:
        value = self.given.get(key)
        value = default if value is None else value
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30:
            return float(value)
        raise _UnknownError(f"the positions need {key}, a number, and config.json says {str(value)[:40]}")

    def positive(self, key: str, default: float | None = None) -> float:
        """A number above 0."""
        value = self.get(key, default)
        if value <= 0:
            raise _UnknownError(f"the positions need {key} above 0, and config.json says {value:g}")
        return value

    def original(self) -> float:
        """Positions before the context was made longer."""
        known = self.given.get("original_max_position_embeddings") is not None
        return self.positive("original_max_position_embeddings" if known else "max_position_embeddings")

    def flag(self, key: str) -> bool:
        """True where it is not said."""
        return self.given.get(key, True) is not False


def _default(_: _Numbers, radius: Tensor) -> Rotation:
    return Rotation(1.0 / radius)


def _linear(numbers: _Numbers, radius: Tensor) -> Rotation:
    return Rotation(1.0 / radius / numbers.positive("factor"))


def _dynamic(numbers: _Numbers, radius: Tensor) -> Rotation:
    """As if nothing were scaled, until a sequence is longer than any was in training."""
    numbers.positive("factor")
    return Rotation(1.0 / radius, longest=int(numbers.positive("max_position_embeddings")))


def _llama3(numbers: _Numbers, radius: Tensor) -> Rotation:
    """Slow pairs turn `factor` times more slowly, fast ones as before, those between somewhat."""
    angles = 1.0 / radius
    factor, original = numbers.positive("factor"), numbers.original()
    low, high = numbers.positive("low_freq_factor"), numbers.positive("high_freq_factor")
    if low == high:
        raise _UnknownError(f"low_freq_factor and high_freq_factor are both {low:g}")
    period = 2 * math.pi / angles
    share = (original / period - low) / (high - low)
    between = (1 - share) * angles / factor + share * angles
    slow, fast = period > original / low, period < original / high
    return Rotation(torch.where(slow, angles / factor, torch.where(fast, angles, between)))


def _yarn(numbers: _Numbers, radius: Tensor) -> Rotation:
    """arXiv:2309.00071: pairs that turn often within the original length stay, those that turn less than once slow down."""
    original, factor = numbers.original(), _times_longer(numbers)
    width, theta = 2 * len(radius), numbers.get("rope_theta")

    def pair(turns: float) -> float:
        """The number of the pair that turns so many times, not a whole number."""
        return width * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = pair(numbers.positive("beta_fast", 32.0)), pair(numbers.positive("beta_slow", 1.0))
    if numbers.flag("truncate"):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    high = high + 0.001 if low == high else high
    stay = 1 - ((torch.arange(width // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    return Rotation(1.0 / (factor * radius) * (1 - stay) + 1.0 / radius * stay, _yarn_factor(numbers, factor))


def _times_longer(numbers: _Numbers) -> float:
    if "factor" in numbers.given and numbers.given["factor"] is None:
        return numbers.positive("max_position_embeddings") / numbers.original()
    return numbers.positive("factor")


def _yarn_factor(numbers: _Numbers, factor: float) -> float:
    if numbers.given.get("attention_factor") is not None:
        return numbers.get("attention_factor")
    one, all_dim = numbers.get("mscale", 0.0), numbers.get("mscale_all_dim", 0.0)
    return _mscale(factor, one) / _mscale(factor, all_dim) if one and all_dim else _mscale(factor, 1.0)


def _mscale(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def _sharper(numbers: _Numbers) -> float:
    all_dim = numbers.get("mscale_all_dim", 0.0)
    return _mscale(_times_longer(numbers), all_dim) ** 2 if all_dim else 1.0


# of the settings and of theta^(2i/d) (d/2), the positions that pair i takes for one radian
KINDS: dict[str, Callable[[_Numbers, Tensor], Rotation]] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
}
