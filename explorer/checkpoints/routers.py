"""The ear at one router of a transformers model."""

from typing import Any

import torch
from torch import Tensor, nn

from explorer.checkpoints.ear import Ear, Pass
from explorer.checkpoints.table import (
    Decision,
    Row,
    doge,
    gate_of,
    is_distribution,
    logits_of,
    probs_of,
    row_of,
    top_k,
    triple,
)

ALL = {"logits": "B T E", "probs": "B T E", "index": "B T K", "weights": "B T K"}
SHARED = ("shared_expert", "shared_experts", "shared_mlp", "share_expert")


class RouterEar(Ear):
    """Taps of a router as our own have them, known by the place it fills: `model.layers.0.mlp`.

    Padding has the index -1, the weight 0, the probabilities 0 and the logits NaN. A router that works on other tokens
    than the model's own (a part of an image, say) shows them as N rows. two: the model has an encoder and a decoder, so
    that each router says itself which of its tokens are real (`valid`).
    """

    missing = "its router was not called as a module (a kernel in its place, or a rewritten forward)"

    def __init__(self, path: str, router: nn.Module, now: Pass, row: Row, block: nn.Module, two: bool = False) -> None:
        super().__init__(path, router, now)
        self.row, self._block = row, (block,)
        taps = {tap: axes for tap, axes in ALL.items() if tap != "logits" or row.score != "given"}
        self.taps = taps | ({"valid": "B T"} if two else {})  # type: ignore[misc]
        self.scores = row.scores  # type: ignore[misc]
        self.n_experts = experts_of(router)
        self._waiting: Decision | None = None

    @property
    def block(self) -> nn.Module:
        """The layer of experts that the router belongs to."""
        return self._block[0]

    @property
    def experts(self) -> nn.Module | None:
        """The module that is given the final decision, where there is one."""
        experts = getattr(self.block, "experts", None)
        called = isinstance(experts, nn.Module) and not isinstance(experts, nn.ModuleList)
        return experts if called and self.row.read is triple else None

    def shared(self) -> list[str]:
        """The names of experts that every token gets besides."""
        return [name for name in SHARED if getattr(self.block, name, None) is not None]

    @torch.no_grad()
    def decided(self, _module: nn.Module, args: Any, output: Any) -> None:
        """Hook: the router has returned."""
        if not self.listened():
            return
        decision = self.row.read(self.block if self.row.read is top_k else self.module, output)
        scores_NE = decision.scores
        if scores_NE is None or (self.row.score == "softmax" and is_distribution(scores_NE)):
            decision = decision._replace(scores=logits_of(self.module, args[0]))
        self._waiting = decision
        if self.experts is None:
            self._show(decision)

    @torch.no_grad()
    def given(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Hook: the experts are about to be given the decision."""
        if self._waiting is None:
            return
        parts = [part for part in (*args[1:], *kwargs.values()) if isinstance(part, Tensor) and part.ndim == 2]
        index_NK = next((part for part in parts if not part.is_floating_point()), self._waiting.chosen)
        if index_NK is None:
            return
        weights_NK = next(
            (part for part in parts if part.is_floating_point() and part.shape == index_NK.shape),
            self._waiting.weights,
        )
        self._show(Decision(self._waiting.scores, weights_NK, index_NK))
        self._waiting = None

    def _show(self, decision: Decision) -> None:
        self.heard = True
        scores_NE, weights_NK, index_NK = (None if part is None else part.detach() for part in decision)
        if scores_NE is not None:
            if "logits" in self.taps:
                self._tap("logits", scores_NE, torch.nan)
            self._tap("probs", probs_of(self.row, self.module, scores_NE), 0)
        if weights_NK is not None:
            self._tap("weights", weights_NK, 0)
        if "valid" in self.taps and self.watched("valid"):
            self._tap_valid(len(weights_NK if weights_NK is not None else index_NK if index_NK is not None else ()))
        if index_NK is not None:  # with experts on several devices, those elsewhere have the number E
            self._tap("index", index_NK.long().masked_fill(index_NK >= self.n_experts, -1), -1)

    def _tap_valid(self, N: int) -> None:
        side = None if self.now.batch is None else self.now.batch.side(self.path)
        if side is not None and side.position.numel() == N:
            self.tap("valid", side.position >= 0 if side.valid is None else side.valid)

    def _tap(self, name: str, value_N: Tensor, padding: float) -> None:
        """Show one tensor by sequence and position, padding blanked out."""
        if not self.watched(name):
            return
        side = None if self.now.batch is None else self.now.batch.side(self.path)
        if side is not None and side.position.numel() == len(value_N):
            value_N = value_N.view(*side.position.shape, -1)
            if side.valid is not None:
                value_N = value_N.masked_fill(~side.valid[..., None].to(value_N.device), padding)
        self.tap(name, value_N)


def experts_of(router: Any) -> int:
    """How many experts a router chooses from (with those that do nothing)."""
    children = [child for child in router.modules() if isinstance(child, nn.Linear)]
    weight = getattr(router, "weight", None)
    if hasattr(router, "n_routed_experts") and isinstance(router.n_routed_experts, int):
        return int(router.n_routed_experts)
    if isinstance(getattr(router, "num_experts", None), int):
        return int(router.num_experts)
    return len(weight) if isinstance(weight, Tensor) else children[-1].out_features


def router_ears(model: nn.Module, now: Pass, two: bool = False) -> list[RouterEar]:
    """An ear at every router that the table knows; two: of a model with an encoder and a decoder."""
    modules, ears = dict(model.named_modules()), []
    for path, module in modules.items():
        row, gate = row_of(module), gate_of(module)
        if row is not None:
            place = path if row.read is doge else path.rpartition(".")[0]
            ears.append(RouterEar(place or path, module, now, row, modules[place], two))
        elif gate is not None:
            ears.append(RouterEar(path, gate, now, Row("softmax", top_k), module, two))
    return ears
