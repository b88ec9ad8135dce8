"""Readings: numbers read off a finished experiment on its held-out data, each by its name.

One definition for the claims and for `compare`, so that a number means the same in both tables. Where a model has several
layers the reading says how they become one number; where a mechanism has nothing of the kind it is NaN.
"""

from explorer.readings import attention, blocks, routing
from explorer.readings.routing import asked, first_choice
from explorer.readings.run import READINGS, Reading, Run, reading

__all__ = ["READINGS", "Reading", "Run", "asked", "attention", "blocks", "first_choice", "reading", "routing"]
