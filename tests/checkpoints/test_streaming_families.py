"""DeepSeek and gpt-oss streamed from files, against tiny models of transformers; positions and quantised weights by hand."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import explorer
from explorer.checkpoints.files import CheckpointError
from explorer.checkpoints.streaming import mla, quantised
from explorer.checkpoints.streaming.decoders import recognise
from explorer.checkpoints.streaming.engine import LayerDone, stream
from explorer.checkpoints.streaming.positions import Rotation, rotation
from explorer.checkpoints.weights import Weights, open_weights
from tests.checkpoints.tiny import by_hand

transformers = pytest.importorskip("transformers", minversion="5.19")

SEQUENCES = [[5, 9, 2, 61, 33, 7, 7, 50, 11, 4, 90, 2, 17, 66, 31, 8, 25, 42, 73], [3], [44, 44, 81, 12, 6, 70, 29]]
COMMON = {
    "vocab_size": 96, "hidden_size": 48, "num_hidden_layers": 3, "num_experts_per_tok": 3, "max_position_embeddings": 256,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False, "rms_norm_eps": 0.01,
}  # fmt: skip
DEEPSEEK = COMMON | {
    "intermediate_size": 40, "moe_intermediate_size": 24, "num_attention_heads": 18, "num_key_value_heads": 18,
    "q_lora_rank": 20, "kv_lora_rank": 12, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "v_head_dim": 5,
    "n_routed_experts": 12, "n_shared_experts": 2, "first_k_dense_replace": 1, "n_group": 4, "topk_group": 2,
    "routed_scaling_factor": 2.5,
    "rope_parameters": {
        "rope_type": "yarn", "rope_theta": 10000.0, "factor": 8.0, "original_max_position_embeddings": 32,
        "beta_fast": 4.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 0.7,
    },
}  # fmt: skip
FOUR_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 4}
GPT_OSS = COMMON | {
    "hidden_size": 64, "intermediate_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "num_local_experts": 6, "sliding_window": 4, "swiglu_limit": 1.5,
    "rope_parameters": {
        "rope_type": "yarn", "rope_theta": 150000.0, "factor": 8.0, "original_max_position_embeddings": 32,
        "beta_fast": 4.0, "beta_slow": 1.0, "truncate": False,
    },
}  # fmt: skip


def tiny(kind: str, settings: dict[str, Any], seed: int = 0) -> Any:
    """A model whose numbers are large enough to matter, its biases, norms, buffers and sinks too."""
    config = getattr(transformers, f"{kind}Config")(**settings)
    model = getattr(transformers, f"{kind}ForCausalLM")._from_config(config, attn_implementation="eager").eval()
    random = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        spread = 0.3 if value.ndim == 1 else 2.0 / math.sqrt(value.shape[-1])
        drawn = torch.randn(value.shape, generator=random) * spread
        value.copy_(1 + drawn if "norm.weight" in name else drawn)
    return model


def saved(model: Any, folder: Path, changes: dict[str, Any] | None = None) -> Path:
    """As save_pretrained leaves it, with some settings changed; None takes one away."""
    model.save_pretrained(folder)
    file = folder / "config.json"
    told = json.loads(file.read_text()) | (changes or {})
    file.write_text(json.dumps({key: value for key, value in told.items() if value is not None}))
    return folder


def streamed(folder: Path, **options: Any) -> list[LayerDone]:
    weights = open_weights(str(folder))
    decoder = recognise(weights)
    assert not isinstance(decoder, str), decoder
    return list(stream(weights, decoder, SEQUENCES, **options))


def decided(model: Any) -> list[tuple[Tensor, Tensor, Tensor]]:
    """(index, weights, logits) of each router, over all tokens of the sequences one after the other."""
    found: dict[str, list[tuple[Tensor, ...]]] = {}

    def hear(name: str) -> Any:
        return lambda _module, _args, output: found.setdefault(name, []).append(output)

    routers = [(name, one) for name, one in model.named_modules() if "Router" in type(one).__name__]
    hooks = [one.register_forward_hook(hear(name)) for name, one in routers]
    with torch.no_grad():
        for ids in SEQUENCES:
            model(torch.tensor([ids]))
    for hook in hooks:
        hook.remove()
    parts = [tuple(torch.cat(part) for part in zip(*one, strict=True)) for one in found.values()]
    return [(index, weights, logits) for logits, weights, index in parts]


def same(done: list[LayerDone], model: Any) -> float:
    """Assert that every decision is that of the model; the largest difference of a weight."""
    expected, off = decided(model), 0.0
    assert len(done) == len(expected) > 1
    for one, (index, weights, logits) in zip(done, expected, strict=True):
        assert one.index is not None and one.weights is not None and one.logits is not None
        assert torch.equal(one.index, index), f"layer {one.layer}"
        torch.testing.assert_close(one.logits, logits, atol=1e-4, rtol=1e-4)
        off = max(off, float((one.weights - weights).abs().max()))
    assert off < 2e-5
    return off


# -- the two families, whole -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"q_lora_rank": None, "n_group": 1, "topk_group": 1, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
        {"rope_interleave": False, "attention_bias": True, "norm_topk_prob": False, **FOUR_HEADS},
    ],
)  # fmt: skip
def test_deepseek_3_decides_as_in_transformers(tmp_path, changes, monkeypatch):
    monkeypatch.setattr(mla, "STEP", 8)  # the first sequence is rotated in three parts, and its 18 heads are two groups
    model = tiny("DeepseekV3", DEEPSEEK | changes)
    folder = saved(model, tmp_path / "v3")
    print("largest difference of a weight", same(streamed(folder, piece_bytes=3000), model))


def test_kimi_2_is_deepseek_3_by_another_name_and_layers_behind_the_last_are_left_alone(tmp_path):
    old = {
        "rope_theta": 1e4,
        "rope_scaling": {k: v for k, v in DEEPSEEK["rope_parameters"].items() if k != "rope_theta"},
    }
    old["rope_scaling"]["type"] = old["rope_scaling"].pop("rope_type")
    model = tiny("DeepseekV3", DEEPSEEK)
    code = {"AutoModelForCausalLM": "modeling_deepseek.DeepseekV3ForCausalLM"}  # which nobody runs
    folder = saved(model, tmp_path, {"model_type": "kimi_k2", "auto_map": code, "rope_parameters": None, **old})
    tensors = load_file(folder / "model.safetensors")
    tensors |= {"model.layers.3.eh_proj.weight": torch.ones(2, 2), "model.layers.3.mlp.gate.weight": torch.ones(12, 48)}
    save_file(tensors, folder / "model.safetensors")
    done = streamed(folder)
    same(done, model)
    assert [one.path for one in done] == ["model.layers.1.mlp", "model.layers.2.mlp"]


@pytest.mark.parametrize("method", ["greedy", "group_limited_greedy"])
def test_deepseek_2_decides_as_in_transformers(tmp_path, method):
    model = tiny("DeepseekV2", DEEPSEEK | FOUR_HEADS | {"topk_method": method})
    same(streamed(saved(model, tmp_path)), model)


def test_gpt_oss_decides_as_in_transformers(tmp_path):
    model = tiny("GptOss", GPT_OSS)
    assert model.config.layer_types == ["sliding_attention", "full_attention", "sliding_attention"]
    folder = saved(model, tmp_path)
    print("largest difference of a weight", same(streamed(folder, piece_bytes=3000), model))
    assert "scaling" not in (folder / "config.json").read_text() and not isinstance(
        recognise(open_weights(str(folder))), str
    )


def test_without_positions_in_the_configuration_gpt_oss_has_its_own(tmp_path):
    model = tiny(
        "GptOss", {key: value for key, value in GPT_OSS.items() if key != "rope_parameters"} | {"attention_bias": False}
    )
    same(streamed(saved(model, tmp_path, {"rope_parameters": None, "layer_types": None})), model)


# -- where attention goes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind, settings", [("DeepseekV3", DEEPSEEK), ("GptOss", GPT_OSS)])
def test_where_attention_goes_is_what_the_maps_of_transformers_say(tmp_path, kind, settings):
    model = tiny(kind, settings | {"num_hidden_layers": 2, "first_k_dense_replace": 0})
    done = streamed(saved(model, tmp_path), attention=True)
    for b, ids in enumerate(SEQUENCES):
        with torch.no_grad():
            maps = model(torch.tensor([ids]), output_attentions=True).attentions
        for one, map_1HTT in zip(done, maps, strict=True):
            window = 4 if kind == "GptOss" and one.layer == 0 else None
            expected = by_hand(map_1HTT, torch.ones(1, len(ids), dtype=torch.bool), True, window)
            for name, value in expected.items():
                got = one.attention[name][b][..., : len(ids)] if name == "received" else one.attention[name][b]
                torch.testing.assert_close(got, value[0].float(), atol=2e-5, rtol=1e-4, equal_nan=True)
    if kind == "GptOss":
        assert all(float(one.attention["elsewhere"].max()) > 0.05 for one in done)


# -- quantised weights -------------------------------------------------------------------------------------------------


def rounded(W: Tensor, size: int = 32) -> tuple[Tensor, Tensor, Tensor]:
    """(float8, factors of blocks, what they are together)."""
    down, across = -(-W.shape[0] // size), -(-W.shape[1] // size)
    scale = torch.stack([torch.stack([W[i * size : (i + 1) * size, j * size : (j + 1) * size].abs().max() / 400
                                      for j in range(across)]) for i in range(down)])  # fmt: skip
    stretched = scale.repeat_interleave(size, 0)[: W.shape[0]].repeat_interleave(size, 1)[:, : W.shape[1]]
    small = (W / stretched).to(torch.float8_e4m3fn)
    return small, scale, small.float() * stretched


def test_float8_blocks_of_deepseek_decide_as_the_numbers_they_stand_for(tmp_path):
    model = tiny("DeepseekV3", DEEPSEEK)
    told = {"quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [32, 32]}}
    folder = saved(model, tmp_path, told)
    tensors, exact = {}, {}
    for name, value in load_file(folder / "model.safetensors").items():
        plain = value.ndim != 2 or "embed" in name or "lm_head" in name or name.endswith("gate.weight")
        tensors[name] = exact[name] = value
        if not plain:
            tensors[name], tensors[f"{name}_scale_inv"], exact[name] = rounded(value)
    save_file(exact, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(without(folder, "quantization_config")))
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    (folder / "config.json").write_text(json.dumps(without(folder) | told))
    save_file(tensors, folder / "model.safetensors")
    weights = open_weights(str(folder))
    assert weights.tensors["model.layers.1.mlp.experts.11.up_proj.weight"].dtype == "F8_E4M3"
    for piece_bytes in (1000, 1 << 20):
        print("largest difference of a weight", same(streamed(folder, piece_bytes=piece_bytes), reference))


def without(folder: Path, *keys: str) -> dict[str, Any]:
    """config.json but for some settings."""
    return {key: value for key, value in json.loads((folder / "config.json").read_text()).items() if key not in keys}


VALUES = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0]


def packed(rows: tuple[int, ...], groups: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """MXFP4 as published: (blocks, scales, what they are together (*rows, 32 groups))."""
    random = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 16, (*rows, groups, 32), generator=random)
    scales = torch.randint(122, 126, (*rows, groups), generator=random)
    numbers = torch.tensor(VALUES)[codes] * torch.exp2(scales.float() - 127)[..., None]
    return (codes[..., ::2] + 16 * codes[..., 1::2]).to(torch.uint8), scales.to(torch.uint8), numbers.flatten(-2)


def test_mxfp4_of_gpt_oss_decides_as_the_numbers_it_stands_for(tmp_path):
    model = tiny("GptOss", GPT_OSS)
    with torch.no_grad():
        packs = {}
        for i, layer in enumerate(model.model.layers):
            for name, rows, groups in (("gate_up_proj", (6, 64), 2), ("down_proj", (6, 64), 1)):
                blocks, scales, numbers = packed(rows, groups, i)
                packs |= {
                    f"model.layers.{i}.mlp.experts.{name}_{k}": v for k, v in (("blocks", blocks), ("scales", scales))
                }
                getattr(layer.mlp.experts, name).copy_(numbers.transpose(1, 2))
    told = {"quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]}}
    folder = saved(model, tmp_path, told)
    tensors = load_file(folder / "model.safetensors")
    left = {
        name: value
        for name, value in tensors.items()
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj"))
    }
    assert len(left) == len(tensors) - 6
    save_file(left | packs, folder / "model.safetensors")
    for piece_bytes in (1000, 1 << 20):
        print("largest difference of a weight", same(streamed(folder, piece_bytes=piece_bytes), model))


def quantised_file(folder: Path, tensors: dict[str, Tensor], config: dict[str, Any] | None = None) -> Weights:
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config or {}))
    return open_weights(str(folder))


def test_any_rows_of_float8_are_those_of_the_whole(tmp_path):
    W = torch.randn(300, 200, generator=torch.Generator().manual_seed(0))
    small, scale, exact = rounded(W, 128)
    weights = quantised_file(tmp_path, {"W": small, "W_scale_inv": scale})
    assert scale.shape == (3, 2)  # 300 / 3 and 200 / 2 would be blocks of another size
    for first, rows in ((0, 300), (0, 1), (127, 2), (255, 45), (299, 1)):
        assert torch.equal(quantised.dequantised(weights, "W", first, rows), exact[first : first + rows])
    three = {"W": torch.stack([small, small]), "W_scale_inv": torch.stack([scale, 2 * scale])}
    weights = quantised_file(tmp_path / "three", three)
    assert quantised.shape(weights, "W") == (2, 300, 200)
    assert torch.equal(quantised.dequantised(weights, "W", 290, 30), torch.cat([exact[290:], 2 * exact[:20]]))


def test_factors_may_be_powers_of_two_in_eight_bits_or_one_for_all(tmp_path):
    small = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)).to(torch.float8_e4m3fn)
    one = quantised_file(tmp_path / "1", {"W": small, "W_scale_inv": torch.tensor(0.5)})
    assert torch.equal(quantised.dequantised(one, "W", 1, 2), small[1:3].float() / 2)
    powers = torch.tensor([[2.0], [0.25]]).to(torch.float8_e8m0fnu)
    told = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [2, 6]}}
    two = quantised_file(tmp_path / "2", {"W": small, "W_scale_inv": powers}, told)
    factors = torch.tensor([[2.0], [2.0], [0.25], [0.25]])
    assert torch.equal(quantised.dequantised(two, "W", 0, 4), small.float() * factors)


def test_any_rows_of_mxfp4_are_those_of_the_whole(tmp_path):
    blocks, scales, numbers = packed((3, 5), 2, 0)
    weights = quantised_file(tmp_path, {"W_blocks": blocks, "W_scales": scales})
    assert quantised.shape(weights, "W") == (3, 5, 64)
    assert torch.equal(quantised.dequantised(weights, "W", 4, 9), numbers.flatten(0, 1)[4:13])


def test_what_is_quantised_in_another_way_is_a_reason(tmp_path):
    small = torch.ones(4, 6).to(torch.float8_e4m3fn)
    cases = {
        "by 'gptq' are not read": ({"W": torch.ones(2, 2)}, {"quantization_config": {"quant_method": "gptq"}}),
        "without the factors W_scale_inv": ({"W": small}, {}),
        "has no _scales beside it": ({"W_blocks": torch.ones(1, 1, 1, 16, dtype=torch.uint8)}, {}),
    }
    for i, (words, (tensors, config)) in enumerate(cases.items()):
        weights = quantised_file(tmp_path / str(i), tensors, config)
        assert words in quantised.refusal(weights, config)
    with pytest.raises(CheckpointError, match="without the factors W_scale_inv"):
        quantised.dequantised(open_weights(str(tmp_path / "1")), "W", 0, 1)
    wrong = quantised_file(tmp_path / "3", {"W": small, "W_scale_inv": torch.ones(3, 1)})
    assert quantised.refusal(wrong, {}) == ""
    with pytest.raises(CheckpointError, match=r"shape \[3, 1\], which does not fit the blocks"):
        quantised.dequantised(wrong, "W", 0, 1)
    other = {"W_blocks": torch.ones(2, 3, 1, 16, dtype=torch.uint8), "W_scales": torch.ones(2, 2, 1, dtype=torch.uint8)}
    with pytest.raises(CheckpointError, match="they do not fit"):
        quantised.dequantised(quantised_file(tmp_path / "4", other), "W", 0, 1)


# -- positions ---------------------------------------------------------------------------------------------------------

KINDS: list[dict[str, Any]] = [
    {"rope_type": "linear", "factor": 4.0},
    {"rope_type": "dynamic", "factor": 2.0},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
     "original_max_position_embeddings": 512},
    {"rope_type": "yarn", "factor": 32.0, "truncate": False, "original_max_position_embeddings": 128, "rope_theta": 150000.0},
    {"rope_type": "yarn", "factor": 40.0, "mscale": 1.0, "mscale_all_dim": 0.5, "original_max_position_embeddings": 1024},
    {"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.25, "beta_fast": 8, "beta_slow": 2,
     "original_max_position_embeddings": 1024},
    {"rope_type": "yarn", "factor": 1.0, "original_max_position_embeddings": 16},
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind['rope_type']} x{kind['factor']:g}")
def test_positions_are_those_of_transformers_in_both_spellings(kind):
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    given = {"rope_theta": 20000.0, **kind}
    sizes = {"max_position_embeddings": 4096, "hidden_size": 96, "num_attention_heads": 4, "head_dim": 24}
    config = transformers.MixtralConfig(**sizes, rope_parameters=dict(given))
    angles, factor = ROPE_INIT_FUNCTIONS[kind["rope_type"]](config)
    named = {"type" if key == "rope_type" else key: value for key, value in given.items() if key != "rope_theta"}
    old = {"rope_theta": given["rope_theta"], "rope_scaling": named}
    for told in ({"rope_parameters": given}, old):
        made = rotation(sizes | told, 24)
        assert isinstance(made, Rotation)
        assert torch.equal(made.angles, angles) and made.factor == pytest.approx(factor, abs=1e-12)
        assert made.longest == (4096 if kind["rope_type"] == "dynamic" else None)


def test_partly_turned_heads_are_those_of_transformers():
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    given = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    config = transformers.Glm4MoeConfig(head_dim=24, rope_parameters=dict(given))
    angles, _ = ROPE_INIT_FUNCTIONS["linear"](config)
    made = rotation({"rope_parameters": given}, 24, partial=True)
    assert isinstance(made, Rotation) and torch.equal(made.angles, angles) and len(angles) == 6
    x = torch.randn(5, 2, 24)
    assert torch.equal(made.turn(x)[..., 12:], x[..., 12:]) and not torch.equal(made.turn(x)[1:, :, :12], x[1:, :, :12])
    assert "partial_rotary_factor = 0.5 is not known" in str(rotation({"rope_parameters": given}, 24))


def test_heads_are_turned_as_in_transformers():
    from transformers.models.deepseek_v3 import modeling_deepseek_v3 as deepseek

    made = rotation({"rope_theta": 100.0}, 8)
    assert isinstance(made, Rotation) and (made.factor, made.sharper) == (1.0, 1.0)
    places = torch.arange(3, 9).float()
    emb = (places[:, None] * made.angles).repeat(1, 2)[None]
    q, k = torch.randn(2, 1, 2, 6, 8, generator=torch.Generator().manual_seed(0))
    for interleaved, name in ((False, "apply_rotary_pos_emb"), (True, "apply_rotary_pos_emb_interleave")):
        expected, _ = getattr(deepseek, name)(q, k, emb.cos(), emb.sin())
        got = made.turn(q[0].transpose(0, 1), 3, interleaved)
        torch.testing.assert_close(got, expected[0].transpose(0, 1), atol=1e-6, rtol=0)


def test_each_pair_is_turned_by_its_angle():
    made = rotation({"rope_theta": 100.0}, 4)
    assert isinstance(made, Rotation) and made.angles.tolist() == pytest.approx([1.0, 0.1])
    x = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]])
    turned = made.turn(x, 2)[0, 0]
    for i, angle in enumerate((2.0, 0.2)):
        number = complex(x[0, 0, i], x[0, 0, i + 2]) * complex(math.cos(angle), math.sin(angle))
        assert turned[[i, i + 2]].tolist() == pytest.approx([number.real, number.imag])
    assert made._replace(factor=3.0).turn(x, 2)[0, 0].tolist() == pytest.approx((3 * turned).tolist())


@pytest.mark.parametrize(
    "config, words",
    [
        ({"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, "kind 'longrope' are not known"),
        ({"rope_scaling": {"type": ["yarn"]}}, "are not known"),
        ({"rope_parameters": {"rope_type": "default", "mrope_section": [1]}}, "not known: 'mrope_section'"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "not known: 'full_attention'"),
        ({"rope_parameters": [1]}, "are not an object"),
        ({"rope_scaling": {"type": "linear"}}, "need factor, a number, and config.json says None"),
        ({"rope_scaling": {"type": "linear", "factor": -1}}, "need factor above 0"),
        ({"rope_scaling": {"type": "linear", "factor": True}}, "need factor, a number, and config.json says True"),
        ({"rope_theta": "many"}, "need rope_theta, a number"),
        ({"rope_theta": 1.0}, "cannot turn 8 channels of a head of 8 with theta = 1"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, "need max_position_embeddings, a number"),
        ({"rope_scaling": {"type": "llama3", "factor": 2.0, "low_freq_factor": 1, "high_freq_factor": 1},
          "max_position_embeddings": 8}, "are both 1"),
    ],
)  # fmt: skip
def test_positions_that_are_not_known_are_a_reason(config, words):
    assert words in str(rotation(config, 8))


def test_told_by_layer_type_the_right_ones_are_taken():
    given = {"rope_parameters": {"full_attention": {"rope_theta": 50.0}, "sliding_attention": {"rope_theta": 20.0}}}
    made = rotation(given, 4, of="sliding_attention")
    assert isinstance(made, Rotation) and made.angles[1] == pytest.approx(20**-0.5)


def test_dynamic_positions_are_not_guessed_beyond_the_first_length(tmp_path):
    positions = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    model = tiny("DeepseekV3", DEEPSEEK | {"rope_parameters": positions, "max_position_embeddings": 12})
    with pytest.raises(explorer.errors.ExplorerError, match="beyond 12 its positions change"):
        streamed(saved(model, tmp_path))


# -- what is not understood --------------------------------------------------------------------------------------------


def test_a_setting_nobody_here_knows_is_a_reason(tmp_path):
    cases: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
        ("DeepseekV3", DEEPSEEK, {"scoring_func": "softmax"}, "scoring_func = 'softmax'"),
        ("DeepseekV3", DEEPSEEK, {"moe_layer_freq": 2}, "moe_layer_freq = 2"),
        ("DeepseekV3", DEEPSEEK, {"n_group": 5}, "12 experts in 5 groups"),
        ("DeepseekV3", DEEPSEEK, {"num_experts_per_tok": 7}, "wants 7 experts for each token"),
        ("DeepseekV3", DEEPSEEK, {"kv_lora_rank": 13}, "kv_a_proj_with_mqa.weight has the shape [16, 48]"),
        ("DeepseekV3", DEEPSEEK, {"num_key_value_heads": 2}, "num_key_value_heads = 2"),
        ("DeepseekV3", DEEPSEEK, {"rope_parameters": {"rope_type": "axial"}}, "kind 'axial'"),
        ("DeepseekV2", DEEPSEEK | FOUR_HEADS, {"norm_topk_prob": True}, "norm_topk_prob = True"),
        ("GptOss", GPT_OSS, {"layer_types": ["chunked_attention"] * 3}, "full or sliding attention for each layer"),
        ("GptOss", GPT_OSS, {"num_experts_per_tok": 7}, "wants 7 experts"),
        ("GptOss", GPT_OSS, {"intermediate_size": 31}, "experts.gate_up_proj has the shape [6, 64, 64]"),
        ("GptOss", GPT_OSS, {"swiglu_limit": -1.0}, "swiglu_limit = -1"),
    ]
    kinds = {kind: settings for kind, settings, _, _ in cases}
    folders = {kind: saved(tiny(kind, settings), tmp_path / kind) for kind, settings in kinds.items()}
    whole = {kind: (folder / "config.json").read_text() for kind, folder in folders.items()}
    for kind, _, changes, words in cases:
        (folders[kind] / "config.json").write_text(json.dumps(json.loads(whole[kind]) | changes))
        told = recognise(open_weights(str(folders[kind])))
        assert isinstance(told, str) and words in told
