"""The fast solver of the transport loss: over-relaxed Sinkhorn in the exp domain, many small problems at once.

Why it is fast, for the clouds that a loss meets (tens to hundreds of points, a divergence far below the mean cost):

* S(x, y) = |mx - my|^2 / 2 + S(x - mx, y - my), exactly, and centred clouds need half the iterations;
* an iteration is two products of a vector with a matrix. exp is taken of vectors, and of matrices only at the start
  and where the potentials grow out of float32 (*absorption*: they are multiplied into the kernel and start again at 0);
* successive over-relaxation: by a first guess from the mean cost, then by the rate of convergence that is observed
  (:mod:`pkdray.losses._pace`), and it stops when the gradient is good to 1 %, not later;
* the symmetric terms need no alternation. Their fixed point map, averaged with weight 2/3, contracts by 1/3 at least,
  whatever epsilon is, and by .17 with Chebyshev's momentum.

Lengths are in units of sqrt(epsilon), so that costs and potentials are in units of epsilon. Vectors are rows, ``[L, 1,
n]``: a batched product is several times faster from the left than from the right.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pkdray.losses._pace import CHECK_EVERY, Pace

FLOOR = -60.0
"""Exponents are clamped here: e^-60 of a row is nothing, and denormal numbers would make exp several times slower."""

LARGEST_POTENTIAL = 15.0
"""Potentials beyond this are absorbed, so that a product with the kernel stays far from float32's ends."""

REACH = 40.0
"""Between two absorptions potentials are clamped here: a longer way is gone in two, before exp overflows at 88."""

CHUNK = 2**17
"""Entries of the kernels that are worked on together on a CPU, so that they stay in a core's cache."""


LOG_DOMAIN_ITERATIONS = 1000
LOG_DOMAIN_TOLERANCE = 1e-5


class Solution(NamedTuple):
    """Divergences of ``[L]`` problems, their gradients (None where not asked for), and how the solver fared.

    ``residual`` is the L1 error of the marginals.
    """

    value: Tensor
    grad_y: Tensor
    grad_x: Tensor | None
    grad_epsilon: Tensor | None
    iterations: Tensor
    residual: Tensor


