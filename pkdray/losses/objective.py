"""The objective: a named method's loss, composed of its terms (`pkdray.losses.terms`) and their weights."""

from __future__ import annotations

from collections.abc import Callable
from math import log
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from pkdray.config import (
    LEARNED,
    TASK_LOSSES,
    DistillingMethod,
    Method,
    PointMethod,
    Selection,
    SupervisedMethod,
    TaskLoss,
)
from pkdray.losses.gate import negative_transfer_gate
from pkdray.losses.selection import confidence_weights, mix, select_teacher, uniform_weights
from pkdray.losses.terms import POINT_TERMS, STRUCTURES, TASK_TERMS, Hparams, SelectedRows, Structure, StudentRows
from pkdray.losses.weighting import uncertainty_weighting

Task: TypeAlias = Literal["classification", "regression"]
Parts: TypeAlias = dict[str, Tensor]

LOG_VARIANCES = "log_variances"
"""The hyperparameter that ``alpha: learned`` is: s of L_task, then of the method's terms, in their order."""

SMALLEST_START = 1e-3
"""A learned weight starts no lower: one of 0 has no logarithm and would never be heard of."""


class TeacherRows(NamedTuple):
    """The pool's side, M teachers: ``embedding`` [M, R, D], ``prediction`` [M, R, C], ``loss`` and ``gamma`` [M, R]."""

    embedding: Tensor
    prediction: Tensor
    loss: Tensor
    gamma: Tensor


class Teaching(NamedTuple):
    """Who teaches R rows, for M teachers.

    * ``weights`` [M, R]: how much of each row's lesson is each teacher's; 0 for all of them where nobody is left
    * ``gamma`` [R]: the failure of whoever teaches the row
    * ``taught`` [R], boolean: somebody teaches the row
    * ``beta`` [R]: what the gate multiplies the row's L_task with; 1 without a gate
    * ``keep`` [R]: 1 where the row is distilled, 0 where the gate is closed or nobody teaches
    """

    weights: Tensor
    gamma: Tensor
    taught: Tensor
    beta: Tensor
    keep: Tensor


Objective: TypeAlias = Callable[[StudentRows, TeacherRows | None, Hparams], tuple[Tensor, Parts]]


def hyperparameters(method: Method, device: str = "cpu") -> dict[str, Tensor]:
    """The method's real-valued hyperparameters as scalar tensors, so that they can differ between vmapped lanes.

    With ``alpha: learned`` there is also ``log_variances``, [1 + terms], which requires a gradient: whoever trains the
    student trains it too. It starts at the fixed weights that the method would have: alpha at the preset's.

    Example:
        >>> from pkdray.config import PKDMethod
        >>> sorted(hyperparameters(PKDMethod(name="pkd", alpha=0.2, theta=0.5)))
        ['alpha', 'theta']
        >>> hyperparameters(PKDMethod(name="pkd", alpha="learned"))["log_variances"].neg().exp()
        tensor([0.3000, 0.7000], grad_fn=<ExpBackward0>)
    """
    values = {
        name: torch.tensor(value, dtype=torch.float32, device=device)
        for name, value in method.model_dump().items()
        if isinstance(value, float)
    }
    if isinstance(method, DistillingMethod) and getattr(method, "alpha", None) == LEARNED:
        starts = [-log(max(weight, SMALLEST_START)) for weight in _fixed_weights(method)]
        values[LOG_VARIANCES] = torch.tensor(starts, dtype=torch.float32, device=device, requires_grad=True)
    return values


