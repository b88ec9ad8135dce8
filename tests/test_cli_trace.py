"""gating-explorer trace: what it prints, what it saves, and that a mistake or Ctrl-C leaves nothing half-done."""

import json
import os
import signal

import pytest

from explorer import Recording, cli
from explorer.checkpoints.streaming import engine
from explorer.cli.texts import texts_of
from explorer.errors import BadValue
from tests.checkpoints.tracing import WORDS, checkpoint, configured

pytest.importorskip("transformers", reason="the extra `checkpoints` is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture
def texts(tmp_path):
    """Two files, of which one has signs that are no ASCII, and a folder."""
    made = tmp_path / "texts"
    (made / "more" / ".hidden").mkdir(parents=True)
    (made / "a.txt").write_text(WORDS[0], encoding="utf-8-sig")
    (made / "b.py").write_text(WORDS[1])
    for name, content in (
        ("2.txt", b"the cat"),
        ("10.txt", b"the mat"),
        ("x.bin", b"\0\1"),
        ("y", b"\xff"),
        ("z", b""),
    ):
        (made / "more" / name).write_bytes(content)
    (made / "more" / ".hidden" / "c.txt").write_text("not this")
    return made


@pytest.fixture
def run(capsys):
    """The command, in this process: (exit code, stdout, stderr)."""

    def invoke(*arguments):
        code = cli.main(["trace", *map(str, arguments)])
        return code, *capsys.readouterr()

    return invoke


def about(path):
    return Recording.load(path).header["trace"]


def test_texts_become_a_recording_and_a_table(run, folder, texts, tmp_path):
    target = tmp_path / "t.safetensors"
    code, out, err = run(folder, "--text", texts / "a.txt", "--text", texts / "b.py", "-o", target, "--window", "16")
    assert code == 0, err
    for words in (
        "MixtralForCausalLM:",
        "tokens of 2 texts in",
        "windows of at most 16 (a, b)",
        "streamed in",
        "effective",
    ):
        assert words in out, words
    assert out.count("block_sparse_moe") == 2 and "layer 1 of 2" in err and "the recording is saved in" in err
    told = about(target)
    assert told["domains"] == ["a", "b"] and told["method"] == "streamed" and told["window"] == 16


def test_domains_and_folders(run, folder, texts, tmp_path):
    target = tmp_path / "t.safetensors"
    given = ("--text", texts / "a.txt", "--domain", "prose", "--text", texts / "more", "--domain", "rest")
    code, out, err = run(folder, *given, "-o", target, "--no-scores", "--attention")
    assert code == 0, err
    assert "3 of the 5 files of" in err and "(prose, rest)" in out
    told = about(target)
    assert told["domains"] == ["prose", "rest"] and told["domain"] == [0, 1, 1] and not told["scores_kept"]
    assert len(Recording.load(target).attention()) == 8
    assert texts_of(texts / "more") == ["the mat", "the cat"] and texts_of(texts / "a.txt") == [WORDS[0]]
    (texts / "a.py").write_text("x = 1")
    run(folder, "--text", texts / "a.txt", "--text", texts / "a.py", "-o", target, "--force")
    assert about(target)["domains"] == ["a.txt", "a.py"]


def test_token_ids(run, folder, tmp_path):
    target, ids = tmp_path / "t.safetensors", tmp_path / "ids.json"
    for content, text in (([[5, 6, 7], [8, 9]], [0, 1]), ([5, 6, 7], [0])):
        ids.write_text(json.dumps(content))
        code, out, err = run(folder, "--tokens", ids, "-o", target, "--force")
        assert code == 0, err
        assert (about(target)["text"] == text and "windows of at most 64\n" in out) or "window of at most 64\n" in out


def test_what_is_not_streamed_says_why(run, folder, texts, tmp_path):
    target = tmp_path / "t.safetensors"
    code, out, err = run(folder, "--text", texts / "a.txt", "-o", target, "--method", "transformers")
    assert code == 0, err
    assert "loading all of it with transformers: asked for" in err and "transformers in" in out and "asked for" in out


def test_the_page_is_made_of_the_recording(run, folder, texts, tmp_path):
    pytest.importorskip("widgets.export.trace_page")
    target, page = tmp_path / "t.safetensors", tmp_path / "t.html"
    code, _, err = run(folder, "--text", texts / "a.txt", "--text", texts / "b.py", "-o", target, "--html", page)
    assert code == 0, err
    text = page.read_text(encoding="utf-8")
    assert "<html" in text and "MixtralForCausalLM" in text and f"saved in {page}" in err


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (("--text", "nowhere.txt"), "cannot read 'nowhere.txt': no such file or directory"),
        (("--text", "{empty}"), "is empty"),
        (("--text", "{texts}/more/y"), "is not text in UTF-8: see its byte 0"),
        (("--text", "{texts}/more/x.bin"), "is no text: it holds NUL bytes"),
        (("--text", "{texts}/more/.hidden/nothing"), "has no text files in UTF-8"),
        (("--tokens", "{texts}/a.txt"), "is not JSON"),
        (("--tokens", "{object}"), "should hold a list of lists"),
        (("--tokens", "{wrong}"), "tokens[0][1] = 999 is outside the vocabulary"),
        (("--text", "{texts}/a.txt", "--window", "1"), "window = 1 should be"),
        (("--text", "{texts}/a.txt", "--window", "65"), "places for 64 tokens at most"),
        (("--text", "{texts}/a.txt", "--memory", "100"), "would take"),
        (("--text", "{texts}/a.txt", "--html", "page.txt"), "must end in .html"),
        (("--text", "{texts}/a.txt", "--html", "no/where.html"), "there is no folder"),
    ],
)
def test_a_mistake_is_one_sentence_and_nothing_is_written(run, folder, texts, tmp_path, arguments, sentence):
    places = {"texts": texts, "empty": tmp_path / "empty", "object": tmp_path / "object", "wrong": tmp_path / "wrong"}
    places["empty"].write_text("")
    places["object"].write_text("{}")
    places["wrong"].write_text("[[1, 999]]")
    (texts / "more" / ".hidden" / "nothing").mkdir()
    out_folder = tmp_path / "out"
    out_folder.mkdir()
    given = [one.format(**places) for one in arguments]
    code, out, err = run(folder, *given, "-o", out_folder / "t.safetensors")
    assert (code, out) == (1, "") and sentence in err and len(err.strip().splitlines()) == 1, err
    assert list(out_folder.iterdir()) == []


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ((), "give files with --text, or token ids with --tokens"),
        (("--text", "a", "--tokens", "b"), "give files with --text, or token ids with --tokens"),
        (("--text", "a", "--domain", "x", "--domain", "y"), "2 names for 1 --text"),
        (("--text", "a", "--method", "magic"), "magic"),
    ],
)
def test_wrong_usage(run, folder, tmp_path, arguments, sentence):
    code, _, err = run(folder, *arguments, "-o", tmp_path / "t.safetensors")
    assert code == 2 and sentence in " ".join(err.replace("│", " ").split())
    assert list(tmp_path.iterdir()) == []


