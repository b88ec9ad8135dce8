"""The gallery: three doors, and below them a card for each mechanism with its equation and the verdicts on its claims.

It is plain HTML of a snapshot (catalogue.json): no widget, no torch. So it is on screen as soon as its kernel has started,
needs little memory, and search and filter, which run in the browser, go on working when the kernel has been put away.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from widgets.labs.formula import escaped, lines, mathml
from widgets.states import gallery as state
from widgets.states.gallery import Asked, Entry, Page

if TYPE_CHECKING:
    from IPython.display import HTML

HERE = Path(__file__).parent
INTRODUCTION = (
    "In a modern network something small decides which expert, head or layer a token gets: a gate. "
    "Here you see gates decide while they learn, and what of their papers' claims can be seen at this scale."
)
SIGNS = {True: ("holds", "✓"), False: ("unseen", "✗"), None: ("reported", "·")}


def dashboard(query: str | None = None, folder: Path | None = None) -> "HTML":
    """The page for a link's query (by default that of the request), with the doors to the pages that `folder` holds."""
    from IPython.display import HTML

    entries = state.catalogue()
    asked = state.asked(os.environ.get("QUERY_STRING", "") if query is None else query, state.families(entries))
    # the mark is for the server's template: this output need not wait for the scripts of widgets
    return HTML(render(entries, asked, folder or Path.cwd()), metadata={"ge-plain": True})


