"""The command line: what it prints, the exit codes, and that a mistake is one sentence and costs nothing."""

import io
import json
import math
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from explorer import Recording, cli, names, serving, spec
from explorer.catalogue import _SPECS, Claim
from explorer.experiment import Experiment

Run = Callable[..., tuple[int, str, str]]
ROOT = Path(cli.__file__).resolve().parents[2]
COMMANDS = ("serve", "lab", "list", "train", "verify", "balance", "inspect", "trace", "bench")
TINY = ("train", "topk-softmax", "--task", "clusters", "--steps", "3")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """The command line, in this process: (exit code, stdout, stderr)."""

    def invoke(*arguments: str | Path) -> tuple[int, str, str]:
        code = cli.main([str(one) for one in arguments])
        return code, *capsys.readouterr()

    return invoke


def program(*arguments: str, **settings: Any) -> "subprocess.Popen[str]":
    """The command line, as a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "explorer", *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, **settings)


# -- help --------------------------------------------------------------------------------------------------------------


def understands_its_examples(monkeypatch: pytest.MonkeyPatch, app: typer.Typer, group: list[str], name: str) -> None:
    """Its help has examples, and all of them can be read by it."""
    monkeypatch.setenv("COLUMNS", "200")
    shown = CliRunner().invoke(cli.app, [*group, name, "--help"])
    examples = re.findall(rf"Example: {' '.join(['gating-explorer', *group])} (.+)", shown.output)
    assert shown.exit_code == 0 and examples
    for example in examples:
        words = shlex.split(example)
        assert words[0] == name
        get_command(app).commands[name].make_context(name, words[1:])  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_that_it_understands(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    understands_its_examples(monkeypatch, cli.app, [], name)


def test_help_lists_every_command_and_the_exit_codes(run: Run) -> None:
    code, shown, _ = run("--help")
    assert code == 0
    assert all(name in shown for name in COMMANDS)
    assert "130 stopped by Ctrl-C" in " ".join(shown.split())


def test_ranges_are_shown(run: Run) -> None:
    assert "0<=x<=65535" in run("serve", "--help")[1]


def test_help_answers_without_torch() -> None:
    code = (
        "import sys; from explorer.cli import main; main(['train', '--help']); raise SystemExit('torch' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "Example" in shown.stdout
    assert shown.returncode == 0, "torch was imported"


def test_the_version(run: Run) -> None:
    assert re.fullmatch(r"gating-explorer \d+\.\d+\.\d+ \(torch .+\)\n", run("--version")[1])


# -- what can go wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (("list", "--family", "rooting"), "no family 'rooting'; did you mean 'routing'?"),
        (("list", "swich"), "no mechanism 'swich'; did you mean 'switch'?"),
        (("train", "topk_softmax", "-o", "x"), "no mechanism 'topk_softmax'; did you mean 'topk-softmax'?"),
        (("train", "switch", "--task", "cluster", "-o", "x"), "no task 'cluster'; did you mean 'clusters'?"),
        (("train", "switch", "--set", "capacity=1", "-o", "x"), "did you mean 'capacity_factor'?"),
        (("train", "switch", "--set", "n_experts=0", "-o", "x"), "a whole number of at least 1"),
        (("train", "switch", "--set", "n_experts=2.5", "-o", "x"), "a whole number of at least 1"),
        (("train", "switch", "--set", "capacity_factor=0", "-o", "x"), "a number above 0"),
        (("train", "switch", "--set", "group=word", "-o", "x"), "choose one of 'batch', 'sequence'"),
        (("train", "switch", "--set", "tied=perhaps", "-o", "x"), "it must be true or false"),
        ((*TINY, "--set", "n_experts=2", "--set", "k=3", "-o", "x"), "at most the number of experts"),
        ((*TINY, "--text", "poem.txt", "-o", "x"), "leave --task out"),
        (("train", "switch", "--text", "nowhere.txt", "-o", "x"), "cannot read 'nowhere.txt'"),
        (("train", "softmax-attention", "--task", "clusters", "-o", "x"), "choose a task of tokens"),
        ((*TINY, "-o", "no/such/x"), "there is no folder"),
        ((*TINY, "-o", "."), "it is a folder, not a file"),
        ((*TINY, "-o", "/dev/full"), "it is a device, not a file"),
        (("verify", "swich"), "did you mean 'switch'?"),
        (("verify", "--all", "-o", "table.xls"), "must end in .json or .csv"),
        (("verify", "--all", "-o", "no/table.csv"), "there is no folder"),
        (("serve", "--host", "nowhere.invalid"), "is not an address of this machine"),
    ],
)
def test_a_mistake_is_one_sentence(
    run: Run, arguments: tuple[str, ...], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*arguments)
    assert (code, out) == (1, "")
    assert err.startswith("error: ") and err.count("\n") == 1
    assert sentence in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("trian",),
        ("train", "switch"),
        ("train", "switch", "-o", "x", "--steps", "0"),
        ("train", "switch", "-o", "x", "--seed", "-1"),
        ("train", "switch", "-o", "x", "--set", "k"),
        ("train", "switch", "-o", "x", "--set", "=1"),
        ("serve", "--port", "65536"),
        ("verify",),
        ("verify", "switch", "--all"),
        ("verify", "switch", "--seeds", "0;1"),
        ("list", "--jason"),
    ],
)
def test_wrong_usage_is_exit_code_2(run: Run, arguments: tuple[str, ...]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert "Traceback" not in err and "Usage" in err


@pytest.mark.parametrize("arguments", [("--debug", "list", "swich"), ("list", "swich", "--debug")])
def test_debug_shows_where(run: Run, arguments: tuple[str, ...]) -> None:
    code, _, err = run(*arguments)
    assert code == 1
    assert err.startswith("Traceback") and "UnknownName: no mechanism 'swich'" in err


def test_the_unexpected_is_one_sentence_too(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(self: Experiment) -> None:
        raise RuntimeError("mat1 and mat2 cannot be multiplied\nand more")

    monkeypatch.setattr(Experiment, "advance", fail)
    code, _, err = run(*TINY, "-o", tmp_path / "x")
    assert code == 1
    last = err.splitlines()[-1]
    assert last == "error: RuntimeError: mat1 and mat2 cannot be multiplied; run again with --debug to see where"


def test_who_reads_only_the_head_hears_no_complaint() -> None:
    read, write = os.pipe()
    os.close(read)
    process = program("list", "--json", stdout=write)
    os.close(write)
    assert process.communicate(timeout=60)[1] == ""


def test_output_to_a_full_disk_is_one_sentence() -> None:
    with open("/dev/full", "w") as full:
        process = program("--version", stdout=full)
    assert process.communicate(timeout=60)[1].startswith("error: OSError: [Errno 28] No space left on device")
    assert process.returncode == 1


# -- list --------------------------------------------------------------------------------------------------------------


def test_the_catalogue_is_a_table(run: Run) -> None:
    code, shown, _ = run("list", "--family", "routing")
    assert code == 0
    assert re.search(r"switch +Switch routing +2021 +2101\.03961", shown)
    assert "glu" not in shown


def test_the_catalogue_is_json(run: Run) -> None:
    cards = {card["name"]: card for card in json.loads(run("list", "--json")[1])}
    assert list(cards) == names()
    assert cards["switch"]["paper"]["arxiv"] == "2101.03961"
    assert cards["switch"]["knobs"]["n_experts"]["low"] == 1


def test_a_card_shows_what_can_be_set(run: Run) -> None:
    shown = run("list", "switch")[1]
    assert re.search(r"group +batch +batch or sequence +", shown)
    assert re.search(r"learning_rate +host +0\.003 +a number of at least 0", shown)


# -- train -------------------------------------------------------------------------------------------------------------


def test_a_run_is_recorded(run: Run, tmp_path: Path) -> None:
    given = ("--seed", "7", "--set", "k=1", "--set", "n_experts=4", "--set", "learning_rate=1e-2")
    code, out, err = run(*TINY, *given, "-o", tmp_path / "run.safetensors")
    assert code == 0
    recording = Recording.load(tmp_path / "run.safetensors")
    header = recording.header
    assert (header["mechanism"], header["seed"], header["task"]) == ("topk-softmax", 7, "Clusters")
    assert (header["knobs"]["k"], header["knobs"]["n_experts"]) == (1, 4)
    assert header["settings"]["learning_rate"] == 0.01
    assert (header["device"], header["kernel"]) == ("cpu", ["grouped_mm"])
    assert sorted(set(recording.loads()["step"])) == [0, 1, 2]
    lines = [line.split(":")[0] for line in err.splitlines()]
    assert lines == ["training for 3 steps", "step 1 of 3", "step 2 of 3", "step 3 of 3"]
    for line in ("loss  ", "held-out loss  ", "balance  ", "parameters  ", "computed on  ", "recording  "):
        assert f"\n  {line}" in out
    assert re.search(r"MaxVio \d\.\d\d in ffn \(0 even, 3 collapsed, up to 0\.\d\d by chance\)", out)
    assert "cpu, grouped_mm, 1 thread" in out
    assert "run.safetensors (" in out


def test_a_run_on_files_of_the_users(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "poem.txt").write_text("the gate is open, the gate is shut\n" * 20)
    arguments = ("--text", "~/poem.txt", "--steps", "2", "--set", "layers=1", "-o", "~/run.safetensors")
    assert run("train", "gated-attention", *arguments)[0] == 0
    header = Recording.load(tmp_path / "run.safetensors").header
    assert header["labels"] == ["poem.txt"]
    assert header["settings"]["layers"] == 1


def test_the_printed_steps_are_about_ten(run: Run, tmp_path: Path) -> None:
    err = run("train", "topk-softmax", "--task", "clusters", "--steps", "25", "-o", tmp_path / "x")[2]
    assert [int(step) for step in re.findall(r"^step (\d+) of 25", err, re.MULTILINE)] == [
        3,
        6,
        9,
        12,
        15,
        18,
        21,
        24,
        25,
    ]


def test_a_terminal_shows_a_bar(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    code, out, err = run(*TINY, "-o", tmp_path / "x")
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", err)
    assert code == 0 and re.search(r"step 3/3 ━+ loss \d\.\d{3}, \d+\.\d steps/s, 0 s left", shown)
    assert "step" not in re.sub("[(].*[)]|3 steps", "", out)


def test_a_file_is_replaced_only_by_force(run: Run, tmp_path: Path) -> None:
    target = tmp_path / "mine.safetensors"
    target.write_text("precious")
    code, _, err = run(*TINY, "-o", target)
    assert code == 1 and "--force" in err and "step" not in err
    assert target.read_text() == "precious"
    assert run(*TINY, "-o", target, "--force")[0] == 0
    assert Recording.load(target).step == 2


def test_a_link_is_followed(run: Run, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.safetensors"
    link.symlink_to(tmp_path / "real/run.safetensors")
    assert run(*TINY, "-o", link)[0] == 0
    assert link.is_symlink() and Recording.load(tmp_path / "real/run.safetensors").step == 2


def test_a_folder_of_somebody_elses_is_noticed_before_training(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    code, _, err = run(*TINY, "-o", tmp_path / "x")
    assert code == 1 and "is not yours to write to" in err and "step" not in err


def test_a_full_disk_is_one_sentence_and_the_old_file_stays(run: Run, tmp_path: Path) -> None:
    target = tmp_path / "run.safetensors"
    target.write_text("old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        code, _, err = run(*TINY, "-o", target, "--force")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 1
    assert (
        err.splitlines()[-1]
        == f"error: cannot save the recording to '{target}': File too large; nothing was changed there"
    )
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("run.safetensors", "old")]


def test_a_run_that_diverges_saves_nothing(run: Run, tmp_path: Path) -> None:
    explosive = [
        part for knob in ("learning_rate=10", "weight_decay=10", "warmup=0", "clip=0") for part in ("--set", knob)
    ]
    code, out, err = run(
        "train", "topk-softmax", "--task", "clusters", "--steps", "100", *explosive, "-o", tmp_path / "x"
    )
    assert (code, out) == (1, "")
    last = err.splitlines()[-1]
    assert re.match(r"error: the (loss|gradient) became (nan|inf) at step \d+", last)
    assert last.endswith("; nothing was saved")
    assert list(tmp_path.iterdir()) == []


def interrupt_after(monkeypatch: pytest.MonkeyPatch, step: int, times: int) -> None:
    advance = Experiment.advance

    def interrupted(self: Experiment) -> Any:
        taken = advance(self)
        if taken.step == step:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)
        return taken

    monkeypatch.setattr(Experiment, "advance", interrupted)


def test_ctrl_c_ends_after_the_step_and_saves(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_after(monkeypatch, step=1, times=1)
    before = signal.getsignal(signal.SIGINT)
    code, out, err = run(*TINY, "-o", tmp_path / "run.safetensors")
    assert (code, out) == (130, "")
    assert "stopped after 2 of 3 steps; what was recorded so far is saved in" in err
    assert sorted(set(Recording.load(tmp_path / "run.safetensors").loads()["step"])) == [0, 1]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_ends_at_once(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_after(monkeypatch, step=1, times=2)
    code, _, err = run(*TINY, "-o", tmp_path / "run.safetensors")
    assert code == 130 and "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_while_saving_leaves_the_old_file(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_tensors: object, path: Path, **_: object) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("safetensors.torch.save_file", interrupted)
    target = tmp_path / "run.safetensors"
    target.write_text("old")
    assert run(*TINY, "-o", target, "--force")[0] == 130
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("run.safetensors", "old")]


def test_ctrl_c_in_a_terminal(tmp_path: Path) -> None:
    target = tmp_path / "run.safetensors"
    arguments = ("topk-softmax", "--task", "clusters", "--steps", "100000", "-o", str(target))
    process = program("train", *arguments, stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert process.stderr
        assert process.stderr.readline() == "training for 100000 steps\n"
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, out) == (130, "")
    assert re.fullmatch(r"stopped after \d+ of 100000 steps; what was recorded so far is saved in .+\n", err)
    recording = Recording.load(target)
    assert recording.step >= 0 and not math.isnan(recording.loads()["load"].sum())


# -- verify ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three claims that take a moment: one that holds, one that is not seen, one that is not judged."""
    common: dict[str, Any] = {"source": "Table 1", "reported": "0.5", "metric": "held_out_loss"}
    setup = {"task": "clusters", "steps": 2}
    tiny = (
        Claim("learns", "It learns.", threshold=2.0, control={"learning_rate": 0}, control_is="it must not",
              setup=setup, effect="ratio", **common),
        Claim("solves", "It solves it.", threshold=0.001, setup=setup, effect="ratio", control={"k": 2}, **common),
        Claim("is", "It is.", threshold=None, setup=setup, **common),
    )  # fmt: skip
    card = replace(spec("topk-softmax"), claims=tiny)
    monkeypatch.setitem(_SPECS, "topk-softmax", card)


