"""What a recording holds, tabulates, saves, and refuses to read."""

import errno
import json
import os
import struct

import pandas as pd
import pytest
import torch
from torch import nn

import explorer
from explorer import Recording
from explorer import recording as recording_module
from explorer.errors import BadValue, RecordingError, UnknownName
from explorer.models import Experts, LanguageModel, MixtureOfExperts
from explorer.recording_file import KEY, SCHEMA
from explorer.taps import Instrumented

nan = float("nan")


class Says(Instrumented):
    """Taps what it is given."""

    taps = {
        "probs": "B T E",
        "index": "B T K",
        "weights": "B T K",
        "gate": "B T",
        "first": "B H",
        "elsewhere": "B H",
        "entropy": "B H",
    }
    scores = "probabilities"

    def __init__(self, n_experts=3):
        super().__init__()
        self.n_experts = n_experts

    def forward(self, said):
        for name, value in said.items():
            self.tap(name, torch.as_tensor(value))


class Host(Instrumented):
    """Token ids, then what each layer says."""

    taps = {"tokens": "B T"}

    def __init__(self, layers=1):
        super().__init__()
        self.layers = nn.ModuleList(Says() for _ in range(layers))

    def forward(self, tokens, *said):
        self.tap("tokens", torch.as_tensor(tokens))
        for layer, one in zip(self.layers, said, strict=True):
            layer(one)


def language_model(layers=2, router="switch", **knobs):
    torch.manual_seed(1)
    blocks = []
    for _ in range(layers):
        card = explorer.spec(router)
        few = {"n_experts": 4} if "n_experts" in card.knobs and "constant" not in card.knobs else {}
        ffn = explorer.build(router, d_model=16, **few, **knobs)
        if card.slot == "router":
            ffn = MixtureOfExperts(ffn, Experts(16, 4, 8))
        blocks.append((explorer.build("softmax-attention", d_model=16, n_heads=2), ffn))
    return LanguageModel(32, 16, blocks)


def tokens(seed=0):
    return torch.randint(0, 32, (2, 6), generator=torch.Generator().manual_seed(seed))


def recorded(steps=3, layers=2, **arguments):
    """A recording of a small language model over a few forward passes."""
    model = language_model(layers)
    with explorer.record(model, **arguments) as seen, torch.no_grad():
        for step in range(steps):
            model(tokens(step))
    return seen


TABLES = ("loads", "routing", "gates", "attention", "decisions")


# -- the tables, by hand -----------------------------------------------------------------------------------------------
def test_decisions_are_the_filled_slots_in_order():
    host = Host()
    with explorer.record(host) as seen:
        host(
            [[7, 8], [9, 7]],
            {
                "index": [[[0, 2], [1, -1]], [[-1, -1], [2, 0]]],
                "weights": [[[0.7, 0.3], [1.0, 0]], [[0, 0], [0.6, 0.4]]],
            },
        )
    table = seen.decisions()
    assert list(table.columns) == ["step", "layer", "sequence", "position", "token", "slot", "expert", "weight"]
    rows = [tuple(row) for row in table.drop(columns="weight").itertuples(index=False)]
    assert rows == [
        (0, "layers.0", 0, 0, 7, 0, 0),
        (0, "layers.0", 0, 0, 7, 1, 2),
        (0, "layers.0", 0, 1, 8, 0, 1),
        (0, "layers.0", 1, 1, 7, 0, 2),
        (0, "layers.0", 1, 1, 7, 1, 0),
    ]
    assert table.weight.tolist() == pytest.approx([0.7, 0.3, 1.0, 0.6, 0.4])


def test_decisions_without_token_ids_or_weights():
    layer = Says()
    with explorer.record(layer) as seen:
        layer({"index": [[[1], [2]]]})
        layer({"index": [[[0], [-1]]]})
    table = seen.decisions()
    assert table.step.tolist() == [0, 0, 1] and table.expert.tolist() == [1, 2, 0]
    assert (table.token == -1).all() and table.weight.isna().all()
    assert seen.decisions(step=1).expert.tolist() == [0]


