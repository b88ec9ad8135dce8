import math

import pytest
import torch

import explorer
from explorer.counting import count
from explorer.errors import BadValue

B, T, D, F = 3, 7, 24, 20
ACTIVATIONS = ["swiglu", "geglu", "reglu", "glu", "bilinear", "relu"]


def same(ours, theirs, name, atol=5e-6):
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=1e-5, msg=lambda message: f"{name}: {message}")


def compare(ours, theirs, gate, up, down):
    """Outputs and gradients of the input and of every weight; theirs holds a module's weights under the given names."""
    x, upstream = torch.randn(B, T, D), torch.randn(B, T, D)
    with torch.no_grad():
        for name, weight in zip((gate, up), ours.up.weight.chunk(2), strict=True):
            getattr(theirs, name).weight.copy_(weight)
        getattr(theirs, down).weight.copy_(ours.down.weight)
    ours_x, theirs_x = x.clone().requires_grad_(), x.clone().requires_grad_()
    ours_y, theirs_y = ours(ours_x), theirs(theirs_x)
    same(ours_y, theirs_y, "output")
    ours_y.backward(upstream)
    theirs_y.backward(upstream)
    same(ours_x.grad, theirs_x.grad, "input gradient")
    same(ours.down.weight.grad, getattr(theirs, down).weight.grad, down)
    for name, grad in zip((gate, up), ours.up.weight.grad.chunk(2), strict=True):
        same(grad, getattr(theirs, name).weight.grad, name)
    return (ours_y - theirs_y).abs().max()


def test_swiglu_agrees_with_llama_in_outputs_and_gradients():
    from transformers.models.llama.modeling_llama import LlamaConfig, LlamaMLP

    torch.manual_seed(0)
    theirs = LlamaMLP(LlamaConfig(hidden_size=D, intermediate_size=F, num_attention_heads=2))
    compare(explorer.build("glu", d_model=D, width=F), theirs, "gate_proj", "up_proj", "down_proj")


def test_geglu_agrees_with_t5_in_outputs_and_gradients():
    """T5 v1.1 takes GELU's tanh approximation, gelu_new; with the exact GELU of the paper it is the same layer."""
    from transformers.models.t5.modeling_t5 import T5Config, T5DenseGatedActDense

    torch.manual_seed(0)
    config = T5Config(d_model=D, d_ff=F, feed_forward_proj="gated-gelu", dropout_rate=0.0)
    assert config.dense_act_fn == "gelu_new"
    config.dense_act_fn = "gelu"
    ours = explorer.build("glu", d_model=D, activation="geglu", width=F)
    compare(ours, T5DenseGatedActDense(config), "wi_0", "wi_1", "wo")
    config.dense_act_fn = "gelu_new"
    with pytest.raises(AssertionError, match="output"):
        compare(ours, T5DenseGatedActDense(config), "wi_0", "wi_1", "wo")
    grid = torch.linspace(-6, 6, 2001)
    off = (T5DenseGatedActDense(config).act(grid) - torch.nn.functional.gelu(grid)).abs().max()
    assert off.item() == pytest.approx(5e-4, abs=5e-5)  # the pitfall's figure


FORMULAS = {
    "swiglu": lambda g: g / (1 + torch.exp(-g)),
    "geglu": lambda g: g * (1 + torch.erf(g / math.sqrt(2))) / 2,
    "reglu": lambda g: g.clamp(min=0),
    "glu": lambda g: 1 / (1 + torch.exp(-g)),
    "bilinear": lambda g: g,
}


@pytest.mark.parametrize("activation", FORMULAS)
def test_agrees_with_the_plain_formula_in_outputs_and_gradients(activation):
    torch.manual_seed(0)
    module = explorer.build("glu", d_model=D, activation=activation, width=F).double()
    x, upstream = torch.randn(B, T, D).double().requires_grad_(), torch.randn(B, T, D).double()
    gate, up, down = *module.up.weight.chunk(2), module.down.weight
    formula = (FORMULAS[activation](x @ gate.T) * (x @ up.T)) @ down.T
    sources = [x, module.up.weight, module.down.weight]
    ours = module(x)
    same(ours, formula, "output", 1e-12)
    grads = (torch.autograd.grad(y, sources, upstream) for y in (ours, formula))
    for name, one, other in zip(("input", "up", "down"), *grads, strict=True):
        same(one, other, name, 1e-12)


