"""The live trainer never blocks its event loop for longer than a step, and loses no frame that matters."""

import asyncio
import time
from dataclasses import dataclass, field

import pytest

from explorer.errors import Diverged
from explorer.training.live import LiveTrainer


@dataclass
class Counter:
    """Stands in for an Experiment: a step takes two milliseconds."""

    step: int = 0
    fails_at: int = -1
    seconds: float = 0.002
    seen: list = field(default_factory=list)

    def advance(self):
        if self.step == self.fails_at:
            raise Diverged("the loss became nan at step 3")
        time.sleep(self.seconds)
        self.step += 1
        return self.step


def trainer(experiment, **more):
    frames, errors = [], []
    live = LiveTrainer(experiment, lambda: frames.append(experiment.step), errors.append, **more)
    return live, frames, errors


def test_pause_stops_after_the_step_under_way_and_draws_it():
    async def play():
        live, frames, errors = trainer(Counter())
        live.start()
        await asyncio.sleep(0.05)
        assert live.running
        live.pause()
        at = live.experiment.step
        await asyncio.sleep(0.02)
        assert live.experiment.step == at > 3
        assert frames[-1] == at
        assert not live.running
        assert not errors
        live.start()
        await asyncio.sleep(0.02)
        live.pause()
        assert live.experiment.step > at

    asyncio.run(play())


def test_other_tasks_run_between_the_steps():
    async def play():
        live, _, _ = trainer(Counter())
        live.start()
        beats = 0
        for _ in range(10):
            await asyncio.sleep(0)
            beats += 1
        assert beats == 10
        assert live.experiment.step <= 12
        live.pause()

    asyncio.run(play())


def test_frames_are_capped_by_the_clock_and_not_by_the_steps():
    async def play():
        live, frames, _ = trainer(Counter(seconds=0.001), frame_seconds=0.05)
        live.start()
        await asyncio.sleep(0.4)
        live.pause()
        assert live.experiment.step > 50
        assert 3 <= len(frames) <= 10

    asyncio.run(play())


def test_no_frame_is_made_for_a_view_that_has_not_drawn_the_last_one():
    async def play():
        live, frames, _ = trainer(Counter(), frame_seconds=0.0, ready=lambda: False)
        live.start()
        await asyncio.sleep(0.05)
        assert frames == []
        live.pause()
        assert frames == [live.experiment.step]

    asyncio.run(play())


def test_an_error_ends_the_run_and_is_reported_once():
    async def play():
        live, _, errors = trainer(Counter(fails_at=3))
        live.start()
        await live.wait()
        await asyncio.sleep(0.01)
        assert [str(one) for one in errors] == ["the loss became nan at step 3"]
        assert not live.running

    asyncio.run(play())


def test_a_run_of_n_steps_ends_by_itself():
    async def play():
        live, frames, _ = trainer(Counter())
        live.start(steps=5)
        await live.wait()
        assert live.experiment.step == frames[-1] == 5
        assert live.steps_per_second > 0
        assert not live.running

    asyncio.run(play())


@pytest.mark.parametrize("pace", [0.02])
def test_a_slower_pace_leaves_the_processor_to_others(pace):
    async def play():
        live, _, _ = trainer(Counter(seconds=0.0), step_seconds=pace)
        live.start()
        await asyncio.sleep(10.5 * pace)
        live.pause()
        assert live.experiment.step <= 12

    asyncio.run(play())
