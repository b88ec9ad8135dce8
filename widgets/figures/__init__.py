"""Pictures: one pure function each, arrays or tensors in, a plotly Figure out (`.as_dict(...)`: the same, unvalidated).

Every picture shows one grey sentence while there is no data, and carries one sentence for screen readers
(`summary_of(figure)`). Names that come from outside are escaped with `plain`.
"""

from widgets.figures.balance import balance, entropy
from widgets.figures.gates import gate_summary, head_share
from widgets.figures.load import load_map, load_over_steps
from widgets.figures.loss import loss_curve
from widgets.figures.picture import Picture, summary_of
from widgets.figures.specialisation import specialisation
from widgets.figures.text import plain
from widgets.figures.theme import dress

__all__ = [
    "Picture",
    "balance",
    "dress",
    "entropy",
    "gate_summary",
    "head_share",
    "load_map",
    "load_over_steps",
    "loss_curve",
    "plain",
    "specialisation",
    "summary_of",
]
