"""Files that were made to do harm, or just broke: one sentence each, nothing run, nothing left open, nothing outside opened."""

import json
import os
import pickle
import struct
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open

import explorer
import explorer.checkpoints.checkpoint  # the first call must not pay for the imports
from explorer.errors import ExplorerError
from tests.checkpoints.making import GATE, MIXTRAL, about, mixtral, raw, save

F32 = {GATE: about([4, 8], 0, 128)}
DATA = bytes(128)


def refused(path, sentence=""):
    """The one sentence; it took no time and left no file open."""
    before = set(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else set()
    began = time.process_time()
    with pytest.raises(ExplorerError) as caught:
        explorer.open_checkpoint(path)
    assert time.process_time() - began < 3
    if before:
        assert set(os.listdir("/proc/self/fd")) == before
    told = str(caught.value)
    assert sentence in told and "\n" not in told and len(told) < 700, told
    return told


@pytest.mark.parametrize(
    "content, sentence",
    [
        (b"", "has 0 bytes"),
        (b"1234567", "has 7 bytes"),
        (struct.pack("<Q", 0), "is not JSON"),
        (struct.pack("<Q", 2**63), "but the file ends after"),
        (struct.pack("<Q", 2**64 - 1) + b"{}", "but the file ends after"),
        (struct.pack("<Q", 100) + b"{}", "but the file ends after"),
        (struct.pack("<Q", 2) + b"[]", "is a list in JSON"),
        (struct.pack("<Q", 4) + b"{\xff\xfe}", "is not text in UTF-8"),
        (struct.pack("<Q", 30) + '{"a": {"b"'.encode("utf-16")[:30].ljust(30), "UTF-8"),
        (struct.pack("<Q", 200_000) + b'{"a":' * 40_000, "is nested too deeply"),
        (struct.pack("<Q", 7) + b'{"a":1}', "is not described by an object"),
        (b"PK\x03\x04" + bytes(200), "is a pickle under another name"),
        (b"\x80\x04\x95" + bytes(200), "is a pickle under another name"),
        (b"GGUF" + bytes(200), "is a GGUF file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    ],
)
def test_a_file_that_is_no_safetensors_file(tmp_path, content, sentence):
    (tmp_path / "model.safetensors").write_bytes(content)
    refused(tmp_path, sentence)


def twice(name, one):
    return b"{" + b", ".join([json.dumps(name).encode() + b": " + json.dumps(one).encode()] * 2) + b"}"


@pytest.mark.parametrize(
    "header, sentence",
    [
        ({GATE: about([4, 8], 0, 256)}, "does not fill its bytes"),
        ({GATE: about([4, 9], 0, 128)}, "does not fill its bytes"),
        ({GATE: about([2**40, 2**40], 0, 128)}, "does not fill its bytes"),
        ({GATE: about([4, 8], 128, 0)}, "does not fill its bytes"),
        ({GATE: about([4, -8], 0, 128)}, "no whole number from 0"),
        ({GATE: about([4, 8.0], 0, 128)}, "no whole number from 0"),
        ({GATE: about([4, True], 0, 16)}, "no whole number from 0"),
        ({GATE: about([4, 8], -128, 0)}, "no whole number from 0"),
        ({GATE: about([4, 10**30], 0, 128)}, "no whole number from 0"),
        ({GATE: {**F32[GATE], "data_offsets": [0, 64, 128]}}, "no shape and two offsets"),
        ({GATE: {**F32[GATE], "data_offsets": "0-128"}}, "no shape and two offsets"),
        ({GATE: {"dtype": "F32", "shape": [4, 8]}}, "no shape and two offsets"),
        ({GATE: about([4, 8], 0, 128, "F33")}, "unknown type 'F33'"),
        ({GATE: about([4, 8], 0, 128, 32)}, "unknown type"),
        ({GATE: about([4, 8], 4, 132)}, "leaves a hole"),
        ({GATE: about([2, 8], 0, 64)}, "goes on after its last tensor"),
        ({GATE: about([8, 8], 0, 256)}, "ends inside a tensor"),
        ({GATE: about([4, 8], 0, 128), "b": about([4], 120, 136)}, "overlaps"),
        ({GATE: about([4, 8], 0, 128), "b": about([4, 8], 0, 128)}, "overlaps"),
        ({"b": about([1], 128, 132), GATE: about([4, 8], 0, 128)}, "ends inside a tensor"),
        (twice(GATE, F32[GATE]), "twice"),
        (b'{"a": {"dtype": "F32", "dtype": "F32", "shape": [], "data_offsets": [0, 4]}}', "twice"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not JSON"),
        (b"[" * 3_000_000, "is larger than any real one"),
        ({GATE: about([4, 8], 0, 32, "I8")}, "ends inside|goes on|should hold real numbers"),
    ],
)
def test_a_header_that_lies(tmp_path, header, sentence):
    told = refused(raw(tmp_path, header, DATA))
    assert any(one in told for one in sentence.split("|")), told


@pytest.mark.parametrize("dtype, size", [("I64", 256), ("BOOL", 32), ("I8", 32)])
def test_a_router_that_holds_no_real_numbers(tmp_path, dtype, size):
    (tmp_path / "config.json").write_text(json.dumps(MIXTRAL))
    refused(raw(tmp_path, {GATE: about([4, 8], 0, size, dtype)}, bytes(size)), "should hold real numbers")


def test_unsorted_tensors_are_as_good_as_sorted_ones_and_empty_ones_may_share_a_place(tmp_path):
    header = {"b": about([4], 128, 144), "none": about([0, 4], 128, 128), GATE: about([4, 8], 0, 128)}
    raw(tmp_path, header, torch.arange(36).float().numpy().tobytes())
    (tmp_path / "config.json").write_text(json.dumps(MIXTRAL))
    assert explorer.open_checkpoint(tmp_path).router(0)[3, 7] == 31


def test_two_hundred_thousand_tensors_are_read_in_seconds(tmp_path):
    one = '"model.layers.0.x.%d": {"dtype": "F32", "shape": [], "data_offsets": [%d, %d]}'
    header = ", ".join(one % (i, 4 * i, 4 * i + 4) for i in range(200_000))
    refused(raw(tmp_path, f"{{{header}}}".encode(), bytes(800_000)), "none of its 200,000 tensors")


def test_a_huge_header_is_refused_before_it_is_parsed(tmp_path):
    tracemalloc.start()
    refused(raw(tmp_path, b'{"a":' + b"[]," * 5_000_000), "is larger than any real one")
    assert tracemalloc.get_traced_memory()[1] < 100e6
    tracemalloc.stop()
    with open(tmp_path / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", 90_000_000) + b"{")
        file.truncate(100_000_000)
    refused(tmp_path, "more than 40,000,000 cannot be right")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_what_safetensors_refuses_is_refused_here(tmp_path, data):
    """Headers near the right one, and whole files with flipped bytes: never a traceback, and never more generous."""
    number = st.sampled_from([0, 1, 4, 8, 64, 128, 132, -1, 2**62, 2**64])
    names = st.sampled_from([GATE, "b", "__metadata__"])
    dtypes = st.sampled_from(["F32", "F16", "BOOL", "F8_E4M3", "??"])
    one = st.builds(about, st.lists(number, max_size=3), number, number, dtypes)
    header = data.draw(st.dictionaries(names, st.one_of(one, st.just(F32[GATE])), max_size=3))
    path = raw(tmp_path, {**F32, **header} if data.draw(st.booleans()) else header, DATA) / "model.safetensors"
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 2))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    try:
        with safe_open(path, framework="pt") as file:
            theirs = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except SafetensorError:
        theirs = None
    from explorer.checkpoints.files import Folder
    from explorer.checkpoints.headers import read_header

    if theirs is None:
        with pytest.raises(ExplorerError):
            read_header(Folder(tmp_path), path.name)
        return
    assert {name: list(one.shape) for name, one in read_header(Folder(tmp_path), path.name).items()} == theirs


@pytest.mark.parametrize(
    "shard, sentence",
    [
        ("../outside.safetensors", "not a plain name"),
        ("/etc/passwd", "not a plain name"),
        ("/dev/zero", "not a plain name"),
        ("..", "not a plain name"),
        ("", "not a plain name"),
        ("a\x00.safetensors", "not a plain name"),
        ("http://example.org/a.safetensors", "not a plain name"),
        ("..\\outside.safetensors", "not a plain name"),
        (["model.safetensors"], "not a plain name"),
        (None, "not a plain name"),
        (7, "not a plain name"),
        ("model-00009-of-00009.safetensors", "is missing"),
        ("model.bin", "never opened here"),
        ("config.json", "is no .safetensors file"),
        ("model-00001-of-00002.safetensors", "which does not hold it"),
    ],
)
def test_an_index_that_points_elsewhere(tmp_path, shard, sentence):
    save(tmp_path / "outside", mixtral())
    folder = save(tmp_path / "model", mixtral(), shards=2)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {**json.loads(index.read_text())["weight_map"], "more.weight": shard}}))
    refused(folder, sentence)


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("", "is not JSON"),
        ("[]", "is a list in JSON"),
        ("{}", "no 'weight_map'"),
        ('{"weight_map": []}', "no 'weight_map'"),
        ('{"weight_map": {"a": "b.safetensors", "a": "c.safetensors"}}', "twice"),
        ('{"weight_map": {"a": "b.safe', "is not JSON"),
    ],
)
def test_an_index_that_is_none(tmp_path, text, sentence):
    folder = save(tmp_path, mixtral(), shards=2)
    (folder / "model.safetensors.index.json").write_text(text)
    refused(folder, sentence)


