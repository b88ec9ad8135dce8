"""What a page keeps on disk, and that a page which goes on with it is the very same one, whatever was in the way."""

import asyncio
import json
import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from widgets.labs import frame, keeping, shell
from widgets.labs.keeping import KeepingPart
from widgets.labs.lab import Lab
from widgets.states import kept
from widgets.states.kept import CannotKeep, Kept, Shelf

SMALL = "layers=1&batch=2&expert_width=8"
ROOT = os.geteuid() == 0
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the limits of a process are Linux's")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(kept.FOLDER, str(tmp_path / "kept"))
    return tmp_path / "kept"


def open_lab(query: str = SMALL, name: str = "routing") -> Lab:
    lab: Lab = shell._build(name, query)
    return lab


def take(lab: Lab, steps: int) -> None:
    for _ in range(steps):
        lab.one_step()


def only(folder: Path) -> Path:
    (file,) = (one for one in folder.iterdir() if one.suffix == ".json")
    return file


def losses(lab: Lab, side: str = "a") -> list[float]:
    found: list[float] = lab.runs.sides[side].experiment.losses().tolist()
    return found


def go_on(file: Path) -> Lab:
    """Open the page as the button does, and let it come to where it was."""

    async def run() -> Lab:
        lab = open_lab(f"theme=light&{kept.NAME}={file.stem}")
        assert lab.trainer
        await lab.trainer.wait()
        return lab

    return asyncio.run(run())


# --- the very same run ------------------------------------------------------------------------------------------------


def test_a_page_goes_on_with_the_very_same_run(folder: Path) -> None:
    lab = open_lab(f"{SMALL}&k=1&seed=7&speed=1")
    take(lab, 3)
    lab.set_knob("learning_rate", 0.01)
    lab.fork()
    take(lab, 2)
    lab.set_knob("learning_rate", 0.001, side="b")
    take(lab, 2)
    again = go_on(only(folder))
    for side in "ab":
        assert losses(again, side) == losses(lab, side)
    assert again.runs.step == 7
    take(lab, 2)
    take(again, 2)
    assert losses(again, "b") == losses(lab, "b")
    assert again.state.link() == lab.state.link()
    assert again._trainer.step_seconds == 1.0, "it was trained again at full speed, and goes on at its own"


def test_more_steps_and_longer_texts_than_a_link_may_have_are_kept(folder: Path) -> None:
    lab = open_lab()
    lab.state.own = (("Mine", "to be or not to be, that is the question. " * 200),)
    lab.reset()
    take(lab, 2)
    found = json.loads(only(folder).read_text())
    assert found["step"] == 2
    again = go_on(only(folder))
    assert again.state.own == lab.state.own
    assert losses(again) == losses(lab)
    state = type(lab.state)(SMALL)
    kept.restore(state, Kept("routing", SMALL, 12345, ((5000, "a", "learning_rate", 0.01),)))
    assert (state.steps, state.planned[0].step) == (12345, 5000)


def test_a_page_on_which_nothing_was_done_keeps_nothing(folder: Path) -> None:
    lab = open_lab()
    lab.show()
    assert not folder.exists() or list(folder.iterdir()) == []


def test_without_a_folder_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(kept.FOLDER, raising=False)
    lab = open_lab()
    take(lab, 1)
    assert lab.keeping.mark.value == ""


def test_the_page_says_that_it_trains_again_and_when_it_is_there(folder: Path) -> None:
    take(lab := open_lab(), 3)
    file = only(folder)

    async def run() -> Lab:
        again = open_lab(f"kept={file.stem}")
        assert "was kept at step 3" in again.keeping.said.value
        assert 'role="status"' in again.keeping.said.value
        assert again.trainer
        await again.trainer.wait()
        return again

    again = asyncio.run(run())
    assert "at step 3, trained again exactly" in again.keeping.said.value
    assert f'data-ge-kept="{file.stem}"' in again.keeping.mark.value
    assert losses(again) == losses(lab)


