"""Tracing texts through a checkpoint: both ways agree with transformers' own routers, and what goes wrong is one sentence."""

import http.server
import json
import math
import shutil
import socket
import sys
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

import explorer
from explorer import Recording
from explorer.checkpoints import fallback, loading, tokenizer, tokens, trace
from explorer.checkpoints.files import CheckpointError
from explorer.errors import ExplorerError
from tests.checkpoints import tracing
from tests.checkpoints.architectures import model_of
from tests.checkpoints.making import MIXTRAL, mixtral, save
from tests.checkpoints.test_checkpoint import Server
from tests.checkpoints.tracing import VOCAB, WORDS, checkpoint, configured

transformers = pytest.importorskip("transformers", reason="the extra `checkpoints` is not installed")

VERSION = int(transformers.__version__.split(".")[0])  # 4 reads what waits on the disk from the checkpoint itself
TEXTS = [WORDS[0] * 2, WORDS[1], WORDS[2]]
LAYERS = ["model.layers.0.block_sparse_moe", "model.layers.1.block_sparse_moe"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Kind -> folder, made once each."""
    made = {}

    def folder(kind):
        if kind not in made:
            made[kind] = checkpoint(tmp_path_factory.mktemp(kind), kind)
        return made[kind]

    return folder


@pytest.fixture
def folder(folders, tmp_path):
    """A Mixtral of one's own, to be broken."""
    return Path(shutil.copytree(folders("Mixtral"), tmp_path / "model"))


@pytest.fixture
def seen(folders):
    return explorer.open_checkpoint(folders("Mixtral"))


def same(a, b, tolerance=1e-4):
    """Two recordings of the same tokens decide alike."""
    assert a.layers() == b.layers() and torch.equal(a.last("/tokens"), b.last("/tokens"))
    for layer in a.layers():
        assert torch.equal(a.last(f"{layer}/index"), b.last(f"{layer}/index"))
        for tap in ("weights", "logits", "probs"):
            mine, other = a.last(f"{layer}/{tap}"), b.last(f"{layer}/{tap}")
            assert torch.allclose(mine, other, atol=tolerance, equal_nan=True)
    assert (a.loads()["load"] - b.loads()["load"]).abs().max() == 0
    difference = (
        a.routing()[["token_entropy", "margin", "empty_slots"]]
        - b.routing()[["token_entropy", "margin", "empty_slots"]]
    )
    assert difference.abs().max().max() < tolerance


# -- what comes of it --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(tracing.KINDS))
def test_every_window_is_routed_as_transformers_routes_it_alone(folders, kind):
    seen = explorer.open_checkpoint(folders(kind))
    recording = seen.trace(TEXTS, window=16)
    ids, valid = recording.last("/tokens"), recording.last("/valid")
    whole = tracing.model(kind)
    for b in range(len(ids)):
        with torch.no_grad():
            logits = whole(ids[b : b + 1, valid[b]], output_router_logits=True).router_logits
        for layer, theirs in zip(recording.layers(), logits, strict=True):
            mine = recording.last(f"{layer}/index")[b]
            K = mine.shape[-1]
            assert torch.equal(mine[valid[b]].sort(-1).values, theirs.topk(K, -1).indices.sort(-1).values)
            assert torch.allclose(recording.last(f"{layer}/logits")[b, valid[b]], theirs, atol=1e-4)
            assert (mine[~valid[b]] == -1).all()
    assert len(set(recording.last(f"{recording.layers()[0]}/index").flatten().tolist())) > 4
    streamed = recording.header["trace"]["method"] == "streamed"
    assert streamed == (kind != "GraniteMoe") and bool(recording.header["trace"]["why"]) != streamed


@pytest.mark.parametrize("kind", ["Mixtral", "Olmoe"])
def test_streamed_and_whole_are_the_same_recording(folders, kind):
    seen = explorer.open_checkpoint(folders(kind))
    streamed, whole = (seen.trace(TEXTS, window=16, attention=True, method=one) for one in ("stream", "transformers"))
    same(streamed, whole)
    assert sorted(streamed.paths()) == sorted(whole.paths())
    assert streamed.layers() == seen.layers
    for layer in ("model.layers.0.self_attn", "model.layers.1.self_attn"):
        for tap in ("first", "elsewhere", "entropy", "received"):
            mine, other = streamed.last(f"{layer}/{tap}"), whole.last(f"{layer}/{tap}")
            assert torch.allclose(mine, other, atol=1e-4, equal_nan=True), tap
    columns = ["first_token_share", "elsewhere", "entropy"]
    assert (streamed.attention()[columns] - whole.attention()[columns]).abs().max().max() < 1e-4
    assert streamed.header["scores"] == whole.header["scores"] and streamed.header["experts"] == whole.header["experts"]
    names = [
        {path: (one["scores"], one["shared"]) for path, one in r.header["routers"].items()} for r in (streamed, whole)
    ]
    assert names[0] == names[1]


def test_the_header_says_what_was_done(seen, tmp_path):
    recording = seen.trace(TEXTS, domains=["cats", "code", "cats"], window=16)
    about = recording.header["trace"]
    lengths = recording.last("/valid").sum(1).tolist()
    assert about["domains"] == ["cats", "code"] and about["domain"] == [{0: 0, 1: 1, 2: 0}[i] for i in about["text"]]
    assert about["text"] == sorted(about["text"]) and set(about["text"]) == {0, 1, 2}
    assert (
        about["tokens"] == sum(lengths) and max(lengths) == 16 == about["window"] and len(lengths) == len(about["text"])
    )
    assert (about["layers"], about["done"], about["cut"], about["scores_kept"]) == (2, 2, False, True)
    assert about["architecture"] == "MixtralForCausalLM" and about["checkpoint"] == seen.name and about["added"] == []
    assert 0 < about["bytes_read"] <= seen.weights.bytes and about["seconds"] > 0 and about["dtype"] == "float32"
    assert recording.header["axes"]["/tokens"] == "B T" and recording.experts(LAYERS[0]) == 6
    assert recording.steps() == [0]
    recording.save(tmp_path / "t.safetensors")
    again = Recording.load(tmp_path / "t.safetensors")
    assert again.header["trace"] == about and again.layers() == recording.layers()
    same(recording, again)


def test_tables_are_made_of_real_tokens_alone(seen):
    recording = seen.trace(TEXTS, window=16)
    table = recording.decisions()
    assert len(table) == 2 * 2 * recording.header["trace"]["tokens"] and (table["position"] >= 0).all()
    assert sorted(set(table["token"])) == sorted(map(int, recording.header["trace"]["vocabulary"]))
    probs = recording.last(f"{LAYERS[0]}/probs")[recording.last("/valid")]
    entropy = -(probs * probs.log()).sum(-1).mean() / math.log(6)
    assert recording.routing()["token_entropy"][0] == pytest.approx(float(entropy), abs=1e-5)
    best = probs.sort(-1, descending=True).values
    assert recording.routing()["margin"][0] == pytest.approx(float((best[:, 1] - best[:, 2]).mean()), abs=1e-5)
    assert (
        recording.last("/position").max() == 15 and (recording.last("/position")[~recording.last("/valid")] == -1).all()
    )


def test_a_window_begins_anew(seen):
    ids = torch.randint(0, VOCAB, (40,), generator=torch.Generator().manual_seed(1)).tolist()
    cut = seen.trace(tokens=[ids], window=16)
    alone = seen.trace(tokens=[ids[:16], ids[16:32], ids[32:]], window=64)
    assert cut.header["trace"]["text"] == [0, 0, 0] and alone.header["trace"]["text"] == [0, 1, 2]
    assert cut.header["trace"]["domain"] == [-1, -1, -1] and cut.header["trace"]["domains"] == []
    same(cut, alone)
    assert not torch.equal(
        cut.last(f"{LAYERS[1]}/logits")[0], seen.trace(tokens=[ids[:5] + ids[:11]]).last(f"{LAYERS[1]}/logits")[0]
    )


@pytest.mark.parametrize("method", ["stream", "transformers"])
def test_without_scores_the_summaries_are_exact_all_the_same(seen, method):
    kept, less = (seen.trace(TEXTS, window=16, scores=scores, method=method) for scores in (True, False))
    assert not any(name.endswith(("/probs", "/logits")) for name in less.paths()) and not less.header["scores"]
    assert not less.header["trace"]["scores_kept"]
    assert torch.equal(kept.last(f"{LAYERS[1]}/index"), less.last(f"{LAYERS[1]}/index"))
    columns = ["token_entropy", "margin"]
    assert (kept.routing()[columns] - less.routing()[columns]).abs().max().max() < 1e-6


def test_many_passes_are_put_together(folders, monkeypatch):
    seen = explorer.open_checkpoint(folders("GraniteMoe"))
    one = seen.trace(TEXTS, window=16, attention=True)
    monkeypatch.setattr(fallback, "AT_ONCE", 20)
    many = seen.trace(TEXTS, window=16, attention=True)
    same(one, many)
    name = "model.layers.0.self_attn/received"
    assert torch.allclose(one.last(name), many.last(name), atol=1e-5, equal_nan=True)
    assert "'granitemoe'" in one.header["trace"]["why"]


def test_windows_are_run_together_as_long_as_they_are_few_tokens(monkeypatch):
    monkeypatch.setattr(fallback, "AT_ONCE", 20)
    lengths = [4, 5, 5, 30, 2, 10, 10]
    given = tokens.Windows([torch.zeros(n) for n in lengths], [], [], [], 64, [])
    assert list(fallback.passes(given)) == [3, 4, 6, 7]


def test_layers_wait_on_the_disk_where_memory_is_short(folder, monkeypatch, tmp_path):
    pytest.importorskip("accelerate", reason="the layers wait on the disk through accelerate")
    halves = {name: value.bfloat16() for name, value in load_file(folder / "model.safetensors").items()}
    save_file(halves, folder / "model.safetensors", metadata={"format": "pt"})
    seen = explorer.open_checkpoint(folder)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    whole = seen.trace(TEXTS, window=16, method="transformers")
    monkeypatch.setattr(loading, "free_memory", lambda: 250_000)
    said, scratch = [], []
    found = seen.trace(
        TEXTS, window=16, method="transformers",
        progress=lambda now: (said.append(now), scratch.extend(tmp_path.glob("gating-explorer-*/*"))),
    )  # fmt: skip
    assert found.header["trace"]["method"] == "transformers, layers on disk"
    assert (scratch or VERSION == 4) and not list(tmp_path.glob("gating-explorer-*"))
    assert "layers on disk" in said[0].what and said[-1].layers == 2
    same(whole, found)
    same(seen.trace(TEXTS, window=16), found)


def test_paths_are_those_of_the_files_where_the_layers_agree(seen):
    there = "model.layers.0.mlp", "model.layers.1.mlp"
    all_of = [*there, "model.layers.0.self_attn", "other"]
    names = fallback.names_in_files(seen, list(there), all_of)
    assert list(names.values()) == [*LAYERS, "model.layers.0.self_attn", "other"]
    inner = [path.replace("model.", "model.language_model.") for path in all_of]
    assert list(fallback.names_in_files(seen, inner[:2], inner).values()) == [
        *LAYERS,
        "model.layers.0.self_attn",
        "other",
    ]
    twice = ["model.layers.0.mlp", "model.layers.0.self_attn.experts"]
    assert fallback.names_in_files(seen, twice, twice) == {path: path for path in twice}
    beyond = ["model.layers.7.mlp"]
    assert fallback.names_in_files(seen, beyond, beyond) == {beyond[0]: beyond[0]}


# -- tokens ------------------------------------------------------------------------------------------------------------


def test_pieces_can_be_read(seen):
    recording = seen.trace(["the cat 猫"])
    shown = recording.header["trace"]["vocabulary"]
    row = [shown[str(i)] for i in recording.last("/tokens")[0].tolist()]
    assert row[:2] == ["the", " cat"] and "".join(row[:2]) == "the cat"
    assert "".join(row[2:]).replace("><", " ") in ("<20 E7 8C AB>", " <E7 8C AB>", " 猫")


def test_pieces_of_other_alphabets():
    words = {1: ("the", "▁the"), 2: ("\ufffd", "<0xE2>"), 3: ("", "</s>"), 4: ("", None), 5: ("x" * 200, "x" * 200),
             6: ("\ufffd", "âĤ")}  # fmt: skip
    made = tokenizer.Tokenizer(lambda _: ([], []), lambda i: words[i][0], lambda i: words[i][1])
    shown = tokenizer.pieces(made, [1, 2, 3, 4, 5, 6, 7])
    assert shown == {"1": " the", "2": "<E2>", "3": "</s>", "4": "<4>", "5": "x" * 79 + "…", "6": "<E2 82>", "7": "<7>"}


def test_special_tokens_are_those_of_the_post_processor(folder):
    plain = explorer.open_checkpoint(folder).trace(["the cat"])
    tracing.tokenizer(folder, start=True)
    begun = explorer.open_checkpoint(folder).trace(["the cat", "the mat"])
    assert plain.header["trace"]["added"] == [] and begun.header["trace"]["added"] == ["<s>"]
    assert begun.last("/tokens")[:, 0].tolist() == [0, 0]
    assert begun.last("/tokens")[0, 1:].tolist() == plain.last("/tokens")[0].tolist()


def test_a_tokenizer_that_cuts_or_pads_does_neither_here(folder):
    file = folder / "tokenizer.json"
    told = json.loads(file.read_text())
    told["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    told["padding"] = {
        "strategy": {"Fixed": 99}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
        "pad_token": "<s>",
    }  # fmt: skip
    file.write_text(json.dumps(told))
    assert explorer.open_checkpoint(folder).trace([WORDS[0]]).header["trace"]["tokens"] not in (3, 99)


def test_token_ids_need_no_tokenizer_and_may_come_as_tensors(folder):
    seen = explorer.open_checkpoint(folder)
    shown = seen.trace(tokens=torch.tensor([[5, 6, 7], [8, 9, 10]]), domains=["a", "b"])
    assert set(shown.header["trace"]["vocabulary"]) == {"5", "6", "7", "8", "9", "10"}
    (folder / "tokenizer.json").unlink()
    recording = explorer.open_checkpoint(folder).trace(tokens=[torch.tensor([5, 6, 7]), [8, 9, 10]], domains=["a", "b"])
    assert "vocabulary" not in recording.header["trace"] and recording.header["trace"]["domain"] == [0, 1]
    same(shown, recording)


def test_other_tokenizers_are_read_by_transformers(folder):
    tracing.tokenizer(folder, start=True)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), bos_token="<s>")
    own = explorer.open_checkpoint(folder).trace(TEXTS)
    fast.save_pretrained(folder)
    seen = explorer.open_checkpoint(folder)
    made = tokenizer._through_transformers(seen, "tokenizer_config.json")
    ids, added = made.encode(WORDS[0])
    assert ids == own.last("/tokens")[0, : len(ids)].tolist() and added == ["<s>"]
    assert (
        tokenizer.pieces(made, own.last("/tokens")[0].unique().tolist()).items()
        <= own.header["trace"]["vocabulary"].items()
    )


