"""Structural distillation: the optimal transport between the teacher's and the student's view of a batch."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, overload

import torch
from torch import Tensor

from pkdray.losses import _arguments as arguments
from pkdray.losses import _pace, _pot, _sinkhorn, _sinkhorn_triton
from pkdray.losses._numerics import full_precision, without_autocast
from pkdray.losses._sinkhorn import Solution
from pkdray.losses.similarity import Anchors, anchored_rows, similarity_matrix

Solver = Literal["fast", "pot"]

ACCURACY = {torch.float32: _pace.ACCURACY, torch.float64: 1e-8}
"""Aimed relative error of the gradient where no tolerance is given; who computes in float64 wants digits."""

MOST_ITERATIONS = {torch.float32: 200, torch.float64: 5000}


class SinkhornInfo(NamedTuple):
    """How the solver fared on the transport between the two clouds.

    Attributes:
        iterations: Sinkhorn iterations run, integer, leading shape.
        residual: L1 error of the marginals, the share of the mass that is in the wrong place, leading shape.
        converged: residual <= tol, or without one that the solver stopped because the gradient is good enough;
            boolean, leading shape.
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
    tol: float | None = ...,
    max_iter: int | None = ...,
    solver: Solver = ...,
    return_info: Literal[False] = ...,
) -> Tensor: ...
@overload
def sinkhorn_divergence(
    x: Tensor,
    y: Tensor,
    epsilon: float | Tensor,
    *,
    tol: float | None = ...,
    max_iter: int | None = ...,
    solver: Solver = ...,
    return_info: Literal[True],
) -> tuple[Tensor, SinkhornInfo]: ...
def sinkhorn_divergence(
    x: Tensor,
    y: Tensor,
    epsilon: float | Tensor,
    *,
    tol: float | None = None,
    max_iter: int | None = None,
    solver: Solver = "fast",
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

    The gradient is that of the envelope theorem, in x, y and epsilon: it comes from the plan, with the value, and
    nothing of the iteration is recorded. It can be differentiated once. Works under ``torch.func.vmap`` and
    ``torch.func.grad``. Without a ``tol`` the gradient in the points is good, and that in epsilon up to 10 % off: give
    one if you learn epsilon.

    Args:
        x: ``[..., n, k]``; float16 and bfloat16 are computed in float32, under autocast too.
        y: ``[..., m, k]``, same leading shape.
        epsilon: blur^2 > 0, in units of the cost; a float, a 0-d tensor or a tensor of the leading shape (the values
            of a tensor are not checked).
        tol: stop when the L1 error of the marginals is below this. None stops when the gradient in x and y is good to
            about 1 % in float32, which is all that a training can use, and to 1e-8 in float64.
        max_iter: stop after this many iterations in any case; None: 200 in float32, 5,000 in float64 or with ``tol``.
            4 to 12 are the rule where epsilon is near the mean cost, 10 to 60 at a tenth of it, and at a hundredth
            200 may not be enough: the information tells.
        solver: ``"fast"``, or ``"pot"`` for the Python Optimal Transport library's, the reference: slower, and as a
            check when in doubt. It reads ``tol=None`` as 1e-5 in float32.
        return_info: return a :class:`SinkhornInfo` too.

    Returns:
        The divergences, of the leading shape (a scalar for two clouds), and the information if asked for.

    Raises:
        ValueError: shapes do not fit, a cloud has no points, epsilon or tol is not above 0, or max_iter below 1.

    Source:
        Feydy et al. (2019), "Interpolating between optimal transport and MMD using Sinkhorn divergences", Eq. 3;
        PKDOT (2024), step 3. The algorithm: :mod:`pkdray.losses._sinkhorn`.

    Example:
        >>> x, y = torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]])
        >>> sinkhorn_divergence(x, y, epsilon=0.1)
        tensor(12.5000)
    """
    _check_clouds(x, y, epsilon)
    if tol is not None:
        arguments.positive("tol", tol)
    arguments.one_of("solver", solver, ("fast", "pot"))
    if max_iter is not None and max_iter < 1:
        raise ValueError(f"max_iter is {max_iter}. Choose at least 1 iteration.")
    dtype = torch.promote_types(full_precision(x).dtype, full_precision(y).dtype)
    if max_iter is None:
        max_iter = MOST_ITERATIONS[dtype if tol is None and solver == "fast" else torch.float64]
    lead = x.shape[:-2]
    if isinstance(epsilon, Tensor):
        blur = epsilon.to(x.device, dtype).expand(lead)
    else:
        blur = torch.full(lead, epsilon, dtype=dtype, device=x.device)
    with without_autocast(x):
        complete = return_info or x.requires_grad or blur.requires_grad
        value, *more = _Divergence.apply(x.to(dtype), y.to(dtype), blur, solver, tol, max_iter, complete)
    if not return_info:
        return value
    *_, iterations, residual, converged = more
    return value, SinkhornInfo(iterations, residual, converged)


def pkdot_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    epsilon: float | Tensor,
    top_k: int | Tensor,
    anchors: Anchors = "least_similar",
    tol: float | None = None,
    max_iter: int | None = None,
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
        tol: of the solver, see :func:`sinkhorn_divergence`.
        max_iter: of the solver, see :func:`sinkhorn_divergence`.

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


class _Once(torch.autograd.Function):
    """The first tensor, which depends on the others and refuses to be differentiated by them."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, *_clouds: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(_ctx: Any, _inputs: tuple[Any, ...], _output: Tensor) -> None:
        pass

    @staticmethod
    def backward(_ctx: Any, _grad: Tensor) -> tuple[Tensor, ...]:
        raise RuntimeError(
            "sinkhorn_divergence has no second derivatives. Differentiate it once, or take another loss where you "
            "need a gradient penalty or a Hessian."
        )