def test_a_page_that_is_lost_again_on_its_way_loses_nothing(folder: Path) -> None:
    take(open_lab(), 5)
    file = only(folder)

    async def run() -> Lab:
        again = open_lab(f"kept={file.stem}")
        for _ in range(200):  # turns of the loop, until it has begun
            await asyncio.sleep(0)
            if again.runs.step:
                break
        again.pause()
        return again

    again = asyncio.run(run())
    assert 0 < again.runs.step < 5
    assert json.loads(file.read_text())["step"] == 5
    take(again, 5)
    assert json.loads(file.read_text())["step"] == again.runs.step > 5


def test_two_pages_of_one_key_do_not_overwrite_each_other(folder: Path) -> None:
    lab = open_lab()
    take(lab, 2)
    first = only(folder)
    again = go_on(first)
    take(lab, 1)
    take(again, 4)
    assert lab.keeping.key != again.keeping.key == first.stem
    steps = {file.stem: json.loads(file.read_text())["step"] for file in folder.iterdir()}
    assert steps == {lab.keeping.key: 3, again.keeping.key: 6}


@pytest.mark.parametrize("key", ["x" * 22, "x", "../../etc/passwd", "%00", "é" * 22, "x" * 5000])
def test_a_key_of_nothing_opens_a_fresh_page_and_says_so(folder: Path, key: str) -> None:
    lab = open_lab(f"{SMALL}&kept={key}")
    assert lab.runs.step == 0
    assert lab.state.notices == [keeping.LOST]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version": 2}', b'{"version": 1}', b"\xff", b"[" * 100_000])
def test_a_damaged_file_opens_a_fresh_page_and_says_so(folder: Path, content: bytes) -> None:
    folder.mkdir()
    key = kept.new_key()
    (folder / f"{key}.json").write_bytes(content)
    lab = open_lab(f"{SMALL}&kept={key}")
    assert lab.runs.step == 0
    assert len(lab.state.notices) == 1 and "fresh" in lab.state.notices[0]
    assert str(folder) not in lab.state.notices[0]


def test_a_key_of_another_lab_opens_a_fresh_page(folder: Path) -> None:
    take(open_lab(), 1)
    lab = open_lab(f"kept={only(folder).stem}", "attention")
    assert lab.runs.step == 0
    assert lab.state.notices == [keeping.LOST]


# --- the folder -------------------------------------------------------------------------------------------------------


def test_only_this_user_may_look_into_the_folder(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "a" / "b")
    shelf.put(key := kept.new_key(), Kept("routing", ""))
    assert stat.S_IMODE((tmp_path / "a/b").stat().st_mode) & 0o077 == 0
    assert stat.S_IMODE((tmp_path / f"a/b/{key}.json").stat().st_mode) & 0o077 == 0


def test_keys_are_not_guessed() -> None:
    keys = {kept.new_key() for _ in range(1000)}
    assert len(keys) == 1000
    assert all(kept.KEY.fullmatch(one) for one in keys)


def test_what_is_old_or_too_much_is_thrown_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MOST_FILES", 3)
    shelf = Shelf(tmp_path)
    keys = [kept.new_key() for _ in range(5)]
    for age, key in enumerate(keys):
        shelf.put(key, Kept("routing", "x"))
        os.utime(tmp_path / f"{key}.json", (1e9 - age, 1e9 - age) if age else None)
    (tmp_path / ".unfinished").write_text("x")
    os.utime(tmp_path / ".unfinished", (1e9, 1e9))
    shelf.tidy()
    assert [file.stem for file in tmp_path.iterdir()] == keys[:1], "the others are years old"
    for key in keys:
        shelf.put(key, Kept("routing", "x"))
    for age, key in enumerate(keys):
        newest = (tmp_path / f"{keys[-1]}.json").stat().st_mtime
        os.utime(tmp_path / f"{key}.json", (newest - age, newest - age))
    shelf.tidy()
    assert {file.stem for file in tmp_path.iterdir()} == set(keys[:3])


@pytest.mark.skipif(ROOT, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_one_sentence_on_the_page(folder: Path) -> None:
    folder.mkdir(mode=0o500)
    lab = open_lab()
    take(lab, 1)
    assert "Permission denied" in lab.keeping.said.value


def test_a_folder_that_is_a_file_is_one_sentence_and_the_page_goes_on(folder: Path) -> None:
    folder.write_text("")
    lab = open_lab()
    take(lab, 1)
    said = "cannot be kept now: a file is in the place of its folder. The page works"
    assert said in lab.keeping.said.value
    assert str(folder) not in lab.keeping.said.value
    assert lab.state.error is None
    folder.unlink()
    take(lab, 1)
    assert lab.keeping.said.value == ""
    assert json.loads(only(folder).read_text())["step"] == 2


@LINUX
def test_a_full_disk_leaves_what_there_was(tmp_path: Path) -> None:
    """A limit on the size of a file stands for the disk: the write fails in the middle."""
    shelf, key = Shelf(tmp_path), kept.new_key()
    shelf.put(key, before := Kept("routing", "before"))
    code = (
        "import resource, signal, sys\nfrom widgets.states import kept\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nresource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n    kept.Shelf(sys.argv[1]).put(sys.argv[2], kept.Kept('routing', 'x' * 10_000))\n"
        "except kept.CannotKeep as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path), key], capture_output=True, text=True, check=True)
    assert done.stdout == "what is done on this page cannot be kept now: the disk is full\n"
    assert shelf.get(key) == before
    assert [file.name for file in tmp_path.iterdir()] == [f"{key}.json"]


def test_what_is_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CannotKeep, match="too large"):
        Shelf(tmp_path).put(kept.new_key(), Kept("routing", "", own=(("a", "x" * kept.LONGEST),)))


def test_a_run_is_kept_every_few_seconds_while_it_trains(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(keeping.time, "monotonic", lambda: now)
    lab = open_lab()
    lab.state.running = True
    monkeypatch.setattr(type(lab.trainer), "running", True)
    for _ in range(2):
        lab.runs.advance()
        lab.keeping.follow()
    assert json.loads(only(folder).read_text())["step"] == 1, "the second is not due yet"
    now += keeping.SECONDS
    lab.keeping.follow()
    assert json.loads(only(folder).read_text())["step"] == 2
    assert keeping.SECONDS <= 10


def test_while_a_first_run_is_under_way_its_beginning_is_kept_not_its_knobs_of_now(folder: Path) -> None:
    lab = open_lab()
    lab.runs.advance()
    lab.runs.do("a", "learning_rate", 0.01)
    lab.keeping.follow()
    found = json.loads(only(folder).read_text())
    assert "learning_rate" not in found["query"]
    assert found["changes"] == [[1, "a", "learning_rate", 0.01]]


def test_the_checkpoint_lab_opens_too(folder: Path) -> None:
    assert not isinstance(getattr(open_lab("", "checkpoint"), "keeping", None), KeepingPart)


# --- memory -----------------------------------------------------------------------------------------------------------

GREEDY = """
import resource
import torch
from widgets.labs.frame import Failed, guarded

state = Failed()
resource.setrlimit(resource.RLIMIT_DATA, (2**30, 2**30))
for ask in (lambda: torch.ones(2**30), lambda: bytearray(2**31)):
    state.error = None
    guarded(state)(ask)()
    print(state.error["title"], "|", state.error["message"])
"""


@LINUX
def test_who_asks_for_too_much_memory_is_told_so_and_the_page_goes_on() -> None:
    done = subprocess.run([sys.executable, "-c", GREEDY], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.startswith("There is not enough memory for this | a page here may take 1 GiB. The page still works")


def test_without_a_ceiling_it_is_the_machine_that_has_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert frame.explain(MemoryError())["message"].startswith("the machine has no more")
    assert frame.explain(RuntimeError("something else"))["title"] == "Something went wrong"