def test_loads_are_shares_of_the_filled_slots():
    host = Host(layers=2)
    with explorer.record(host) as seen:
        host([[0, 0]], {"index": [[[0, 1], [0, -1]]]}, {"index": [[[2, 1], [2, 1]]]})
        host([[0, 0]], {"index": [[[-1, -1], [-1, -1]]]}, {"index": [[[0, 1], [2, -1]]]})
    table = seen.loads()
    assert list(table.columns) == ["step", "layer", "expert", "load"]
    wide = table.pivot(index=["layer", "step"], columns="expert", values="load")
    assert wide.loc[("layers.0", 0)].tolist() == pytest.approx([2 / 3, 1 / 3, 0])
    assert wide.loc[("layers.1", 0)].tolist() == pytest.approx([0, 1 / 2, 1 / 2])
    assert wide.loc[("layers.1", 1)].tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3])
    assert wide.loc[("layers.0", 1)].isna().all()  # nobody was assigned anywhere: there is no load to speak of
    steps, counts = seen.counts("layers.0")
    assert steps.tolist() == [0, 1] and counts.tolist() == [[2, 1, 0], [0, 0, 0]]
    assert seen.layers() == ["layers.0", "layers.1"] and seen.experts("layers.1") == 3


def test_routing_says_how_sure_and_how_empty():
    layer = Says()
    with explorer.record(layer) as seen:
        layer({"probs": [[[1 / 3, 1 / 3, 1 / 3], [1.0, 0, 0]]], "index": [[[0], [-1]]]})
        layer({"probs": [[[0.6, 0.3, 0.1], [0.5, 0.4, 0.1]]], "index": [[[0], [0]]]})
    table = seen.routing()
    assert list(table.columns) == ["step", "layer", "token_entropy", "margin", "empty_slots"]
    assert table.token_entropy[0] == pytest.approx(0.5)  # one wholly unsure, one wholly sure
    assert table["empty_slots"].tolist() == [0.5, 0.0]
    assert table.margin[1] == pytest.approx(((0.6 - 0.3) + (0.5 - 0.4)) / 2)


def test_gates_by_hand():
    layer = Says()
    with explorer.record(layer) as seen:
        layer({"gate": [[0.0, 0.05, 0.1, 1.85]]})
    (row,) = seen.gates().itertuples(index=False)
    assert list(seen.gates().columns) == ["step", "layer", "tap", "mean", "std", "frac_low"]
    assert (row.step, row.layer, row.tap) == (0, "", "gate")
    assert row.mean == pytest.approx(0.5) and row.frac_low == 0.5  # 0.1 itself is not low
    assert row.std == pytest.approx(torch.tensor([0.0, 0.05, 0.1, 1.85]).std(correction=0).item())


def test_attention_is_the_mean_over_sequences_of_each_head():
    layer = Says()
    with explorer.record(layer) as seen:
        layer({"first": [[0.2, 0.9], [0.4, 0.7]], "entropy": [[1.0, 0.5], [2.0, 0.1]], "elsewhere": [[0.5, 0], [0, 0]]})
    table = seen.attention()
    assert list(table.columns) == ["step", "layer", "head", "first_token_share", "elsewhere", "entropy"]
    assert table["head"].tolist() == [0, 1]
    assert table.first_token_share.tolist() == pytest.approx([0.3, 0.8])
    assert table.elsewhere.tolist() == pytest.approx([0.25, 0])
    assert table.entropy.tolist() == pytest.approx([1.5, 0.3])


def test_attention_of_a_recording_from_before_there_was_elsewhere(tmp_path):
    old = Recording()
    for step in (0, 5):
        old._append("attention", "blocks.0", torch.tensor([step, 0.2, 0.9, 1.0, 0.5]))  # two heads: shares, entropies
    old.save(tmp_path / "old")
    table = Recording.load(tmp_path / "old").attention()
    assert table.step.tolist() == [0, 0, 5, 5] and table["head"].tolist() == [0, 1, 0, 1]
    assert table.first_token_share.tolist() == pytest.approx([0.2, 0.9] * 2)
    assert table.entropy.tolist() == pytest.approx([1.0, 0.5] * 2)
    assert table.elsewhere.isna().all()


def test_attention_of_which_only_the_first_token_was_watched(tmp_path):
    layer = Says()
    with explorer.record(layer) as seen:
        layer({"first": [[0.2, 0.9, 0.4]]})
    seen.save(tmp_path / "new")
    table = Recording.load(tmp_path / "new").attention()
    assert table.first_token_share.tolist() == pytest.approx([0.2, 0.9, 0.4])
    assert table.elsewhere.isna().all() and table.entropy.isna().all()


def test_empty_tables_have_their_columns():
    seen = Recording()
    for table in TABLES:
        assert isinstance(getattr(seen, table)(), pd.DataFrame) and len(getattr(seen, table)()) == 0
        assert {"step", "layer"} <= set(getattr(seen, table)().columns)


