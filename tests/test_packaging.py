"""The wheel carries everything that a page needs, and the project needs no more than it says."""

import re
import subprocess
import sys
import tomllib
import zipfile
from itertools import chain
from pathlib import Path

import pytest

import explorer

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def names(requirements: list[str]) -> set[str]:
    return {re.match(r"[\w.-]+", requirement)[0] for requirement in requirements}  # type: ignore[index]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of the files in a wheel built without the network."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(folder), str(ROOT)]
    build = subprocess.run(command, capture_output=True, text=True)
    assert build.returncode == 0, build.stdout + build.stderr
    return set(zipfile.ZipFile(next(folder.glob("*.whl"))).namelist())


def sources(folder: str, *patterns: str) -> set[str]:
    found = (path for pattern in patterns for path in (ROOT / folder).rglob(pattern) if path.is_file())
    return {str(path.relative_to(ROOT)) for path in found if "/." not in str(path.relative_to(ROOT))}


def test_the_wheel_carries_the_code_and_the_views(wheel: set[str]) -> None:
    wanted = sources("explorer", "*.py", "*.md") | sources("widgets", "*.py", "*.js", "*.css", "*.json")
    assert wanted
    assert wanted - wheel == set()


def test_the_wheel_carries_what_the_server_reads(wheel: set[str]) -> None:
    wanted = {"explorer/serving/voila.json", *sources("explorer/serving/share", "*")}
    assert len(wanted) >= 6
    assert wanted - wheel == set()


def test_the_wheel_carries_the_notebooks(wheel: set[str]) -> None:
    wanted = {f"widgets/{name}" for name in sources("notebooks", "*.ipynb")}
    assert wanted
    assert wanted - wheel == set()


def test_the_wheel_carries_nothing_else(wheel: set[str]) -> None:
    tops = {name.split("/")[0] for name in wheel}
    assert tops == {"explorer", "widgets", f"gating_explorer-{explorer.__version__}.dist-info"}
    assert [name for name in wheel if "__pycache__" in name or "/." in name] == []


def test_the_wheel_carries_the_license(wheel: set[str]) -> None:
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in wheel)
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def test_there_is_one_version() -> None:
    assert PROJECT["version"] == explorer.__version__
    assert f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text().replace("[", "").replace("]", "")


def test_a_new_dependency_is_a_decision() -> None:
    assert names(PROJECT["dependencies"]) == {
        "anywidget",
        "ipykernel",
        "ipywidgets",
        "joblib",
        "jupyter-server",
        "jupyterlab",
        "latex2mathml",
        "numpy",
        "pandas",
        "plotly",
        "pyarrow",
        "rich",
        "safetensors",
        "torch",
        "typer",
        "voila",
    }
    assert set(PROJECT["optional-dependencies"]) == {"checkpoints", "dask", "test"}


def test_every_dependency_has_a_pin_that_fits() -> None:
    """constraints.txt is what images install: it must name everything, and nothing that pyproject.toml refuses."""
    from packaging.requirements import Requirement

    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = {name.lower().replace("_", "-"): version for name, version in (line.split("==") for line in lines)}
    everything = chain(PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    for requirement in map(Requirement, everything):
        assert pins[requirement.name.lower().replace("_", "-")] in requirement.specifier, requirement
