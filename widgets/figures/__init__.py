"""Pictures: one pure function each, arrays or tensors in, a plotly Figure out (`.as_dict(...)`: the same, unvalidated).

Every picture shows one grey sentence while there is no data, and carries one sentence for screen readers
(`summary_of(figure)`). Names that come from outside are escaped with `plain`.
"""

from widgets.figures.attack_accuracy import attack_accuracy
from widgets.figures.attention_map import attention_map
from widgets.figures.balance import balance, entropy
from widgets.figures.balance_methods import balance_methods
from widgets.figures.block_masks import block_masks
from widgets.figures.by_layer import by_layer
from widgets.figures.company import company_map, strongest_pairs
from widgets.figures.compare import measure_by_router, quality_by_flops
from widgets.figures.cursor import with_cursor
from widgets.figures.domain_loads import domain_loads, specialisation_by_layer
from widgets.figures.drops import bias_trajectory, drops
from widgets.figures.expert_load_map import expert_load_map
from widgets.figures.field_partition import field_partition
from widgets.figures.gate_values import gate_by_kind, gate_histogram
from widgets.figures.gates import gate_summary, head_share
from widgets.figures.head_shares import head_shares
from widgets.figures.hopfield_energy import hopfield_energy, hopfield_regimes
from widgets.figures.joint_attention import joint_attention
from widgets.figures.load import load_map, load_over_steps
from widgets.figures.load_difference import load_difference
from widgets.figures.locality import locality
from widgets.figures.loss import loss_curve
from widgets.figures.margins import margin_histogram
from widgets.figures.massive_activations import massive_activations
from widgets.figures.module_usage import module_usage
from widgets.figures.pairs import coactivation_map, router_cosine
from widgets.figures.paper_beside import paper_beside
from widgets.figures.percentiles import utilisation_percentiles
from widgets.figures.picture import Picture, summary_of
from widgets.figures.received_mass import received_mass
from widgets.figures.recovered_families import recovered_families
from widgets.figures.router_plane import router_plane
from widgets.figures.saturation_by_layer import saturation_by_layer
from widgets.figures.side_by_side import side_by_side
from widgets.figures.sink_birth import sink_birth
from widgets.figures.sinks_by_layer import sinks_by_layer
from widgets.figures.specialisation import specialisation
from widgets.figures.sureness_by_layer import sureness_by_layer
from widgets.figures.tasks_forgotten import tasks_forgotten
from widgets.figures.text import plain
from widgets.figures.theme import dress
from widgets.figures.token_path import token_path
from widgets.figures.two_runs import two_curves, two_losses, utilisation_difference
from widgets.figures.utilisation_spread import utilisation_spread
from widgets.figures.value_norms import value_norms

__all__ = [
    "Picture",
    "attack_accuracy",
    "attention_map",
    "balance",
    "balance_methods",
    "bias_trajectory",
    "block_masks",
    "by_layer",
    "coactivation_map",
    "company_map",
    "domain_loads",
    "dress",
    "drops",
    "entropy",
    "expert_load_map",
    "field_partition",
    "gate_by_kind",
    "gate_histogram",
    "gate_summary",
    "head_share",
    "head_shares",
    "hopfield_energy",
    "hopfield_regimes",
    "joint_attention",
    "load_difference",
    "load_map",
    "load_over_steps",
    "locality",
    "loss_curve",
    "margin_histogram",
    "massive_activations",
    "measure_by_router",
    "module_usage",
    "paper_beside",
    "plain",
    "quality_by_flops",
    "received_mass",
    "recovered_families",
    "router_cosine",
    "router_plane",
    "saturation_by_layer",
    "side_by_side",
    "sink_birth",
    "sinks_by_layer",
    "specialisation",
    "specialisation_by_layer",
    "strongest_pairs",
    "summary_of",
    "sureness_by_layer",
    "tasks_forgotten",
    "token_path",
    "two_curves",
    "two_losses",
    "utilisation_difference",
    "utilisation_percentiles",
    "utilisation_spread",
    "value_norms",
    "with_cursor",
]
