"""`python -m tests.classroom queries`: links that say anything at all. Every page opens with defaults and plain sentences.

The thousand are read in this process by the pages' own readers; some of them also open a page of a real server.
"""

import argparse
import asyncio
import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, quote_plus

from tests.classroom.hostile import Ear, Heard, Row, leaks, table
from tests.classroom.room import Server

SECONDS = 1.0  # within which a link is read
LONGEST = 500  # characters of a sentence about it
VALUES = [
    "", " ", "0", "-0", "-1", "99", "1e9", "1E400", "-inf", "nan", "NaN", "inf", "1.5", "0x10", "1_0", "٣", "²", "½",
    "9" * 5000, "1" + "0" * 400, "1e-400", "1,2", "true", "None", "null", "[]", "{}", "[1]", "()", "lambda: 1",
    "../", "../../etc/passwd", "/etc/passwd", "/dev/zero", "file:///etc/passwd", "C:\\Windows", "~root", "%2e%2e%2f",
    "\x00", "a\x00b", "\r\nSet-Cookie: a=b", "\x1b[31m", "\u202egnp", "\ud800", "\ufeff", "Z͑ͫ̓̉ͭ" * 50,
    "<script>alert(1)</script>", "\"><img src=x onerror=alert(1)>", "'-alert(1)-'", "$\\href{javascript:alert(1)}{x}$",
    "{{7*7}}", "${7*7}", "{0.__class__}", "%s%s%n", "%(x)s", "__class__", "__import__('os').system('id')", "; rm -rf /",
    "' OR 1=1 --", "=cmd()", "a" * 100_000, "a,b," * 400, "," * 1999, ":" * 300, "5:fork", "nan:k=3", "-1:fork",
    "5:learning_rate=nan", "5:__class__=1", "http://169.254.169.254/", "owner/name", "\\\\server\\share", "con", "x=y&z",
]  # fmt: skip
KEYS = [
    "__class__", "__dict__", "error", "notices", "self", "query", "", " ", "k[]", "k.k", "b.", "b.b.b", ".", "compare.",
    "compare..", "a" * 3000, "<b>", "\x00", "theme", "template", "token", "kernel_name", "\u202e", "é", "own", "texts",
]  # fmt: skip
KNOWN = {
    "gallery": ["q", "family", "theme"],
    "routing": [
        "mechanism", "task", "seed", "k", "n_experts", "layers", "batch", "expert_width", "learning_rate", "b", "b.k",
        "match", "speed", "layer", "large", "steps", "cursor", "domains", "hide", "do", "preset", "aux_loss",
    ],
    "compare": ["compare", "compare.seeds", "compare.steps", "compare.match", "compare.by", "mechanism", "task", "k"],
    "attention": [
        "mechanism", "task", "seed", "n_heads", "rope_base", "qk_norm", "layers", "batch", "learning_rate", "b", "b.k",
        "match", "speed", "layer", "large", "steps", "cursor", "hide", "do", "preset", "feed_forward", "n_tasks",
    ],
    "checkpoint": ["checkpoint", "beside", "domain", "layer", "window", "attention", "trace", "large"],
    "lesson": ["theme", "template", "lesson", "student", "id"],
}  # fmt: skip
GOOD = [
    "switch", "expert-choice", "soft-moe", "hopfield", "softmax-attention", "topk-softmax", "text", "clusters",
    "bigram-backcopy", "2", "4", "0.5", "16", "256", "1024", "8192", "parameters", "flops", "none", "glu", "collapse",
    "switch,sinkhorn", "early", "512", "1", "4294967295", "dark", "loss,map", "held_out_loss",
]  # fmt: skip


def hostile_query(dice: random.Random, page: str) -> str:
    """One query string: settings of the page and strangers, good values and bad ones, in any coding."""
    pairs = []
    for _ in range(dice.choice([1, 1, 2, 2, 3, 4, 6, 120])):
        key = dice.choice(KNOWN[page]) if dice.random() < 0.8 else dice.choice(KEYS)
        value = dice.choice(GOOD if dice.random() < 0.35 else VALUES)
        pairs.append((key, value))
    if dice.random() < 0.15:
        pairs.append(pairs[0])
    coded = [
        _coded(dice, key) + dice.choice(["=", "=", "=", "=", "", "==", "%3D"]) + _coded(dice, value)
        for key, value in pairs
    ]
    query = dice.choice(["&", "&", "&", "&&", ";", "&amp;"]).join(coded)
    return query[:120_000] + dice.choice(["", "", "", "&", "%", "%f", "%zz", "#x", "?"])


