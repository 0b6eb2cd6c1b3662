"""Relational distillation: the student keeps how the samples of a batch stand to each other, not where they lie."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import huber_loss

from pkdray.losses import _arguments as arguments
from pkdray.losses._numerics import DELTA, full_precision, safe_norm, without_autocast
from pkdray.losses.similarity import similarity_matrix


def similarity_preserving_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Squared distance between the two batches' Gram matrices, each row of them normalised.

    .. math::
        L = \frac{1}{B^2} \left\|\tilde G^s - \tilde G^t\right\|_F^2, \qquad
        \tilde G_{i\cdot} = \frac{G_{i\cdot}}{\|G_{i\cdot}\|_\delta}, \quad G = \frac{A A^T}{\tfrac1B \|A\|_F^2}

    The division by the mean squared norm of the rows cancels in the normalised rows; it keeps large embeddings from
    overflowing and makes :math:`\delta = 10^{-4}` relative to the batch. A zero vector resembles nothing: its row is 0.
    Gradients flow to both embeddings: pass a detached teacher to train the student alone. A batch of one row gives 0.

    Args:
        student: A, ``[..., B, D]``; float16 and bfloat16 are computed in float32, under autocast too.
        teacher: ``[..., B, E]``.

    Returns:
        ``[...]``, in [0, 4 / B]; a scalar for one batch.

    Raises:
        ValueError: the batches differ in anything but the embedding size, or have no rows.

    Source:
        Tung and Mori (2019), "Similarity-preserving knowledge distillation", Section 3.

    Example:
        >>> similarity_preserving_loss(torch.tensor([[1.0], [1.0]]), torch.eye(2))
        tensor(0.2929)
    """
    arguments.same_batch("student", student, "teacher", teacher)
    return (_normalised_gram(student) - _normalised_gram(teacher)).square().mean((-2, -1))


def relational_distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Huber distance between the two batches' pairwise distances, each in units of its own mean.

    .. math::
        L = \frac{1}{B (B - 1)} \sum_{i \ne j} h\left(\frac{d^s_{ij}}{\mu^s} - \frac{d^t_{ij}}{\mu^t}\right), \qquad
        d_{ij} = \|e_i - e_j\|_\delta, \quad \mu = \frac{1}{B (B - 1)} \sum_{i \ne j} d_{ij}, \quad
        h(x) = \begin{cases} x^2 / 2 & |x| \le 1 \\ |x| - 1/2 & \text{otherwise} \end{cases}

    with :math:`\|x\|_\delta = \sqrt{\|x\|^2 + \delta^2}`, :math:`\delta = 10^{-4}`. Moving, rotating or scaling either
    batch changes nothing. Rows that all coincide count as all equally far apart, as they do in the authors' code; they
    have no direction to part in, and the gradient there is 0. Gradients flow to both embeddings: pass a detached
    teacher to train the student alone. A batch of one row has no pairs and gives 0, as does one of two, whose only
    distance is its own mean.

    Args:
        student: ``[..., B, D]``; float16 and bfloat16 are computed in float32, under autocast too.
        teacher: ``[..., B, E]``.

    Returns:
        ``[...]``, at least 0; a scalar for one batch.

    Raises:
        ValueError: the batches differ in anything but the embedding size, or have no rows.

    Source:
        Park et al. (2019), "Relational knowledge distillation", the distance-wise loss RKD-D.

    Example:
        >>> line, triangle = torch.tensor([[0.0], [1.0], [2.0]]), torch.eye(3)
        >>> relational_distance_loss(line, triangle)
        tensor(0.0625)
    """
    arguments.same_batch("student", student, "teacher", teacher)
    size = student.shape[-2]
    others = ~torch.eye(size, dtype=torch.bool, device=student.device)
    s, t = (_relative_distances(value, others) for value in (student, teacher))
    dtype = torch.promote_types(s.dtype, t.dtype)
    rows = huber_loss(s.to(dtype), t.to(dtype), reduction="none")
    return torch.where(others, rows, 0).sum((-2, -1)) / max(size * (size - 1), 1)


def relational_angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Huber distance between the cosines of the angles in all triangles of the two batches.

    .. math::
        L = \frac{1}{B (B - 1) (B - 2)} \sum_{i \ne j \ne k \ne i} h\left(c^s_{ijk} - c^t_{ijk}\right), \qquad
        c_{ijk} = \frac{(e_i - e_j) \cdot (e_k - e_j)}{\|e_i - e_j\|_\delta \|e_k - e_j\|_\delta}

    with h and the smoothed norm of :func:`relational_distance_loss`; the authors' code divides by B^3. Moving, rotating
    or scaling either batch changes nothing. Where two corners coincide there is no angle, and its cosine counts as 0.
    Gradients flow to both embeddings: pass a detached teacher to train the student alone. A batch of one or two rows
    has no triangles and gives 0.

    Memory is O(B^2 (B + D)): every difference and every triangle is held at once, for the backward pass too. In float32
    128 rows of 512 numbers take 34 MB for the differences and 8 MB for the triangles, several times over, and
    512 rows 540 and 540.

    Args:
        student: ``[..., B, D]``; float16 and bfloat16 are computed in float32, under autocast too.
        teacher: ``[..., B, E]``.

    Returns:
        ``[...]``, in [0, 3/2]; a scalar for one batch.

    Raises:
        ValueError: the batches differ in anything but the embedding size, or have no rows.

    Source:
        Park et al. (2019), "Relational knowledge distillation", the angle-wise loss RKD-A.

    Example:
        >>> line, corner = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
        >>> relational_angle_loss(line, corner)
        tensor(0.1953)
    """
    arguments.same_batch("student", student, "teacher", teacher)
    size = student.shape[-2]
    s, t = _cosines_of_angles(student), _cosines_of_angles(teacher)
    dtype = torch.promote_types(s.dtype, t.dtype)
    rows = huber_loss(s.to(dtype), t.to(dtype), reduction="none")
    # A corner that is also the vertex gives 0 on both sides; one that is both ends gives 1, or 0 for a zero vector.
    distinct = ~torch.eye(size, dtype=torch.bool, device=student.device)
    return torch.where(distinct, rows, 0).sum((-3, -2, -1)) / max(size * (size - 1) * (size - 2), 1)


