"""Attention mechanisms: maps x_BTD -> y_BTD with their own projections, and readouts x_BTD -> logits_BC."""

from explorer.mechanisms.attention.softmax_attention import SoftmaxAttention  # noqa: I001  (the order is the menu's)
from explorer.mechanisms.attention.gated_attention import GatedAttention
from explorer.mechanisms.attention.sink_logit import SinkLogit
from explorer.mechanisms.attention.sigmoid_attention import SigmoidAttention
from explorer.mechanisms.attention.forgetting_attention import ForgettingAttention
from explorer.mechanisms.attention.hopfield import Hopfield
from explorer.mechanisms.attention.block_gate import BlockGate
from explorer.mechanisms.attention.gated_positional import GatedPositional
from explorer.mechanisms.attention.class_attention_gate import ClassAttentionGate
from explorer.mechanisms.attention.joint_gated_attention import JointGatedAttention

__all__ = [
    "BlockGate",
    "ClassAttentionGate",
    "ForgettingAttention",
    "GatedAttention",
    "GatedPositional",
    "Hopfield",
    "JointGatedAttention",
    "SigmoidAttention",
    "SinkLogit",
    "SoftmaxAttention",
]