@pytest.mark.usefixtures("tiny_claims")
def test_verdicts_are_a_table_and_a_file(run: Run, tmp_path: Path) -> None:
    target = tmp_path / "table.json"
    code, out, err = run("verify", "topk-softmax", "--seeds", "0,1", "--jobs", "1", "-o", target)
    assert code == 0
    assert "✓ holds" in out and "✗ not seen" in out and "· reported" in out
    assert "1 of 2 judged claims hold; 1 reported without a judgement" in out
    assert re.search(r"run \d+ of \d+", err)
    saved = json.loads(target.read_text())
    assert [(one["claim"], one["holds"]) for one in saved] == [("learns", True), ("solves", False), ("is", None)]
    assert saved[0]["seeds"] == [0, 1] and saved[2]["baseline"] is None
    assert [file.name for file in tmp_path.iterdir()] == ["table.json"]


@pytest.mark.usefixtures("tiny_claims")
def test_strict_turns_a_claim_not_seen_into_an_exit_code(run: Run, tmp_path: Path) -> None:
    target = tmp_path / "table.csv"
    target.write_text("old")
    assert run("verify", "topk-softmax", "--seeds", "0", "--jobs", "1", "--strict", "-o", target)[0] == 2
    assert target.read_text().startswith("mechanism,claim,")