def test_a_window_is_what_the_model_has_places_for(folder):
    assert explorer.open_checkpoint(folder).trace(["the cat"]).header["trace"]["window"] == 64
    configured(folder, max_position_embeddings=5000)
    assert explorer.open_checkpoint(folder).trace(["the cat"]).header["trace"]["window"] == 512


# -- how far it is, and stopping ---------------------------------------------------------------------------------------


def test_progress_goes_from_the_first_layer_to_the_last(seen):
    said = []
    seen.trace(TEXTS, progress=said.append)
    assert [now.layer for now in said] == sorted(now.layer for now in said)
    assert {now.layer for now in said} == {0, 1} and {now.layers for now in said} == {2}
    assert [now.bytes_read for now in said] == sorted(now.bytes_read for now in said)
    said.clear()
    seen.trace(TEXTS, progress=said.append, method="transformers")
    assert "asked for" in said[0].what and said[0].bytes_left == seen.weights.bytes
    assert [now.layer for now in said[1:]] == [0, 1] and all(now.seconds_left >= 0 for now in said)


def test_a_trace_that_is_stopped_keeps_its_finished_layers(seen, tmp_path):
    at = [0]
    recording = seen.trace(
        TEXTS, window=16, progress=lambda now: at.__setitem__(0, now.layer), stop=lambda: at[0] >= 1, attention=True
    )
    about = recording.header["trace"]
    assert (about["done"], about["layers"], about["cut"]) == (1, 2, True)
    assert recording.layers() == LAYERS[:1] and list(recording.header["routers"]) == LAYERS[:1]
    assert not any("layers.1" in name for name in (*recording.paths(), *recording.header["scores"]))
    recording.save(tmp_path / "cut.safetensors")
    assert Recording.load(tmp_path / "cut.safetensors").layers() == LAYERS[:1]
    whole = seen.trace(TEXTS, window=16)
    assert torch.equal(whole.last(f"{LAYERS[0]}/index"), recording.last(f"{LAYERS[0]}/index"))


