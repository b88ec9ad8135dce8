"""What we are compared with: transformers' Mixtral of the same shape, and the bare matrix products of a step."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from explorer import Experiment

L, D, H, E, K, WIDTH, T, V = 2, 64, 4, 8, 2, 64, 64, 128  # the lab's default model


def mixtral(
    batch: int, fused: bool = False, auxiliary: bool = True, experts: str = "grouped_mm"
) -> Callable[[], float]:
    """A training step of MixtralForCausalLM on the same batches: loss, auxiliary loss, clipping, torch.optim.AdamW."""
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=V, hidden_size=D, intermediate_size=WIDTH, num_hidden_layers=L, num_attention_heads=H,
        num_key_value_heads=H, num_local_experts=E, num_experts_per_tok=K, tie_word_embeddings=True, use_cache=False,
        max_position_embeddings=T, output_router_logits=auxiliary, router_aux_loss_coef=0.001, attn_implementation="sdpa",
        experts_implementation=experts, pad_token_id=None, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = MixtralForCausalLM(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, fused=fused or None)
    data, step = Experiment("topk-softmax", watch=None).data, 0

    def advance() -> float:
        nonlocal step
        one = data.batch(step, batch)
        step += 1
        out = model(input_ids=one.inputs, labels=one.targets, shift_labels=one.targets)
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return out.loss.item()

    return advance


def mixtral_layer(n_experts: int) -> nn.Module:
    """Its router and experts alone, with the fastest of transformers' ways to compute them, and no auxiliary loss."""
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

    torch.manual_seed(0)
    config = MixtralConfig(
        hidden_size=D, intermediate_size=WIDTH, num_local_experts=n_experts, num_experts_per_tok=K,
        experts_implementation="grouped_mm",
    )  # fmt: skip
    layer = MixtralSparseMoeBlock(config)
    for weight in layer.parameters():
        nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)
    return layer.train()


def explorer_step(batch: int, **more: object) -> Callable[[], object]:
    """A training step of the lab's default model."""
    return Experiment("topk-softmax", batch=batch, **more).advance


def floor(batch: int) -> Callable[[], None]:
    """The matrix products and attention of a step, forward and backward, and nothing else."""
    N = batch * T
    x, wide = torch.randn(N, D), torch.randn(N, 3 * D)
    square, qkv, head = torch.randn(D, D), torch.randn(D, 3 * D), torch.randn(D, V)
    rows, hidden = torch.randn(N * K // E, D), torch.randn(N * K // E, WIDTH)
    up, down, gated = torch.randn(D, 2 * WIDTH), torch.randn(WIDTH, D), torch.randn(N * K // E, 2 * WIDTH)
    q = torch.randn(batch, H, T, D // H, requires_grad=True)
    out = torch.randn(N, V)

    def three(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> None:
        """c = a b, and the gradients of a and b."""
        a @ b
        c @ b.T
        a.T @ c

    def run() -> None:
        with torch.no_grad():
            for _ in range(L):
                three(x, qkv, wide)
                three(x, square, x)
                for _ in range(E):
                    three(rows, up, gated)
                    three(hidden, down, rows)
            three(x, head, out)
        for _ in range(L):
            y = F.scaled_dot_product_attention(q, q, q, is_causal=True)
            y.backward(y.detach())
        q.grad = None

    return run