def test_a_terminal_without_the_signs_gets_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    assert cli.main(["list", "gated-attention"]) == 0
    print("✓ holds")
    out.flush()
    assert out.buffer.getvalue().endswith(b"? holds\n")  # type: ignore[attr-defined]


# -- pages and benchmarks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["serve", "lab"])
def test_pages_are_served_as_asked(run: Run, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(serving, name, lambda *given: asked.extend(given) or 3)
    monkeypatch.setenv("GATING_EXPLORER_TOKEN", "secret")
    assert run(name, "--port", "9000", "--no-browser", "--base-url", "/x/")[0] == 3
    assert asked == [9000, False, "/x/", "secret", "127.0.0.1"]


def test_an_installed_package_has_no_benchmarks(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "ROOT", tmp_path)
    code, _, err = run("bench")
    assert code == 1 and err.count("\n") == 1 and "in a clone of the repository" in err


def test_benchmarks_run_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "tests/benchmarks"
    folder.mkdir(parents=True)
    for package in (folder.parent, folder):
        (package / "__init__.py").touch()
    (folder / "__main__.py").write_text("import sys; print(sys.argv[1:]); raise SystemExit(4)")
    monkeypatch.setattr(cli, "ROOT", tmp_path)
    assert cli.main(["bench", "--only", "import"]) == 4
    assert capfd.readouterr().out == "['--only', 'import']\n"
