"""Recordings of serving engines, read from small files in the formats that those write."""

import base64
import contextlib
import io
import json
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from explorer import Recording
from explorer.errors import BadValue, ExplorerError, RecordingError

L, T, K, E = 3, 5, 2, 6


def ids(seed=0, tokens=T, experts=E):
    """(T, L, K), different ids in the slots of a token."""
    scores = torch.rand(tokens, L, experts, generator=torch.Generator().manual_seed(seed))
    return scores.topk(K, -1).indices


def loads_by_hand(ids_TLK, layer, experts):
    return [float((ids_TLK[:, layer] == e).sum()) / ids_TLK[:, layer].numel() for e in range(experts)]


def npy64(array):
    file = io.BytesIO()
    np.save(file, array)
    return base64.b64encode(file.getvalue()).decode()


def check(recording, tmp_path):
    """What holds of every recording: it is saved and loaded, and loads add up to 1."""
    loads = recording.loads()
    assert loads.groupby(["step", "layer"])["load"].sum().round(6).eq(1).all()
    recording.save(tmp_path / "kept")
    again = Recording.load(tmp_path / "kept")
    assert again.loads().equals(loads) and again.decisions().equals(recording.decisions())
    assert again.header["source"] == recording.header["source"]
    return loads


# -- sglang ----------------------------------------------------------------------------------------------------------
MAP = torch.tensor([[0, 1, 2, 3, 4, 5, 0, 3]] * L)  # two experts have a second copy


def record(physical_LTK, **more):
    slots = torch.full((L, physical_LTK.shape[1], 8), -1, dtype=torch.int32)  # the recorder has 8 for every model
    slots[:, :, :K] = physical_LTK
    N = physical_LTK.shape[1]
    kept = {
        "input_ids": list(range(10, 10 + N)),
        "positions": list(range(N)),
        "extend_seq_lens": [N],
        "forward_mode": 1,
    }
    kept |= {"forward_pass_id": 1, "rank": 0, "gatherer_key": "primary", "misc_objects": [], "topk_ids_of_layer": slots}
    counts = torch.stack([torch.bincount(one.flatten().long(), minlength=MAP.shape[1]) for one in physical_LTK])
    return kept | {"global_physical_count": counts.int()} | more


def dump(tmp_path, records, places=MAP):
    torch.save({"records": records, "last_physical_to_logical_map": places}, tmp_path / "dump.pt")
    return tmp_path / "dump.pt"


def test_sglang_per_token(tmp_path):
    chosen = ids().transpose(0, 1)  # (L, T, K)
    physical = torch.where(chosen == 3, 7, chosen)  # expert 3 is reached through its copy
    decode = record(
        physical[:, :2], input_ids=[90, 91], positions=[5, 9], extend_seq_lens=None, forward_mode=2
    )  # two sequences, a token each
    recording = Recording.from_sglang(
        dump(tmp_path, [record(physical, extend_seq_lens=[3, 2], positions=[0, 1, 2, 0, 1]), decode])
    )
    check(recording, tmp_path)
    assert recording.header["source"]["format"] == "choices token by token (.pt, per_token)"
    assert recording.header["phases"] == ["prefill", "decode"] and recording.experts("layers.1") == E
    rows = recording.decisions(0).query("layer == 'layers.2'")
    assert rows["sequence"].tolist() == [0] * 6 + [1] * 4 and rows["position"].tolist() == [
        0,
        0,
        1,
        1,
        2,
        2,
        0,
        0,
        1,
        1,
    ]
    assert rows["token"].tolist() == [10, 10, 11, 11, 12, 12, 13, 13, 14, 14]
    assert rows["expert"].tolist() == chosen[2].flatten().tolist() and rows["weight"].isna().all()
    first = recording.loads().query("step == 0 and layer == 'layers.2'")["load"].tolist()
    assert first == pytest.approx(loads_by_hand(chosen.transpose(0, 1), 2, E))
    second = recording.decisions(1).query("layer == 'layers.0'")
    assert second["position"].tolist() == [5, 5, 9, 9] and second["sequence"].tolist() == [0, 0, 1, 1]


