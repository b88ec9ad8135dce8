"""The gallery's state: what its link asks for, the snapshot of the catalogue in words, and which pages exist to go to."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from widgets.states import links

CATALOGUE = Path(__file__).parent.parent / "labs" / "catalogue.json"  # scripts/write_catalogue.py writes it
LONGEST_SEARCH = 200  # characters
LOST_AT_ONCE = 6  # unknown keys that are named one by one
ASKED = {"<=": "at most", ">=": "at least", "<": "below", ">": "above", "==": "exactly"}
WORDS = {True: "holds", False: "not seen at this scale", None: "reported"}
Entry = dict[str, Any]


def catalogue() -> list[Entry]:
    """One entry a mechanism, in reading order, as explorer.snapshot writes it."""
    entries: list[Entry] = json.loads(CATALOGUE.read_text(encoding="utf-8"))["mechanisms"]
    return entries


# -- the link ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """What the link asks for; `notices` are sentences about what of it was not used."""

    search: str = ""
    family: str = ""  # "": all
    theme: str = "light"
    notices: tuple[str, ...] = ()


def asked(query: str, families: Mapping[str, int]) -> Asked:
    """The link's `q`, `family` and `theme`; whatever else it says is named in a notice."""
    values, notices = links.read(query)
    search, family = values.pop("q", ""), values.pop("family", "")
    if len(search) > LONGEST_SEARCH:
        search = search[:LONGEST_SEARCH]
        notices.append(
            f"q is longer than {LONGEST_SEARCH} characters: only the first {LONGEST_SEARCH} are searched for"
        )
    if family and family not in families:
        notices.append(f"family={links.short(family)}: choose one of {', '.join(families)}")
        family = ""
    notices += [f"{links.short(key)} is not a setting of the gallery; q and family are" for key in values][
        :LOST_AT_ONCE
    ]
    if len(values) > LOST_AT_ONCE:
        notices.append(f"and {len(values) - LOST_AT_ONCE} more")
    return Asked(search, family, _theme(query), tuple(notices))


def _theme(query: str) -> str:
    try:
        given = parse_qsl(query, max_num_fields=100)
    except ValueError:
        given = []
    return "dark" if ("theme", "dark") in given else "light"


def families(entries: list[Entry]) -> dict[str, int]:
    """Each family that has a mechanism, and how many it has, in reading order."""
    found: dict[str, int] = {}
    for entry in entries:
        found[entry["family"]] = found.get(entry["family"], 0) + 1
    return found


def searched(entry: Entry) -> str:
    """The text that a search looks into."""
    paper = entry["paper"]
    parts = [entry["title"], entry["name"], entry["family"], entry["lab"], entry["summary"]]
    return " ".join([*parts, paper["title"], paper["authors"], str(paper["year"]), paper["arxiv"]])


# -- the doors ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Page:
    """A notebook that a door leads to; `path` is relative to the gallery's own folder."""

    path: str
    title: str


def lessons(folder: Path) -> list[Page]:
    """In the order of their file names, which may begin with numbers."""
    return [_page(path, folder) for path in sorted((folder / "lessons").glob("*.ipynb"))]


def labs(folder: Path) -> list[Page]:
    """Every lab but the one that has a door of its own."""
    found = sorted((folder / "labs").glob("*.ipynb"))
    return [_page(path, folder, " lab") for path in found if path.stem != "checkpoint"]


def checkpoint(folder: Path) -> Page | None:
    """The lab of trained models; None while there is none."""
    path = folder / "labs" / "checkpoint.ipynb"
    return _page(path, folder, " lab") if path.is_file() else None


def _page(path: Path, folder: Path, kind: str = "") -> Page:
    """Titled by the notebook's metadata, else by its first heading, else by the name of its file."""
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        titles = [str(notebook["metadata"].get("title", "")), *map(_heading, notebook["cells"])]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        titles = []
    name = path.stem.lstrip("0123456789-_ ").replace("-", " ").replace("_", " ").capitalize() or path.stem
    return Page(path.relative_to(folder).as_posix(), next(filter(None, titles), name + kind))


def _heading(cell: Entry) -> str:
    if cell["cell_type"] != "markdown":
        return ""
    first = "".join(cell["source"]).lstrip().split("\n")[0]
    return first[2:].strip() if first.startswith("# ") else ""


def lab_of(entry: Entry, folder: Path) -> str:
    """The address of the lab in the state that shows this mechanism; "" where there is none yet."""
    page = str(entry["page"])
    return page if page and (folder / page.partition("?")[0]).is_file() else ""


# -- verdicts in words -------------------------------------------------------------------------------------------------


def verdict_of(claim: Entry) -> Entry | None:
    """The verdict on a claim; None where it was not tried yet, or was changed since."""
    verdict: Entry | None = claim.get("verdict")
    return verdict if verdict and verdict["digest"] == claim["digest"] else None


def effect(claim: Entry, verdict: Entry) -> str:
    """The mean over the seeds, with the lowest and the highest where they differ: "0.144 (0.112 to 0.166)"."""
    unit = {"ratio": " times the control's", "difference": " from the control's"}.get(claim["effect"], "")
    sign = claim["effect"] == "difference"
    mean = number(verdict["effect"], sign)
    seen = [one for one in verdict["spread"] if one is not None]
    ends = [number(end, sign) for end in (min(seen), max(seen))] if seen else []
    return mean + unit + (f" ({ends[0]} to {ends[1]})" if ends and ends[0] != ends[1] else "")


def control(claim: Entry, verdict: Entry) -> str:
    """What the control did: "no balancing loss: 1.3"; beside our own value where the effect does not show it."""
    if verdict["baseline"] is None:
        return ""
    against = f"{claim['control_is'] or 'the control'}: {number(verdict['baseline'])}"
    return against if claim["effect"] == "value" else f"{against} (the claim's own: {number(verdict['value'])})"


def wanted(claim: Entry) -> str:
    """What the effect is held to: "at most 0.25"; "" where it is not judged."""
    threshold = claim["threshold"]
    return "" if threshold is None else f"{ASKED[claim['relation']]} {number(threshold)}"


def number(value: float | None, sign: bool = False) -> str:
    """Three digits, with a true minus: 1.19×10⁻⁷, 0.144, −0.02."""
    if value is None:
        return "not a number"
    if value and not 1e-3 <= abs(value) < 1e5:
        power = math.floor(math.log10(abs(value)))
        short = f"{value / 10**power:.3g}×10{str(power).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"
    else:
        short = f"{float(f'{value:.3g}'):g}"
    return ("+" if sign and value > 0 else "") + short.replace("-", "−")
