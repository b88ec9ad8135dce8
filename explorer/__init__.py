"""Gating explorer: see what decides in a neural network which expert, head or layer gets a token, while it decides."""

__version__ = "0.1.0"

from explorer import mechanisms, metrics  # importing the mechanisms fills the catalogue
from explorer.catalogue import Claim, Knob, Paper, Spec, build, catalogue, names, spec
from explorer.claims import Verdict, verify
from explorer.compare import compare
from explorer.errors import ExplorerError
from explorer.experiment import Experiment, Step
from explorer.recorder import record
from explorer.recording import Recording
from explorer.taps import Instrumented, edit