def test_an_index_of_a_hundred_thousand_files(tmp_path):
    names = {f"t{i}": f"m{i}.safetensors" for i in range(100_000)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    refused(tmp_path, "names 100,000 files")


def test_shards_that_are_missing(tmp_path):
    folder = save(tmp_path, mixtral(), shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    refused(folder, "model-00002-of-00003.safetensors")
    (folder / "model.safetensors.index.json").unlink()
    refused(folder, "1 of 3 files are")


def test_shards_without_an_index_are_put_together_and_may_not_overlap(tmp_path):
    folder = save(tmp_path, mixtral(), shards=3)
    (folder / "model.safetensors.index.json").unlink()
    assert len(explorer.open_checkpoint(folder).layers) == 2
    for number in (1, 2, 3):
        (folder / f"model-0000{number}-of-00003.safetensors").rename(folder / f"part{number}.safetensors")
    (folder / "part4.safetensors").write_bytes((folder / "part1.safetensors").read_bytes())
    refused(folder, "lies both in")


def test_links_that_leave_the_folder_are_not_followed(tmp_path):
    outside = save(tmp_path / "outside", mixtral()) / "model.safetensors"
    folder = save(tmp_path / "model", mixtral())
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(outside)
    refused(folder, "is a link to a place outside")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(folder / "model.safetensors")
    refused(folder, "symbolic links")
    (folder / "model.safetensors").unlink()
    (folder / "real").write_bytes(outside.read_bytes())
    (folder / "model.safetensors").symlink_to("real")
    assert explorer.open_checkpoint(folder).experts == 4


def test_the_configuration_may_not_be_a_link_either(tmp_path):
    folder = save(tmp_path / "model", mixtral(), config=None)
    (tmp_path / "secret").write_text(json.dumps(MIXTRAL))
    (folder / "config.json").symlink_to(tmp_path / "secret")
    refused(folder, "is a link to a place outside")


def test_a_snapshot_of_the_hubs_cache_links_to_its_blobs(tmp_path):
    cache = tmp_path / "models--a--b"
    blobs = save(cache / "blobs", mixtral())
    snapshot = cache / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (snapshot / name).symlink_to(f"../../blobs/{name}")
    assert explorer.open_checkpoint(snapshot).architecture == "MixtralForCausalLM"
    assert blobs.is_dir()


def test_pipes_folders_and_devices_do_not_block(tmp_path):
    (tmp_path / "model.safetensors").mkdir()
    refused(tmp_path, "is a folder, not a file")
    (tmp_path / "model.safetensors").rmdir()
    os.mkfifo(tmp_path / "model.safetensors")
    refused(tmp_path, "is a pipe or a device")
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors").symlink_to("/dev/zero")
    refused(tmp_path, "outside its folder")


class Evil:
    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "model.ckpt", "model.safetensors"]
)
def test_a_pickle_is_never_opened(tmp_path, name):
    evil = Evil()
    evil.path = str(tmp_path / "it-ran")
    (tmp_path / name).write_bytes(pickle.dumps(evil))
    assert "safe_serialization=True" in refused(tmp_path, "never opened here")
    assert "safe_serialization=True" in refused(tmp_path / name, "never opened here")
    torch.save({"a": evil}, tmp_path / name)
    refused(tmp_path, "never opened here")
    assert not (tmp_path / "it-ran").exists()


