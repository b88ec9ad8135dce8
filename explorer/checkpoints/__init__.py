"""Models that are not the explorer's own: what listens to the attention and the routers of a live transformers model.

`explorer.record` comes here by itself when it is given one. Nothing in this package imports transformers unless the model
at hand already has.
"""

from explorer.checkpoints.live import LiveModel, is_foreign, live

__all__ = ["LiveModel", "is_foreign", "live"]
