"""The fast solver as one Triton kernel: what it computes is :mod:`pkdray.losses._sinkhorn`'s, one program a problem.

On a GPU these problems are too small for one operation each: starting an operation costs more than an iteration. So
one program does all of a problem, from the means to the gradients, with nothing for the host to wait for, and stops
when its own problem is solved.

A program keeps its kernel in global memory that it alone uses (64 KB at 128 points: it stays in L1) and goes through
it in blocks of rows. A *sweep* reads it once an iteration: with a block of rows at hand it makes the step of these
rows' potentials, and adds up what they send to the columns. Potentials of the columns are in registers, those of the
rows in memory. Rounding apart, this differs from the CPU's iteration in one place: a sweep knows the residual after
the rows have moved, so that a new weight reaches them one iteration later than the columns.
"""

from __future__ import annotations

from typing import TypeAlias

import triton  # type: ignore[import-untyped, import-not-found, unused-ignore]
import triton.language as tl  # type: ignore[import-untyped, import-not-found, unused-ignore]

from pkdray.losses import _pace, _sinkhorn
from pkdray.losses._sinkhorn_blocks import (
    UNBOUNDED,
    bounded,
    centre,
    column_sums,
    gradient,
    gram,
    log_ratio,
    minus_log,
    publish,
    reach_columns,
    reach_rows,
    rows_missing,
    send,
    take,
)

Tensor: TypeAlias = tl.tensor
"""A pointer, a number or a block of them."""

LARGEST_POTENTIAL = tl.constexpr(_sinkhorn.LARGEST_POTENTIAL)
REACH = tl.constexpr(_sinkhorn.REACH)
CHECK_EVERY = tl.constexpr(_pace.CHECK_EVERY)
LARGEST_WEIGHT = tl.constexpr(_pace.LARGEST_WEIGHT)
LARGEST_WEIGHT_NEARBY = tl.constexpr(_pace.LARGEST_WEIGHT_NEARBY)
NEARBY = tl.constexpr(_pace.NEARBY)
FAR = tl.constexpr(_pace.FAR)
ACCURACY = tl.constexpr(_pace.ACCURACY)


def scratch_size(P: int, KP: int) -> int:
    """Float32 numbers that a program needs in memory: two matrices, five clouds and ten vectors."""
    return 2 * P * P + 5 * P * KP + 10 * P


# Compiled once for all sizes that are padded alike, whatever lane a launch begins with.
@triton.jit(
    do_not_specialize=["n", "m", "k", "tol", "self_steps", "max_iter"],
    do_not_specialize_on_alignment=[
        "x", "y", "epsilon", "value", "grad_y", "grad_x", "grad_epsilon", "iterations", "residual",
    ],
)  # fmt: skip
def solve_lane(
    x: Tensor, y: Tensor, epsilon: Tensor, scratch: Tensor, value: Tensor, grad_y: Tensor, grad_x: Tensor,
    grad_epsilon: Tensor, iterations: Tensor, residual: Tensor, n: Tensor, m: Tensor, k: Tensor, tol: Tensor,
    self_steps: Tensor, max_iter: Tensor, P: tl.constexpr, KP: tl.constexpr, R: tl.constexpr, RD: tl.constexpr,
    STRIDE: tl.constexpr, COMPLETE: tl.constexpr,
) -> None:  # fmt: skip
    """Solve the problem of this program.

    P, KP: points of a cloud and coordinates, padded to powers of two. R, RD: rows in a block of a sweep and of a
    product of clouds. STRIDE: :func:`scratch_size`. tol: below 0 where it follows from the value. self_steps:
    iterations of the symmetric terms.
    """
    lane = tl.program_id(0).to(tl.int64)
    exponent = scratch + lane * STRIDE
    kernel = exponent + P * P
    clouds = kernel + P * P
    images = clouds + 2 * P * KP
    halves = images + 3 * P * KP
    selves = halves + 2 * P
    log_u = selves + 2 * P
    rows, columns, column, missed = log_u + 2 * P, log_u + 3 * P, log_u + 4 * P, log_u + 5 * P
    index = tl.arange(0, P)

    eps = tl.load(epsilon + lane)
    unit = tl.sqrt(eps)
    mean_x, spread = centre(x + lane * n * k, clouds, halves, n, k, unit, P, KP, R)
    mean_y, other = centre(y + lane * m * k, clouds + P * KP, halves + P, m, k, unit, P, KP, R)
    shift = mean_y - mean_x

    for side in range(2):
        cloud, image = clouds + side * P * KP, images + side * P * KP
        gram(exponent, cloud, cloud, halves + side * P, P, KP, RD)
        count = tl.where(side == 0, n, m)
        log_v = _symmetric(
            exponent, kernel, halves + side * P, selves + side * P, rows, columns, column, count, self_steps, P, R
        )
        if (side == 1) | COMPLETE:
            send(kernel, P, 1, column, log_v, cloud, image, P, KP)

    gram(exponent, clouds, clouds + P * KP, halves + P, P, KP, RD)
    log_u, log_v, dual, done = _cross(
        exponent, kernel, log_u, rows, columns, halves, selves, spread, spread + other, n, m, tol, max_iter, P, R
    )
    tl.store(value + lane, dual * eps + 0.5 * tl.sum(shift * shift, 0))

    image = images + 2 * P * KP
    send(kernel, P, 1, log_u, log_v, clouds, image, P, KP)
    within, across = gradient(
        grad_y + lane * m * k, clouds + P * KP, images + P * KP, image, missed, shift, unit, m, k, P, KP, R, False
    )
    if COMPLETE:
        tl.store(iterations + lane, done.to(tl.int64))
        tl.store(residual + lane, rows_missing(kernel, log_u, log_v, missed, n, m, P, R))
        # dW / d epsilon is the relative entropy of the plan: (W - <P, C>) / epsilon.
        entropy = dual + across - 0.5 * within - tl.sum(tl.load(missed + index) * tl.load(halves + index), 0) / n
        publish(column, log_v, P)
        # The other way round: a row of the plan sums to m / n where a column sums to 1.
        to_rows = tl.load(log_u + index) - log_ratio(m, n)
        send(kernel, 1, P, column, to_rows, clouds + P * KP, image, P, KP)
        within, across = gradient(
            grad_x + lane * n * k, clouds, images, image, missed, -shift, unit, n, k, P, KP, R, True
        )
        tl.store(grad_epsilon + lane, entropy - 0.5 * within)


