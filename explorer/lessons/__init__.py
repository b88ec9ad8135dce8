"""Lessons: exercises that check themselves, quizzes, and what a class has done so far."""

from explorer.lessons.checking import Result, check
from explorer.lessons.exercise import Exercise, Wrong, find, of_lesson
from explorer.lessons.progress import Progress, ProgressError
