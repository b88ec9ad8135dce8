"""The parts of a lesson's page, each a cell of one to three lines.

begin(2) first: it gives the page its look and asks for the student's name. Then question, predict, run, exercise, quiz and
further in the order of the lesson. What several parts share is on the `desk` of this process: one process, one student.
"""

from widgets.lessons.asking import predict, quiz
from widgets.lessons.desk import Desk
from widgets.lessons.parts import begin, exercise, formula, further, question
from widgets.lessons.running import RunPanel, run
from widgets.lessons.tracing import TracePanel, files, look, trace

__all__ = [
    "Desk",
    "RunPanel",
    "TracePanel",
    "begin",
    "exercise",
    "files",
    "formula",
    "further",
    "look",
    "predict",
    "question",
    "quiz",
    "run",
    "trace",
]
