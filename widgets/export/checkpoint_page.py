"""What a checkpoint's files say, as a page of its own: python -m widgets.export.checkpoint_page < report.json > page.html."""

import html
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from widgets.export.balance_page import CELL
from widgets.export.standalone import Heading, Part, Prose, RawHtml, standalone
from widgets.figures.by_layer import by_layer
from widgets.figures.pairs import router_cosine
from widgets.figures.text import clean
from widgets.views.chart import Chart

MOST_ROWS = 200
ROUTERS = {
    "layer": "layer", "path": "path", "experts": "experts", "width": "width", "norm_mean": "mean length of a row",
    "norm_min": "shortest", "norm_max": "longest", "bias": "bias", "shared": "shared", "experts_are": "experts are kept",
    "stored_as": "stored as",
}  # fmt: skip
GATES = {"layer": "layer", "path": "path", "where": "where", "numbers": "numbers for a token", "function": "function"}


def page(report: Mapping[str, Any]) -> str:
    """The page of what `explorer.checkpoints.report.report` made."""
    given = str(report["checkpoint"])
    # a page is passed on: where the folder lies on this machine is nobody's business
    name = clean(PurePath(given).name if given.startswith(("/", ".", "~")) else given, 120)
    return standalone(f"How {name} routes", list(_parts(report)), stamp=f"gating-explorer inspect · {name}")


def _parts(report: Mapping[str, Any]) -> Iterator[Part]:
    yield Prose("\n\n".join(_facts(report)))
    if report["routers"]:
        yield from _of_experts(report)
    if report["sinks"]:
        yield Heading("Learned sinks")
        yield Prose(
            "A learned sink is a number that each head adds to its softmax. Attention that it takes goes to no token. It is "
            "not the sink that grows on the first token without being asked for."
        )
        yield _chart(report["sinks"], "Logit of each head's learned sink", "head", signed=True)
    if report["output_gates"]:
        yield Heading("Output gates of attention")
        yield Prose("What attention found is multiplied by a gate, which is computed of the same token.")
        yield RawHtml(_table(report["output_gates"], GATES, "Output gates of attention"))
    yield Heading("What is not known")
    left = [clean(sentence, 300) for sentence in (*report["damaged"], *report["unknown"])]
    yield Prose("\n\n".join(left) or "Nothing was left open.")


def _facts(report: Mapping[str, Any]) -> Iterator[str]:
    size = f"{report['tensors']:,} tensors, {report['bytes']:,} bytes"
    yield f"{clean(report['architecture'])}: {size}. Read from its files alone."
    if report["routers"]:
        chosen = f"; a token gets {report['chosen']}" if report["chosen"] else ""
        yield f"{len(report['routers'])} layers route tokens to {report['experts']} experts each{chosen}."
        yield f"The rule: {clean(report['rule'], 300)}."


def _of_experts(report: Mapping[str, Any]) -> Iterator[Part]:
    routers = report["routers"]
    lengths = [{"path": row["path"], "values": norms} for row, norms in zip(routers, report["norms"], strict=True)]
    yield Heading("Routers")
    yield Prose(
        "A router has a row for each expert. The longer the row, the stronger it speaks for or against its expert."
    )
    yield _chart(lengths, "Length of each router row", "expert", ratio=True)
    yield RawHtml(_table(routers, ROUTERS, "Routers"))
    if report["biases"]:
        yield Heading("Biases")
        yield Prose(_about_biases(routers))
        yield _chart(report["biases"], "Bias of each expert", "expert", signed=True)
    yield from _of_pairs(report["pairs"])
    if report["shared_gates"]:
        yield Heading("Gates of the shared expert")
        yield Prose("A sigmoid of one product with the token says how much of the shared expert it gets.")
        columns = {"layer": "layer", "path": "path", "norm": "length of the vector"}
        yield RawHtml(_table(report["shared_gates"], columns, "Gates of the shared expert"))


def _about_biases(routers: Sequence[Mapping[str, Any]]) -> str:
    if any(row["bias"] == "scores" for row in routers):
        return "The bias is a part of the scores: it counts for the choice and for the weights."
    return (
        "The bias is added to the scores for the choice alone, and not for the weights. Training raises it for experts that "
        "got too few tokens."
    )


def _of_pairs(pairs: Mapping[str, Any] | None) -> Iterator[Part]:
    if pairs is None:
        return
    yield Heading("Experts beside each other")
    layer = clean(pairs["path"])
    if pairs["cosine"] is not None:
        yield Chart(router_cosine.as_dict(_numbers(pairs["cosine"]), layer), label="Likeness of the router's rows")
    if pairs["similarity"] is not None:
        title = "Likeness of the experts' matrices"
        yield Chart(router_cosine.as_dict(_numbers(pairs["similarity"]), layer, title), label=title)
        yield Prose(
            f"Compared: {clean(pairs['sample'], 300)}. Experts that began as copies of one another are alike; experts that "
            "began from random numbers are not, even where they do the same, as their neurons stand in another order."
        )
    if pairs["without"]:
        yield Prose(clean(pairs["without"], 300))


def _numbers(rows: Sequence[Sequence[float | None]]) -> list[list[float]]:
    return [[float("nan") if x is None else x for x in row] for row in rows]


def _chart(rows: Sequence[Mapping[str, Any]], title: str, of: str, signed: bool = False, ratio: bool = False) -> Chart:
    values, names = [row["values"] for row in rows], [row["path"] for row in rows]
    return Chart(by_layer.as_dict(values, names, title, of, signed, ratio), label=title)


def _table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], label: str) -> str:
    """Everything in it is escaped."""
    head = "".join(f'<th scope="col"{CELL}>{html.escape(title)}</th>' for title in columns.values())
    body = "\n".join(
        "<tr>" + "".join(f"<td{CELL}>{html.escape(_word(row.get(key)))}</td>" for key in columns) + "</tr>"
        for row in rows[:MOST_ROWS]
    )
    more = f"<p>The first {MOST_ROWS} of {len(rows)}.</p>" if len(rows) > MOST_ROWS else ""
    scrolls = f' style="overflow-x:auto" tabindex="0" role="region" aria-label="{html.escape(label)}"'
    return f"<div{scrolls}><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{more}"


def _word(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else clean(value, 120)


def main() -> None:
    """From a report in JSON on stdin to a page on stdout."""
    sys.stdout.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
    sys.stdout.write(page(json.loads(sys.stdin.buffer.read())))


if __name__ == "__main__":
    main()