def test_a_table_is_the_callers_own():
    seen = recorded()
    table = seen.loads()
    table.loc[:, "load"] = 5.0
    assert seen.loads().load.max() <= 1


@pytest.mark.parametrize("router", explorer.names("routing"))
def test_loads_of_every_router_sum_to_one_in_each_layer_and_step(router):
    model = language_model(3, router)
    with explorer.record(model) as seen:
        for step in range(4):
            model(tokens(step)).sum().backward()
    sums = seen.loads().groupby(["step", "layer"]).load.sum()
    assert len(sums) == 4 * len(seen.layers()) >= 12 and sums.to_numpy() == pytest.approx(1)
    decided = seen.decisions()
    assert set(decided.token) <= set(range(32))
    if router in (
        "topk-softmax",
        "topk-softmax-raw",
        "switch",
        "expert-choice",
    ):  # of others a weight is no probability
        weights = decided.groupby(["step", "layer", "sequence", "position"]).weight.sum()
        assert (weights <= 1 + 1e-5).all()


def test_what_is_recorded_is_what_the_router_says():
    model, x = language_model(1), torch.randn(2, 6, 16)
    layer = model.blocks[0].ffn.eval()
    with explorer.record(layer) as seen:
        layer(x)
    weights, index = layer.router(x)
    assert torch.equal(seen.last("router/index"), index) and torch.equal(seen.last("router/weights"), weights)


# -- cadence and memory ------------------------------------------------------------------------------------------------
def test_every_and_tensors_every_and_keep():
    seen = recorded(steps=13, every=2, tensors_every=3, keep=2)
    assert sorted(set(seen.loads().step)) == sorted(set(seen.routing().step)) == [0, 2, 4, 6, 8, 10, 12]
    assert seen.steps() == [6, 12]  # of 0, 6 and 12 the newest two
    assert sorted(set(seen.decisions().step)) == [6, 12]
    assert torch.equal(seen.at("/tokens", 6), tokens(6)) and torch.equal(seen.last("/tokens"), tokens(12))
    assert seen.step == 12


def test_without_keep_memory_is_bounded_all_the_same(monkeypatch):
    one = recorded(steps=1)
    size = sum(t.numel() * t.element_size() for _, held in one._kept for t in held.values())
    monkeypatch.setattr(recording_module, "KEEP_BYTES", 4 * size + 1)
    model = language_model()
    with explorer.record(model) as seen, torch.no_grad():
        for step in range(50):
            model(tokens(step))
            seen.settle()
            seen.annotate("/labels", "B T", tokens(step), step)
            held = sum(t.numel() * t.element_size() for _, kept in seen._kept for t in kept.values())
            assert held <= 5 * size + 1 and held == seen._bytes
    assert 1 < len(seen.steps()) <= 4 and seen.steps()[-1] == 49
    assert len(set(seen.loads().step)) == 50


@pytest.mark.parametrize(
    "arguments", [{"every": 0}, {"keep": 0}, {"tensors_every": -1}, {"every": 1.5}, {"keep": True}, {"every": "2"}]
)
def test_a_cadence_out_of_range_is_refused_by_name(arguments):
    name = next(iter(arguments))
    with pytest.raises(BadValue, match=f"^{name}=.*a whole number of at least 1$"):
        explorer.record(Host(), **arguments).__enter__()


def test_tensors_are_copies_without_a_graph():
    class InPlace(Instrumented):
        taps = {"logits": "B T E"}

        def forward(self, x):
            return self.tap("logits", x * 2)

    model, x = InPlace(), torch.ones(1, 2, 3, requires_grad=True)
    with explorer.record(model) as seen:
        y = model(x)
    with torch.no_grad():
        y.zero_()
    assert torch.equal(seen.last("/logits"), torch.full((1, 2, 3), 2.0))
    assert not seen.last("/logits").requires_grad and seen.last("/logits").device.type == "cpu"


def test_reading_while_it_is_still_listening():
    model = language_model()
    with explorer.record(model) as seen:
        model(tokens(0))
        assert seen.steps() == [0] and len(seen.loads()) == 8
        model(tokens(1))
        assert seen.steps() == [0, 1]


def test_parts_called_by_themselves_are_cut_into_passes():
    """Nothing says where such a pass ends: it does where its first tap comes again."""
    host = Host(layers=2)
    with explorer.record(host) as seen:
        for step in range(3):
            for layer in host.layers:
                layer({"index": [[[step]]]})
    assert seen.steps() == [0, 1, 2]
    assert [seen.at("layers.1/index", step).item() for step in range(3)] == [0, 1, 2]