def _coded(dice: random.Random, text: str) -> str:
    how = dice.randrange(6)
    data = text.encode(errors="surrogatepass")
    if how == 0:
        return text
    if how == 1:
        return "".join(f"%{byte:02x}" for byte in data)[:9000]
    if how == 2:
        return quote_plus(data)
    if how == 3:
        return quote(quote(data))
    if how == 4:
        return quote(data, safe="/,:=") + dice.choice(["", "%ff", "%c0%ae", "%u0041", "%00"])
    return quote(text.encode("utf-16", errors="surrogatepass")) if dice.random() < 0.2 else quote(data)


# -- in this process ---------------------------------------------------------------------------------------------------


def _lab(kind: Callable[[str], Any]) -> Callable[[str], list[str]]:
    def read(query: str) -> list[str]:
        from widgets.labs.frame import notices

        state = kind(query)
        said = list(state.notices)
        # what it made of the link can be asked for again, and is then understood
        again = kind(state.link())
        assert again.link() == state.link(), f"its own link {state.link()[:200]!r} opens {again.link()[:200]!r}"
        assert not again.notices, f"its own link is not understood: {again.notices[:2]}"
        _check_html(notices(state).value)
        return said

    return read


def _gallery(query: str) -> list[str]:
    from widgets.labs import gallery
    from widgets.states import gallery as states

    asked = states.asked(query, states.families(states.catalogue()))
    _check_html(gallery.notices(asked))
    return list(asked.notices)


def _lesson(query: str) -> list[str]:
    from widgets.labs.shell import theme_of

    assert theme_of(query) in ("light", "dark")
    return []


def _check_html(html: str) -> None:
    """Nothing but our own tags, and no dollar for a reader of formulas."""
    strange = [tag for tag in re.findall(r"<[^>]*>?", html) if not re.fullmatch(r"</?(b|ul|li|div[^<>]*)>", tag)]
    assert not strange, f"a tag in the notice: {strange[:3]}"
    assert "$" not in html, "a dollar in the notice"


def readers() -> dict[str, Callable[[str], list[str]]]:
    """Page -> reads a query as that page does and returns what it says about it."""
    from widgets.states.attention import AttentionState
    from widgets.states.checkpoint import CheckpointState
    from widgets.states.routing import RoutingState

    routing = _lab(RoutingState)
    labs = {
        "routing": routing,
        "compare": routing,
        "attention": _lab(AttentionState),
        "checkpoint": _lab(CheckpointState),
    }
    return {"gallery": _gallery, **labs, "lesson": _lesson}


@dataclass
class Seen:
    """What the links of one page did."""

    count: int = 0
    sentences: int = 0
    slowest: float = 0.0
    faults: list[str] = field(default_factory=list)

    def read(self, reader: Callable[[str], list[str]], query: str) -> None:
        """One link: an exception, a leak or a sentence that is none is a fault."""
        begun = time.perf_counter()
        try:
            said = reader(query)
        except Exception as error:  # noqa: BLE001  any at all is what is looked for
            self.faults.append(f"{type(error).__name__}: {error} for {query[:200]!r}")
            said = []
        self.slowest = max(self.slowest, time.perf_counter() - begun)
        self.count += 1
        self.sentences += len(said)
        self.faults += [f"{fault} for {query[:200]!r}" for one in said for fault in _faults(one)]


def _faults(sentence: str) -> list[str]:
    """What is wrong with a sentence on the page."""
    wrong = [] if sentence.isprintable() and len(sentence) <= LONGEST else [f"no plain sentence: {sentence[:300]!r}"]
    return wrong + leaks(sentence)


def read_all(count: int, seed: int) -> dict[str, Seen]:
    """So many links, shared among the pages."""
    dice, found = random.Random(seed), {page: Seen() for page in KNOWN}
    by_page = readers()
    for number in range(count):
        page = list(KNOWN)[number % len(KNOWN)]
        found[page].read(by_page[page], hostile_query(dice, page))
    return found


# -- through a server --------------------------------------------------------------------------------------------------

