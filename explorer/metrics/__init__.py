"""Metrics: pure functions of tensors, each with its formula, its range and what both ends of the range mean.

They take what taps record (index, probs, attention, gate) on any device, propagate NaN instead of hiding it, and raise
`explorer.errors.BadValue` for shapes that do not fit.
"""

from explorer.metrics import balance, continual, entropy, gates, geometry, matching, sinks, specialisation, spread
from explorer.metrics.balance import (
    counts,
    cv_squared,
    dead_experts,
    drop_rate,
    gini,
    load_balancing_loss,
    load_entropy,
    load_fraction,
    max_violation,
    max_violation_floor,
    token_drop_rate,
    utilisation,
    z_loss,
)
from explorer.metrics.continual import forgetting, incremental_accuracy
from explorer.metrics.entropy import margin, token_entropy
from explorer.metrics.gates import effective_rank, gate_auc, gate_sparsity
from explorer.metrics.geometry import cosine, plane
from explorer.metrics.matching import match_experts
from explorer.metrics.sinks import (
    first_token_share,
    learned_sink_mass,
    massive_activations,
    proxy_scores,
    received_mass,
    row_entropy,
    sink_rate,
    value_norm_ratio,
)
from explorer.metrics.specialisation import (
    co_activation,
    contingency,
    flip_rate,
    label_share,
    nmi,
    nmi_floor,
    permuted_floor,
    saturation,
    vocabulary_specialisation,
    vocabulary_top_share,
)
from explorer.metrics.spread import co_activation_lift, effective_experts, utilisation_percentiles

__all__ = [
    "balance",
    "co_activation",
    "co_activation_lift",
    "contingency",
    "continual",
    "cosine",
    "counts",
    "cv_squared",
    "dead_experts",
    "drop_rate",
    "effective_experts",
    "effective_rank",
    "entropy",
    "first_token_share",
    "flip_rate",
    "forgetting",
    "gate_auc",
    "gate_sparsity",
    "gates",
    "geometry",
    "gini",
    "incremental_accuracy",
    "label_share",
    "learned_sink_mass",
    "load_balancing_loss",
    "load_entropy",
    "load_fraction",
    "margin",
    "massive_activations",
    "match_experts",
    "matching",
    "max_violation",
    "max_violation_floor",
    "nmi",
    "nmi_floor",
    "permuted_floor",
    "plane",
    "proxy_scores",
    "received_mass",
    "row_entropy",
    "saturation",
    "sink_rate",
    "sinks",
    "specialisation",
    "spread",
    "token_drop_rate",
    "token_entropy",
    "utilisation",
    "utilisation_percentiles",
    "value_norm_ratio",
    "vocabulary_specialisation",
    "vocabulary_top_share",
    "z_loss",
]
