"""What a trace was, in words for a page that is passed on: names without the folders of the machine it was made on."""

import html
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from widgets.figures.text import clean, visible

if TYPE_CHECKING:
    import pandas as pd

    from explorer.recording import Recording

MOST_ROWS = 200
MOST_DOMAINS = 12
FOLDERS = re.compile(r"(?<![\w.])(?:~|[A-Za-z]:)?[/\\](?:[^\s/\\'\"]+[/\\])+")
STYLE = ' style="text-align:left; vertical-align:top; padding:4px 14px 4px 0"'


def short_name(given: object, longest: int = 80) -> str:
    """A checkpoint's name without the folders it lies in; an id of the hub, "owner/name", stays whole."""
    text = str(given)
    if "\\" in text or re.match("[A-Za-z]:", text):
        text = PureWindowsPath(text).name
    elif text.startswith(("/", ".", "~")) or text.count("/") > 1:
        text = PurePosixPath(text).name
    return clean(text, longest)


def name_of(rec: "Recording", otherwise: str = "") -> str:
    """The checkpoint's name; of other recordings the model's, or the file's."""
    header = rec.header
    traced = header.get("trace") or {}
    return short_name(traced.get("checkpoint") or otherwise or header.get("model") or "a recording")


def facts(rec: "Recording") -> Iterator[str]:
    """One paragraph each: what was traced, how tokens are routed, how the numbers came about, and what is missing."""
    traced = rec.header.get("trace")
    if traced is not None:
        yield _given(traced)
    yield _routing(rec)
    if traced is not None:
        yield from _made(traced)
    else:
        yield from _recorded(rec)


def _given(traced: Mapping[str, Any]) -> str:
    windows, texts = len(traced.get("domain") or []), len(set(traced.get("text") or []))
    what = f"{clean(traced.get('architecture', 'a model'))} was given {count(traced.get('tokens', 0), 'token')}"
    what += f" of {count(texts, 'text')}" if texts else ""
    if windows:
        what += f", cut into {count(windows, 'window')} of at most {int(traced.get('window', 0)):,} tokens"
    what += "; each window begins anew, without what came before it." if windows > 1 else "."
    names, per = traced.get("domains") or [], Counter(traced.get("domain") or [])
    if names:
        listed = [f"{clean(name, 40)} ({count(per[i], 'window')})" for i, name in enumerate(names[:MOST_DOMAINS])]
        more = f" and {len(names) - MOST_DOMAINS} more" if len(names) > MOST_DOMAINS else ""
        what += f" Domains: {', '.join(listed)}{more}."
    added = [clean(visible(one), 24) for one in traced.get("added") or []]
    return what + (f" The tokenizer put {', '.join(added)} before or behind every text." if added else "")


def _routing(rec: "Recording") -> str:
    layers = rec.layers()
    if not layers:
        return "No layer of it routes tokens to experts."
    sizes = sorted({rec.counts(layer)[1].shape[1] for layer in layers})
    experts = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    rule = (rec.header.get("trace") or {}).get("rule")
    verb = "route" if len(layers) > 1 else "routes"
    some = chosen(rec)
    what = f"{count(len(layers), 'layer')} {verb} " + (f"each token to {some} of" if some else "tokens to")
    what += f" {experts} experts"
    if rule:
        return f"{what}. The rule: {clean(rule, 300)}."
    routers = rec.header.get("routers") or {}
    about = [one for one in map(routers.get, layers) if isinstance(one, Mapping)]
    kinds = sorted({clean(one["scores"], 40) for one in about if one.get("scores")})
    shared = any(one.get("shared") for one in about)
    what += f", by {' or '.join(kinds)} scores" if kinds else ""
    return what + (", beside a shared expert that takes every token." if shared else ".")


def chosen(rec: "Recording") -> str:
    """How many slots a token has, "8" or "1 to 8"; "" where only counts are known."""
    axes = rec.header["axes"]
    held = [rec.last(f"{layer}/index").shape[-1] for layer in rec.layers() if f"{layer}/index" in axes and rec.steps()]
    if not held:
        return ""
    return f"{held[0]}" if len(set(held)) == 1 else f"{min(held)} to {max(held)}"