def test_sglang_per_pass_adds_copies_up_and_leaves_dense_layers_out(tmp_path):
    counts = torch.tensor([[0] * 8, [1, 2, 3, 4, 5, 6, 10, 20], [1] * 8])
    places = {"forward_pass_id": 0, "rank": 0, "gatherer_key": "primary", "global_physical_count": counts}
    recording = Recording.from_sglang(dump(tmp_path, [places, places]))
    loads = check(recording, tmp_path)
    assert recording.layers() == ["layers.1", "layers.2"] and recording.header["source"]["silent_layers"] == 1
    assert recording.counts("layers.1")[1].tolist() == [[11, 2, 3, 24, 5, 6]] * 2
    assert loads.query("layer == 'layers.2' and step == 0")["load"].tolist() == pytest.approx(
        [2 / 8, 1 / 8, 1 / 8, 2 / 8, 1 / 8, 1 / 8]
    )
    assert recording.decisions().empty and recording.header["source"]["counts_only"]


def test_sglang_stat_leaves_out_the_empty_rows_of_its_ring(tmp_path):
    count = torch.zeros(7, L, E, dtype=torch.int32)
    count[2], count[5] = 1, torch.arange(E)
    torch.save({"rank": 0, "logical_count": count, "average_utilization_rate_over_window": None}, tmp_path / "s.pt")
    recording = Recording.from_sglang(tmp_path / "s.pt")
    check(recording, tmp_path)
    assert recording.counts("layers.0")[1].tolist() == [[1] * E, list(range(E))]
    assert recording.header["source"]["dropped"] == {"empty_steps": 5}


def test_sglang_csv(tmp_path):
    (tmp_path / "c.csv").write_text("layer_id,expert_id,count\n3,0,24990\n3,2,10\n1,1,7\n")
    recording = Recording.from_sglang(tmp_path / "c.csv")
    check(recording, tmp_path)
    assert recording.layers() == ["layers.1", "layers.3"]
    assert recording.counts("layers.3")[1].tolist() == [[24990, 0, 10]]


def test_sglang_255_is_padding_where_there_is_no_such_expert(tmp_path):
    chosen = ids().transpose(0, 1).clone()
    chosen[1, 2] = 255
    recording = Recording.from_sglang(
        dump(tmp_path, [record(chosen.clamp(max=7)) | {"topk_ids_of_layer": chosen.int()}])
    )
    assert len(recording.decisions().query("layer == 'layers.1'")) == (T - 1) * K


def ranks(tmp_path, records_of_ranks):
    """A dump of each rank in a folder of their own."""
    for rank, records in enumerate(records_of_ranks):
        (tmp_path / "ranks").mkdir(exist_ok=True)
        torch.save(
            {"records": [one | {"rank": rank} for one in records], "last_physical_to_logical_map": MAP},
            tmp_path / "ranks" / f"expert_distribution_recorder_1_{rank}.pt",
        )
    return tmp_path / "ranks"


def test_sglang_ranks_are_put_together(tmp_path):
    mine, theirs = ids(1).transpose(0, 1), ids(2).transpose(0, 1)
    folder = ranks(tmp_path, [[record(mine), record(mine, forward_pass_id=2)],
                              [record(theirs), record(mine, forward_pass_id=2)]])  # fmt: skip
    recording = Recording.from_sglang(folder)
    check(
        recording, tmp_path
    )  # the first pass: different requests; the second: the same, as ranks of one matrix see them
    assert recording.steps() == [0, 1, 2]
    for step, chosen in enumerate((mine, theirs, mine)):
        got = recording.decisions(step).query("layer == 'layers.1'")["expert"].tolist()
        assert got == chosen[1].flatten().tolist()
    assert "2 files put together; 1 passes" in recording.header["source"]["ranks"]
    again = Recording.from_sglang(sorted(folder.iterdir()))
    assert again.loads().equals(recording.loads())


def test_sglang_counts_of_ranks_add_up_once(tmp_path):
    a, b = torch.ones(L, 8, dtype=torch.int32), torch.arange(8, dtype=torch.int32).expand(L, 8).clone()
    counts = [
        [{"forward_pass_id": i, "global_physical_count": one} for i, one in enumerate(seen)]
        for seen in ((a, a), (b, a))
    ]
    recording = Recording.from_sglang(ranks(tmp_path, counts))
    assert recording.counts("layers.0")[1].tolist() == [[8, 2, 3, 12, 5, 6], [2, 1, 1, 2, 1, 1]]


