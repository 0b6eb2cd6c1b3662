"""The objective: a named method's loss, composed of the pure functions of this room.

Everything works on rows. A row is a sample, or a frame of one where the targets are per frame.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from pkdray.config import KLMethod, Method, MTPKDOTMethod, PKDMethod, PKDOTMethod, SupervisedMethod
from pkdray.losses.gate import negative_transfer_gate
from pkdray.losses.point import cosine_loss, kl_loss
from pkdray.losses.selection import mix, select_teacher, uniform_weights
from pkdray.losses.similarity import centroid_loss, similarity_matrix
from pkdray.losses.task import ccc_loss, cross_entropy_loss
from pkdray.losses.transport import pkdot_loss

Task: TypeAlias = Literal["classification", "regression"]
Parts: TypeAlias = dict[str, Tensor]


class StudentRows(NamedTuple):
    """The student's side: ``embedding`` [R, D], ``prediction`` [R, C], ``target`` [R] (classes) or [R, C]."""

    embedding: Tensor
    prediction: Tensor
    target: Tensor


class TeacherRows(NamedTuple):
    """The pool's side, M teachers: ``embedding`` [M, R, D], ``prediction`` [M, R, C], ``loss`` and ``gamma`` [M, R]."""

    embedding: Tensor
    prediction: Tensor
    loss: Tensor
    gamma: Tensor


Objective: TypeAlias = Callable[[StudentRows, TeacherRows | None, Mapping[str, Tensor]], tuple[Tensor, Parts]]


def hyperparameters(method: Method, device: str = "cpu") -> dict[str, Tensor]:
    """The method's real-valued hyperparameters as scalar tensors, so that they can differ between vmapped lanes.

    Example:
        >>> from pkdray.config import PKDMethod
        >>> sorted(hyperparameters(PKDMethod(name="pkd", alpha=0.2, theta=0.5)))
        ['alpha', 'theta']
    """
    return {
        name: torch.tensor(value, dtype=torch.float32, device=device)
        for name, value in method.model_dump().items()
        if isinstance(value, float)
    }


def build_objective(method: Method, task: Task) -> Objective:
    """The loss of a named method: (student rows, teacher rows, hyperparameters) -> (loss, its parts).

    Parts are scalars, unweighted, and ``teacher/<m>``: the share of rows taught by teacher m of the pool.

    * supervised: L_task
    * kl: alpha T^2 KL(teacher || student) + (1 - alpha) L_task
    * pkd: alpha L_cos + (1 - alpha) L_task (PKD 2023, Eq. 4)
    * kl and pkd with theta: alpha keep L_KD + beta L_task (Eqs. 5-7), row by row; L_ccc, which is no mean over rows,
      is weighted by the mean of beta
    * pkdot: L_task + alpha L_OT (PKDOT 2024)
    * mt-pkdot: task_weight L_task + alpha L_OT + centroid_weight L_centroid (MT-PKDOT 2025)

    L_task is cross-entropy for classification and 1 - CCC for regression.
    """
    if isinstance(method, SupervisedMethod):
        return lambda student, _teachers, _hparams: _supervised(student, task)

    def distil(
        student: StudentRows, teachers: TeacherRows | None, hparams: Mapping[str, Tensor]
    ) -> tuple[Tensor, Parts]:
        if teachers is None:
            raise ValueError(f"method {method.name} needs the rows of at least one teacher")
        weights = _selection(teachers.loss, method.selection)
        parts = {f"teacher/{index}": share for index, share in enumerate(weights.mean(dim=1))}
        teacher = _Selected(
            mix(weights, teachers.embedding), mix(weights, teachers.prediction), mix(weights, teachers.gamma)
        )
        loss, terms = _distillation(method, task, student, teacher, hparams)
        return loss, terms | parts

    return distil


class _Selected(NamedTuple):
    """The teacher that each row listens to: ``embedding`` [R, D], ``prediction`` [R, C], ``gamma`` [R]."""

    embedding: Tensor
    prediction: Tensor
    gamma: Tensor


def _distillation(
    method: Method, task: Task, student: StudentRows, teacher: _Selected, hparams: Mapping[str, Tensor]
) -> tuple[Tensor, Parts]:
    if isinstance(method, KLMethod | PKDMethod):
        return _point(method, task, student, teacher, hparams)
    if not isinstance(method, PKDOTMethod | MTPKDOTMethod):
        raise TypeError(f"no objective for {type(method).__name__}")
    supervised = task_loss(student, task)
    transport = pkdot_loss(
        student.embedding, teacher.embedding, epsilon=hparams["epsilon"], top_k=method.top_k, anchors=method.anchors
    )
    parts = {"task": supervised, "transport": transport}
    if isinstance(method, PKDOTMethod):
        return supervised + hparams["alpha"] * transport, parts
    centroid = centroid_loss(similarity_matrix(student.embedding), similarity_matrix(teacher.embedding))
    loss = hparams["task_weight"] * supervised + hparams["alpha"] * transport + hparams["centroid_weight"] * centroid
    return loss, {**parts, "centroid": centroid}


def _point(
    method: KLMethod | PKDMethod, task: Task, student: StudentRows, teacher: _Selected, hparams: Mapping[str, Tensor]
) -> tuple[Tensor, Parts]:
    alpha = hparams["alpha"]

    def distance(weight: Tensor | None) -> Tensor:
        if isinstance(method, KLMethod):
            return kl_loss(student.prediction, teacher.prediction, hparams["temperature"], weight)
        return cosine_loss(student.embedding, teacher.embedding, weight)

    if method.theta is None:
        distillation, supervised = distance(None), task_loss(student, task)
        loss = alpha * distillation + (1 - alpha) * supervised
        return loss, {"task": supervised, "distillation": distillation}
    beta, keep = negative_transfer_gate(teacher.gamma, hparams["theta"])
    distillation = distance(keep)
    if task == "classification":
        supervised = cross_entropy_loss(student.prediction, student.target, beta)
    else:
        supervised = beta.mean() * task_loss(student, task)
    loss = alpha * distillation + supervised
    return loss, {"task": supervised, "distillation": distillation, "gate_open": keep.mean()}


def _supervised(student: StudentRows, task: Task) -> tuple[Tensor, Parts]:
    loss = task_loss(student, task)
    return loss, {"task": loss}


def task_loss(student: StudentRows, task: Task) -> Tensor:
    """L_task of rows: cross-entropy for classification, 1 - CCC for regression."""
    if task == "classification":
        return cross_entropy_loss(student.prediction, student.target)
    return ccc_loss(student.prediction, student.target)


def _selection(losses: Tensor, selection: str) -> Tensor:
    if selection == "uniform":
        return uniform_weights(losses)
    return select_teacher(losses, per="batch" if selection == "batch" else "sample")
