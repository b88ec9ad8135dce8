"""Grading without a screen: what nbgrader, otter and `gating-explorer class check` run on what students hand in.

`require("2.1", globals())` fails with the exercise's hint as its only line; `watch()` ends cells that never would.
"""

from explorer.lessons.graders.clock import watch
from explorer.lessons.graders.judging import NotYet, require
