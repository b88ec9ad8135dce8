"""Routers of transformers models through explorer.record, decision by decision against what transformers returns."""

import re
from pathlib import Path

import pytest
import torch

import explorer
from explorer.checkpoints.table import TABLE
from explorer.errors import RecordingError
from tests.checkpoints.architectures import ARCHITECTURES, broken, model_of, version
from tests.checkpoints.table_of_architectures import row, run, summary
from tests.checkpoints.tiny import tokens

transformers = pytest.importorskip("transformers", reason="the extra `checkpoints` is not installed")

five = pytest.mark.skipif(version() == 4, reason="version 4 returns no such logits, or has no such kernels")


@pytest.fixture(scope="module")
def rows():
    made = []
    yield made
    print(f"\n{summary(made)}")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_decision_is_the_one_transformers_made(name, rows):
    """The same line that `python -m tests.checkpoints.table_of_architectures` prints."""
    if broken(name):
        pytest.skip(broken(name))
    rows.append(row(name))
    print(rows[-1])
    assert rows[-1].equal, rows[-1]


def test_the_table_has_enough_lines():
    assert sum(not broken(name) for name in ARCHITECTURES) >= (40 if version() > 4 else 28)


@pytest.mark.skipif(version() > 4, reason="since version 5 its router is a module")
def test_what_version_4_draws_in_training_is_an_error():
    model = model_of("Phimoe").train()
    with pytest.raises(RecordingError, match="draws its experts in training"), explorer.record(model, "*/index"):
        model(tokens("none")[0])


@five
@pytest.mark.parametrize("name", ["Mixtral", "DeepseekV3", "GptOss", "Olmoe"])
def test_logits_are_those_the_model_returns(name):
    model, (ids, mask) = model_of(name), tokens("right")
    with explorer.record(model, "*") as recording:
        out = run(model, ids, mask, output_router_logits=True)
    layers = recording.layers()
    assert len(layers) == len(out.router_logits)
    for layer, logits in zip(layers, out.router_logits, strict=True):
        got = recording.last(f"{layer}/logits").flatten(0, 1)
        assert torch.equal(got[mask.bool().flatten()], logits[mask.bool().flatten()])
        assert got[~mask.bool().flatten()].isnan().all()


def test_recording_changes_no_bit_and_its_tables_can_be_saved(tmp_path):
    model, (ids, mask) = model_of("Qwen2Moe"), tokens("left")
    plain = run(model, ids, mask).logits
    with explorer.record(model, "*") as recording:
        assert torch.equal(run(model, ids, mask).logits, plain)
    recording.save(tmp_path / "one.safetensors")
    again = explorer.Recording.load(tmp_path / "one.safetensors")
    for table in ("loads", "routing", "attention", "decisions"):
        assert len(getattr(again, table)()) > 0
        assert getattr(again, table)().equals(getattr(recording, table)())
    loads = again.loads().groupby("layer")["load"].sum()
    assert loads.to_numpy() == pytest.approx(1)
    assert again.header["routers"]["model.layers.1.mlp"]["shared"] == ["shared_expert"]
    ids_again = again.decisions().query("layer == 'model.layers.0.mlp' and slot == 0")["token"].tolist()
    assert ids_again == ids[mask.bool()].tolist()


def test_prefill_and_decoding_are_steps_of_their_own():
    model, (ids, mask) = model_of("Olmoe"), tokens("left")
    with explorer.record(model, "*") as recording:
        model.generate(ids, attention_mask=mask, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    shapes = [tuple(recording.at("model.layers.0.mlp/index", step).shape) for step in recording.steps()]
    assert shapes == [(3, 9, 2), (3, 1, 2), (3, 1, 2)]
    assert recording.at("/position", 2).flatten().tolist() == [6, 10, 9]


def test_padding_of_a_translator_is_no_empty_slot():
    model, (ids, mask) = model_of("NllbMoe"), tokens("left")
    with explorer.record(model) as recording:
        run(model, ids, mask)
    for layer in recording.layers():
        assert recording.last(f"{layer}/valid").tolist() == mask.bool().tolist()
        index = recording.last(f"{layer}/index")[mask.bool()]
        empty = recording.routing().query(f"layer == '{layer}'")["empty_slots"].item()
        assert empty == pytest.approx(float((index < 0).double().mean()))  # what full experts refused, and nothing else


def generated(model, **more):
    ids, mask = tokens("left")
    with torch.no_grad(), explorer.record(model, "*") as recording:
        model.generate(ids, attention_mask=mask, max_new_tokens=3, min_new_tokens=3, do_sample=False, **more)
    return recording, mask


@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize("name", ["Olmoe", "GptOss", "Mixtral"])
def test_decoding_is_told_from_the_prefill_by_its_positions(name, cache):
    """generate() makes masks of four axes for caches of a fixed size, of which padding must be read off."""
    if (name, cache, version()) == ("Olmoe", "static", 4):
        pytest.skip("transformers 4 cannot run OLMoE with a cache of a fixed size")
    model = model_of(name)
    recording, mask = generated(model, **({} if cache == "dynamic" else {"cache_implementation": "static"}))
    prefill, *decoded = (recording.at("/position", step) for step in recording.steps())
    assert prefill.tolist() == (mask.cumsum(-1) - 1).masked_fill(mask == 0, -1).tolist()
    assert [one.flatten().tolist() for one in decoded] == [(mask.sum(-1) + i).tolist() for i in range(2)]
    last = recording.steps()[-1]
    for layer in recording.layers():
        assert (
            recording.at(f"{layer}/index", last).shape == (3, 1, 2)
            and (recording.at(f"{layer}/index", last) >= 0).all()
        )
    if cache == "static":
        other = generated(model)[0]
        assert recording.decisions()[["position", "token", "expert"]].equals(
            other.decisions()[["position", "token", "expert"]]
        )
        shown, wanted = (one.attention()["first_token_share"].to_numpy() for one in (recording, other))
        assert shown == pytest.approx(wanted, abs=1e-5, nan_ok=True)


@five
def test_a_router_that_a_kernel_has_replaced_is_an_error():
    model, (ids, mask) = model_of("Mixtral"), tokens("none")
    model.model.layers[0].mlp.forward = lambda hidden_states: hidden_states
    with pytest.raises(RecordingError, match=r"layers\.0\.mlp .*its router was not called"), explorer.record(model):
        run(model, ids, mask)
    model = model_of("Mixtral")
    model._use_kernels = True
    with pytest.raises(RecordingError, match="use_kernels=False"), explorer.record(model):
        pass
    model = model_of("Mixtral")
    model.model.layers[0].mlp.compile(backend="eager")
    with pytest.raises(RecordingError, match=r"layers\.0\.mlp .*is compiled"), explorer.record(model):
        pass


@five
def test_every_router_that_transformers_knows_is_known():
    named = set()
    for file in Path(transformers.__file__).parent.glob("models/*/modeling_*.py"):
        for line in re.findall(r'"router_logits":.*', file.read_text()):
            named |= set(re.findall(r"OutputRecorder\((\w+)", line))
    by_block = {"JetMoeAttention", "Ernie4_5_VLMoeMoeBlock"}  # their routers are in the table
    by_block |= {"nn"}  # plain linear gates up to 5.19, whose blocks are known
    assert named - by_block <= set(TABLE), named - by_block - set(TABLE)