class _Divergence(torch.autograd.Function):
    """The solver as one operation: lanes of vmap are further problems, and the gradients are ready with the value."""

    @staticmethod
    def forward(
        x: Tensor,
        y: Tensor,
        epsilon: Tensor,
        solver: Solver,
        tol: float | None,
        max_iter: int,
        complete: bool,
    ) -> tuple[Tensor, ...]:
        lead = x.shape[:-2]
        shapes = (lead, y.shape, x.shape, *(lead,) * 4)
        if not lead.numel():
            kinds = (*(x.dtype,) * 4, torch.int64, x.dtype, torch.bool)
            none = [x.new_zeros(shape, dtype=kind) for shape, kind in zip(shapes, kinds, strict=True)]
            return tuple(none if complete else none[:2])
        a, b = (cloud.detach().reshape(lead.numel(), *cloud.shape[-2:]) for cloud in (x, y))
        solve = _solve_by(solver, a, b)
        solution = solve(a, b, epsilon.detach().reshape(-1), tol=tol, max_iter=max_iter, complete=complete)
        return tuple(field.reshape(shape) for field, shape in zip(solution, shapes, strict=True) if field is not None)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*inputs[:3], *output[1:4])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_unused: Tensor) -> tuple[Tensor | None, ...]:
        *clouds, grad_y = ctx.saved_tensors[:4]
        more = ctx.saved_tensors[4:]
        needs_x, needs_y, needs_epsilon, *_ = ctx.needs_input_grad
        if torch.is_grad_enabled():
            # Asked for with create_graph, or inside torch.func: a second derivative would lack the divergence's own.
            grad = _Once.apply(grad, *clouds)
        per_point = grad.unsqueeze(-1).unsqueeze(-1)
        return (
            per_point * more[0] if needs_x else None,
            per_point * grad_y if needs_y else None,
            grad * more[1] if needs_epsilon else None,
            *(None,) * 4,
        )

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        x: Tensor,
        y: Tensor,
        epsilon: Tensor,
        solver: Solver,
        tol: float | None,
        max_iter: int,
        complete: bool,
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        x, y, epsilon = (
            value.expand(info.batch_size, *value.shape) if dim is None else value.movedim(dim, 0)
            for value, dim in zip((x, y, epsilon), in_dims[:3], strict=True)
        )
        # Inside vmap a tensor does not know that a gradient is asked for outside of it; here it does.
        complete = complete or x.requires_grad or epsilon.requires_grad
        output = _Divergence.apply(x, y, epsilon, solver, tol, max_iter, complete)
        return output, (0,) * len(output)


def _solve_by(solver: Solver, x: Tensor, y: Tensor) -> Callable[..., Solution]:
    if solver == "pot":
        return _pot.solve
    if _sinkhorn_triton.available(x, y):
        return _sinkhorn_triton.solve
    return partial(_sinkhorn.solve, accuracy=ACCURACY[x.dtype])


# Function.apply looks the signature up in every call, and finding it anew would take a tenth of a small problem's time.
_Divergence.forward.__signature__ = inspect.signature(_Divergence.forward)  # type: ignore[attr-defined]


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