@triton.jit
def _symmetric(
    exponent: Tensor, kernel: Tensor, half: Tensor, potential: Tensor, rows: Tensor, columns: Tensor, column: Tensor,
    count: Tensor, steps: Tensor, P: tl.constexpr, R: tl.constexpr,
) -> Tensor:  # fmt: skip
    """Write the potential of a cloud to itself; log u is left in ``column``, and log v returned."""
    index = tl.arange(0, P)
    inside = index < count
    nothing = tl.zeros([P], tl.float32)
    publish(rows, -tl.load(half + index), P)
    publish(columns, nothing, P)
    take(exponent, kernel, rows, columns, count, count, 0.0, P, R)
    publish(column, nothing, P)
    now = 0.5 * minus_log(column_sums(kernel, column, P, R), inside)
    before = now
    weight = tl.full([], 1.0, tl.float32)
    step = tl.full([], 0, tl.int32)
    # Not `for step in range(steps)`: the interpreter has that for numbers known beforehand alone.
    while step < steps:
        publish(column, now, P)
        mapped = now + (minus_log(column_sums(kernel, column, P, R), inside) - now) * (2 / 3)
        # Chebyshev's semi-iteration for a spectrum within [-1/3, 1/3].
        weight = tl.where(step == 0, 1.0, tl.where(step == 1, 18 / 17, 1 / (1 - weight / 36)))
        after = before + weight * (mapped - before)
        before = now
        now = after
        step += 1
    publish(column, now, P)
    log_v = minus_log(column_sums(kernel, column, P, R), inside)
    # The mean of two successive potentials: their errors cancel to first order.
    publish(potential, 0.5 * (now + log_v), P)
    return log_v


@triton.jit
def _cross(
    exponent: Tensor, kernel: Tensor, log_u: Tensor, rows: Tensor, columns: Tensor, halves: Tensor, selves: Tensor,
    spread: Tensor, cost: Tensor, n: Tensor, m: Tensor, tol: Tensor, max_iter: Tensor, P: tl.constexpr,
    R: tl.constexpr,
) -> Tensor:  # fmt: skip
    """Solve between the clouds; return where log u is, log v, the divergence in units, and the iterations."""
    index = tl.arange(0, P)
    inside = index < m
    gap = log_ratio(m, n)
    log_v = tl.zeros([P], tl.float32)
    reach_rows(exponent, rows, n, m, P, R)
    publish(columns, log_v, P)
    publish(log_u, log_v, P)
    take(exponent, kernel, rows, columns, n, m, UNBOUNDED, P, R)

    best = bounded(1.25 + 0.27 / 2.302585092994046 * tl.log(tl.maximum(cost, 1e-9)), 1.0, 1.8)
    limit = tl.full([], UNBOUNDED, tl.float32)
    before = tl.full([], 0.0, tl.float32)
    seen = tl.full([], 0, tl.int32)
    iteration = tl.full([], 0, tl.int32)
    # The two halves of log_u take turns: where the other half is written, no thread reads.
    now = tl.full([], 0, tl.int32)
    going = max_iter > 0
    while going:
        weight = tl.where(iteration == 0, 1.0, best)
        sums, lengths = _sweep(kernel, log_v, log_u + now, log_u + (P - now), halves, weight, gap, limit, tol, n, P, R)
        if _looks(iteration):
            error = tl.sum(lengths, 0) / n
            error = tl.where(tol < 0, tl.sqrt(error / tl.maximum(spread, 1e-30)), error)
            if iteration > 1:
                value = _value(log_u + now, log_v, rows, columns, halves, selves, n, m, P)
                going, best = _pace_of(iteration - seen, before, error, value, spread, best, tol)
                weight = best
            before = error
            seen = iteration
        # Where it ends, the rows' last step is left undone: it was over-relaxed.
        if going:
            log_v = bounded(log_v + weight * (minus_log(sums, inside) - log_v), -limit, limit)
            now = P - now
            iteration += 1
            going = iteration < max_iter
            if _looks(iteration):
                moved = tl.load(log_u + now + index)
                largest = tl.max(tl.where(iteration == 1, log_v, tl.maximum(tl.abs(moved), tl.abs(log_v))), 0)
                if largest > LARGEST_POTENTIAL:
                    limit = tl.full([], REACH, tl.float32)
                    publish(rows, tl.load(rows + index) + moved, P)
                    held = tl.load(columns + index) + log_v
                    if iteration == 1:
                        # A point of y may be out of reach of every row's kernel.
                        held = reach_columns(exponent, rows, n, m, P, R)
                    log_v = tl.zeros([P], tl.float32)
                    publish(log_u + now, log_v, P)
                    publish(columns, held, P)
                    take(exponent, kernel, rows, columns, n, m, UNBOUNDED, P, R)
    log_v = minus_log(column_sums(kernel, log_u + now, P, R), inside)
    value = _value(log_u + now, log_v, rows, columns, halves, selves, n, m, P)
    return log_u + now, log_v, value, iteration


