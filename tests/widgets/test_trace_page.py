"""The page of a trace: every section of what was recorded, a sentence for the rest, and nothing that a name could run."""

import base64
import contextlib
import gzip
import json
import re

import pytest
import torch

from explorer import Recording
from tests.widgets.traces import trace
from widgets.export import trace_page
from widgets.export.trace_page import page
from widgets.export.trace_words import facts, harmless, short_name, size, table
from widgets.views import bundle

SECTIONS = (
    "Who gets the tokens", "How sure the routers are", "What the experts specialise in",
    "The tokens of the most specialised experts", "Experts that work together", "A text, token by token",
)  # fmt: skip
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\x1b[31m\u202e\ud800$\\href{x}{y}$%{x}"
LIBRARY = len(base64.b64encode(bundle.compressed()))


def words(text):
    """The part that a reader sees: without style sheets, packed data and the script."""
    return re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL).split('<script type="application')[0]


def data(text):
    return json.loads(gzip.decompress(base64.b64decode(re.search('id="data">([^<]*)<', text)[1])))


def charts(text):
    views = data(text)["views"]
    return [one["traits"]["label"] for one in views]


@pytest.fixture(scope="module")
def small():
    return page(trace(heads=3))


# ---- what was traced -----------------------------------------------------------------------------------------------
def test_the_first_paragraphs_say_what_was_traced():
    said = list(facts(trace()))
    assert said == [
        "TinyMoeForCausalLM was given 46 tokens of 4 texts, cut into 4 windows of at most 12 tokens; each window begins anew, "
        "without what came before it. Domains: prose (2 windows), code (2 windows).",
        "3 layers route each token to 2 of 4 experts, by softmax scores.",
        "Streamed: one layer after the other was read from the files, and of the experts those that tokens chose. 4.2 GB were "
        "read in 4.1 s; computed in float32.",
    ]


def test_a_trace_that_was_cut_or_not_streamed_says_so():
    cut = trace(
        cut=True, layers=3, done=2, method="transformers", scores=False, checkpoint="/home/ada/m",
        why="/home/ada/m has a layer of a kind that is not known, see /usr/lib/python3/dist.py", added=["<s>", "\n"],
    )  # fmt: skip
    cut.header["trace"]["layers"] = 3
    said = "\n".join(facts(cut))
    assert "Run as a whole model by transformers. It was not streamed: the checkpoint has a layer" in said
    assert "2 of 3 routed layers were finished" in said and "scores of single tokens were not kept" in said
    assert "/home" not in said and "/usr" not in said
    assert "The tokenizer put <s>, ⏎ before or behind every text." in said


def test_the_rule_of_a_trace_is_told_in_its_own_words():
    assert "The rule: sigmoid scores, top 8." in "\n".join(facts(trace(rule="sigmoid scores, top 8")))
    shared = trace()
    shared.header["routers"]["model.layers.1.mlp"]["shared"] = ["shared_expert"]
    assert "beside a shared expert that takes every token" in "\n".join(facts(shared))


@pytest.mark.parametrize(
    "given, shown",
    [
        ("/home/ada/models/mixtral", "mixtral"), ("~/mixtral/", "mixtral"), ("./mixtral", "mixtral"),
        ("allenai/OLMoE-1B-7B", "allenai/OLMoE-1B-7B"), (r"C:\models\mixtral", "mixtral"), ("data/models/mixtral", "mixtral"),
    ],
)  # fmt: skip
def test_where_a_checkpoint_lies_is_not_passed_on(given, shown):
    assert short_name(given) == shown


def test_sizes_and_folders_are_told_shortly():
    assert [size(n) for n in (0, 999, 1000, 4_200_000_000)] == ["0 bytes", "999 bytes", "1 kB", "4.2 GB"]
    assert harmless("no file '/home/ada/a/b.txt' beside it\nnow") == "no file '…/b.txt' beside it now"
    assert harmless("either/or, and 3 / 4") == "either/or, and 3 / 4"


