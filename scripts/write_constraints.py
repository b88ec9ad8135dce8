"""Write constraints.txt anew: install everything in an empty environment and note what pip chose.

torch stays at the version that stands there, for its wheels decide which Python and which cards work.
"""

import re
import subprocess
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "constraints.txt"
HEADER = """\
# The exact versions that the tests ran with, for images and classrooms: pip install -c constraints.txt gating-explorer
# (resolved on Python 3.11; "make constraints" writes it anew)
"""


def main() -> None:
    torch = re.search(r"^torch==\S+$", TARGET.read_text(), flags=re.MULTILINE)
    assert torch, "constraints.txt names no torch"
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        subprocess.run([ROOT / "scripts/install_torch", folder], cwd=ROOT, check=True)
        pip = [Path(folder) / "bin/python", "-m", "pip", "--disable-pip-version-check"]
        everything = f"{ROOT}[checkpoints,dask,test]"
        subprocess.run([*pip, "install", "-qq", torch[0], everything], check=True)
        frozen = subprocess.run([*pip, "freeze"], check=True, capture_output=True, text=True).stdout
    # "2.13.0+cpu" is the same release as "2.13.0", which every machine can install
    lines = [re.sub(r"\+\w+$", "", line) for line in frozen.splitlines() if not line.startswith("gating-explorer")]
    TARGET.write_text(HEADER + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
