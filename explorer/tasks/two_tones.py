"""Two tones: pull two sounds apart, when only the beginning of the row says which is which.

Each row is a sound cut into frames. For the first `cue` frames a lamp is on and the first tone sounds alone; then both
sound together, each with a loudness of its own that swells and fades. Asked for are both, in the order of the announcement.
Inside the mixture nothing tells the first tone from the second: whoever cannot hear the beginning can do no better than
guess. A small version of what speech separation by MossFormer does (arXiv:2302.11824), with the order fixed by a cue.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from explorer.errors import BadValue
from explorer.tasks.data import Batch, Stream, settle, whole

HELD_OUT_ROWS = 128
TINY = 1e-8  # of the power of a tone, which is about 1 a sample: no logarithm of zero


@dataclass(frozen=True)
class TwoTones:
    """Rows of `length` frames of `width` samples, two of `tones` bands sounding in each, the first `cue` frames alone."""

    length: int = 32
    width: int = 8
    tones: int = 3
    cue: int = 4

    def __post_init__(self) -> None:
        settle(
            self,
            length=whole("length", self.length, 2, 4096),
            width=whole("width", self.width, 4, 256),
            tones=whole("tones", self.tones, 2, 64),
            cue=whole("cue", self.cue, 1, 4095),
        )
        if self.cue >= self.length:
            raise BadValue(f"cue must be less than the length of {self.length} frames, not {self.cue}")
        if 2 * (self.tones + 1) > self.width:
            raise BadValue(f"tones must be at most {self.width // 2 - 1} for frames of {self.width}, not {self.tones}")

    def build(self, seed: int) -> "TwoTonesData":
        return TwoTonesData(self, seed)


class TwoTonesData:
    """Mixtures of one seed. A frame's inputs: its samples and the lamp. Outputs: the first tone's samples, the second's."""

    kind, pooled, unit = "sequences", False, "dB"
    label_names = ["announcement", "both"]

    def __init__(self, config: TwoTones, seed: int) -> None:
        self.config, self.seed, self.length = config, seed, config.length
        self.width = config.width + 1  # and the lamp
        self.outputs = 2 * config.width
        self._stream = Stream(seed, "two-tones/train")
        self._held_out = self._draw(HELD_OUT_ROWS, Stream(seed, "two-tones/held-out").at(0))

    def batch(self, step: int, size: int) -> Batch:
        """`size` fresh rows."""
        return self._draw(whole("size", size, 1), self._stream.at(whole("step", step, 0)))

    def held_out(self) -> Batch:
        """128 fixed rows."""
        return self._held_out

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Minus the scale-invariant signal-to-distortion ratio in decibels, mean over both tones and the rows.

        The mixture itself scores 0. Frames of the announcement do not count.
        """
        guess, right = (
            one[:, self.config.cue :].unflatten(-1, (2, self.config.width)) for one in (outputs, batch.targets)
        )
        return -si_sdr(guess.transpose(1, 2).flatten(2), right.transpose(1, 2).flatten(2)).mean()

    def describe(self) -> dict[str, Any]:
        return {
            "task": "two-tones", "kind": self.kind, "installation_dependent": False, "seed": self.seed,
            **asdict(self.config), "held_out_rows": HELD_OUT_ROWS,
            "mixture_loss": float(self.loss(self._held_out.inputs[..., :-1].repeat(1, 1, 2), self._held_out)),
        }  # fmt: skip

    def _draw(self, size: int, generator: torch.Generator) -> Batch:
        T, W, config = self.length, self.config.width, self.config
        band_B2 = torch.rand(size, config.tones, generator=generator).argsort(-1)[:, :2]
        cycles_B2 = (
            1 + band_B2
        ) / W  # a sample: whole periods a frame, so that tones of two bands are orthogonal in each
        phase_B2 = torch.rand(size, 2, generator=generator)
        turns_B2N = cycles_B2[..., None] * torch.arange(T * W) + phase_B2[..., None]
        wave_B2TW = math.sqrt(2) * (2 * math.pi * turns_B2N).sin().unflatten(-1, (T, W))
        swell_B2 = torch.rand(size, 2, 2, generator=generator)  # how often along the row, and from where
        angle_B2T = 2 * math.pi * ((1 + 3 * swell_B2[..., :1]) * torch.arange(T) / T + swell_B2[..., 1:])
        sound_B2TW = wave_B2TW * (1 + 0.5 * angle_B2T.sin())[..., None]
        sound_B2TW[:, 1, : config.cue] = 0
        targets_BTO = sound_B2TW.transpose(1, 2).flatten(2).contiguous()
        labels_BT = (torch.arange(T) >= config.cue).long().expand(size, T).contiguous()
        lamp_BT1 = 1.0 - labels_BT[..., None]
        return Batch(torch.cat([sound_B2TW.sum(1), lamp_BT1], -1), targets_BTO, labels_BT)


def si_sdr(guess: Tensor, right: Tensor) -> Tensor:
    """(...): 10 log10 |a s|^2 / |a s - g|^2 in dB over the last axis, with a s the part of the guess g along the right s.

    Infinite for a perfect guess, 0 where as much is wrong as right; blind to the loudness of the guess. arXiv:1811.02508.
    """
    along = (guess * right).sum(-1, keepdim=True) / (right.square().sum(-1, keepdim=True) + TINY) * right
    wrong = (along - guess).square().sum(-1)
    return 10 * ((along.square().sum(-1) + TINY) / (wrong + TINY)).log10()