def test_sglang_ranks_of_different_runs_are_refused(tmp_path):
    good = record(ids().transpose(0, 1))
    folder = ranks(tmp_path, [[good], [good]])
    first, second = sorted(folder.iterdir())
    for what, changed in {
        "comes twice": {"records": [good], "last_physical_to_logical_map": MAP},  # rank 0 again
        "map physical experts differently": {"records": [good | {"rank": 1}], "last_physical_to_logical_map": MAP + 1},
        "counts for all ranks": {"logical_count": torch.ones(1, L, E)},
        "no whole numbers": {"records": [good | {"rank": "1"}], "last_physical_to_logical_map": MAP},
        "no forward_pass_id": {"records": [{"rank": 1}], "last_physical_to_logical_map": MAP},
        "no recorded pass": {"records": 3, "last_physical_to_logical_map": MAP},
    }.items():
        torch.save(changed, second)
        with pytest.raises(RecordingError, match=what):
            Recording.from_sglang([first, second])
    (tmp_path / "empty").mkdir()
    for nothing, what in (([], "the list is empty"), (tmp_path / "empty", "a folder without a dump")):
        with pytest.raises(RecordingError, match=what):
            Recording.from_sglang(nothing)


def answer(chosen_TLK, **about):
    packed = base64.b64encode(chosen_TLK.numpy().astype("<i4").tobytes()).decode()
    return {"text": "...", "output_ids": [50, 51, 52], "meta_info": {"routed_experts": packed, **about}}


def test_sglang_answers_of_its_server(tmp_path):
    whole = ids(tokens=7)  # 5 of the prompt, 3 generated, of which the last was never run
    one, rest = (
        answer(whole, prompt_tokens=5, completion_tokens=3),
        answer(whole[2:], prompt_tokens=5, completion_tokens=3),
    )
    (tmp_path / "a.jsonl").write_text(f"{json.dumps(one)}\n{json.dumps([rest])}\n")
    recording = Recording.from_sglang(tmp_path / "a.jsonl", shape=(L, K), experts=E)
    check(recording, tmp_path)
    rows = recording.decisions(0).query("layer == 'layers.1'")
    assert rows["expert"].tolist() == whole[:, 1].flatten().tolist() and recording.experts("layers.0") == E
    assert rows["token"].tolist()[::K] == [-1] * 5 + [50, 51] and rows["position"].tolist()[::K] == list(range(7))
    late = recording.decisions(1).query("layer == 'layers.0'")
    assert late["position"].tolist()[::K] == [2, 3, 4, 5, 6]  # the request asked from the third token on


@pytest.mark.parametrize(
    ("content", "shape", "what"),
    [
        ({}, (L, K), "no meta_info with routed_experts"),
        (answer(ids()), None, r"give shape=\(layers, experts that a token gets\)"),
        (answer(ids()), (L, 4), "not those of whole tokens"),
        (answer(ids(), prompt_tokens=1, completion_tokens=1), (L, K), "tells of 2 tokens, but has ids of 5"),
        ({"meta_info": {"routed_experts": "###"}}, (L, K), "no base64"),
        (answer(ids(), prompt_tokens=5, completion_tokens=1) | {"output_ids": "x"}, (L, K), "no regular table"),
        (answer(ids()), (L,), "two whole numbers"),
        (answer(ids()), (0, K), "two whole numbers"),
        (answer(ids()), (10**9, K), "than any model"),
    ],
)
def test_sglang_answers_that_cannot_be_read(tmp_path, content, shape, what):
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(ExplorerError, match=what) as error:
        Recording.from_sglang(tmp_path / "a.json", shape=shape)
    assert "\n" not in str(error.value)


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/gating_explorer_was_here",)


