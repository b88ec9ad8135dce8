"""What four students hand in for lesson 2, and two more whose cells misbehave: answers put into a grader's own notebook."""

import copy
import json
import os
import sys
from pathlib import Path
from typing import Any

from explorer.serving import environment

ROOT = Path(__file__).resolve().parents[2]
RIGHT = {
    "route": "def route(logits, k):\n    best, index = logits.topk(k)\n    return best.softmax(-1), index",
    "combine": (
        "def combine(x, weights, index, experts):\n"
        "    y = torch.zeros_like(x)\n"
        "    for n in range(len(x)):\n"
        "        for w, e in zip(weights[n], index[n].tolist()):\n"
        "            y[n] += w * experts[e](x[n : n + 1])[0]\n"
        "    return y"
    ),
    "margin": (
        "def margin(scores, k):\n"
        "    best = scores.sort(-1, descending=True).values\n"
        "    return best[:, k - 1] - best[:, k]"
    ),
}
# name -> the answers that differ from the right ones
ANSWERS: dict[str, dict[str, str]] = {
    "right": {},
    "wrong": {"route": "def route(logits, k):\n    return logits.softmax(-1).topk(k)"},
    "crashing": {
        "combine": "def combine(x, weights, index, experts):\n    return x[99999]",
        "margin": "this is no Python",
    },
    "endless": {"margin": "def margin(scores, k):\n    while True:\n        k = k"},
    "endless-cell": {"combine": "while True:\n    try:\n        counted = 1\n    except:\n        pass"},
}
POINTS = {
    "right": {"route": 1, "combine": 1, "margin": 1},
    "wrong": {"route": 0, "combine": 1, "margin": 1},
    "crashing": {"route": 1, "combine": 0, "margin": 0},
    "endless": {"route": 1, "combine": 1, "margin": 0},
    "endless-cell": {"route": 1, "combine": 0, "margin": 1},
}
# words that the feedback must hold: (exercise, what is said)
SAID = {
    "wrong": ("route", "2.1 not yet: A token's weights sum to less than one"),
    "crashing": ("combine", "IndexError: index 99999 is out of bounds"),
    "endless": ("margin", "is there a loop that never stops?"),
    "endless-cell": ("combine", "There is no function `combine`"),
}


def hand_in(notebook: dict[str, Any], name: str, path: Path) -> Path:
    """The notebook a student was given, with that student's answers in the cells of the exercises."""
    answers, filled = RIGHT | ANSWERS[name], copy.deepcopy(notebook)
    left = set(answers)
    for cell in filled["cells"]:
        text = "".join(cell["source"])
        for function, code in answers.items():
            if cell["cell_type"] == "code" and text.startswith(f"def {function}("):
                cell["source"] = code
                left.discard(function)
    assert not left, "a notebook for students has a cell for each exercise"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(filled))
    return path


def grader_environment(folder: Path) -> dict[str, str]:
    """A home of the grader's own; and the programs of this Python are found, as in an activated environment (alembic)."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return environment() | {"HOME": str(folder), "IPYTHONDIR": str(folder / "ipython"), "PATH": path}
