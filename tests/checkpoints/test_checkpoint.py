"""Checkpoints read from their files: beside transformers' own models, by layout, by address, and against the clock."""

import http.server
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import explorer
from explorer.checkpoints import weights as reading
from explorer.errors import ExplorerError
from tests.checkpoints.architectures import ARCHITECTURES
from tests.checkpoints.making import GATE, MIXTRAL, mixtral, olmoe, save

BLOCK = "model.layers.0.mlp"


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_checkpoint_shows_what_its_files_say(tmp_path):
    tensors = mixtral()
    seen = explorer.open_checkpoint(save(tmp_path, tensors, shards=3))
    assert (seen.architecture, seen.experts, seen.chosen) == ("MixtralForCausalLM", 4, 2)
    assert seen.rule == "softmax scores, top 2, renormalised"
    assert seen.layers == [f"model.layers.{i}.block_sparse_moe" for i in (0, 1)]
    assert torch.equal(seen.router(0), tensors[GATE])
    assert torch.equal(seen.router("model.layers.1.block_sparse_moe"), tensors[GATE.replace(".0.", ".1.")])
    row = seen.routers.iloc[0]
    norms = tensors[GATE].double().norm(dim=-1)
    assert (row["layer"], row["experts"], row["width"], row["stored_as"]) == (0, 4, 8, "F32")
    assert [row[f"norm_{one}"] for one in ("mean", "min", "max")] == pytest.approx(
        [norms.mean().item(), norms.min().item(), norms.max().item()]
    )
    assert (row["experts_are"], row["bias"], row["not_finite"]) == ("one by one", "", 0)
    assert torch.equal(seen.cosine(0), explorer.metrics.cosine(tensors[GATE]))
    assert seen.unknown == [] and seen.damaged == []
    assert seen.biases.empty and seen.sinks.empty and seen.shared_gates.empty and seen.output_gates.empty
    assert "MixtralForCausalLM" in repr(seen)


def test_a_layer_that_is_not_there_is_named(tmp_path):
    seen = explorer.open_checkpoint(save(tmp_path, mixtral()))
    for layer in (2, -1, "mlp", True):
        with pytest.raises(ExplorerError, match=r"no routed layer .* there are 'model.layers.0.block_sparse_moe'"):
            seen.router(layer)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_type_of_number_is_read_as_it_is(tmp_path, dtype):
    tensors = {name: value.to(dtype) for name, value in mixtral().items()}
    seen = explorer.open_checkpoint(save(tmp_path, tensors))
    router = seen.router(0)
    assert router.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(router, mixtral()[GATE].to(router.dtype))


# -- layouts -----------------------------------------------------------------------------------------------------------


def layout(tmp_path, tensors, **config):
    return explorer.open_checkpoint(save(tmp_path, tensors, config or None))


def test_a_single_file_without_a_configuration_is_shown_and_says_what_is_not_known(tmp_path):
    folder = save(tmp_path, mixtral(), config=None)
    seen = explorer.open_checkpoint(folder / "model.safetensors")
    assert seen.experts == 4 and seen.chosen is None
    assert seen.rule == "an unknown number chosen of 4; how scores become weights is not known"
    assert any("no config.json" in one for one in seen.unknown)


def test_an_architecture_nobody_knows(tmp_path):
    tensors = {"net.block.3.moe.gating.weight": draw(6, 8)}
    tensors |= {f"net.block.3.moe.experts.{j}.inner.weight": draw(5, 8, seed=j) for j in range(6)}
    seen = layout(tmp_path, tensors, model_type="novel", architectures=["NovelModel"], moe_top_k=3)
    assert (seen.layers, seen.experts) == (["net.block.3.moe"], 6)
    assert seen.rule == "top 3 of 6; how scores become weights is not known"
    assert any("'novel' is not known" in one for one in seen.unknown)
    assert seen.routers["layer"].tolist() == [3] and seen.similarity(3).cosine.shape == (6, 6)


def test_what_only_looks_like_a_router_is_none(tmp_path):
    tensors = {
        "model.layers.0.mlp.gate_proj.weight": draw(12, 8), "model.layers.0.mlp.gate.weight": draw(12, 8),
        "model.layers.0.post.gate": draw(8), "visual.gate.weight": draw(3, 8),
    }  # fmt: skip
    with pytest.raises(ExplorerError, match="none of its 4 tensors is a router"):
        layout(tmp_path, tensors, model_type="llama")


