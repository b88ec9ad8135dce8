"""Clusters: each Gaussian cluster has its own linear map, so the ideal gate gives each cluster its own linear expert.

    x = mean_c + noise * N(0, I),   y = A_c x,   and x is shown with one offset, common * N(0, I), added to all points.

The offset changes no target and no distance, yet decides what a router without balancing does: with `common=0` it finds
the clusters; with `common=3` all x point the same way, the same few experts win everywhere and the others die.
In two dimensions the gate's decision map can be drawn.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from explorer.errors import BadValue
from explorer.tasks.data import Batch, Stream, real, settle, whole

HELD_OUT_POINTS = 2048


@dataclass(frozen=True)
class Clusters:
    """`clusters` Gaussian clusters in `dimensions` dimensions, each with its own random linear map (D to D)."""

    dimensions: int = 16
    clusters: int = 8
    noise: float = 0.5
    """Standard deviation inside a cluster; the means are about sqrt(2 * dimensions) apart (in 2-D: neighbours 2.3)."""
    common: float = 0.0
    """Scale of the offset shared by all inputs."""

    def __post_init__(self) -> None:
        settle(
            self,
            dimensions=whole("dimensions", self.dimensions, 1, 256),
            clusters=whole("clusters", self.clusters, 1, 256),
            noise=real("noise", self.noise, 0, 1000),
            common=real("common", self.common, 0, 1000),
        )
        if self.noise == 0 and self.clusters == 1:
            raise BadValue("one cluster without noise is a single point: set noise above 0 or clusters above 1")

    def build(self, seed: int) -> "ClustersData":
        return ClustersData(self, seed)


class ClustersData:
    """The clusters of one seed; means (C,D), maps (C,D,D) and offset (D) may be read, and drawn."""

    kind = "vectors"

    def __init__(self, config: Clusters, seed: int) -> None:
        self.config, self.seed, self.width = config, seed, config.dimensions
        self.label_names = [f"cluster {c}" for c in range(config.clusters)]
        C, D = config.clusters, config.dimensions
        world = Stream(seed, "clusters/world").at(0)
        self.means = _means(C, D, world)
        self.maps = torch.randn(C, D, D, generator=world) / math.sqrt(D)
        self.offset = config.common * torch.randn(D, generator=world)
        self._stream = Stream(seed, "clusters/train")
        # equal counts: a router that finds the clusters then has a MaxVio of exactly 0 on held-out points
        labels = torch.arange(HELD_OUT_POINTS) % C
        self._held_out = self._draw(labels, Stream(seed, "clusters/held-out").at(0))
        self.variance = float(self._held_out.targets.var(0, correction=0).mean())

    def batch(self, step: int, size: int) -> Batch:
        """`size` fresh points; the clusters are equally likely."""
        generator = self._stream.at(whole("step", step, 0))
        labels = torch.randint(self.config.clusters, (whole("size", size, 1),), generator=generator)
        return self._draw(labels, generator)

    def held_out(self) -> Batch:
        """2048 fixed points, as many of each cluster (to one)."""
        return self._held_out

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """MSE / Var(y): 0 = every map found, 1 = no better than the mean of y.

        Var(y) is that of the held-out points in every case, so that a small batch does not change the scale.
        """
        return (outputs - batch.targets).square().mean() / self.variance

    def bounds(self) -> tuple[float, float, float, float]:
        """(x_low, x_high, y_low, y_high) around the held-out points with a margin of 5 %; for two dimensions."""
        if self.width != 2:
            raise BadValue(f"bounds() is for clusters in 2 dimensions, these have {self.width}")
        low, high = self._held_out.inputs.amin(0), self._held_out.inputs.amax(0)
        margin = 0.05 * (high - low).clamp(min=1e-3)
        (x_low, y_low), (x_high, y_high) = (low - margin).tolist(), (high + margin).tolist()
        return x_low, x_high, y_low, y_high

    def describe(self) -> dict[str, Any]:
        return {
            "task": "clusters", "kind": self.kind, "installation_dependent": False, "seed": self.seed,
            **asdict(self.config), "held_out_points": HELD_OUT_POINTS, "variance": self.variance,
        }  # fmt: skip

    def _draw(self, labels_B: Tensor, generator: torch.Generator) -> Batch:
        means_BD = self.means[labels_B]
        x_BD = means_BD + self.config.noise * torch.randn(means_BD.shape, generator=generator)
        y_BD = torch.bmm(self.maps[labels_B], x_BD.unsqueeze(-1)).squeeze(-1)
        return Batch(x_BD + self.offset, y_BD, labels_B)


def _means(C: int, D: int, generator: torch.Generator) -> Tensor:
    """N(0, I); in 2-D a ring, turned at random.

    Eight normal means in the plane overlap so much that no gate could tell the clusters apart. On a ring each cluster
    owns one sector, which a linear router can cut out exactly; the radius grows with C and keeps neighbours 2.3 apart.
    """
    if D != 2:
        return torch.randn(C, D, generator=generator)
    radius = 3.0 * max(1.0, C / 8)
    angle_C = 2 * math.pi * (torch.arange(C) / C + torch.rand(1, generator=generator))
    return radius * torch.stack([angle_C.cos(), angle_C.sin()], dim=1)
