"""Tiny hosts: they take mechanisms as objects and know none of them by name."""

from explorer.models.experts import Experts, MixtureOfExperts
from explorer.models.language_model import Block, LanguageModel
from explorer.models.sequence_model import SequenceModel
from explorer.models.stack_model import StackModel
from explorer.models.vector_model import VectorModel

__all__ = ["Block", "Experts", "LanguageModel", "MixtureOfExperts", "SequenceModel", "StackModel", "VectorModel"]