# ---- the sections --------------------------------------------------------------------------------------------------
def test_the_page_has_every_section_with_what_to_look_at(small):
    shown = words(small)
    for title in (*SECTIONS, "Attention sinks"):
        # a heading, and then a sentence before any picture
        assert re.search(f"<h2>{title}</h2>\n<p>[A-Z]", shown), title
    assert "What is not on this page" not in shown and "Beside" not in shown
    assert charts(small) == [
        "Load of every expert", "Spread of the load", "How sure the routers are", "Margins", "Specialisation",
        "Loads by domain", "Company of experts", "Tokens coloured by expert", "Path of one token", "Attention sinks",
    ]  # fmt: skip
    assert "<title>How tiny-moe routes</title>" in shown and "/home" not in shown
    assert "gating-explorer trace · tiny-moe" in shown


def test_pairs_that_meet_more_than_chance_are_shown():
    rec = trace(1, 6, 2, 8, 64)
    index = rec.last("model.layers.0.mlp/index")
    index[:, ::2] = torch.tensor([1, 4])
    index[:, 1::2] = torch.tensor([0, 2])
    assert "Pairs that keep company" in charts(page(rec))


def test_the_table_names_the_tokens_of_an_expert():
    rec = trace(1, 4, 1, 2, 40)
    tokens, index = rec.last("/tokens"), rec.last("model.layers.0.mlp/index")
    index[..., 0] = torch.where(tokens == 7, 3, tokens % 3)
    shown = words(page(rec))
    n = int((tokens == 7).sum())
    assert re.search(rf"<td[^>]*>3</td><td[^>]*>·word7 100% of {n}\b", shown)


def test_short_texts_are_warned_about():
    assert "The text is short: an expert has 1.4 choices on average" in words(page(trace(1, 64, 2)))
    assert "The text is short" not in words(page(trace(1, 4, 2, 16, 32)))


def test_what_a_recording_lacks_is_left_out_or_said():
    bare = words(page(trace(domains=(), scores=False)))
    assert "Attention sinks</h2>" not in bare and "Loads by domain" not in bare
    assert "Margins" not in charts(page(trace(scores=False)))
    top1 = words(page(trace(k=1)))
    assert "Experts that work together</h2>" not in top1


def test_counts_alone_make_a_page():
    rec = Recording({"source": {"engine": "sglang", "format": "counts", "counts_only": True}})
    rec.header["experts"] = {"layers.0": 4, "layers.1": 4}
    for path in rec.header["experts"]:
        rec.add(0, [(path, "index", torch.tensor([[[0, 1], [2, 0]]]))], tensors=False)
    shown = words(page(rec, name="dump"))
    assert "Who gets the tokens</h2>" in shown and "How dump routes" in shown
    assert "sglang, counts" in shown and "2 layers route tokens to 4 experts." in shown
    assert "What is not on this page</h2>" in shown and 0 < shown.count("counts alone") <= 2


def test_a_recording_of_the_explorer_s_own_has_a_page_too():
    import explorer

    run = explorer.Experiment("topk-softmax", layers=2).run(2)
    shown = words(page(run.recording, name="own"))
    assert "Who gets the tokens</h2>" in shown and "How own routes" in shown


def test_a_recording_of_nothing_is_a_page_that_says_so():
    shown = words(page(Recording(), name="nothing"))
    assert "No layer of it routes tokens to experts." in shown and "<figure" not in shown


# ---- two of them ---------------------------------------------------------------------------------------------------
def test_two_checkpoints_are_compared_with_their_experts_matched():
    made = page(trace(), trace(seed=1, checkpoint="later"))
    assert charts(made)[-3:] == ["Side by side", "Choices that both make", "Difference of the loads"]
    shown = words(made)
    assert "<title>How tiny-moe routes, beside later</title>" in shown and "matched by the tokens both saw" in shown


def test_other_texts_are_compared_by_their_loads_alone():
    made = page(trace(), trace(texts=1))
    assert charts(made)[-2:] == ["Side by side", "Difference of the loads"]
    assert "tiny-moe (A)" in made and "as they are numbered, since the tokens differ" in words(made)


