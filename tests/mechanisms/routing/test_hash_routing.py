import pytest
import torch
from torch.testing import assert_close

import explorer
from explorer.errors import BadValue
from explorer.metrics import counts, load_entropy, nmi
from explorer.models import Experts

B, T, D, E = 3, 5, 12, 7


def build(**knobs):
    return explorer.build("hash-routing", d_model=D, **{"n_experts": E, **knobs})


def by_hand(ids, n_experts):
    """Greedy, in words: count; the most frequent first; each to the expert with least so far, the first of them."""
    count = {}
    for token in ids:
        count[token] = count.get(token, 0) + 1
    load, table = [0] * n_experts, {}
    for token in sorted(count, key=lambda token: (-count[token], token)):
        expert = load.index(min(load))
        table[token] = expert
        load[expert] += count[token]
    return table


def test_a_table_dealt_by_frequency():
    """Counts: a 4, b 3, c 2, d 1. To two experts: a | b, then c to the second, d to the first: five tokens each."""
    router = build(n_experts=2, table="balanced").train()
    a, b, c, d = 10, 20, 30, 40
    tokens = torch.tensor([[a, b, a, c, a, b, a, b, c, d]])
    weights, index = router(torch.zeros(1, 10, D), tokens)
    assert index[..., 0].tolist() == [[0, 1, 0, 1, 0, 1, 0, 1, 1, 0]]
    assert (weights == 1).all()
    again = torch.full((1, 10), d)
    assert (router(torch.zeros(1, 10, D), again)[1] == 0).all(), "the table is dealt once"


@pytest.mark.parametrize("n_experts", [2, 7])
def test_dealing_follows_the_text(n_experts):
    router = build(n_experts=n_experts, table="balanced").train()
    tokens = (torch.rand(B, 200) ** 3 * 60).long()
    _, index = router(torch.randn(B, 200, D), tokens)
    table = by_hand(tokens.flatten().tolist(), n_experts)
    assert index.flatten().tolist() == [table[token] for token in tokens.flatten().tolist()]


def test_the_token_alone_decides_and_not_its_vector():
    router, tokens = build(), torch.randint(100, (B, 50))
    one, other = (router(torch.randn(B, 50, D), tokens)[1] for _ in range(2))
    assert torch.equal(one, other)
    assert nmi(one[..., 0], tokens) < 1 and torch.equal(one[..., 0], router.experts[tokens])
    assert explorer.metrics.vocabulary_specialisation(one[..., 0], tokens) == pytest.approx(1)


def test_two_layers_have_tables_of_their_own():
    assert not torch.equal(build().experts, build().experts)


def test_balanced_is_more_even_than_random_where_ids_follow_zipfs_law():
    share = 1 / torch.arange(1, 501)
    tokens = torch.multinomial(share / share.sum(), 20_000, replacement=True)[None]
    x = torch.zeros(1, 20_000, D)
    balanced = load_entropy(counts(build(n_experts=8, table="balanced").train()(x, tokens)[1], 8))
    random = [load_entropy(counts(build(n_experts=8)(x, tokens)[1], 8)) for _ in range(5)]
    assert balanced > 0.999 and 0.9 < sum(random) / 5 < 0.985


def test_without_ids_near_vectors_share_an_expert():
    router = build()
    x = torch.randn(1, 500, D)
    same = router(x)[1] == router(x + 1e-3 * torch.randn(1, 500, D))[1]
    far = router(x)[1] == router(torch.randn(1, 500, D))[1]
    assert same.float().mean() > 0.98 and far.float().mean() < 0.3
    signs = [sum(int(v @ p > 0) << i for i, p in enumerate(router.planes.T)) for v in x[0, :5]]
    assert router(x)[1][0, :5, 0].tolist() == router.experts[signs].tolist()


def test_a_large_vocabulary_wraps_around():
    router, tokens = build(), torch.tensor([[5, 4096 + 5, 2**40 + 5]])
    assert router(torch.randn(1, 3, D), tokens)[1].unique().numel() == 1


def test_the_layer_computes_one_expert_a_token_with_weight_one():
    router, experts = build(), Experts(D, E, 8)
    x, tokens = torch.randn(B, T, D), torch.randint(100, (B, T))
    y = experts(x, *router(x, tokens))
    for b in range(B):
        for t in range(T):
            e = int(router.experts[tokens[b, t]])
            single = experts(x[b : b + 1, t : t + 1], torch.ones(1, 1, 1), torch.full((1, 1, 1), e))
            assert_close(y[b, t], single[0, 0], atol=1e-5, rtol=1e-4)


def test_nothing_is_learned():
    router = build()
    assert not list(router.parameters()) and not router(torch.randn(B, T, D, requires_grad=True))[0].requires_grad


def test_ids_of_another_shape_are_refused():
    with pytest.raises(BadValue, match=r"tokens of shape \(3, 4\) do not fit vectors of shape \(3, 5, 12\)"):
        build()(torch.randn(B, T, D), torch.zeros(B, 4, dtype=torch.long))


def test_every_layer_of_a_language_model_hashes_the_input_token():
    one = explorer.Experiment("hash-routing", batch=2, layers=3, n_experts=E)
    one.advance()
    tokens = one.recording.last("/tokens")
    for layer, block in zip(one.recording.layers(), one.model.blocks, strict=True):
        assert torch.equal(one.recording.last(f"{layer}/index")[..., 0], block.ffn.router.experts[tokens])
