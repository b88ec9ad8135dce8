"""Long inputs: thousands of tokens are read on a thread while the page and its run go on."""

import asyncio
import time

import pytest
import torch

from explorer.errors import BadValue
from widgets.labs.attention import AttentionLab
from widgets.labs.frame import escape
from widgets.states import long_input
from widgets.states.attention import AttentionState


def make(query=""):
    return AttentionLab(AttentionState(f"batch=2&{query}"))


def play(coroutine):
    return asyncio.run(coroutine)


async def beats(task, every=0.01):
    """The longest that the event loop was not free, in seconds, until the task is done."""
    longest = 0.0
    while not task.done():
        before = time.perf_counter()
        await asyncio.sleep(every)
        longest = max(longest, time.perf_counter() - before - every)
    return longest


def test_eight_thousand_tokens_are_read_while_the_page_stays_free():
    lab = make()
    lab.one_step()
    lab.long.length.value = 8192

    async def read():
        task = lab.long.start()
        assert lab.long.go.disabled
        assert "Reading 8,192 tokens with the model of step 1" in lab.long.said.value
        assert lab.long.start() is None  # one at a time
        return await beats(task)

    began = time.perf_counter()
    longest = play(read())
    took = time.perf_counter() - began
    assert lab.state.error is None
    assert longest < max(0.5, took / 2), f"the loop stood still for {longest:.2f} s of {took:.2f} s"
    assert "8,192 tokens read in" in lab.long.said.value
    assert escape("Maps would have taken 512 MiB; none was made") in lab.long.said.value
    assert lab.long.chart.layout.display == ""
    assert lab.long.chart.frame["figure"]["data"]
    assert "step 1" in lab.long.chart.stamp
    assert not lab.long.go.disabled


def test_training_goes_on_meanwhile_and_what_is_read_is_the_model_of_then():
    lab = make()
    run = lab.runs.a.experiment

    async def read():
        lab.long.length.value = 2048
        task = lab.long.start()
        for _ in range(3):
            lab.runs.advance()
            await asyncio.sleep(0)
        await task

    play(read())
    assert run.step == 3
    assert "2,048 tokens read in" in lab.long.said.value
    twin = make().runs.a.experiment.run(3)
    assert run.losses().equal(twin.losses())  # reading has not touched the run


def test_what_was_read_for_a_run_that_is_gone_is_not_shown():
    lab = make()

    async def read():
        lab.long.length.value = 512
        task = lab.long.start()
        lab.reset()
        await task

    play(read())
    assert lab.long.chart.layout.display == "none"
    assert "read in" not in lab.long.said.value
    assert not lab.long.go.disabled


def test_a_reading_that_fails_says_so_and_the_page_goes_on(monkeypatch):
    lab = make()

    def fails(*_):
        raise RuntimeError("no memory left")

    monkeypatch.setattr(long_input, "read", fails)

    async def read():
        await lab.long.start()

    play(read())
    assert lab.state.error["title"] == "Something went wrong"
    assert "did not work" in lab.long.said.value
    assert not lab.long.go.disabled


@pytest.mark.parametrize("mechanism", ["softmax-attention", "gated-attention", "sink-logit", "sigmoid-attention",
                                       "forgetting-attention", "hopfield"])  # fmt: skip
def test_every_mechanism_of_tokens_reads_on(mechanism):
    run = make(f"mechanism={mechanism}").runs.a.experiment
    found = long_input.read(run, long_input.frozen(run), 300)
    assert found.received.shape == (2, 300)
    assert found.received.isfinite().all() and (found.received >= 0).all()
    assert found.kernel
    assert ((found.first >= 0) & (found.first <= 1)).all()
    said = long_input.sentence(found)
    assert "300 tokens read in" in said and said.endswith(").")


def test_a_learned_sink_is_told_of_and_never_added_to_the_grown_one():
    run = make("mechanism=sink-logit").runs.a.experiment
    found = long_input.read(run, long_input.frozen(run), 128)
    found = type(found)(**{**vars(found), "first": torch.tensor([0.1, 0.05]), "elsewhere": torch.tensor([0.4, 0.6])})
    said = long_input.sentence(found)
    assert "layer 0 · head 0 gives 10% of its attention to the first token" in said
    assert "at most 60% goes to no token" in said


def test_pictures_have_no_long_inputs():
    run = make("mechanism=gated-positional").runs.a.experiment
    assert long_input.cannot(run) == "This task's inputs have a fixed length."


def test_a_long_input_has_two_tokens_at_least():
    with pytest.raises(BadValue, match="at least 2"):
        long_input.inputs(make().runs.a.experiment, 1)


@pytest.mark.parametrize(("count", "said"), [(2**20, "1 MiB"), (512 * 2**20, "512 MiB"), (3 * 2**29, "1.5 GiB")])
def test_sizes_are_told_in_units_one_can_feel(count, said):
    assert long_input._size(count) == said