def test_models_of_other_depth_are_only_set_side_by_side():
    made = page(trace(), trace(layers=2, checkpoint="other"))
    assert charts(made)[-1] == "Side by side" and "Layer by layer they cannot be compared" in words(made)


# ---- safe and small ------------------------------------------------------------------------------------------------
def test_nothing_in_a_recording_is_run_or_moves_the_cursor():
    rec = trace(
        heads=2, checkpoint=EVIL, architecture=EVIL, domains=(EVIL, EVIL + "2"), why=EVIL, method=EVIL, added=[EVIL],
        dtype=EVIL, rule=EVIL, vocabulary={str(i): ("\x00\n\x1b\u202e", EVIL.replace("\ud800", ""))[i % 2] for i in range(20)},
    )  # fmt: skip
    made = page(rec, trace(checkpoint=EVIL))
    shown = words(made)
    assert "<img" not in shown and "<script" not in shown and "alert(1)" in shown
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\ud800-\udfff]", made)
    assert made.count("</script>") == 3 and made.count("<script") == 3  # the page's own: data, library, start
    assert "␀⏎␛" in shown  # a token of controls is drawn


@pytest.mark.parametrize("name, shows", [(EVIL.replace("\ud800", ""), True), (EVIL, False)])
def test_hostile_layers_and_ids_are_only_text(name, shows):
    rec = Recording()
    rec.header["experts"] = {f"{name}{i}": 3 for i in range(2)}
    rec.header["routers"] = {f"{name}{i}": {"scores": name, "shared": [name]} for i in range(2)}
    rec.header["axes"] = {"/tokens": "B T"} | {f"{name}{i}/index": "B T K" for i in range(2)}
    tokens = torch.tensor([[2**62, -5, 7, 7]])
    heard = [(f"{name}{i}", "index", torch.tensor([[[0], [1], [2], [-1]]])) for i in range(2)]
    rec.add(0, [("", "tokens", tokens), *heard], tensors=True)
    made = page(rec, name=name)
    shown = words(made)
    assert "<img" not in shown and "\x1b" not in shown and ("Who gets the tokens</h2>" in shown) is shows
    assert shows or "a name or a token in the recording is no text." in shown
    made.encode("utf-8")


def test_a_table_escapes_and_folds():
    made = table({"a": "<b>"}, [{"a": EVIL}, {"a": float("nan")}, {"a": 0.12345}], "label", folded=True)
    assert "<b>" not in made and "<img" not in made and "<td" in made and ">–<" in made and ">0.123<" in made
    assert made.startswith("<details><summary>label</summary>")
    long = table({"a": "a"}, [{"a": 1}] * 300, "label")
    assert long.count("<tr>") == 201 and "The first 200 of 300." in long


def test_sixty_layers_of_256_experts_stay_small():
    made = page(trace(60, 256, 4, 2, 32, heads=8, scores=False, domains=()))
    assert len(made.encode()) - LIBRARY < 1_000_000
    shown = words(made)
    assert "60 layers route each token to 4 of 256 experts" in shown and len(re.findall("<summary>", shown)) == 1


# ---- the command ---------------------------------------------------------------------------------------------------
def test_the_command_writes_the_page(tmp_path):
    for name in ("a", "b"):
        trace(layers=2, checkpoint=name).save(tmp_path / f"{name}.safetensors")
    with open(tmp_path / "page.html", "w+") as out, contextlib.redirect_stdout(out):
        assert trace_page.main([str(tmp_path / "a.safetensors"), "--beside", str(tmp_path / "b.safetensors")]) == 0
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>") and "How a routes, beside b" in text and "Content-Security-Policy" in text


def test_a_mistake_is_one_sentence(tmp_path, capsys):
    (tmp_path / "no.safetensors").write_bytes(b"nonsense")
    assert trace_page.main([str(tmp_path / "no.safetensors")]) == 1
    out, err = capsys.readouterr()
    assert not out and len(err.strip().splitlines()) == 1
    assert trace_page.main([str(tmp_path / "gone.safetensors")]) == 1
