import pytest
import torch

import explorer
from explorer.counting import count
from explorer.errors import BadValue
from explorer.models.stack_model import StackModel


def test_a_stack_stands_between_embedding_and_norm_with_nothing_added_around_it():
    torch.manual_seed(0)
    stack = explorer.build("moeut", d_model=16, n_experts=4, k=2, n_heads=2)
    model, tokens = StackModel(11, 16, [stack]), torch.randint(11, (2, 5))
    expected = model.norm(stack(model.embed(tokens))) @ model.embed.weight.T
    torch.testing.assert_close(model(tokens), expected)
    with explorer.record(model) as seen:
        model(tokens)
    assert torch.equal(seen.last("/tokens"), tokens)
    assert seen.layers() == [f"blocks.0.choice.{i}" for i in range(4)]


def test_its_flops_are_those_of_the_stack_and_of_the_head():
    stack = explorer.build("mixture-of-modules", d_model=16, n_heads=2)
    one, untied = (count(StackModel(11, 16, [stack], tied=tied), 5) for tied in (True, False))
    assert one.flops == stack.flops(5) + 2 * 11 * 16 == untied.flops
    assert untied.parameters == one.parameters + 11 * 16


@pytest.mark.parametrize("vocab, stacks", [(1, [torch.nn.Identity()]), (5, [])])
def test_without_words_or_stacks_there_is_no_model(vocab, stacks):
    with pytest.raises(BadValue, match="stack"):
        StackModel(vocab, 8, stacks)
