"""The timeline: bounded, spread over the whole run, and the nearest moment of any step."""

from hypothesis import given
from hypothesis import strategies as st

from widgets.states.timeline import Timeline


@given(st.lists(st.integers(1, 7), min_size=1, max_size=300), st.integers(4, 40))
def test_it_stays_bounded_spread_and_in_order(gaps, most):
    timeline, step = Timeline(most), 0
    for gap in gaps:
        timeline.add(step, step * 10)
        step += gap
    newest = step - gaps[-1]
    assert len(timeline.steps) <= most
    assert timeline.steps == sorted(set(timeline.steps))
    assert timeline.moments == [step * 10 for step in timeline.steps]
    assert (timeline.steps[0], timeline.steps[-1]) == (0, newest)
    if len(timeline.steps) > 2:
        widest = max(b - a for a, b in zip(timeline.steps, timeline.steps[1:], strict=False))
        assert widest <= 7 * 2 * max(1, 2 * len(gaps) / most)


@given(st.sets(st.integers(0, 200), min_size=1), st.integers(-5, 250))
def test_the_nearest_moment_is_found(steps, step):
    timeline = Timeline(1000)
    for one in sorted(steps):
        timeline.add(one, one)
    assert abs(timeline.at(step) - step) == min(abs(one - step) for one in steps)


def test_going_back_forgets_what_came_after():
    timeline = Timeline()
    for step in (0, 5, 10):
        timeline.add(step, "old")
    timeline.add(5, "new")
    assert (timeline.steps, timeline.moments) == ([0, 5], ["old", "new"])


def test_a_copy_goes_its_own_way():
    timeline = Timeline()
    timeline.add(0, "a")
    twin = timeline.copy()
    twin.add(1, "b")
    assert (timeline.steps, twin.steps) == ([0], [0, 1])
    assert Timeline().at(3) is None
