"""The reference solver of the transport loss: POT's batched log-domain Sinkhorn on each of the three problems."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pkdray.losses._sinkhorn import Solution

TOL = 1e-5
"""L1 error of the marginals where none is asked for: a relative error of the gradient of 1e-3 at most."""


def solve(
    x: Tensor,
    y: Tensor,
    epsilon: Tensor,
    *,
    tol: float | None,
    max_iter: int,
    complete: bool = False,
) -> Solution:
    """The same as :func:`pkdray.losses._sinkhorn.solve`, slower and by other means."""
    n, m = x.shape[1], y.shape[1]
    unit = epsilon.sqrt().view(-1, 1, 1)
    a, b = x / unit, y / unit
    between, of_x, of_y = (_transport(p, q, tol or TOL, max_iter) for p, q in ((a, b), (a, a), (b, b)))
    value = between.value - (of_x.value + of_y.value) / 2
    # d<P, C(x, y)> less half of d<Q, C(y, y)>, in which y stands twice.
    grad_y = between.plan.sum(1).unsqueeze(-1) * b - between.plan.mT @ a - (b / m - _symmetrised(of_y.plan) @ b)
    if not complete:
        return Solution(epsilon * value, unit * grad_y)
    grad_x = between.plan.sum(2).unsqueeze(-1) * a - between.plan @ b - (a / n - _symmetrised(of_x.plan) @ a)
    entropy = between.entropy - (of_x.entropy + of_y.entropy) / 2
    converged = between.residual <= (tol or TOL)
    return Solution(
        epsilon * value, unit * grad_y, unit * grad_x, entropy, between.iterations, between.residual, converged
    )


def _symmetrised(plan: Tensor) -> Tensor:
    """The solver leaves the rows of a plan a little wrong, and so does not tell rows from columns by symmetry."""
    return (plan + plan.mT) / 2


class _Transport(NamedTuple):
    """``plan`` ``[L, n, m]`` of mass 1, its cost and entropy relative to the product of the weights."""

    plan: Tensor
    value: Tensor
    entropy: Tensor
    iterations: Tensor
    residual: Tensor


def _transport(x: Tensor, y: Tensor, tol: float, max_iter: int) -> _Transport:
    # Here and not above: POT takes longer to import than everything else that a student needs.
    from ot.batch import bregman_log_projection_batch

    lanes, n, m = len(x), x.shape[1], y.shape[1]
    cost = x.square().sum(-1).unsqueeze(2) / 2 + y.square().sum(-1).unsqueeze(1) / 2 - x @ y.mT
    solution = bregman_log_projection_batch(
        # A lane with NaN would never meet the tolerance and keep the others iterating; its cost makes its value NaN.
        (-cost).nan_to_num(),
        # The weights are given, since POT's own default is a float64 tensor on the CPU.
        cost.new_full((lanes, n), 1 / n),
        cost.new_full((lanes, m), 1 / m),
        max_iter=max_iter,
        # POT looks at the L2 norm of what the marginals miss, which is up to sqrt(n) below the L1 norm.
        tol=tol / math.sqrt(n),
        grad="detach",
    )
    rows = solution["potentials"][0].unsqueeze(2)
    columns = -torch.logsumexp(rows - cost, 1, keepdim=True) - math.log(m)
    plan = (rows + columns - cost).exp()
    # The logarithms are added before the means: the sums are small, and float32 would lose them in a mean near -log n.
    value = (rows + math.log(n)).mean((1, 2)) + (columns + math.log(m)).mean((1, 2))
    residual = (plan.sum(2) - 1 / n).abs().sum(1)
    iterations = torch.full((lanes,), int(solution["n_iters"]) + 1, device=x.device)
    return _Transport(plan, value, value - (plan * cost).sum((1, 2)), iterations, residual)
