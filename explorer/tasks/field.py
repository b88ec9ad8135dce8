"""Field: a picture on the plane, smooth on one side and finely grained on the other, to be known at every point.

    (u, v) in [-1, 1]^2  ->  two channels;   u < 0: broad waves,   u >= 0: the same waves and a fine grain of random signs

Every point of the plane has one right answer, so what a gate does to the plane can be drawn, and the two sides ask for
different experts: coarse ones that cannot be distracted by noise, and fine ones that can follow.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from explorer.tasks.data import Batch, Stream, real, settle, whole

HELD_OUT_SIDE = 64  # the held-out points are a grid of 64 x 64, so that they can be shown as a picture


@dataclass(frozen=True)
class Field:
    """A picture of two channels whose right half has a grain of `grain` cells from edge to edge of the plane."""

    grain: int = 48
    """Cells of the fine pattern along each side of the plane."""
    contrast: float = 1.0
    """Standard deviation of the grain; the broad waves have 1."""
    noise: float = 0.0
    """Standard deviation of what is added to the picture in training, never to the held-out points."""

    def __post_init__(self) -> None:
        settle(
            self,
            grain=whole("grain", self.grain, 2, 512),
            contrast=real("contrast", self.contrast, 0, 100),
            noise=real("noise", self.noise, 0, 100),
        )

    def build(self, seed: int) -> "FieldData":
        return FieldData(self, seed)


class FieldData:
    """The picture of one seed; `at` tells it at any point."""

    kind, width = "vectors", 2
    label_names = ["smooth", "grained"]

    def __init__(self, config: Field, seed: int) -> None:
        self.config, self.seed = config, seed
        world = Stream(seed, "field/world").at(0)
        self.waves = torch.randn(6, 2, generator=world) * 2.5  # radians a unit: about one period from edge to edge
        self.phases = 2 * math.pi * torch.rand(6, 2, generator=world)
        self.knots = torch.randn(config.grain + 1, config.grain + 1, 2, generator=world)
        self._stream = Stream(seed, "field/train")
        side = (torch.arange(HELD_OUT_SIDE) + 0.5) / HELD_OUT_SIDE * 2 - 1
        rows, columns = torch.meshgrid(-side, side, indexing="ij")  # the first row is the top
        self._held_out = self._batch(torch.stack([columns, rows], -1).reshape(-1, 2))
        self.variance = float(self._held_out.targets.var(0, correction=0).mean())

    def at(self, points_B2: Tensor) -> Tensor:
        """(B, 2): both channels at points of [-1, 1]^2; beyond its edges the picture goes on as its edge is."""
        angle_BW = points_B2 @ self.waves.T
        y_B2 = torch.stack([(angle_BW + self.phases[:, c]).sin().mean(-1) for c in range(2)], -1) * math.sqrt(12)
        return y_B2 + (points_B2[:, :1] >= 0) * self.config.contrast * self._grain(points_B2)

    def _grain(self, points_B2: Tensor) -> Tensor:
        """Random heights at the corners of the cells, bilinear between; scaled to a standard deviation of 1."""
        place_B2 = ((points_B2 + 1) / 2).clamp(0, 1) * self.config.grain
        cell_B2 = place_B2.floor().clamp(max=self.config.grain - 1)
        (right, up), (u, v) = (place_B2 - cell_B2).T[..., None], cell_B2.long().T
        low = torch.lerp(self.knots[u, v], self.knots[u + 1, v], right)
        high = torch.lerp(self.knots[u, v + 1], self.knots[u + 1, v + 1], right)
        return torch.lerp(low, high, up) * 1.5  # the mean square of a bilinear patch is 4/9 of its corners'

    def batch(self, step: int, size: int) -> Batch:
        """`size` fresh points, all places alike."""
        generator = self._stream.at(whole("step", step, 0))
        batch = self._batch(torch.rand(whole("size", size, 1), 2, generator=generator) * 2 - 1)
        return batch._replace(
            targets=batch.targets + self.config.noise * torch.randn(batch.targets.shape, generator=generator)
        )

    def held_out(self) -> Batch:
        """The middles of 64 x 64 pixels, row by row from the top."""
        return self._held_out

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """MSE / Var(y) over the plane: 0 = the picture, 1 = no better than its mean. Half the loss is 3 decibels of PSNR."""
        return (outputs - batch.targets).square().mean() / self.variance

    def bounds(self) -> tuple[float, float, float, float]:
        """(x_low, x_high, y_low, y_high) of the picture."""
        return -1.0, 1.0, -1.0, 1.0

    def describe(self) -> dict[str, Any]:
        return {
            "task": "field", "kind": self.kind, "installation_dependent": False, "seed": self.seed,
            **asdict(self.config), "held_out_points": HELD_OUT_SIDE**2, "variance": self.variance,
        }  # fmt: skip

    def _batch(self, points_B2: Tensor) -> Batch:
        points_B2 = points_B2.contiguous()
        return Batch(points_B2, self.at(points_B2), (points_B2[:, 0] >= 0).long())
