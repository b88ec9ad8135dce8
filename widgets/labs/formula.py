"""LaTeX as MathML, which browsers draw themselves: no script, no fonts to fetch, and a screen reader reads it.

latex2mathml does the translation. It leaves what is in \\text{...} unescaped, lets a formula carry links, and asks for
features that browsers dropped from MathML (mathvariant, msub for limits); `_mend` puts that right.
"""

import html
import re
from functools import lru_cache
from xml.etree.ElementTree import Element, tostring

# stretching braces needs a font with mathematical tables: Linux, macOS, Windows, Android, then what the browser has
FONTS = "Latin Modern Math, STIX Two Math, Cambria Math, DejaVu Math TeX Gyre, Noto Sans Math, math"
KEPT = "accent accentunder display displaystyle fence form height linethickness lspace mathvariant maxsize minsize"
KEPT_ATTRIBUTES = frozenset([*KEPT.split(), "movablelimits", "rspace", "scriptlevel", "stretchy", "width", "xmlns"])
LIMITS = frozenset({"max", "min", "sup", "inf", "lim"})  # what stands under them in a displayed formula
SCRIPTS = {"msub": "munder", "msup": "mover", "msubsup": "munderover"}
DIGITS = {"bold": 0x1D7CE, "double-struck": 0x1D7D8}
FENCES = "‖|∣∥⌊⌋⌈⌉⟨⟩"
APART = ("mo", "mspace", "mtext", "mtable")  # these keep their own distance
SPACE = {"width": "0.167em"}  # TeX's thin space


def mathml(latex: str, block: bool = True) -> str:
    """The formula (without dollar signs) as a <math> element; what cannot be read comes as its LaTeX, escaped, in <code>."""
    whole = latex.encode("utf-8", "replace").decode()
    return _translated(whole, block) or f"<code>{escaped(whole)}</code>"


def escaped(text: str) -> str:
    """Text as HTML that means nothing else, to a browser or to a formula reader; without ipywidgets, unlike `frame`."""
    whole = text.encode("utf-8", "replace").decode()  # half of a surrogate pair cannot be sent to a page
    return html.escape(whole).replace("$", "&#36;")


def lines(latex: str) -> list[str]:
    """The formula in parts that may stand below each other: cut at its outermost \\quad and \\qquad."""
    parts, depth = [""], 0
    for token in re.findall(r"\\[A-Za-z]+|\\.|[^\\]", latex, flags=re.DOTALL):
        depth += {"{": 1, "}": -1, r"\begin": 1, r"\end": -1, r"\left": 1, r"\right": -1}.get(token, 0)
        if depth == 0 and token in (r"\quad", r"\qquad"):
            parts.append("")
        else:
            parts[-1] += token
    return [part.strip() for part in parts if part.strip()]


@lru_cache(maxsize=512)
def _translated(latex: str, block: bool) -> str:
    """Nothing where latex2mathml gives up, or copies a command that it does not know."""
    from latex2mathml.converter import Converter

    try:
        tree = Converter(display="block" if block else "inline").convert_to_element(_prepared(latex))
    except Exception:  # noqa: BLE001  whatever a formula of a stranger makes it raise
        return ""
    _mend(tree, block)
    tree.set("style", f"font-family: {FONTS}")
    unknown = any((element.text or "").startswith("\\") for element in tree.iter())
    return "" if unknown else tostring(tree, encoding="unicode").replace("$", "&#36;")


def _prepared(latex: str) -> str:
    r"""Spelt as latex2mathml reads it: no space inside \operatorname, `split` for `aligned`."""

    def close_up(found: re.Match[str]) -> str:
        name = re.sub(r"\\[,;:! ]|[~ ]", "", found[2])
        return rf"\operatorname{found[1]}{{{name}}}" if name.isalpha() else rf"\text{{{name}}}"

    names = re.sub(r"\\operatorname(\*?)\{([^{}]*)\}", close_up, latex)
    return names.replace("{aligned}", "{split}")


def _mend(element: Element, block: bool) -> None:
    aligned = element.get("columnalign")
    for name in element.attrib.keys() - KEPT_ATTRIBUTES:
        del element.attrib[name]
    if aligned in ("left", "right"):
        element.set("style", f"text-align: {aligned}")
    element.text = html.unescape(element.text) if element.text else element.text
    _mend_token(element)
    block = {"true": True, "false": False}.get(element.get("displaystyle", ""), block)
    if element.tag in SCRIPTS and block and (element[0].get("movablelimits") == "true" or element[0].text in LIMITS):
        element.tag = SCRIPTS[element.tag]
    for child in element:
        _mend(child, block)
    _join_letters(element)
    _keep_big(element)
    _space_operators(element)


def _mend_token(element: Element) -> None:
    text = element.text or ""
    if element.tag in ("mo", "mi") and len(text) == 1 and text in FENCES and element.get("stretchy") != "true":
        element.tag = "mo"
        element.attrib |= {"stretchy": "false", "lspace": "0", "rspace": "0"}
    elif element.tag == "mo" and len(text) > 1 and text[0].isalpha():
        element.tag = "mi"  # softmax is a name: as an operator it would stand apart from its argument
    if element.tag == "mo" and "minsize" in element.attrib:
        element.attrib |= {"stretchy": "true", "form": "postfix" if text in ")]}" else "prefix"}
    if element.tag == "mover" and len(element) == 2 and element[1].text in ("~", "&#x0007E;"):
        element[1].text, element.attrib["accent"] = "˜", "true"
    if (start := DIGITS.get(element.get("mathvariant", ""))) and text.isascii() and text.isdigit():
        element.text = "".join(chr(start + int(digit)) for digit in text)
        del element.attrib["mathvariant"]
    elif "bold" in element.get("mathvariant", ""):
        element.set("style", "font-weight: bold")


def _keep_big(element: Element) -> None:
    r"""\Big]_{h=1}: the browser does not stretch what carries a script, unless it stands in a row of its own."""
    if element.tag in SCRIPTS and "minsize" in element[0].attrib:
        row, big = Element("mrow"), element[0]
        element.remove(big)
        row.append(big)
        element.insert(0, row)


def _join_letters(element: Element) -> None:
    r"""\mathrm{SiLU} is one word, not four variables."""
    upright = [child.tag == "mi" and child.get("mathvariant") == "normal" for child in element]
    if element.tag == "mrow" and len(element) > 1 and all(upright):
        word = "".join(child.text or "" for child in element)
        for child in list(element):
            element.remove(child)
        element.append(Element("mi"))
        element[0].text = word


def _space_operators(element: Element) -> None:
    """softmax x with a thin space between, softmax(x) without, as TeX sets them."""
    if element.tag not in ("mrow", "math", "mstyle", "mtd"):
        return
    children = list(element)
    for at in range(len(children) - 1, 0, -1):
        before, after = children[at - 1], children[at]
        if (_is_name(before) and _begins(after) not in APART) or (_is_name(after) and _begins(before) not in APART):
            element.insert(at, Element("mspace", SPACE))


def _is_name(element: Element) -> bool:
    while len(element) and element.tag.startswith(("msu", "mun", "mov", "mrow")):
        element = element[0]
    return element.tag == "mi" and len(element.text or "") > 1 and (element.text or "").isalpha()


def _begins(element: Element) -> str:
    while len(element) and element.tag in ("mrow", "mstyle"):
        element = element[0]
    return element.tag
