"""A notebook is a page, not a program: stripped, thin, in step with its text twin, and it runs."""

import statistics
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

from explorer.serving import environment
from widgets.lessons.desk import SWITCH

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path for path in (ROOT / "notebooks").rglob("*.ipynb") if not any(part.startswith(".") for part in path.parts)
)
every_page = pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT / "notebooks")))


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_pages_and_no_twin_is_alone() -> None:
    assert PAGES
    twins = {path.with_suffix("") for path in (ROOT / "notebooks").rglob("*.py")}
    assert twins == {path.with_suffix("") for path in PAGES}


@every_page
def test_a_page_is_stripped(path: Path) -> None:
    notebook = read(path)
    assert [cell.source for cell in code_cells(notebook) if cell.outputs or cell.execution_count] == []
    assert set(notebook.metadata) <= {"kernelspec", "language_info", "title"}, "make pages writes it clean"
    assert notebook.metadata.kernelspec.name == "python3", "the one kernel that the server offers"


@every_page
def test_a_page_and_its_text_twin_say_the_same(path: Path) -> None:
    served, written = read(path), jupytext.read(path.with_suffix(".py"))
    cells = [[(cell.cell_type, cell.source) for cell in twin.cells] for twin in (served, written)]
    assert cells[0] == cells[1], "make pages writes the .ipynb from the .py"


@every_page
def test_a_page_is_thin(path: Path) -> None:
    lines = [len(cell.source.splitlines()) for cell in code_cells(read(path))]
    assert statistics.median(lines) <= 3
    assert max(lines) <= 15


@pytest.mark.notebook
@every_page
def test_a_page_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Executed by the kernel that the server would start, in the page's own folder, with live runs cut short."""
    short = {"GATING_EXPLORER_HEADLESS": "1", SWITCH: "2"}
    for name, value in {**environment(), **short, "IPYTHONDIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    notebook = read(path)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(path.parent)}}).execute()
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []
