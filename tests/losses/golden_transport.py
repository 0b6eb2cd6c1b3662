"""Sinkhorn divergences and the PKDOT loss in float64, for make_golden.py.

Method: Newton's method on the dual between two clouds, averaged log-domain Sinkhorn within one, both until the
marginals are right to 1e-12; the gradient is the envelope theorem's, written out by hand from the two plans.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def cost(x: Array, y: Array) -> Array:
    return 0.5 * ((x[:, None, :] - y[None, :, :]) ** 2).sum(-1)


def log_mean_exp(values: Array, axis: int) -> Array:
    top = values.max(axis, keepdims=True)
    return np.squeeze(top, axis) + np.log(np.exp(values - top).mean(axis))


def transport(x: Array, y: Array, epsilon: float) -> tuple[float, Array]:
    """Regularised cost against the product of the marginals, and the plan.

    Newton's method on the concave dual after a few Sinkhorn steps, since those alone creep where the plan is close to
    an assignment.
    """
    c = cost(x, y)
    n, m = c.shape
    f, g = np.zeros(n), np.zeros(m)
    for _ in range(100):
        g = -epsilon * log_mean_exp((f[:, None] - c) / epsilon, 0)
        f = -epsilon * log_mean_exp((g[None, :] - c) / epsilon, 1)

    def dual(potentials: Array) -> tuple[float, Array]:
        plan = np.exp((potentials[:n, None] + potentials[None, n:] - c) / epsilon) / (n * m)
        return potentials[:n].mean() + potentials[n:].mean() - epsilon * (plan.sum() - 1), plan

    potentials = np.concatenate([f, g])
    value, plan = dual(potentials)
    for _ in range(500):
        missing = np.concatenate([1 / n - plan.sum(1), 1 / m - plan.sum(0)])
        if np.abs(missing).max() < 1e-14:
            return primal(plan, c, epsilon), plan
        hessian = np.block([[np.diag(plan.sum(1)), plan], [plan.T, np.diag(plan.sum(0))]]) / epsilon
        # Least squares, since a constant moved from f to g changes nothing.
        step = np.linalg.lstsq(hessian, missing, rcond=1e-15)[0]
        size = 1.0
        while size > 1e-8 and dual(potentials + size * step)[0] < value - 1e-16:
            size /= 2
        potentials = potentials + size * step
        value, plan = dual(potentials)
    raise RuntimeError(f"no convergence at epsilon {epsilon}: {np.abs(missing).max()}")


def self_transport(x: Array, epsilon: float) -> tuple[float, Array]:
    """The same between a cloud and itself: one potential, averaged.

    Alternating steps creep where the points are far apart for epsilon: the plan is close to the identity, and near it
    every f is almost a fixed point.
    """
    c = cost(x, x)
    f = np.zeros(len(x))
    for _ in range(10_000):
        f = (f - epsilon * log_mean_exp((f[None, :] - c) / epsilon, 1)) / 2
        plan = np.exp((f[:, None] + f[None, :] - c) / epsilon) / len(x) ** 2
        if np.abs(plan.sum(0) * len(x) - 1).max() < 1e-12:
            return primal(plan, c, epsilon), plan
    raise RuntimeError(f"no convergence of the self term at epsilon {epsilon}")


def primal(plan: Array, c: Array, epsilon: float) -> float:
    kl = (plan * np.log(np.maximum(plan, 1e-300) * plan.size)).sum()
    return float((plan * c).sum() + epsilon * kl)


def divergence(x: Array, y: Array, epsilon: float) -> tuple[float, Array]:
    """Debiased divergence and its gradient in y."""
    between, p = transport(x, y, epsilon)
    within_x, _ = self_transport(x, epsilon)
    within_y, q = self_transport(y, epsilon)
    value = between - (within_x + within_y) / 2
    # d<P, C(x, y)>/dy - d<Q, C(y, y)>/dy / 2, both arguments of the self term counted.
    gradient = (p.sum(0)[:, None] * y - p.T @ x) - (q.sum(0)[:, None] * y - q @ y)
    return value, gradient


def pkdot(student: Array, teacher: Array, epsilon: float, top_k: int, anchors: str) -> float:
    """The PKDOT loss, row by row."""
    rows = {"s": [], "t": []}  # type: dict[str, list[list[float]]]
    matrices = {}
    for name, embedding in (("s", student), ("t", teacher)):
        unit = embedding / np.sqrt((embedding**2).sum(1, keepdims=True) + 1e-8)
        matrices[name] = unit @ unit.T
    low = {name: matrix.min() for name, matrix in matrices.items()}
    for i in range(len(student)):
        others = [j for j in range(len(student)) if j != i]
        others.sort(key=lambda j: matrices["t"][i, j])
        picked = others[:top_k] if anchors == "least_similar" else others[-top_k:]
        for name, matrix in matrices.items():
            rows[name].append([matrix[i, j] - low[name] for j in picked])
    return divergence(np.array(rows["t"]), np.array(rows["s"]), epsilon)[0]
