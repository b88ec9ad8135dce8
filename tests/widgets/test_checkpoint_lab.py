"""The checkpoint lab without a browser: what may be opened, what a trace is asked for, and what the page shows of it."""

import asyncio
import io
import os
import subprocess
import sys
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from explorer import demo
from explorer.errors import BadValue, ExplorerError
from widgets.labs.checkpoint import LAB, CheckpointLab
from widgets.labs.checkpoint_choose import kind_of, kinds
from widgets.labs.checkpoint_tables import vocabulary
from widgets.states import checkpoint_sources as sources
from widgets.states.checkpoint import EARLY, TEXTS, CheckpointState
from widgets.states.checkpoint_code import script
from widgets.states.checkpoint_sources import VARIABLE
from widgets.states.checkpoint_tokens import way
from widgets.states.checkpoint_trace import Job, Request, byte_ids, checked, duration, sample_ids, size, token_ids
from widgets.states.checkpoint_view import short_names

SAMPLES = dict(sources.samples())
SHORT = tuple((name, text[:120]) for name, text in SAMPLES.items())


def make(query=""):
    return CheckpointLab(CheckpointState(query))


def short_texts(lab):
    lab.tracer.fill(SHORT, False)


@pytest.fixture(scope="module")
def traced():
    """The demo, traced with short texts, for tests that leave it as it is."""
    lab = make("window=32")
    short_texts(lab)
    lab.runs.trace()
    assert lab.state.error is None
    return lab


def there(figures):
    return {name for name, one in figures.items() if one.layout.display != "none"}


# -- the link ------------------------------------------------------------------------------------------------------------
def test_a_link_opens_the_same_state():
    query = "checkpoint=a%2Fb&layer=3&window=128&attention=1&domain=python&large=1"
    state = CheckpointState(query)
    assert (state.given, state.layer, state.window, state.attention, state.domain) == ("a/b", 3, 128, True, "python")
    assert state.notices == []
    again = CheckpointState(state.link())
    assert again.trait_values() == state.trait_values()
    assert CheckpointState("").link() == ""


@pytest.mark.parametrize(
    "query", ["layer=x", "window=77", "attention=2", "layer=-5", "nothing=1", "window=1e9", "trace=yes"]
)
def test_what_a_link_says_wrongly_is_said_and_ignored(query):
    state = CheckpointState(query)
    assert len(state.notices) == 1 and query.split("=")[0] in state.notices[0]
    assert state.link() == ""


def test_a_link_carries_neither_own_texts_nor_what_needs_them():
    state = CheckpointState("trace=1&beside=texts")
    assert state.link() == "trace=1"
    state.own = True
    assert state.link() == ""


def test_an_address_in_a_link_is_not_fetched_before_a_person_agrees(monkeypatch):
    asked = []
    real = sources.open_given
    monkeypatch.setattr(sources, "open_given", lambda given, layer=-1: asked.append(given) or real(given, layer))
    lab = make("checkpoint=http%3A%2F%2F10.0.0.1%2Fmodel")
    assert asked == [""] and lab.opened.is_demo
    assert "press Open" in lab.state.notices[0]


