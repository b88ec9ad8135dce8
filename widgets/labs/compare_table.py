"""The ranked table of a comparison as HTML: a row a router, the mean over the seeds and their range in every cell."""

import explorer
from widgets.labs.frame import escape
from widgets.states.compare import COLUMNS, Line

ROUTER = '<th scope="row" style="text-align:left;min-width:130px">'


def title_of(name: str) -> str:
    """What the menus call a mechanism."""
    return explorer.spec(name).title


def table(lines: list[Line], by: str, seeds: int, match: str) -> str:
    """The mean over the seeds, and the lowest and highest beneath it; what cannot be compared says why."""
    shown = [by, *(name for name in COLUMNS if name != by)]
    heads = [(COLUMNS[name].title, COLUMNS[name].meaning) for name in shown]
    heads.insert(1, ("against the next", "whether the seeds of both overlap"))
    heads = [("", ""), ("router", ""), *heads]
    if match != "none":
        heads.append(("mismatch", "what the matched width could not make equal"))
    head = "".join(f'<th scope="col" title="{escape(meaning)}">{escape(title)}</th>' for title, meaning in heads)
    body = "".join(_row(line, shown, seeds, len(heads), match) for line in lines)
    caption = f"Mean over the seeds (lowest to highest), best {COLUMNS[by].title} first"
    whole = f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div tabindex="0" role="region" aria-label="Ranked routers" style="overflow-x:auto">{whole}</div>'


def _row(line: Line, shown: list[str], seeds: int, width: int, match: str) -> str:
    head = f"{escape(title_of(line.mechanism))}<br><small>{escape(line.mechanism)}"
    if not line.spreads:
        why = f'<div style="max-width:min(34em, 50vw)">{_errors(line)}</div>'
        cell = f'<td colspan="{width - 2}" style="text-align:left">{why}</td>'
        return f"<tr><td></td>{ROUTER}{head}</small></th>{cell}</tr>"
    done = next(iter(line.spreads.values())).seeds
    head += f", {done} of {seeds} seeds</small>" if done < seeds else "</small>"
    head += f"<br>{_errors(line)}" if line.errors else ""
    cells = [_cell(line, column) for column in shown]
    cells.insert(1, f"<td>{escape(line.next or '–')}</td>")
    if match != "none":
        cells.append(f"<td>{'–' if line.mismatch is None else f'{line.mismatch:+.1f} %'}</td>")
    return f"<tr><td>{line.rank or '–'}</td>{ROUTER}{head}</th>{''.join(cells)}</tr>"


def _errors(line: Line) -> str:
    return "<br>".join(f"<small>{escape(one)}</small>" for one in line.errors)


def _cell(line: Line, column: str) -> str:
    spread, form = line.spreads.get(column), COLUMNS[column].form
    if spread is None:
        return '<td title="it has nothing of the kind">–</td>'
    around = (
        f"<br><small style='white-space:nowrap'>{spread.low:{form}} to {spread.high:{form}}</small>"
        if spread.high > spread.low
        else ""
    )
    return f"<td><b>{spread.mean:{form}}</b>{around}</td>"
