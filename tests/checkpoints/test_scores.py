"""What the arguments of each attention implementation mean, where this machine cannot run it."""

import pytest
import torch
from torch import nn

from explorer.checkpoints.batch import Side
from explorer.checkpoints.scores import call_of
from explorer.errors import BadValue


class Causal(nn.Module):
    is_causal = True


def given(T=4, S=4, **more):
    torch.manual_seed(0)
    parts = {"query": torch.randn(2, 4, T, 8), "key": torch.randn(2, 2, S, 8), "value": torch.randn(2, 2, S, 8)}
    return {**parts, "attention_mask": None, **more}


def seen(call):
    return call.visible().expand(2, 1, call.q.shape[2], call.k.shape[2])[:, 0].int().tolist()


def test_flash_attention_has_a_window_and_padding_by_key():
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    side = Side(None, mask.bool(), torch.tensor([[-1, 0, 1, 2], [0, 1, 2, 3]]), 4)
    call = call_of("flash_attention_2", Causal(), given(attention_mask=mask, sliding_window=2), side)
    assert seen(call) == [
        [[0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]],
        [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]],
    ]
    assert call.k.shape[1] == 4  # repeated for every head


def test_flash_attention_on_packed_sequences_is_refused():
    with pytest.raises(BadValue, match="pad them"):
        call_of("flash_attention_2", Causal(), given(cu_seq_lens_q=torch.tensor([0, 2, 4])), None)


def test_flex_attention_has_a_mask_by_blocks():
    from torch.nn.attention.flex_attention import create_block_mask

    blocks = create_block_mask(lambda b, h, q, k: q >= k, 2, None, 4, 4, device="cpu")
    call = call_of("flex_attention", Causal(), given(attention_mask=blocks), None)
    assert seen(call)[0] == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]


def test_scaled_dot_product_attention_is_causal_only_without_a_mask_and_before_decoding():
    assert call_of("sdpa", Causal(), given(), None).causal
    assert not call_of("sdpa", Causal(), given(is_causal=False), None).causal
    assert not call_of("sdpa", Causal(), given(T=1, S=4), None).causal
    full = torch.ones(2, 1, 4, 4, dtype=torch.bool)
    assert not call_of("sdpa", Causal(), given(attention_mask=full), None).causal
    roomy = call_of("sdpa", Causal(), given(T=4, S=9), None)
    assert roomy.causal and roomy.k.shape[2] == 4  # a cache with room for five more


@pytest.mark.parametrize("low", [-10000.0, torch.finfo(torch.float32).min, -torch.inf])
def test_numbers_that_only_hide_keys_are_a_mask(low):
    mask = torch.zeros(2, 1, 4, 4)
    mask[..., 3] = low
    call = call_of("eager", Causal(), given(attention_mask=mask), None)
    assert not call.needs_map
    assert seen(call)[0] == [[1, 1, 1, 0]] * 4


def test_other_numbers_are_a_bias_and_need_the_map():
    mask = torch.zeros(2, 1, 4, 4)
    mask[..., 0] = 1.5
    call = call_of("eager", Causal(), given(attention_mask=mask), None)
    assert call.needs_map
    k = call.k
    wanted = (call.q @ k.transpose(-1, -2) * 8**-0.5 + mask).softmax(-1)
    torch.testing.assert_close(call.map(), wanted)


def test_a_query_that_may_look_nowhere_gives_nothing():
    side = Side(None, torch.zeros(2, 4, dtype=torch.bool), torch.full((2, 4), -1), 4)
    call = call_of("eager", Causal(), given(position_bias=torch.ones(1, 4, 4, 4)), side)
    assert not call.map().any()


def test_a_sink_that_depends_on_the_query_takes_its_share():
    sinks = torch.full((2, 4, 4, 1), 50.0)
    assert call_of("eager", Causal(), given(sinks=sinks), None).map().sum() < 1e-6
    assert call_of("eager", Causal(), given(s_aux=torch.zeros(4)), None).sink.shape == (4,)
    assert call_of("sdpa", Causal(), given(s_aux=torch.zeros(4)), None).sink is None
