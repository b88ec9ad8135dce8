"""A tiny model of ours as a folder: transformers computes the same from it, and whatever is in the way is one sentence."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import explorer
import explorer.demo
from explorer.checkpoints import export_hf as exporting
from explorer.checkpoints.byte_tokenizer import tokenizer
from explorer.checkpoints.export_hf import FILES, export_hf, free_folder
from explorer.checkpoints.files import CheckpointError
from explorer.cli import main
from explorer.errors import BadValue
from explorer.experiment import Experiment
from explorer.tasks import Text
from explorer.tasks.corpus import Amount, pasted

TEXT = Text(texts={"song": "Hello wörld, the gate is open;\n\tthe gate is shut.\n" * 40}, sequence=24)
SIZES = {"n_experts": 5, "k": 2, "expert_width": 12, "d_model": 24, "heads": 3, "layers": 2, "batch": 2}
KINDS = [
    ("topk-softmax-raw", {"qk_norm": "full"}, "OlmoeForCausalLM"),
    ("topk-softmax-raw", {"qk_norm": "full", "tied": False}, "OlmoeForCausalLM"),
    ("topk-softmax", {"qk_norm": "full"}, "OlmoeForCausalLM"),
    ("topk-softmax", {}, "MixtralForCausalLM"),
    ("topk-softmax", {"tied": False, "k": 1}, "MixtralForCausalLM"),
]


def tiny(mechanism: str = "topk-softmax-raw", task: Any = TEXT, **knobs: Any) -> Experiment:
    usual = {**SIZES, "qk_norm": "full"} if mechanism == "topk-softmax-raw" else SIZES
    return Experiment(mechanism, task=task, **{**usual, **knobs})


def loaded(folder: Path) -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()


def reader(folder: Path) -> Any:
    return pytest.importorskip("tokenizers").Tokenizer.from_file(str(folder / "tokenizer.json"))


def ours(experiment: Experiment, tokens_BT: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """(logits, each layer's chosen experts, and their weights)."""
    with torch.no_grad(), explorer.record(experiment.model, ["*/index", "*/weights"]) as seen:
        logits = experiment.model.eval()(tokens_BT)
    layers = seen.layers()
    return logits, [seen.last(f"{one}/index") for one in layers], [seen.last(f"{one}/weights") for one in layers]


# -- transformers computes the same ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mechanism, knobs, kind", KINDS)
def test_transformers_decides_and_answers_alike(
    mechanism: str, knobs: dict[str, Any], kind: str, tmp_path: Path
) -> None:
    experiment = tiny(mechanism, **knobs).run(2)
    for name, p in experiment.model.named_parameters():
        if "norm" in name:  # gains of one would hide a norm in the wrong place
            torch.nn.init.uniform_(p, 0.5, 1.5)
    model = loaded(export_hf(experiment, tmp_path / "out"))
    assert type(model).__name__ == kind
    tokens = experiment.data.held_out().inputs[:4]
    logits, index, weights = ours(experiment, tokens)
    with torch.no_grad(), explorer.record(model) as seen:
        theirs = model(tokens).logits
    assert (theirs - logits).abs().max() < 1e-5
    assert theirs.std() > 0.05  # neither is all but constant
    for i, layer in enumerate(name for name in seen.layers() if "attn" not in name):
        assert torch.equal(seen.last(f"{layer}/index").long(), index[i].long())
        assert torch.allclose(seen.last(f"{layer}/weights").float(), weights[i], atol=1e-6)


def test_half_the_room_rounds_every_weight(tmp_path: Path) -> None:
    experiment = tiny()
    whole = export_hf(experiment, tmp_path / "whole")
    half = export_hf(experiment, tmp_path / "half", dtype="bfloat16")
    assert (half / "model.safetensors").stat().st_size < 0.6 * (whole / "model.safetensors").stat().st_size
    assert json.loads((half / "config.json").read_text())["torch_dtype"] == "bfloat16"
    name = "model.layers.1.mlp.gate.weight"
    router = experiment.model.blocks[1].ffn.router.score.weight.detach()
    assert torch.equal(explorer.open_checkpoint(half).weights.read(name).float(), router.bfloat16().float())
    with pytest.raises(BadValue, match=r"^dtype='int8': choose one of 'float32', 'bfloat16'$"):
        export_hf(experiment, tmp_path / "other", dtype="int8")


def test_its_weights_can_be_read_without_transformers(tmp_path: Path) -> None:
    seen = explorer.open_checkpoint(export_hf(tiny("topk-softmax"), tmp_path / "out"))
    assert (seen.architecture, seen.experts, seen.chosen) == ("MixtralForCausalLM", 5, 2)
    assert seen.layers == ["model.layers.0.block_sparse_moe", "model.layers.1.block_sparse_moe"]
    assert seen.rule == "softmax scores, top 2, renormalised"
    assert not seen.unknown and not seen.damaged


def test_a_folder_says_how_it_was_made_but_not_where(tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("a day like any other\n" * 20)
    experiment = tiny(task=Text(tmp_path / "diary.txt", sequence=8), seed=11).run(20)
    experiment.set(learning_rate=1e-4)
    out = export_hf(experiment, tmp_path / "out")
    text = (out / "README.md").read_text()
    said = json.loads(text.split("```json\n")[1].split("```")[0])
    assert (said["mechanism"], said["seed"], said["knobs"]["n_experts"]) == ("topk-softmax-raw", 11, 5)
    assert said["settings"]["learning_rate"] == 3e-3 and said["changed at step"] == [[20, {"learning_rate": 1e-4}]]
    assert len(said["data"]["domains"]["diary.txt"]["sha256"]) == 64
    assert str(tmp_path) not in text
    assert f"| held-out loss | {experiment.evaluate():.4f} |" in text
    assert f"the last 2 steps | {experiment.losses()[-2:].mean():.4f} |" in text


def test_a_task_without_text_has_no_tokenizer(tmp_path: Path) -> None:
    out = export_hf(tiny(task="bigram-backcopy"), tmp_path / "out")
    assert sorted(file.name for file in out.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert "It has no tokenizer" in (out / "README.md").read_text()


# -- the tokenizer -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reads() -> Any:
    return pytest.importorskip("tokenizers").Tokenizer.from_str(json.dumps(tokenizer()))


@settings(max_examples=60)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_ids_are_those_of_the_task(reads: Any, text: str) -> None:
    assert reads.encode(text).ids == [min(byte, 127) for byte in text.replace("\r\n", "\n").encode()]


def test_the_task_reads_the_same_ids(reads: Any) -> None:
    text = "Grüße,\r\n\tλ-calculus \x1b[0m ÿ ġ Ġ <s> ¡ 😀 \x7f" * 40
    corpus = pasted("all", text, Amount(100_000, 0.1, 9))
    assert reads.encode(text).ids == [*corpus.train.tolist(), *corpus.held_out.tolist()]


def test_ascii_comes_back_as_it_was_and_the_rest_as_lost(reads: Any) -> None:
    ascii_ = "".join(map(chr, range(127)))
    assert reads.decode(reads.encode(ascii_).ids) == ascii_
    assert reads.decode(reads.encode("é!").ids) == "\ufffd\ufffd!"


def test_transformers_adds_nothing_to_a_text(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    out = export_hf(tiny(), tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    assert tokenizer("if x:\n  é").input_ids == [min(byte, 127) for byte in "if x:\n  é".encode()]
    assert (tokenizer.vocab_size, tokenizer.model_max_length) == (128, 24)
    assert tokenizer.decode(tokenizer("a  , b !").input_ids) == "a  , b !"


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mechanism, knobs, sentence",
    [
        ("switch", {}, "switch cannot be exported: transformers has exactly our computation only for topk-softmax and "
         "topk-softmax-raw"),
        ("topk-softmax-raw", {"qk_norm": "none"}, "topk-softmax-raw cannot be exported because of qk_norm=none (OLMoE "
         "normalises queries and keys: set qk_norm=full)"),
        ("topk-softmax", {"attention": "gated-attention", "task": "text"}, "topk-softmax cannot be exported because of "
         "attention=gated-attention (it must be softmax-attention)"),
        ("topk-softmax", {"attention": "gated-attention", "task": "clusters"}, "topk-softmax cannot be exported because of "
         "the task has no tokens (choose one that has, such as 'text'), and of attention=gated-attention (it must be "
         "softmax-attention)"),
    ],
)  # fmt: skip
def test_what_is_in_the_way_is_said(mechanism: str, knobs: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    given = {"task": TEXT, **knobs}
    given["task"] = TEXT if given["task"] == "text" else given["task"]
    experiment = Experiment(mechanism, layers=1, **given)
    with pytest.raises(CheckpointError) as error:
        export_hf(experiment, tmp_path / "out")
    assert str(error.value) == sentence
    assert not (tmp_path / "out").exists()


def test_only_an_earlier_export_is_replaced_and_only_by_force(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()  # an empty folder is as good as none
    export_hf(tiny(seed=1), out)
    first = (out / "model.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match=r"holds an export already; choose another folder, or replace it with"):
        export_hf(tiny(seed=2), out)
    assert (out / "model.safetensors").read_bytes() == first
    export_hf(tiny(seed=2), out, force=True)
    assert (out / "model.safetensors").read_bytes() != first
    assert sorted(file.name for file in out.iterdir()) == sorted(FILES)
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(CheckpointError, match=r"holds 'thesis\.tex', which is no part of an export; choose another"):
        export_hf(tiny(seed=3), out, force=True)
    assert [one.name for one in tmp_path.iterdir()] == ["out"]


def test_a_wrong_place_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"file': it is a file, and an export is a folder$"):
        free_folder(tmp_path / "file")
    with pytest.raises(CheckpointError, match=r"out': there is no folder '.*nowhere'$"):
        free_folder(tmp_path / "nowhere/out")
    (tmp_path / "README.md").mkdir()
    with pytest.raises(CheckpointError, match=r"holds 'README\.md', which is no part"):
        free_folder(tmp_path, force=True)
    monkeypatch.setattr(exporting.os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(CheckpointError, match=r"is not yours to write to$"):
        free_folder(tmp_path / "out")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("before", [False, True])
def test_nothing_half_written_stays(
    error: BaseException, before: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    if before:
        export_hf(tiny(seed=1), out)
    held = {file: file.read_bytes() for file in out.glob("*")}

    def fails(*_: Any) -> str:
        raise error

    monkeypatch.setattr(exporting, "_readme", fails)
    with pytest.raises((CheckpointError, KeyboardInterrupt)) as raised:
        export_hf(tiny(seed=2), out, force=True)
    if isinstance(error, OSError):
        assert str(raised.value) == f"cannot export to '{out}': No space left on device; nothing was changed there"
    assert list(tmp_path.iterdir()) == ([out] if before else [])
    assert {file: file.read_bytes() for file in out.glob("*")} == held


def test_the_old_export_comes_back_when_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = export_hf(tiny(seed=1), tmp_path / "out")
    held, rename = (out / "model.safetensors").read_bytes(), Path.rename

    def fails(self: Path, target: Path) -> Path:
        if target == out and not self.name.endswith(".old"):
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(CheckpointError, match=r"Input/output error; nothing was changed there$"):
        export_hf(tiny(seed=2), out, force=True)
    assert (out / "model.safetensors").read_bytes() == held
    assert [one.name for one in tmp_path.iterdir()] == ["out"]


# -- the command -------------------------------------------------------------------------------------------------------

TRAIN = ("train", "topk-softmax-raw", "--steps", "2", "--set", "d_model=16", "--set", "expert_width=8")


def test_the_command_writes_run_and_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "song.txt").write_text("the gate is open, the gate is shut\n" * 20)
    monkeypatch.chdir(tmp_path)
    command = [*TRAIN, "--text", "song.txt", "--set", "qk_norm=full", "--export-hf", "tiny", "-o", "run.safetensors"]
    assert main(command) == 0
    assert "exported       tiny (OlmoeForCausalLM, " in capsys.readouterr().out
    assert explorer.Recording.load("run.safetensors").header["settings"]["qk_norm"] == "full"
    assert explorer.open_checkpoint("tiny").architecture == "OlmoeForCausalLM"
    assert main([*command[:-1], "other.safetensors"]) == 1
    assert "'tiny' holds an export already" in capsys.readouterr().err
    assert main([*command, "--force"]) == 0


def test_what_cannot_be_exported_is_not_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TRAIN, "--export-hf", str(tmp_path / "tiny"), "-o", str(tmp_path / "run.safetensors")]) == 1
    err = capsys.readouterr().err
    assert "OLMoE normalises queries and keys: set qk_norm=full" in err and "step" not in err
    assert list(tmp_path.iterdir()) == []


# -- the demo ----------------------------------------------------------------------------------------------------------

BOTH = pytest.mark.parametrize("folder", [explorer.demo.folder(), explorer.demo.early()], ids=["trained", "early"])


def held_out_loss(model: Any, text: str, folder: Path) -> float:
    """Nats a byte of a text cut into windows of 128."""
    ids = torch.tensor(reader(folder).encode(text).ids)
    rows = ids[: len(ids) // 129 * 129].view(-1, 129)
    with torch.no_grad():
        logits = model(rows[:, :-1]).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()).item()


def test_both_demos_together_are_small() -> None:
    files = [file for file in explorer.demo.HERE.rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    assert {"model.safetensors", "english.txt", "README.md"} <= {file.name for file in files}
    assert sum(file.stat().st_size for file in files) <= 3_000_000


@BOTH
def test_a_demo_is_seen_through_its_files(folder: Path) -> None:
    seen = explorer.open_checkpoint(folder)
    assert (seen.architecture, len(seen.layers), seen.experts, seen.chosen) == ("OlmoeForCausalLM", 4, 16, 2)
    assert not seen.unknown and not seen.damaged and not seen.routers["not_finite"].any()
    assert sorted(file.name for file in folder.iterdir()) == sorted(FILES)


def test_the_demo_has_learned_its_domains() -> None:
    trained, early = explorer.demo.folder(), explorer.demo.early()
    models = {folder: loaded(folder) for folder in (trained, early)}
    assert type(models[trained]).__name__ == "OlmoeForCausalLM"
    for name, text in explorer.demo.samples().items():
        losses = [held_out_loss(models[folder], text, folder) for folder in (trained, early)]
        assert losses[0] < losses[1] < 3.2, name
        assert losses[0] < 2.3, name


def test_a_sample_is_a_screenful_of_ascii() -> None:
    samples = explorer.demo.samples()
    assert list(samples) == ["english", "python", "markup", "data"]
    for text in samples.values():
        assert text.isascii() and 400 < len(text) < 1000
        tokens = reader(explorer.demo.folder()).encode(text).ids
        assert reader(explorer.demo.folder()).decode(tokens) == text
