"""Small versions of `python -m tests.classroom frames` and `queries`: what they look for is found, and nothing here has it."""

import asyncio
import random
import re
from pathlib import Path

import pytest

from tests.classroom import bad_frames, hostile, odd_requests, queries
from tests.classroom.frames import TOKEN, Bad, Good, Seen
from tests.classroom.room import Server
from widgets.lessons.desk import Desk
from widgets.states.attention import AttentionState
from widgets.states.routing import RoutingState

# --- what they look for -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        "Traceback (most recent call last)",
        '"File \\"/x/y.py\\", line 3"',
        f"{hostile.ROOT}/explorer",
        "lib/python3/site-packages/x",
    ],
)
def test_what_tells_of_the_machine_is_heard(sent: str) -> None:
    ear = hostile.Ear()
    ear.hear(f"something {sent} something", "here")
    assert ear.leaks
    assert ear.row().met is False


def test_what_tells_nothing_is_not() -> None:
    ear = hostile.Ear()
    ear.hear('File "notes" is not there; choose /home/me/models/my-mixtral')
    assert ear.leaks == []
    assert ear.row().met


def test_a_table_with_one_row_that_fell_short_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    met, told = hostile.Row("a", "1", "1", True), hostile.Row("c", "3")
    assert hostile.table("Title", [met, told]) == 0
    assert hostile.table("Title", [met, hostile.Row("b", "2", "1", False)], ["why"]) == 1
    assert re.search(r"b +2 +1 +SHORT\n +! why", capsys.readouterr().out)


# --- links ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", queries.KNOWN)
def test_forty_hostile_links_of_a_page_are_read(page: str) -> None:
    dice, seen, reader = random.Random(page), queries.Seen(), queries.readers()[page]
    for _ in range(40):
        seen.read(reader, queries.hostile_query(dice, page))
    assert seen.faults == []
    assert seen.sentences > 0 or page == "lesson"


def test_a_reader_that_fails_is_a_fault() -> None:
    seen = queries.Seen()
    seen.read(lambda query: [f"\x00{query}"], "a")
    seen.read(lambda query: [str(1 / 0)], "b")
    assert len(seen.faults) == 2


@pytest.mark.parametrize(
    ("kind", "query"),
    [
        (kind, query)
        for page, query in queries.HEAVY[:3]
        for kind in [AttentionState if page == "attention" else RoutingState]
    ],
)
def test_a_link_cannot_take_the_memory_of_the_machine(kind: type, query: str) -> None:
    with pytest.raises(Exception, match=r"^these settings need about [\d,.]+ GB of memory, and there is room for 1\.0"):
        kind(query).experiments()


def test_a_student_is_not_told_where_progress_would_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "progress.sqlite").write_text("no database at all")
    monkeypatch.setenv("GATING_EXPLORER_PROGRESS", str(tmp_path / "progress.sqlite"))
    at = Desk()
    monkeypatch.setenv("GATING_EXPLORER_STUDENT", "Ada")
    said = at.keep(1, "quiz", "1.q1", 1.0, True)
    assert said.startswith("It could not be stored")
    assert "progress.sqlite" in said
    assert str(tmp_path) not in said


# --- a running server -------------------------------------------------------------------------------------------------


def test_hostile_frames_and_requests_are_refused_or_harmless() -> None:
    """Forty frames of one bad client and every odd request, while a good one asks; nobody is told of the machine."""

    async def run() -> tuple[Seen, odd_requests.Requests, Good, hostile.Ear]:
        ear, seen = hostile.Ear(), Seen()
        with Server(people=0, token=TOKEN) as server:
            async with Good(server, ear) as good:
                good.phase = "all of it"
                await Bad(server, 7, ear, seen).run(40)
                requests = odd_requests.Requests(server, good, ear)
                await requests.prepare()
                for odd in odd_requests.all_of_them():
                    await requests.one(odd)
        return seen, requests, good, ear

    bad_frames.MARK.unlink(missing_ok=True)
    seen, requests, good, ear = asyncio.run(run())
    assert seen.count >= 40
    assert seen.wrong == []
    assert requests.wrong == []
    assert requests.failed == []
    assert not bad_frames.MARK.exists()
    assert ear.leaks == []
    assert len(good.waits["all of it"]) > 2