NOTEBOOKS = {
    "gallery": ("index.ipynb", ""),
    "routing": ("labs/routing.ipynb", "Train"),
    "compare": ("labs/routing.ipynb", "Train"),
    "attention": ("labs/attention.ipynb", "Train"),
    "checkpoint": ("labs/checkpoint.ipynb", "Open"),
    "lesson": ("lessons/2_top_k_routing.ipynb", "Run"),
}
FAILED = "could not be made"  # says a lab's page where there is no lab
HEAVY = [  # what is allowed one by one and is too much together, and what asks for work at once
    ("routing", "n_experts=256&layers=16&expert_width=8192"),
    ("routing", "batch=1024&layers=16&n_experts=256&steps=5"),
    ("attention", "n_heads=32&layers=16&batch=1024&steps=5"),
    ("compare", "compare=switch,sinkhorn&compare.seeds=10&compare.steps=2000"),
    ("checkpoint", "checkpoint=/etc/passwd&trace=1"),
    ("checkpoint", "checkpoint=~/.bashrc&beside=/dev/zero&trace=1&attention=1"),
]


def for_a_server(count: int, seed: int) -> Iterator[tuple[str, str]]:
    """(page, query): what is heavy first, then hostile ones that a request line has room for."""
    dice = random.Random(seed)
    yield from HEAVY[:count]
    for number in range(max(0, count - len(HEAVY))):
        page = list(KNOWN)[number % len(KNOWN)]
        query = hostile_query(dice, page)
        coded = quote(query.encode(errors="surrogatepass"), safe="%&=;+,:./?")
        yield page, coded[: dice.choice([2000, 2000, 60_000])].rstrip("%")


async def visit(server: Server, page: str, query: str, ear: Ear) -> str:
    """Open the page with this link; "" if it is usable, else what happened."""
    path, button = NOTEBOOKS[page]
    visitor = Heard(server.url, f"{path}?{query}", ear)
    try:
        if not button:
            answer = await visitor.fetch(f"voila/render/{visitor.path}", 120)
            usable = answer.code == 200 and b"Ways in" in answer.body
            return "" if usable else f"status {answer.code}, and no gallery"
        await visitor.open(120)
        if "There was an error" in visitor.html:
            return "an exception on the page"
        await visitor.find(button, 90)
        await visitor.drain(1.0)
        visitor.states.clear()
        visitor.ask_for_widgets()
        await visitor.find(button, 30)
    except Exception as error:  # noqa: BLE001  told in the table
        return f"{type(error).__name__}: {error}"
    else:
        failed = [text for state in visitor.states.values() if FAILED in (text := str(state.get("value", "")))]
        return "the lab could not be made" if failed else ""
    finally:
        await visitor.leave()


async def visits(count: int, seed: int, ear: Ear) -> list[str]:
    """What went wrong of so many, on a server for a class of its own."""
    with Server(people=6, environment={"GATING_EXPLORER_LESSON_STEPS": "5"}) as server:
        await server.warm()
        wrong = []
        for page, query in for_a_server(count, seed):
            if fault := await visit(server, page, query, ear):
                wrong.append(f"{page}?{query[:200]}: {fault[:300]}")
        health = await server.health()
        if health.get("status") != "ok":
            wrong.append(f"the server is not well: {health}")
    return wrong


def main(argv: list[str]) -> int:
    """The table; 1 if something fell short."""
    parser = argparse.ArgumentParser(prog="queries", description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="links that are read in this process")
    parser.add_argument("--visits", type=int, default=30, help="links that open a page of a server")
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args(argv)
    found, ear = read_all(given.count, given.seed), Ear()
    rows = [
        Row(
            f"{page}: {seen.count} links, {seen.sentences} sentences",
            f"{len(seen.faults)} faults, slowest {seen.slowest:.2f} s",
            f"0 faults, {SECONDS:g} s",
            not seen.faults and seen.slowest <= SECONDS,
        )
        for page, seen in found.items()
    ]
    wrong: list[str] = []
    if given.visits:
        wrong = asyncio.run(visits(given.visits, given.seed, ear))
        rows += [Row(f"pages of a server: {given.visits}", f"{len(wrong)} unusable", "0", not wrong), ear.row()]
    examples = [fault for seen in found.values() for fault in seen.faults[:2]]
    return table("Hostile links", rows, [*examples, *wrong, *ear.leaks])