def test_a_pass_that_fails_leaves_no_half_step():
    host, whole = Host(layers=2), {"index": [[[1]]]}
    with explorer.record(host) as seen:
        host([[0]], whole, whole)
        with pytest.raises(AttributeError):
            host([[1]], whole, None)
        host([[2]], whole, {"index": [[[2]]]})
    assert seen.steps() == [0, 1]
    assert seen.at("/tokens", 1).item() == 2 and seen.at("layers.1/index", 1).item() == 2


def test_a_recording_goes_on_in_a_copy_of_its_own():
    seen = recorded(steps=2)
    twin = seen.copy()
    twin.event("forked")
    twin.add(2, [("blocks.0.ffn", "index", torch.zeros(1, 2, 1, dtype=torch.long))], tensors=True)
    assert seen.steps() == [0, 1] and twin.steps() == [0, 1, 2]
    assert len(twin.loads()) == len(seen.loads()) + 4 and not seen.header["events"]


def test_nan_is_recorded_as_nan():
    layer = Says()
    with explorer.record(layer) as seen:
        layer({"probs": [[[nan, nan, nan]]], "index": [[[0]]], "weights": [[[nan]]], "gate": [[nan]]})
    assert seen.routing().token_entropy.isna().all() and seen.gates()["mean"].isna().all()
    assert seen.decisions().weight.isna().all() and seen.loads().load.tolist() == [1, 0, 0]


# -- what the numbers are ----------------------------------------------------------------------------------------------
def test_the_header_says_where_the_numbers_come_from():
    header = recorded().header
    assert header["axes"]["blocks.0.ffn/probs"] == "B T E" and header["axes"]["/tokens"] == "B T"
    assert header["scores"]["blocks.0.ffn/probs"] == "probabilities: non-negative, summing to one over the targets"
    assert header["scores"]["blocks.0.ffn/logits"] == "logits: not normalised"
    assert header["experts"] == {"blocks.0.ffn": 4, "blocks.1.ffn": 4}
    assert header["device"] == "cpu" and header["dtype"] == "float32" and header["threads"] >= 1
    assert "grouped_mm" in header["kernel"] and len(header["kernel"]) == 2  # of the experts and of the attention


def test_asking_for_what_is_not_there():
    seen = recorded(steps=3, keep=1)
    with pytest.raises(
        UnknownName, match=r"no recorded tap 'blocks\.0\.ffn/prob'; did you mean 'blocks\.0\.ffn/probs'"
    ):
        seen.last("blocks.0.ffn/prob")
    with pytest.raises(RecordingError, match=r"no tensor of 'blocks\.0\.ffn/probs' of step 0; held are \[2\]"):
        seen.at("blocks.0.ffn/probs", 0)
    with (
        explorer.record(language_model()) as nothing,
        pytest.raises(RecordingError, match="no tensor of '/tokens' yet"),
    ):
        nothing.last("/tokens")


# -- the file ----------------------------------------------------------------------------------------------------------
def same(one, other):
    assert one.paths() == other.paths() and one.steps() == other.steps() and one.layers() == other.layers()
    for table in TABLES:
        pd.testing.assert_frame_equal(getattr(one, table)(), getattr(other, table)(), check_exact=True)
    for (step, held), (_, theirs) in zip(one._kept, other._kept, strict=True):
        assert held.keys() == theirs.keys(), step
        for name, value in held.items():
            assert value.dtype == theirs[name].dtype and value.shape == theirs[name].shape
            assert value.numpy().tobytes() == theirs[name].numpy().tobytes()


def test_a_round_trip_changes_no_bit(tmp_path):
    path = tmp_path / "run.safetensors"
    seen = recorded(steps=5, layers=12, tensors_every=2)  # twelve: a file sorts blocks.10 before blocks.2
    seen.header |= {"seed": 3, "task": "text"}
    seen.event("k=1")
    seen.save(path)
    read = Recording.load(str(path))
    same(seen, read)
    assert read.header.pop("schema") == SCHEMA
    assert set(read.header.pop("versions")) == {"explorer", "torch", "python"}
    assert read.header == seen.header and (read.step, read.keep) == (4, None)
    read.save(path)
    same(seen, Recording.load(path))


