"""Who gets the token: routers map x_BTD to (weights_BTK, index_BTK)."""

from explorer.mechanisms.routing.topk_softmax import TopKSoftmax  # noqa: I001  (the order is the menu's)
from explorer.mechanisms.routing.topk_softmax_raw import TopKSoftmaxRaw
from explorer.mechanisms.routing.switch import Switch
from explorer.mechanisms.routing.expert_choice import ExpertChoice

__all__ = ["ExpertChoice", "Switch", "TopKSoftmax", "TopKSoftmaxRaw"]
