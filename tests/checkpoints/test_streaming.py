"""A checkpoint traced without ever being loaded: the decisions are those of transformers, and little is read."""

import http.server
import json
import math
import threading
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file, save_file

import explorer
from explorer.checkpoints.files import CheckpointError
from explorer.checkpoints.headers import Tensor
from explorer.checkpoints.streaming import rows as rows_file
from explorer.checkpoints.streaming.decide import Rule
from explorer.checkpoints.streaming.decoders import recognise
from explorer.checkpoints.streaming.engine import stream
from explorer.checkpoints.streaming.rows import Rows
from explorer.checkpoints.weights import Weights, open_weights
from tests.checkpoints.test_checkpoint import Server

transformers = pytest.importorskip("transformers", minversion="5.19")

SEQUENCES = [[5, 9, 2, 61, 33, 7, 7, 50, 11, 4, 80, 2, 17, 66, 31, 8, 25], [3], [44, 44, 81, 12, 6, 70, 29]]
SIZES = {
    "vocab_size": 88, "hidden_size": 44, "intermediate_size": 37, "moe_intermediate_size": 23, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 10, "num_experts": 7, "num_local_experts": 7,
    "num_experts_per_tok": 3, "max_position_embeddings": 64, "shared_expert_intermediate_size": 19, "pad_token_id": 0,
    "eos_token_id": 1,
}  # fmt: skip
OLMOE = {"hidden_size": 40, "head_dim": 10, "num_key_value_heads": 4}
CASES = {
    "mixtral": ("Mixtral", {}),
    "mixtral, window, yarn": (
        "Mixtral",
        {"sliding_window": 4, "rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}},
    ),
    "olmoe": ("Olmoe", OLMOE),
    "olmoe, clipped, renormalised, biases": (
        "Olmoe", OLMOE | {"clip_qkv": 0.7, "norm_topk_prob": True, "attention_bias": True, "hidden_act": "gelu"},
    ),
    "qwen2": ("Qwen2Moe", {}),
    "qwen2, dense layers, windows": (
        "Qwen2Moe",
        {"mlp_only_layers": [1], "use_sliding_window": True, "sliding_window": 5, "norm_topk_prob": True, "qkv_bias": False},
    ),
    "qwen3": ("Qwen3Moe", {"norm_topk_prob": True}),
    "qwen3, every other layer, window": (
        "Qwen3Moe", {"decoder_sparse_step": 2, "use_sliding_window": True, "sliding_window": 6, "num_hidden_layers": 4},
    ),
}  # fmt: skip


def tiny(case="mixtral", seed=0):
    """A model whose numbers are large enough that its tokens are of different minds."""
    kind, changes = CASES[case]
    model = getattr(transformers, kind + "ForCausalLM")(
        getattr(transformers, f"{kind}Config")(**SIZES | changes)
    ).eval()
    model.set_experts_implementation("eager")  # the others want even sizes
    random = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        spread = 0.3 if value.ndim == 1 else 1.5 / math.sqrt(value.shape[-1])
        drawn = torch.randn(value.shape, generator=random) * spread
        value.copy_(1 + drawn if "norm.weight" in name else drawn)
    return model


def saved(model, folder, **changes):
    """As save_pretrained leaves it, with some settings changed; None takes one away."""
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)
    file = folder / "config.json"
    told = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in told.items() if value is not None}))
    return folder


def opened(folder):
    weights = open_weights(str(folder))
    decoder = recognise(weights)
    assert not isinstance(decoder, str), decoder
    return weights, decoder


def streamed(folder, sequences=SEQUENCES, **options):
    return list(stream(*opened(folder), sequences, **options))


def alike(some, others, atol=2e-5):
    assert [one.path for one in some] == [one.path for one in others]
    for one, other in zip(some, others, strict=True):
        assert torch.equal(one.index, other.index)
        torch.testing.assert_close(one.weights, other.weights, atol=atol, rtol=0)


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory):
    return saved(tiny(), tmp_path_factory.mktemp("mixtral"))