@pytest.mark.parametrize(
    "model_type, config, rule",
    [
        (
            "deepseek_v3",
            {"n_routed_experts": 16, "num_experts_per_tok": 8, "n_group": 8, "topk_group": 4, "norm_topk_prob": True,
             "routed_scaling_factor": 2.5},
            "sigmoid scores, bias for selection, 8 groups, top 4 groups, top 8, renormalised, x2.5",
        ),
        (
            "deepseek_v2",
            {"n_routed_experts": 16, "num_experts_per_tok": 6, "n_group": 8, "topk_group": 3, "routed_scaling_factor": 16,
             "topk_method": "group_limited_greedy"},
            "softmax scores, 8 groups, top 3 groups, top 6, x16",
        ),
        (
            "deepseek_v2",
            {"n_routed_experts": 16, "num_experts_per_tok": 6, "n_group": 8, "topk_group": 3, "topk_method": "greedy"},
            "softmax scores, top 6",
        ),
        ("olmoe", {"num_experts": 16, "num_experts_per_tok": 8, "norm_topk_prob": False}, "softmax scores, top 8"),
        ("qwen3_moe", {"num_experts": 16, "num_experts_per_tok": 8, "norm_topk_prob": True},
         "softmax scores, top 8, renormalised"),
        ("gpt_oss", {"num_local_experts": 16, "num_experts_per_tok": 4}, "softmax over the chosen, top 4"),
        ("phimoe", {"num_local_experts": 16}, "sparsemixer: softmax over those near the best, twice, top 2"),
        ("dbrx", {"ffn_config": {"moe_num_experts": 16, "moe_top_k": 4}}, "softmax scores, top 4, renormalised"),
        ("switch_transformers", {"num_experts": 16}, "softmax scores, top 1, a full expert drops tokens"),
        ("kimi_k25", {"text_config": {"model_type": "kimi_k2", "n_routed_experts": 16, "num_experts_per_tok": 8}},
         "sigmoid scores, bias for selection, top 8, renormalised"),
    ],
)  # fmt: skip
def test_the_rule_in_words(tmp_path, model_type, config, rule):
    tensors = {f"{BLOCK}.gate.weight": draw(16, 8), f"{BLOCK}.gate.e_score_correction_bias": draw(16)}
    tensors |= {f"{BLOCK}.experts.{j}.up_proj.weight": draw(6, 8) for j in range(16)}
    assert layout(tmp_path, tensors, model_type=model_type, **config).rule == rule


def test_what_a_configuration_leaves_out_is_the_familys_default_and_said_to_be(tmp_path):
    short = {key: value for key, value in MIXTRAL.items() if key != "num_experts_per_tok"}
    seen = explorer.open_checkpoint(save(tmp_path / "one", mixtral(), short))
    assert seen.chosen == 2 and seen.rule == "softmax scores, top 2 by default, renormalised"
    assert seen.unknown == [
        "config.json leaves out what transformers has a default for in mixtral: num_experts_per_tok = 2."
    ]
    tensors = {f"{BLOCK}.gate.weight": draw(16, 8), f"{BLOCK}.gate.e_score_correction_bias": draw(16)}
    tensors |= {f"{BLOCK}.experts.{j}.up_proj.weight": draw(6, 8) for j in range(16)}
    seen = layout(tmp_path / "two", tensors, model_type="deepseek_v3", num_experts_per_tok=6, n_group=None)
    assert (
        seen.rule == "sigmoid scores, bias for selection, top 6, renormalised, x2.5"
    )  # null is no group, and was given
    seen = layout(tmp_path / "three", tensors, model_type="deepseek_v3")
    assert "8 groups, top 4 groups, top 8 by default" in seen.rule


def test_a_default_of_another_size_of_model_is_not_taken(tmp_path):
    seen = layout(tmp_path, {f"{BLOCK}.gate.weight": draw(4, 8), f"{BLOCK}.experts.gate_up_proj": draw(4, 8, 12)},
                  model_type="olmoe")  # fmt: skip
    assert seen.chosen is None and "an unknown number chosen" in seen.rule
    assert any("does not say how many experts" in one for one in seen.unknown)