def test_odd_tensors_survive(tmp_path):
    seen = Recording({"axes": {"/odd": "B", "x/gate": "B T"}}, keep=7)
    odd = torch.tensor([nan, torch.inf, -0.0, 1e-45])
    values = [odd, torch.tensor([True, False]), torch.zeros(0, 3), torch.tensor(5), torch.arange(6).view(2, 3).T]
    for step, value in enumerate(values):
        seen.add(step, [("", "odd", value)], tensors=True)
    seen.save(tmp_path / "odd")
    same(seen, Recording.load(tmp_path / "odd"))
    half = torch.ones(2, dtype=torch.bfloat16)
    seen.add(9, [("", "odd", half)], tensors=True)
    seen.save(tmp_path / "odd")
    assert torch.equal(Recording.load(tmp_path / "odd").last("/odd"), half)
    assert Recording.load(tmp_path / "odd").keep == 7


def test_an_empty_recording_can_be_saved(tmp_path):
    Recording().save(tmp_path / "empty")
    same(Recording(), Recording.load(tmp_path / "empty"))


def test_saving_while_it_is_still_listening(tmp_path):
    model = language_model()
    with explorer.record(model) as seen:
        model(tokens(0))
        seen.save(tmp_path / "run")
        model(tokens(1))
    assert Recording.load(tmp_path / "run").steps() == [0] and seen.steps() == [0, 1]


def one_sentence(raised, path):
    """The error's text, checked for its form."""
    text = str(raised.value)
    assert type(raised.value) is RecordingError
    assert str(path) in text and "\n" not in text and "Traceback" not in text and len(text) < 600
    return text


