"""Who gets the token: routers map x_BTD to (weights_BTK, index_BTK)."""

from explorer.mechanisms.routing.topk_softmax import TopKSoftmax  # noqa: I001  (the order is the menu's)
from explorer.mechanisms.routing.topk_softmax_raw import TopKSoftmaxRaw
from explorer.mechanisms.routing.noisy_topk import NoisyTopK
from explorer.mechanisms.routing.switch import Switch
from explorer.mechanisms.routing.gshard_top2 import GShardTop2
from explorer.mechanisms.routing.expert_choice import ExpertChoice
from explorer.mechanisms.routing.hash_routing import HashRouting
from explorer.mechanisms.routing.sinkhorn import Sinkhorn
from explorer.mechanisms.routing.soft_moe import SoftMoE
from explorer.mechanisms.routing.relu_routing import ReLURouting
from explorer.mechanisms.routing.loss_free_bias import LossFreeBias
from explorer.mechanisms.routing.shared_experts import SharedExperts
from explorer.mechanisms.routing.sigma_moe import SigmaMoE
from explorer.mechanisms.routing.topk_activation import TopKActivation
from explorer.mechanisms.routing.product_key_memory import ProductKeyMemory
from explorer.mechanisms.routing.avg_k import AvgK
from explorer.mechanisms.routing.dense_to_sparse import DenseToSparse
from explorer.mechanisms.routing.activation_dense_to_sparse import ActivationDenseToSparse
from explorer.mechanisms.routing.moe_plus_plus import MoEPlusPlus
from explorer.mechanisms.routing.recurrent_router import RecurrentRouter
from explorer.mechanisms.routing.kmeans_gating import KMeansGating
from explorer.mechanisms.routing.hash_experts import HashExperts
from explorer.mechanisms.routing.mixture_of_modules import MixtureOfModules
from explorer.mechanisms.routing.moeut import MoEUT
from explorer.mechanisms.routing.heterogeneous_experts import HeterogeneousExperts
from explorer.mechanisms.routing.adversarial_moe import AdversarialMoE

__all__ = [
    "ActivationDenseToSparse",
    "AdversarialMoE",
    "AvgK",
    "DenseToSparse",
    "ExpertChoice",
    "GShardTop2",
    "HashExperts",
    "HashRouting",
    "HeterogeneousExperts",
    "KMeansGating",
    "LossFreeBias",
    "MixtureOfModules",
    "MoEPlusPlus",
    "MoEUT",
    "NoisyTopK",
    "ProductKeyMemory",
    "ReLURouting",
    "RecurrentRouter",
    "SharedExperts",
    "SigmaMoE",
    "Sinkhorn",
    "SoftMoE",
    "Switch",
    "TopKActivation",
    "TopKSoftmax",
    "TopKSoftmaxRaw",
]