def test_the_defaults_are_those_of_transformers():
    library = pytest.importorskip("transformers", reason="the extra `checkpoints` is not installed")
    from explorer.checkpoints.family_defaults import DEFAULTS
    from explorer.checkpoints.rules import CHOSEN, GROUPS, KEPT, RULES, SCALE

    compared, silent = 0, {"topk_method": "deepseek_v2", "scoring_func": "deepseek_v4 inkling2 inkling2_text",
                           "expert_selection_fn": "cohere2_moe"}  # fmt: skip
    for family in (one for one in RULES if one in library.CONFIG_MAPPING):
        theirs = library.CONFIG_MAPPING[family]().get_text_config().to_dict()
        theirs = {**(theirs.get("ffn_config") or {}), **theirs}
        rule, mine = RULES[family], DEFAULTS.get(family, {})
        named = [*(CHOSEN if not rule.chosen else ()), *(SCALE if rule.scale else ())]
        named += [*(GROUPS + KEPT if rule.groups else ()), *(rule.norm[:1] if isinstance(rule.norm, tuple) else ())]
        named += [key for key, families in silent.items() if family in families.split()]
        for name in named:
            value = theirs.get(name)
            if value is not None and (name in mine or value != 1 or name in CHOSEN):
                assert mine.get(name) == value, (family, name, value)
                compared += 1
        assert set(mine) <= set(named), family
    print(f"{compared} defaults of transformers {library.__version__}")
    assert compared > 40


def test_biases_shared_experts_sinks_and_gates(tmp_path):
    attention = "model.layers.0.self_attn"
    tensors = {
        f"{BLOCK}.gate.weight": draw(4, 8), f"{BLOCK}.gate.e_score_correction_bias": draw(4),
        f"{BLOCK}.experts.gate_up_proj": draw(4, 8, 12), f"{BLOCK}.experts.down_proj": draw(4, 6, 8),
        f"{BLOCK}.shared_expert.up_proj.weight": draw(6, 8), f"{BLOCK}.shared_expert_gate.weight": draw(1, 8),
        f"{attention}.sinks": draw(2), f"{attention}.q_proj.weight": draw(16, 8), f"{attention}.o_proj.weight": draw(8, 8),
        "model.layers.1.self_attn.q_proj.weight": draw(8, 8), "model.layers.1.self_attn.o_proj.weight": draw(8, 8),
    }  # fmt: skip
    seen = layout(tmp_path, tensors, model_type="qwen3_next", num_experts=4, num_experts_per_tok=2)
    assert seen.biases["bias"].tolist() == pytest.approx(tensors[f"{BLOCK}.gate.e_score_correction_bias"].tolist())
    assert seen.biases["kind"].unique().tolist() == ["selection"] and seen.biases["expert"].tolist() == [0, 1, 2, 3]
    assert seen.sinks[["layer", "head"]].to_numpy().tolist() == [[0, 0], [0, 1]]
    assert seen.sinks["logit"].tolist() == pytest.approx(tensors[f"{attention}.sinks"].tolist())
    assert seen.shared_gates["norm"].tolist() == pytest.approx(
        [tensors[f"{BLOCK}.shared_expert_gate.weight"].norm().item()]
    )
    gate = seen.output_gates.iloc[0]
    assert len(seen.output_gates) == 1 and (gate["layer"], gate["numbers"], gate["function"]) == (0, 8, "sigmoid")
    row = seen.routers.iloc[0]
    assert (row["shared"], row["shared_gate"], row["experts_are"]) == ("shared_expert", True, "together")


def test_a_model_that_only_has_sinks_is_shown(tmp_path):
    seen = layout(tmp_path, {"model.layers.0.self_attn.sinks": draw(3)}, model_type="granite_swa")
    assert seen.experts is None and len(seen.sinks) == 3 and seen.rule == "nothing is routed to experts"
    assert seen.routers.empty and seen.damaged == []


def test_the_bias_of_gpt_oss_is_part_of_its_scores(tmp_path):
    tensors = {f"{BLOCK}.router.weight": draw(4, 8), f"{BLOCK}.router.bias": draw(4)}
    tensors[f"{BLOCK}.experts.gate_up_proj"] = draw(4, 8, 12)
    seen = layout(tmp_path, tensors, model_type="gpt_oss", num_local_experts=4, num_experts_per_tok=2)
    assert seen.routers["bias"].tolist() == ["scores"] and "bias for selection" not in seen.rule


# -- experts beside each other -----------------------------------------------------------------------------------------