# -- the same as the whole model ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "case, dtype",
    [(case, torch.float32) for case in CASES]
    + [(one, torch.bfloat16) for one in ("mixtral", "olmoe", "qwen2", "qwen3")],
)
def test_every_decision_and_every_glance_is_that_of_transformers(tmp_path, case, dtype):
    done = streamed(saved(tiny(case).to(dtype), tmp_path), attention=True)
    model = tiny(case)
    for value in model.parameters():  # but not the angles of the positions, which are never rounded
        value.data = value.data.to(dtype).float()
    with explorer.record(model) as recording, torch.no_grad():
        for ids in SEQUENCES:
            model(torch.tensor([ids]))
    routed = [one for one in done if one.path is not None]
    assert len(routed) == len(recording.layers()) > 1 and len(done) == model.config.num_hidden_layers
    starts = torch.tensor([0, *map(len, SEQUENCES)]).cumsum(0).tolist()
    off = 0.0
    for one, path in zip(routed, recording.layers(), strict=True):
        assert one.path.replace("block_sparse_moe", "mlp") == path
        for b, start in enumerate(starts[:-1]):
            part = slice(start, starts[b + 1])
            assert torch.equal(one.index[part], recording.at(f"{path}/index", b)[0]), f"layer {one.layer}, sequence {b}"
            off = max(off, float((one.weights[part] - recording.at(f"{path}/weights", b)[0]).abs().max()))
            torch.testing.assert_close(one.logits[part], recording.at(f"{path}/logits", b)[0], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(one.probs[part], recording.at(f"{path}/probs", b)[0], atol=2e-5, rtol=0)
    assert off < 2e-5  # the goal is 1e-3
    for one in done:
        for b, ids in enumerate(SEQUENCES):
            for tap in ("first", "elsewhere", "entropy", "received"):
                expected = recording.at(f"{one.attention_path}/{tap}", b)[0]
                got = one.attention[tap][b]
                if tap == "received":
                    assert got[:, len(ids) :].isnan().all()
                    got = got[:, : len(ids)]
                torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-4, equal_nan=True)
    print(f"{case}, {dtype}: weights within {off:.1g}")


