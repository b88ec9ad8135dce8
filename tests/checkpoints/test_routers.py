"""Routers of transformers models through explorer.record, decision by decision against what transformers returns."""

import re
from pathlib import Path

import pytest
import torch

import explorer
from explorer.checkpoints.table import BLOCKS, TABLE
from explorer.errors import RecordingError
from tests.checkpoints.architectures import ARCHITECTURES, ONE_WAY, model_of
from tests.checkpoints.tiny import tokens

transformers = pytest.importorskip("transformers", reason="the extra `checkpoints` is not installed")

VERSION = int(transformers.__version__.split(".")[0])
BROKEN_IN_4 = {
    "Qwen3VLMoeText": "version 4 cannot build its text part alone",
    "Glm4vMoeText": "version 4 cannot build its text part alone",
    "JetMoe": "version 4 cannot run it at this size",
    "Dbrx": "version 4 cannot read this configuration",
    "Doge": "version 4 cannot run it",
}
UNKNOWN_IN_4 = {"Phimoe", "Ernie4_5_Moe", "AriaText"}
five = pytest.mark.skipif(VERSION == 4, reason="the attention of these models can only be heard since version 5")


def run(model, ids, mask, **more):
    if model.config.is_encoder_decoder:
        more |= {"decoder_input_ids": ids, "decoder_attention_mask": mask}
    with torch.no_grad():
        return model(ids, attention_mask=mask, **more)


class Returned:
    """What routers returned, and which tokens each expert of version 4 was given, heard by hooks of the test's own."""

    def __init__(self, model):
        self.outputs, self.given, self.hooks = {}, {}, []
        for path, one in model.named_modules():
            if type(one).__name__ in TABLE or type(one).__name__ in BLOCKS:
                self.hooks.append(one.register_forward_hook(self._keep(path)))
            experts = getattr(one, "experts", None)
            if isinstance(experts, torch.nn.ModuleList):
                self.hooks += [each.register_forward_pre_hook(self._rows(path, e)) for e, each in enumerate(experts)]
                self.hooks.append(one.register_forward_pre_hook(self._rows(path, -1)))

    def _keep(self, path):
        return lambda module, args, output: self.outputs.__setitem__(path, (module, output))

    def _rows(self, path, expert):
        def keep(module, args):
            if args:
                self.given[path, expert] = args[0].flatten(0, -2).clone()

        return keep

    def dense(self, block, width):
        """(N, E) 1 where an expert of this block was given a row that is the token's."""
        tokens, dense = self.given[block, -1], None
        dense = torch.zeros(len(tokens), width)
        for e in range(width):
            for row in self.given.get((block, e), ()):
                dense[(tokens == row).all(-1), e] = 1
        return dense

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for hook in self.hooks:
            hook.remove()


def dense_of(module, output, width):
    """(N, E) what transformers gives each expert of each token, by a reading apart from the explorer's."""
    name = type(module).__name__
    if name == "SwitchTransformersTop1Router":
        return (output[0] * output[1]).flatten(0, 1)
    if name == "NllbMoeTop2Router":
        return output[1]
    if name == "Llama4Router":
        return output[0]
    if name.endswith("TopKGating"):
        _, token, gates, sizes, logits = output
        dense, at = torch.zeros_like(logits), 0
        for expert, size in enumerate(sizes):
            for i in range(at, at + size):
                dense[token[i], expert] += gates[i]
            at += size
        return dense
    if name == "DbrxRouter":
        best = output.softmax(-1).topk(2)
        return torch.zeros_like(output).scatter(1, best.indices, best.values / best.values.sum(-1, keepdim=True))
    if name == "DogeCDMoE":
        x, y = output[1]
        scores = torch.stack([(x[:, i] + y[:, j]) for i in range(x.shape[1]) for j in range(y.shape[1])], 1)
        best = scores.topk(2)
        return torch.zeros_like(scores).scatter(1, best.indices, best.values.softmax(-1))
    index = next(one for one in output if not one.is_floating_point())
    weights = next((one for one in output if one.is_floating_point() and one.shape == index.shape), None)
    if weights is None:  # gpt-oss of version 4: all scores, 0 where not chosen
        return output[0]
    return torch.zeros(len(index), width).scatter_add(1, index, weights.float())


