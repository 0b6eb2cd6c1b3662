"""The distillation methods by name, each with its own hyperparameters and the domain of each."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

CARRIED_OVER = ("teachers", "selection")
"""Fields that survive a change of method; every other hyperparameter belongs to its method alone."""

DEFAULT_TOP_K = 30
"""Anchors a row where none are asked for; in a batch that has fewer, all of them."""


class _Method(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SupervisedMethod(_Method):
    """The labels alone: L = L_task. The lower bound of every study."""

    name: Literal["supervised"]


class _DistillingMethod(_Method):
    """What every distilling method has: the teachers it may learn from and how one is selected among them.

    ``teachers: null`` is the first teacher of the pool (for mt-pkdot: the whole pool). ``selection`` takes, per
    ``batch`` or per ``sample``, the teacher with the lowest task loss; ``uniform`` averages them.
    """

    teachers: list[str] | None = Field(default=None, min_length=1)
    selection: Literal["batch", "sample", "uniform"] = "batch"


class KLMethod(_DistillingMethod):
    """Softened predictions: L = alpha T^2 KL(teacher || student) + (1 - alpha) L_task (Hinton et al., 2015)."""

    name: Literal["kl"]
    alpha: float = Field(default=0.7, ge=0, le=1)
    temperature: float = Field(default=2.0, gt=0, le=100)
    theta: float | None = Field(default=None, ge=0, le=2)


class PKDMethod(_DistillingMethod):
    """Point-to-point cosine: L = alpha L_cos + (1 - alpha) L_task, or with the gate alpha keep L_cos + beta L_task.

    ``theta`` is the negative-transfer threshold on gamma, in [0, 2] for regression (1 - CCC of the teacher on the
    sequence) and [0, 1] for classification (1 - the teacher's probability of the label); ``null`` turns the gate off.
    """

    name: Literal["pkd"]
    alpha: float = Field(default=0.7, ge=0, le=1)
    theta: float | None = Field(default=None, ge=0, le=2)


class PKDOTMethod(_DistillingMethod):
    """Structure by optimal transport: L = L_task + alpha L_OT, Sinkhorn divergence of anchored similarity rows."""

    name: Literal["pkdot"]
    alpha: float = Field(default=0.6, ge=0)
    epsilon: float = Field(default=0.1, ge=1e-4, le=100)
    top_k: int = Field(default=DEFAULT_TOP_K, ge=1)
    anchors: Literal["least_similar", "most_similar"] = "least_similar"


class MTPKDOTMethod(_DistillingMethod):
    """Several teachers: L = task_weight L_task + alpha L_OT + centroid_weight L_centroid, teacher by selection."""

    name: Literal["mt-pkdot"]
    task_weight: float = Field(default=0.8, gt=0)
    alpha: float = Field(default=0.2, ge=0)
    centroid_weight: float = Field(default=0.2, ge=0)
    epsilon: float = Field(default=0.1, ge=1e-4, le=100)
    top_k: int = Field(default=DEFAULT_TOP_K, ge=1)
    anchors: Literal["least_similar", "most_similar"] = "least_similar"


Method: TypeAlias = SupervisedMethod | KLMethod | PKDMethod | PKDOTMethod | MTPKDOTMethod
METHODS: dict[str, type[_Method]] = {
    "supervised": SupervisedMethod,
    "kl": KLMethod,
    "pkd": PKDMethod,
    "pkdot": PKDOTMethod,
    "mt-pkdot": MTPKDOTMethod,
}
