"""Text: what is read, how it is split, and that a token, its label and its picture belong together."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from explorer.errors import BadValue, UnknownName
from explorer.experiment import Experiment
from explorer.tasks import Text, corpus, sources
from explorer.tasks.data import Stream

SMALL = {"bytes_per_domain": 40_000, "sequence": 24}
DOMAINS = ["english", "python", "markup", "data"]


def numbered(n: int, letter: str = "#") -> str:
    """`n` bytes (n a multiple of 8) of which any 8 in a row say where they stand."""
    return "".join(f"{letter}{i:07d}" for i in range(n // 8))


def shown(data, batch, i: int) -> str:
    return "".join(data.decode(batch.inputs[i]))


@pytest.fixture(scope="module")
def built_in():
    return Text().build(0)


# the four domains


def test_every_domain_is_full_or_says_what_it_has(built_in):
    assert built_in.label_names == DOMAINS
    for about in built_in.describe()["domains"].values():
        assert 200_000 < about["bytes"] <= 400_000
        assert about["sources"] >= 25
        assert about["train_bytes"] + about["held_out_bytes"] == about["bytes"]
        assert about["held_out_bytes"] == pytest.approx(0.1 * about["bytes"], rel=0.02)
        assert len(about["sha256"]) == 64
    assert built_in.describe()["installation_dependent"] is True


@pytest.mark.parametrize(
    "domain, words",
    [("english", ["the ", "object", "is "]), ("python", ["def ", "self", "return"]),
     ("markup", ["</", "=\"", "<xsl:", "class"]), ("data", ['": ', "type", ","])],
)  # fmt: skip
def test_a_domain_reads_like_what_it_is_called(built_in, domain, words):
    train = built_in.corpora[DOMAINS.index(domain)].train
    text = "".join(chr(i) for i in train.tolist())
    assert all(text.count(word) > 200 for word in words), [(word, text.count(word)) for word in words]


def test_no_file_gives_more_than_its_share():
    for name in DOMAINS:
        sizes = [len(text) for _, text in sources.read(name, 400_000)]
        taken = corpus._allot(sizes, 400_000)
        assert sum(taken) == min(sum(sizes), 400_000)
        assert max(taken) <= 0.35 * 400_000


def test_the_text_is_the_same_in_another_process_from_another_folder(tmp_path):
    code = (
        "import hashlib, json; from explorer.tasks import Text, sources;"
        "pages = [hashlib.sha256(page).hexdigest() for page in map(sources._pydoc_page, sources.DOCUMENTED)];"
        "print(json.dumps([Text().build(5).describe(), pages]))"
    )
    answers = []
    for salt in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": salt, "PYTHONPATH": str(Path(corpus.__file__).parents[2])}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment)
        answers.append(json.loads(done.stdout))
    assert answers[0] == answers[1]
    assert answers[0][0] == Text().build(5).describe()


def test_no_path_of_this_machine_is_in_the_text(built_in):
    for domain in built_in.corpora:
        text = bytes(torch.cat([domain.train, domain.held_out]).tolist())
        assert sys.prefix.encode() not in text and str(Path.home()).encode() + b"/" not in text


def test_pydoc_pages_complete_the_markup_where_the_files_are_missing(monkeypatch):
    monkeypatch.setattr(sources, "MARKUP", ())
    pieces = sources.read("markup", 60_000)
    assert all(name.startswith("pydoc:") for name, _ in pieces)
    text = b"".join(text for _, text in pieces)
    assert len(text) >= 60_000 and text.count(b"</") > 500
    assert b'href="file:' not in text and b" at 0x" not in text and b"frozenset(" not in text
    assert sources.read("markup", 60_000) == pieces


def test_a_domain_that_is_not_installed_says_so(monkeypatch):
    corpus.installed.cache_clear()
    monkeypatch.setattr(sources, "DATA", (sources.Place("no_such_package", "data", (".json",)),))
    with pytest.raises(
        BadValue, match=r"^domain 'data' has 0 bytes of text, but two sequences need 50; give more or shorten"
    ):
        Text(domains="data", **SMALL).build(0)
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(
        BadValue, match=r"^domain 'english' cannot be read from this installation .*; leave it out of domains"
    ):
        Text(domains="english", **SMALL).build(0)
    corpus.installed.cache_clear()


def test_experiments_share_one_copy_of_the_text():
    one, other = Text(**SMALL).build(0), Text(**SMALL).build(1)
    assert all(a is b for a, b in zip(one.corpora, other.corpora, strict=True))
    assert one._train is other._train


# batches


@pytest.mark.parametrize("size", [4, 8, 20])
def test_a_batch_has_equally_many_sequences_of_each_domain(built_in, size):
    for step in range(5):
        assert built_in.batch(step, size).labels[:, 0].bincount(minlength=4).tolist() == [size // 4] * 4


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_small_batches_take_the_domains_in_turn(built_in, size):
    counts = torch.cat([built_in.batch(step, size).labels[:, 0] for step in range(4)]).bincount(minlength=4)
    assert counts.tolist() == [size] * 4


def test_no_domain_is_always_last_in_the_batch(built_in):
    assert len({int(built_in.batch(step, 8).labels[-1, 0]) for step in range(30)}) == 4


def test_held_out_sequences_are_eighty_balanced_and_the_same_for_every_seed(built_in):
    batch = built_in.held_out()
    assert batch.inputs.numel() == 5120
    assert batch.labels[:, 0].bincount().tolist() == [20] * 4
    assert torch.equal(batch.inputs, Text().build(9).held_out().inputs)


def test_labels_belong_to_the_text(built_in):
    data = Text(texts={"letters": "abcdefgh" * 40, "digits": "01234567" * 40}, sequence=9).build(0)
    for batch in (data.batch(0, 12), data.held_out()):
        for i in range(len(batch.inputs)):
            assert shown(data, batch, i).isdigit() == (data.label_names[batch.labels[i, 0]] == "digits")
        assert (batch.labels == batch.labels[:, :1]).all()


def test_targets_are_the_inputs_shifted_by_one(built_in):
    data = Text(texts={"a": numbered(4000)}, sequence=16).build(0)
    batch = data.batch(0, 5)
    whole = numbered(4000)
    for i in range(5):
        last = "".join(data.decode(batch.targets[i, -1:]))
        assert shown(data, batch, i) + last in whole
        assert torch.equal(batch.inputs[i, 1:], batch.targets[i, :-1])


# a mix


MIX = {"english": 0.7, "python": 0.2, "markup": 0.07, "data": 0.03}


def test_a_mix_decides_how_often_a_domain_is_drawn_and_nothing_else(built_in):
    data = Text(mix=MIX).build(0)
    domains = torch.cat([data.batch(step, 8).labels[:, 0] for step in range(500)])
    for share, counted in zip(MIX.values(), (domains.bincount(minlength=4) / 4000).tolist(), strict=True):
        assert abs(counted - share) < 4 * (share * (1 - share) / 4000) ** 0.5
    assert torch.equal(data.held_out().inputs, built_in.held_out().inputs)
    assert data.describe() == built_in.describe() | {"mix": MIX}
    assert built_in.describe()["mix"] is None


def test_a_rare_domain_has_no_fixed_place_in_the_batch():
    data = Text(mix=MIX, **SMALL).build(0)
    places = [(data.batch(step, 8).labels[:, 0] == 3).nonzero()[:, 0].tolist() for step in range(400)]
    assert {place for several in places for place in several} == set(range(8))


def test_a_mix_goes_by_name_or_in_the_order_of_the_domains():
    by_name = Text(mix=dict(reversed(MIX.items())))
    assert by_name == Text(mix=MIX.values()) == Text(mix=[0.7, 0.2, 0.07, 0.03])
    assert by_name.mix == (0.7, 0.2, 0.07, 0.03) and hash(by_name) == hash(Text(mix=MIX)) and by_name != Text()
    own = Text(texts={"a": numbered(800), "b": numbered(800, "b")}, sequence=16, mix={"b": 0.99, "a": 0.01})
    assert own.build(0).batch(0, 100).labels[:, 0].sum() > 90


def test_without_a_mix_the_stream_is_the_one_it_always_was(built_in):
    stream = Stream(0, "text/train").at(3)
    domains = torch.randperm(6, generator=stream)  # 3 batches of 6 before it: the next domain in turn is 18 % 4 = 2
    places = torch.rand(6, generator=stream, dtype=torch.float64)
    batch = built_in.batch(3, 6)
    assert torch.equal(batch.labels[:, 0], (domains + 2) % 4)
    for place, inputs, domain in zip(places, batch.inputs, batch.labels[:, 0], strict=True):
        train = built_in.corpora[domain].train
        begin = int(place * (len(train) - 64))
        assert torch.equal(train[begin : begin + 64].long(), inputs)


@pytest.mark.parametrize(
    "mix, sentence",
    [
        ([0.5, 0.5], "mix has 2 shares for 4 domains; give one each: english, python, markup, data"),
        ([0.7, 0.2, 0.07, 0.3], "the shares in mix add up to 1.27; they must add up to 1"),
        ([0.7, 0.3, 0, 0], "the share of 'markup' in mix is 0; leave the domain out, or give it a little"),
        ([0.7, 0.5, -0.1, -0.1], "a share in mix must be from 0 to 1, not -0.1"),
        ([0.7, 0.3, 0, float("nan")], "a share in mix must be from 0 to 1, not nan"),
        ([0.7, 0.1, 0.1, True], "a share in mix must be a number, not True"),
        ({"english": 1.0}, "mix says nothing of 'python'; give every domain its share"),
        ("english", "mix gives each domain its share, as in {\"english\": 0.7, ...}, not 'english'"),
        (0.5, 'mix gives each domain its share, as in {"english": 0.7, ...}, not 0.5'),
    ],
)
def test_a_wrong_mix_is_one_sentence(mix, sentence):
    with pytest.raises(BadValue, match=re.escape(sentence)):
        Text(mix=mix)


def test_a_mix_names_domains_that_are_there():
    with pytest.raises(UnknownName, match="domain in mix"):
        Text(mix={**MIX, "poems": 0.1})


def test_a_run_on_a_mix_is_the_same_from_its_script():
    run = Experiment("topk-softmax", task=Text(mix=MIX, **SMALL), batch=4, watch=None).run(2)
    scope: dict = {}
    lines = run.script()
    exec(lines, scope)
    assert "mix=(0.7, 0.2, 0.07, 0.03)" in lines and torch.equal(scope["run"].losses(), run.losses())


# the split


@pytest.mark.parametrize("length", [360, 1000, 8000])
def test_held_out_bytes_are_never_trained_on(length):
    text = numbered(length)
    data = Text(texts={"a": text}, sequence=16).build(0)
    places = {"train": set(), "held out": set()}
    for part, batches in (("train", [data.batch(step, 40) for step in range(100)]), ("held out", [data.held_out()])):
        for batch in batches:
            for i in range(len(batch.inputs)):
                window = shown(data, batch, i) + "".join(data.decode(batch.targets[i, -1:]))
                begin = text.index(window)
                places[part] |= set(range(begin, begin + len(window)))
    assert places["train"] and places["held out"]
    assert max(places["train"]) < min(places["held out"])
    assert max(places["held out"]) == length - 1


def test_every_file_keeps_its_own_end_for_held_out_text(tmp_path):
    for letter in "ab":
        (tmp_path / f"{letter}.txt").write_text(numbered(2000, letter))
    domain = Text(tmp_path, sequence=16).build(0).corpora[0]
    train, held_out = ("".join(map(chr, part.tolist())) for part in (domain.train, domain.held_out))
    assert train == numbered(2000, "a")[:1800] + numbered(2000, "b")[:1800]
    assert held_out == numbered(2000, "a")[1800:] + numbered(2000, "b")[1800:]


def test_the_first_and_the_last_window_of_the_training_text_can_be_drawn():
    data = Text(texts={"a": numbered(160)}, sequence=15).build(0)
    train = "".join(map(chr, data.corpora[0].train.tolist()))
    starts = {train.index(shown(data, data.batch(step, 16), i)) for step in range(120) for i in range(16)}
    assert starts == set(range(len(train) - 15))


# decoding


def test_control_characters_are_shown_as_pictures():
    data = Text(texts={"a": "x" * 200}, sequence=16).build(0)
    assert data.decode([10, 9, 32, 0, 13, 27, 65, 126, 127]) == ["⏎", "⇥", " ", "␀", "␍", "␛", "A", "~", "·"]
    assert all(len(one) == 1 and one.isprintable() for one in data.decode(torch.arange(128)))
    assert data.decode([-100, 128]) == ["\ufffd"] * 2


def test_bytes_beyond_ascii_become_one_id():
    data = Text(texts={"a": "é" * 200}, sequence=16).build(0)
    assert data.batch(0, 3).inputs.unique().tolist() == [127]
    assert data.describe()["not_ascii_id"] == 127


def test_a_script_survives_as_plain_characters():
    text = "<script>alert('x')</script> <b>%{y}<extra></extra> & " * 20
    data = Text(texts={"<script>": text}, sequence=16).build(0)
    assert shown(data, data.batch(0, 1), 0) in text
    assert data.label_names == ["<script>"]


# the user's own files


def test_files_folders_and_strings_are_domains_beside_the_built_in_ones(tmp_path):
    (tmp_path / "poems").mkdir()
    (tmp_path / "poems" / "one.txt").write_text("a rose is a rose is a rose\n" * 20)
    (tmp_path / "b.txt").write_text("0123456789" * 50)
    config = Text(
        [str(tmp_path / "poems") + "/", tmp_path / "b.txt"], domains="python", texts={"c": "tea " * 99}, **SMALL
    )
    data = config.build(0)
    assert data.label_names == config.names == ["python", "poems", "b.txt", "c"]
    assert data.describe()["domains"]["b.txt"]["path"] == str(tmp_path / "b.txt")
    assert Text(str(tmp_path / "b.txt")).build(0).label_names == ["b.txt"]
    assert Text(tmp_path / "b.txt").build(0).describe()["installation_dependent"] is False


def test_files_of_one_name_are_told_apart_by_their_path(tmp_path):
    for folder in "xy":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text("hello " * 99)
    paths = [str(tmp_path / folder / "a.txt") for folder in "xy"]
    assert Text(paths).build(0).label_names == paths


def test_a_folder_is_read_in_sorted_order_without_hidden_and_binary_files(tmp_path):
    for name in ("b.txt", "a.txt", "c/z.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name[0] * 500)
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0\0" * 50)
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / ".hidden").write_text("h" * 500)
    domain = Text(tmp_path, sequence=16).build(0).corpora[0]
    assert "".join(dict.fromkeys(map(chr, domain.train.tolist()))) == "abz"[:2] + "c"
    assert domain.about["sources"] == 3 and domain.about["files_skipped"] == 2


def test_a_large_file_is_read_only_as_far_as_asked_and_described_so(tmp_path):
    large = tmp_path / "large.txt"
    with large.open("wb") as file:
        file.write(numbered(100_000).encode())
        file.truncate(60_000_000)
    about = Text(large, bytes_per_domain=50_000).build(0).describe()["domains"]["large.txt"]
    assert (about["bytes"], about["available_bytes"], about["truncated"]) == (50_000, 60_000_000, True)


def test_no_file_of_a_folder_dominates(tmp_path):
    (tmp_path / "a.txt").write_text("a" * 50_000)
    (tmp_path / "b.txt").write_text("b" * 2_000)
    (tmp_path / "c.txt").write_text("c" * 50_000)
    train = Text(tmp_path, bytes_per_domain=20_000).build(0).corpora[0].train
    assert train.bincount()[[97, 98, 99]].tolist() == [8100, 1800, 8100]


def test_a_file_that_changed_is_read_again(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("a" * 500)
    first = Text(file, sequence=16).build(0)
    assert Text(file, sequence=16).build(0).corpora[0] is first.corpora[0]
    file.write_text("b" * 501)
    assert Text(file, sequence=16).build(0).batch(0, 1).inputs.unique().tolist() == [98]


def test_line_ends_of_windows_are_line_ends():
    data = Text(texts={"a": "ab\r\n" * 100}, sequence=16).build(0)
    assert set(data.decode(data.batch(0, 8).inputs.flatten())) == {"a", "b", "⏎"}


# bad input


def refused(message: str, *given, **named) -> None:
    with pytest.raises(BadValue) as caught:
        Text(*given, **{"sequence": 16, **named}).build(0)
    assert str(caught.value) == message
    assert "\n" not in message


def test_files_that_cannot_serve_are_refused_in_one_sentence(tmp_path):
    missing, empty, short, nul, control = (
        str(tmp_path / name) for name in ("no.txt", "empty", "short", "nul", "control")
    )
    Path(empty).write_bytes(b"")
    Path(short).write_bytes(b"x" * 33)
    Path(nul).write_bytes(b"GIF89a\0" * 99)
    Path(control).write_bytes(b"ab\x01\x02" * 99)
    refused(f"cannot read {missing!r}: no such file or directory; give the path of a text file or folder", missing)
    refused(f"{empty!r} is empty; give a file with text", empty)
    refused(f"{short!r} has 33 bytes of text, but two sequences need 34; give more or shorten sequence", short)
    refused(f"{nul!r} is binary (it contains NUL bytes); give a text file, in UTF-8", nul)
    refused(f"{control!r} is binary (50% control bytes); give a text file, in UTF-8", control)
    refused("cannot read 'a\\x00b': embedded null byte; give the path of a text file or folder", "a\0b")
    refused("'/dev/null' is neither a file nor a folder; give a text file", "/dev/null")


def test_two_sequences_are_enough():
    data = Text(texts={"a": numbered(34 + 6)[:34]}, sequence=16).build(0)
    assert data.batch(0, 2).inputs.shape == (2, 16)
    assert data.held_out().inputs.unique(dim=0).shape == (1, 16)


def test_folders_without_text_are_refused(tmp_path):
    refused(f"folder {str(tmp_path)!r} has no text files; give a folder of text, or a file", tmp_path)
    (tmp_path / "a.bin").write_bytes(bytes(500))
    refused(f"folder {str(tmp_path)!r} has no text files; give a folder of text, or a file", tmp_path)


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    file = tmp_path / "secret.txt"
    file.write_text("x" * 500)

    def denied(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    refused(f"cannot read {str(file)!r}: permission denied; give the path of a text file or folder", file)


def test_pasted_text_that_cannot_serve_is_refused():
    refused(
        "text 'mine' has 2 bytes of text, but two sequences need 34; give more or shorten sequence",
        texts={"mine": "hi"},
    )
    refused(
        "text 'mine' has 0 bytes of text, but two sequences need 34; give more or shorten sequence", texts={"mine": ""}
    )
    refused("text 'mine' is binary (it contains NUL bytes); give a text file, in UTF-8", texts={"mine": "a\0" * 99})
    refused("texts is empty; give at least one name and its text", texts={})
    refused("texts maps a name to a string; the entry 'a' does not", texts={"a": 3})
    refused("texts maps a name to a string; the entry '' does not", texts={"": "tea " * 50})
    refused("""texts maps a name to a string, as in {"poems": "..."}, not str""", texts="tea " * 50)


def test_a_lone_surrogate_from_a_browser_is_no_trouble():
    assert Text(texts={"a": "\ud800ab" * 99}, sequence=16).build(0).batch(0, 1).inputs.max() == 127


def test_paths_and_domains_that_are_none_are_refused():
    refused("paths is empty; give at least one file or folder", [])
    refused("a path is a string or a pathlib.Path, not 3", [3])
    refused("a path is a string or a pathlib.Path, not ''", "")
    refused("paths is a string or a list of strings, not 3", 3)
    refused("domains is empty; choose among english, python, markup, data", domains=[])
    refused("domains is a string or a list of strings, not 7", domains=7)
    refused(
        "two domains are called 'python'; give each file, folder and text its own name", domains=["python", "python"]
    )
    refused("two domains are called 'a'; give each file, folder and text its own name", "a", texts={"a": "tea"})
    with pytest.raises(UnknownName, match=r"^no domain 'pyhton'; did you mean 'python'\?$"):
        Text(domains=["english", "pyhton"])


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"sequence": 1}, "sequence must be from 2 to 4,096, not 1"),
        ({"sequence": -64}, "sequence must be from 2 to 4,096, not -64"),
        ({"bytes_per_domain": 100}, "bytes_per_domain must be from 130 to 50,000,000, not 100"),
        ({"bytes_per_domain": 10**9}, "bytes_per_domain must be from 130 to 50,000,000, not 1000000000"),
        ({"held_out": 0}, "held_out must be from 0.001 to 0.5, not 0"),
        ({"held_out": 0.9}, "held_out must be from 0.001 to 0.5, not 0.9"),
    ],
)
def test_bad_values_are_named(wrong, message):
    with pytest.raises(BadValue) as caught:
        Text(**wrong)
    assert str(caught.value) == message
