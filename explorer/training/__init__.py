"""Training that can be stepped: an optimizer and a thread calibration. The live trainer is explorer.training.live."""

from explorer.training.adamw import AdamW
from explorer.training.threads import calibrate_threads

__all__ = ["AdamW", "calibrate_threads"]
