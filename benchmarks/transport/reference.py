"""The truth: the divergence and its gradient in float64, solved until the marginals are right.

Between two clouds a few Sinkhorn steps, then Newton's method on the semi-dual: Sinkhorn alone creeps where the plan is
close to an assignment. Within one cloud the averaged update, since alternating steps creep there for the same reason.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

GOAL = 1e-10
"""Largest error of a marginal, relative to its weight."""


class Truth(NamedTuple):
    """Divergence, its gradient in y, and how far from the goal the solver ended."""

    value: float
    gradient: Tensor
    residual: float


def divergence(x: Tensor, y: Tensor, epsilon: float) -> Truth:
    """Debiased divergence of two clouds ``[n, k]`` and ``[m, k]``, cost |x - y|^2 / 2, uniform weights."""
    # Distances do not change with the origin, and near it they round less.
    x, y = x.double(), y.double()
    centre = (x.mean(0) + y.mean(0)) / 2
    x, y = x - centre, y - centre
    between, p, residual = transport(half_squared(x, y) / epsilon)
    within_x, _, residual_x = self_transport(half_squared(x, x) / epsilon)
    within_y, q, residual_y = self_transport(half_squared(y, y) / epsilon)
    value = epsilon * (between - (within_x + within_y) / 2)
    # d<P, C(x, y)>/dy - d<Q, C(y, y)>/dy / 2, both arguments of the self term counted.
    gradient = p.sum(0)[:, None] * y - p.T @ x - (q.sum(0)[:, None] * y - q @ y)
    return Truth(value, gradient, max(residual, residual_x, residual_y))


def half_squared(x: Tensor, y: Tensor) -> Tensor:
    """|x_i - y_j|^2 / 2, ``[..., n, m]``, without the cancellation of the expanded square."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square() / 2


def transport(cost: Tensor) -> tuple[float, Tensor, float]:
    """Value, plan and residual at epsilon 1: Sinkhorn for a start, then Newton's method in g with f eliminated."""
    n, m = cost.shape
    g = cost.new_zeros(m)
    for _ in range(200):
        f = -log_mean_exp(g - cost, 1)
        before, g = g, -log_mean_exp(f[:, None] - cost, 0)
        # The columns of the plan with the old g are exp(old - new).
        if (before - g).expm1().abs().max() <= GOAL:
            break
    value, plan = _semi_dual(g, cost)
    best = (value, plan, _residual(plan))
    damping = 1e-12
    for _ in range(300):
        if best[2] <= GOAL:
            break
        columns = plan.sum(0)
        hessian = torch.diag(columns) - n * plan.T @ plan
        # A constant moved from f to g changes nothing: the rank-one term takes it out.
        system = hessian + 1 / m**2 + torch.diag(damping * columns.clamp(min=1 / m))
        factor, failed = torch.linalg.cholesky_ex(system)
        if not failed:
            step = torch.cholesky_solve((1 / m - columns)[:, None], factor)[:, 0]
            new_value, new_plan = _semi_dual(g + step, cost)
            residual = _residual(new_plan)
            # Near the optimum the value no longer tells, but the residual does.
            if new_value > value or residual < best[2]:
                g, value, plan = g + step, new_value, new_plan
                damping = max(damping / 10, 1e-14)
                if residual < best[2]:
                    best = (value, plan, residual)
                continue
        damping *= 10
        if damping > 1e6:
            break
    return best


def self_transport(cost: Tensor) -> tuple[float, Tensor, float]:
    """The same between a cloud and itself: one potential, averaged with its transform."""
    n = len(cost)
    f = cost.new_zeros(n)
    for _ in range(2000):
        new = -log_mean_exp(f[:, None] - cost, 0)
        residual = float((f - new).expm1().abs().max())
        if residual <= GOAL:
            break
        f = (f + new) / 2
    plan = (f[:, None] + f - cost).exp() / n**2
    return float(2 * f.mean() - (plan.sum() - 1)), plan, residual


def log_mean_exp(values: Tensor, axis: int) -> Tensor:
    """Logarithm of the mean of the exponentials along an axis."""
    return values.logsumexp(axis) - torch.tensor(values.shape[axis], dtype=values.dtype).log()


def _semi_dual(g: Tensor, cost: Tensor) -> tuple[float, Tensor]:
    f = -log_mean_exp(g - cost, 1)
    return float(f.mean() + g.mean()), (f[:, None] + g - cost).exp() / cost.numel()


def _residual(plan: Tensor) -> float:
    return float((plan.sum(0) * plan.shape[1] - 1).abs().max())
