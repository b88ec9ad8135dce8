"""The experiments behind the claims of moe_plus_plus.py that need more than a reading."""

import torch

from explorer.catalogue import build
from explorer.taps import Instrumented, Listener, attach


def working_experts(seed: int) -> tuple[float, float]:
    """Working experts a token of held-out text after 300 steps, mean over the layers: with tau 0.25 and with tau 1."""
    from explorer.experiment import Experiment

    counts = []
    for tau in (0.25, 1.0):
        run = Experiment("moe-plus-plus", seed=seed, watch=None, horizon=300, tau=tau).run(300)
        seen = run.examine(watch="*/index")[1]
        works = [(seen.last(f"{layer}/index") < 8).float().sum(-1).mean() for layer in seen.layers()]
        counts.append(torch.stack(works).mean().item())
    return counts[0], counts[1]


def easy_and_hard(seed: int) -> tuple[float, float]:
    """Working experts a point after 600 steps on eight kinds: y = 0 (two), y = x (two), y = tanh of a map (four)."""
    random = torch.Generator().manual_seed(seed)
    D, C = 16, 8
    means_CD, map_CDD = torch.randn(C, D, generator=random), torch.randn(C, D, D, generator=random) / D**0.5
    layer = build("moe-plus-plus", d_model=D, width=32, tau=0.25, aux_loss=0.1)  # 8 of 12 work
    assert isinstance(layer, Instrumented)
    adam = torch.optim.Adam(layer.parameters(), lr=1e-2)
    heard: list[tuple[str, str, torch.Tensor]] = []
    attach(layer, "", listener=Listener(frozenset({"index"}), heard))
    for _ in range(600):
        kind_B = torch.randint(C, (256,), generator=random)
        x_BD = means_CD[kind_B] + 0.5 * torch.randn(256, D, generator=random)
        hard_BD = 2 * torch.bmm(x_BD[:, None], map_CDD[kind_B])[:, 0].tanh()
        y_BD = torch.where(kind_B[:, None] < 4, x_BD * (kind_B[:, None] >= 2), hard_BD)
        heard.clear()
        loss = (layer(x_BD[None])[0] - y_BD).square().mean() + layer.auxiliary
        adam.zero_grad()
        loss.backward()
        adam.step()
    works_B = (heard[0][2][0] < 8).float().sum(-1)
    return works_B[kind_B < 4].mean().item(), works_B[kind_B >= 4].mean().item()