def test_entropy_and_margin_are_those_of_a_recording_though_no_scores_are_kept(mixtral):
    model = tiny()
    with explorer.record(model, "*mlp/*") as recording, torch.no_grad():
        model(torch.tensor([SEQUENCES[0]]))
    done = streamed(mixtral, SEQUENCES[:1], scores=False)
    assert all(one.logits is None and one.probs is None for one in done)
    table = recording.routing()
    torch.testing.assert_close([one.entropy for one in done], table.token_entropy.tolist(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close([one.margin for one in done], table.margin.tolist(), atol=1e-5, rtol=1e-4)


def test_one_sequence_does_not_see_another(mixtral):
    together = streamed(mixtral)
    alone = [streamed(mixtral, [ids]) for ids in SEQUENCES]
    for i, one in enumerate(together):
        torch.testing.assert_close(one.weights, torch.cat([parts[i].weights for parts in alone]), atol=2e-5, rtol=0)


@pytest.mark.parametrize("case", ["mixtral", "qwen2"])
def test_experts_that_lie_together_in_one_tensor(tmp_path, case):
    expected = streamed(saved(tiny(case), tmp_path / "hub"))
    fused = tmp_path / "fused"
    tiny(case).save_pretrained(fused, save_original_format=False)
    assert any(name.endswith("experts.gate_up_proj") for name in load_file(fused / "model.safetensors"))
    got = streamed(fused)
    assert [one.path.rpartition(".")[2] for one in got] == ["mlp"] * len(expected)
    alike([one._replace(path="") for one in got], [one._replace(path="") for one in expected])


def test_a_model_saved_without_its_head(tmp_path, mixtral):
    saved(tiny().model, tmp_path)
    got = streamed(tmp_path)
    assert got[0].path == "layers.0.block_sparse_moe"
    alike([one._replace(path="") for one in got], [one._replace(path="") for one in streamed(mixtral)])


# -- bounded memory ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["qwen2", "olmoe, clipped, renormalised, biases"])
def test_tiny_pieces_and_spilled_activations_change_nothing(tmp_path, monkeypatch, case):
    folder = saved(tiny(case).bfloat16(), tmp_path)
    expected = streamed(folder, attention=True)
    monkeypatch.setattr(rows_file, "SPILL", 0)
    monkeypatch.setattr(rows_file, "WAVE", 1500)
    got = streamed(folder, attention=True, piece_bytes=700)
    alike(got, expected)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one.attention, other.attention, atol=2e-5, rtol=1e-4, equal_nan=True)


def test_large_activations_lie_in_a_file_that_nobody_sees(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(rows_file, "WAVE", 1 << 16)
    rows = Rows(3000, 700)
    assert not list(tmp_path.iterdir())
    for part in rows.waves():
        rows[part] = torch.arange(part.start, part.stop).float()[:, None].expand(-1, 700)
    assert torch.equal(rows[:, 3], torch.arange(3000).float())
    picked = torch.tensor([2999, 0, 17])
    assert rows.take(picked)[:, 0].tolist() == [2999, 0, 17]
    rows.add_at(picked, rows.take(picked), torch.tensor([1.0, 1.0, -1.0]))
    assert rows[picked, 699].tolist() == [5998, 0, 0]
    assert rows.map(lambda part: part[:, :1] * 2, 1)[1].tolist() == [2]


def test_activations_that_no_disk_can_hold_are_an_error():
    with pytest.raises(CheckpointError, match=r"do not fit into .*: set TMPDIR to a folder with room"):
        Rows(1 << 40, 1 << 10)


def test_only_what_was_chosen_is_read_and_only_once(tmp_path):
    folder = saved(tiny("qwen2"), tmp_path)
    weights, decoder = opened(folder)
    read, plain = [], weights.source.read
    weights.source.read = lambda file, start, end: read.append((start, end)) or plain(file, start, end)
    done = list(stream(weights, decoder, [[5, 9]]))
    touched = {
        name for name, one in weights.tensors.items() if any(start < one.end and end > one.start for start, end in read)
    }
    for one in done:
        experts = {int(name.split(".experts.")[1].split(".")[0]) for name in touched if f"{one.path}.experts." in name}
        assert experts == (set(one.index.flatten().tolist()) if one is not done[-1] else set())
    assert "lm_head.weight" not in touched and f"{done[-1].path}.gate.weight" in touched
    assert sum(end - start for start, end in read) <= sum(
        weights.tensors[name].end - weights.tensors[name].start for name in touched
    )
    ordered = sorted(read)
    assert all(before[1] <= after[0] for before, after in pairwise(ordered))


# -- while it runs -----------------------------------------------------------------------------------------------------


def test_it_tells_how_far_it_is(mixtral):
    told = []
    done = streamed(mixtral, progress=told.append)
    assert [one.layer for one in told] == sorted(one.layer for one in told) and told[-1].layer == 2
    assert {one.layers for one in told} == {3}
    assert any("of 7 experts" in one.what for one in told) and any("attention" in one.what for one in told)
    read = [one.bytes_read for one in told]
    assert read == sorted(read) and read[-1] <= done[-1].bytes_read
    left = [one.bytes_left for one in told]
    assert left[-1] < left[0] < 2 * done[-1].bytes_read and all(one.seconds_left >= 0 for one in told)


@pytest.mark.parametrize("when, layers", [(0, 0), (1, 1), (2, 2)])
def test_stop_keeps_the_finished_layers(mixtral, when, layers):
    done = []
    run = stream(*opened(mixtral), SEQUENCES, stop=lambda: len(done) >= when)
    while (one := next(run, None)) is not None:
        done.append(one)
    assert len(done) == layers
    alike(done, streamed(mixtral)[:layers])


def test_whoever_leaves_the_loop_leaves_no_thread(mixtral):
    before = threading.active_count()
    run = stream(*opened(mixtral), SEQUENCES)
    next(run)
    assert threading.active_count() > before
    run.close()
    assert threading.active_count() == before


def test_a_checkpoint_on_a_server(mixtral, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    kind = type("Here", (Server,), {"asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *a: kind(*a, directory=str(mixtral)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        alike(streamed(f"http://127.0.0.1:{server.server_port}/some/model"), streamed(mixtral))
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


# -- what is refused, and what is not ----------------------------------------------------------------------------------


def test_a_router_of_nan_still_decides(tmp_path, mixtral):
    tensors = load_file(mixtral / "model.safetensors")
    tensors["model.layers.1.block_sparse_moe.gate.weight"][2] = torch.nan
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((mixtral / "config.json").read_text())
    done = streamed(tmp_path)
    assert len(done) == 3 and done[1].logits.isnan().any() and not done[0].logits.isnan().any()
    assert all(int(one.index.min()) >= 0 and int(one.index.max()) < 7 for one in done)
    assert math.isnan(done[1].entropy)


@pytest.mark.parametrize(
    "changes, why",
    [
        ({"model_type": "llama"}, "a model of the kind 'llama' is not one of those that can be streamed (mixtral, olmoe"),
        ({"model_type": None}, "a model that does not say its model_type is not one"),
        ({"hidden_act": "mish"}, "the activation 'mish' is not known"),
        ({"rope_parameters": {"rope_type": "spiral", "rope_theta": 1e4}}, "positions of the kind 'spiral' are not known"),
        ({"num_experts_per_tok": 8}, "wants 8 experts for each token, and says there are only 7"),
        ({"num_local_experts": 6}, "gate.weight has the shape [7, 44], and config.json wants [6, 44]"),
        ({"num_attention_heads": "4"}, "num_attention_heads = '4', and should say a whole number from 1"),
        ({"num_hidden_layers": 2}, None),
        ({"num_hidden_layers": 4}, "the files hold no model.layers.3"),
        ({"attn_logit_softcapping": 30.0}, "attn_logit_softcapping = 30.0 in config.json is not known of this family"),
        ({"quantization_config": {"quant_method": "gptq"}}, "weights quantised by 'gptq' are not read here"),
        ({"router_jitter_noise": 0.1, "attention_dropout": 0.1, "something_else": [1]}, None),
    ],
)  # fmt: skip
def test_a_configuration_that_is_not_known_is_a_reason(tmp_path, mixtral, changes, why):
    (tmp_path / "model.safetensors").symlink_to(mixtral / "model.safetensors")
    told = json.loads((mixtral / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps({key: one for key, one in told.items() if one is not None}))
    weights = open_weights(str(mixtral))
    weights.config = json.loads((tmp_path / "config.json").read_text())
    found = recognise(weights)
    assert isinstance(found, str) == (why is not None), found
    assert why is None or (why in found and "\n" not in found and len(found) < 300)


@pytest.mark.parametrize(
    "name, tensor, why",
    [
        ("model.layers.1.self_attn.k_proj.weight", None, "the files hold no model.layers.1.self_attn.k_proj.weight"),
        ("model.layers.2.block_sparse_moe.experts.6.w2.weight", None, "the files hold no model.layers.2.block_sparse_moe.exp"),
        ("model.layers.1.self_attn.k_proj.bias", torch.zeros(20), "hold model.layers.1.self_attn.k_proj.bias, for which this"),
        ("model.embed_tokens.weight", None, "the files hold no model.embed_tokens.weight"),
        ("model.layers.0.input_layernorm.weight", torch.zeros(43), "has the shape [43], and config.json wants 44"),
        ("model.layers.0.self_attn.q_proj.weight", torch.zeros(40, 44).char(), "q_proj.weight is stored as I8"),
        ("model.layers.0.self_attn.q_proj.weight", torch.zeros(40, 44).to(torch.float8_e4m3fn), "F8_E4M3 without the factors"),
    ],
)  # fmt: skip
def test_files_that_are_not_as_they_should_be_are_a_reason(tmp_path, mixtral, name, tensor, why):
    tensors = load_file(mixtral / "model.safetensors")
    tensors.pop(name, None)
    save_file(tensors if tensor is None else tensors | {name: tensor}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((mixtral / "config.json").read_text())
    found = recognise(open_weights(str(tmp_path)))
    assert isinstance(found, str) and why in found


def lies(config, biases="", qk=0, shared=0, **names):
    """Weights that are headers only, two layers of them, with the names and shapes of a model on the hub."""
    D, H, d = config["hidden_size"], config["num_attention_heads"], config.get("head_dim")
    d = d or D // H
    shapes = {
        "model.embed_tokens.weight": (config["vocab_size"], D),
        "model.norm.weight": (D,),
        "lm_head.weight": (9, D),
    }
    inner = config.get("moe_intermediate_size", config["intermediate_size"])
    block, gate, up, down = names["names"].split()
    for i in range(2):
        path = f"model.layers.{i}"
        shapes |= {f"{path}.{one}_layernorm.weight": (D,) for one in ("input", "post_attention")}
        for one, rows in zip("qkv", (H, *[config["num_key_value_heads"]] * 2), strict=True):
            shapes[f"{path}.self_attn.{one}_proj.weight"] = (rows * d, D)
            shapes |= {f"{path}.self_attn.{one}_proj.bias": (rows * d,)} if one in biases else {}
            shapes |= {f"{path}.self_attn.{one}_norm.weight": (qk,)} if qk and one != "v" else {}
        shapes[f"{path}.self_attn.o_proj.weight"] = (D, H * d)
        path = f"{path}.{block}"
        E = config.get("num_experts") or config["num_local_experts"]
        shapes[f"{path}.gate.weight"] = (E, D)
        for j, width in [
            *((f"experts.{e}", inner) for e in range(E)),
            *([("shared_expert", shared)] if shared else []),
        ]:
            shapes |= {f"{path}.{j}.{gate}.weight": (width, D), f"{path}.{j}.{up}.weight": (width, D)}
            shapes[f"{path}.{j}.{down}.weight"] = (D, width)
        shapes |= {f"{path}.shared_expert_gate.weight": (1, D)} if shared else {}
    tensors = {name: Tensor("a", "BF16", shape, 0, 2 * math.prod(shape)) for name, shape in shapes.items()}
    return Weights(None, tensors, config | {"num_hidden_layers": 2}, 1 << 30)


QWEN = "mlp gate_proj up_proj down_proj"
PUBLISHED = {
    "Mixtral-8x7B": (
        {
            "attention_dropout": 0.0, "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336,
            "max_position_embeddings": 32768, "model_type": "mixtral", "num_attention_heads": 32, "num_experts_per_tok": 2,
            "num_key_value_heads": 8, "num_local_experts": 8, "output_router_logits": False, "rms_norm_eps": 1e-05,
            "rope_theta": 1e6, "router_aux_loss_coef": 0.02, "sliding_window": None, "tie_word_embeddings": False,
            "torch_dtype": "bfloat16", "use_cache": True, "vocab_size": 32000,
        },
        {"names": "block_sparse_moe w1 w3 w2"},
    ),
    "OLMoE-1B-7B-0924": (
        {
            "attention_bias": False, "clip_qkv": None, "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 1024,
            "max_position_embeddings": 4096, "model_type": "olmoe", "norm_topk_prob": False, "num_attention_heads": 16,
            "num_experts": 64, "num_experts_per_tok": 8, "num_key_value_heads": 16, "rms_norm_eps": 1e-05,
            "rope_scaling": None, "rope_theta": 10000.0, "router_aux_loss_coef": 0.01, "vocab_size": 50304,
        },
        {"names": QWEN, "qk": 2048},
    ),
    "Qwen1.5-MoE-A2.7B": (
        {
            "decoder_sparse_step": 1, "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 5632,
            "max_position_embeddings": 8192, "max_window_layers": 21, "model_type": "qwen2_moe",
            "moe_intermediate_size": 1408, "norm_topk_prob": False, "num_attention_heads": 16, "num_experts": 60,
            "num_experts_per_tok": 4, "num_key_value_heads": 16, "rms_norm_eps": 1e-06, "rope_theta": 1e6,
            "shared_expert_intermediate_size": 5632, "sliding_window": 32768, "use_sliding_window": False,
            "vocab_size": 151936,
        },
        {"names": QWEN, "biases": "qkv", "shared": 5632},
    ),
    "Qwen3-30B-A3B": (
        {
            "attention_bias": False, "decoder_sparse_step": 1, "head_dim": 128, "hidden_act": "silu", "hidden_size": 2048,
            "intermediate_size": 6144, "max_position_embeddings": 40960, "max_window_layers": 48, "mlp_only_layers": [],
            "model_type": "qwen3_moe", "moe_intermediate_size": 768, "norm_topk_prob": True, "num_attention_heads": 32,
            "num_experts": 128, "num_experts_per_tok": 8, "num_key_value_heads": 4, "rms_norm_eps": 1e-06,
            "rope_scaling": None, "rope_theta": 1e6, "sliding_window": None, "use_sliding_window": False,
            "vocab_size": 151936,
        },
        {"names": QWEN, "qk": 128},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_models_as_they_are_published_can_be_streamed(name):
    config, parts = PUBLISHED[name]
    found = recognise(lies(config, **parts))
    assert not isinstance(found, str), found
    assert [layer.routed.chosen for layer in found.layers] == [config["num_experts_per_tok"]] * 2


@pytest.mark.parametrize(
    "sequences, why",
    [
        ([], "there is no sequence of tokens"),
        ([[1], []], "sequence 1 should be a row of one or more token ids"),
        ([torch.zeros(2, 2).long()], "sequence 0 should be a row"),
        ([[1.5]], "sequence 0 should be a row"),
        ([[1, 88]], "sequence 0 has the token id 88: this model knows 0 to 87"),
        ([[1, -1]], "sequence 0 has the token id -1"),
    ],
)
def test_tokens_that_the_model_does_not_have(mixtral, sequences, why):
    with pytest.raises(CheckpointError) as caught:
        streamed(mixtral, sequences)
    assert why in str(caught.value)


def test_groups_by_hand():
    """Two groups of three; the second is the better one although the best expert is in the first."""
    rule = Rule(2, "sigmoid", norm=True, groups=2, kept=1, best=2, scale=2.5, sort=True)
    scores = torch.tensor([[0.9, 0.1, 0.1, 0.6, 0.3, 0.5]])
    made = rule.decide(scores.logit(), torch.tensor([0.0, 0, 0, 0, 0.4, 0]))
    assert made.index.tolist() == [[4, 3]]  # 0.7 with its bias, before 0.6
    torch.testing.assert_close(made.weights, 2.5 * torch.tensor([[0.3, 0.6]]) / 0.9)