def dense_recorded(index_BTK, weights_BTK, width):
    index, weights = index_BTK.flatten(0, -2), weights_BTK.flatten(0, -2).float()
    return torch.zeros(len(index), width).scatter_add(1, index.clamp(min=0), weights * (index >= 0))


def compare(model, padding):
    """(decisions compared, layers, recording); every one must be equal."""
    ids, mask = tokens(padding)
    with Returned(model) as returned, explorer.record(model, ["*/index", "*/weights", "*/probs"]) as recording:
        run(model, ids, mask)
    layers, compared, real = recording.layers(), 0, mask.bool().flatten()
    outputs = {p: one for p, one in returned.outputs.items() if type(one[0]).__name__ in TABLE} or returned.outputs
    assert len(layers) == len(outputs) > 0
    for layer, (module, output) in zip(layers, outputs.values(), strict=True):
        index, weights = recording.last(f"{layer}/index"), recording.last(f"{layer}/weights")
        probs = recording.last(f"{layer}/probs").flatten(0, 1)[real]
        assert index.shape[:2] == ids.shape == weights.shape[:2]
        got = dense_recorded(index, weights, probs.shape[1])
        if (layer, -1) in returned.given:
            assert ((got > 0) == (returned.dense(layer, probs.shape[1]) > 0))[real].all()
        if (type(module).__name__ in TABLE and not isinstance(output, torch.Tensor)) or type(
            module
        ).__name__ == "DbrxRouter":
            wanted = dense_of(module, output, probs.shape[1])
            torch.testing.assert_close(got[real], wanted[real].float(), atol=1e-6, rtol=1e-6)
            assert ((got > 0) == (wanted > 0))[real].all()
        assert (index.flatten(0, 1)[~real] == -1).all() and not weights.flatten(0, 1)[~real].any()
        if "probabilities" in recording.header["scores"][f"{layer}/probs"]:
            torch.testing.assert_close(probs.sum(-1), torch.ones(len(probs)))
        compared += int((index >= 0).sum())
    assert len(recording.decisions()) == compared
    return compared, layers, recording


@pytest.fixture(scope="module")
def table():
    rows = []
    yield rows
    print(f"\ntransformers {transformers.__version__}")
    for name, layers, compared, how in rows:
        print(f"{name:20} {layers:2} routers {compared:4} decisions equal  {how}")
    print(f"{len(rows)} architectures")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_decision_is_the_one_transformers_made(name, table):
    if not hasattr(transformers, f"{name}Config"):
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    if name in BROKEN_IN_4 and VERSION == 4:
        pytest.skip(BROKEN_IN_4[name])
    model = model_of(name)
    if name in UNKNOWN_IN_4 and VERSION == 4:
        with pytest.raises(RecordingError, match="in a way of its own"), explorer.record(model):
            pass
        return
    ways = ["as built"] if name in ONE_WAY or VERSION == 4 else ["eager", "batched_mm", "grouped_mm"]
    seen = []
    for way in ways:
        if way != "as built":
            model.set_experts_implementation(way)
        compared, layers, recording = compare(model, "left")
        seen.append((compared, layers))
    assert len({one[0] for one in seen}) == 1
    rules = {
        f"{one['scores']}{', shared experts' if one['shared'] else ''}" for one in recording.header["routers"].values()
    }
    table.append((name, len(layers), compared, f"{'/'.join(ways)}: {', '.join(sorted(rules))}"))


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


@five
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


@five
def test_prefill_and_decoding_are_steps_of_their_own():
    model, (ids, mask) = model_of("Olmoe"), tokens("left")
    with explorer.record(model, "*") as recording:
        model.generate(ids, attention_mask=mask, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    shapes = [tuple(recording.at("model.layers.0.mlp/index", step).shape) for step in recording.steps()]
    assert shapes == [(3, 9, 2), (3, 1, 2), (3, 1, 2)]
    assert recording.at("/position", 2).flatten().tolist() == [6, 10, 9]


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
    assert named - by_block <= set(TABLE), named - by_block - set(TABLE)
