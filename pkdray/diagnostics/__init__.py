"""Diagnostics: what a trial's teachers did to it, how alike teacher and student see the data, and what it all costs."""

from pkdray.diagnostics.cost_table import costs
from pkdray.diagnostics.layout import projections
from pkdray.diagnostics.resemblance import Similarity, similarity
from pkdray.diagnostics.transfer import NegativeTransfer, negative_transfer

__all__ = ["NegativeTransfer", "Similarity", "costs", "negative_transfer", "projections", "similarity"]