def test_relu_is_the_plain_layer_in_outputs_and_gradients():
    torch.manual_seed(0)
    module = explorer.build("glu", d_model=D, activation="relu", width=F)
    plain = torch.nn.Sequential(torch.nn.Linear(D, F, bias=False), torch.nn.ReLU(), torch.nn.Linear(F, D, bias=False))
    plain.load_state_dict({"0.weight": module.up.weight, "2.weight": module.down.weight})
    x, upstream = torch.randn(B, T, D), torch.randn(B, T, D)
    assert torch.equal(module(x), plain(x))
    module(x).backward(upstream)
    plain(x).backward(upstream)
    for one, other in zip(module.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


@pytest.mark.parametrize("activation, expected", [
    ("swiglu", 2 / (1 + math.exp(-2)) * 3 - 1 / (1 + math.exp(1)) * 5),
    ("geglu", 2 * 0.977249868 * 3 - 0.158655254 * 5),  # the normal distribution's share below 2 and below -1
    ("reglu", 2 * 3 + 0 * 5), ("glu", 3 / (1 + math.exp(-2)) + 5 / (1 + math.exp(1))), ("bilinear", 2 * 3 - 1 * 5),
])  # fmt: skip
def test_two_channels_by_hand(activation, expected):
    """Gate logits 2 and -1, channels 3 and 5, summed by the output."""
    module = explorer.build("glu", d_model=1, activation=activation, width=2)
    with torch.no_grad():
        module.up.weight.copy_(torch.tensor([[2.0], [-1.0], [3.0], [5.0]]))
        module.down.weight.fill_(1.0)
    assert module(torch.ones(1, 1, 1)).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("activation", ACTIVATIONS)
class TestContract:
    def build(self, activation):
        torch.manual_seed(0)
        return explorer.build("glu", d_model=D, activation=activation, width=F)

    def test_recording_changes_neither_outputs_nor_gradients(self, activation):
        module, x = self.build(activation), torch.randn(B, T, D)

        def run():
            module.zero_grad()
            given = x.clone().requires_grad_()
            y = module(given)
            y.pow(2).sum().backward()
            return [y, given.grad, *(p.grad.clone() for p in module.parameters())]

        plain = run()
        with explorer.record(module, ["*", "/hidden"]) as recording:
            watched = run()
        assert all(torch.equal(one, other) for one, other in zip(plain, watched, strict=True))
        gate, hidden = recording.last("/gate"), recording.last("/hidden")
        assert gate.shape == hidden.shape == (B, T, F)
        same(hidden @ module.down.weight.detach().T, plain[0].detach(), "output from the recorded hidden channels")
        low = {"swiglu": -0.279, "geglu": -0.171, "bilinear": -math.inf}.get(activation, 0.0)
        assert gate.min() >= low and (activation not in ("glu", "relu") or gate.max() <= 1)

    def test_a_shut_gate_says_nothing(self, activation):
        module = self.build(activation)
        with explorer.edit(module, "*/gate", torch.zeros_like):
            assert (module(torch.randn(B, T, D)) == 0).all()

    def test_one_token_vectors_precisions_and_nan(self, activation):
        module = self.build(activation)
        x = torch.randn(B, T, D)
        assert torch.equal(module(x[:, :1]).isfinite(), torch.ones(B, 1, D, dtype=torch.bool))
        torch.testing.assert_close(module(x.view(-1, D)).view(B, T, D), module(x))
        for dtype in (torch.float16, torch.bfloat16, torch.float64):
            y = self.build(activation).to(dtype)(x.to(dtype))
            assert y.dtype == dtype and y.isfinite().all()
        x[0, 3, 5] = torch.nan
        y = module(x)
        assert y[0, 3].isnan().all() and y[1:].isfinite().all()


@pytest.mark.parametrize("activation", ["swiglu", "relu"])
def test_compiles_in_one_graph_also_while_it_is_recorded(activation):
    torch._dynamo.reset()
    module, x = explorer.build("glu", d_model=D, activation=activation, width=F), torch.randn(B, T, D)
    compiled, y = torch.compile(module, fullgraph=True, backend="eager"), module(x)
    torch.testing.assert_close(compiled(x), y)
    with explorer.record(module, "*") as recording:
        torch.testing.assert_close(compiled(x), y)
    assert recording.last("/gate").shape == (B, T, F) and "/hidden" not in recording.paths()


@pytest.mark.parametrize("knob, value", [
    ("width", 0), ("width", 8193), ("width", 1.5), ("activation", "swish"), ("activation", 3),
])  # fmt: skip
def test_a_knob_out_of_range_is_named(knob, value):
    with pytest.raises(BadValue, match=f"{knob}="):
        explorer.build("glu", **{knob: value})


def test_two_thirds_of_the_width_cost_the_same():
    """The paper's rule: d = 768 with 3072 plain channels, or 2048 gated ones; flops follow."""
    with torch.device("meta"):
        plain = explorer.build("glu", d_model=768, activation="relu", width=3072)
        gated = explorer.build("glu", d_model=768, width=2048)
    assert count(plain, T) == count(gated, T) and count(gated, T).flops == 2 * count(gated, T).parameters
    default = explorer.build("glu", d_model=64)
    assert sum(p.numel() for p in default.parameters()) == pytest.approx(2 * 64 * 4 * 64, rel=0.01)
