"""The gallery without a browser: its snapshot is that of the code, its page says what the link asks for, formulas are safe."""

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

import explorer
from explorer import snapshot
from explorer.claims import PASSES
from widgets.labs import gallery
from widgets.labs.formula import lines, mathml
from widgets.states import gallery as state

ROOT = Path(__file__).resolve().parents[2]
ENTRIES = {entry["name"]: entry for entry in state.catalogue()}
AGAIN = "run scripts/write_catalogue.py"


# --- the snapshot -----------------------------------------------------------------------------------------------------


def without_verdicts(entry):
    claims = [{key: value for key, value in claim.items() if key != "verdict"} for claim in entry["claims"]]
    return {key: value for key, value in entry.items() if key != "measured"} | {"claims": claims}


def test_every_mechanism_has_a_card_in_reading_order():
    assert list(ENTRIES) == explorer.names(), AGAIN


@pytest.mark.parametrize("name", explorer.names())
def test_a_card_says_what_the_mechanism_says(name):
    assert without_verdicts(ENTRIES[name]) == json.loads(json.dumps(snapshot.card(explorer.spec(name)))), AGAIN


@pytest.mark.parametrize("name", explorer.names())
def test_every_claim_was_tried_as_it_stands(name):
    tried = {claim["name"]: claim["verdict"] and claim["verdict"]["digest"] for claim in ENTRIES[name]["claims"]}
    stands = {claim.name: snapshot.digest(claim) for claim in explorer.spec(name).claims}
    assert tried == stands, AGAIN
    assert snapshot.stale([ENTRIES[name]]) == [other for other in explorer.names() if other != name]


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_a_verdict_follows_from_its_numbers(entry):
    for claim in entry["claims"]:
        verdict = claim["verdict"]
        assert len(verdict["spread"]) == len(entry["measured"]["seeds"]) >= 3
        assert sum(verdict["spread"]) / len(verdict["spread"]) == pytest.approx(verdict["effect"], rel=1e-4)
        if claim["threshold"] is None:
            assert verdict["holds"] is None
            continue
        passes = PASSES[claim["relation"]]
        right = passes(verdict["effect"], claim["threshold"])
        if claim["effect"] == "value":
            right = right and not passes(verdict["baseline"], claim["threshold"])
        assert verdict["holds"] is right


def test_a_claim_that_changes_has_another_digest():
    claim = explorer.spec("switch").claims[0]
    changes = {
        "statement": "x",
        "setup": {"steps": 1},
        "control": {"k": 2},
        "threshold": 9.0,
        "relation": ">",
        "metric": "x",
    }
    others = [replace(claim, **{name: value}) for name, value in changes.items()]
    assert len({snapshot.digest(one) for one in (claim, *others)}) == len(changes) + 1
    assert snapshot.digest(replace(claim)) == snapshot.digest(claim)


def measured_so(seed):
    """One way."""
    return helper(seed), 1.0


def measured_otherwise(seed):
    return 2 * helper(seed), 1.0


def helper(seed):
    # what the measure calls counts too
    return float(seed)


def test_the_code_of_a_measure_is_part_of_the_digest():
    claim = next(claim for claim in explorer.spec("glu").claims if claim.measure)
    digests = {snapshot.digest(replace(claim, measure=one)) for one in (measured_so, measured_otherwise)}
    digests.add(snapshot.digest(replace(claim, measure=lambda seed: helper(seed))))  # noqa: PLW0108
    assert len(digests) == 3
    found = snapshot._functions(lambda seed: measured_so(seed))  # noqa: PLW0108
    assert found == [measured_so, helper]
    assert "One way" not in snapshot._bare(measured_so) and "counts too" not in snapshot._bare(helper)


def test_a_partial_update_keeps_the_other_verdicts(monkeypatch):
    from explorer import claims

    def verify(names, seeds, jobs, done):
        assert names == ["glu"] and seeds == snapshot.SEEDS
        return [claims.Verdict("glu", claim.name, "", "", "", "", 1.0, float("nan"), "", claim.effect, 0.1234567, (0.1, 0.2),
                               "<=", None, "", True, seeds, 1.0) for claim in explorer.spec("glu").claims]  # fmt: skip

    monkeypatch.setattr(claims, "verify", verify)
    written = {entry["name"]: entry for entry in snapshot.write(ENTRIES.values(), ["glu"])}
    assert {name: entry for name, entry in written.items() if name != "glu"} == {
        name: entry for name, entry in ENTRIES.items() if name != "glu"
    }
    verdict = written["glu"]["claims"][0]["verdict"]
    assert (verdict["effect"], verdict["baseline"]) == (0.123457, None)
    assert set(written["glu"]["measured"]) == {"date", "seeds", "device", "explorer", "torch"}
    assert snapshot.write(ENTRIES.values(), []) == list(ENTRIES.values())
    assert snapshot.stale([]) == explorer.names()


# --- the link ---------------------------------------------------------------------------------------------------------


