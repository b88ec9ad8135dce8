import math

import pytest
import torch

import explorer

B, T, D = 3, 7, 24


def same(ours, theirs, name, atol=5e-6):
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=1e-5, msg=lambda message: f"{name}: {message}")


def llama(module, base):
    """transformers' LlamaAttention, eager, with our weights; and the call that gives it rotation and a causal mask."""
    from transformers.models.llama.modeling_llama import LlamaAttention, LlamaConfig, LlamaRotaryEmbedding

    config = LlamaConfig(hidden_size=D, num_attention_heads=module.n_heads, num_key_value_heads=module.n_heads,
                         rope_parameters={"rope_type": "default", "rope_theta": base})  # fmt: skip
    config._attn_implementation = "eager"
    theirs, rotation = LlamaAttention(config, 0), LlamaRotaryEmbedding(config)
    with torch.no_grad():
        for projection, weight in zip("qkv", module.qkv.weight.chunk(3), strict=True):
            getattr(theirs, f"{projection}_proj").weight.copy_(weight)
        theirs.o_proj.weight.copy_(module.out.weight)

    def call(x):
        length = x.shape[1]
        mask = torch.full((length, length), -torch.inf).triu(1)[None, None]
        return theirs(x, rotation(x, torch.arange(length)[None]), mask)

    return theirs, call


@pytest.mark.parametrize("n_heads, base", [(2, 10_000.0), (3, 500.0)])
def test_agrees_with_llama_in_outputs_and_gradients(n_heads, base):
    torch.manual_seed(n_heads)
    ours = explorer.build("softmax-attention", d_model=D, n_heads=n_heads, rope_base=base)
    theirs, call = llama(ours, base)
    x, upstream = torch.randn(B, T, D), torch.randn(B, T, D)
    ours_x, theirs_x = x.clone().requires_grad_(), x.clone().requires_grad_()
    ours_y, (theirs_y, theirs_map) = ours(ours_x), call(theirs_x)
    same(ours_y, theirs_y, "output")
    ours_y.backward(upstream)
    theirs_y.backward(upstream)
    same(ours_x.grad, theirs_x.grad, "input gradient")
    same(ours.out.weight.grad, theirs.o_proj.weight.grad, "output projection")
    for projection, grad in zip("qkv", ours.qkv.weight.grad.chunk(3), strict=True):
        same(grad, getattr(theirs, f"{projection}_proj").weight.grad, f"{projection} projection")
    with explorer.record(ours, "*/attention") as recording:
        ours(x)
    same(recording.last("/attention"), theirs_map.detach(), "attention map")


def test_two_tokens_by_hand():
    """Both tokens are (1, 0), all projections the identity: the second query is one radian away from the first key.

    Its scores are cos(1)/sqrt(2) and 1/sqrt(2), so the first token gets sigmoid((cos(1) - 1)/sqrt(2)) = 0.4194.
    """
    module = explorer.build("softmax-attention", d_model=2, n_heads=1)
    with torch.no_grad():
        module.qkv.weight.copy_(torch.eye(2).repeat(3, 1))
        module.out.weight.copy_(torch.eye(2))
    x = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    with explorer.record(module, ["*", "/attention"]) as recording:
        y = module(x)
    torch.testing.assert_close(y, x)
    share = 1 / (1 + math.exp((1 - math.cos(1)) / math.sqrt(2)))
    assert share == pytest.approx(0.4194, abs=1e-4)
    torch.testing.assert_close(recording.last("/attention")[0, 0], torch.tensor([[1, 0], [share, 1 - share]]))
    torch.testing.assert_close(recording.last("/first"), torch.tensor([[share]]))
    torch.testing.assert_close(recording.last("/received")[0, 0], torch.tensor([(1 + share) / 2, 1 - share]))
    entropy = -(share * math.log(share) + (1 - share) * math.log(1 - share))
    torch.testing.assert_close(recording.last("/entropy"), torch.tensor([[entropy / 2]]))


def test_with_one_token_it_is_a_linear_map():
    module = explorer.build("softmax-attention", d_model=D)
    x = torch.randn(B, 1, D)
    torch.testing.assert_close(module(3 * x), 3 * module(x))


def test_projections_start_at_unit_gain():
    module = explorer.build("softmax-attention", d_model=256)
    for weight in (module.qkv.weight, module.out.weight):
        assert weight.std().item() == pytest.approx(1 / 16, rel=0.02) and abs(weight.mean()) < 1e-3
    assert [name for name, _ in module.named_parameters()] == ["qkv.weight", "out.weight"]