def test_experts_that_are_copies_are_found_in_every_way_of_keeping_them(tmp_path):
    one, two, three = (draw(16, 8, seed=seed) for seed in range(3))
    copies = torch.stack([one, two, one, three])
    ways = {
        "single": {f"{BLOCK}.experts.{j}.up_proj.weight": copies[j].clone() for j in range(4)},
        "together": {f"{BLOCK}.experts.gate_up_proj": copies},
        "below": {f"{BLOCK}.experts.mlp.w1": copies.flatten(0, 1)},
        "granite": {f"{BLOCK}.input_linear.weight": copies},
    }
    expected = explorer.metrics.cosine(copies.flatten(1))
    for way, tensors in ways.items():
        tensors[f"{BLOCK}.router.weight"] = draw(4, 8)
        seen = layout(tmp_path / way, tensors, num_experts=4)
        alike = seen.similarity(0, rows=16)
        torch.testing.assert_close(alike.cosine, expected, atol=1e-6, rtol=0)
        assert "16 of 16 rows" in alike.sample and "4 experts (seed 0)" in alike.sample
        sampled = seen.similarity(0, rows=8, seed=1).cosine
        assert sampled[0, 2] == pytest.approx(1) and sampled[0, 1] < 0.9
        assert torch.equal(sampled, seen.similarity(0, rows=8, seed=1).cosine)
        assert not torch.equal(sampled, seen.similarity(0, rows=8, seed=2).cosine)


def test_float8_of_deepseek_is_multiplied_with_the_factors_of_its_blocks(tmp_path):
    true = draw(2, 256, 256)
    scale = torch.rand(2, 2, 2, generator=torch.Generator().manual_seed(1)) + 0.5
    stretched = scale.repeat_interleave(128, 1).repeat_interleave(128, 2)
    tensors = {f"{BLOCK}.gate.weight": draw(2, 256)}
    for j in range(2):
        tensors[f"{BLOCK}.experts.{j}.up_proj.weight"] = (true[j] / stretched[j]).to(torch.float8_e4m3fn)
        tensors[f"{BLOCK}.experts.{j}.up_proj.weight_scale_inv"] = scale[j]
    seen = layout(tmp_path, tensors, num_experts=2)
    expected = explorer.metrics.cosine(true.flatten(1))
    torch.testing.assert_close(seen.similarity(0, rows=256).cosine, expected, atol=2e-3, rtol=0)


def test_mxfp4_of_gpt_oss_is_unpacked(tmp_path):
    values = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0]
    codes = torch.randint(0, 16, (3, 4, 2, 32), generator=torch.Generator().manual_seed(0))
    scales = torch.randint(125, 130, (3, 4, 2), generator=torch.Generator().manual_seed(1))
    true = torch.tensor([[[[values[c] * 2.0 ** (int(s) - 127) for c in group] for group, s in zip(row, exps, strict=True)]
                          for row, exps in zip(expert, scale, strict=True)]
                         for expert, scale in zip(codes, scales, strict=True)])  # fmt: skip
    blocks = (codes[..., ::2] | codes[..., 1::2] << 4).to(torch.uint8)
    tensors = {f"{BLOCK}.router.weight": draw(3, 8), f"{BLOCK}.experts.gate_up_proj_blocks": blocks}
    tensors[f"{BLOCK}.experts.gate_up_proj_scales"] = scales.to(torch.uint8)
    seen = layout(tmp_path, tensors, model_type="gpt_oss", num_local_experts=3, num_experts_per_tok=2)
    assert seen.routers["experts_are"].tolist() == ["together, MXFP4"]
    expected = explorer.metrics.cosine(true.flatten(1))
    torch.testing.assert_close(seen.similarity(0, rows=4).cosine, expected, atol=1e-6, rtol=0)


def test_experts_in_a_way_nobody_reads_are_told(tmp_path):
    tensors = {
        f"{BLOCK}.router.weight": draw(4, 8),
        f"{BLOCK}.experts.gptq.qweight": torch.zeros(4, 8, dtype=torch.int32),
    }
    seen = layout(tmp_path, tensors, num_experts=4)
    assert any("kept in a way that is not read here" in one for one in seen.unknown)
    with pytest.raises(ExplorerError, match="kept in a way that is not read here"):
        seen.similarity(0)


def test_a_missing_expert_is_told(tmp_path):
    tensors = mixtral()
    for w in ("w1", "w2", "w3"):
        del tensors[f"model.layers.0.block_sparse_moe.experts.3.{w}.weight"]
    seen = explorer.open_checkpoint(save(tmp_path, tensors, {**MIXTRAL, "num_local_experts": None}))
    assert any("has 4 rows, the matrices are those of 3 experts" in one for one in seen.unknown)


# -- transformers ------------------------------------------------------------------------------------------------------