def asked(query):
    return state.asked(query, state.families(list(ENTRIES.values())))


def test_a_link_says_what_is_shown():
    assert asked("q=gate+unit&family=mixing&theme=dark") == state.Asked("gate unit", "mixing", "dark")
    assert asked("") == state.Asked()


def test_what_a_link_says_wrong_is_named():
    found = asked("q=" + 300 * "x" + "&family=zzz&preset=collapse&q=again")
    assert (len(found.search), found.family) == (200, "")
    for word in ("q is given twice", "longer than 200", "family=zzz: choose one of routing", "preset is not a setting"):
        assert word in " ".join(found.notices)
    assert len(asked("&".join(f"key{i}=1" for i in range(50))).notices) == state.LOST_AT_ONCE + 1


@given(some.text(max_size=300))
def test_no_link_breaks_the_page(query):
    page = gallery.render([], asked(query), ROOT / "notebooks")
    assert "<h1>Gating explorer</h1>" in page


def test_what_a_link_says_is_escaped():
    bad = '"><script>alert(1)</script>$x$'
    page = gallery.render(list(ENTRIES.values()), state.Asked(bad, notices=(bad,)), ROOT / "notebooks")
    assert "<script>alert" not in page and "$x$" not in page
    assert page.count("&lt;script&gt;alert(1)") == 2


# --- the page ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page():
    return gallery.render(list(ENTRIES.values()), state.Asked(), ROOT / "notebooks")


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_a_card_has_everything(entry):
    one = gallery.card(entry, state.Asked(), ROOT / "notebooks")
    paper = entry["paper"]
    for part in (entry["title"], entry["summary"], paper["title"], paper["authors"], str(paper["year"])):
        assert gallery.escaped(part) in one
    assert f'href="https://arxiv.org/abs/{paper["arxiv"]}"' in one
    assert "<math" in one and "<code>" not in one, "its equation can be drawn"
    for claim in entry["claims"]:
        for part in (claim["statement"], claim["reported"], state.effect(claim, claim["verdict"])):
            assert gallery.escaped(part) in one
        assert state.WORDS[claim["verdict"]["holds"]] in one, "a verdict is a word, not a colour"
    assert (f'href="{gallery.escaped(entry["page"])}"' in one) if entry["page"] else ("It has no lab yet." in one)


def test_links_keep_the_theme_and_lead_to_files_that_exist():
    dark = gallery.render(list(ENTRIES.values()), state.Asked(theme="dark"), ROOT / "notebooks")
    links = [part.split('"')[0] for part in dark.split('href="')[1:]]
    ours = [link for link in links if not link.startswith("https://arxiv.org/abs/")]
    assert "labs/routing.ipynb?mechanism=switch&amp;theme=dark" in ours
    assert "lessons/2_top_k_routing.ipynb?theme=dark" in ours
    assert all(link.endswith("theme=dark") and (ROOT / "notebooks" / link.split("?")[0]).is_file() for link in ours)


def notebook(path, *cells, **metadata):
    path.parent.mkdir(exist_ok=True)
    content = {"metadata": metadata, "cells": [{"cell_type": "markdown", "source": cell} for cell in cells]}
    path.write_text(json.dumps(content))


def test_the_doors_follow_the_files(tmp_path):
    empty = gallery.doors(state.Asked(), tmp_path)
    assert "href" not in empty and empty.count("ge-door") == 4
    for sentence in ("None is here yet.", "Their lab is not here yet"):
        assert sentence in empty
    notebook(tmp_path / "lessons/02-two.ipynb", "# Why *k* > 1\ntext")
    notebook(tmp_path / "lessons/01-what-is-a-gate.ipynb", "no heading")
    notebook(tmp_path / "labs/checkpoint.ipynb", title="Trained models")
    (tmp_path / "labs/attention.ipynb").write_text("not JSON")
    full = gallery.doors(state.Asked(), tmp_path)
    titles = [part.split("</a>")[0].split(">", 1) for part in full.split('href="')[1:]]
    assert titles == [
        ['lessons/01-what-is-a-gate.ipynb"', "What is a gate"],
        ['lessons/02-two.ipynb"', "Why *k* &gt; 1"],
        ['labs/attention.ipynb"', "Attention lab"],
        ['labs/checkpoint.ipynb"', "Trained models"],
    ]
    assert "not here yet" not in full and "Until then" not in full and "No time" not in full
    notebook(tmp_path / "labs/routing.ipynb", title="Routing lab")
    assert "No time for a lesson?" in gallery.doors(state.Asked(), tmp_path)


def test_the_eight_lessons_stand_in_their_order_under_their_names():
    names = [page.title for page in state.lessons(ROOT / "notebooks")]
    assert names == [
        "Lesson 1: What is a gate?",
        "Lesson 2: Top-k routing, by hand and live",
        "Lesson 3: Collapse and balance",
        "Lesson 4: Token choice, expert choice, capacity",
        "Lesson 5: Sigmoid scores and loss-free bias",
        "Lesson 6: What do experts learn?",
        "Lesson 7: Attention sinks and gated attention",
        "Lesson 8: Read a trained checkpoint",
    ]