def test_paths_that_lead_nowhere(tmp_path):
    refused(tmp_path, "it is empty")
    refused(tmp_path / "no" / "such" / "folder", "there is nothing at")
    refused("", "there is nothing at")
    refused("a\x00b", "there is nothing at")
    (tmp_path / "notes.txt").write_text("hello")
    refused(tmp_path, "holds no .safetensors file")
    refused(tmp_path / "notes.txt", "neither a folder nor a .safetensors file")


def test_files_that_may_not_be_read(tmp_path, monkeypatch):
    folder = save(tmp_path, mixtral())
    real = os.open

    def deny(path, *rest, **more):
        if str(path).endswith(".safetensors"):
            raise PermissionError(13, "Permission denied")
        return real(path, *rest, **more)

    monkeypatch.setattr(os, "open", deny)  # root may read everything
    refused(folder, "permission denied")
    monkeypatch.undo()
    monkeypatch.setattr(os, "listdir", lambda _: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    with pytest.raises(ExplorerError, match="cannot look into"):
        explorer.open_checkpoint(folder)


def config(tmp_path, **changes):
    return save(tmp_path, mixtral(), {**MIXTRAL, **changes})


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"num_local_experts": 0}, "num_local_experts = 0"),
        ({"num_local_experts": -4}, "num_local_experts = -4"),
        ({"num_local_experts": 4.0}, "num_local_experts = 4.0"),
        ({"num_local_experts": "4"}, "num_local_experts = '4'"),
        ({"num_local_experts": True}, "num_local_experts = True"),
        ({"num_local_experts": float("nan")}, "num_local_experts = nan"),
        ({"num_local_experts": 10**50}, "num_local_experts = 1000"),
        ({"num_local_experts": [4]}, "num_local_experts = [4]"),
        ({"num_experts_per_tok": 0}, "num_experts_per_tok = 0"),
        ({"num_experts_per_tok": 5}, "wants 5 experts for each token, but says there are only 4"),
        ({"num_local_experts": None, "num_experts_per_tok": 5}, "has 4"),
        ({"num_local_experts": 64, "num_experts_per_tok": 8}, "has 4"),
    ],
)
def test_a_configuration_that_cannot_be(tmp_path, changes, sentence):
    refused(config(tmp_path, **changes), sentence)