def test_transformers_keeps_its_finished_windows(seen, monkeypatch):
    monkeypatch.setattr(fallback, "AT_ONCE", 16)
    asked = [0]

    def stop():
        asked[0] += 1
        return asked[0] > 3  # in the second pass, before its second layer

    recording = seen.trace(TEXTS, window=16, method="transformers", stop=stop, domains=["a", "b", "c"])
    about = recording.header["trace"]
    assert (about["cut"], about["done"], about["tokens"], about["domain"]) == (True, 2, 16, [0])
    assert len(recording.last("/tokens")) == 1
    assert not any(hook for module in [seen] for hook in getattr(module, "_forward_hooks", {}))


@pytest.mark.parametrize("method", ["stream", "transformers"])
def test_stopped_before_anything_is_done(seen, method):
    with pytest.raises(CheckpointError, match="stopped before the first"):
        seen.trace(TEXTS, method=method, stop=lambda: True)


# -- memory ------------------------------------------------------------------------------------------------------------


def test_a_trace_that_does_not_fit_is_refused_before_anything_is_read(seen, monkeypatch):
    monkeypatch.setattr(seen.weights, "read", None)
    monkeypatch.setattr(seen.weights, "numbers", None)
    ids = [[1] * 64] * 100
    each = 17 + 2 * 2 * 12
    with pytest.raises(CheckpointError, match=f"6,400 tokens would take {6400 * each:,} bytes .* room for 1,538"):
        seen.trace(tokens=ids, memory=100_000)
    with pytest.raises(CheckpointError, match=r"padding included.*leave the scores out"):
        seen.trace(tokens=[*ids, [1]], memory=500_000, scores=True)
    with pytest.raises(CheckpointError, match=r"memory = 0 should be"):
        seen.trace(tokens=ids, memory=0)