# -- what may be opened ------------------------------------------------------------------------------------------------
def test_without_the_variable_every_path_may_be_opened(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert sources.permitted("/etc/x") == "/etc/x" and sources.permitted("~/y") == "~/y"
    assert len(kinds()) == 4


def test_a_server_for_a_class_opens_its_folders_the_demo_and_hub_ids_alone(tmp_path, monkeypatch):
    inside, outside = tmp_path / "open" / "model", tmp_path / "shut"
    inside.mkdir(parents=True), outside.mkdir()
    (tmp_path / "open" / "link").symlink_to(outside)
    (tmp_path / "way").symlink_to(inside)
    monkeypatch.setenv(VARIABLE, os.pathsep.join([str(tmp_path / "open"), str(tmp_path / "none")]))
    assert sources.permitted(str(inside)) == sources.permitted(str(tmp_path / "way")) == str(inside)
    assert sources.permitted("owner/name") == "owner/name"
    opens = (outside, tmp_path / "open" / "link", tmp_path / "open" / ".." / "shut", tmp_path / "openly", "/etc/passwd")
    for one in (*map(str, opens), "https://example.org/x", "http://localhost:1/x", "a\0b", "~/x", ".."):
        with pytest.raises(BadValue, match="this server does not open"):
            sources.permitted(one)
    lab = make()
    lab.choose(str(outside), False)
    assert "does not open" in lab.state.error["message"] and lab.opened.is_demo


def test_an_empty_variable_leaves_the_demo_and_hub_ids(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, "")
    with pytest.raises(BadValue, match=r"a hub id \(owner/name\), or the demo"):
        sources.permitted(str(tmp_path))
    assert [kind for _, kind in kinds()] == ["demo", "hub"]
    assert sources.open_given("").is_demo


def test_a_refusal_does_not_tell_whether_there_is_anything(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, "")
    said = []
    for one in (tmp_path, tmp_path.parent / "no-such"):
        with pytest.raises(BadValue) as caught:
            sources.permitted(str(one))
        said.append(str(caught.value).replace(repr(str(one)), ""))
    assert said[0] == said[1]


def test_recordings_are_known_by_what_they_are(tmp_path, traced):
    ours, weights = tmp_path / "a.safetensors", demo.folder() / "model.safetensors"
    traced.seen.recording.save(ours)
    (tmp_path / "o.jsonl").write_text('{"input_ids": [1], "exp_ids": [[[0]]]}\n')
    (tmp_path / "v.json").write_text('{"choices": []}')
    os.mkfifo(tmp_path / "p.pt")
    found = [sources.reader(path) for path in (ours, weights, tmp_path / "o.jsonl", tmp_path / "v.json")]
    assert found == ["load", "", "from_olmoe", "from_vllm"]
    assert sources.reader(tmp_path / "p.pt") == sources.reader(tmp_path / "none.csv") == ""


def test_names_leave_folders_of_this_machine_out():
    assert sources.name_of("/home/me/secret/my-mixtral/") == "my-mixtral"
    assert sources.name_of("owner/name") == "owner/name"
    assert [kind_of(one) for one in ("", "owner/name", "/a/b", "./a", "x.safetensors")] == [
        "demo", "hub", "path", "path", "path",
    ]  # fmt: skip


# -- what is traced ------------------------------------------------------------------------------------------------------
def test_token_ids_are_read_however_they_are_written():
    assert token_ids("[1, 2;3]\n 4\t(5)", "x") == [1, 2, 3, 4, 5]
    for wrong in ("1 two", "-1", "1.5", "9" * 400, "²", ""):
        with pytest.raises(BadValue, match="no token id"):
            token_ids(wrong, "x")


def test_texts_are_checked_before_anything_begins():
    assert checked([("", " a"), ("x", "  "), ("y", "b")]) == [("text 1", " a"), ("y", "b")]
    with pytest.raises(BadValue, match="no text to trace"):
        checked([("x", " \n")])
    with pytest.raises(BadValue, match="at most 12"):
        checked([("x", "a")] * 13)
    with pytest.raises(BadValue, match="200,000"):
        checked([("x", "a" * 200_001)])


def test_sample_ids_stay_in_the_vocabulary_and_fall_into_two_domains():
    for rows in (2, 10, 151_936, None):
        ids = [token_ids(text, name) for name, text in sample_ids(rows)]
        assert max(map(max, ids)) < (rows or 1000)
        assert not set(ids[0]) & set(ids[1])


def test_a_request_says_what_trace_takes():
    assert Request((("a", "b"),)).arguments() == {"domains": ["a"], "texts": ["b"], "window": None, "attention": False}
    assert Request((("a", "3 4"),), ids=True, window=64).arguments()["tokens"] == [[3, 4]]


def test_progress_in_words():
    class Fake:
        layer, layers, bytes_read, bytes_left, seconds, seconds_left, what = (
            1,
            4,
            3_000_000,
            9_000_000,
            2.0,
            6.0,
            "experts",
        )

    job = Job(None, Request(()), "B")  # type: ignore[arg-type]
    assert job.share == 0 and "preparing" in job.words()
    job.progress = Fake
    assert job.share == 0.25
    assert job.words() == "Tracing B: layer 2 of 4 (experts), 3.0 MB read of about 12.0 MB, about 6 s left."
    job.stop()
    assert "Stopping" in job.words()
    assert [size(2e9), size(12), duration(0.2), duration(600)] == [
        "2.0 GB",
        "12 bytes",
        "less than a second",
        "about 10 min",
    ]


# -- the page --------------------------------------------------------------------------------------------------------------
def test_the_demo_is_traced_without_the_library_of_tokenizers(monkeypatch, traced):
    monkeypatch.setattr(sources, "find_spec", lambda name: None)
    lab = make("window=32")
    short_texts(lab)
    lab.runs.trace()
    assert lab.state.error is None and lab.opened.as_bytes and not traced.opened.as_bytes
    assert lab.seen.text(0, 99) == traced.seen.text(0, 99)
    assert np.array_equal(lab.seen.load(), traced.seen.load())
    assert byte_ids("aé\r\n") == [97, 127, 127, 10]


def test_a_link_traces_by_itself_only_what_needs_not_be_fetched(monkeypatch):
    assert sources.is_here("") and sources.is_here(str(demo.folder()))
    assert (
        not sources.is_here("owner/name") and not sources.is_here("https://example.org") and not sources.is_here("a\0")
    )
    real = sources.open_given
    monkeypatch.setattr(sources, "open_given", lambda given, layer=-1: replace(real("", layer), given="owner/name"))
    lab = make("checkpoint=owner%2Fname&trace=1")
    assert lab.state.error is None and lab.opened.given == "owner/name" and lab.seen is None


def test_the_page_is_built_without_torch():
    code = "import sys, widgets.labs.checkpoint; assert not {'torch', 'pandas', 'plotly'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_the_demo_opens_with_its_report_and_no_pictures_of_a_trace():
    lab = make()
    assert lab.state.error is None and lab.state.notices == []
    assert "OlmoeForCausalLM" in lab.report.facts.value and "top 2" in lab.report.facts.value
    assert there(lab.report.figures) == {"norms", "cosine", "similarity"}
    assert lab.figures.widget.layout.display == lab.beside.widget.layout.display == "none"
    assert "press Trace" in lab.advice_text.value
    assert [row.domain.value for row in lab.tracer.texts.rows] == list(SAMPLES)


def test_a_trace_fills_every_picture(traced):
    assert there(traced.figures.figures) == {
        "map", "spread", "path", "specialisation", "domains", "company", "pairs", "margins",
    }  # fmt: skip
    assert "Streamed" in traced.tracer.progress.said.value
    assert traced.seen.domains == list(SAMPLES)
    assert traced.domain.options[1:] == tuple((name, name) for name in SAMPLES)
    assert "tokens it takes more often" in traced.figures.words.value
    experts, weights, margins = traced.figures.strip.decisions()
    assert experts.shape[0] == 1 and (experts >= 0).all() and (np.diff(weights, axis=-1) <= 0).all()
    assert np.isfinite(margins).all()
    assert "".join(traced.figures.strip.tokens[0]).startswith(SAMPLES["english"][:20].replace(" ", "·"))


def test_every_picture_has_its_text(traced):
    for one in (*traced.report.figures.values(), *traced.figures.figures.values(), *traced.beside.figures.values()):
        assert len(one.caption.value) > 60 and one.chart.label


def test_another_layer_and_another_domain_change_the_pictures():
    lab = make("trace=1&window=32&layer=1")
    assert lab.state.error is None and lab.seen is not None and lab.layer.value == 1
    before = [lab.figures.figures[name].chart.frame["summary"] for name in ("company", "map")]
    lab.layer.value = 3
    lab.domain.value = "python"
    after = [lab.figures.figures[name].chart.frame["summary"] for name in ("company", "map")]
    assert before[0] != after[0] and before[1] != after[1]
    assert lab.report.figures["cosine"].chart.figure["layout"]["title"]["text"].endswith("layer 3")
    assert lab.figures.strip.names == ["layer 3"] and lab.figures.strip.sequence_names == ["python"]
    assert lab.state.link() == "layer=3&domain=python&window=32&trace=1"


def test_a_token_leads_to_its_path_and_a_wrong_place_to_nothing(traced):
    part = traced.figures
    part.strip.selected = {"layer": 0, "sequence": 1, "position": 4}
    b = part._shown[1]
    assert part.place == (b, 4)
    index, _ = way(traced.seen, part.place)
    said = part.figures["path"].chart.figure["data"]
    strongest = next(one for one in said if one.get("name") == "strongest expert")
    assert [int(y) in row for y, row in zip(strongest["y"], index.tolist(), strict=True)] == [True] * 4
    assert "layer 2: expert" in part.said.value
    for wrong in ({"layer": 0, "sequence": 99, "position": 0}, {"layer": 0, "sequence": 0, "position": 10**6}):
        part.strip.selected = wrong
        assert part.place == (b, 4) and traced.state.error is None


def test_one_window_can_be_read_as_a_whole(traced):
    traced.figures.window.value = 1
    assert len(traced.figures.strip.tokens) == 1 and len(traced.figures.strip.tokens[0]) == traced.seen.lengths[1]
    traced.figures.window.value = -1
    assert len(traced.figures.strip.tokens) == 4


@pytest.mark.parametrize("what", ["/no/such/folder", "no-such.safetensors", "not a name!", __file__, "x\0y"])
def test_what_cannot_be_opened_is_said_in_a_sentence_and_changes_nothing(traced, what):
    opened, seen = traced.opened, traced.seen
    traced.choose(what, False)
    message = traced.state.error["message"]
    assert traced.state.error["title"] == "This cannot be done" and len(message) > 20 and "\n" not in message
    assert traced.opened is opened and traced.seen is seen and not traced.source.go.disabled
    traced.state.error = None


def test_a_link_to_nothing_opens_the_demo_and_says_why():
    lab = make("checkpoint=%2Fno%2Fsuch")
    assert lab.opened.is_demo and "/no/such" in lab.state.error["message"]


def test_a_trace_of_a_model_that_was_closed_meanwhile_is_not_shown():
    lab, heard, opened = make(), [], threading.Event()

    async def play():
        lab.runs.work.start(lambda: heard.append(opened.wait(60)), lambda _: heard.append("shown"), heard.append)
        lab.choose(str(demo.early()), False)
        while lab.opening.running:
            await asyncio.sleep(0.05)
        opened.set()
        await lab.runs.work.task

    asyncio.run(play())
    assert heard == [True] and lab.opened.name == "olmoe-tiny-early" and not lab.runs.running


def test_stop_keeps_the_finished_layers(monkeypatch):
    lab = make("window=32")
    short_texts(lab)

    def heard(self, progress):
        self.progress = progress
        if progress.layer >= 2:
            self.stop()

    monkeypatch.setattr(Job, "_heard", heard)
    lab.runs.trace()
    assert 1 <= len(lab.seen.layers) < 4 and "It was stopped" in lab.tracer.progress.said.value


def test_the_early_checkpoint_and_other_texts_are_set_beside_it(traced):
    part = traced.beside
    part.kind.value = EARLY
    part.go.click()
    assert traced.state.error is None and traced.state.beside == EARLY
    assert there(part.figures) == {"saturation", "difference", "sides"}
    assert "Both saw the same tokens" in part.progress.said.value and part.table.value.count("<tr>") == 5
    part.kind.value = TEXTS
    part.texts.fill((("numbers", "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15"),))
    part.go.click()
    assert there(part.figures) == {"difference", "sides"} and "different tokens" in part.progress.said.value
    part.texts.fill((("numbers", " "),))
    part.go.click()
    assert "no text to trace" in traced.state.error["message"]
    traced.state.error = None


def test_a_recording_opens_as_one(traced, tmp_path):
    path = tmp_path / "mine.safetensors"
    traced.seen.recording.save(path)
    lab = make(f"checkpoint={path}")
    assert lab.state.error is None and lab.opened.name == "mine.safetensors"
    assert np.allclose(lab.seen.load(), traced.seen.load())
    assert lab.tracer.widget.layout.display == "none" and "recording" in lab.report.facts.value
    assert "Recording.load(" in script(lab.state, 0, recording=True)
    assert lab.as_html().count("<figure") > 3


def test_counts_alone_show_what_counts_can(tmp_path):
    path = tmp_path / "counts.csv"
    rows = [f"{layer},{expert},{(layer + 1) * expert}" for layer in range(3) for expert in range(4)]
    path.write_text("layer_id,expert_id,count\n" + "\n".join(rows))
    lab = make(f"checkpoint={path}")
    assert lab.state.error is None
    assert there(lab.figures.figures) == {"map", "spread"}
    assert "counts only" in lab.advice_text.value
    assert np.allclose(lab.seen.load()[1], np.array([0, 1, 2, 3]) / 6)


def test_choices_without_scores_show_all_but_the_margins(tmp_path):
    path = tmp_path / "routes.npy"
    np.save(path, np.random.default_rng(0).random((40, 3, 8)).argsort(-1)[..., :2].astype(np.int16))
    lab = make(f"checkpoint={path}")
    assert lab.state.error is None and lab.opened.name == "routes.npy"
    assert "margins" not in there(lab.figures.figures) and {"map", "path", "company"} <= there(lab.figures.figures)
    assert "in layer 1: expert" in lab.figures.said.value and "margin" not in lab.figures.said.value
    assert "%" not in lab.figures.said.value and "weights were not recorded" in lab.figures.said.value


# -- texts -----------------------------------------------------------------------------------------------------------------
def test_texts_can_be_added_removed_and_taken_from_files():
    lab = make()
    part = lab.tracer.texts
    part.add.click()
    assert len(part.rows) == 5 and lab.state.own
    part.rows[4].remove.click()
    part.rows[0].remove.click()
    assert [domain for domain, _ in part.texts] == ["python", "markup", "data"]
    part._from_files([("poem.txt", "a rose")])
    assert part.texts[-1] == ("poem", "a rose")
    with pytest.raises(BadValue, match="12 texts at most"):
        part._from_files([("x", "y")] * 9)
    part.again.click()
    assert list(part.texts) == list(sources.samples()) and not lab.state.own


def test_own_texts_stay_when_another_model_of_texts_is_opened():
    lab = make()
    lab.tracer.texts.rows[0].text.value = "my own words"
    lab.choose(str(demo.early()), False)
    assert lab.opened.name == "olmoe-tiny-early" and lab.tracer.texts.texts[0] == ("english", "my own words")


# -- what leaves the page ------------------------------------------------------------------------------------------------
def test_recording_tables_and_page_leave_the_page(traced, monkeypatch):
    sent = {}
    monkeypatch.setattr(
        type(traced.sharing.courier), "download", lambda _, name, content, *more: sent.update({name: content})
    )
    for name in ("Recording", "Tables", "Page as HTML"):
        traced.sharing.buttons[name].click()
    assert traced.state.error is None and len(sent) == 3
    tables = next(content for name, content in sent.items() if name.endswith(".zip"))
    with zipfile.ZipFile(io.BytesIO(tables)) as archive:
        names = set(archive.namelist())
        assert {"loads.csv", "utilisation.csv", "vocabulary.csv", "decisions.csv", "pairs.csv"} <= names
        assert archive.read("loads.csv").startswith("# the demo model · OlmoeForCausalLM".encode())
    page = next(content for name, content in sent.items() if name.endswith(".html")).decode()
    assert page.startswith("<!doctype html>") and str(demo.folder().parent) not in page


def test_the_lines_of_python_run_and_give_the_same(traced):
    lines = script(CheckpointState("window=32"), 1)
    scope: dict = {}
    exec(lines.replace('a.save("trace.safetensors")', "").replace("list(texts)", "[t[:120] for t in texts]"), scope)
    assert scope["layer"] == traced.seen.layers[1]
    assert np.allclose(scope["routes"].load_map(scope["a"])[1], traced.seen.load())


def test_nothing_that_a_person_wrote_becomes_markup():
    evil = "<img src=x onerror=alert(1)>$x$"
    lab = make("window=32")
    lab.tracer.fill(((evil, evil + " and more of it"), ("b", "plain text")), False)
    lab.runs.trace()
    assert lab.state.error is None
    shown = (lab.figures.words, lab.figures.said, lab.advice_text, lab.tracer.progress.said)
    assert not any("<img" in one.value or "$" in one.value for one in shown)
    rows = [{"expert": 0, "token": 1, "text": evil, "count": 1, "share": 1.0, "lift": 2.0}]
    assert "<img" not in vocabulary(rows, 1, evil)


def test_layers_are_called_by_their_numbers_where_these_tell_them_apart():
    assert short_names(["model.layers.3.mlp", "model.layers.10.mlp"]) == ["layer 3", "layer 10"]
    twice = ["encoder.layers.1.ffn", "decoder.layers.1.ffn"]
    assert short_names(twice) == twice


def test_a_run_without_a_person_traces_once():
    lab = make("window=32")
    short_texts(lab)
    lab.one_step()
    seen = lab.seen
    lab.one_step()
    assert seen is not None and lab.seen is seen


def test_the_lab_is_what_the_shell_opens():
    assert LAB is CheckpointLab and LAB.STATE is CheckpointState
    with pytest.raises(ExplorerError):
        sources.open_given("/no/such/folder")