def test_a_verdict_on_an_older_claim_is_not_shown(page):
    entry = json.loads(json.dumps(ENTRIES["switch"]))
    entry["claims"][0]["digest"] = "changed since"
    entry["claims"][1]["verdict"] = None
    assert gallery.card(entry, state.Asked(), ROOT).count("not tried yet") == 2
    assert "not tried yet" not in page


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (0.14401, "0.144"), (-0.0469, "−0.0469"), (1.186e-7, "1.19×10⁻⁷"), (1234.0, "1230"), (None, "not a number"),
     (5.02, "5.02"), (17.8, "17.8"), (400.0, "400")],
)  # fmt: skip
def test_numbers_are_written_as_in_a_paper(value, shown):
    assert state.number(value) == shown


def test_effects_in_words():
    claim = {"effect": "difference", "control_is": "relu", "relation": "<=", "threshold": -0.01}
    verdict = {"effect": -0.0681, "spread": [-0.069, -0.097, 0.038], "value": 2.28, "baseline": 2.35}
    assert state.effect(claim, verdict) == "−0.0681 from the control's (−0.097 to +0.038)"
    assert state.control(claim, verdict) == "relu: 2.35 (the claim's own: 2.28)"
    assert state.wanted(claim) == "at most −0.01"
    assert state.effect(claim | {"effect": "value"}, verdict | {"effect": None, "spread": [None]}) == "not a number"


def test_nothing_heavy_is_imported():
    code = (
        "import sys; from widgets.labs import gallery; page = gallery.dashboard('q=switch')\n"
        "heavy = ['torch', 'numpy', 'pandas', 'plotly', 'anywidget']\n"
        "print([name for name in heavy if name in sys.modules], '<math' in page.data)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout == "[] True\n", run.stderr


# --- formulas ---------------------------------------------------------------------------------------------------------

HARD = [
    r"y = \begin{cases} x & \text{if } x < 0 \\ 0 & \text{otherwise} \end{cases}",
    r"\operatorname*{arg\,max}_e p_e",
    r"\operatorname{top-k}(x)",
    r"\lVert x \rVert_2 + \tilde{h} + \hat{p} + W^\top \odot \mathbf{1}",
    r"\underset{e}{\operatorname{argmax}} \begin{bmatrix} a & b \\ c & d \end{bmatrix}",
    r"\sum_{i=1}^{N} x_i \max_i y_i \mathrm{SiLU}(x) \mathbb{1} \boldsymbol{\theta}",
    r"\begin{aligned} a &= b \\ c &= d \end{aligned}",
    r"\Big[ x \Big]_{h=1}^{H}",
]


@pytest.mark.parametrize("latex", HARD)
@pytest.mark.parametrize("block", [True, False])
def test_hard_formulas_become_sound_mathml(latex, block):
    tree = ET.fromstring(mathml(latex, block))
    assert tree.get("display") == ("block" if block else "inline")
    assert "\\" not in "".join(tree.itertext())


@pytest.mark.parametrize("latex", [r"\frac{", r"\undefined{x}", "", r"\knob{k}{k}"])
def test_what_cannot_be_read_is_shown_as_it_is(latex):
    assert mathml(latex) == f"<code>{latex}</code>"


def test_a_formula_carries_no_html_and_no_link():
    assert "<script" not in mathml(r"\text{<script>alert(1)</script>}")
    assert "javascript" not in mathml(r"\href{javascript:alert(1)}{x}")
    assert "$" not in mathml(r"\text{a $ b}")


@given(some.text(alphabet=r"\{}[]()^_&<>$'\"abkx123 ,;!", max_size=40))
def test_any_text_gives_sound_html(latex):
    given_back = mathml(latex)
    ET.fromstring(given_back)
    assert given_back.startswith(("<math", "<code>"))


def test_a_formula_is_cut_at_its_outermost_spaces():
    assert lines(r"a, \quad b \qquad c") == ["a,", "b", "c"]
    inside = r"\left( a \quad b \right) \begin{cases} x \quad y \end{cases} {c \quad d} \{ e"
    assert lines(inside + r"\quad f") == [inside, "f"]
    assert lines(r"\\quad") == [r"\\quad"]


def test_names_are_upright_and_apart_from_their_argument():
    tree = mathml(r"\operatorname{softmax} x", block=False)
    assert '<mi>softmax</mi><mspace width="0.167em" /><mi>x</mi>' in tree
    assert "mspace" not in mathml(r"\operatorname{softmax}(x)")
    assert "<mi>SiLU</mi>" in mathml(r"\mathrm{SiLU}(x)")
    assert "<munder><mi>max</mi>" in mathml(r"\max_i x") and "<msub><mi>max</mi>" in mathml(r"\max_i x", block=False)