def half_then(error):
    """A save_file that writes half of the file and then fails."""
    from safetensors.torch import save

    def save_file(tensors, path, metadata):
        data = save(tensors, metadata)
        with open(path, "wb") as file:
            file.write(data[: len(data) // 2])
        raise error

    return save_file


@pytest.mark.parametrize("there", [True, False])
def test_a_full_disk_loses_nothing(tmp_path, monkeypatch, there):
    path, first = tmp_path / "run.safetensors", recorded(steps=1)
    if there:
        first.save(path)
    monkeypatch.setattr("safetensors.torch.save_file", half_then(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(RecordingError) as raised:
        recorded(steps=3).save(path)
    text = one_sentence(raised, path)
    assert "No space left on device" in text and "nothing was changed" in text and "Errno" not in text
    assert os.listdir(tmp_path) == (["run.safetensors"] if there else [])
    if there:
        same(first, Recording.load(path))


def test_ctrl_c_while_saving_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path, first = tmp_path / "run.safetensors", recorded(steps=1)
    first.save(path)
    monkeypatch.setattr("safetensors.torch.save_file", half_then(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        recorded(steps=3).save(path)
    assert os.listdir(tmp_path) == ["run.safetensors"]
    same(first, Recording.load(path))


def test_places_where_nothing_can_be_saved(tmp_path):
    seen = recorded(steps=1)
    for path in (tmp_path / "no" / "run", tmp_path):
        with pytest.raises(RecordingError) as raised:
            seen.save(path)
        one_sentence(raised, path)
    seen.header["strange"] = object()
    with pytest.raises(RecordingError) as raised:
        seen.save(tmp_path / "run")
    one_sentence(raised, tmp_path / "run")
    assert os.listdir(tmp_path) == []


def test_a_saved_file_has_the_usual_permissions(tmp_path):
    (tmp_path / "plain").write_text("")
    recorded(steps=1).save(tmp_path / "run")
    assert (tmp_path / "run").stat().st_mode == (tmp_path / "plain").stat().st_mode


def refused(path):
    with pytest.raises(RecordingError) as raised:
        Recording.load(path)
    return one_sentence(raised, path)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "run.safetensors"
    recorded().save(path)
    return path.read_bytes()


def parts_of(data):
    """(header of the safetensors file, bytes of its tensors)."""
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def with_metadata(data, metadata):
    """The same tensors with another metadata entry of ours (text, or something to be written as JSON)."""
    header, body = parts_of(data)
    header["__metadata__"] = {KEY: metadata if isinstance(metadata, str) else json.dumps(metadata)}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


@pytest.mark.parametrize("tenths", range(10))
def test_a_file_cut_short_is_refused(tmp_path, saved, tenths):
    path = tmp_path / "cut"
    path.write_bytes(saved[: len(saved) * tenths // 10])
    assert "is not a recording, or was cut short" in refused(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 7, b"hello, recording\n" * 50, b'{"schema": 1}', b"\xff" * 4096, b"PK\x03\x04" + b"\0" * 99],
)
def test_a_foreign_file_is_refused(tmp_path, content):
    path = tmp_path / "foreign"
    path.write_bytes(content)
    refused(path)


def test_other_safetensors_files_are_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"model.weight": torch.zeros(3)}, tmp_path / "weights", metadata={"format": "pt"})
    save_file({"model.weight": torch.zeros(3)}, tmp_path / "bare")
    for name in ("weights", "bare"):
        assert "is a safetensors file but not a recording" in refused(tmp_path / name)


def test_folders_and_missing_files_are_refused(tmp_path):
    assert refused(tmp_path).endswith("it is a folder")
    assert refused(tmp_path / "missing").endswith("there is no such file")
    assert refused("/dev/null").endswith("it is a device")
    with pytest.raises(RecordingError, match="there is no such file"):
        Recording.load(tmp_path / "nul\0byte")


def test_a_newer_format_is_refused_with_the_way_out(tmp_path, saved):
    header = json.loads(parts_of(saved)[0]["__metadata__"][KEY])
    path = tmp_path / "newer"
    path.write_bytes(with_metadata(saved, {"schema": SCHEMA + 1, "everything": "else is new"}))
    assert f"newer gating explorer (format {SCHEMA + 1}, this one reads up to {SCHEMA})" in refused(path)
    path.write_bytes(with_metadata(saved, {**header, "from the future": 1}))
    assert Recording.load(path).steps() == [0, 1, 2]  # what is only added does not hurt


EVIL = {
    "no JSON": "not json",
    "deep JSON": "[" * 200_000,
    "a list": [1, 2],
    "null": None,
    "a number": 7,
    "schema missing": {"schema": None},
    "schema a string": {"schema": "1"},
    "schema a truth": {"schema": True},
    "axes missing": {"axes": None},
    "axes a list": {"axes": ["blocks.0.ffn/probs"]},
    "axes of numbers": {"axes": {"blocks.0.ffn/probs": 3}},
    "axes without the tensors": {"axes": {}},
    "experts of strings": {"experts": {"blocks.0.ffn": "four"}},
    "scores a string": {"scores": "logits"},
    "step missing": {"step": None},
    "step infinite": {"step": float("inf")},
    "step a string": {"step": "many"},
    "keep a string": {"keep": "all"},
    "keep infinite": {"keep": float("inf")},
    "events a number": {"events": 3},
}


@pytest.mark.parametrize("evil", EVIL)
def test_evil_metadata_is_refused(tmp_path, saved, evil):
    header, metadata = json.loads(parts_of(saved)[0]["__metadata__"][KEY]), EVIL[evil]
    if isinstance(metadata, dict):
        metadata = {key: value for key, value in {**header, **metadata}.items() if value is not None or key == "keep"}
    path = tmp_path / "evil"
    path.write_bytes(with_metadata(saved, metadata))
    assert "damaged" in refused(path)


@pytest.mark.parametrize(
    "name, tensor",
    [
        ("weights", torch.zeros(2)),
        ("series/loads", torch.zeros(2, 6)),
        ("series/zebras/x", torch.zeros(2, 6)),
        ("series/loads/blocks.0.ffn", torch.zeros(6)),
        ("series/routing/blocks.0.ffn", torch.zeros(2, 1)),
        ("step/one//tokens", torch.zeros(2)),
        ("step/0/blocks.0.ffn/nonsense", torch.zeros(2)),
    ],
)
def test_tensors_that_no_recording_has_are_refused(tmp_path, saved, name, tensor):
    from safetensors.torch import save_file

    metadata = parts_of(saved)[0]["__metadata__"]
    save_file({name: tensor}, tmp_path / "strange", metadata=metadata)
    assert "damaged" in refused(tmp_path / "strange")


def test_flipped_bytes_are_read_or_refused_but_never_worse(tmp_path, saved):
    draw = torch.Generator().manual_seed(0)
    (length,) = struct.unpack("<Q", saved[:8])
    path, verdicts = tmp_path / "flipped", set()
    for _ in range(100):
        data = bytearray(saved)
        at = int(torch.randint(0, length + 8, (1,), generator=draw))
        data[at] ^= 1 << int(torch.randint(0, 8, (1,), generator=draw))
        path.write_bytes(data)
        try:
            read = Recording.load(path)
        except RecordingError:
            refused(path)
            verdicts.add("refused")
        else:
            verdicts.add("read")
            for table in TABLES:
                getattr(read, table)()
    assert verdicts == {"read", "refused"}
