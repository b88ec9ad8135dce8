import pytest
import torch

import explorer
from explorer.counting import count
from explorer.errors import BadValue, UnknownName

B, T, D = 3, 7, 24
NAMES = ["softmax-attention", "gated-attention", "sink-logit", "sigmoid-attention", "forgetting-attention"]
TURNED = [name for name in NAMES if name != "forgetting-attention"]  # by their position
STATISTICS = ["*", "/attention"]  # "*" leaves the full map out


@pytest.fixture(params=NAMES)
def module(request):
    torch.manual_seed(0)
    return explorer.build(request.param, d_model=D, n_heads=3)


def name_of(module):
    return next(name for name in NAMES if explorer.spec(name).cls is type(module))


@pytest.mark.parametrize("name", TURNED)
@pytest.mark.parametrize("n_heads", [5, 8, 24])
def test_heads_must_split_the_width_evenly(name, n_heads):
    with pytest.raises(BadValue, match=rf"n_heads={n_heads}.*d_model=24.*even width"):
        explorer.build(name, d_model=D, n_heads=n_heads)


@pytest.mark.parametrize("name", TURNED)
@pytest.mark.parametrize("knob, value", [("n_heads", 0), ("n_heads", 65), ("n_heads", 2.5), ("n_heads", "two"),
                                         ("rope_base", 1.0), ("rope_base", -1), ("rope_base", float("nan")),
                                         ("rope_base", float("inf"))])  # fmt: skip
def test_a_knob_out_of_range_is_named(name, knob, value):
    with pytest.raises(BadValue, match=knob):
        explorer.build(name, d_model=D, **{knob: value})


def test_an_unknown_granularity_or_knob_is_named():
    with pytest.raises(BadValue, match=r"granularity='head'.*'headwise'"):
        explorer.build("gated-attention", granularity="head")
    with pytest.raises(UnknownName, match="did you mean 'n_heads'"):
        explorer.build("softmax-attention", heads=2)


def test_recording_changes_neither_outputs_nor_gradients(module):
    x = torch.randn(B, T, D)

    def run():
        module.zero_grad()
        given = x.clone().requires_grad_()
        y = module(given)
        y.pow(2).sum().backward()
        return [y, given.grad, *(p.grad.clone() for p in module.parameters())]

    plain = run()
    with explorer.record(module, STATISTICS) as recording:
        watched = run()
    assert all(torch.equal(one, other) for one, other in zip(plain, watched, strict=True))
    assert set(recording.paths()) == {f"/{tap}" for tap in module.taps}