def correlation_congruence_loss(
    student: Tensor, teacher: Tensor, gamma: float | Tensor = 0.4, order: int = 2
) -> Tensor:
    r"""Squared distance between the two batches' kernel matrices, a Gaussian kernel expanded to some order.

    .. math::
        L = \frac{1}{B^2} \|K^s - K^t\|_F^2, \qquad
        K_{ij} = e^{-2\gamma} \sum_{p=0}^{P} \frac{(2\gamma)^p}{p!} \left(\hat e_i \cdot \hat e_j\right)^p
        \;\xrightarrow{P \to \infty}\; e^{-\gamma \|\hat e_i - \hat e_j\|^2}

    where the products of the normalised rows are those of :func:`~pkdray.losses.similarity_matrix`. The batch itself
    takes the place of the authors' class-balanced sampler. Gradients flow to both embeddings: pass a detached teacher
    to train the student alone.

    Args:
        student: ``[..., B, D]``; float16 and bfloat16 are computed in float32, under autocast too.
        teacher: ``[..., B, E]``.
        gamma: width of the kernel > 0, a float or a 0-d tensor (the value of a tensor is not checked).
        order: P, at least 1. At 1 the loss compares cosine similarities alone.

    Returns:
        ``[...]``, at least 0; a scalar for one batch.

    Raises:
        ValueError: the batches differ in anything but the embedding size or have no rows, gamma is not above 0 or not a
            scalar, or the order is below 1.

    Source:
        Peng et al. (2019), "Correlation congruence for knowledge distillation", with the Gaussian RBF kernel.

    Example:
        >>> correlation_congruence_loss(torch.tensor([[1.0], [1.0]]), torch.eye(2))
        tensor(0.1266)
    """
    arguments.same_batch("student", student, "teacher", teacher)
    arguments.scalar("gamma", gamma)
    arguments.positive("gamma", gamma)
    if order < 1:
        raise ValueError(f"order is {order}. Choose at least 1: at 0 every kernel is the same constant.")
    return (_kernel(student, gamma, order) - _kernel(teacher, gamma, order)).square().mean((-2, -1))


def _normalised_gram(embeddings: Tensor) -> Tensor:
    with without_autocast(embeddings):
        values = full_precision(embeddings)
        scaled = values / (values.square().sum(-1, keepdim=True).mean(-2, keepdim=True) + DELTA**2).sqrt()
        gram = scaled @ scaled.mT
        return gram / safe_norm(gram)


def _relative_distances(embeddings: Tensor, others: Tensor) -> Tensor:
    """Distances between all rows over their mean between different rows, ``[..., B, B]``; the diagonal is junk."""
    with without_autocast(embeddings):
        values = full_precision(embeddings)
        # By differences, [B, B, D], and not by the Gram matrix: that loses the digits that the rows of a cluster have
        # in common, and with them the gradient of tight clusters (all of it at a ratio of 1000).
        distances = safe_norm(values.unsqueeze(-2) - values.unsqueeze(-3)).squeeze(-1)
    pairs = max(embeddings.shape[-2] * (embeddings.shape[-2] - 1), 1)
    mean = torch.where(others, distances, 0).sum((-2, -1), keepdim=True) / pairs
    return distances / mean.clamp(min=DELTA)


def _cosines_of_angles(embeddings: Tensor) -> Tensor:
    """``[..., j, i, k]``: the cosine of the angle at row j between rows i and k."""
    with without_autocast(embeddings):
        values = full_precision(embeddings)
        sides = values.unsqueeze(-3) - values.unsqueeze(-2)
        unit = sides / safe_norm(sides)
        return unit @ unit.mT


def _kernel(embeddings: Tensor, gamma: float | Tensor, order: int) -> Tensor:
    similarity = similarity_matrix(embeddings)
    width = gamma.to(similarity.dtype) if isinstance(gamma, Tensor) else gamma
    # A float stays on the host: as a tensor it would be copied to the device, and wait for it.
    scale = torch.exp(-2 * width) if isinstance(width, Tensor) else math.exp(-2 * width)
    term = torch.ones_like(similarity)
    series = term
    for power in range(1, order + 1):
        term = term * (2 * width / power) * similarity
        series = series + term
    return scale * series