def test_scores_are_kept_while_they_are_small(seen, monkeypatch):
    given = tokens.Windows([torch.zeros(64)] * 100, [], [], [], 64, [])
    room = lambda memory, scores=None: trace._room(seen, given, False, scores, memory)  # noqa: E731
    assert room(1 << 30) and not room(6400 * 100) and room(1 << 30, False) is False
    monkeypatch.setattr(trace, "KEPT", 10_000)
    assert not room(1 << 30) and room(1 << 30, True)


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given, sentence",
    [
        ({}, r"give texts, or token ids"),
        ({"texts": ["a"], "tokens": [[1]]}, r"give either texts or token ids"),
        ({"texts": []}, r"texts should be a list of strings, at least one"),
        ({"texts": 7}, r"texts should be a list of strings"),
        ({"texts": ["a", ""]}, r"texts\[1\] is empty"),
        ({"texts": ["a", None]}, r"texts\[1\] is a NoneType and should be a string"),
        ({"texts": ["a", b"ab\xff"]}, r"texts\[1\] is not text in UTF-8: see its byte 2"),
        ({"texts": ["ab\ud800"]}, r"texts\[0\] holds half a character \(a lone surrogate\) at 2"),
        ({"texts": ["a"], "domains": ["x", "y"]}, r"domains has 2 names for 1 texts"),
        ({"texts": ["a"], "domains": 3}, r"domains has a int for 1 texts"),
        ({"texts": ["a"], "domains": [" "]}, r"domains\[0\] should be a name"),
        ({"tokens": []}, r"tokens should be a list of lists"),
        ({"tokens": "abc"}, r"tokens should be a list of lists"),
        ({"tokens": [1, 2]}, r"tokens\[0\] should be a list of token ids"),
        ({"tokens": [[1], []]}, r"tokens\[1\] is empty"),
        ({"tokens": [[1, 2.5]]}, r"tokens\[0\]\[1\] = '2.5' is no token id"),
        ({"tokens": [[1], [True]]}, r"tokens\[1\]\[0\] = 'True' is no token id"),
        (
            {"tokens": [[1, 300]]},
            r"tokens\[0\]\[1\] = 300 is outside the vocabulary: the embedding has the rows 0 to 299",
        ),
        ({"tokens": [[-1]]}, r"tokens\[0\]\[0\] = -1 is outside the vocabulary"),
        ({"tokens": [[10**30]]}, r"is outside the vocabulary"),
        ({"tokens": [[1]], "window": 1}, r"window = 1 should be a whole number of tokens from 2"),
        ({"tokens": [[1]], "window": 8.0}, r"window = 8.0 should be"),
        ({"tokens": [[1]], "window": 65}, r"window = 65, but .* has places for 64 tokens"),
        ({"tokens": [[1]], "method": "magic"}, r"method = 'magic' should be one of auto, stream, transformers"),
    ],
)
def test_a_mistake_is_one_sentence(seen, given, sentence):
    with pytest.raises(CheckpointError, match=sentence) as caught:
        seen.trace(**given)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_a_text_of_no_tokens_and_a_token_without_a_row(folder, monkeypatch):
    configured(folder, vocab_size=280)
    tensors = load_file(folder / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = tensors[name][:280].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    seen = explorer.open_checkpoint(folder)
    with pytest.raises(
        CheckpointError, match=r"token \d+ of texts\[0\], by the model's own tokenizer, = \d+ is outside"
    ):
        seen.trace([WORDS[0]])
    nothing = tokenizer.Tokenizer(lambda _: ([0], ["<s>"]), str, str)
    monkeypatch.setattr(tokens, "tokenizer_of", lambda _: nothing)
    with pytest.raises(CheckpointError, match=r"texts\[0\] has no token"):
        seen.trace(["x"])
    monkeypatch.setattr(tokens, "MOST_TEXT", 10)
    with pytest.raises(CheckpointError, match=r"the texts have 12 characters, more than 10"):
        seen.trace(["x" * 12])


@pytest.mark.parametrize(
    "text, sentence",
    [
        (None, r"has no tokenizer \(no tokenizer.json\): give token ids"),
        ("{}", r"tokenizer.json of .* cannot be read \(.*\): give token ids"),
        ("{" * 100_000, r"tokenizer.json of .* cannot be read"),
        (
            '{"version":"1.0","model":{"type":"BPE","vocab":{"a":-1},"merges":[]}}',
            r"cannot be read \(.*\): give token ids",
        ),
        (
            '{"version":"1.0","model":{"type":"BPE","vocab":{"a":4000000000},"merges":[]}}',
            r"token 0 of texts\[0\].* outside",
        ),
        (b"\xff\xfe", r"tokenizer.json of .* cannot be read"),
    ],
)
def test_a_tokenizer_that_is_none(folder, text, sentence):
    file = folder / "tokenizer.json"
    file.unlink()
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CheckpointError, match=sentence):
        explorer.open_checkpoint(folder).trace(["a"])
    assert explorer.open_checkpoint(folder).trace(tokens=[[1, 2]]).layers() == LAYERS


