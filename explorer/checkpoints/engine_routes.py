"""What an engine recorded -> a Recording: choices token by token, or counts only."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from explorer.checkpoints.engine_files import MOST_EXPERTS, MOST_LAYERS, MOST_SLOTS
from explorer.errors import BadValue, RecordingError
from explorer.recording import Recording, Series

UINT8 = 255  # an id that was never filled in, where ids are bytes; also a real expert, of 256


class Routes:
    """Fills a Recording step by step. Layers are `layers.0`, `layers.1`, ... in the order of the file.

    experts: of a layer; None: the highest id that a layer chose plus one, known only at the end.
    """

    def __init__(self, path: Path, engine: str, version: str, experts: int | None, note: str = "") -> None:
        if experts is not None and (isinstance(experts, bool) or not isinstance(experts, int) or experts < 1):
            raise BadValue(f"experts={experts!r}: it must be a whole number of at least 1")
        if experts is not None and experts > MOST_EXPERTS:
            raise BadValue(f"experts={experts:,}: more than {MOST_EXPERTS:,}, the most that are read")
        self.path, self.experts = path, experts
        self.source: dict[str, Any] = {"engine": engine, "format": version, "file": path.name}
        if note:
            self.source["note"] = note
        self.steps: list[tuple[dict[str, Tensor], str]] = []
        self.dropped, self.bytes = {"padding": 0, "unrecorded": 0}, False

    def add(
        self, index_BTLK: Tensor, extra: dict[str, Tensor] | None = None, phase: str = "", byte: bool = False
    ) -> None:
        """One pass: ids (B, T, L, K), -1 where there is none; extra: "tokens" and "position" (B, T), -1 where unknown.

        byte: the ids were bytes, in which 255 may be padding.
        """
        _, _, L, K = index_BTLK.shape
        where = f"step {len(self.steps)} of {str(self.path)!r}"
        if index_BTLK.numel() == 0:
            raise RecordingError(f"{where} is empty: its ids have the shape {tuple(index_BTLK.shape)}")
        if L > MOST_LAYERS or K > MOST_SLOTS:
            raise RecordingError(
                f"{where} has {L:,} layers and {K:,} slots: more than any model (are the axes swapped?)"
            )
        if self.steps and self.steps[0][0]["index"].shape[2] != L:
            raise RecordingError(f"{where} has {L} layers, the steps before it {self.steps[0][0]['index'].shape[2]}")
        if int(index_BTLK.min()) < -1 or int(index_BTLK.max()) >= MOST_EXPERTS:
            raise RecordingError(
                f"{where} has an expert {int(index_BTLK.min())} .. {int(index_BTLK.max())}, which cannot be"
            )
        self.bytes = self.bytes or byte
        self.steps.append(({"index": index_BTLK, **(extra or {})}, phase))

    def recording(self) -> Recording:
        """All of it: choices blanked out that are none, layers without any left out."""
        if not self.steps:
            raise RecordingError(f"{str(self.path)!r} holds no recorded pass")
        self._drop_padding()
        for tensors, _ in self.steps:
            tensors["index"] = self._without_repeats(tensors["index"])
        highest = torch.stack([one["index"].amax((0, 1, 3)) for one, _ in self.steps]).amax(0)  # of each layer
        if self.experts is not None and int(highest.max()) >= self.experts:
            raise RecordingError(
                f"{str(self.path)!r} chooses expert {int(highest.max())}, but experts={self.experts}: ids begin at 0"
            )
        layers = [i for i, top in enumerate(highest.tolist()) if top >= 0]
        if not layers:
            raise RecordingError(f"{str(self.path)!r} holds no choice at all: every id in it is padding")
        E = self.experts or int(highest.max()) + 1
        self.source["experts"] = "given" if self.experts else "the highest id that was chosen, plus one"
        self.source |= {"dropped": self.dropped, "silent_layers": len(highest) - len(layers)}
        axes = {f"layers.{i}/index": "B T K" for i in layers} | {"/valid": "B T"}
        axes |= {f"/{name}": "B T" for one, _ in self.steps for name in one if name != "index"}
        made = Recording({"source": self.source, "axes": axes, "experts": {f"layers.{i}": E for i in layers}})
        phases = [phase for _, phase in self.steps]
        if any(phases):
            made.header["phases"] = phases  # of each step: prefill, decode, ...
        for step, (tensors, _) in enumerate(self.steps):
            made.add(step, _heard(tensors, layers), True)
        made.settle()
        return made

    def _drop_padding(self) -> None:
        """255 is padding where a token has it twice (k experts are k different ones), or where it cannot be an expert.

        It cannot where there are at most 255; ids that were bytes also tell by being far above all others.
        """
        found = [one["index"] for one, _ in self.steps]
        twice = False
        for index in found:
            for_sure = doubled(index)
            twice = twice or bool(for_sure.any())
            self._blank(index, for_sure)
        rest = max(int(index.masked_fill(index == UINT8, -1).max()) for index in found)
        guessed = twice or (self.bytes and rest < UINT8 // 2)
        if guessed if self.experts is None else self.experts <= UINT8:
            for index in found:
                self._blank(index, index == UINT8)

    def _blank(self, index: Tensor, where: Tensor) -> None:
        self.dropped["padding"] += int(where.sum())
        index[where] = -1

    def _without_repeats(self, index_BTLK: Tensor) -> Tensor:
        """A token that has one id in all its slots was not routed but left as it was filled: k experts are k different ones."""
        if index_BTLK.shape[-1] == 1:
            return index_BTLK
        same = (index_BTLK == index_BTLK[..., :1]).all(-1) & (index_BTLK[..., 0] >= 0)
        self.dropped["unrecorded"] += int(same.sum())
        return index_BTLK.masked_fill(same[..., None], -1) if bool(same.any()) else index_BTLK


def doubled(index: Tensor) -> Tensor:
    """Where an id is 255 and its token has that more than once: (..., K) -> (..., K)."""
    found = index == UINT8
    return found & (found.sum(-1, keepdim=True) > 1)


def _heard(tensors: dict[str, Tensor], layers: list[int]) -> list[tuple[str, str, Tensor]]:
    index_BTLK = tensors["index"]
    valid_BT = (index_BTLK >= 0).flatten(2).any(-1)
    heard = [("", name, value) for name, value in tensors.items() if name != "index"]
    return [
        *heard,
        ("", "valid", valid_BT),
        *((f"layers.{i}", "index", index_BTLK[:, :, i].contiguous()) for i in layers),
    ]


def counted(path: Path, engine: str, version: str, counts_SLE: Tensor, note: str = "") -> Recording:
    """A Recording of counts alone: (S, L, E), a step each; steps in which nothing was counted are left out."""
    what = f"{str(path)!r}"
    S, L, E = counts_SLE.shape
    if counts_SLE.numel() == 0:
        raise RecordingError(f"{what} counts nothing: its table has the shape {(S, L, E)}")
    if L > MOST_LAYERS or E > MOST_EXPERTS:
        raise RecordingError(f"{what} has {L:,} layers and {E:,} experts: more than any model (are the axes swapped?)")
    if int(counts_SLE.min()) < 0:
        raise RecordingError(f"{what} counts less than nothing ({int(counts_SLE.min())})")
    real = counts_SLE.flatten(1).any(1)
    layers = counts_SLE.any(0).any(-1).nonzero()[:, 0].tolist()
    if not layers:
        raise RecordingError(f"{what} counts nothing: every number in it is 0")
    source = {"engine": engine, "format": version, "file": path.name, "counts_only": True}
    source |= {"dropped": {"empty_steps": int((~real).sum())}, "silent_layers": L - len(layers)}
    made = Recording({"source": source | ({"note": note} if note else {})})
    made.header["experts"] = {f"layers.{i}": E for i in layers}
    counts_SLE = counts_SLE[real]
    steps = torch.arange(len(counts_SLE), dtype=torch.float64)[:, None]
    made.step = len(counts_SLE) - 1
    for i in layers:
        rows = torch.cat([steps, torch.zeros_like(steps), counts_SLE[:, i].double()], 1)
        made.series["loads"][f"layers.{i}"] = Series(E + 2, rows)
    return made