def build_objective(method: Method, task: Task, label_loss: TaskLoss | None = None) -> Objective:
    r"""The loss of a named method: (student rows, teacher rows, hyperparameters) -> (loss, its parts).

    * supervised: L_task
    * kl, hint, pkd, crd: alpha L_KD + (1 - alpha) L_task (PKD 2023, Eq. 4)
    * the same with theta: alpha keep L_KD + beta L_task (Eqs. 5-7), row by row; L_ccc, which is no mean over rows, is
      weighted by the mean of beta
    * sp, cc, pkdot: L_task + alpha L
    * rkd: L_task + distance_weight L_D + angle_weight L_A
    * mt-pkdot: task_weight L_task + alpha L_OT + centroid_weight L_centroid (MT-PKDOT 2025)

    With ``alpha: learned`` the weights are not these, but exp(-s_j) of the log-variances s, with their price:

    .. math::
        L = e^{-s_0} L_{task} + s_0 + \sum_{j \ge 1} \left(e^{-s_j} L_j + p_j s_j\right)

    The gate keeps working row by row: L_task is then the mean of beta L_task and L_j that of keep L_KD. p_j is the
    share of rows that term j was taught on (the mean of keep; 1 without gate and mask), so that a closed gate takes the
    price of a term away with the term, and does not drive its weight up.

    **Hyperparameters**: what is not given is the method's own, of `hyperparameters` (a learned alpha must be given,
    since it is yours to train). Beside them, none of them needed:

    * ``teacher_mask``, boolean [M]: only these of the given teachers are selected among. Where nobody is left, the
      weight of distillation is 0, and L_task of the point methods has the whole weight of 1.
    * ``top_k``, an integer scalar, in place of the method's own.

    **Parts** are scalars: ``task`` and one a term, unweighted; ``weight/<part>``, what each of them was multiplied with
    in this batch; ``teacher/<m>``, the share of rows taught by teacher m of the pool; ``gate_open``, the share of rows
    that the gate left to distillation.

    Args:
        method: which terms, and how they are weighed.
        task: what the predictions are; chooses L_task where it is not named.
        label_loss: L_task: cross_entropy (the default for classes), ordinal, ccc (the default for numbers) or mse.
    """
    labels = TASK_TERMS[label_loss or TASK_LOSSES[task][0]]

    def supervised(student: StudentRows, _teachers: TeacherRows | None, _hparams: Hparams) -> tuple[Tensor, Parts]:
        loss = labels(student, None)
        return loss, {"task": loss, "weight/task": torch.ones_like(loss)}

    if isinstance(method, SupervisedMethod):
        return supervised

    own = hyperparameters(method)
    learned = own.pop(LOG_VARIANCES, None) is not None

    def distil(student: StudentRows, teachers: TeacherRows | None, hparams: Hparams) -> tuple[Tensor, Parts]:
        if teachers is None:
            raise ValueError(f"method {method.name} needs the rows of at least one teacher")
        if learned and LOG_VARIANCES not in hparams:
            raise ValueError(
                f"method {method.name} has a learned alpha, but the hyperparameters have no {LOG_VARIANCES}. "
                "Pass what hyperparameters(method) gives, and train it."
            )
        hparams = {**own, **hparams}
        lesson = teaching(method, teachers.loss, teachers.gamma, hparams)
        parts = {f"teacher/{index}": share for index, share in enumerate(lesson.weights.mean(dim=1))}
        alone = lesson.taught.logical_not().unsqueeze(-1)
        teacher = SelectedRows(
            # Who has no teacher is compared with itself: a row of zeros would have no direction to compare.
            torch.where(alone, student.embedding.detach(), mix(lesson.weights, teachers.embedding)),
            torch.where(alone, student.prediction.detach(), mix(lesson.weights, teachers.prediction)),
            lesson.gamma,
        )
        if isinstance(method, PointMethod):
            terms, more = _point(method, labels, student, teacher, lesson, hparams)
            parts |= more
        else:
            terms = _structural(method, labels, student, teacher, lesson.taught, hparams)
        loss, found = _weighed(terms, hparams.get(LOG_VARIANCES))
        return loss, found | parts

    return distil


def teaching(method: DistillingMethod, losses: Tensor, gamma: Tensor, hparams: Hparams) -> Teaching:
    """Who teaches each row of a batch, and whether the gate lets them.

    Both depend on what the frozen teachers said and on who is in the batch, and on nothing that is trained: an epoch
    that is over can be asked again who taught whom.

    Args:
        method: its selection, and its gate if it has one.
        losses: the teachers' task losses of the rows, [M, R].
        gamma: the teachers' failures on the rows, [M, R].
        hparams: ``theta`` where the method has a gate; ``teacher_mask`` if not all of the teachers may teach.

    Raises:
        ValueError: shapes that do not fit, an empty pool or batch.

    Example:
        >>> from pkdray.config import PKDMethod
        >>> method = PKDMethod(name="pkd", theta=0.5, selection="sample")
        >>> losses = torch.tensor([[0.1, 2.0], [0.3, 1.0]])
        >>> lesson = teaching(method, losses, -torch.expm1(-losses), hyperparameters(method))
        >>> lesson.weights, lesson.keep
        (tensor([[1., 0.],
                [0., 1.]]), tensor([1., 0.]))
    """
    weights = _select(losses, method.selection, hparams.get("teacher_mask"))
    taught = (weights != 0).any(dim=0)
    failure = mix(weights, gamma)
    keep = taught.to(failure.dtype)
    if not has_gate(method):
        return Teaching(weights, failure, taught, torch.ones_like(keep), keep)
    beta, opened = negative_transfer_gate(failure, hparams["theta"])
    return Teaching(weights, failure, taught, torch.where(taught, beta, 1), opened * keep)


