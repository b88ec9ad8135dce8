"""Imported once, before submissions are graded: what each of their processes would need seconds for."""

import explorer.lessons.graders.submission  # noqa: F401
from explorer.lessons.exercise import of_lesson

of_lesson()
