"""What Binder builds its image from, as far as it can be checked without building one.

That the result works inside a Jupyter server is tests/browser/test_server_extension.py.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import yaml

import explorer.serving
from explorer.serving import extension

ROOT = Path(__file__).resolve().parent.parent
BINDER = ROOT / "binder"
PINS = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
CONDA_NAMES = {"pytorch-cpu": "torch"}


def test_conda_brings_the_versions_that_the_tests_ran_with() -> None:
    lines = yaml.safe_load((BINDER / "environment.yml").read_text())["dependencies"]
    pinned = dict(line.split("=") for line in lines if "=" in line)
    assert pinned.pop("python") == "3.11", "the Python that constraints.txt was resolved on"
    assert "pytorch-cpu" in pinned, "not pytorch, which may come with CUDA"
    assert {name: PINS[CONDA_NAMES.get(name, name)] for name in pinned} == pinned
    assert [line for line in lines if "=" not in line] == ["pip"]


def test_the_build_script_is_sound_and_cannot_bring_another_torch() -> None:
    script = BINDER / "postBuild"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)
    text = script.read_text()
    assert "set -euo pipefail" in text
    for name in re.findall(r"\b(?:binder/[\w.]+|constraints\.txt)", text):
        assert (ROOT / name).is_file()
    (pattern,) = re.findall(r"grep -v '(.*?)' constraints", text)
    assert [name for name in PINS if re.match(pattern, f"{name}==")] == ["torch"]


def test_the_server_finds_the_extension_and_it_is_light() -> None:
    named = json.loads((BINDER / "jupyter_server.json").read_text())["ServerApp"]["jpserver_extensions"]
    assert [point["module"] for point in extension._jupyter_server_extension_points()] == list(named)
    heavy = "print({'torch', 'numpy', 'ipywidgets', 'plotly'} & set(sys.modules))"
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {', '.join(named)}; {heavy}"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_the_server_gets_every_setting_of_voila_json_that_it_knows() -> None:
    wanted = json.loads((explorer.serving.HERE / "voila.json").read_text())
    given = extension.configuration()
    assert {owner: given[owner] for owner in wanted if owner != "Voila"} == {
        owner: traits for owner, traits in wanted.items() if owner != "Voila"
    }
    assert given["ServerApp"]["tornado_settings"] == wanted["Voila"]["tornado_settings"]


def test_what_the_server_was_told_wins() -> None:
    from traitlets.config import Config

    class App:
        config = Config({"MappingKernelManager": {"cull_idle_timeout": 60}})

        def update_config(self, config: Config) -> None:
            self.config = config

    before = dict(os.environ)
    try:
        extension._link_jupyter_server_extension(app := App())
        assert os.environ["OMP_NUM_THREADS"] == before.get("OMP_NUM_THREADS", "1")
    finally:
        os.environ.clear()
        os.environ.update(before)
    assert app.config.MappingKernelManager.cull_idle_timeout == 60
    assert app.config.VoilaConfiguration.template == "gating-explorer"


def test_the_links_of_the_readme_open_pages_that_exist() -> None:
    links = re.findall(r"https://mybinder\.org/v2/gh/\S+?(?=[\s)`>]|$)", (BINDER / "README.md").read_text())
    assert links
    for link in links:
        inner = urlsplit(parse_qs(urlsplit(link).query)["urlpath"][0])
        assert inner.path.startswith("voila/render/notebooks/")
        assert (ROOT / inner.path.removeprefix("voila/render/")).suffix == ".ipynb"
        assert "&" not in urlsplit(link).query, "an inner & has to stand as %26"
