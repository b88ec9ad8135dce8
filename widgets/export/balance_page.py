"""The balance benchmark as a page of its own: python -m widgets.export.balance_page < balance.json > balance.html."""

import html
import json
import sys
from typing import TYPE_CHECKING

from explorer.balancing import COLUMNS, MEASURES, METHODS, MIX, table
from widgets.export.standalone import Heading, Prose, RawHtml, standalone
from widgets.figures.balance_methods import balance_methods
from widgets.views.chart import Chart

if TYPE_CHECKING:
    import pandas as pd

TITLE = "What evens out the load of experts"
CELL = ' style="text-align:left; vertical-align:top; white-space:nowrap; padding:4px 14px 4px 0"'


def page(frame: "pd.DataFrame") -> str:
    """The page of a table that `explorer.balancing.balance` made: the figure, the numbers, what was done."""
    shares = ", ".join(f"{name} {share:.0%}" for name, share in MIX.items())
    seeds = ", ".join(map(str, frame["seed"].unique()))
    measures = "\n\n".join(f"{title}: {MEASURES[column]}." for title, (column, _) in COLUMNS.items())
    methods = "\n\n".join(
        f"{name} ({METHODS[name].mechanism}): {METHODS[name].does}"
        for name in frame["method"].unique()
        if name in METHODS and METHODS[name].control
    )
    parts = [
        Prose(f"Eight experts a layer learn from text of which little is rare: {shares}."),
        Chart(balance_methods.as_dict(frame.to_dict("records")), label=TITLE),
        Heading("The numbers"),
        RawHtml(as_html(table(frame))),
        Heading("What is measured"),
        Prose(measures + "\n\nvs none: what is added to the loss of the same router without the method."),
        Heading("The methods"),
        Prose(methods),
    ]
    return standalone(TITLE, parts, stamp=f"gating-explorer balance · seeds {seeds}")


def as_html(words: "pd.DataFrame") -> str:
    """The table with its lines kept; everything in it is escaped."""
    cells = [[html.escape(str(cell)).replace("\n", "<br>") for cell in row] for row in words.itertuples(index=False)]
    head = "".join(f'<th scope="col"{CELL}>{html.escape(str(name))}</th>' for name in words.columns)
    body = "\n".join(
        f'<tr><th scope="row"{CELL}>{row[0]}</th>' + "".join(f"<td{CELL}>{cell}</td>" for cell in row[1:]) + "</tr>"
        for row in cells
    )
    scrolls = ' style="overflow-x:auto" tabindex="0" role="region" aria-label="The numbers"'
    return f"<div{scrolls}><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def main() -> None:
    """From a table in JSON on stdin to a page on stdout."""
    import pandas as pd

    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    sys.stdout.write(page(pd.DataFrame(json.loads(sys.stdin.buffer.read()))))


if __name__ == "__main__":
    main()