def _made(traced: Mapping[str, Any]) -> Iterator[str]:
    method = str(traced.get("method", ""))
    how = {
        "streamed": "Streamed: one layer after the other was read from the files, and of the experts those that tokens chose",
        "transformers": "Run as a whole model by transformers",
        "transformers, layers on disk": "Run by transformers, with the layers that did not fit into memory on disk",
    }.get(method, clean(method, 80))  # fmt: skip
    why = str(traced.get("why") or "").replace(str(traced.get("checkpoint") or "\0"), "the checkpoint")
    because = f". It was not streamed: {clean(FOLDERS.sub('…/', why), 300).rstrip('.')}" if why else ""
    cost = f"{size(traced.get('bytes_read', 0))} were read in {float(traced.get('seconds', 0)):.1f} s"
    kept = (
        ""
        if traced.get("scores_kept", True)
        else " The scores of single tokens were not kept; means over all tokens were."
    )
    yield f"{how}{because}. {cost}; computed in {clean(traced.get('dtype', 'float32'))}.{kept}"
    done, layers = int(traced.get("done", 0)), int(traced.get("layers", 0))
    if traced.get("cut") or done < layers:
        yield f"The trace was cut: {done} of {layers} routed layers were finished, and only they are shown here."


def _recorded(rec: "Recording") -> Iterator[str]:
    source = rec.header.get("source")
    if isinstance(source, Mapping):
        told = [clean(source[key], 120) for key in ("engine", "format", "note") if source.get(key)]
        yield f"Read from what a serving engine wrote: {', '.join(told)}." if told else "Read from a serving engine."
    steps = max((rec.counts(layer)[0].numel() for layer in rec.layers()), default=0)
    if steps > 1:
        yield f"The recording has {count(steps, 'step')}, which count together."


def count(number: object, what: str) -> str:
    """ "1 token", "1,200 tokens"."""
    n = int(float(str(number)))
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def size(number: object) -> str:
    """Bytes as "4.2 GB"."""
    n, units = float(str(number)), ("bytes", "kB", "MB", "GB", "TB")
    power = min(len(units) - 1, max(0, (len(str(int(n))) - 1) // 3))
    return f"{n / 1000**power:.3g} {units[power]}" if power else f"{n:.0f} bytes"


def table(columns: Mapping[str, str], rows: Sequence[Mapping[Any, Any]], label: str, folded: bool = False) -> str:
    """Rows as HTML, everything in it escaped; folded: closed until its reader opens it."""
    head = "".join(f'<th scope="col"{STYLE}>{html.escape(title)}</th>' for title in columns.values())
    body = "\n".join(
        "<tr>" + "".join(f"<td{STYLE}>{html.escape(word(row.get(key)))}</td>" for key in columns) + "</tr>"
        for row in rows[:MOST_ROWS]
    )
    more = f"<p>The first {MOST_ROWS} of {len(rows)}.</p>" if len(rows) > MOST_ROWS else ""
    scrolls = f' style="overflow-x:auto" tabindex="0" role="region" aria-label="{html.escape(label)}"'
    whole = f"<div{scrolls}><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{more}"
    return f"<details><summary>{html.escape(label)}</summary>{whole}</details>" if folded else whole


def harmless(sentence: str) -> str:
    """An error's sentence for a page that is passed on: one line, without the folders of this machine."""
    return clean(FOLDERS.sub("…/", sentence), 400)


def columns(frame: "pd.DataFrame", *names: str) -> list[Any]:
    """Columns of a table as lists, for a picture."""
    return [frame[name].tolist() for name in names]


def word(value: Any) -> str:
    """A cell: numbers short, NaN as a dash, text without anything that cannot be seen."""
    if value is None or (isinstance(value, float) and value != value):
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else clean(value, 400)
