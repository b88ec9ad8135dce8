"""How large a model is and how much of it works for a token."""

from dataclasses import dataclass

from torch import nn

from explorer.models import Experts, LanguageModel, MixtureOfExperts


@dataclass(frozen=True)
class Count:
    """parameters: all of them; active: those a token's forward pass uses; flops: of that pass, a token, forward only."""

    parameters: int
    active: float
    flops: float


def count(model: nn.Module, T: int) -> Count:
    """Two FLOPs a multiply-add, matrix products only; T is the sequence length that attention scores are averaged over.

    A module with products outside nn.Linear says so itself, by a method flops(T), and one with experts of its own how many
    of its parameters a token does not meet, by a method idle().
    """
    parameters = sum(p.numel() for p in model.parameters())
    idle = flops = 0.0
    for module in model.modules():
        if isinstance(module, nn.Linear):
            flops += 2 * module.weight.numel()
        elif isinstance(module, MixtureOfExperts):
            E, slots = len(module.experts.up), float(getattr(module.router, "slots"))  # noqa: B009
            flops += module.experts.flops() * slots
            idle += sum(p.numel() for p in module.experts.parameters()) * max(0.0, 1 - slots / E)
        elif isinstance(module, LanguageModel):
            flops += 0 if module.head is not None else 2 * module.embed.weight.numel()
            idle += module.embed.weight.numel() if module.head is not None else 0  # a look-up reads one row
        elif not isinstance(module, Experts) and hasattr(module, "flops"):
            flops += float(module.flops(T))  # type: ignore[operator]
        if hasattr(module, "idle"):  # a layer with experts of its own
            idle += float(module.idle())  # type: ignore[operator]
    return Count(parameters, parameters - idle, flops)
