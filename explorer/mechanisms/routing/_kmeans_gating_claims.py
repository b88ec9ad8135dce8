"""MixER at toy size: experts that model families of ODEs, a context vector for each system, a gate that reads contexts."""

from itertools import permutations

import torch
from torch import Tensor, nn

from explorer.mechanisms.routing.kmeans_gating import kmeans, least_squares

M, CONTEXT, WIDTH, PAIRS = (
    3,
    8,
    32,
    32,
)  # experts; size of a context; of a hidden layer; transitions shown of each system
OUTER, INNER, EVERY = 30, 12, 5  # rounds; steps for contexts and then for experts in each; context steps between fits


class Fields(nn.Module):
    """M vector fields y' = f_m(y, context), all equal at first: (V, P, 2) and (V, C) -> (M, V, P, 2)."""

    def __init__(self) -> None:
        super().__init__()
        sizes = ((2 + CONTEXT, WIDTH), (WIDTH, WIDTH), (WIDTH, 2))
        self.layers = nn.ParameterList(nn.Parameter((torch.randn(*s) * s[0] ** -0.5).repeat(M, 1, 1, 1)) for s in sizes)
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(M, 1, 1, s[1])) for s in sizes)

    def forward(self, y: Tensor, context_VC: Tensor) -> Tensor:
        h = torch.cat([y, context_VC[:, None].expand(*y.shape[:-1], CONTEXT)], dim=-1)
        for layer, bias in zip(self.layers, self.biases, strict=True):
            h = torch.tanh(h) @ layer + bias if h.shape[-1] == WIDTH else h @ layer + bias
        return h


def routing_accuracy(seed: int, gate: str) -> float:
    """Share of the systems whose expert is that of their family, under the best naming of the experts."""
    from explorer.tasks.ode_families import OdeFamilies

    torch.manual_seed(seed)
    data = OdeFamilies().build(seed)
    state_VSP = data.courses[:, :, 1:-1].flatten(1, 2)
    slope_VSP = (data.courses[:, :, 2:] - data.courses[:, :, :-2]).div(2 * data.step).flatten(1, 2)
    return _trained(state_VSP, slope_VSP, data.family, gate)


def _trained(state_VSP: Tensor, slope_VSP: Tensor, family_V: Tensor, gate: str) -> float:
    V = len(family_V)
    fields, context_VC = Fields(), torch.zeros(V, CONTEXT, requires_grad=True)
    weight_MC, bias_M = (0.1 * torch.randn(M, CONTEXT)).requires_grad_(), torch.zeros(M, requires_grad=True)
    centres = 1e-3 * (2 * torch.rand(M, CONTEXT) - 1)
    trained_with_context = [context_VC, weight_MC, bias_M] if gate == "gradient" else [context_VC]
    of_contexts, of_fields = (
        torch.optim.Adam(trained_with_context, lr=1e-2),
        torch.optim.Adam(fields.parameters(), lr=3e-3),
    )
    scale = slope_VSP.var()

    def losses() -> Tensor:
        """(V, M): of each system under each expert, on fresh transitions."""
        some = torch.randint(state_VSP.shape[1], (PAIRS,))
        error = fields(state_VSP[:, some], context_VC) - slope_VSP[:, some]
        return error.square().mean((2, 3)).T / scale

    def chosen() -> Tensor:
        return nn.functional.linear(context_VC, weight_MC, bias_M)

    for step in range(OUTER * 2 * INNER):
        for_context = step // INNER % 2 == 0
        loss_VM, logits_VM = losses(), chosen()
        if gate == "gradient":
            share_VM = logits_VM.softmax(-1)
            mean_M = share_VM.mean(0)
            loss = (share_VM * loss_VM).sum(1).mean() + 0.01 * mean_M.var(correction=0) / mean_M.mean() ** 2
        else:
            loss = loss_VM.gather(1, logits_VM.argmax(-1, keepdim=True)).mean()
        of_contexts.zero_grad()
        of_fields.zero_grad()
        loss.backward()
        (of_contexts if for_context else of_fields).step()
        if gate == "least squares" and for_context and step % INNER % EVERY == 0:
            with torch.no_grad():
                centres, cluster_V, settled = kmeans(context_VC, centres, 20, 1e-4)
                if settled:
                    expert_V = greedy(loss_VM, cluster_V)[cluster_V]
                    fitted = least_squares(context_VC, expert_V, M)
                    weight_MC.copy_(fitted[0])
                    bias_M.copy_(fitted[1])
    with torch.no_grad():
        expert_V = chosen().argmax(-1)
    return max((torch.tensor(naming)[expert_V] == family_V).float().mean().item() for naming in permutations(range(M)))


def greedy(loss_VM: Tensor, cluster_V: Tensor) -> Tensor:
    """(M,) the expert of each cluster, in their order: of those still free, the one with the least median loss on it."""
    free, expert_of = list(range(M)), []
    for cluster in range(M):
        median_M = loss_VM[cluster_V == cluster].median(0).values
        expert_of.append(min(free, key=lambda expert: float(median_M[expert])))
        free.remove(expert_of[-1])
    return torch.tensor(expert_of)
