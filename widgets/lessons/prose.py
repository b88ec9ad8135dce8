"""Markdown of a lesson as HTML: the little that tasks, quizzes and questions need, and nothing of a stranger's HTML."""

import re

from widgets.labs.formula import escaped, mathml

_PIECES = re.compile(r"`([^`\n]+)`|\$([^$\n]+)\$|\[([^\]\n]+)\]\((https?://[^\s()<>\"]+)\)")
_STRONG = re.compile(r"\*\*(?=\S)(.+?)(?<=\S)\*\*")
_SOFT = re.compile(r"(?<![\w*])\*(?=\S)([^*\n]+?)(?<=\S)\*(?![\w*])")
_ITEM = re.compile(r"^\s*(?:[-*]|\d+\.)\s+")
_FENCE = re.compile(r"^```[^\n]*\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)


def inline(text: str) -> str:
    """One line: `code`, $formula$, **strong**, *soft*, [words](https://...); all else is text."""
    made, end = [], 0
    for found in _PIECES.finditer(text):
        made += [_letters(text[end : found.start()]), _piece(found)]
        end = found.end()
    return "".join([*made, _letters(text[end:])])


def blocks(markdown: str) -> str:
    """Paragraphs, lists and fenced code."""
    made, end = [], 0
    for fence in _FENCE.finditer(markdown):
        made += [_paragraphs(markdown[end : fence.start()]), f"<pre><code>{escaped(fence[1].rstrip())}</code></pre>"]
        end = fence.end()
    return "".join([*made, _paragraphs(markdown[end:])])


def _paragraphs(text: str) -> str:
    return "".join(_paragraph(one.strip("\n")) for one in re.split(r"\n\s*\n", text) if one.strip())


def _paragraph(text: str) -> str:
    lines = text.splitlines()
    first = next((i for i, line in enumerate(lines) if _ITEM.match(line)), len(lines))
    before = f"<p>{inline(' '.join(lines[:first]))}</p>" if first else ""
    if first == len(lines):
        return before
    items: list[str] = []
    for line in lines[first:]:
        if _ITEM.match(line):
            items.append(_ITEM.sub("", line))
        else:
            items[-1] += f" {line.strip()}"
    tag = "ol" if lines[first].strip()[0].isdigit() else "ul"
    return f"{before}<{tag}>{''.join(f'<li>{inline(one)}</li>' for one in items)}</{tag}>"


def _piece(found: "re.Match[str]") -> str:
    code, latex, words, address = found.groups()
    if code is not None:
        return f"<code>{escaped(code)}</code>"
    if latex is not None:
        return mathml(latex, block=False)
    return f'<a href="{escaped(address)}" target="_blank" rel="noopener noreferrer">{escaped(words)}</a>'


def _letters(text: str) -> str:
    strong = _STRONG.sub(r"<strong>\1</strong>", escaped(text))
    return _SOFT.sub(r"<em>\1</em>", strong)
