"""What Binder builds its image from, as far as it can be checked without building one.

That the result works inside a Jupyter server is tests/browser/test_server_extension.py.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from jupyterhub.spawner import SimpleLocalProcessSpawner, Spawner
from traitlets.config import Config

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


# --- the hub ----------------------------------------------------------------------------------------------------------
# that it works is tests/hub; here, that it fits what it is put into


def hub_configuration(**before: dict[str, object]) -> Config:
    """What the configuration makes of one that another program has begun."""
    given = Config(before)
    exec(compile((BINDER / "jupyterhub_config.py").read_text(), "jupyterhub_config.py", "exec"), {"c": given})
    return given


def spawner(given: Config, kind: str) -> Spawner:
    """A spawner of that name, as JupyterHub would configure it."""
    return type(kind, (SimpleLocalProcessSpawner,), {})(config=given)


def test_alone_it_brings_a_culler_and_leaves_to_the_site_what_is_the_sites() -> None:
    given = hub_configuration()
    assert set(given) == {"Spawner", "JupyterHub"}
    hub = given["JupyterHub"]
    assert set(hub) == {"services", "load_roles"}, "neither an authenticator nor a spawner"
    (service,), (role,) = hub.services.get_value([]), hub.load_roles.get_value([])
    assert service["name"] in role["services"]
    assert "admin" not in service


def test_the_gallery_is_where_a_login_leads_and_pages_are_where_links_expect_them() -> None:
    started = spawner(hub_configuration(), "PlainSpawner")
    folder = started.environment["GATING_EXPLORER_PAGES"]
    page = started.default_url.removeprefix(f"/voila/render/{folder}/")
    assert page != started.default_url
    assert (ROOT / "notebooks" / page).is_file()


def test_tljh_keeps_what_its_own_commands_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tljh", ModuleType("tljh"))
    # TLJH reads it into a configuration of its own, which is then laid over that of TLJH
    given = Config(
        {"Spawner": {"mem_limit": "1G", "cpu_limit": 2, "default_url": "/lab"}, "JupyterHub": {"services": []}}
    )
    given.merge(hub_configuration())
    started = spawner(given, "UserCreatingSpawner")
    assert (started.mem_limit, started.cpu_limit, given.JupyterHub.services) == (2**30, 2, [])
    assert started.default_url.endswith("index.ipynb")


def test_the_charts_own_settings_hide_none_of_ours() -> None:
    chart = {"environment": {"COURSE": "7"}, "args": ["--debug"], "mem_guarantee": "1G"}
    given = hub_configuration(KubeSpawner=chart, JupyterHub={"services": [], "load_roles": []})
    started = spawner(given, "KubeSpawner")
    assert started.environment == {"COURSE": "7", "GATING_EXPLORER_PAGES": "notebooks"}
    assert started.args[0] == "--debug"
    assert "--ServerApp.jpserver_extensions=explorer.serving.extension=True" in started.args
    assert given.JupyterHub.services == [], "the chart's culler, or none if the site wants none"


def test_the_values_for_kubernetes_agree_with_the_configuration() -> None:
    values = yaml.safe_load((BINDER / "kubernetes.yaml").read_text())
    started = spawner(hub_configuration(), "PlainSpawner")
    student = values["singleuser"]
    assert student["memory"]["limit"] == "2G"
    assert (started.mem_limit, started.cpu_limit) == (2 * 2**30, student["cpu"]["limit"])
    assert student["startTimeout"] == started.start_timeout
    assert values["hub"]["extraFiles"]["explorer"]["mountPath"].startswith(
        "/usr/local/etc/jupyterhub/jupyterhub_config.d/"
    )
    assert str(values["cull"]["timeout"]) in "".join(started.args)
    assert "config" not in values["hub"], "who may log in is the site's"


def test_the_steps_for_a_hub_name_what_exists() -> None:
    text = (ROOT / "docs/hub.md").read_text()
    for name in set(re.findall(r"\bbinder/[\w.]+", text)):
        assert (ROOT / name).exists()
    values = yaml.safe_load((BINDER / "kubernetes.yaml").read_text())
    for flag in re.findall(r"--set-file hub\.extraFiles\.(\w+)\.stringData=(\S+)", text):
        assert flag[0] in values["hub"]["extraFiles"]
        assert (BINDER / flag[1]).is_file()
    for link in re.findall(r"/hub/user-redirect/voila/render/(\S+?\.ipynb)", text):
        assert (ROOT / link).is_file()