def bad_sglang(tmp_path):
    good = record(ids().transpose(0, 1))
    sparse = torch.sparse_csr_tensor(torch.tensor([0, 1, 1, 1]), torch.tensor([0]), torch.ones(1), (3, E))
    wide = torch.ones(1, dtype=torch.int32).expand(10**5, 10**4, E)
    for what, found in {
        "no records": {"nothing": 1},
        "is list": [1],
        "holds no recorded pass": {"records": []},
        "shape": {"logical_count": torch.ones(4)},
        "not whole (NaN": {"logical_count": torch.full((1, L, E), torch.nan)},
        "less than nothing": {"logical_count": -torch.ones(1, L, E, dtype=torch.int32)},
        "every number in it is 0": {"logical_count": torch.zeros(1, L, E, dtype=torch.int32)},
        "axes swapped": {"logical_count": torch.ones(1, 5000, 2, dtype=torch.int32)},
        "no plain dense tensor": {"logical_count": sparse},
        "larger than its bytes": {"logical_count": wide},
        "complex": {"logical_count": torch.ones(1, L, E, dtype=torch.complex64)},
        "true and false": {"logical_count": torch.ones(1, L, E, dtype=torch.bool)},
        "more than numbers": {"logical_count": Evil()},
        "its map has 8": {"records": [good | {"topk_ids_of_layer": torch.full((L, T, K), 60)}]},
        "choices of 5": {"records": [good | {"input_ids": [1]}]},
        "5 tokens, but 1 positions": {"records": [good | {"positions": [1]}]},
        "sequences of 99": {"records": [good | {"extend_seq_lens": [99]}]},
        "differ in length": {"records": [good | {"input_ids": [[1], [2, 3]]}]},
        "no regular table": {"records": [good | {"input_ids": ["a"] * T}]},
        "a map of 1": {"records": [good], "last_physical_to_logical_map": MAP[:1]},
        "that cannot be": {"records": [good], "last_physical_to_logical_map": MAP - 9},
    }.items():
        torch.save(
            {"last_physical_to_logical_map": MAP} | found if isinstance(found, dict) else found, tmp_path / "x.pt"
        )
        yield what, (tmp_path / "x.pt").read_bytes()
    whole = dump(tmp_path, [good]).read_bytes()
    yield "cut short", whole[: len(whole) // 2]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 10**7)
    yield "packed in a way", packed.getvalue()
    yield "no dump of sglang", pickle.dumps({"logical_count": Evil()})
    yield "is empty", b""
    yield "no dump of sglang", b"\xff\xfe\0\0"
    yield "no dump of sglang", b"a,b\n1,2\n"
    head = b"layer_id,expert_id,count\n"
    yield "no line but the first", head
    yield "cut short", head + b"1,2\n"
    yield "three whole numbers", head + b"1,2,nan\n"
    yield "comes twice", head + b"1,2,3\n1,2,3\n"
    yield "cannot be", head + b"1,2,-3\n"
    yield "cannot be", head + b"1,99999999,3\n"


def test_sglang_bad_input_is_one_sentence(tmp_path):
    for what, content in bad_sglang(tmp_path):
        (tmp_path / "bad").write_bytes(content)
        with pytest.raises(RecordingError) as error:
            Recording.from_sglang(tmp_path / "bad")
        assert what in str(error.value) and "\n" not in str(error.value), (what, str(error.value))
    assert not os.path.exists("/tmp/gating_explorer_was_here")
    for path in (tmp_path, tmp_path / "absent", "/dev/zero", "a\0b"):
        with pytest.raises(RecordingError):
            Recording.from_sglang(path)


# -- vLLM ------------------------------------------------------------------------------------------------------------
def forms(array):
    """The same ids in each of the forms that vLLM and the servers around it have used."""
    raw = {
        "data": base64.b64encode(array.astype("<i2").tobytes()).decode(),
        "shape": list(array.shape),
        "dtype": "int16",
    }
    return {"lists": array.tolist(), ".npy": npy64(array.astype(np.uint8)), "shape and dtype": raw}


@pytest.mark.parametrize("form", ["lists", ".npy", "shape and dtype"])
def test_vllm_responses(tmp_path, form):
    whole = ids(tokens=7)  # 5 of the prompt, 3 generated, of which the last was never run
    response = {
        "prompt_token_ids": list(range(5)),
        "choices": [{"token_ids": [50, 51, 52], "routed_experts": forms(whole.numpy())[form]}],
    }
    (tmp_path / "r.jsonl").write_text(json.dumps(response) + "\n" + json.dumps(response) + "\n")
    recording = Recording.from_vllm(tmp_path / "r.jsonl", experts=E)
    check(recording, tmp_path)
    rows = recording.decisions(1).query("layer == 'layers.0'")
    assert rows["token"].tolist() == [t for t in (0, 1, 2, 3, 4, 50, 51) for _ in range(K)]
    assert rows["expert"].tolist() == whole[:, 0].flatten().tolist()
    assert form in recording.header["source"]["format"]
    got = recording.loads().query("step == 0 and layer == 'layers.1'")["load"].tolist()
    assert got == pytest.approx(loads_by_hand(whole, 1, E))


def test_vllm_prompt_and_generation_apart_as_in_021(tmp_path):
    prompt, rest = ids(1, 4), ids(2, 2)
    response = {"prompt_token_ids": [1, 2, 3, 4], "prompt_routed_experts": prompt.tolist()}
    response |= {"choices": [{"token_ids": [7, 8], "routed_experts": rest.tolist()}]}
    (tmp_path / "r.json").write_text(json.dumps(response, indent=1))  # over many lines
    recording = Recording.from_vllm(tmp_path / "r.json")
    rows = recording.decisions().query("layer == 'layers.0'")
    assert rows["token"].tolist()[::K] == [1, 2, 3, 4, 7, 8] and rows["position"].tolist()[::K] == [0, 1, 2, 3, 4, 5]
    del response["prompt_routed_experts"]  # the generated tokens alone
    (tmp_path / "r.json").write_text(json.dumps(response))
    rows = Recording.from_vllm(tmp_path / "r.json").decisions().query("layer == 'layers.0'")
    assert rows["token"].tolist()[::K] == [7, 8] and rows["position"].tolist()[::K] == [4, 5]


def test_vllm_array(tmp_path):
    np.save(tmp_path / "a.npy", np.asfortranarray(ids().numpy().astype(np.int16)))
    recording = Recording.from_vllm(tmp_path / "a.npy")
    assert recording.decisions()["token"].eq(-1).all()
    assert recording.decisions().query("layer == 'layers.1'")["expert"].tolist() == ids()[:, 1].flatten().tolist()
    with pytest.raises(RecordingError, match="experts=2"):
        Recording.from_vllm(tmp_path / "a.npy", experts=2)
    for wrong in (0, 2.5, True, 10**9):
        with pytest.raises(BadValue, match="experts="):
            Recording.from_vllm(tmp_path / "a.npy", experts=wrong)


@pytest.mark.parametrize(
    ("array", "experts", "dropped"),
    [
        ([[255, 255], [1, 2]], None, 2),  # no two slots of a token have the same expert
        ([[1, 255], [1, 2]], None, 1),  # bytes, and nothing else is near 255
        ([[200, 255], [1, 2]], None, 0),  # one of 256 experts
        ([[200, 255], [1, 2]], 256, 0),
        ([[200, 255], [1, 2]], 255, 1),
        ([[0, 0], [1, 2]], None, 2),  # left as it was allocated
    ],
)
def test_padding_and_the_expert_255(tmp_path, array, experts, dropped):
    np.save(tmp_path / "a.npy", np.array(array, np.uint8)[:, None])
    recording = Recording.from_vllm(tmp_path / "a.npy", experts=experts)
    assert len(recording.decisions()) == 4 - dropped
    tokens = sum(any(x >= 0 and (x != 255 or dropped == 0) for x in row) and len(set(row)) == 2 for row in array)
    assert recording.at("/valid").sum() == tokens


VLLM_BAD = {
    "empty": b"",
    "cut short": b'{"choices": [',
    "UTF-8": b"\xff\xfe{",
    "nested too deeply": b"[" * 100_000,
    "no response of vLLM": b'{"a": 1}',
    "neither choices": b"[1]",
    "no list of objects": b'{"choices": 3}',
    "--enable-return-routed-experts": b'{"choices": [{"routed_experts": null}]}',
    "no base64": b'{"choices": [{"routed_experts": "###"}]}',
    "no .npy array": b'{"choices": [{"routed_experts": "AAAA"}]}',
    "the shape (2,)": b'{"choices": [{"routed_experts": [1, 2]}]}',
    "differ in length": b'{"choices": [{"routed_experts": [[[1, 2]], [[1]]]}]}',
    "not whole": b'{"choices": [{"routed_experts": [[[NaN, 2]]]}]}',
    "no regular table": b'{"choices": [{"routed_experts": [[[99999999999999999999, 2]]]}]}',
    "which cannot be": b'{"choices": [{"routed_experts": [[[-7, 2]]]}]}',
    "is empty: its ids": b'{"choices": [{"routed_experts": [[[]]]}]}',
    "a dtype of": b'{"choices": [{"routed_experts": {"data": "AAAA", "shape": [1], "dtype": "object"}}]}',
    "does not fit its": b'{"choices": [{"routed_experts": {"data": "AAAA", "shape": [9, 9, 9], "dtype": "int16"}}]}',
    "ids of 2": b'{"prompt_token_ids": [1], "choices": [{"token_ids": [], "routed_experts": [[[1, 2]], [[1, 2]]]}]}',
    "every id in it is padding": b'{"choices": [{"routed_experts": [[[-1, -1]]]}]}',
    "archive or a pickle": b"PK\x03\x04",
    "axes swapped": json.dumps({"choices": [{"routed_experts": [[[1]] * 5000]}]}).encode(),
}


@pytest.mark.parametrize("what", VLLM_BAD)
def test_vllm_bad_input_is_one_sentence(tmp_path, what):
    (tmp_path / "bad").write_bytes(VLLM_BAD[what])
    with pytest.raises(RecordingError) as error:
        Recording.from_vllm(tmp_path / "bad")
    assert what in str(error.value) and "\n" not in str(error.value), str(error.value)


def test_npy_of_objects_and_absurd_shapes_are_never_read(tmp_path):
    np.save(tmp_path / "o.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    with pytest.raises(RecordingError, match="pickled objects"):
        Recording.from_vllm(tmp_path / "o.npy")
    np.save(tmp_path / "a.npy", ids().numpy())
    data = (tmp_path / "a.npy").read_bytes()
    for broken in (
        data[:-3],
        data[:20],
        data.replace(b"(5, 3, 2)", b"(9**9,2,)"),
        data.replace(b"(5, 3, 2)", b"(999999,)"),
    ):
        (tmp_path / "b.npy").write_bytes(broken)
        with pytest.raises(RecordingError, match=r"cut short|no \.npy"):
            Recording.from_vllm(tmp_path / "b.npy")


# -- OLMoE -----------------------------------------------------------------------------------------------------------
def olmoe(seed):
    return {
        "input_ids": list(range(T)),
        "predicted_token_ids": list(range(1, T + 1)),
        "exp_ids": ids(seed).transpose(1, 2).tolist(),
    }


def test_olmoe(tmp_path):
    (tmp_path / "c4.jsonl").write_text("\n".join(json.dumps(olmoe(seed)) for seed in (0, 1)))
    recording = Recording.from_olmoe(tmp_path / "c4.jsonl", experts=64)
    check(recording, tmp_path)
    rows = recording.decisions(1).query("layer == 'layers.2'")
    assert rows["expert"].tolist() == ids(1)[:, 2].flatten().tolist() and rows["token"].tolist()[::K] == list(range(T))
    assert recording.at("/predicted").tolist() == [[1, 2, 3, 4, 5]] and recording.experts("layers.0") == 64


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"input_ids": [1]}, "1 tokens, but choices of 5"),
        ({"exp_ids": [[1]]}, r"axes \(token, slot, layer\)"),
        ({"predicted_token_ids": [1]}, "predicts 1"),
        ({"exp_ids": [[[0.5]] * 2] * T}, "not whole"),
        ({"exp_ids": None}, "no regular table"),
    ],
)
def test_olmoe_bad_input(tmp_path, change, what):
    (tmp_path / "x").write_text(json.dumps(olmoe(0)) + "\n" + json.dumps(olmoe(0) | change))
    with pytest.raises(RecordingError, match=what):
        Recording.from_olmoe(tmp_path / "x")


