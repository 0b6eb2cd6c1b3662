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
import operator
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pkdray.losses._pace import ACCURACY, CHECK_EVERY, Pace

FLOOR = -60.0
"""Exponents are clamped here: e^-60 of a row is nothing, and denormal numbers would make exp several times slower."""

LARGEST_POTENTIAL = 15.0
"""Potentials beyond this are absorbed, so that a product with the kernel stays far from float32's ends."""

REACH = 40.0
"""Between two absorptions potentials are clamped here: a longer way is gone in two, before exp overflows at 88."""

CHUNK = 2**17
"""Entries of the kernels that are worked on together on a CPU, so that they stay in a core's cache."""


MOST_DOUBLINGS = 14
SMALL = 64 * 64
"""Entries of a kernel up to which a CPU computes in float64 without anybody noticing."""


class Solution(NamedTuple):
    """Divergences of ``[L]`` problems and their gradients in y; the rest is ``None`` where it was not asked for.

    ``residual`` is the L1 error of the marginals; ``converged`` means that it is below tol, or that the gradient is as
    good as asked for.
    """

    value: Tensor
    grad_y: Tensor
    grad_x: Tensor | None = None
    grad_epsilon: Tensor | None = None
    iterations: Tensor | None = None
    residual: Tensor | None = None
    converged: Tensor | None = None


