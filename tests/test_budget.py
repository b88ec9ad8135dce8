"""The cores of a room: who trains is counted across processes, and everybody rests until the work is paid for."""

import subprocess
import sys
from pathlib import Path

import pytest

from explorer import budget
from explorer.budget import COUNTS, LOOK, Pace, Table, share_of


class Clock:
    """A clock that is set by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with budget.table_file() as made:
        (tmp_path / "table").write_bytes(Path(made).read_bytes())
    assert not Path(made).exists(), "the file is gone with the server"
    return tmp_path / "table"


def test_a_fresh_table_counts_nobody(path: Path) -> None:
    assert Table(path).training(0.0) == 0


def test_a_run_counts_until_its_time_is_over_and_for_every_process(path: Path) -> None:
    mine, other = Table(path), Table(path)
    mine.mark(mine.take(7, 100.0), 103.0)
    mine.mark(mine.take(8, 100.0), 101.0)
    assert [other.training(now) for now in (100.5, 102.0, 103.0)] == [2, 1, 0]


def test_another_process_sees_it(path: Path) -> None:
    table = Table(path)
    table.mark(table.take(7, 100.0), 103.0)
    code = f"from explorer.budget import Table; print(Table({str(path)!r}).training(101.0))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert run.stdout.split() == ["1"], run.stderr


def test_everybody_has_a_place_of_his_own_and_keeps_it(path: Path) -> None:
    table = Table(path)
    places = {}
    for owner in range(1, budget.PLACES + 1):
        places[owner] = table.take(owner * 37, 100.0)
        table.mark(places[owner], 1000.0)
    assert len(set(places.values())) == budget.PLACES
    assert table.take(37, 100.0) == places[1]
    # a full table still takes people in; two are then counted as one
    assert 0 <= table.take(10**6, 100.0) < budget.PLACES
    assert table.training(100.0) == budget.PLACES


def test_a_place_that_counts_no_more_is_given_away(path: Path) -> None:
    table = Table(path)
    first = table.take(5, 100.0)
    table.mark(first, 100.0)
    assert table.take(5 + budget.PLACES, 100.0 + COUNTS / 2) != first
    assert table.take(5 + 2 * budget.PLACES, 100.0 + 2 * COUNTS) == first


@pytest.mark.parametrize(
    ("runs", "cores", "share"), [(0, 2, 1), (1, 2, 1), (1, 0.5, 1), (2, 2, 0.7), (30, 2, 1.4 / 30)]
)
def test_shares(runs: int, cores: float, share: float) -> None:
    assert share_of(runs, cores) == pytest.approx(share)


def test_all_together_take_what_is_allotted() -> None:
    for runs in range(2, 100):
        assert runs * share_of(runs, 4) <= 0.7 * 4 + 1e-9


def room_of(path: Path, people: int, cores: float = 2.0) -> tuple[Clock, Clock, Pace]:
    """A process that begins to train, among so many."""
    clock, worked, table = Clock(), Clock(), Table(path)
    for other in range(1, people):
        table.mark(other * 3, clock.now + 1e6)
    pace = Pace(table, cores, clock, worked)
    pace.begin()
    return clock, worked, pace


def rested(clock: Clock, pace: Pace) -> float:
    """Rest as the training loop does; how long."""
    begun = clock.now
    while (rest := pace.rest()) > 0:
        assert rest <= LOOK
        clock.now += rest
    return clock.now - begun


def test_who_trains_alone_never_rests(path: Path) -> None:
    clock, worked, pace = room_of(path, people=1)
    for _ in range(100):
        worked.now += 0.3
        clock.now += 0.1
        assert pace.rest() == 0.0
    assert pace.frame_seconds == 0.0
    assert pace.said() == ""


def test_a_step_is_paid_for_before_the_next(path: Path) -> None:
    clock, worked, pace = room_of(path, people=30)
    share, begun, done = 1.4 / 30, clock.now, 0.0
    for step in (0.05, 0.4, 0.01, 0.2):
        worked.now += step
        clock.now += step  # the machine was not late
        done += step
        rested(clock, pace)
        assert done / (clock.now - begun) == pytest.approx(share, rel=0.01)


def test_a_late_machine_is_not_paid_twice(path: Path) -> None:
    clock, worked, pace = room_of(path, people=30)
    worked.now += 0.1
    clock.now += 60.0  # others had the cores
    assert pace.rest() == 0.0
    # and nothing is saved up for later
    worked.now += 0.1
    assert rested(clock, pace) == pytest.approx(0.1 * 30 / 1.4, rel=0.01)


def test_when_others_stop_the_rest_is_over(path: Path) -> None:
    clock, worked, pace = room_of(path, people=30)
    worked.now += 1.0
    assert pace.rest() == LOOK
    for other in range(1, 30):
        Table(path).mark(other * 3, 0.0)
    clock.now += LOOK
    assert pace.rest() == 0.0
    assert pace.said() == ""


def test_frames_are_fewer_where_many_train(path: Path) -> None:
    _, worked, pace = room_of(path, people=4)
    assert pace.frame_seconds == pytest.approx(1 / budget.PAINTS)
    with pace.painting():
        worked.now += 0.1
    assert pace.frame_seconds == pytest.approx(0.1 / (0.5 * 0.35))


def test_the_page_says_what_slows_it(path: Path) -> None:
    _, _, pace = room_of(path, people=28)
    assert pace.said() == "28 runs, each with 5 % of a core"


def test_who_stops_counts_no_more_at_once(path: Path) -> None:
    clock, _, pace = room_of(path, people=3)
    assert Table(path).training(clock.now) == 3
    pace.begin()  # a second loop of the same page
    pace.end()
    assert Table(path).training(clock.now) == 3
    pace.end()
    assert Table(path).training(clock.now) == 2
    assert pace.said() == ""


def test_without_a_table_nothing_is_slowed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for missing in ("", str(tmp_path / "nowhere"), str(tmp_path)):
        monkeypatch.setenv(budget.FILE, missing)
        pace = budget.pace.__wrapped__()
        pace.begin()
        assert (pace.rest(), pace.frame_seconds, pace.said(), pace.share) == (0.0, 0.0, "", 1.0)
        pace.end()
        assert budget.facts({budget.FILE: missing}) == {}


def test_the_facts_are_those_of_the_table(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table(path)
    for place in range(7):
        table.mark(place, 1e18)
    monkeypatch.setattr(budget, "cores", lambda: 2.0)
    assert budget.facts({budget.FILE: str(path)}) == {"training": 7, "share": 0.2}
