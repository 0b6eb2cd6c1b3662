"""What each method compares: a new method is one class in `pkdray.config.methods` and one entry here.

Everything works on rows. A row is a sample, or a frame of one where the targets are per frame.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor

from pkdray.config import (
    CCMethod,
    CRDMethod,
    DistillingMethod,
    HintMethod,
    KLMethod,
    MTPKDOTMethod,
    PKDMethod,
    PKDOTMethod,
    PointMethod,
    RKDMethod,
    SPMethod,
    TaskLoss,
)
from pkdray.losses.point import contrastive_loss, cosine_loss, hint_loss, kl_loss
from pkdray.losses.relational import (
    correlation_congruence_loss,
    relational_angle_loss,
    relational_distance_loss,
    similarity_preserving_loss,
)
from pkdray.losses.similarity import centroid_loss, similarity_matrix
from pkdray.losses.task import ccc_loss, cross_entropy_loss, cumulative_logits, mse_loss, ordinal_loss
from pkdray.losses.transport import pkdot_loss

Hparams: TypeAlias = Mapping[str, Tensor]


class StudentRows(NamedTuple):
    """The student's side: ``embedding`` [R, D], ``prediction`` [R, C], ``target`` [R] (classes) or [R, C]."""

    embedding: Tensor
    prediction: Tensor
    target: Tensor


class SelectedRows(NamedTuple):
    """The teacher that each row listens to: ``embedding`` [R, D], ``prediction`` [R, C], ``gamma`` [R]."""

    embedding: Tensor
    prediction: Tensor
    gamma: Tensor


TASK_TERMS: Mapping[TaskLoss, Callable[[StudentRows, Tensor | None], Tensor]] = {
    "cross_entropy": lambda student, weight: cross_entropy_loss(student.prediction, student.target, weight),
    "ordinal": lambda student, weight: ordinal_loss(cumulative_logits(student.prediction), student.target, weight),
    "mse": lambda student, weight: mse_loss(student.prediction, student.target, weight=weight),
    # A coefficient of all rows together is no mean over them, so the weights can only count by theirs.
    "ccc": lambda student, weight: (
        ccc_loss(student.prediction, student.target) * (1 if weight is None else weight.mean())
    ),
}
"""L_task by name: (student, weight per row or None) -> scalar."""


PointTerm: TypeAlias = Callable[[StudentRows, SelectedRows, Hparams, Tensor], Tensor]

POINT_TERMS: Mapping[type[PointMethod], PointTerm] = {
    KLMethod: lambda s, t, hparams, weight: kl_loss(s.prediction, t.prediction, hparams["temperature"], weight),
    HintMethod: lambda s, t, _hparams, weight: hint_loss(s.embedding, t.embedding, weight),
    PKDMethod: lambda s, t, _hparams, weight: cosine_loss(s.embedding, t.embedding, weight),
    CRDMethod: lambda s, t, hparams, weight: contrastive_loss(s.embedding, t.embedding, hparams["temperature"], weight),
}
"""Row against row: (student, teacher, hyperparameters, weight per row) -> the scalar L_KD, which alpha shares."""


class Structure(NamedTuple):
    """A comparison of whole batches: the hyperparameter that weighs it, and what it is.

    ``loss`` is (student embedding [R, D], teacher embedding [R, D], method, hyperparameters) -> scalar.
    """

    weight: str
    loss: Callable[[Tensor, Tensor, Any, Hparams], Tensor]


def _transport(student: Tensor, teacher: Tensor, method: PKDOTMethod | MTPKDOTMethod, hparams: Hparams) -> Tensor:
    top_k = hparams.get("top_k", method.top_k)
    return pkdot_loss(student, teacher, epsilon=hparams["epsilon"], top_k=top_k, anchors=method.anchors)


def _centroid(student: Tensor, teacher: Tensor, _method: MTPKDOTMethod, _hparams: Hparams) -> Tensor:
    return centroid_loss(similarity_matrix(student), similarity_matrix(teacher))


STRUCTURES: Mapping[type[DistillingMethod], Mapping[str, Structure]] = {
    SPMethod: {"similarity": Structure("alpha", lambda s, t, _method, _hparams: similarity_preserving_loss(s, t))},
    RKDMethod: {
        "distance": Structure("distance_weight", lambda s, t, _method, _hparams: relational_distance_loss(s, t)),
        "angle": Structure("angle_weight", lambda s, t, _method, _hparams: relational_angle_loss(s, t)),
    },
    CCMethod: {
        "correlation": Structure(
            "alpha", lambda s, t, method, hparams: correlation_congruence_loss(s, t, hparams["gamma"], method.order)
        )
    },
    PKDOTMethod: {"transport": Structure("alpha", _transport)},
    MTPKDOTMethod: {
        "transport": Structure("alpha", _transport),
        "centroid": Structure("centroid_weight", _centroid),
    },
}
"""Batch against batch: the terms that stand beside L_task, by the name of the part that they are logged as."""