def render(entries: list[Entry], asked: Asked, folder: Path) -> str:
    """The whole page: its look, its content, its script."""
    style, script = ((HERE / f"gallery.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    parts = [
        f"<header><h1>Gating explorer</h1><p>{escaped(INTRODUCTION)}</p></header>",
        notices(asked),
        doors(asked, folder),
        catalogue(entries, asked, folder),
    ]
    return f'<style>{style}</style><main class="ge-gallery">{"".join(parts)}</main><script>{script}</script>'


def notices(asked: Asked) -> str:
    """What the link said that was not understood."""
    if not asked.notices:
        return ""
    items = "".join(f"<li>{escaped(one)}</li>" for one in asked.notices)
    return f'<div class="ge-notice" role="status"><b>Part of the link was not used</b><ul>{items}</ul></div>'


# -- doors -------------------------------------------------------------------------------------------------------------


def doors(asked: Asked, folder: Path) -> str:
    """Learn, Play, Inspect: each leads to the pages that exist, and says so where there are none."""
    ways = (
        ("Learn", "Lessons, best in this order: one question each, answered by an experiment.", _learn(asked, folder)),
        ("Play", "Labs: a small model trains before your eyes, and you turn its knobs.", _play(asked, folder)),
        ("Inspect", "Trained models: what their gates do with a text.", _inspect(asked, folder)),
    )
    boxes = (f'<div class="ge-door"><h2>{name}</h2><p>{what}</p>{inside}</div>' for name, what, inside in ways)
    return f'<nav class="ge-doors" aria-label="Ways in">{"".join(boxes)}</nav>'


def _learn(asked: Asked, folder: Path) -> str:
    """The lessons, and for who has two minutes the one thing to see."""
    lessons = state.lessons(folder)
    shown = _links(lessons, asked) if lessons else "<p>None is here yet.</p>"
    if not (folder / "labs/routing.ipynb").is_file():
        return shown
    guided = _link("labs/routing.ipynb?preset=collapse", "Watch routing collapse, then repair it", asked)
    return f"{shown}<p>No time for a lesson? {guided}, in the routing lab.</p>"


def _play(asked: Asked, folder: Path) -> str:
    labs = state.labs(folder)
    return _links(labs, asked) if labs else "<p>None is here yet.</p>"


def _inspect(asked: Asked, folder: Path) -> str:
    if lab := state.checkpoint(folder):
        return _links([lab], asked)
    return (
        "<p>Their lab is not here yet. Until then, on a command line: <code>gating-explorer train</code> records a small "
        "model of your own, <code>gating-explorer verify</code> tries the claims below again.</p>"
    )


def _links(pages: Iterable[Page], asked: Asked) -> str:
    return "<ul>" + "".join(f"<li>{_link(page.path, page.title, asked)}</li>" for page in pages) + "</ul>"


def _link(address: str, words: str, asked: Asked, more: str = "") -> str:
    """A link beside this page, in this page's theme."""
    if asked.theme == "dark":
        address += ("&" if "?" in address else "?") + "theme=dark"
    return f'<a href="{escaped(address)}"{more}>{escaped(words)}</a>'


# -- catalogue ---------------------------------------------------------------------------------------------------------


def catalogue(entries: list[Entry], asked: Asked, folder: Path) -> str:
    """Search, filter, and the cards."""
    cards = "".join(card(entry, asked, folder) for entry in entries)
    return (
        f'<section aria-labelledby="ge-catalogue"><h2 id="ge-catalogue">Catalogue</h2>{_summary(entries)}'
        f'{_find(entries, asked)}<ul class="ge-cards" role="list">{cards}</ul>'
        '<div class="ge-none" hidden><p>No mechanism has all of these words in its title, paper, authors or summary. '
        'Try fewer words, or <button type="button" data-clear>show all</button>.</p></div></section>'
    )


def _summary(entries: list[Entry]) -> str:
    verdicts = [state.verdict_of(claim) for entry in entries for claim in entry["claims"]]
    tried = [verdict["holds"] for verdict in verdicts if verdict]
    counts = [f"{tried.count(holds)} {'hold' if holds else word}" for holds, word in state.WORDS.items()]
    return (
        f"<p>{len(tried)} claims of papers, tried in small models with three seeds or more, each beside a control that must "
        f"fail: {', '.join(counts)} without a judgement. A claim of a large model need not show in a small one.</p>"
    )


def _find(entries: list[Entry], asked: Asked) -> str:
    families = state.families(entries)
    options = "".join(
        f'<option value="{name}"{" selected" if name == asked.family else ""}>{name} ({count})</option>'
        for name, count in families.items()
    )
    return (
        '<form class="ge-find" role="search" aria-label="in the catalogue">'
        '<label>Search <input type="search" name="q" autocomplete="off" spellcheck="false" '
        f'maxlength="{state.LONGEST_SEARCH}" value="{escaped(asked.search)}" '
        'placeholder="title, paper, author, ..."></label>'
        f'<label>Family <select name="family"><option value="">all ({len(entries)})</option>{options}</select></label>'
        f'<p role="status" class="ge-count">{len(entries)} mechanisms</p></form>'
    )


def card(entry: Entry, asked: Asked, folder: Path) -> str:
    """One mechanism."""
    paper = entry["paper"]
    ident = f"ge-{entry['name']}"
    address = f"https://arxiv.org/abs/{paper['arxiv']}"
    formula = "".join(f"<div>{mathml(line)}</div>" for line in lines(entry["equation"]))
    parts = [
        f'<p class="ge-family">{escaped(entry["family"])}</p><h3 id="{ident}">{escaped(entry["title"])}</h3>',
        f"<p>{escaped(entry['summary'])}</p>",
        f'<div class="ge-equation" role="group" aria-label="Equation of {escaped(entry["title"])}">{formula}</div>',
        f'<p class="ge-paper">{escaped(paper["authors"])} ({paper["year"]}), <cite>{escaped(paper["title"])}</cite>, '
        f'<a href="{escaped(address)}">arXiv:{escaped(paper["arxiv"])}</a></p>',
        _claims(entry),
        _open(entry, asked, folder),
    ]
    data = f'data-family="{escaped(entry["family"])}" data-text="{escaped(state.searched(entry))}"'
    return f'<li class="ge-card" {data}><article aria-labelledby="{ident}">{"".join(parts)}</article></li>'


def _open(entry: Entry, asked: Asked, folder: Path) -> str:
    address = state.lab_of(entry, folder)
    if not address:
        return '<p class="ge-open">It has no lab yet.</p>'
    label = f' aria-label="Open {escaped(entry["title"])} in its lab"'
    return f'<p class="ge-open">{_link(address, "Open in its lab", asked, label)}</p>'


def _claims(entry: Entry) -> str:
    if not entry["claims"]:
        return "<p>No claim of its paper is tried here.</p>"
    items = "".join(_claim(claim) for claim in entry["claims"])
    measured = entry.get("measured")
    made = ""
    if measured:
        seeds = ", ".join(map(str, measured["seeds"]))
        made = (
            f'<p class="ge-made">Measured {measured["date"]} with seeds {seeds}, explorer {measured["explorer"]}, '
            f"torch {measured['torch']} ({measured['device']}).</p>"
        )
    return f'<h4>Claims</h4><ul class="ge-claims" role="list">{items}</ul>{made}'


def _claim(claim: Entry) -> str:
    verdict = state.verdict_of(claim)
    kind, sign = SIGNS[verdict["holds"]] if verdict else ("reported", "?")
    word = state.WORDS[verdict["holds"]] if verdict else "not tried yet"
    facts = [("paper", claim["reported"] or "gives no figure"), *(_measured(claim, verdict) if verdict else [])]
    rows = "".join(f"<div><dt>{name}</dt><dd>{escaped(value)}</dd></div>" for name, value in facts if value)
    return (
        f'<li><p class="ge-claim"><span class="ge-verdict ge-{kind}"><span aria-hidden="true">{sign}</span> {word}</span> '
        f"{escaped(claim['statement'])}</p><dl>{rows}</dl>{_how(claim)}</li>"
    )


def _measured(claim: Entry, verdict: Entry) -> list[tuple[str, str]]:
    asked_for = state.wanted(claim)
    ours = state.effect(claim, verdict) + (f"; asked: {asked_for}" if asked_for else "")
    return [("here", ours), ("control", state.control(claim, verdict))]


def _how(claim: Entry) -> str:
    """What was measured, where the paper says it, why this threshold."""
    metric = f"{claim['metric']}: {claim['metric_is']}" if claim["metric_is"] else claim["metric"]
    facts = (("measured", metric), ("source", claim["source"]), ("threshold", claim["why"]))
    rows = "".join(f"<div><dt>{name}</dt><dd>{escaped(value)}</dd></div>" for name, value in facts if value)
    label = f"How it was tried: {escaped(claim['statement'])}"
    return f'<details><summary aria-label="{label}">How it was tried</summary><dl>{rows}</dl></details>'
