"""JupyterHub for the gating explorer: what every student's server is started with, and when it is stopped again.

As it is, it is the configuration of a hub (jupyterhub -f jupyterhub_config.py), a file in TLJH's jupyterhub_config.d, or one
in that of Zero to JupyterHub (kubernetes.yaml); docs/hub.md goes through each. It says nothing of three things that only the
site can decide: who may log in (JupyterHub.authenticator_class and Authenticator.allowed_users, on whose defaults JupyterHub
asks this machine's accounts), how servers are started (JupyterHub.spawner_class), and https.
"""

# ruff: noqa: F821  (`c` is there in all three; get_config is something else in the chart)
import importlib.util
import sys

HOUR = 3600  # seconds
GALLERY = "/voila/render/notebooks/index.ipynb"
ARGUMENTS = [
    "--ServerApp.jpserver_extensions=explorer.serving.extension=True",
    # a kernel here is its student's own, and a lesson is read for longer than a class's server waits
    f"--MappingKernelManager.cull_idle_timeout={HOUR}",
]
# copied into every student's home, below notebooks/, where the links of the pages expect them
ENVIRONMENT = {"GATING_EXPLORER_PAGES": "notebooks"}

# what is said of one kind of spawner would hide what is said of all
for section in [c.Spawner, *(c[name] for name in list(c) if name.endswith("Spawner") and name != "Spawner")]:
    if section is c.Spawner or "environment" in section:
        section.environment.update(ENVIRONMENT)
    if section is c.Spawner or "args" in section:
        section.args.extend(ARGUMENTS)

c.Spawner.default_url = GALLERY
# thirty servers that start at once take turns on a few cores
c.Spawner.start_timeout = 300
c.Spawner.http_timeout = 120

# TLJH has commands of its own for what follows
if "tljh" not in sys.modules:
    # two labs and a notebook. Kubernetes and systemd enforce them, a spawner of plain processes cannot
    c.Spawner.setdefault("mem_limit", "2G")
    c.Spawner.setdefault("cpu_limit", 1.0)
    # the chart has set its services by now, with a culler or, if the site said so, without
    if not isinstance(c.JupyterHub.get("services"), list):
        if importlib.util.find_spec("jupyterhub_idle_culler"):
            command = [sys.executable, "-m", "jupyterhub_idle_culler", f"--timeout={HOUR}", "--cull-every=300"]
            c.JupyterHub.services.append({"name": "idle-culler", "command": command})
            scopes = ["list:users", "read:users:activity", "read:servers", "delete:servers"]
            c.JupyterHub.load_roles.append({"name": "idle-culler", "scopes": scopes, "services": ["idle-culler"]})
        else:
            sys.stderr.write("Idle servers keep running: 'pip install jupyterhub-idle-culler' stops them.\n")
