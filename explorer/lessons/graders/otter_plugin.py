"""Limits for otter: it has none for a cell, so that one endless loop in one submission would hold up a class.

An assignment names the plugin in its configuration; otter loads it where it grades.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

from otter.plugins import AbstractOtterPlugin  # type: ignore[import-untyped]

from explorer.lessons.graders.kernels import fork_them

# run by IPython before a submission's first cell. jsonschema takes a module that needs two seconds to be imported where it
# finds it, to check addresses that no notebook has. otter is imported here because its own first cell would, under the watch:
# where that takes too long the cell is ended, and without it otter counts no points at all
STARTUP = """import sys
sys.modules.setdefault("rfc3987_syntax", None)
import otter.execute
from explorer.lessons.graders import watch
watch()
del sys, otter, watch
"""


class Limits(AbstractOtterPlugin):
    """Lets kernels start with explorer.lessons.graders.watch()."""

    def before_grading(self, config: Any) -> None:  # noqa: ARG002  (its form is otter's)
        """A folder of IPython's own settings, for this submission's kernel."""
        self.folder = tempfile.TemporaryDirectory(prefix="gating-explorer-otter-")
        startup = Path(self.folder.name) / "profile_default/startup"
        startup.mkdir(parents=True)
        (startup / "00-limits.py").write_text(STARTUP, encoding="utf-8")
        self.before = os.environ.get("IPYTHONDIR")
        os.environ |= {"IPYTHONDIR": self.folder.name, "GATING_EXPLORER_HEADLESS": "1"}
        fork_them("otter.execute")

    def after_grading(self, results: Any) -> None:  # noqa: ARG002
        """As it was, for whoever grades many submissions in one process."""
        if self.before is None:
            os.environ.pop("IPYTHONDIR", None)
        else:
            os.environ["IPYTHONDIR"] = self.before
        self.folder.cleanup()