def test_taps_have_their_declared_axes_and_agree_with_each_other(module):
    with explorer.record(module, STATISTICS) as recording:
        module(torch.randn(B, T, D))
    sizes = {"B": B, "T": T, "H": 3, "S": T, "d": D // 3}
    for tap, axes in module.taps.items():
        assert recording.last(f"/{tap}").shape == tuple(sizes[axis] for axis in axes.split())
    A = recording.last("/attention")
    torch.testing.assert_close(recording.last("/received"), explorer.metrics.received_mass(A))
    torch.testing.assert_close(recording.last("/first").mean(0), explorer.metrics.first_token_share(A))
    table = recording.attention()
    torch.testing.assert_close(torch.tensor(table["first_token_share"].values).float(), A[:, :, 1:, 0].mean((0, 2)))
    assert list(table["head"]) == [0, 1, 2]
    assert module.kernel.startswith(("sdpa, attention_mass: ", "rows, attention_mass: "))


def test_statistics_are_computed_only_for_those_who_ask(module, monkeypatch):
    def never(*_):
        raise AssertionError("nobody asked")

    home = "explorer.mechanisms.attention.watching"
    monkeypatch.setattr(f"{home}.attention_map", never)
    with explorer.record(module, ["*/first"]):
        module(torch.randn(B, T, D))
    monkeypatch.setattr(f"{home}.attention_mass", never)
    module(torch.randn(B, T, D))


def test_the_map_is_recorded_only_by_name(module):
    with explorer.record(module, "*") as recording:
        module(torch.randn(B, T, D))
    assert "/first" in recording.paths() and "/attention" not in recording.paths()


def test_an_edited_map_is_obeyed(module):
    """Forbidding the first token to later queries is how the cost of a sink is measured."""
    x = torch.randn(B, T, D)

    def without_first(A):
        A = A.clone()
        A[..., 1:, 0] = 0
        A[..., 1:, :] /= A[..., 1:, :].sum(-1, keepdim=True)
        return A

    y = module(x)
    with explorer.edit(module, "*/attention", lambda A: A.clone()):
        torch.testing.assert_close(module(x), y, atol=1e-5, rtol=1e-5)
    with explorer.edit(module, "*/attention", without_first):
        evicted = module(x)
        other = module(torch.cat([torch.randn(B, 1, D), x[:, 1:]], 1))
    torch.testing.assert_close(evicted[:, 0], y[:, 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(evicted[:, 1:], other[:, 1:])
    assert (evicted[:, 1:] - y[:, 1:]).abs().max() > 1e-3


def test_no_token_sees_a_later_one(module):
    x = torch.randn(B, T, D, requires_grad=True)
    for t in range(T - 1):
        (grad,) = torch.autograd.grad(module(x)[:, t].sum(), x)
        assert grad[:, t + 1 :].abs().max() == 0 and (grad[:, : t + 1] != 0).any(-1).all()


def test_one_token(module):
    x = torch.randn(B, 1, D, requires_grad=True)
    with explorer.record(module, STATISTICS) as recording:
        y = module(x)
    y.sum().backward()
    assert y.shape == (B, 1, D) and y.isfinite().all() and x.grad.isfinite().all()
    received, lacks = recording.last("/received"), name_of(module) in ("sink-logit", "sigmoid-attention")
    assert ((received > 0) & (received < 1)).all() if lacks else (received == 1).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_give_finite_results(module, dtype):
    x = torch.randn(B, T, D)
    y = module(x)
    with explorer.record(module.to(dtype), STATISTICS) as recording:
        z = module(x.to(dtype))
    z.float().sum().backward()
    assert z.dtype == dtype and (z.float() - y).abs().max() < 0.1
    assert all(recording.last(path).isfinite().all() for path in recording.paths())
    assert all(p.grad.isfinite().all() for p in module.parameters())
    with explorer.edit(module, "*/attention", lambda A: A.clone()):
        assert module(x.to(dtype)).dtype == dtype


def test_nan_propagates_without_an_exception(module):
    x = torch.randn(B, T, D)
    x[0, 3, 5] = torch.nan
    with explorer.record(module, STATISTICS) as recording:
        y = module(x)
    assert y[0, 3:].isnan().all() and y[1:].isfinite().all()
    assert recording.last("/first")[0].isnan().all() and recording.last("/first")[1:].isfinite().all()


def test_compiles_in_one_graph_also_while_it_is_recorded_and_edited(module):
    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    x = torch.randn(B, T, D)
    y = module(x)
    torch.testing.assert_close(compiled(x), y)
    with explorer.record(module, STATISTICS) as recording:
        torch.testing.assert_close(compiled(x), y)
        torch.testing.assert_close(compiled(x), y)
    assert len(recording.attention()) == 6 and recording.last("/attention").shape == (B, 3, T, T)
    torch.testing.assert_close(compiled(x), y)
    with explorer.edit(module, "*/attention", lambda A: A.roll(1, 0)):
        edited = module(x)
        torch.testing.assert_close(compiled(x), edited)
    assert (edited - y).abs().max() > 1e-3


def test_flops_count_the_pairs_that_attend(module):
    forms_the_map = name_of(module) == "sigmoid-attention"
    pairs = sum(1 for t in range(T) for s in range(T) if s <= t or forms_the_map)
    assert module.flops(T) == 2 * 2 * D * pairs / T  # a score and a value, a multiply-add each channel
    linear = 2 * sum(p.numel() for p in module.parameters() if p.ndim == 2)
    assert count(module, T).flops == linear + module.flops(T)


@pytest.mark.parametrize("name", TURNED)
def test_the_rotation_base_may_change_in_the_middle_of_a_run(name):
    module, x = explorer.build(name, d_model=D, n_heads=3), torch.randn(B, T, D)
    y = module(x)
    assert explorer.spec(name).knobs["rope_base"].live
    module.rope_base = 100.0
    assert (module(x) - y).abs().max() > 1e-4


@pytest.mark.parametrize("name", TURNED)
def test_looking_both_ways(name):
    """Without the arrow of time every token sees all: the last one says the same, the first one does not."""
    module, x = explorer.build(name, d_model=D, n_heads=3), torch.randn(B, T, D)
    y = module(x)
    module.causal = False
    both = module(x)
    torch.testing.assert_close(both[:, -1], y[:, -1])
    assert (both[:, 0] - y[:, 0]).abs().max() > 1e-3
    with explorer.record(module, STATISTICS) as seen:
        assert torch.equal(module(x), both)
    A = seen.last("/attention")
    assert (A > 0).all()
    torch.testing.assert_close(seen.last("/received"), A.mean(-2))
    assert module.flops(T) == 2 * 2 * D * T
