"""The block gate: its scores and its loss against loops, the map it learns from, and the blocks it leaves out."""

import copy
import math

import pytest
import torch

import explorer
from explorer.errors import BadValue
from explorer.kernels.block_attention import choose_blocks, tokens_of
from explorer.kernels.rotary import rotary

B, T, D, H = 2, 13, 24, 2
EVERYTHING = ["*", "*/attention"]


def built(**knobs):
    torch.manual_seed(0)
    return explorer.build("block-gate", d_model=D, n_heads=H, **{"block": 3, **knobs})


def before_the_turn(module, x):
    """Queries, keys and values (B, H, T, d) before RoPE."""
    return module.qkv(x).view(*x.shape[:2], 3 * H, -1).transpose(1, 2).chunk(3, dim=1)


def turned(vector, position, base):
    turn = base ** -(2 * torch.arange(len(vector) // 2).double() / len(vector))
    z = torch.complex(*vector.chunk(2)) * torch.exp(1j * position * turn)
    return torch.cat([z.real, z.imag])


def slow_scores(module, q_Td, k_Td, h):
    """The logits (M, M) of one head, a pair of blocks at a time."""
    b, M = module.block, math.ceil(len(q_Td) / module.block)
    queries, keys = [], []
    for m in range(M):
        part_q, part_k = q_Td[m * b : (m + 1) * b], k_Td[m * b : (m + 1) * b]
        query = part_q.mean(0) if module.gate_query is None else part_q.mean(0) @ module.gate_query[h]
        key = torch.cat([part_k.max(0).values, part_k.min(0).values, part_k.mean(0)]) @ module.gate_key[h]
        queries.append(turned(query, m * b, module.rope_base))
        keys.append(turned(key, m * b, module.rope_base))
    return [[q @ k / math.sqrt(module.gate_width) for k in keys[: m + 1]] for m, q in enumerate(queries)]


def slow_loss(module, x):
    """Mean over batch, heads and rows behind the first quarter of sum_n G log(G / p)."""
    terms, b, base = [], module.block, module.rope_base
    q, k, _ = (part.detach() for part in before_the_turn(module, x))
    M = math.ceil(x.shape[1] / b)
    for i in range(len(x)):
        for h in range(H):
            logits = slow_scores(module, q[i, h], k[i, h], h)
            tq, tk = (torch.stack([turned(v, t, base) for t, v in enumerate(part[i, h])]) for part in (q, k))
            for m in range(M // 4, M):
                own = range(m * b, min((m + 1) * b, x.shape[1]))
                rows = [(tk[: t + 1] @ tq[t] / math.sqrt(tq.shape[-1])).softmax(-1) for t in own]
                G = torch.stack(
                    [max(row[n * b : (n + 1) * b].max() for row in rows if len(row) > n * b) for n in range(m + 1)]
                )
                G = G / G.sum()
                p = torch.stack(logits[m]).softmax(-1)
                terms.append((G * (G / p).log()).sum())
    return torch.stack(terms).mean()


@pytest.mark.parametrize("gate_width", [16, D // H])
def test_loss_and_gradients_of_the_gate_agree_with_a_slow_reading(gate_width):
    module = built(gate_width=gate_width, rope_base=50.0).double()
    assert (module.gate_query is None) == (gate_width == D // H)
    x = torch.randn(B, T, D).double()
    module(x)
    slow = slow_loss(module, x)
    torch.testing.assert_close(module.auxiliary, slow, atol=1e-6, rtol=1e-5)  # the rotation's angles are float32
    gate = [p for name, p in module.named_parameters() if name.startswith("gate")]
    pairs = zip(*(torch.autograd.grad(loss, gate) for loss in (module.auxiliary, slow)), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


def test_scores_by_hand():
    """One head of width 2 that is all identity, one token a block: q = k = x, max = min = mean = x, the gate takes the max.

    No turn at the first place, one radian at the second: the second row scores 1 . 2 cos(1) and 2 . 2, over sqrt(2).
    """
    module = explorer.build("block-gate", d_model=2, n_heads=1, block=1, gate_width=2)
    with torch.no_grad():
        module.qkv.weight.copy_(torch.eye(2).repeat(3, 1))
        module.gate_key.copy_(torch.cat([torch.eye(2), torch.zeros(4, 2)])[None])
    with explorer.record(module) as recording:
        module(torch.tensor([[[1.0, 0.0], [2.0, 0.0]]]))
    share = 1 / (1 + math.exp((2 * math.cos(1) - 4) / math.sqrt(2)))
    torch.testing.assert_close(recording.last("/block_scores")[0, 0], torch.tensor([[1, 0], [1 - share, share]]))


def test_dense_it_is_softmax_attention_to_the_bit_and_the_gate_is_only_watched():
    module, plain = built(), explorer.build("softmax-attention", d_model=D, n_heads=H)
    plain.load_state_dict({name: value for name, value in module.state_dict().items() if "gate" not in name})
    x = torch.randn(B, T, D)
    assert torch.equal(module(x), plain(x))


def test_the_gates_loss_moves_the_gate_alone_and_the_task_everything_else():
    module, x = built(), torch.randn(B, T, D, requires_grad=True)
    y = module(x)
    names = [name for name, _ in module.named_parameters()]
    own = torch.autograd.grad(module.auxiliary, [x, *module.parameters()], allow_unused=True, retain_graph=True)
    assert {name for name, grad in zip(["x", *names], own, strict=True) if grad is not None} == {
        "gate_query",
        "gate_key",
    }
    of_task = torch.autograd.grad(y.square().sum(), list(module.parameters()), allow_unused=True)
    assert {name for name, grad in zip(names, of_task, strict=True) if grad is not None} == {"qkv.weight", "out.weight"}


def test_in_evaluation_there_is_no_loss_and_nothing_is_computed_for_it(monkeypatch):
    module, x = built(), torch.randn(B, T, D)
    module(x)
    assert module.auxiliary is not None

    def never(*_):
        raise AssertionError("nobody asked")

    monkeypatch.setattr(module, "block_logits", never)
    module.eval()(x)
    assert module.auxiliary is None


@pytest.mark.parametrize("density", [0.1, 0.3, 1.0])
def test_sparse_it_attends_to_the_kept_blocks_and_to_nothing_else(density):
    module, x = built(block=2, density=density, sparse=True), torch.randn(B, T, D)
    with explorer.record(module, EVERYTHING) as recording:
        y = module(x)
    kept = choose_blocks(recording.last("/block_scores"), density)
    assert torch.equal(recording.last("/block_kept") > 0, kept)
    may = tokens_of(kept, 2, T)
    q, k, v = before_the_turn(module, x)
    q, k = rotary(q, module.rope_base), rotary(k, module.rope_base)
    slow = (q @ k.transpose(-1, -2) * (D // H) ** -0.5).masked_fill(~may, -torch.inf).softmax(-1)
    torch.testing.assert_close(recording.last("/attention"), slow, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(y, module.out((slow @ v).transpose(1, 2).reshape(B, T, D)), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(recording.last("/elsewhere"), torch.zeros(B, H), atol=1e-5, rtol=0)


def test_with_all_blocks_kept_sparse_is_dense():
    module, x = built(density=1.0), torch.randn(B, T, D)
    y = module(x)
    module.sparse = True
    torch.testing.assert_close(module(x), y)


def test_an_edited_choice_is_obeyed():
    module, x = built(block=2, sparse=True, density=0.1), torch.randn(B, T, D)
    dense = built(block=2)(x)
    with explorer.edit(module, "*/block_kept", lambda kept: torch.ones_like(kept).tril()):
        torch.testing.assert_close(module(x), dense)
    assert (module(x) - dense).abs().max() > 1e-3


def test_what_is_watched_fits_together():
    module, x = built(block=2), torch.randn(B, T, D)
    with explorer.record(module, EVERYTHING) as recording:
        module(x)
    whole, mass = recording.last("/attention"), recording.last("/block_mass")
    member = torch.nn.functional.one_hot(torch.arange(T) // 2).float()
    rows = (whole @ member)[:, :, :12].unflatten(2, (6, 2)).mean(3)
    torch.testing.assert_close(mass[:, :, :6], rows)
    for tap in ("block_scores", "block_truth", "block_mass"):
        torch.testing.assert_close(recording.last(f"/{tap}").sum(-1), torch.ones(B, H, 7))
    assert ((recording.last("/recall") > 0) & (recording.last("/recall") < 1)).all()


def test_the_gate_learns_the_map_of_a_fixed_model():
    module, x = built(block=2, density=0.5), torch.randn(8, 24, D)
    with torch.no_grad():
        module.qkv.weight.mul_(1.5)
    adam = torch.optim.Adam([module.gate_query, module.gate_key], lr=0.02)
    losses, recalls = [], []
    for _ in range(150):
        with explorer.record(module, "*/recall") as recording:
            module(x)
        adam.zero_grad()
        module.auxiliary.backward()
        adam.step()
        losses.append(module.auxiliary.item())
        recalls.append(recording.last("/recall").mean().item())
    assert losses[-1] < 0.6 * losses[0] and recalls[-1] > recalls[0] + 0.05


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_rows_shorter_than_a_block_or_with_nothing_to_choose(length, sparse):
    module, x = built(block=4, sparse=sparse), torch.randn(B, length, D, requires_grad=True)
    with explorer.record(module, EVERYTHING) as recording:
        y = module(x)
    (y.square().sum() + module.auxiliary).backward()
    assert y.isfinite().all() and x.grad.isfinite().all() and module.auxiliary.isfinite()
    assert (recording.last("/recall") == 1).all()


@pytest.mark.parametrize("dtype, size", [(torch.float16, 1.0), (torch.bfloat16, 1.0), (torch.bfloat16, 1e3)])
def test_half_precision_and_large_inputs_stay_finite(dtype, size):
    module = built(sparse=True).to(dtype)
    x = (size * torch.randn(B, T, D)).to(dtype).requires_grad_()
    y = module(x)
    (y.float().square().mean() + module.auxiliary).backward()
    assert y.dtype == dtype and y.isfinite().all() and module.auxiliary.isfinite()
    assert module.gate_key.grad.isfinite().all()


def test_a_copy_and_a_reloaded_one_compute_the_same():
    module, x = built(sparse=True), torch.randn(1, T, D)
    other = built(sparse=True, density=0.25)
    other.load_state_dict(module.state_dict())
    assert torch.equal(module(x), copy.deepcopy(module)(x)) and torch.equal(module(x), other.eval()(x))


@pytest.mark.parametrize(
    "knobs, said", [({"n_heads": 5}, "n_heads=5.*even width"), ({"gate_width": 7}, "gate_width=7.*even")]
)
def test_what_cannot_be_is_refused(knobs, said):
    with pytest.raises(BadValue, match=said):
        explorer.build("block-gate", d_model=D, **knobs)