def test_a_tokenizer_outside_the_folder_is_not_opened_and_a_huge_one_is_not_read(folder, tmp_path, monkeypatch):
    (folder / "tokenizer.json").rename(tmp_path / "outside.json")
    (folder / "tokenizer.json").symlink_to(tmp_path / "outside.json")
    with pytest.raises(CheckpointError, match=r"a link to a place outside its folder"):
        explorer.open_checkpoint(folder).trace(["a"])
    (folder / "tokenizer.json").unlink()
    tracing.tokenizer(folder)
    monkeypatch.setattr(tokenizer, "LARGEST", 100)
    with pytest.raises(CheckpointError, match=r"tokenizer.json of .* bytes; more than 100 cannot be right"):
        explorer.open_checkpoint(folder).trace(["a"])


def test_missing_libraries_are_named(seen, folders, folder, monkeypatch):
    other = explorer.open_checkpoint(folders("GraniteMoe"))
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(CheckpointError, match=r"needs tokenizers \(pip install .*\); or give token ids"):
        seen.trace(["a"])
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert seen.trace(tokens=[[1, 2, 3]]).header["trace"]["method"] == "streamed"
    with pytest.raises(CheckpointError, match=r"is not streamed, and running it whole takes transformers: pip install"):
        other.trace(tokens=[[1, 2, 3]])
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(b"sentencepiece")
    with pytest.raises(
        CheckpointError, match=r"\(tokenizer.model\) is read by transformers .* without it, give token ids"
    ):
        explorer.open_checkpoint(folder).trace(["a"])