def solve(x: Tensor, y: Tensor, epsilon: Tensor, *, tol: float | None, max_iter: int, with_all: bool) -> Solution:
    """Divergences of L pairs of clouds and their gradients.

    Args:
        x: ``[L, n, k]``, float32 or float64, without history.
        y: ``[L, m, k]``.
        epsilon: ``[L]``.
        tol: L1 error of the marginals to stop at; None stops when the gradient is good to about 1 %.
        max_iter: iterations of the cross term at most.
        with_all: compute the gradients in x and epsilon too.
    """
    lanes = max(1, CHUNK // (x.shape[1] * y.shape[1]))
    if x.device.type != "cpu" or len(x) <= lanes:
        return _solve(x, y, epsilon, tol, max_iter, with_all)
    parts = [
        _solve(*piece, tol, max_iter, with_all)
        for piece in zip(x.split(lanes), y.split(lanes), epsilon.split(lanes), strict=True)
    ]

    def whole(name: str) -> Any:
        fields = [getattr(part, name) for part in parts]
        return None if fields[0] is None else torch.cat(fields)

    return Solution(*map(whole, Solution._fields))


def _solve(x: Tensor, y: Tensor, epsilon: Tensor, tol: float | None, max_iter: int, with_all: bool) -> Solution:
    lanes, n, m = len(x), x.shape[1], y.shape[1]
    unit = epsilon.sqrt().view(-1, 1, 1)
    mean_x, mean_y = x.sum(1, keepdim=True).mul_(1 / n), y.sum(1, keepdim=True).mul_(1 / m)
    shift = mean_y - mean_x
    x, y = (x - mean_x).div_(unit), (y - mean_y).div_(unit)
    half_x, half_y = _half_squares(x), _half_squares(y)
    if n == m:
        # One batch for both: an operation costs more to start than to run at these sizes.
        both = _symmetric(torch.cat([x, y]), torch.cat([half_x, half_y]), tol)
        of_x, of_y = both.lanes(0, lanes), both.lanes(lanes, 2 * lanes)
    else:
        of_x, of_y = _symmetric(x, half_x, tol), _symmetric(y, half_y, tol)
    cross = _cross(x, y, half_x, half_y, of_x.potential, of_y.potential, tol, max_iter)
    row_sums = cross.row_sums()
    residual = (row_sums - 1).abs_().sum((1, 2)).mul_(1 / n)

    value = (cross.value * epsilon).add_(shift.square().sum((1, 2)), alpha=0.5)
    from_x, from_y = cross.to_columns(x), of_y.to_rows(y)
    grad_y = (from_y - from_x).mT.mul(unit).add_(shift).mul_(1 / m)
    if not with_all:
        return Solution(value, grad_y, None, None, cross.iterations, residual)
    within_x = of_x.to_rows(x)
    # The columns of the plan sum to 1; its rows do to the residual alone, so their sums stay in the formula.
    grad_x = ((within_x - cross.to_rows(y)).mT + x * (row_sums.mT - 1)).mul_(unit).sub_(shift).mul_(1 / n)
    # dW / d epsilon is the relative entropy of the plan: (W - <P, C>) / epsilon.
    missed = ((row_sums - 1) * half_x).sum((1, 2)).mul_(1 / n)
    products = _mean_product(y, from_x) - _mean_product(y, from_y) / 2 - _mean_product(x, within_x) / 2
    return Solution(value, grad_y, grad_x, cross.value + products - missed, cross.iterations, residual)


def _half_squares(points: Tensor) -> Tensor:
    return (points * points).sum(-1).unsqueeze(1).mul_(0.5)


def _mean_product(points: Tensor, images: Tensor) -> Tensor:
    """Mean over the points ``[L, n, k]`` of their products with ``images`` ``[L, k, n]``."""
    return (points.mT * images).sum((1, 2)) / points.shape[1]


class _Symmetric(NamedTuple):
    """The plan between a cloud and itself, v_i K_il u_l: its rows sum to 1. ``potential`` is ``[L, 1, n]``."""

    kernel: Tensor
    u: Tensor
    v: Tensor
    potential: Tensor

    def lanes(self, first: int, last: int) -> _Symmetric:
        return _Symmetric(*(field[first:last] for field in self))

    def to_rows(self, points: Tensor) -> Tensor:
        """Where each point goes on average, ``[L, k, n]``."""
        return torch.bmm(points.mT * self.u, self.kernel).mul_(self.v)


def _symmetric(points: Tensor, half: Tensor, tol: float | None) -> _Symmetric:
    n = points.shape[1]
    kernel = torch.baddbmm(-half.mT, points, points.mT).sub_(half).clamp_(FLOOR, 0).sub_(math.log(n)).exp_()
    before = now = kernel.sum(-1).unsqueeze(1).log_().mul_(-0.5)
    weight = 1.0
    for step in range(5 if tol is None else 2 + math.ceil(math.log(min(tol, 0.1)) / math.log(0.17))):
        mapped = torch.lerp(now, torch.bmm(now.exp(), kernel).log_().neg_(), 2 / 3)
        # Chebyshev's semi-iteration for a spectrum within [-1/3, 1/3].
        weight = (1.0, 18 / 17)[step] if step < 2 else 1 / (1 - weight / 36)
        before, now = now, mapped if step == 0 else torch.lerp(before, mapped, weight)
    u = now.exp()
    log_v = torch.bmm(u, kernel).log_().neg_()
    # The mean of two successive potentials: their errors cancel to first order.
    return _Symmetric(kernel, u, log_v.exp(), (now + log_v).mul_(0.5))


class _Cross(NamedTuple):
    """The plan between two clouds, u_i K_ij v_j: its columns sum to 1. ``value`` is the dual less both self terms."""

    kernel: Tensor
    u: Tensor
    v: Tensor
    value: Tensor
    iterations: Tensor

    def to_columns(self, x: Tensor) -> Tensor:
        """The mean of the points of x that each point of y receives, ``[L, k, m]``."""
        return torch.bmm(x.mT * self.u, self.kernel).mul_(self.v)

    def to_rows(self, y: Tensor) -> Tensor:
        """The mean of the points of y that each point of x is sent to, ``[L, k, n]``."""
        share = self.kernel.shape[1] / self.kernel.shape[2]
        return torch.bmm(y.mT * self.v, self.kernel.mT).mul_(self.u).mul_(share)

    def row_sums(self) -> Tensor:
        """How much each point of x sends, ``[L, 1, n]``; 1 where converged."""
        share = self.kernel.shape[1] / self.kernel.shape[2]
        return torch.bmm(self.v, self.kernel.mT).mul_(self.u).mul_(share)


def _cross(
    x: Tensor,
    y: Tensor,
    half_x: Tensor,
    half_y: Tensor,
    self_x: Tensor,
    self_y: Tensor,
    tol: float | None,
    max_iter: int,
) -> _Cross:
    spread = half_x.sum((1, 2)).mul_(1 / x.shape[1])
    cost = half_y.sum((1, 2)).mul_(1 / y.shape[1]).add_(spread)
    pace = Pace(spread.tolist(), cost.tolist(), tol)
    scaling = _Scaling.start(x, y, half_y, half_x - self_x, -self_y)
    log_u, iterations = _iterate(scaling, pace, max_iter)
    log_v = scaling.column_step(log_u)
    value = scaling.value(log_u, log_v)
    lost = torch.nonzero(value.isfinite().logical_not() & cost.isfinite()).flatten().tolist()
    if lost:
        rest = scaling.only(lost)
        iterations[lost] = rest.start_again_in_the_log_domain()
        scaling.put(lost, rest)
        log_u[lost], log_v[lost] = 0, 0
        value = scaling.value(log_u, log_v)
    u, v = log_u.exp(), log_v.exp()
    return _Cross(scaling.kernel, u, v, value, iterations)


def _iterate(whole: _Scaling, pace: Pace, max_iter: int) -> tuple[Tensor, Tensor]:
    """Potentials of x, and the iterations of each problem; what was absorbed changes ``whole``."""
    scaling = whole
    log_u = scaling.row_step(torch.zeros_like(scaling.columns))
    log_v = scaling.column_step(log_u)
    far = _beyond(log_v, LARGEST_POTENTIAL)
    if far:
        log_u, log_v = scaling.reach_every_column(log_u)
    result, iterations = log_u, [max_iter] * len(log_u)
    where = list(range(len(log_u)))
    for iteration in range(1, max_iter):
        step = scaling.row_step(log_v)
        if iteration == 1 or iteration % CHECK_EVERY == 0:
            residual = (step - log_u).abs_().sum((1, 2)).mul_(1 / log_u.shape[2])
            going = pace.going(iteration, residual.tolist(), scaling.value(log_u, log_v).tolist())
            if len(going) <= len(where) // 2:
                # The finished leave, so that one slow problem does not hold the others up.
                for lane in set(range(len(where))) - set(going):
                    iterations[where[lane]] = iteration
                result = _put(result, where, log_u)
                whole.put(where, scaling)
                if not going:
                    break
                where = [where[lane] for lane in going]
                scaling, pace = scaling.only(going), pace.only(going)
                log_u, log_v, step = log_u[going], log_v[going], step[going]
            if _beyond(log_u, LARGEST_POTENTIAL) or _beyond(log_v, LARGEST_POTENTIAL):
                far = True
                step = scaling.absorb(log_u, log_v, step)
                log_u, log_v = torch.zeros_like(log_u), torch.zeros_like(log_v)
            weight = pace.weight(log_u)
        log_u = torch.lerp(log_u, step, weight)
        if far:
            log_u = log_u.clamp_(-REACH, REACH)
        step = scaling.column_step(log_u)
        log_v = torch.lerp(log_v, step, weight)
        if far:
            log_v = log_v.clamp_(-REACH, REACH)
    else:
        result = _put(result, where, log_u)
        whole.put(where, scaling)
    return result, torch.tensor(iterations, device=log_u.device)


def _beyond(potentials: Tensor, limit: float) -> bool:
    return bool((potentials.abs() > limit).any())


def _put(whole: Tensor, where: list[int], part: Tensor) -> Tensor:
    if len(part) == len(whole):
        return part
    whole[where] = part
    return whole


@dataclass
class _Scaling:
    """The kernel between two clouds and its two half steps.

    ``rows`` and ``columns`` are the potentials that the kernel holds already; ``base_rows`` and ``base_columns`` what
    the divergence adds to the cross term's potentials: |x_i|^2 / 2, and the self terms' potentials taken off.
    """

    x: Tensor
    y: Tensor
    half_y: Tensor
    base_rows: Tensor
    base_columns: Tensor
    rows: Tensor
    columns: Tensor
    kernel: Tensor

    @classmethod
    def start(cls, x: Tensor, y: Tensor, half_y: Tensor, base_rows: Tensor, base_columns: Tensor) -> _Scaling:
        exponent = torch.baddbmm(-half_y, x, y.mT)
        rows = exponent.amax(2, keepdim=True).neg_()
        kernel = exponent.add_(rows).clamp_(min=FLOOR).sub_(math.log(x.shape[1])).exp_()
        return cls(x, y, half_y, base_rows, base_columns, rows.mT, torch.zeros_like(half_y), kernel)

    def row_step(self, log_v: Tensor) -> Tensor:
        """The potentials of x that make the rows right."""
        step = torch.bmm(log_v.exp(), self.kernel.mT).log_().neg_()
        n, m = self.kernel.shape[1:]
        return step if n == m else step.add_(math.log(m / n))

    def column_step(self, log_u: Tensor) -> Tensor:
        """The potentials of y that make the columns right."""
        return torch.bmm(log_u.exp(), self.kernel).log_().neg_()

    def value(self, log_u: Tensor, log_v: Tensor) -> Tensor:
        """The divergence (but for the distance of the means) in units of epsilon, ``[L]``.

        The self terms are taken off point by point, before the mean: late in training the divergence is a
        ten-thousandth of its terms, and the rounding of their means would be 1 % of it.
        """
        of_x = (self.rows + self.base_rows).add_(log_u).sum((1, 2))
        of_y = (self.columns + self.base_columns).add_(log_v).sum((1, 2))
        return of_x.mul_(1 / log_u.shape[2]).add_(of_y, alpha=1 / log_v.shape[2])

    def reach_every_column(self, log_u: Tensor) -> tuple[Tensor, Tensor]:
        """Take a column step in the log domain, for points of y that are out of reach of every row's kernel."""
        self.rows = self.rows + log_u
        exponent = torch.baddbmm(-self.half_y, self.x, self.y.mT).add_(self.rows.mT).sub_(math.log(self.x.shape[1]))
        self.columns = exponent.logsumexp(1, keepdim=True).neg_()
        self.kernel = exponent.add_(self.columns).clamp_(min=FLOOR).exp_()
        return torch.zeros_like(log_u), torch.zeros_like(self.columns)

    def absorb(self, log_u: Tensor, log_v: Tensor, step: Tensor) -> Tensor:
        """Multiply the potentials into the kernel; return the step relative to it."""
        self.rows, self.columns = self.rows + log_u, self.columns + log_v
        exponent = torch.baddbmm(self.columns - self.half_y, self.x, self.y.mT).add_(self.rows.mT)
        self.kernel = exponent.clamp_(min=FLOOR).sub_(math.log(self.kernel.shape[1])).exp_()
        return step - log_u

    def start_again_in_the_log_domain(self) -> int:
        """Let POT find the plan, slowly; return its iterations.

        For costs of a million epsilon and more, where float32 overflows on the way to a plan that is all but an
        assignment.
        """
        # Here and not above: POT takes longer to import than everything else that a student needs.
        from ot.batch import bregman_log_projection_batch

        lanes, n, m = self.kernel.shape
        exponent = torch.baddbmm(-self.half_y, self.x, self.y.mT)
        solution = bregman_log_projection_batch(
            exponent,
            exponent.new_full((lanes, n), 1 / n),
            exponent.new_full((lanes, m), 1 / m),
            max_iter=LOG_DOMAIN_ITERATIONS,
            tol=LOG_DOMAIN_TOLERANCE,
            grad="detach",
        )
        self.rows = solution["potentials"][0].unsqueeze(1) + math.log(n)
        exponent.add_(self.rows.mT).sub_(math.log(n))
        self.columns = exponent.logsumexp(1, keepdim=True).neg_()
        self.kernel = exponent.add_(self.columns).exp_()
        return int(solution["n_iters"]) + 1

    def only(self, lanes: list[int]) -> _Scaling:
        """The named problems alone."""
        return _Scaling(*(getattr(self, field.name)[lanes] for field in fields(self)))

    def put(self, lanes: list[int], part: _Scaling) -> None:
        """Take over what changed in these problems."""
        if part is not self:
            for name in ("rows", "columns", "kernel"):
                getattr(self, name)[lanes] = getattr(part, name)