@pytest.mark.parametrize(
    "text, sentence",
    [
        (b"[1, 2]", "is a list in JSON"),
        (b'{"num_local_experts": ' + b"9" * 5000 + b"}", "is not JSON"),
        (b'{"model_type": "mixtral", "model_type": "olmoe"}', "twice"),
        (b'{"a":' * 50_000, "nested too deeply"),
        ("{}".encode("utf-16"), "is not text in UTF-8"),
        (b"", "is not JSON"),
    ],
)
def test_a_configuration_that_is_none(tmp_path, text, sentence):
    folder = save(tmp_path, mixtral())
    (folder / "config.json").write_bytes(text)
    refused(folder, sentence)


def test_a_configuration_beyond_all_measure(tmp_path):
    folder = save(tmp_path, mixtral())
    with open(folder / "config.json", "wb") as file:
        file.truncate(10**10)
    refused(folder, "10,000,000,000 bytes")


def test_a_configuration_of_other_experts_than_the_files_is_told(tmp_path):
    seen = explorer.open_checkpoint(config(tmp_path, num_local_experts=10**9))
    assert any("1000000000 experts, the routers have 4 rows" in one for one in seen.unknown)


@pytest.mark.parametrize("trust", [False, True])
def test_code_that_a_checkpoint_brings_is_not_run(tmp_path, trust):
    folder = config(tmp_path, auto_map={"AutoModelForCausalLM": "evil.Model"}, model_type="evil")
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'it-ran')!r}, 'w')\nraise SystemExit")
    seen = explorer.open_checkpoint(folder, trust_remote_code=trust)
    assert len(seen.routers) == 2 and any("auto_map" in one for one in seen.unknown)
    assert seen.trust_remote_code is trust and not (tmp_path / "it-ran").exists()


def test_absurd_sizes_are_refused_before_anything_is_allocated(tmp_path):
    from tests.checkpoints.making import sparse

    sparse(tmp_path / "model.safetensors", {GATE: (1 << 20, 1 << 20)})
    tracemalloc.start()
    seen = explorer.open_checkpoint(tmp_path)
    for look in (lambda: seen.routers, lambda: seen.router(0), lambda: seen.cosine(0), lambda: seen.similarity(0)):
        with pytest.raises(ExplorerError, match=r"bytes of memory, more than the 1,073,741,824 allowed|not read here"):
            look()
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()


