import math

import pytest
import torch

import explorer
from explorer.mechanisms.attention.sink_logit import with_sink

B, T, D = 3, 7, 24
KINDS = ["learned", "off-by-one", "key"]


def built(kind="learned", n_heads=3, **knobs):
    """With sinks that differ from head to head and are not small."""
    torch.manual_seed(0)
    module = explorer.build("sink-logit", d_model=D, n_heads=n_heads, kind=kind, **knobs)
    with torch.no_grad():
        for name in ("sink_H", "key_Hd"):
            if hasattr(module, name):
                getattr(module, name).normal_()
    return module


def same(ours, theirs, name, atol=5e-6):
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=1e-5, msg=lambda message: f"{name}: {message}")


def gpt_oss(module):
    """transformers' GptOssAttention, eager, with our weights and sinks; and the call that gives it rotation and mask."""
    from transformers.models.gpt_oss.modeling_gpt_oss import GptOssAttention, GptOssConfig, GptOssRotaryEmbedding

    H, d = module.n_heads, D // module.n_heads
    config = GptOssConfig(hidden_size=D, num_attention_heads=H, num_key_value_heads=H, head_dim=d, num_hidden_layers=1,
                          attention_bias=False, layer_types=["full_attention"],
                          rope_parameters={"rope_type": "default", "rope_theta": module.rope_base})  # fmt: skip
    config._attn_implementation = "eager"
    theirs, rotation = GptOssAttention(config, 0), GptOssRotaryEmbedding(config)
    with torch.no_grad():
        for projection, weight in zip("qkv", module.qkv.weight.chunk(3), strict=True):
            getattr(theirs, f"{projection}_proj").weight.copy_(weight)
        theirs.o_proj.weight.copy_(module.out.weight)
        theirs.sinks.copy_(module.sink_H if module.kind == "learned" else torch.zeros(H))

    def call(x):
        length = x.shape[1]
        mask = torch.full((length, length), -torch.inf).triu(1)[None, None]
        return theirs(x, rotation(x, torch.arange(length)[None]), mask)

    return theirs, call


@pytest.mark.parametrize("kind", ["learned", "off-by-one"])
@pytest.mark.parametrize("n_heads, length, base", [(2, 7, 10_000.0), (3, 13, 500.0), (1, 1, 10_000.0)])
def test_agrees_with_gpt_oss_in_outputs_and_gradients(n_heads, length, base, kind):
    ours = built(kind, n_heads, rope_base=base)
    theirs, call = gpt_oss(ours)
    x, upstream = torch.randn(B, length, D), torch.randn(B, length, D)
    ours_x, theirs_x = x.clone().requires_grad_(), x.clone().requires_grad_()
    ours_y, (theirs_y, theirs_map) = ours(ours_x), call(theirs_x)
    same(ours_y, theirs_y, "output")
    ours_y.backward(upstream)
    theirs_y.backward(upstream)
    same(ours_x.grad, theirs_x.grad, "input gradient")
    same(ours.out.weight.grad, theirs.o_proj.weight.grad, "output projection")
    for projection, grad in zip("qkv", ours.qkv.weight.grad.chunk(3), strict=True):
        same(grad, getattr(theirs, f"{projection}_proj").weight.grad, f"{projection} projection")
    if kind == "learned":
        same(ours.sink_H.grad, theirs.sinks.grad, "sinks")
    with explorer.record(ours, ["*/attention", "*/elsewhere"]) as seen:
        ours(x)
    same(seen.last("/attention"), theirs_map.detach(), "attention map")
    same(seen.last("/elsewhere"), (1 - theirs_map.sum(-1)).mean(-1).detach(), "mass of the sink")


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_a_slow_reading_in_outputs_and_gradients(kind, causal):
    """Every weight by its definition, in float64; the sink is one more term of the sum below the line."""
    module, x = built(kind, causal=causal).double(), torch.randn(2, T, D).double().requires_grad_()
    H, d, weights = 3, D // 3, list(module.parameters())
    turn = module.rope_base ** (-torch.arange(0, d, 2).double() / d)

    def rotated(vector, position):
        z = torch.complex(*vector.chunk(2)) * torch.exp(1j * position * turn)
        return torch.cat([z.real, z.imag])

    q, k, v = (x @ weight.T for weight in module.qkv.weight.chunk(3))
    rows = []
    for b in range(2):
        for t in range(T):
            heads = []
            for h in range(H):
                part = slice(h * d, (h + 1) * d)
                query = rotated(q[b, t, part], t)
                seen = range(t + 1 if causal else T)
                terms = [(query @ rotated(k[b, s, part], s) / math.sqrt(d)).exp() for s in seen]
                if kind == "key":
                    sink = (query @ module.key_Hd[h] / math.sqrt(d)).exp()
                else:
                    sink = module.sink_H[h].exp() if kind == "learned" else 1.0
                heads.append(sum(a * v[b, s, part] for s, a in zip(seen, terms, strict=True)) / (sum(terms) + sink))
            rows.append(torch.cat(heads) @ module.out.weight.T)
    slow, ours, upstream = torch.stack(rows).view(x.shape), module(x), torch.randn(2, T, D).double()
    same(ours, slow, "output", atol=1e-5)  # the rotation's angles are float32, as everywhere
    grads = (torch.autograd.grad(y, [x, *weights], upstream, retain_graph=True) for y in (ours, slow))
    for one, other in zip(*grads, strict=True):
        same(one, other, "gradient", atol=2e-5)


