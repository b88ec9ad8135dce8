"""Gating explorer: see what decides in a neural network which expert, head or layer gets a token, while it decides."""

__version__ = "0.1.0"

from explorer import metrics
from explorer.catalogue import Claim, Knob, Paper, Spec, build, catalogue, names, spec
from explorer.errors import ExplorerError
from explorer.experiment import Experiment, Step
from explorer.recording import Recording, record
from explorer.taps import Instrumented, edit

from explorer import mechanisms  # noqa: E402, F401, I001  (fills the catalogue; needs the names above)
