"""gating-explorer inspect: the table, the files, the page, and that names from a file stay names."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import explorer
from explorer import cli
from explorer.checkpoints.report import report
from tests.checkpoints.making import MIXTRAL, mixtral, save
from widgets.export.checkpoint_page import page
from widgets.figures import summary_of
from widgets.figures.by_layer import by_layer

ROOT = Path(cli.__file__).resolve().parents[2]
BLOCK = "model.layers.0.mlp"
EVIL = '"><img src=x onerror=alert(1)>\x1b[31m$\\href{javascript:1}{x}$'


@pytest.fixture
def run(capsys):
    """The command line, in this process: (exit code, stdout, stderr)."""

    def invoke(*arguments):
        code = cli.main(["inspect", *map(str, arguments)])
        return code, *capsys.readouterr()

    return invoke


@pytest.fixture
def full(tmp_path):
    """A checkpoint with one of everything."""
    attention = "model.layers.0.self_attn"
    tensors = {
        f"{BLOCK}.gate.weight": torch.randn(4, 8), f"{BLOCK}.gate.e_score_correction_bias": torch.randn(4),
        f"{BLOCK}.experts.gate_up_proj": torch.randn(4, 8, 12), f"{BLOCK}.shared_expert.up_proj.weight": torch.randn(6, 8),
        f"{BLOCK}.shared_expert_gate.weight": torch.randn(1, 8), f"{attention}.sinks": torch.randn(2),
        f"{attention}.q_proj.weight": torch.randn(16, 8), f"{attention}.o_proj.weight": torch.randn(8, 8),
    }  # fmt: skip
    config = {"architectures": [EVIL], "model_type": "qwen3_next", "num_experts": 4, "num_experts_per_tok": 2}
    return save(tmp_path / "full", tensors, config)


def test_the_table_says_how_it_routes(run, tmp_path):
    code, out, err = run(save(tmp_path, mixtral()))
    assert code == 0 and not err
    assert "MixtralForCausalLM" in out and "rule: softmax scores, top 2, renormalised" in out
    assert "model.layers.1.block_sparse_moe" in out and "one by one" in out


def test_every_part_has_a_line_and_no_name_moves_the_cursor(run, full):
    code, out, _ = run(full, "--layer", "0")
    assert code == 0 and "\x1b" not in out
    for words in ("shared_expert, gated", "biases: 1 layers", "learned sinks: 1 layers", "gates of the shared expert",
                  "second half of q_proj, sigmoid, 8 numbers", "router rows of model.layers.0.mlp: cosine",
                  "experts' matrices of", "the same of each of 4 experts"):  # fmt: skip
        assert words in out, words


def test_the_numbers_are_saved(run, full, tmp_path):
    code, _, err = run(full, "--json", tmp_path / "out.json")
    assert code == 0 and "saved in" in err
    made = json.loads((tmp_path / "out.json").read_text())
    seen = explorer.open_checkpoint(full)
    assert made == report(seen)
    assert made["norms"][0] == pytest.approx(seen.norms(0).tolist(), rel=1e-5)
    assert np.allclose(made["pairs"]["cosine"], seen.cosine(0).numpy(), atol=1e-5)
    assert made["rule"] == seen.rule and made["biases"][0]["values"] == pytest.approx(
        seen.biases["bias"].tolist(), rel=1e-5
    )
    assert made["sinks"][0]["layer"] == 0 and len(made["output_gates"]) == 1


def test_the_page_has_every_part_and_runs_nothing_from_a_name(run, full, tmp_path):
    code, _, err = run(full, "--html", tmp_path / "out.html")
    assert code == 0, err
    text = (tmp_path / "out.html").read_text(encoding="utf-8")
    for words in ("Routers", "Biases", "Experts beside each other", "Gates of the shared expert", "Learned sinks",
                  "Output gates of attention", "What is not known"):  # fmt: skip
        assert f">{words}</h2>" in text
    assert text.count('<figure class="view"') == 5
    assert "<img" not in text.split("<script")[0] and "\x1b" not in text and "http-equiv" in text
    assert str(tmp_path) not in text.split("<script")[0]


def test_numbers_that_are_none_reach_the_page_as_a_sentence(full, tmp_path):
    tensors = mixtral()
    tensors["model.layers.1.block_sparse_moe.gate.weight"][0] = float("nan")
    made = report(explorer.open_checkpoint(save(tmp_path / "nan", tensors)))
    json.dumps(made, allow_nan=False)
    assert made["norms"][1][0] is None and made["pairs"]["cosine"][0][1] is None
    assert "8 of the 32 numbers of its router are NaN or infinite" in page(made)


def test_a_model_without_experts_has_a_page(tmp_path):
    folder = save(tmp_path, {"model.layers.0.self_attn.sinks": torch.randn(3)}, {"model_type": "granite_swa"})
    text = page(report(explorer.open_checkpoint(folder)))
    assert "Learned sinks" in text and "Routers</h2>" not in text


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (("{}", "--html", "page.txt"), "must end in .html"),
        (("{}", "--json", "no/out.json"), "there is no folder"),
        (("{}", "--layer", "9"), "no routed layer 9"),
        (("no/such/folder/at/all",), "there is nothing at"),
    ],
)
def test_a_mistake_is_one_sentence(run, tmp_path, arguments, sentence):
    folder = save(tmp_path, mixtral())
    code, _, err = run(*(one.format(folder) for one in arguments))
    assert code == 1 and sentence in err and len(err.strip().splitlines()) == 1


def test_it_runs_as_a_program_without_transformers(tmp_path):
    folder = save(tmp_path / "m", mixtral(), {**MIXTRAL, "auto_map": {"AutoModel": "evil.Model"}})
    hide = "import sys; sys.modules['transformers'] = sys.modules['huggingface_hub'] = None; "
    code = f"{hide}from explorer import cli; raise SystemExit(cli.main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "inspect", str(folder), "--html", str(tmp_path / "m.html")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Note: config.json names code of its own" in done.stdout and (tmp_path / "m.html").stat().st_size > 1e6


# -- the picture -------------------------------------------------------------------------------------------------------


def test_the_picture_of_numbers_by_layer():
    figure = by_layer.as_dict([[1, 2, 4], [3, None]], ["a", "b"], "Numbers", ratio=True)
    heat = figure["data"][0]
    assert heat["z"][0].tolist() == [0.5, 1, 2] and heat["z"][1][0] == 1 and np.isnan(heat["z"][1][1:]).all()
    assert "1 = the median of the layer" in figure["layout"]["title"]["text"]
    assert "expert 2 in a" in summary_of(figure)
    signed = by_layer([[-1.0, 3.0]], ["<b>x</b>"], "Sinks", "head", signed=True)
    assert (signed.data[0].zmin, signed.data[0].zmax) == (-3, 3) and "<b>" not in signed.data[0].y[0]
    many = by_layer.as_dict(np.ones((300, 4)), [f"l{i}" for i in range(300)], "Many")
    assert len(many["data"][0]["z"]) == 75
    for nothing in ([], [[]], [[None, float("nan")]]):
        assert by_layer.as_dict(nothing, ["a"] * len(nothing), "None")["data"] == []