def test_olmoe_cut_short_or_without_its_keys(tmp_path):
    (tmp_path / "x").write_text(json.dumps(olmoe(0)) + "\n" + json.dumps(olmoe(0))[:-9])
    with pytest.raises(RecordingError, match=r"line 2 of .* was cut short"):
        Recording.from_olmoe(tmp_path / "x")
    (tmp_path / "x").write_text('{"input_ids": []}')
    with pytest.raises(RecordingError, match="no exp_ids"):
        Recording.from_olmoe(tmp_path / "x")


@settings(max_examples=150, deadline=None)
@given(
    data=st.binary(max_size=200),
    reader=st.sampled_from(["from_sglang", "from_vllm", "from_olmoe"]),
    start=st.sampled_from([b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00", b"layer_id,expert_id,count\n", b'{"choices": ']),
)
def test_any_bytes_end_in_an_error_of_ours(tmp_path_factory, data, reader, start):
    path = tmp_path_factory.mktemp("any") / "file"
    path.write_bytes(start + data)
    with pytest.raises(ExplorerError):
        getattr(Recording, reader)(path)


@settings(max_examples=60, deadline=None)
@given(places=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), min_size=1, max_size=8))
def test_a_dump_with_flipped_bytes_is_read_or_refused(tmp_path_factory, places):
    folder = tmp_path_factory.mktemp("flip")
    data = bytearray(dump(folder, [record(ids().transpose(0, 1))]).read_bytes())
    for place, value in places:
        data[place % len(data)] = value
    (folder / "flipped").write_bytes(data)
    with contextlib.suppress(RecordingError):
        Recording.from_sglang(folder / "flipped")
