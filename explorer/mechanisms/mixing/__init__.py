"""Token and channel mixers; a feed-forward mechanism maps x_BTD to y_BTD."""

from explorer.mechanisms.mixing.glu import GatedLinearUnit

__all__ = ["GatedLinearUnit"]