def has_gate(method: DistillingMethod) -> bool:
    """Whether a method can leave a row to the labels alone."""
    return isinstance(method, PointMethod) and method.theta is not None


class _Term(NamedTuple):
    """A part of the loss: its ``value``, its fixed ``weight`` and the ``share`` of rows that it is about."""

    value: Tensor
    weight: Tensor
    share: Tensor


def _point(
    method: PointMethod,
    labels: Callable[[StudentRows, Tensor | None], Tensor],
    student: StudentRows,
    teacher: SelectedRows,
    lesson: Teaching,
    hparams: Hparams,
) -> tuple[dict[str, _Term], Parts]:
    keep = lesson.keep
    one = torch.ones_like(keep.mean())
    # With a learned alpha both weights are the log-variances', and this one is not looked at.
    alpha = hparams.get("alpha", one)
    distance = POINT_TERMS[type(method)]
    if not has_gate(method):
        terms = {
            "task": _Term(labels(student, None), 1 - alpha * keep.mean(), one),
            "distillation": _Term(distance(student, teacher, hparams, keep), alpha, keep.mean()),
        }
        return terms, {}
    terms = {
        "task": _Term(labels(student, lesson.beta), one, one),
        "distillation": _Term(distance(student, teacher, hparams, keep), alpha, keep.mean()),
    }
    return terms, {"gate_open": keep.mean()}


def _structural(
    method: DistillingMethod,
    labels: Callable[[StudentRows, Tensor | None], Tensor],
    student: StudentRows,
    teacher: SelectedRows,
    taught: Tensor,
    hparams: Hparams,
) -> dict[str, _Term]:
    supervised = labels(student, None)
    one = torch.ones_like(supervised)
    terms = {"task": _Term(supervised, hparams.get("task_weight", one), one)}
    # A structure is of the whole batch: it is there if anybody was taught.
    anybody = taught.any().to(supervised.dtype)
    for part, structure in _structures(method).items():
        value = structure.loss(student.embedding, teacher.embedding, method, hparams)
        terms[part] = _Term(anybody * value, hparams.get(structure.weight, one), anybody)
    return terms


def _weighed(terms: dict[str, _Term], log_variances: Tensor | None) -> tuple[Tensor, Parts]:
    values = torch.stack([term.value for term in terms.values()])
    shares = torch.stack([term.share for term in terms.values()])
    if log_variances is None:
        weights = torch.stack([term.weight.to(values.dtype) for term in terms.values()])
        loss = (weights * values).sum()
    else:
        weights = (-log_variances.detach()).exp()
        loss = uncertainty_weighting(values, log_variances) - ((1 - shares) * log_variances).sum()
    effective = torch.where(shares > 0, weights, 0)
    parts = {part: term.value for part, term in terms.items()}
    return loss, parts | {f"weight/{part}": weight for part, weight in zip(terms, effective, strict=True)}


def _structures(method: DistillingMethod) -> dict[str, Structure]:
    """The method's structures; with a learned alpha without those of weight 0, which learning would bring back."""
    found = STRUCTURES[type(method)]
    if getattr(method, "alpha", None) != LEARNED:
        return dict(found)
    return {part: structure for part, structure in found.items() if getattr(method, structure.weight) != 0}


def _fixed_weights(method: DistillingMethod) -> list[float]:
    """The weights of L_task and of the terms that the method would have with its preset's alpha."""
    alpha = float(method.preset_values(method.preset)["alpha"])
    if isinstance(method, PointMethod):
        return [1 - alpha, alpha]
    weights = {**method.model_dump(), "alpha": alpha}
    return [weights.get("task_weight", 1.0), *(weights[term.weight] for term in _structures(method).values())]


def task_loss(student: StudentRows, name: TaskLoss) -> Tensor:
    """L_task of rows, by name."""
    return TASK_TERMS[name](student, None)


def _select(losses: Tensor, selection: Selection, mask: Tensor | None) -> Tensor:
    if selection == "uniform":
        return uniform_weights(losses, mask)
    if selection == "confidence":
        return confidence_weights(losses, mask)
    return select_teacher(losses, mask, per=selection)