def test_a_map_of_a_million_experts_is_refused_although_its_rows_would_fit(tmp_path):
    from tests.checkpoints.making import sparse

    name = "model.layers.0.mlp.experts.gate_up_proj"
    sparse(tmp_path / "model.safetensors", {"model.layers.0.mlp.gate.weight": (10**6, 1), name: (10**6, 1, 1)})
    seen = explorer.open_checkpoint(tmp_path)
    assert seen.routers["experts"].tolist() == [10**6]
    for look in (seen.cosine, seen.similarity):
        with pytest.raises(ExplorerError, match="of memory, more than"):
            look(0)


def test_the_budget_is_the_users(tmp_path):
    folder = save(tmp_path, mixtral())
    with pytest.raises(ExplorerError, match="more than the 100 allowed"):
        explorer.open_checkpoint(folder, memory=100).router(0)
    for memory in (0, -1, 1.5, True):
        with pytest.raises(ExplorerError, match="should be a whole number of bytes"):
            explorer.open_checkpoint(folder, memory=memory)


def test_a_file_that_changes_after_it_was_opened(tmp_path):
    seen = explorer.open_checkpoint(save(tmp_path, mixtral()))
    save(tmp_path, mixtral(seed=1))
    with pytest.raises(ExplorerError, match="has changed since it was opened"):
        seen.router(0)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ExplorerError, match="no such file"):
        seen.router(0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_none_are_shown_and_told(tmp_path, bad):
    tensors = mixtral()
    tensors[GATE][1, 2:5] = bad
    seen = explorer.open_checkpoint(save(tmp_path, tensors))
    assert seen.routers["not_finite"].tolist() == [3, 0]
    assert seen.damaged == ["model.layers.0.block_sparse_moe: 3 of the 32 numbers of its router are NaN or infinite"]
    assert seen.cosine(0)[1].isnan().all() and seen.cosine(0)[0, 2].isfinite()


@pytest.mark.parametrize("metadata", [[], "pt", {"format": 1}, {"format": {"a": "b"}}, None])
def test_metadata_that_is_not_made_of_words(tmp_path, metadata):
    refused(raw(tmp_path, {"__metadata__": metadata, **F32}, DATA), "'__metadata__' that is not made of words")


def test_names_that_look_like_paths_or_markup_are_only_names(tmp_path):
    """No file is looked for under the name of a tensor, and a sentence shows it in one line."""
    names = ["../../etc/passwd", "/dev/zero", "<script>alert(1)</script>", "a\nb\x1b[31m", "x" * 100_000, "\ud800"]
    header = {name: about([1], 128 + 4 * i, 132 + 4 * i) for i, name in enumerate(names)} | {
        "../<b>/layers.0.mlp.gate.weight": F32[GATE],
        "../<b>/layers.0.mlp.experts.gate_up_proj": about([4, 1, 1], 152, 168),
    }
    seen = explorer.open_checkpoint(raw(tmp_path, header, bytes(168)))
    assert seen.layers == ["../<b>/layers.0.mlp"] and len(seen.routers) == 1
    for name in ("../../etc/passwd", "a\nb\x1b[31m", "x" * 100_000):
        refused(raw(tmp_path, {name: about([2], 0, 4)}, bytes(4)), "does not fill its bytes")


def test_numbers_near_the_largest_have_a_length(tmp_path):
    tensors = mixtral()
    tensors[GATE][:] = 3e38
    seen = explorer.open_checkpoint(save(tmp_path, tensors))
    assert seen.norms(0).isfinite().all() and seen.routers["not_finite"].tolist() == [0, 0]
    assert torch.allclose(seen.cosine(0), torch.ones(4, 4, dtype=torch.float64))


@pytest.mark.parametrize("file", ["config.json", "model.safetensors.index.json", "model-00001-of-00002.safetensors"])
def test_no_file_of_a_checkpoint_may_be_a_pipe_a_folder_or_a_link_outside(tmp_path, file):
    folder = save(tmp_path / "model", mixtral(), shards=2)
    path, kept = folder / file, (folder / file).read_bytes()
    for put, sentence in (
        (lambda: os.mkfifo(path), "is a pipe or a device"),
        (path.mkdir, "is a folder, not a file"),
        (lambda: path.symlink_to("/dev/zero"), "is a link to a place outside"),
        (lambda: path.symlink_to(tmp_path / "gone"), "no such file"),
    ):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        put()
        refused(folder, sentence)
    path.unlink()
    path.write_bytes(kept)
    assert len(explorer.open_checkpoint(folder).layers) == 2


@pytest.mark.parametrize("what", ["sparse", "expanded", "meta"])
def test_what_torch_saved_is_not_opened_under_any_name(tmp_path, what):
    made = {
        "sparse": lambda: torch.eye(4).to_sparse_csr(),
        "expanded": lambda: torch.ones(1).expand(10**6, 10**6),
        "meta": lambda: torch.ones(4, 8, device="meta"),
    }[what]()
    for name in ("model.safetensors", "pytorch_model.bin"):
        torch.save({GATE: made}, tmp_path / name)
        refused(tmp_path, "never opened here")
        (tmp_path / name).unlink()


HOSTILE = """
import os, sys
import explorer.checkpoints.checkpoint as c, explorer.checkpoints.report as r, explorer.metrics, pandas
import explorer.recording, explorer.checkpoints.sglang
from explorer.errors import ExplorerError
opened = []
def look(event, args):
    if event == "open" and isinstance(args[0], (str, bytes)):
        opened.append(os.path.realpath(os.fsdecode(args[0])))
    elif event in ("os.listdir", "os.scandir", "os.exec", "os.system", "subprocess.Popen", "socket.connect"):
        opened.append(f"{event} {os.path.realpath(args[0])}" if event.startswith("os.") else event)
sys.addaudithook(look)
for folder in sorted(sys.argv[1:]):
    try:
        r.report(c.open_checkpoint(folder))
        print("read", os.path.basename(folder))
    except ExplorerError as error:
        print("refused", os.path.basename(folder), "|", error)
mine = tuple(os.path.realpath(one) + os.sep for one in sys.argv[1:])
library = tuple(os.path.realpath(one) + os.sep for one in (sys.prefix, sys.base_prefix, os.path.dirname(c.__file__)))
for one in opened:
    place = one.split(" ", 1)[-1]
    if not (place + os.sep).startswith(mine) and not place.endswith((".py", ".pyc")) and not place.startswith(library):
        print("OUTSIDE", one)
print("heard", sum(one.startswith(mine) and one.endswith(".safetensors") for one in opened))
"""


def test_nothing_outside_a_hostile_folder_is_opened(tmp_path):
    """Every file that the process opens is heard by an audit hook, from before the first folder to after the last."""
    outside = save(tmp_path / "outside", mixtral())
    (tmp_path / "secret.json").write_text(json.dumps(MIXTRAL))
    folders = {
        name: save(tmp_path / name, mixtral(), shards=2) for name in ("config", "index", "shard", "named", "good")
    }
    (folders["config"] / "config.json").unlink()
    (folders["config"] / "config.json").symlink_to(tmp_path / "secret.json")
    (folders["index"] / "model.safetensors.index.json").unlink()
    (folders["index"] / "model.safetensors.index.json").symlink_to("/etc/hostname")
    (folders["shard"] / "model-00002-of-00002.safetensors").unlink()
    (folders["shard"] / "model-00002-of-00002.safetensors").symlink_to(outside / "model.safetensors")
    index = folders["named"] / "model.safetensors.index.json"
    places = json.loads(index.read_text())["weight_map"]
    index.write_text(json.dumps({"weight_map": places | {GATE: "../outside/model.safetensors"}}))
    (folders["good"] / "notes.txt").symlink_to("/etc/passwd")  # nobody asks for it
    (folders["good"] / "more").symlink_to(tmp_path / "outside")
    command = [sys.executable, "-c", HOSTILE, *map(str, folders.values())]
    run = subprocess.run(command, capture_output=True, text=True, cwd=Path(explorer.__file__).parents[1])
    assert run.returncode == 0, run.stderr
    told = run.stdout.splitlines()
    assert int(told[-1].removeprefix("heard ")) > 4  # the hook hears what is opened inside
    assert "read good" in told and sum(line.startswith("refused") for line in told) == 4, told
    assert not [line for line in told if line.startswith("OUTSIDE")], told
