"""Structural distillation: the optimal transport between the teacher's and the student's view of a batch."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, overload

import torch
from torch import Tensor

from pkdray.losses import _arguments as arguments
from pkdray.losses._numerics import full_precision, without_autocast
from pkdray.losses.similarity import Anchors, anchored_rows, similarity_matrix


class SinkhornInfo(NamedTuple):
    """How the solver fared, the worst of the three transport problems of each divergence.

    Attributes:
        iterations: Sinkhorn iterations run, integer, leading shape. Problems that are solved together stop together.
        residual: L2 norm of the error of the marginals, leading shape.
        converged: residual <= tol, boolean, leading shape.
    """

    iterations: Tensor
    residual: Tensor
    converged: Tensor


@overload
def sinkhorn_divergence(
    x: Tensor,
    y: Tensor,
    epsilon: float | Tensor,
    *,
    tol: float = ...,
    max_iter: int = ...,
    return_info: Literal[False] = ...,
) -> Tensor: ...
@overload
def sinkhorn_divergence(
    x: Tensor, y: Tensor, epsilon: float | Tensor, *, tol: float = ..., max_iter: int = ..., return_info: Literal[True]
) -> tuple[Tensor, SinkhornInfo]: ...
def sinkhorn_divergence(
    x: Tensor,
    y: Tensor,
    epsilon: float | Tensor,
    *,
    tol: float = 1e-5,
    max_iter: int = 1000,
    return_info: bool = False,
) -> Tensor | tuple[Tensor, SinkhornInfo]:
    r"""Debiased Sinkhorn divergence between two clouds of points with uniform weights.

    .. math::
        S_\varepsilon(x, y) = W_\varepsilon(x, y) - \tfrac12 W_\varepsilon(x, x) - \tfrac12 W_\varepsilon(y, y),
        \qquad
        W_\varepsilon(x, y) = \min_{P} \langle P, C \rangle
        + \varepsilon\, \mathrm{KL}\!\left(P \,\middle\|\, \tfrac{1}{n} \otimes \tfrac{1}{m}\right)

    with the cost C_ij = \|x_i - y_j\|^2 / 2 and P over the couplings of the two uniform weights. It is 0 where the
    clouds are equal, symmetric, and positive otherwise, up to rounding (in float32 a few 1e-7 times the larger of
    epsilon and the mean cost).

    The optimal potentials come from POT. The gradient is that of the envelope theorem, in x, y and epsilon: one
    transform of the live cost by the fixed potentials, so nothing of the iteration is recorded. Second derivatives are
    those of that one transform and not the divergence's. Works under ``torch.func.vmap`` and ``torch.func.grad``.

    Args:
        x: ``[..., n, k]``; float16 and bfloat16 are computed in float32, under autocast too.
        y: ``[..., m, k]``, same leading shape.
        epsilon: blur^2 > 0, in units of the cost; a float, a 0-d tensor or a tensor of the leading shape (the values
            of a tensor are not checked).
        tol: stop when the L2 norm of the error of the marginals is below this, in every problem. 1e-5 leaves a relative
            error of at most 1e-3 in the gradient; float32 cannot meet much less than 1e-6.
        max_iter: stop after this many iterations in any case. A small epsilon needs many: around 10 where epsilon is
            near the mean cost, 100 at a tenth of it, above 1,000 at a hundredth.
        return_info: return a :class:`SinkhornInfo` too.

    Returns:
        The divergences, of the leading shape (a scalar for two clouds), and the information if asked for.

    Raises:
        ValueError: shapes do not fit, a cloud has no points, epsilon or tol is not above 0, or max_iter below 1.

    Source:
        Feydy et al. (2019), "Interpolating between optimal transport and MMD using Sinkhorn divergences", Eq. 3;
        PKDOT (2024), step 3.

    Example:
        >>> x, y = torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]])
        >>> sinkhorn_divergence(x, y, epsilon=0.1)
        tensor(12.5000)
    """
    _check_clouds(x, y, epsilon)
    arguments.positive("tol", tol)
    if max_iter < 1:
        raise ValueError(f"max_iter is {max_iter}. Choose at least 1 iteration.")
    dtype = torch.promote_types(full_precision(x).dtype, full_precision(y).dtype)
    with without_autocast(x):
        a, b = x.to(dtype), y.to(dtype)
        blur = (
            epsilon.to(x.device, dtype)
            if isinstance(epsilon, Tensor)
            else torch.full((), epsilon, dtype=dtype, device=x.device)
        )
        # S(x, y) = |mx - my|^2 / 2 + S(x - mx, y - my), exactly, and centred clouds need half the iterations.
        mean_a, mean_b = a.mean(-2, keepdim=True), b.mean(-2, keepdim=True)
        shift = (mean_a - mean_b).square().sum((-2, -1)) / 2
        a, b = a - mean_a, b - mean_b
        between, info_between = _transport(a, b, blur, tol, max_iter, return_info)
        within_a, info_a = _transport(a, a, blur, tol, max_iter, return_info)
        within_b, info_b = _transport(b, b, blur, tol, max_iter, return_info)
        value = shift + between - (within_a + within_b) / 2
    if info_between is None or info_a is None or info_b is None:
        return value
    iterations, residual = (
        torch.maximum(torch.maximum(p, q), r) for p, q, r in zip(info_between, info_a, info_b, strict=True)
    )
    return value, SinkhornInfo(iterations, residual, residual <= tol)


def pkdot_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    epsilon: float | Tensor,
    top_k: int | Tensor,
    anchors: Anchors = "least_similar",
    tol: float = 1e-5,
    max_iter: int = 1000,
) -> Tensor:
    r"""Sinkhorn divergence between the anchored similarity rows of teacher and student.

    .. math::
        L = S_\varepsilon\left(\{t_i\}_{i=1}^{B}, \{s_i\}_{i=1}^{B}\right), \qquad
        t_i, s_i \in \mathbb{R}^k \text{ the rows of } \texttt{anchored\_rows}

    The teacher is detached: no gradient reaches it. The embedding sizes may differ. A batch of one row has no anchors
    and gives 0.

    Args:
        student: embeddings, ``[..., B, D]``; float16 and bfloat16 are computed in float32, under autocast too.
        teacher: embeddings, ``[..., B, E]``.
        epsilon: blur^2 > 0 of the divergence; a float, a 0-d tensor or a tensor of the leading shape. The authors' blur
            of 0.1 is an epsilon of 0.01.
        top_k: anchors per row, clamped to B - 1; a 0-d tensor keeps the shapes fixed, see :func:`anchored_rows`.
        anchors: ``"least_similar"`` (the authors' code) or ``"most_similar"``.
        tol: tolerance of the solver, see :func:`sinkhorn_divergence`.
        max_iter: cap of the solver, see :func:`sinkhorn_divergence`.

    Returns:
        ``[...]``, a scalar for one batch.

    Raises:
        ValueError: the batches differ in anything but the embedding size, or as the functions that this is made of.

    Source:
        PKDOT (2024), steps 1 to 3.

    Example:
        >>> teacher = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> student = torch.tensor([[1.0, 0.0], [0.5, 1.0], [1.0, 1.0]])
        >>> pkdot_loss(student, teacher, epsilon=0.01, top_k=2)
        tensor(0.0787)
    """
    if student.shape[:-1] != teacher.shape[:-1]:
        raise ValueError(
            f"student has shape {list(student.shape)} but teacher has {list(teacher.shape)}. "
            "Give one row of each per sample, in the same order."
        )
    teacher_rows, student_rows = anchored_rows(
        similarity_matrix(teacher.detach()), similarity_matrix(student), top_k, anchors
    )
    return sinkhorn_divergence(teacher_rows, student_rows, epsilon, tol=tol, max_iter=max_iter)


def _transport(
    x: Tensor, y: Tensor, epsilon: Tensor, tol: float, max_iter: int, with_info: bool
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """Regularised transport cost of one pair of clouds per lane, and iterations and residual if asked for."""
    n = x.shape[-2]
    cost = x.square().sum(-1).unsqueeze(-1) / 2 + y.square().sum(-1).unsqueeze(-2) / 2 - x @ y.mT
    kernel = -cost / epsilon[..., None, None]
    u, iterations = _Potentials.apply(kernel.detach(), tol, max_iter)
    # One transform of the live kernel by the fixed potential: its value is the dual's, which errs only to second order
    # in u, and its derivative by the cost is the plan, with exact columns.
    g = -torch.logsumexp(kernel + u.unsqueeze(-1), -2)
    # log n is added before the mean and not after it: the sum is near 0, and float32 would lose it in a mean near
    # -log n. Late in training the divergence is 1e-5 of the mean cost, so that this rounding alone would be 1 % of it.
    f = u + math.log(n)
    value = epsilon * (f.mean(-1) + g.mean(-1))
    if not with_info:
        return value, None
    rows = (kernel + f.unsqueeze(-1) + g.unsqueeze(-2)).detach().exp().mean(-1)
    return value, (iterations, torch.linalg.vector_norm((rows - 1) / n, dim=-1))


class _Potentials(torch.autograd.Function):
    """Row potentials u of exp(kernel + u + v) with uniform marginals: constants to autograd, further lanes to vmap."""

    @staticmethod
    def forward(kernel: Tensor, tol: float, max_iter: int) -> tuple[Tensor, Tensor]:
        lead, n, m = kernel.shape[:-2], kernel.shape[-2], kernel.shape[-1]
        lanes = kernel.reshape(-1, n, m)
        if not lanes.shape[0]:
            return kernel.new_zeros((*lead, n)), kernel.new_zeros(lead, dtype=torch.int64)
        u, iterations = _solve(lanes, tol, max_iter)
        return u.reshape((*lead, n)), torch.full(lead, iterations, dtype=torch.int64, device=kernel.device)

    @staticmethod
    def setup_context(ctx: Any, _inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(*output)

    @staticmethod
    def backward(_ctx: Any, *_grads: Tensor) -> tuple[None, None, None]:
        return None, None, None

    @staticmethod
    def vmap(
        _info: Any, in_dims: tuple[int | None, ...], kernel: Tensor, tol: float, max_iter: int
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        lanes = kernel.movedim(in_dims[0] or 0, 0)
        return _Potentials.apply(lanes, tol, max_iter), (0, 0)


def _solve(kernel: Tensor, tol: float, max_iter: int) -> tuple[Tensor, int]:
    """POT's batched log-domain Sinkhorn on ``[lanes, n, m]``: the row potentials and the iterations run."""
    # Here and not above: POT takes longer to import than everything else that a student without transport needs.
    from ot.batch import bregman_log_projection_batch

    # A lane with NaN would never meet the tolerance and keep the others iterating; its value is NaN through its cost.
    kernel = kernel.nan_to_num()
    lanes, n, m = kernel.shape
    # The weights are given, since POT's own default is a float64 tensor on the CPU.
    solution = bregman_log_projection_batch(
        kernel,
        kernel.new_full((lanes, n), 1 / n),
        kernel.new_full((lanes, m), 1 / m),
        max_iter=max_iter,
        tol=tol,
        grad="detach",
    )
    return solution["potentials"][0], solution["n_iters"] + 1


def _check_clouds(x: Tensor, y: Tensor, epsilon: float | Tensor) -> None:
    for name, cloud in (("x", x), ("y", y)):
        if cloud.ndim < 2:
            raise ValueError(
                f"{name} has shape {list(cloud.shape)}. Give it a point and a coordinate dimension, [B, k]."
            )
        arguments.not_empty(name, cloud, cloud.shape[-2])
    if x.shape[:-2] != y.shape[:-2] or x.shape[-1] != y.shape[-1]:
        raise ValueError(
            f"x has shape {list(x.shape)} but y has {list(y.shape)}. "
            "Give both the same leading dimensions and the same count of coordinates."
        )
    arguments.positive("epsilon", epsilon)
    if isinstance(epsilon, Tensor) and epsilon.ndim and epsilon.shape != x.shape[:-2]:
        raise ValueError(
            f"epsilon has shape {list(epsilon.shape)}, but the clouds have the leading shape {list(x.shape[:-2])}. "
            "Pass a float, a 0-d tensor or one epsilon per pair of clouds."
        )