def test_what_exists_is_not_replaced_and_what_cannot_be_opened_is_said(run, folder, texts, tmp_path):
    target = tmp_path / "t.safetensors"
    target.write_text("old")
    assert "exists already" in run(folder, "--text", texts / "a.txt", "-o", target)[2]
    code, _, err = run(tmp_path / "no" / "model" / "here", "--text", texts / "a.txt", "-o", target, "--force")
    assert code == 1 and "there is nothing at" in err and target.read_text() == "old"


def test_code_and_tokenizers_that_are_missing(run, texts, tmp_path):
    mine = checkpoint(tmp_path / "mine")
    (mine / "tokenizer.json").unlink()
    code, _, err = run(mine, "--text", texts / "a.txt", "-o", tmp_path / "t")
    assert code == 1 and "has no tokenizer (no tokenizer.json): give token ids" in err and "--tokens" in err
    configured(mine, model_type="own_kind", auto_map={"AutoModelForCausalLM": "own.Model"})
    (tmp_path / "ids").write_text("[1, 2]")
    code, _, err = run(mine, "--tokens", tmp_path / "ids", "-o", tmp_path / "t")
    assert code == 1 and "--trust-remote-code" in err.splitlines()[-1] and not (tmp_path / "t").exists()


def interrupt(monkeypatch, layer, times=1):
    """Ctrl-C as soon as the engine works on a layer."""
    attend = engine._Pass.attend

    def interrupted(self, i, *arguments):
        if i == layer:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)
        return attend(self, i, *arguments)

    monkeypatch.setattr(engine._Pass, "attend", interrupted)


def test_ctrl_c_saves_the_finished_layers(run, folder, texts, tmp_path, monkeypatch):
    interrupt(monkeypatch, layer=1)
    target, before = tmp_path / "t.safetensors", signal.getsignal(signal.SIGINT)
    code, out, err = run(folder, "--text", texts / "a.txt", "-o", target, "--html", tmp_path / "t.html")
    assert (code, out) == (130, "") and "stopped: 1 of 2 layers are done; they are saved in" in err
    assert about(target)["cut"] and Recording.load(target).layers() == ["model.layers.0.block_sparse_moe"]
    assert signal.getsignal(signal.SIGINT) is before and not (tmp_path / "t.html").exists()


@pytest.mark.parametrize("layer, times", [(0, 1), (1, 2)])
def test_ctrl_c_too_early_or_twice_saves_nothing(run, folder, texts, tmp_path, monkeypatch, layer, times):
    interrupt(monkeypatch, layer, times)
    code, out, err = run(folder, "--text", texts / "a.txt", "-o", tmp_path / "t.safetensors")
    assert (code, out) == (130, "") and "Traceback" not in err
    assert ("stopped before the first layer was done; nothing was saved" in err) == (times == 1)
    assert not (tmp_path / "t.safetensors").exists()


def test_a_folder_of_too_many_files_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("explorer.cli.texts.MOST_FILES", 2)
    for name in "abc":
        (tmp_path / name).write_text(name)
    with pytest.raises(BadValue, match=r"has more than 2 files: name some of them"):
        texts_of(tmp_path)
    monkeypatch.setattr("explorer.cli.texts.LARGEST", 3)
    (tmp_path / "a").write_text("four")
    with pytest.raises(BadValue, match=r"has more than 3 bytes: give a part of it"):
        texts_of(tmp_path / "a")