def test_two_keys_and_a_sink_by_hand():
    """Scores ln 2 and ln 3 of the last query, a sink of ln 5: it says (2 v_0 + 3 v_1) / 10 and half of it is nothing."""
    q = torch.tensor([[[[0.0], [1.0]]]])
    k = torch.tensor([[[[math.log(2)], [math.log(3)]]]])
    v = torch.tensor([[[[10.0], [20.0]]]])
    y = with_sink(q, k, v, torch.tensor([math.log(5)]), causal=True)
    # the first query has one key of score 0, which is 1 beside 5: a sixth of 10
    torch.testing.assert_close(y, torch.tensor([[[[10 / 6], [(2 * 10 + 3 * 20) / 10]]]]))


def test_a_sink_of_minus_infinity_leaves_softmax_attention_and_a_high_one_nothing():
    module = built()
    plain = explorer.build("softmax-attention", d_model=D, n_heads=3)
    plain.load_state_dict({name: value for name, value in module.state_dict().items() if name != "sink_H"})
    x = torch.randn(B, T, D)
    with torch.no_grad():
        module.sink_H.fill_(-1e4)
        torch.testing.assert_close(module(x), plain(x))
        module.sink_H.fill_(1e4)
        assert (module(x) == 0).all()


def test_a_learned_sink_of_zero_is_softmax_off_by_one():
    learned, fixed = explorer.build("sink-logit", d_model=D), explorer.build("sink-logit", d_model=D, kind="off-by-one")
    fixed.load_state_dict({name: value for name, value in learned.state_dict().items() if name != "sink_H"})
    assert (learned.sink_H == 0).all()
    x = torch.randn(B, T, D)
    assert torch.equal(learned(x), fixed(x))


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_sink_takes_is_not_counted_as_the_first_tokens(kind):
    module = built(kind)
    with explorer.record(module, ["*", "*/attention"]) as seen:
        module(torch.randn(B, T, D))
    A = seen.last("/attention")
    assert A.shape == (B, 3, T, T) and (A.sum(-1) < 1).all()
    torch.testing.assert_close(seen.last("/elsewhere"), (1 - A.sum(-1)).mean(-1))
    torch.testing.assert_close(seen.last("/first"), A[:, :, 1:, 0].mean(-1))


@pytest.mark.parametrize("kind", KINDS)
def test_an_edited_map_says_what_it_gives_and_nothing_more(kind):
    module, x = built(kind), torch.randn(B, T, D)
    with explorer.edit(module, "*/attention", lambda A: A.clone()):
        torch.testing.assert_close(module(x), module(x).detach())
    with explorer.edit(module, "*/attention", torch.zeros_like):
        assert (module(x) == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_key_of_its_own_is_not_turned_and_the_sinks_start_as_they_say(kind):
    torch.manual_seed(0)
    module = explorer.build("sink-logit", d_model=256, kind=kind)
    own = {name: p for name, p in module.named_parameters() if name not in ("qkv.weight", "out.weight")}
    if kind == "learned":
        assert list(own) == ["sink_H"] and (own["sink_H"] == 0).all()
    elif kind == "key":
        assert list(own) == ["key_Hd"] and own["key_Hd"].std().item() == pytest.approx(0.02, rel=0.15)
    else:
        assert not own


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_huge_inputs_stay_finite(kind, dtype):
    module = built(kind)
    exact, x = module(torch.ones(B, T, D)), torch.ones(B, T, D)
    y = module.to(dtype)(x.to(dtype))
    assert y.dtype == dtype and (y.float() - exact).abs().max() < 0.1
    huge = module.float()(1e4 * torch.randn(B, T, D))
    huge.sum().backward()
    assert huge.isfinite().all() and all(p.grad.isfinite().all() for p in module.parameters())
