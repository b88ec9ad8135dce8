"""The kernels that graders run submissions in: forked warm, strangers to each other, and plain ones when the fork has gone."""

import json
import os
import subprocess
import sys

import pytest

from tests.lessons.submissions import ROOT, grader_environment

pytest.importorskip("nbclient")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux only")
FACTS = """
import json, os, sys
import torch
print(json.dumps({
    "imported": "wave" in sys.modules, "left": hasattr(torch, "left"), "watched": "watch" in globals(),
    "from": os.getppid(), "threads": len(os.listdir(f"/proc/{os.getppid()}/task")),
}))
torch.left = 1
"""
ENDS_THE_FORK = "import os, signal, time; os.kill(os.getppid(), signal.SIGKILL); time.sleep(60)"
GRADER = """
import json, sys
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import DeadKernelError
from explorer.lessons.graders.kernels import fork_them
from explorer.serving.provisioner import Kernels

really, sys.platform = sys.platform, sys.argv[2]
fork_them("wave")
fork_them("another call changes nothing")
sys.platform = really
said = []
for code in json.loads(sys.argv[1]):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    watch = "--IPKernelApp.exec_lines=from explorer.lessons.graders import watch; watch()"
    try:
        NotebookClient(notebook, extra_arguments=[watch]).execute()
        said.append(json.loads(notebook.cells[0].outputs[0]["text"]))
    except DeadKernelError:
        said.append("dead")
print(json.dumps({"said": said, "forked": Kernels.forked, "plain": Kernels.plain}))
"""


def grade(folder, *cells, platform=sys.platform):
    """What the cells said, each in a submission's kernel, and how many kernels were forked and plain; and the errors' text."""
    command = [sys.executable, "-c", GRADER, json.dumps(cells), platform]
    variables = grader_environment(folder) | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=variables, cwd=folder, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    return told["said"], (told["forked"], told["plain"]), done.stderr


def test_submissions_share_what_is_imported_and_nothing_else(tmp_path):
    (one, two, dead, plain, again), counted, errors = grade(tmp_path, FACTS, FACTS, ENDS_THE_FORK, FACTS, FACTS)
    assert one == two == {"imported": True, "left": False, "watched": True, "from": one["from"], "threads": 1}
    # what a submission may do to the process it comes from costs that submission only
    assert dead == "dead" and counted == (3, 2)
    assert plain["watched"] and not plain["imported"] and not plain["left"] and not again["left"]
    assert errors.count("kernels are plain for now: the process that forks kernels has ended") == 1


def test_nothing_is_left_of_them(tmp_path):
    (facts,), counted, errors = grade(tmp_path, FACTS)
    assert counted == (1, 0) and not os.path.exists(f"/proc/{facts['from']}")
    assert "destroyed" not in errors and "Traceback" not in errors


def test_where_a_system_cannot_fork_that_is_said_once(tmp_path):
    (facts,), counted, errors = grade(tmp_path, FACTS, platform="darwin")
    assert counted == (0, 1) and facts["watched"] and not facts["imported"]
    assert errors.count("kernels are plain: kernels are forked on Linux only") == 1
