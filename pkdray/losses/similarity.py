"""The structure of a batch: who resembles whom, seen by the teacher and by the student."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pkdray.losses import _arguments as arguments
from pkdray.losses._numerics import full_precision, safe_norm, without_autocast

Anchors = Literal["least_similar", "most_similar"]


def similarity_matrix(embeddings: Tensor) -> Tensor:
    r"""Cosine similarities between all rows of a batch.

    .. math::
        S_{ij} = \frac{e_i \cdot e_j}{\|e_i\|_\delta \|e_j\|_\delta},
        \qquad \|e\|_\delta = \sqrt{\|e\|^2 + \delta^2}, \quad \delta = 10^{-4}

    The smoothed norm keeps the gradient finite at the zero vector, which resembles nothing, itself included (S = 0).

    Args:
        embeddings: ``[..., B, D]``; float16 and bfloat16 are computed in float32, under autocast too.

    Returns:
        ``[..., B, B]``, in [-1, 1], float32 (float64 for float64 input).

    Raises:
        ValueError: fewer than two dimensions or no rows.

    Source:
        PKDOT (2024), step 1.

    Example:
        >>> similarity_matrix(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
        tensor([[1.0000, 0.7071],
                [0.7071, 1.0000]])
    """
    if embeddings.ndim < 2:
        raise ValueError(f"embeddings has shape {list(embeddings.shape)}. Give it a row and a feature dimension.")
    arguments.not_empty("embeddings", embeddings, embeddings.shape[-2])
    with without_autocast(embeddings):
        values = full_precision(embeddings)
        unit = values / safe_norm(values)
        return unit @ unit.mT


def anchored_rows(
    teacher_similarity: Tensor,
    student_similarity: Tensor,
    top_k: int | Tensor,
    anchors: Anchors = "least_similar",
) -> tuple[Tensor, Tensor]:
    r"""The columns of both similarity matrices at the k anchors of each TEACHER row.

    .. math::
        t_{il} = S^t_{i,a_i(l)} - \min S^t, \qquad s_{il} = S^s_{i,a_i(l)} - \min S^s, \qquad l = 1 \dots k

    where a_i(1), ..., a_i(k) are the columns that the teacher's row i likes least (or most), in ascending teacher
    similarity, ties by index. The order matters: position l of every row means "the l-th anchor", and a transport loss
    between the rows changes with it. A sample is never its own anchor.

    Args:
        teacher_similarity: ``[..., B, B]``, from :func:`similarity_matrix`.
        student_similarity: same shape.
        top_k: anchors per row, at least 1, clamped to B - 1 (none for a single row). An int gives k columns. A 0-d
            integer tensor gives B - 1 columns of which all but k are 0 in both results: distances between rows, and
            so the transport loss, are the same, but the shape does not depend on the tensor's value.
        anchors: ``"least_similar"`` (the authors' code) or ``"most_similar"``.

    Returns:
        Teacher rows and student rows, ``[..., B, k]`` each, at least 0.

    Raises:
        ValueError: shapes do not fit, the matrices are empty or not square, ``top_k`` is below 1 or not a scalar, or
            ``anchors`` is unknown.

    Source:
        PKDOT (2024), steps 1 and 2.

    Example:
        >>> teacher = torch.tensor([[1.0, 0.2, 0.5], [0.2, 1.0, 0.4], [0.5, 0.4, 1.0]])
        >>> rows, _ = anchored_rows(teacher, teacher, top_k=1)
        >>> rows.squeeze()
        tensor([0.0000, 0.0000, 0.2000])
    """
    _check_matrices(teacher_similarity, student_similarity)
    arguments.one_of("anchors", anchors, ("least_similar", "most_similar"))
    if isinstance(top_k, Tensor) and top_k.ndim == 0 and top_k.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"top_k is a tensor of {top_k.dtype}. Pass a whole number, as an int or an int64 tensor.")
    if isinstance(top_k, Tensor) and top_k.ndim:
        raise ValueError(f"top_k has shape {list(top_k.shape)}. Pass an int or a 0-d tensor (use vmap for several).")
    if not isinstance(top_k, Tensor | int):
        raise ValueError(f"top_k is {top_k!r}. Pass a whole number of anchors.")
    size = teacher_similarity.shape[-1]
    if not isinstance(top_k, Tensor) and top_k < 1:
        raise ValueError(f"top_k is {top_k}. Choose at least 1 anchor per row.")

    teacher = full_precision(teacher_similarity)
    student = full_precision(student_similarity)
    teacher = teacher - teacher.amin((-2, -1), keepdim=True)
    student = student - student.amin((-2, -1), keepdim=True)

    # The sample itself goes to the end that is cut away. It is not left to its similarity of 1: rounding, or a copy of
    # the sample in the batch, could put another column above it, and a zero vector does not resemble itself.
    least = anchors == "least_similar"
    itself = torch.eye(size, dtype=torch.bool, device=teacher.device)
    ranked = teacher.detach().masked_fill(itself, float("inf") if least else float("-inf"))
    # A stable sort, since topk leaves the order of ties to the device.
    columns = ranked.sort(dim=-1, stable=True).indices
    others = columns[..., : size - 1] if least else columns[..., 1:]

    if isinstance(top_k, Tensor):
        position = torch.arange(size - 1, device=teacher.device)
        chosen = position < top_k if least else position >= size - 1 - top_k
        return (
            torch.where(chosen, teacher.gather(-1, others), 0),
            torch.where(chosen, student.gather(-1, others), 0),
        )
    k = min(top_k, size - 1)
    picked = others[..., :k] if least else others[..., size - 1 - k :]
    return teacher.gather(-1, picked), student.gather(-1, picked)


def centroid_loss(student_similarity: Tensor, teacher_similarity: Tensor) -> Tensor:
    r"""Distance between the mean rows of the two similarity matrices.

    .. math::
        L = \left\| \frac{1}{B} \sum_i S^t_{i\cdot} - \frac{1}{B} \sum_i S^s_{i\cdot} \right\|_2

    The gradient at distance zero is 0. Gradients flow to both matrices: pass a detached teacher to train the student
    alone.

    Args:
        student_similarity: ``[..., B, B]``, from :func:`similarity_matrix` (not the embeddings).
        teacher_similarity: same shape.

    Returns:
        ``[...]``, at least 0; a scalar for one batch.

    Raises:
        ValueError: the shapes differ, or the matrices are empty or not square.

    Source:
        MT-PKDOT (2024), the centroid term.

    Example:
        >>> student = similarity_matrix(torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
        >>> centroid_loss(student, similarity_matrix(torch.eye(2)))
        tensor(0.7071)
    """
    _check_matrices(teacher_similarity, student_similarity)
    difference = full_precision(teacher_similarity).mean(-2) - full_precision(student_similarity).mean(-2)
    # vector_norm defines its gradient at zero as 0, where sqrt of a sum of squares would give NaN.
    return torch.linalg.vector_norm(difference, dim=-1)


def _check_matrices(teacher: Tensor, student: Tensor) -> None:
    arguments.same_shape("teacher_similarity", teacher, "student_similarity", student, min_dims=2)
    if teacher.shape[-2] != teacher.shape[-1]:
        raise ValueError(
            f"teacher_similarity has shape {list(teacher.shape)}. Give square matrices, [B, B], from similarity_matrix."
        )
    arguments.not_empty("teacher_similarity", teacher, teacher.shape[-1])
