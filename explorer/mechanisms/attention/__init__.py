"""Attention mechanisms: causal maps x_BTD -> y_BTD with their own projections."""

from explorer.mechanisms.attention.softmax_attention import SoftmaxAttention  # noqa: I001  (the order is the menu's)
from explorer.mechanisms.attention.gated_attention import GatedAttention

__all__ = ["GatedAttention", "SoftmaxAttention"]