INNER = {"LongcatFlash", "Zaya", "InklingText"}  # with rows for what is no expert
# whose weights sum to something else where they are recorded: the factor comes after the experts, the shared expert has a
# part of the sum, or the rule says what more is done
OTHER_SUMS = {"Beam": 1.0, "MiniMaxM3VLText": 1.0, "OpenAIPrivacyFilter": 0.5, "InklingText": None}


def check_sums(name, model, rule):
    """Whether the words of a rule, renormalised or not and times what, are those that the live model's weights show."""
    from tests.checkpoints.table_of_architectures import run
    from tests.checkpoints.tiny import tokens

    with explorer.record(model, ["*/weights", "*/index"]) as recording:
        run(model, *tokens("none"))
    words = rule.split(", ")
    factor = next((float(one[1:]) for one in words if re.fullmatch(r"x[\d.]+", one)), 1.0)
    total = OTHER_SUMS.get(name, factor)
    exact = "renormalised" in words or any(one.startswith("softmax o") and "chosen" in one for one in words)
    for layer in recording.layers() if total is not None else ():
        full = (recording.last(f"{layer}/index") >= 0).all(-1)
        sums = recording.last(f"{layer}/weights").float().sum(-1)[full]
        assert torch.allclose(sums, torch.tensor(total), atol=1e-2) == exact, (rule, sums)


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_files_of_every_architecture_of_transformers(tmp_path, name):
    pytest.importorskip("transformers", reason="the extra `checkpoints` is not installed")
    from explorer.checkpoints.routers import router_ears
    from tests.checkpoints.architectures import broken, model_of

    if broken(name):
        pytest.skip(broken(name))
    model = model_of(name)
    model.save_pretrained(tmp_path)
    seen = explorer.open_checkpoint(tmp_path)
    from explorer.checkpoints.ear import Pass
    from explorer.checkpoints.table import score_name

    ears = router_ears(model, Pass())
    assert len(seen.layers) == len(ears)
    assert seen.chosen == (1 if name in ("SwitchTransformers", "Zaya") else 2)
    if name not in INNER and name != "Doge":
        assert set(seen.routers["experts"]) == {8}
    weights = [value for value in model.state_dict().values() if value.ndim == 2]
    for layer in seen.layers:
        mine = seen.router(layer)
        assert any(value.shape == mine.shape and torch.equal(value.float(), mine) for value in weights)
        assert seen.similarity(layer).cosine.shape == (8, 8)
    scores = {score_name(ear.row, ear.module) for ear in ears}
    assert any(one.lower().split("(")[0][:7] in seen.rule.lower() for one in scores), (scores, seen.rule)
    check_sums(name, model, seen.rule)
    sinks = [p for n, p in model.named_parameters() if n.endswith("sinks")]
    assert len(seen.sinks) == sum(p.numel() for p in sinks)
    print(f"{name:20} {len(ears)} routers  {seen.rule}")


# -- by address --------------------------------------------------------------------------------------------------------


class Server(http.server.SimpleHTTPRequestHandler):
    """Answers range requests for the files of a folder; as a hub does where the path says so."""

    ranges = True
    asked: list = []
    commit = "a" * 40

    def do_GET(self):
        path = self.path
        head = "/owner/model/resolve/"
        if path.startswith("/owner/") and not path.startswith("/owner/model/"):
            self.send_response(404)
            self.send_header("x-error-code", "RepoNotFound")
            self.end_headers()
            return
        if path.startswith("/private/"):
            self.send_response(401)
            self.end_headers()
            return
        name = path.rsplit("/", 1)[1]
        self.asked.append((path, self.headers.get("Range", "")))
        file = Path(self.directory) / name
        if not file.is_file():
            self.send_response(404)
            self.end_headers()
            return
        content = file.read_bytes()
        if not self.ranges:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            return
        first, last = (int(one) for one in self.headers["Range"].removeprefix("bytes=").split("-"))
        part = content[first : last + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(part)))
        if path.startswith(head):
            self.send_header("x-repo-commit", self.commit)
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, *_):
        pass