def test_versions_that_cannot_be_listened_to(seen, monkeypatch):
    monkeypatch.setattr(sys.modules["transformers"], "__version__", "4.40.1")
    with pytest.raises(CheckpointError, match=r"transformers 4.40.1 is too old to be listened to, 4.57 is the first"):
        seen.trace(tokens=[[1]], method="transformers")


def test_no_room_in_memory_without_accelerate_or_on_the_disk(seen, monkeypatch):
    monkeypatch.setattr(loading, "free_memory", lambda: 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 0, 10))
    with pytest.raises(CheckpointError, match=r"on the disk, and .* has 1e-08 GB left: let TMPDIR name"):
        seen.trace(tokens=[[1]], method="transformers")
    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(
        CheckpointError, match=r"with accelerate its layers can wait on the disk \(pip install accelerate\)"
    ):
        seen.trace(tokens=[[1]], method="transformers")


def test_the_free_memory_is_a_number(monkeypatch, tmp_path):
    assert 1 << 20 < loading.free_memory() < 1 << 46
    for name, text in (
        ("memory.max", "3000"),
        ("memory.current", "2000"),
        ("memory.stat", "anon 1\ninactive_file 500\n"),
    ):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(loading, "GROUP", tmp_path)
    assert loading.free_memory() == 1500


