"""What every router must survive: one token, equal tokens, huge logits, NaN, one expert, low precision, live changes."""

import pytest
import torch

import explorer
from explorer.errors import BadValue
from explorer.models import Experts, MixtureOfExperts

D, E = 24, 5
ROUTERS = explorer.names("routing")


def build(name, **knobs):
    return explorer.build(name, d_model=D, **{"n_experts": E, **knobs})


def in_range(router, x):
    weights, index = router(x)
    assert index.min() >= -1 and index.max() < router.n_experts
    return weights, index


def check(router, x):
    """The promises of the signature; returns what the router gave."""
    weights, index = in_range(router, x)
    assert weights.shape == index.shape and weights.shape[:2] == x.shape[:2]
    assert weights.dtype == x.dtype and index.dtype == torch.int64
    assert (weights[index < 0] == 0).all()
    chosen = index.sort(-1).values
    assert ((chosen[..., 1:] != chosen[..., :-1]) | (chosen[..., 1:] < 0)).all()  # no expert twice for a token
    return weights, index


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ROUTERS)
def test_ordinary_tokens(name, training):
    router = build(name).train(training)
    weights, index = check(router, torch.randn(2, 6, D))
    assert weights.isfinite().all() and (weights >= 0).all() and (weights.sum(-1) <= 1 + 1e-6).all()
    assert isinstance(router.slots, float) and router.slots >= (index >= 0).float().sum(-1).mean() * 0.8


@pytest.mark.parametrize("name", ROUTERS)
def test_one_token(name):
    weights, index = check(build(name), torch.randn(1, 1, D))
    assert weights.isfinite().all() and (index >= 0).any()


@pytest.mark.parametrize("name", ROUTERS)
def test_all_tokens_equal(name):
    router = build(name).eval()
    x = torch.randn(1, 1, D).expand(3, 8, D)
    weights, index = check(router, x)
    assert weights.isfinite().all() and (index >= 0).any()
    MixtureOfExperts(router, Experts(D, E, 8))(x).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in router.parameters())


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", ROUTERS)
def test_logits_of_ten_thousand(name, sign):
    router = build(name)
    with torch.no_grad():
        router.score.weight.copy_(sign * 1e4 * torch.randn(E, D).sign() / D)
    x = torch.ones(2, 6, D) + 0.1 * torch.randn(2, 6, D)
    weights, _ = check(router, x)
    assert weights.isfinite().all() and (weights.amax(-1) <= 1).all()
    loss = weights.square().sum() + (0 if router.auxiliary is None else router.auxiliary)
    loss.backward()
    assert router.score.weight.grad.isfinite().all()


@pytest.mark.parametrize("poisoned", ["one number", "all"])
@pytest.mark.parametrize("name", ROUTERS)
def test_nan_comes_out_as_nan_and_breaks_nothing(name, poisoned):
    router, x = build(name), torch.randn(2, 6, D)
    if poisoned == "all":
        x[:] = torch.nan
    else:
        x[0, 0, 3] = torch.nan  # the first token, which no queue has dropped yet
    layer = MixtureOfExperts(router.eval(), Experts(D, E, 8))
    with explorer.record(router) as seen:
        weights, index = in_range(router, x)
    bad = x.isnan().any(-1) & (index >= 0).any(-1)
    assert bad.any() and weights[bad].isnan().any(-1).all() and weights[~bad].isfinite().all()
    assert torch.equal(layer(x).isnan().any(-1), bad)  # the residual stream carries the NaN of a token without expert
    assert seen.loads().load.sum() == pytest.approx(1)
    assert seen.routing().token_entropy.isna().all()


@pytest.mark.parametrize("name", ROUTERS)
def test_infinite_input_does_not_raise(name):
    x = torch.randn(2, 6, D)
    x[0, 0, 0] = torch.inf
    in_range(build(name), x)


@pytest.mark.parametrize("name", ROUTERS)
def test_a_single_expert_takes_everything(name):
    knobs = {"k": 1} if "k" in explorer.spec(name).knobs else {}
    router = build(name, n_experts=1, **knobs)
    weights, index = check(router, torch.randn(2, 6, D))
    assert (index == 0).all() and torch.allclose(weights, torch.ones_like(weights))


@pytest.mark.parametrize("name", [name for name in ROUTERS if "k" in explorer.spec(name).knobs])
def test_as_many_slots_as_experts(name):
    _, index = check(build(name, k=E), torch.randn(2, 6, D))
    assert (index.sort(-1).values == torch.arange(E)).all()
    with pytest.raises(BadValue, match=rf"k={E + 1}.*at most the number of experts, n_experts={E}"):
        build(name, k=E + 1)


@pytest.mark.parametrize("name", ROUTERS)
def test_no_experts_or_no_room_is_an_error(name):
    with pytest.raises(BadValue, match=r"n_experts=0: it must be a whole number of at least 1"):
        build(name, n_experts=0)
    for knob in {"k", "capacity_factor"} & set(explorer.spec(name).knobs):
        with pytest.raises(BadValue, match=f"{knob}=0"):
            build(name, **{knob: 0})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", ROUTERS)
def test_other_precisions_keep_their_type_and_score_in_float32(name, dtype):
    router = build(name).to(dtype)
    with explorer.record(router) as seen:
        weights, _ = check(router, torch.randn(2, 6, D, dtype=dtype))
    assert weights.isfinite().all()
    assert seen.last("/probs").dtype == torch.float32


@pytest.mark.parametrize("name", ROUTERS)
def test_any_split_into_sequences_has_the_same_scores(name):
    """Scores are a token's own; only the grouping rules may see the batch."""
    router, x = build(name).eval(), torch.randn(4, 3, D)
    with explorer.record(router) as seen:
        router(x)
        router(x.reshape(2, 6, D))
        router(x.reshape(1, 12, D))
    probs = [seen.at("/probs", step).reshape(12, E) for step in range(3)]
    torch.testing.assert_close(probs[0], probs[1])
    torch.testing.assert_close(probs[0], probs[2])
