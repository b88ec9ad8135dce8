"""Text coloured by the expert that took each token, layer by layer; a tooltip tells the k experts, weights and margin."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import traitlets

from explorer.errors import BadValue
from widgets.figures.text import clean, visible
from widgets.views.framed import Framed, as_bytes, inks, script, styles

if TYPE_CHECKING:
    import pandas as pd

UNKNOWN = 65535  # a margin that does not exist (one expert, or not a number)


class TokenStrip(Framed):
    """strip.show(tokens, experts_LBTK, weights_LBTK, margins_LBT, ...) as often as you like, best when `strip.ready`.

    frame = {"number", "shape": [L, B, T, K], "experts": bytes of "dtype" (int8, or int16 beyond 127 experts), -1 = empty
    slot, "weights" and "margins": uint16 bytes in units of "weight_unit" and "margin_unit"}: 16 KB for four layers of
    eight sequences of 64 tokens, where int16 and float32 would make 32.
    The texts travel apart, and only when they change.
    """

    _esm = script("save", "token_strip")
    _css = styles("token_strip", "save")
    pictured = ("tokens", "names", "sequence_names", "n_experts", "layer", "numbers", "selected")
    inks = traitlets.Dict(inks()).tag(sync=True)
    tokens = traitlets.List(traitlets.List(traitlets.Unicode()), help="sequences x T, made visible").tag(sync=True)
    names = traitlets.List(traitlets.Unicode(), help="layer names").tag(sync=True)
    sequence_names = traitlets.List(traitlets.Unicode(), help="a sequence's domain").tag(sync=True)
    n_experts = traitlets.Int(0, min=0).tag(sync=True)
    layer = traitlets.Int(-1, min=-1, help="the layer shown; -1: all, stacked").tag(sync=True)
    numbers = traitlets.Bool(False, help="whether each token carries its expert's number").tag(sync=True)
    selected = traitlets.Dict({}, help="layer, sequence, position of the token last chosen; {}: none").tag(sync=True)

    def __init__(self, label: str = "Tokens coloured by expert", **traits: Any) -> None:
        self._given: list[list[str]] = []  # the texts as they came, to see whether they changed
        traits.setdefault("saves", ["csv", "parquet"])
        super().__init__(label=label, **traits)

    def show(
        self,
        tokens: Sequence[Sequence[str]],
        experts_LBTK: Any,
        weights_LBTK: Any,
        margins_LBT: Any = None,
        names: Sequence[str] | None = None,
        sequence_names: Sequence[str] | None = None,
        n_experts: int | None = None,
    ) -> None:
        """tokens: B sequences of T texts; experts: -1 = empty slot; weights: of each slot; margins: of each token.

        The first slot with an expert colours the token, so slots should come strongest first; a token without any is
        shown as dropped.  names: layers, sequence_names: of the B sequences; left out, they stay as they are.
        """
        experts = _array(experts_LBTK)
        shape = list(experts.shape)
        self._check(tokens, shape, _array(weights_LBTK).shape)
        self._set_texts(tokens, names, sequence_names, shape[0])
        n = n_experts if n_experts is not None else max(self.n_experts, int(experts.max(initial=-1)) + 1)
        if n != self.n_experts:
            self.n_experts = n
        margins = np.full(shape[:3], np.nan) if margins_LBT is None else _array(margins_LBT)
        weight_unit, weights = quantised(_array(weights_LBTK))
        margin_unit, margins = quantised(margins)
        dtype = "int8" if experts.max(initial=0) < 128 else "int16"
        self.offer(
            shape=shape,
            dtype=dtype,
            experts=as_bytes(experts, dtype),
            weights=as_bytes(weights, "uint16"),
            weight_unit=weight_unit,
            margins=as_bytes(margins, "uint16"),
            margin_unit=margin_unit,
        )

    def table(self) -> "pd.DataFrame":
        """One row a token, layer and slot; see widgets/export/tables.py."""
        from widgets.export.tables import routed_tokens

        return routed_tokens(*self.decisions(), self.tokens, self.names, self.sequence_names)

    def decisions(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(experts LBTK int, -1 = empty; weights LBTK; margins LBT, NaN = unknown) as the page shows them."""
        frame: dict[str, Any] = self.frame
        shape = frame.get("shape", [0, 0, 0, 0])
        read = {key: np.frombuffer(frame.get(key, b""), "uint16").astype(float) for key in ("weights", "margins")}
        experts = np.frombuffer(frame.get("experts", b""), frame.get("dtype", "int8")).reshape(shape).astype(int)
        weights = (read["weights"] * frame.get("weight_unit", 1.0)).reshape(shape)
        known = np.where(read["margins"] == UNKNOWN, np.nan, read["margins"] * frame.get("margin_unit", 1.0))
        return experts, weights, known.reshape(shape[:3])

    def _check(self, tokens: Sequence[Sequence[str]], shape: list[int], weights: tuple[int, ...]) -> None:
        if len(shape) != 4 or tuple(shape) != tuple(weights):
            raise BadValue(
                f"experts {tuple(shape)} and weights {tuple(weights)} should both be layers x sequences x T x k"
            )
        texts = [len(tokens), *{len(sequence) for sequence in tokens}]
        if texts != shape[1:3]:
            raise BadValue(f"tokens of shape {texts} do not fit experts of {shape[1]} sequences x {shape[2]} positions")

    def _set_texts(
        self, tokens: Sequence[Sequence[str]], names: Sequence[str] | None, sequences: Sequence[str] | None, layers: int
    ) -> None:
        """Assign what changed, and nothing else: the page rebuilds its rows for a text, not for a frame."""
        if (given := [list(sequence) for sequence in tokens]) != self._given:
            self._given = given
            self.tokens = [[visible(token) for token in sequence] for sequence in given]
        wanted = {"names": names, "sequence_names": sequences}
        if names is None and len(self.names) != layers:
            wanted["names"] = [f"layer {i}" for i in range(layers)]
        for trait, values in wanted.items():
            if values is not None and (cleaned := [clean(value) for value in values]) != getattr(self, trait):
                setattr(self, trait, cleaned)

    @traitlets.validate("selected")
    def _known_place(self, proposal: Any) -> dict[str, int]:
        """The page writes this trait: keep three whole numbers and nothing else."""
        value = proposal["value"]
        keys = ("layer", "sequence", "position")
        right = isinstance(value, dict) and all(isinstance(value.get(key), int) for key in keys)
        return {key: value[key] for key in keys} if right else {}


def quantised(values: np.ndarray) -> tuple[float, np.ndarray]:
    """(unit, whole numbers 0..65534) with values = unit * number to within half a unit; UNKNOWN for NaN and infinity.

    Negative values become 0: weights and margins have none.
    """
    values = values.astype(np.float32)
    known = np.isfinite(values)
    top = float(values.max(initial=0.0, where=known))
    unit = max(top, 1e-6) / (UNKNOWN - 1)
    numbers = np.rint(np.where(known, values, 0).clip(0) / unit)
    return unit, np.where(known, numbers, UNKNOWN).astype(np.uint16)


def _array(values: Any) -> np.ndarray:
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
