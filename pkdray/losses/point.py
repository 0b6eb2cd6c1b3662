"""Point-to-point distillation: each student row is drawn to the teacher row of the same sample."""

from __future__ import annotations

import torch
from torch import Tensor

from pkdray.losses import _arguments as arguments
from pkdray.losses._numerics import full_precision, safe_norm, weighted_mean, without_autocast


def cosine_loss(student: Tensor, teacher: Tensor, weight: Tensor | None = None) -> Tensor:
    r"""Mean cosine distance between the rows of two embeddings.

    .. math::
        L = \frac{1}{B} \sum_i w_i \left(1 - \frac{e^s_i \cdot e^t_i}{\|e^s_i\|_\delta \|e^t_i\|_\delta}\right),
        \qquad \|e\|_\delta = \sqrt{\|e\|^2 + \delta^2}, \quad \delta = 10^{-4}

    The smoothed norm keeps the gradient finite at the zero vector, where the distance is 1. Gradients flow to both
    embeddings: pass a detached teacher to train the student alone.

    Args:
        student: ``[..., D]``; float16 and bfloat16 are computed in float32.
        teacher: same shape.
        weight: one weight per row, ``[...]``, for example the gate's ``keep``; the count of rows divides.

    Returns:
        A scalar in [0, 2] for weights in [0, 1].

    Raises:
        ValueError: shapes do not fit or the batch is empty.

    Source:
        PKD (2023), Eq. 1, with the mean that the paper's sum stands for.

    Example:
        >>> import torch
        >>> cosine_loss(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 3.0]]))
        tensor(0.5000)
    """
    _check_rows(student, teacher, weight)
    s, t = full_precision(student), full_precision(teacher)
    cosines = (s / safe_norm(s) * (t / safe_norm(t))).sum(-1)
    return weighted_mean(1 - cosines, weight)


def kl_loss(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float | Tensor, weight: Tensor | None = None
) -> Tensor:
    r"""Softened Kullback-Leibler divergence from the teacher's class probabilities to the student's.

    .. math::
        L = \frac{T^2}{B} \sum_i w_i \sum_c p^t_{ic} \left(\log p^t_{ic} - \log p^s_{ic}\right),
        \qquad p = \mathrm{softmax}(l / T)

    The factor T^2 keeps the size of the gradient when the temperature changes. Gradients flow to both logits: pass a
    detached teacher to train the student alone.

    Args:
        student_logits: ``[..., C]``; float16 and bfloat16 are computed in float32.
        teacher_logits: same shape.
        temperature: T > 0, a float or a 0-d tensor (the value of a tensor is not checked).
        weight: one weight per row, ``[...]``; the count of rows divides.

    Returns:
        A scalar, at least 0 for weights of at least 0.

    Raises:
        ValueError: shapes do not fit, the batch is empty or the temperature is not above 0.

    Source:
        Hinton, Vinyals and Dean (2015), "Distilling the knowledge in a neural network", Section 2.

    Example:
        >>> import torch
        >>> kl_loss(torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]]), temperature=2.0)
        tensor(0.4438)
    """
    arguments.same_shape("student_logits", student_logits, "teacher_logits", teacher_logits, min_dims=2)
    _check_rows(student_logits, teacher_logits, weight)
    arguments.scalar("temperature", temperature)
    arguments.positive("temperature", temperature)
    if isinstance(temperature, Tensor):
        # Its square multiplies the loss, and would round it to a temperature's half precision.
        temperature = full_precision(temperature)
    log_student = (full_precision(student_logits) / temperature).log_softmax(-1)
    log_teacher = (full_precision(teacher_logits) / temperature).log_softmax(-1)
    rows = (log_teacher.exp() * (log_teacher - log_student)).sum(-1)
    return temperature**2 * weighted_mean(rows, weight)


def hint_loss(student: Tensor, teacher: Tensor, weight: Tensor | None = None) -> Tensor:
    r"""Mean squared error between two embeddings.

    .. math::
        L = \frac{1}{B D} \sum_i w_i \|e^s_i - e^t_i\|^2

    Gradients flow to both embeddings: pass a detached teacher to train the student alone.

    Args:
        student: ``[..., D]``; float16 and bfloat16 are computed in float32.
        teacher: same shape.
        weight: one weight per row, ``[...]``; the count of rows divides.

    Returns:
        A scalar, at least 0 for weights of at least 0.

    Raises:
        ValueError: shapes do not fit or the batch is empty.

    Source:
        Romero et al. (2015), "FitNets: hints for thin deep nets", Eq. 3, as a mean.

    Example:
        >>> import torch
        >>> hint_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 5.0]]))
        tensor(4.5000)
    """
    _check_rows(student, teacher, weight)
    rows = (full_precision(student) - full_precision(teacher)).square().mean(-1)
    return weighted_mean(rows, weight)


def contrastive_loss(
    student: Tensor, teacher: Tensor, temperature: float | Tensor, weight: Tensor | None = None
) -> Tensor:
    r"""InfoNCE within the batch: the student's row must resemble its own teacher row more than all the others.

    .. math::
        L = \frac{1}{B} \sum_i w_i \left(-\log \frac{e^{c_{ii} / T}}{\sum_j e^{c_{ij} / T}}\right), \qquad
        c_{ij} = \frac{e^s_i \cdot e^t_j}{\|e^s_i\|_\delta \|e^t_j\|_\delta}, \quad \delta = 10^{-4}

    The other rows of the batch are the negatives, where the authors keep a memory of thousands. A batch of one row has
    none and gives 0; B rows between which the student cannot tell give log B. Gradients flow to both embeddings: pass a
    detached teacher to train the student alone.

    Args:
        student: ``[..., B, D]``; float16 and bfloat16 are computed in float32, under autocast too. The negatives of a
            row come from the same leading index.
        teacher: same shape.
        temperature: T > 0, a float or a 0-d tensor (the value of a tensor is not checked).
        weight: one weight per student row, ``[..., B]``; the count of rows divides. A row of weight 0 is still a
            negative of the others.

    Returns:
        A scalar, at least 0 for weights of at least 0: the mean over all rows.

    Raises:
        ValueError: shapes do not fit, the batch is empty or the temperature is not above 0.

    Source:
        After Tian, Krishnan and Isola (2020), "Contrastive representation distillation"; van den Oord, Li and Vinyals
        (2018), "Representation learning with contrastive predictive coding", Eq. 4.

    Example:
        >>> import torch
        >>> contrastive_loss(torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 1.0]]), temperature=0.5)
        tensor(0.3301)
    """
    _check_rows(student, teacher, weight)
    arguments.scalar("temperature", temperature)
    arguments.positive("temperature", temperature)
    with without_autocast(student):
        s, t = full_precision(student), full_precision(teacher)
        dtype = torch.promote_types(s.dtype, t.dtype)
        s, t = s.to(dtype), t.to(dtype)
        cosines = s / safe_norm(s) @ (t / safe_norm(t)).mT / temperature
    rows = -cosines.log_softmax(-1).diagonal(dim1=-2, dim2=-1)
    return weighted_mean(rows, weight)


def _check_rows(student: Tensor, teacher: Tensor, weight: Tensor | None) -> None:
    arguments.same_shape("student", student, "teacher", teacher, min_dims=2)
    arguments.not_empty("student", student, student.numel())
    if weight is not None:
        arguments.leading_shape("weight", weight, "student", student)
