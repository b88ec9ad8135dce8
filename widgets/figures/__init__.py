"""Pictures: one pure function each, arrays or tensors in, a plotly Figure out (`.as_dict(...)`: the same, unvalidated).

Every picture shows one grey sentence while there is no data, and carries one sentence for screen readers
(`summary_of(figure)`). Names that come from outside are escaped with `plain`.
"""

from widgets.figures.attack_accuracy import attack_accuracy
from widgets.figures.balance import balance, entropy
from widgets.figures.balance_methods import balance_methods
from widgets.figures.compare import measure_by_router, quality_by_flops
from widgets.figures.cursor import with_cursor
from widgets.figures.drops import bias_trajectory, drops
from widgets.figures.field_partition import field_partition
from widgets.figures.gates import gate_summary, head_share
from widgets.figures.load import load_map, load_over_steps
from widgets.figures.loss import loss_curve
from widgets.figures.margins import margin_histogram
from widgets.figures.module_usage import module_usage
from widgets.figures.pairs import coactivation_map, router_cosine
from widgets.figures.percentiles import utilisation_percentiles
from widgets.figures.picture import Picture, summary_of
from widgets.figures.recovered_families import recovered_families
from widgets.figures.router_plane import router_plane
from widgets.figures.specialisation import specialisation
from widgets.figures.text import plain
from widgets.figures.theme import dress
from widgets.figures.token_path import token_path
from widgets.figures.two_runs import two_curves, two_losses, utilisation_difference

__all__ = [
    "Picture",
    "attack_accuracy",
    "balance",
    "balance_methods",
    "bias_trajectory",
    "coactivation_map",
    "dress",
    "drops",
    "entropy",
    "field_partition",
    "gate_summary",
    "head_share",
    "load_map",
    "load_over_steps",
    "loss_curve",
    "margin_histogram",
    "measure_by_router",
    "module_usage",
    "plain",
    "quality_by_flops",
    "recovered_families",
    "router_cosine",
    "router_plane",
    "specialisation",
    "summary_of",
    "token_path",
    "two_curves",
    "two_losses",
    "utilisation_difference",
    "utilisation_percentiles",
    "with_cursor",
]
