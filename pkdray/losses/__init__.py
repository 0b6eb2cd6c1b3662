"""Losses: pure functions first, modules that call them, the composed objective last.

Every function here is pure, reads no tensor's values on the host (the transport solver's own stop excepted), and works
under ``torch.func.vmap`` and ``torch.func.grad``. Half precision is computed in float32.
"""

from pkdray.losses.gate import classification_gamma, negative_transfer_gate, sequence_gamma
from pkdray.losses.modules import (
    CCCLoss,
    CentroidLoss,
    ContrastiveLoss,
    CorrelationCongruenceLoss,
    CosineLoss,
    HintLoss,
    KLLoss,
    NegativeTransferGate,
    OrdinalLoss,
    PKDOTLoss,
    RelationalLoss,
    SimilarityPreservingLoss,
    SinkhornDivergence,
    UncertaintyWeighting,
)
from pkdray.losses.point import contrastive_loss, cosine_loss, hint_loss, kl_loss
from pkdray.losses.relational import (
    correlation_congruence_loss,
    relational_angle_loss,
    relational_distance_loss,
    similarity_preserving_loss,
)
from pkdray.losses.selection import confidence_weights, mix, select_teacher, uniform_weights
from pkdray.losses.similarity import Anchors, anchored_rows, centroid_loss, similarity_matrix
from pkdray.losses.task import (
    ccc,
    ccc_loss,
    cross_entropy_loss,
    cumulative_logits,
    mse_loss,
    ordinal_loss,
    ordinal_probabilities,
)
from pkdray.losses.transport import SinkhornInfo, pkdot_loss, sinkhorn_divergence
from pkdray.losses.weighting import effective_alpha, uncertainty_weighting

__all__ = [
    "Anchors",
    "CCCLoss",
    "CentroidLoss",
    "ContrastiveLoss",
    "CorrelationCongruenceLoss",
    "CosineLoss",
    "HintLoss",
    "KLLoss",
    "NegativeTransferGate",
    "OrdinalLoss",
    "PKDOTLoss",
    "RelationalLoss",
    "SimilarityPreservingLoss",
    "SinkhornDivergence",
    "SinkhornInfo",
    "UncertaintyWeighting",
    "anchored_rows",
    "ccc",
    "ccc_loss",
    "centroid_loss",
    "classification_gamma",
    "confidence_weights",
    "contrastive_loss",
    "correlation_congruence_loss",
    "cosine_loss",
    "cross_entropy_loss",
    "cumulative_logits",
    "effective_alpha",
    "hint_loss",
    "kl_loss",
    "mix",
    "mse_loss",
    "negative_transfer_gate",
    "ordinal_loss",
    "ordinal_probabilities",
    "pkdot_loss",
    "relational_angle_loss",
    "relational_distance_loss",
    "select_teacher",
    "sequence_gamma",
    "similarity_matrix",
    "similarity_preserving_loss",
    "sinkhorn_divergence",
    "uncertainty_weighting",
    "uniform_weights",
]