@pytest.fixture
def served(tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants", reason="the extra `checkpoints` is not installed")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    folder = save(tmp_path / "served", mixtral(layers=2, experts=8, width=64, inner=128), {**MIXTRAL, "num_local_experts": 8},
                  shards=2)  # fmt: skip
    kind = type("Here", (Server,), {"asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *a: kind(*a, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", folder, kind
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_checkpoint_behind_an_address_is_read_in_pieces(served):
    address, folder, kind = served
    there, here = explorer.open_checkpoint(f"{address}/some/model"), explorer.open_checkpoint(folder)
    assert there.routers.equals(here.routers) and there.rule == here.rule
    assert torch.equal(there.router(1), here.router(1))
    assert torch.equal(there.similarity(1).cosine, here.similarity(1).cosine)
    whole = sum(file.stat().st_size for file in folder.iterdir())
    fetched = 0
    for _, asked in kind.asked:
        first, last = map(int, asked.removeprefix("bytes=").split("-"))
        fetched += last - first + 1
    assert fetched < whole / 2
    one = explorer.open_checkpoint(f"{address}/model-00001-of-00002.safetensors")
    assert one.layers


def test_a_hub_id_is_read_from_the_one_commit_that_was_there_at_first(served, monkeypatch, tmp_path):
    address, folder, kind = served
    from huggingface_hub import constants, file_download

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    for module in (constants, file_download):  # version 0 of the hub's client has a copy
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    monkeypatch.chdir(tmp_path)
    seen = explorer.open_checkpoint("owner/model")
    assert torch.equal(seen.router(0), explorer.open_checkpoint(folder).router(0))
    paths = [path for path, _ in kind.asked]
    assert "/resolve/main/" in paths[0] and all(f"/resolve/{kind.commit}/" in path for path in paths[3:])
    with pytest.raises(ExplorerError, match="the hub has no repository 'owner/other'"):
        explorer.open_checkpoint("owner/other")
    with pytest.raises(ExplorerError, match="wants to know who asks"):
        explorer.open_checkpoint("private/model")


def test_servers_that_cannot_be_read_are_one_sentence(served, monkeypatch):
    address, folder, kind = served
    for file in folder.iterdir():
        file.rename(folder / f"x{file.name}")
    with pytest.raises(ExplorerError, match=r"has neither model.safetensors nor model.safetensors.index.json"):
        explorer.open_checkpoint(address)
    (folder / "pytorch_model.bin").write_bytes(b"1")
    with pytest.raises(ExplorerError, match="never opened here"):
        explorer.open_checkpoint(address)
    kind.ranges = False
    with pytest.raises(ExplorerError, match="does not answer range requests"):
        explorer.open_checkpoint(f"{address}/xmodel-00001-of-00002.safetensors")
    with pytest.raises(ExplorerError, match="cannot be read from its server"):
        explorer.open_checkpoint("http://127.0.0.1:9")


def test_without_huggingface_hub_an_address_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ExplorerError, match="needs huggingface_hub: pip install"):
        explorer.open_checkpoint("owner/model")


def test_what_is_in_the_hubs_cache_needs_no_server(tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants", reason="the extra `checkpoints` is not installed")
    commit = "b" * 40
    cache = tmp_path / "models--owner--model"
    save(cache / "snapshots" / commit, mixtral())
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reading.Remote, "read", lambda *_: pytest.fail("it asked the server"))
    assert explorer.open_checkpoint("owner/model").experts == 4


# -- against the clock -------------------------------------------------------------------------------------------------


def test_a_checkpoint_larger_than_memory_is_opened_in_little(tmp_path):
    """64 GB, most of it holes: 16 layers of 64 experts."""
    folder = olmoe(tmp_path / "large", layers=16, experts=64, width=2048, inner=5120, shards=8)
    assert sum(file.stat().st_size for file in folder.iterdir()) > 60e9
    code = """
import resource, sys, time
import explorer.checkpoints.checkpoint as c, torch, pandas, explorer.metrics
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
began = time.process_time()
seen = c.open_checkpoint(sys.argv[1])
table, map_ee, alike = seen.routers, seen.cosine(3), seen.similarity(3)
print(time.process_time() - began, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, len(table))
"""
    run = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    seconds, mebibytes, layers = map(float, run.stdout.split())
    print(f"64 GB: {seconds:.2f} s, {mebibytes:.0f} MiB above the imports")
    assert layers == 16 and seconds < 5 and mebibytes < 150


def test_reading_a_router_opens_and_closes_its_file(tmp_path):
    seen = explorer.open_checkpoint(save(tmp_path, mixtral(), shards=2))
    descriptors = Path("/proc/self/fd")
    if not descriptors.exists():
        pytest.skip("no /proc")
    before = len(list(descriptors.iterdir()))
    for _ in range(20):
        seen.router(0)
    assert len(list(descriptors.iterdir())) == before


def test_importing_the_explorer_imports_nothing_of_this():
    code = "import sys, explorer; print([one for one in sys.modules if 'checkpoints' in one or one == 'torch'])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
