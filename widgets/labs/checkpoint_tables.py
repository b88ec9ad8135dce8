"""Tables of the checkpoint lab as HTML: everything in them is escaped."""

import html
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from widgets.figures.text import clean, visible

MOST_ROWS = 200


def escaped(value: Any, longest: int = 120) -> str:
    """Anything as harmless text; no formula reader picks it up."""
    return html.escape(clean(value, longest)).replace("$", "&#36;")


def word(value: Any) -> str:
    """A number with four digits, a truth in words, a dash for what is not there."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if value is True or value is False:
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else escaped(value)


def table(
    rows: Sequence[Mapping[str, Any]],
    columns: Mapping[str, str],
    caption: str,
    forms: Mapping[str, Callable[[Any], str]] | None = None,
) -> str:
    """columns: key -> heading; forms: key -> what makes harmless HTML of a value. Scrolls sideways where it is too wide."""
    forms = forms or {}
    head = "".join(f'<th scope="col">{escaped(title)}</th>' for title in columns.values())
    body = "".join(
        "<tr>" + "".join(f"<td>{forms.get(key, word)(row.get(key))}</td>" for key in columns) + "</tr>"
        for row in rows[:MOST_ROWS]
    )
    more = f"<p>The first {MOST_ROWS} of {len(rows)}.</p>" if len(rows) > MOST_ROWS else ""
    scrolls = f'<div class="ge-scroll" tabindex="0" role="region" aria-label="{escaped(caption)}">'
    return (
        f"{scrolls}<table><caption>{escaped(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>{more}"
    )


def vocabulary(rows: Sequence[Mapping[str, Any]], experts: int, layer: str) -> str:
    """The tokens of each expert in a line: from explorer.analyses.domains.vocabulary."""
    by_expert: dict[int, list[str]] = {}
    for row in rows:
        text = row["text"] if isinstance(row["text"], str) and row["text"] else str(row["token"])
        title = f"{row['count']} times, {row['share']:.0%} of this token's assignments"
        chip = (
            f'<span class="ge-token" title="{title}"><code>{html.escape(visible(text)).replace("$", "&#36;")}</code> '
            f"×{row['count']}</span>"
        )
        by_expert.setdefault(int(row["expert"]), []).append(chip)
    lines = [{"expert": e, "tokens": " ".join(by_expert.get(e, ["–"]))} for e in range(experts)]
    return table(
        lines, {"expert": "expert", "tokens": "tokens it takes more often than chance"}, f"Tokens of each expert, {layer}",
        {"tokens": str},
    )  # fmt: skip
