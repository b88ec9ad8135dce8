"""ODE families: short pieces of the course of three kinds of dynamical systems, each kind with several parameter values.

    prey and predator   u' = a u - b u v,            v' = d u v - c v
    damped oscillator   u' = v,                      v' = -w^2 u - 2 z w v
    Selkov's glycolysis u' = -u + a v + u^2 v,       v' = b - a v - u^2 v

A point is `window` successive states, and its target the `window` states that follow, so a gate has to recognise the law
of motion from the motion itself. Each family is scaled to mean 0 and variance 1: its size does not give it away.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from explorer.tasks.data import Batch, Stream, settle, whole

HELD_OUT_POINTS = 1536
COURSE = 120  # states of a course
Field = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def _lotka_volterra(u: Tensor, v: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """0 <= p <= 1 moves the rates at which prey is eaten, and predators grow of it."""
    eaten, grown = 0.5 + 0.5 * p, 0.5 + 0.5 * (1 - p)
    return 1.0 * u - eaten * u * v, grown * u * v - 1.0 * v


def _oscillator(u: Tensor, v: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """0 <= p <= 1 moves the frequency, from 1 to 2; damping 5 % of the critical one."""
    w = 1.0 + p
    return v, -w * w * u - 2 * 0.05 * w * v


def _selkov(u: Tensor, v: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """0 <= p <= 1 moves the influx, from 0.4 to 0.7 at a = 0.1: around its limit cycle."""
    a, b = 0.1, 0.4 + 0.3 * p
    return -u + a * v + u * u * v, b - a * v - u * u * v


FAMILIES: dict[str, tuple[Field, tuple[float, float], tuple[float, float]]] = {  # field; where u and v may begin
    "prey and predator": (_lotka_volterra, (0.8, 2.0), (0.8, 2.0)),
    "oscillator": (_oscillator, (-1.5, 1.5), (-1.5, 1.5)),
    "Selkov": (_selkov, (0.2, 1.2), (0.8, 2.0)),
}


@dataclass(frozen=True)
class OdeFamilies:
    """Three families of `environments` parameter values each; a point shows `window` states, 0.1 time units apart."""

    environments: int = 6
    window: int = 8
    courses: int = 8
    """Courses of an environment, from different beginnings; half as many more are held out."""

    def __post_init__(self) -> None:
        settle(
            self,
            environments=whole("environments", self.environments, 1, 64),
            window=whole("window", self.window, 1, COURSE // 4),
            courses=whole("courses", self.courses, 1, 256),
        )

    def build(self, seed: int) -> "OdeFamiliesData":
        return OdeFamiliesData(self, seed)


class OdeFamiliesData:
    """courses (V, R, S, 2): of every environment V its courses R of S states; family (V,): which law each one follows."""

    kind = "vectors"
    step = 0.1
    """Time between two states."""

    def __init__(self, config: OdeFamilies, seed: int) -> None:
        self.config, self.seed, self.width = config, seed, 2 * config.window
        self.label_names = list(FAMILIES)
        random = Stream(seed, "ode-families/world").at(0)
        self.family = torch.arange(len(FAMILIES)).repeat_interleave(config.environments)
        shown, hidden = config.courses, -(-config.courses // 2)
        courses = torch.cat([self._family(*one, shown + hidden, random) for one in FAMILIES.values()]).float()
        self.courses, self._hidden = courses[:, :shown], courses[:, shown:]
        self._stream = Stream(seed, "ode-families/train")
        generator = Stream(seed, "ode-families/held-out").at(0)
        self._held_out = self._draw(self._hidden, HELD_OUT_POINTS, generator)
        self.variance = float(self._held_out.targets.var(0, correction=0).mean())

    def batch(self, step: int, size: int) -> Batch:
        """`size` pieces of courses; the environments are equally likely."""
        return self._draw(self.courses, whole("size", size, 1), self._stream.at(whole("step", step, 0)))

    def held_out(self) -> Batch:
        """1536 fixed pieces of courses from beginnings that training never shows, of known environments."""
        return self._held_out

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """MSE / Var(y) with the variance of the held-out points: 1 = no better than the mean of y."""
        return (outputs - batch.targets).square().mean() / self.variance

    def describe(self) -> dict[str, Any]:
        return {
            "task": "ode-families", "kind": self.kind, "installation_dependent": False, "seed": self.seed,
            **asdict(self.config), "held_out_points": HELD_OUT_POINTS, "variance": self.variance,
        }  # fmt: skip

    def _family(
        self, field: Field, u: tuple[float, float], v: tuple[float, float], courses: int, random: torch.Generator
    ) -> Tensor:
        """(V, R, S, 2): scaled courses of one family."""
        V = self.config.environments
        p_V1 = (torch.arange(V, dtype=torch.float64)[:, None] + 0.5) / V
        begin = torch.rand(2, V, courses, generator=random, dtype=torch.float64)
        u_VR, v_VR = (low + (high - low) * one for (low, high), one in zip((u, v), begin, strict=True))
        found = solve(lambda y: torch.stack(field(y[0], y[1], p_V1)), torch.stack([u_VR, v_VR]), self.step, COURSE)
        course_VRSP = found.permute(2, 3, 0, 1)
        return (course_VRSP - course_VRSP.mean((0, 1, 2))) / course_VRSP.std((0, 1, 2))

    def _draw(self, courses: Tensor, size: int, generator: torch.Generator) -> Batch:
        V, R, S, _ = courses.shape
        W = self.config.window
        environment, course, begin = (torch.randint(n, (size,), generator=generator) for n in (V, R, S - 2 * W + 1))
        states = courses[environment[:, None], course[:, None], begin[:, None] + torch.arange(2 * W)]  # N 2W 2
        past, future = (part.flatten(1).contiguous() for part in (states[:, :W], states[:, W:]))
        return Batch(past, future, self.family[environment])


def solve(field: Callable[[Tensor], Tensor], begin: Tensor, step: float, states: int, inner: int = 2) -> Tensor:
    """(states, ...): the course of y' = field(y) from `begin` (which is its first state), by Runge-Kutta's fourth order."""
    course, y, h = [begin], begin, step / inner
    for _ in range(states - 1):
        for _ in range(inner):
            k1 = field(y)
            k2 = field(y + h / 2 * k1)
            k3 = field(y + h / 2 * k2)
            k4 = field(y + h * k3)
            y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        course.append(y)
    return torch.stack(course)