@triton.jit
def _sweep(
    kernel: Tensor, log_v: Tensor, now: Tensor, after: Tensor, halves: Tensor, weight: Tensor, gap: Tensor,
    limit: Tensor, tol: Tensor, n: Tensor, P: tl.constexpr, R: tl.constexpr,
) -> Tensor:  # fmt: skip
    """Move the potentials of the rows from ``now`` to ``after``.

    Returns what they then send to the columns, and by how much the rows miss 1, to be added up: as
    :meth:`pkdray.losses._pace.Pace.residual` has it, squared and times |x_i|^2 / 2 where there is no tolerance.
    """
    inner, column = tl.arange(0, R), tl.arange(0, P)
    v = tl.exp(log_v)
    sums = tl.zeros([R, P], tl.float32)
    error = tl.zeros([R], tl.float32)
    for first in range(0, P, R):
        index = first + inner
        block = tl.load(kernel + index[:, None] * P + column[None, :])
        log_u = tl.load(now + index)
        step = tl.where(index < n, gap, 0.0) + minus_log(tl.sum(block * v[None, :], 1), index < n) - log_u
        error += tl.where(tol < 0, step * step * tl.load(halves + index), tl.abs(tl.exp(-step) - 1))
        log_u = bounded(log_u + weight * step, -limit, limit)
        tl.store(after + index, log_u)
        sums += block * tl.exp(log_u)[:, None]
    # The next sweep reads what this wrote, and overwrites what this read.
    tl.debug_barrier()
    return tl.sum(sums, 0), error


@triton.jit
def _looks(iteration: Tensor) -> Tensor:
    return (iteration == 1) | ((iteration > 0) & (iteration % CHECK_EVERY == 0))


@triton.jit
def _value(
    log_u: Tensor,
    log_v: Tensor,
    rows: Tensor,
    columns: Tensor,
    halves: Tensor,
    selves: Tensor,
    n: Tensor,
    m: Tensor,
    P: tl.constexpr,
) -> Tensor:
    """The divergence in units, but for the distance of the means; the self terms go point by point: they round less."""
    index = tl.arange(0, P)
    of_x = tl.load(rows + index) + (tl.load(halves + index) - tl.load(selves + index)) + tl.load(log_u + index)
    of_y = tl.load(columns + index) - tl.load(selves + P + index) + log_v
    # The next sweep may overwrite the half of log_u that was read.
    tl.debug_barrier()
    return tl.sum(of_x, 0) / n + tl.sum(of_y, 0) / m


@triton.jit
def _pace_of(
    since: Tensor,
    before: Tensor,
    error: Tensor,
    value: Tensor,
    spread: Tensor,
    weight: Tensor,
    tol: Tensor,
) -> Tensor:
    """Whether to go on, and with which weight: as :class:`pkdray.losses._pace.Pace` has it."""
    shrinks = (error > 0) & (error < before)
    rate = tl.where(shrinks, tl.exp(tl.log(tl.where(shrinks, error / before, 1.0)) / since), 1.0)
    left = tl.where((rate < 1) & (tol < 0), error / (1 - tl.maximum(rate, weight - 1)), error)
    relative = tl.sqrt(tl.maximum(value, 0.0) / tl.maximum(spread, 1e-30))
    enough = tl.where(tol >= 0, tol / 2, ACCURACY * bounded(relative, 0.01, 1.0))
    root = (rate + weight - 1) / weight
    slowest = tl.minimum(root * root / rate, 1.0)
    best = tl.where(rate > tl.maximum(weight - 1, 0.5), 2 / (1 + tl.sqrt(1 - slowest)), weight)
    best = tl.minimum(best, tl.where(error < NEARBY, LARGEST_WEIGHT_NEARBY, LARGEST_WEIGHT))
    best = tl.where(rate < 1, best, tl.where(error > FAR, (1 + weight) / 2, weight))
    # False where the residual is NaN: that problem ends here.
    return left > enough, best