def solve(
    x: Tensor,
    y: Tensor,
    epsilon: Tensor,
    *,
    tol: float | None,
    max_iter: int,
    accuracy: float = ACCURACY,
    complete: bool = False,
) -> Solution:
    """Divergences of L pairs of clouds and their gradients.

    Args:
        x: ``[L, n, k]``, float32 or float64, without history.
        y: ``[L, m, k]``.
        epsilon: ``[L]``.
        tol: L1 error of the marginals to stop at; None stops by ``accuracy``.
        max_iter: iterations of the cross term at most.
        accuracy: of the gradient, relative, where there is no ``tol``.
        complete: compute the gradients in x and epsilon too, and tell how the solver fared.
    """
    entries = x.shape[1] * y.shape[1]
    on_cpu = x.device.type == "cpu"
    # At these sizes operations cost their start, whatever the precision, and small batches have the smallest losses.
    dtype = torch.float64 if on_cpu and entries <= SMALL else x.dtype
    # Inference mode starts operations faster than no_grad does. Its tensors may not leave: what is returned is a copy.
    with torch.inference_mode():
        lanes = max(1, CHUNK // entries) if on_cpu else len(x)
        parts = [
            _solve(a, b, c, tol, max_iter, accuracy, complete)
            for a, b, c in zip(*(value.to(dtype).split(lanes) for value in (x, y, epsilon)), strict=True)
        ]
    return Solution(*(_whole(field, x.dtype) for field in zip(*parts, strict=True)))


def _whole(parts: tuple[Tensor | None, ...], dtype: torch.dtype) -> Any:
    found = [part for part in parts if part is not None]
    if not found:
        return None
    whole = torch.cat(found) if len(found) > 1 else found[0].clone()
    return whole.to(dtype) if whole.is_floating_point() else whole


def _solve(
    x: Tensor, y: Tensor, epsilon: Tensor, tol: float | None, max_iter: int, accuracy: float, complete: bool
) -> Solution:
    steps = symmetric_steps(accuracy if tol is None else tol)
    n, m = x.shape[1], y.shape[1]
    unit = epsilon.sqrt().view(-1, 1, 1)
    if n == m:
        # One batch for both: an operation costs more to start than to run at these sizes.
        both = _Cloud.of(torch.cat([x, y]), torch.cat([unit, unit]))
        plan, lanes = _symmetric(both, steps), len(x)
        cloud_x, cloud_y = both.lanes(0, lanes), both.lanes(lanes, 2 * lanes)
        of_x, of_y = plan.lanes(0, lanes), plan.lanes(lanes, 2 * lanes)
    else:
        cloud_x, cloud_y = _Cloud.of(x, unit), _Cloud.of(y, unit)
        of_x, of_y = _symmetric(cloud_x, steps), _symmetric(cloud_y, steps)
    x, y = cloud_x.points, cloud_y.points
    shift = cloud_y.mean - cloud_x.mean
    scaling = _Scaling.start(cloud_x.left, cloud_y.right, of_x.potential, of_y.potential)
    cost = list(map(operator.add, cloud_x.spread, cloud_y.spread))
    pace = Pace(cloud_x.spread, cost, cloud_x.share, tol, accuracy)
    cross = _cross(scaling, pace, max_iter)

    value = (cross.value * epsilon).add_(shift.square().sum((1, 2)), alpha=0.5)
    from_x, from_y = cross.to_columns(x), of_y.to_rows(y)
    grad_y = (from_y - from_x).mT.mul(unit).add_(shift).mul_(1 / m)
    if not complete:
        return Solution(value, grad_y)
    missing = cross.row_sums().sub_(1)
    residual = missing.abs().mean((1, 2))
    within_x = of_x.to_rows(x)
    # The columns of the plan sum to 1; its rows do to the residual alone, so what they miss stays in the formula.
    grad_x = ((within_x - cross.to_rows(y)).mT + x * missing.mT).mul_(unit).sub_(shift).mul_(1 / n)
    # S(c x, c y, c^2 epsilon) = c^2 S(x, y, epsilon), so Euler's theorem has the third derivative in the other two.
    along = (grad_x * x).sum((1, 2)).add_((grad_y * y).sum((1, 2)))
    grad_epsilon = cross.value - along.div_(2 * unit.flatten())
    iterations = torch.tensor(cross.iterations, device=x.device)
    converged = torch.tensor(cross.enough, device=x.device) if tol is None else residual <= tol
    return Solution(value, grad_y, grad_x, grad_epsilon, iterations, residual, converged)


class _Cloud(NamedTuple):
    """Points ``[L, n, k]``, centred and in units of sqrt(epsilon), and what is computed of them once.

    ``spread`` is the mean of |p|^2 / 2, one number a problem, and ``share`` ``[L, 1, n]`` whose it is. The product of a
    row of ``left`` [p, -|p|^2 / 2, 1] with one of ``right`` [q, 1, -|q|^2 / 2 - log n] is minus the cost, less log n
    for the points' weight in a kernel.
    """

    points: Tensor
    mean: Tensor
    spread: list[float]
    share: Tensor
    left: Tensor
    right: Tensor

    @classmethod
    def of(cls, points: Tensor, unit: Tensor) -> _Cloud:
        mean = points.mean(1, keepdim=True)
        points = (points - mean).div_(unit)
        half = (points * points).sum(2, keepdim=True).mul_(0.5)
        ones, less = torch.ones_like(half), half.neg()
        total = half.sum(1, keepdim=True)
        spread = [value / points.shape[1] for value in total.flatten().tolist()]
        share = (half / total.clamp(min=torch.finfo(half.dtype).tiny)).mT
        left, right = torch.cat([points, less, ones], 2), torch.cat([points, ones, less - math.log(points.shape[1])], 2)
        return cls(points, mean, spread, share, left, right)

    def lanes(self, first: int, last: int) -> _Cloud:
        return _Cloud(*(field[first:last] for field in self))  # type: ignore[arg-type]


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


def symmetric_steps(accuracy: float) -> int:
    """Contractions by .17, the limit of Chebyshev's, to potentials of an accuracy."""
    return 1 + math.ceil(math.log(min(accuracy, 0.1)) / math.log(0.17))


def _symmetric(cloud: _Cloud, steps: int) -> _Symmetric:
    kernel = torch.bmm(cloud.left, cloud.right.mT).clamp_(FLOOR, 0).exp_()
    before = now = kernel.sum(-1).unsqueeze(1).log_().mul_(-0.5)
    weight = 1.0
    for step in range(steps):
        mapped = torch.lerp(now, torch.bmm(now.exp(), kernel).log_().neg_(), 2 / 3)
        # Chebyshev's semi-iteration for a spectrum within [-1/3, 1/3].
        weight = (1.0, 18 / 17)[step] if step < 2 else 1 / (1 - weight / 36)
        before, now = now, mapped if step == 0 else torch.lerp(before, mapped, weight)
    u = now.exp()
    log_v = torch.bmm(u, kernel).log_().neg_()
    # The mean of two successive potentials: their errors cancel to first order.
    return _Symmetric(kernel, u, log_v.exp(), torch.lerp(now, log_v, 0.5))


class _Cross(NamedTuple):
    """The plan between two clouds, u_i K_ij v_j: its columns sum to 1. ``value`` is the dual less both self terms."""

    kernel: Tensor
    u: Tensor
    v: Tensor
    value: Tensor
    iterations: list[int]
    enough: list[bool]

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


def _cross(scaling: _Scaling, pace: Pace, max_iter: int) -> _Cross:
    log_u, iterations, enough = _iterate(scaling, pace, max_iter)
    log_v = scaling.column_step(log_u)
    return _Cross(scaling.kernel, log_u.exp(), log_v.exp(), scaling.value(log_u, log_v), iterations, enough)


def _iterate(whole: _Scaling, pace: Pace, max_iter: int) -> tuple[Tensor, list[int], list[bool]]:
    """Potentials of x, and of each problem the iterations and whether it may stop; absorption changes ``whole``."""
    scaling = whole
    log_u = scaling.row_step(torch.zeros_like(scaling.columns))
    log_v = scaling.column_step(log_u)
    far = bool((log_v > LARGEST_POTENTIAL).any())
    if far:
        log_u, log_v = scaling.reach_every_column(log_u)
    result, iterations, enough = log_u, [max_iter] * len(log_u), [False] * len(log_u)
    where = list(range(len(log_u)))
    weight, seen = pace.weight(log_u), log_u
    for iteration in range(1, max_iter):
        step = scaling.row_step(log_v)
        if iteration == 1:
            pace.first_look(iteration, pace.residual(log_u, step).tolist())
        elif iteration % CHECK_EVERY == 0:
            residual, value, largest = scaling.look(pace.residual(log_u, step), log_u, log_v)
            going = pace.going(iteration, residual, value)
            for lane, place in enumerate(where):
                enough[place] = lane not in going and math.isfinite(residual[lane])
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
                log_u, log_v, step, seen = log_u[going], log_v[going], step[going], seen[going]
            stuck = pace.stuck(iteration)
            if stuck:
                far = True
                part = scaling.only(stuck)
                part.leap(log_u[stuck], (log_u - seen)[stuck])
                scaling.put(stuck, part)
                log_u, log_v = log_u.clone(), log_v.clone()
                log_u[stuck], log_v[stuck] = 0, 0
                step[stuck] = part.row_step(log_v[stuck])
            elif any(potential > LARGEST_POTENTIAL for potential in largest):
                far = True
                step = scaling.absorb(log_u, log_v, step)
                log_u, log_v = torch.zeros_like(log_u), torch.zeros_like(log_v)
            weight, seen = pace.weight(log_u), log_u
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
    return result, iterations, enough


def _put(whole: Tensor, where: list[int], part: Tensor) -> Tensor:
    if len(part) == len(whole):
        return part
    whole[where] = part
    return whole


@dataclass
class _Scaling:
    """The kernel between two clouds and its two half steps.

    ``rows`` and ``columns`` are the potentials that the kernel holds already, less those of the self terms, which the
    divergence takes off.
    """

    left: Tensor
    right: Tensor
    self_x: Tensor
    self_y: Tensor
    rows: Tensor
    columns: Tensor
    kernel: Tensor

    @classmethod
    def start(cls, left: Tensor, right: Tensor, self_x: Tensor, self_y: Tensor) -> _Scaling:
        exponent = _exponents(left, right)
        rows = exponent.amax(2, keepdim=True).neg_()
        kernel = exponent.add_(rows).clamp_(min=FLOOR).exp_()
        return cls(left, right, self_x, self_y, rows.mT - self_x, -self_y, kernel)

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
        of_x, of_y = (self.rows + log_u).sum(2), (self.columns + log_v).sum(2)
        return of_x.mul_(1 / log_u.shape[2]).add_(of_y, alpha=1 / log_v.shape[2]).flatten()

    def look(self, residual: Tensor, log_u: Tensor, log_v: Tensor) -> tuple[list[float], list[float], list[float]]:
        """Residual, value and largest potential of each problem, in one copy to the host."""
        largest_u, largest_v = log_u.abs().amax(2).flatten(), log_v.abs().amax(2).flatten()
        found = torch.stack([residual, self.value(log_u, log_v), largest_u, largest_v]).tolist()
        return found[0], found[1], list(map(max, found[2], found[3]))

    def absorb(self, log_u: Tensor, log_v: Tensor, step: Tensor) -> Tensor:
        """Multiply the potentials into the kernel; return the step relative to it."""
        self.rows, self.columns = self.rows + log_u, self.columns + log_v
        exponent = self._exponent().add_(self.columns + self.self_y)
        self.kernel = exponent.clamp_(min=FLOOR).exp_()
        return step - log_u

    def leap(self, log_u: Tensor, drift: Tensor) -> None:
        """Go on along ``drift`` for as long as the dual rises; absorb all potentials.

        Between clusters that cannot reach each other the potentials drift with a constant speed, tens of units of
        epsilon far, until the way that mass must take becomes the cheapest. The dual is concave, so a line search along
        the drift finds that point in a few trials, where hundreds of iterations would walk there.
        """
        start = self.rows + log_u
        best, (columns, highest) = start, self._column_potentials(start)
        for doubling in range(2, MOST_DOUBLINGS):
            trial = start + 2**doubling * drift
            of_trial, value = self._column_potentials(trial)
            rises = (value > highest).view(-1, 1, 1)
            if not bool(rises.any()):
                break
            best, columns = torch.where(rises, trial, best), torch.where(rises, of_trial, columns)
            highest = torch.maximum(value, highest)
        self.rows, self.columns = best, columns
        self.kernel = self._exponent().add_(columns + self.self_y).clamp_(min=FLOOR).exp_()

    def _column_potentials(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The potentials of y that belong to those of x, in the log domain, and the dual."""
        exponent = _exponents(self.left, self.right).add_((rows + self.self_x).mT)
        columns = exponent.logsumexp(1, keepdim=True).neg_() - self.self_y
        return columns, rows.mean((1, 2)) + columns.mean((1, 2))

    def reach_every_column(self, log_u: Tensor) -> tuple[Tensor, Tensor]:
        """Take a column step in the log domain, for points of y that are out of reach of every row's kernel."""
        self.rows = self.rows + log_u
        self.columns, _ = self._column_potentials(self.rows)
        self.kernel = self._exponent().add_(self.columns + self.self_y).clamp_(min=FLOOR).exp_()
        return torch.zeros_like(log_u), torch.zeros_like(self.columns)

    def only(self, lanes: list[int]) -> _Scaling:
        """The named problems alone."""
        return _Scaling(*(getattr(self, field.name)[lanes] for field in fields(self)))

    def put(self, lanes: list[int], part: _Scaling) -> None:
        """Take over what changed in these problems."""
        if part is not self:
            for name in ("rows", "columns", "kernel"):
                getattr(self, name)[lanes] = getattr(part, name)

    def _exponent(self) -> Tensor:
        """Minus the cost, with what the rows hold already."""
        return _exponents(self.left, self.right).add_((self.rows + self.self_x).mT)


def _exponents(left: Tensor, right: Tensor) -> Tensor:
    """Minus the costs, less log n: the weight of the points of x, not of y as ``right`` has it."""
    n, m = left.shape[1], right.shape[1]
    exponent = torch.bmm(left, right.mT)
    return exponent if n == m else exponent.add_(math.log(m / n))