@pytest.mark.parametrize("method", ["stream", "transformers"])
def test_numbers_that_are_none_are_told_with_their_layer(folder, method):
    good = load_file(folder / "model.safetensors")
    gate, norm = f"{LAYERS[1]}.gate.weight", "model.layers.0.post_attention_layernorm.weight"
    for name, value, sentence in (
        (gate, math.nan, rf"scores of {LAYERS[1]} in .* are NaN or infinite: 32 numbers of its router are"),
        (gate, math.inf, rf"scores of {LAYERS[1]} in .*: 32 numbers of its router are"),
        (norm, math.nan, rf"scores of {LAYERS[0]} in .*: what reaches its router is so already"),
    ):
        bad = {**good, name: good[name].clone()}
        bad[name][0] = value
        save_file(bad, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(CheckpointError, match=sentence):
            explorer.open_checkpoint(folder).trace(TEXTS, method=method)


def test_what_does_not_route_or_wants_too_many_experts(folder, tmp_path):
    quiet = save(tmp_path / "sinks", {"model.layers.0.self_attn.sinks": torch.randn(3)}, {"model_type": "granite_swa"})
    with pytest.raises(CheckpointError, match=r"routes nothing to experts"):
        explorer.open_checkpoint(quiet).trace(tokens=[[1]])
    configured(folder, num_experts_per_tok=9)
    with pytest.raises(CheckpointError, match=r"9 experts for each token"):
        explorer.open_checkpoint(folder).trace(tokens=[[1]])


def test_weights_that_are_missing_are_not_made_up(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.self_attn.k_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    for method in ("auto", "transformers"):
        with pytest.raises(CheckpointError, match=r"lacks 1 tensors that transformers needs"):
            explorer.open_checkpoint(folder).trace(tokens=[[1]], method=method)


def test_what_only_transformers_could_do_and_cannot(folder, tmp_path):
    tensors = mixtral()
    for changes, sentence in (
        ({"model_type": "never_heard_of"}, r"does not know the model type 'never_heard_of'"),
        ({"model_type": None}, r"does not know the model type ''"),
    ):
        named = {name: value for name, value in {**MIXTRAL, **changes}.items() if value is not None}
        seen = explorer.open_checkpoint(save(tmp_path / "x", tensors, named))
        with pytest.raises(CheckpointError, match=sentence):
            seen.trace(tokens=[[1]])
        with pytest.raises(CheckpointError, match=r"cannot be streamed: "):
            seen.trace(tokens=[[1]], method="stream")
    bare = save(tmp_path / "bare", tensors, None)
    with pytest.raises(CheckpointError, match=r"has no config.json"):
        explorer.open_checkpoint(bare).trace(tokens=[[1]])
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    with pytest.raises(CheckpointError, match=r"is one file, and transformers loads folders"):
        explorer.open_checkpoint(folder / "part.safetensors").trace(tokens=[[1]], method="transformers")


def test_what_cannot_be_heard_is_not_traced():
    router, attention = {"a": ("Odd", "index")}, {"b": ("Own", "first")}
    ear = SimpleNamespace(taps={"index": "B T K"})
    for deaf, wanted, sentence in (
        (router, False, r"a \(Odd\) routes in a way that is not known here"),
        (attention, True, r"b \(Own\) computes attention in a way of its own: trace it without attention"),
        ({}, True, r"has no attention that can be watched"),
    ):
        with pytest.raises(CheckpointError, match=sentence):
            fallback.insist(SimpleNamespace(deaf=deaf, ears={"x": ear}), wanted)
    fallback.insist(SimpleNamespace(deaf=attention, ears={"x": ear}), False)


@pytest.mark.skipif(VERSION == 4, reason="version 4 cannot build the text part alone")
def test_a_model_without_a_head_for_words_is_run_too(tmp_path):
    model_of("Qwen3VLMoeText").save_pretrained(tmp_path)
    assert len(explorer.open_checkpoint(tmp_path).trace(tokens=[[1, 2, 3]]).layers()) == 3


def test_a_model_of_two_streams_is_not_fed_with_one(tmp_path):
    model_of("SwitchTransformers").save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"has an encoder and a decoder, which a text alone does not feed"):
        explorer.open_checkpoint(tmp_path).trace(tokens=[[1]])


CODE = """
from pathlib import Path
from transformers import MixtralConfig, MixtralForCausalLM
Path(__file__).with_name("ran").touch()
class OwnConfig(MixtralConfig):
    model_type = "own_kind"
class OwnModel(MixtralForCausalLM):
    config_class = OwnConfig
"""


def test_code_of_a_checkpoint_runs_only_if_you_say_so(folder, tmp_path, monkeypatch):
    modules = tmp_path / "modules"
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(modules))
    monkeypatch.setattr(sys, "path", list(sys.path))
    (folder / "own.py").write_text(CODE)
    save_file(tracing.model("Mixtral").state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    configured(
        folder, model_type="own_kind", auto_map={"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    )
    with pytest.raises(CheckpointError, match=r"needs code of its own \(auto_map\), which is run only if you say so"):
        explorer.open_checkpoint(folder).trace(tokens=[[1, 2]])
    assert not list(tmp_path.rglob("ran"))
    recording = explorer.open_checkpoint(folder, trust_remote_code=True).trace(tokens=[[1, 2]])
    assert list(modules.rglob("ran")) and recording.header["trace"]["method"] == "transformers"
    assert recording.header["model"] == "MixtralForCausalLM" and len(recording.layers()) == 2


# -- without a network, and over one -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["stream", "transformers"])
def test_a_folder_is_traced_offline(seen, method, monkeypatch):
    def refuse(*_):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert seen.trace(TEXTS, method=method).layers() == LAYERS


def test_a_checkpoint_on_a_server_is_streamed_with_its_tokenizer(folder, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants", reason="the extra `checkpoints` is not installed")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    kind = type("Here", (Server,), {"asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *a: kind(*a, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        there = explorer.open_checkpoint(f"http://127.0.0.1:{server.server_port}/m")
        same(there.trace(TEXTS), explorer.open_checkpoint(folder).trace(TEXTS))
        with pytest.raises(CheckpointError, match=r"transformers loads nothing from an address"):
            there.trace(TEXTS, method="transformers")
        (folder / "tokenizer.json").unlink()
        with pytest.raises(ExplorerError, match=r"has no tokenizer"):
            explorer.open_checkpoint(f"http://127.0.0.1:{server.server_port}/m").trace(TEXTS)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
