"""What the Triton kernel is made of: passes of one program over its clouds and its matrix, in blocks of rows.

What one thread writes to memory and another reads, or reads and another overwrites, needs a barrier in between; neither
the compiler nor the interpreter notices one that is missing. The rule here: who writes such memory ends with a barrier,
and begins with one where somebody may still be reading what is overwritten. Products are added up in full float32
(``input_precision="ieee"``): TF32 would spoil the gradient. NaN has to come through: minimum, maximum and clamp drop it
unless told.

P and KP are the points of a cloud and its coordinates, padded to powers of two; R and RD the rows of a block. Padding
is 0 in clouds, potentials and kernel, so that only logarithms and averages need to know where it begins.
"""

from __future__ import annotations

from typing import TypeAlias

import triton  # type: ignore[import-untyped, import-not-found, unused-ignore]
import triton.language as tl  # type: ignore[import-untyped, import-not-found, unused-ignore]

from pkdray.losses._sinkhorn import FLOOR as CPU_FLOOR

Tensor: TypeAlias = tl.tensor
"""A pointer, a number or a block of them."""

FLOOR = tl.constexpr(CPU_FLOOR)

DEPTH = tl.constexpr(16)
"""Terms that a tl.dot adds up at a time: the fewest that it takes, since a thread holds as many of both factors."""

UNBOUNDED = tl.constexpr(1e30)
"""Stands for infinity: the difference of two of them is a number."""


@triton.jit
def publish(pointer: Tensor, vector: Tensor, P: tl.constexpr) -> None:
    """Write a vector that is in registers to memory, for all threads."""
    tl.debug_barrier()
    tl.store(pointer + tl.arange(0, P), vector)
    tl.debug_barrier()


@triton.jit
def bounded(values: Tensor, least: Tensor, most: Tensor) -> Tensor:
    return tl.clamp(values, least, most, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def log_ratio(a: Tensor, b: Tensor) -> Tensor:
    return tl.log(a.to(tl.float32) / b.to(tl.float32))


@triton.jit
def minus_log(sums: Tensor, inside: Tensor) -> Tensor:
    return tl.where(inside, -tl.log(tl.where(inside, sums, 1.0)), 0.0)


@triton.jit
def centre(
    points: Tensor, centred: Tensor, half: Tensor, count: Tensor, k: Tensor, unit: Tensor, P: tl.constexpr,
    KP: tl.constexpr, R: tl.constexpr,
) -> Tensor:  # fmt: skip
    """Write the points less their mean, in units, and their half squares; return both means."""
    inner, coordinates = tl.arange(0, R), tl.arange(0, KP)
    total = tl.zeros([R, KP], tl.float32)
    for first in range(0, P, R):
        index = first + inner
        inside = (index[:, None] < count) & (coordinates[None, :] < k)
        total += tl.load(points + index[:, None] * k + coordinates[None, :], mask=inside, other=0.0)
    mean = tl.sum(total, 0) / count
    halves = tl.zeros([R], tl.float32)
    for first in range(0, P, R):
        index = first + inner
        inside = (index[:, None] < count) & (coordinates[None, :] < k)
        block = tl.load(points + index[:, None] * k + coordinates[None, :], mask=inside, other=0.0)
        block = tl.where(inside, (block - mean[None, :]) / unit, 0.0)
        block_half = 0.5 * tl.sum(block * block, 1)
        tl.store(centred + index[:, None] * KP + coordinates[None, :], block)
        tl.store(half + index, block_half)
        halves += block_half
    tl.debug_barrier()
    return mean, tl.sum(halves, 0) / count


@triton.jit
def gram(
    exponent: Tensor,
    x: Tensor,
    y: Tensor,
    half_y: Tensor,
    P: tl.constexpr,
    KP: tl.constexpr,
    RD: tl.constexpr,
) -> None:
    """Minus the cost, but for |x_i|^2 / 2, which the potential of the row takes up."""
    columns, inner, depth = tl.arange(0, P), tl.arange(0, RD), tl.arange(0, DEPTH)
    tl.debug_barrier()
    minus_half = -tl.load(half_y + columns)
    for first in range(0, P, RD):
        index = first + inner
        total = tl.zeros([RD, P], tl.float32) + minus_half[None, :]
        for start in range(0, KP, DEPTH):
            left = tl.load(x + index[:, None] * KP + (start + depth)[None, :])
            right = tl.load(y + columns[None, :] * KP + (start + depth)[:, None])
            total = tl.dot(left, right, total, input_precision="ieee")
        tl.store(exponent + index[:, None] * P + columns[None, :], total)
    tl.debug_barrier()


@triton.jit
def take(
    exponent: Tensor,
    kernel: Tensor,
    rows: Tensor,
    columns: Tensor,
    n: Tensor,
    m: Tensor,
    most: Tensor,
    P: tl.constexpr,
    R: tl.constexpr,
) -> None:
    """Exponentiate, with the potentials of rows and columns multiplied in."""
    inner, column = tl.arange(0, R), tl.arange(0, P)
    log_n = tl.log(n.to(tl.float32))
    tl.debug_barrier()
    of_columns = tl.load(columns + column)
    for first in range(0, P, R):
        index = first + inner
        place = index[:, None] * P + column[None, :]
        block = tl.load(exponent + place) + tl.load(rows + index)[:, None] + of_columns[None, :]
        inside = (index[:, None] < n) & (column[None, :] < m)
        tl.store(kernel + place, tl.where(inside, tl.exp(bounded(block, FLOOR, most) - log_n), 0.0))
    tl.debug_barrier()


@triton.jit
def reach_rows(exponent: Tensor, rows: Tensor, n: Tensor, m: Tensor, P: tl.constexpr, R: tl.constexpr) -> None:
    """First potentials of the rows: the largest entry of each is 1."""
    inner, column = tl.arange(0, R), tl.arange(0, P)
    log_n = tl.log(n.to(tl.float32))
    tl.debug_barrier()
    for first in range(0, P, R):
        index = first + inner
        block = tl.load(exponent + index[:, None] * P + column[None, :])
        largest = tl.max(tl.where(column[None, :] < m, block, -UNBOUNDED), 1)
        tl.store(rows + index, tl.where(index < n, log_n - largest, 0.0))
    tl.debug_barrier()


@triton.jit
def reach_columns(exponent: Tensor, rows: Tensor, n: Tensor, m: Tensor, P: tl.constexpr, R: tl.constexpr) -> Tensor:
    """The columns' potentials by a step in the log domain, over rows that stream."""
    inner, column = tl.arange(0, R), tl.arange(0, P)
    largest = tl.full([R, P], -UNBOUNDED, tl.float32)
    total = tl.zeros([R, P], tl.float32)
    for first in range(0, P, R):
        index = first + inner
        block = tl.load(exponent + index[:, None] * P + column[None, :]) + tl.load(rows + index)[:, None]
        block = tl.where(index[:, None] < n, block, -UNBOUNDED)
        larger = tl.maximum(largest, block)
        total = total * tl.exp(largest - larger) + tl.exp(block - larger)
        largest = larger
    peak = tl.max(largest, 0)
    total *= tl.exp(largest - peak[None, :])
    return tl.where(column < m, tl.log(n.to(tl.float32)) - peak - tl.log(tl.sum(total, 0)), 0.0)


@triton.jit
def column_sums(kernel: Tensor, log_u: Tensor, P: tl.constexpr, R: tl.constexpr) -> Tensor:
    """What all rows send to each column."""
    inner, column = tl.arange(0, R), tl.arange(0, P)
    # Added up over the threads of a column at the end, not in every block.
    total = tl.zeros([R, P], tl.float32)
    for first in range(0, P, R):
        index = first + inner
        u = tl.exp(tl.load(log_u + index))
        total += tl.load(kernel + index[:, None] * P + column[None, :]) * u[:, None]
    return tl.sum(total, 0)


@triton.jit
def rows_missing(
    kernel: Tensor,
    log_u: Tensor,
    log_v: Tensor,
    missed: Tensor,
    n: Tensor,
    m: Tensor,
    P: tl.constexpr,
    R: tl.constexpr,
) -> Tensor:
    """Write by how much each row of the plan misses its sum of 1; return the L1 error."""
    inner, column = tl.arange(0, R), tl.arange(0, P)
    v = tl.exp(log_v)
    error = tl.zeros([R], tl.float32)
    for first in range(0, P, R):
        index = first + inner
        sent = tl.sum(tl.load(kernel + index[:, None] * P + column[None, :]) * v[None, :], 1)
        sent *= tl.exp(tl.load(log_u + index) - log_ratio(m, n))
        off = tl.where(index < n, sent - 1, 0.0)
        tl.store(missed + index, off)
        error += tl.abs(off)
    tl.debug_barrier()
    return tl.sum(error, 0) / n


@triton.jit
def send(
    kernel: Tensor, along_rows: Tensor, along_columns: Tensor, log_u: Tensor, log_v: Tensor, points: Tensor,
    image: Tensor, P: tl.constexpr, KP: tl.constexpr,
) -> None:  # fmt: skip
    """Write v_j sum_i K_ij u_i x_i for every column j of the kernel; the two strides may change places."""
    columns, inner = tl.arange(0, P), tl.arange(0, DEPTH)
    v = tl.exp(log_v)
    tl.debug_barrier()
    for start in range(0, KP, DEPTH):
        coordinate = start + inner
        total = tl.zeros([P, DEPTH], tl.float32)
        for first in range(0, P, DEPTH):
            index = first + inner
            block = tl.load(kernel + index[None, :] * along_rows + columns[:, None] * along_columns)
            block *= tl.exp(tl.load(log_u + index))[None, :]
            part = tl.load(points + index[:, None] * KP + coordinate[None, :])
            total = tl.dot(block, part, total, input_precision="ieee")
        tl.store(image + columns[:, None] * KP + coordinate[None, :], total * v[:, None])
    tl.debug_barrier()


@triton.jit
def gradient(
    gradient: Tensor, points: Tensor, within: Tensor, across: Tensor, missed: Tensor, shift: Tensor, unit: Tensor,
    count: Tensor, k: Tensor, P: tl.constexpr, KP: tl.constexpr, R: tl.constexpr, ROWS: tl.constexpr,
) -> Tensor:  # fmt: skip
    """Write the gradient from where the points go within their cloud and to the other; return their mean products.

    ROWS: the points are the plan's rows, which sum to 1 only but for what they ``missed``.
    """
    inner, coordinates = tl.arange(0, R), tl.arange(0, KP)
    product_within, product_across = tl.zeros([R], tl.float32), tl.zeros([R], tl.float32)
    for first in range(0, P, R):
        index = first + inner
        place = index[:, None] * KP + coordinates[None, :]
        point, inside, outside = tl.load(points + place), tl.load(within + place), tl.load(across + place)
        product_within += tl.sum(point * inside, 1)
        product_across += tl.sum(point * outside, 1)
        moved = inside - outside
        if ROWS:
            moved += point * tl.load(missed + index)[:, None]
        tl.store(
            gradient + index[:, None] * k + coordinates[None, :],
            (moved * unit + shift[None, :]) / count,
            mask=(index[:, None] < count) & (coordinates[None, :] < k),
        )
    return tl.sum(product_within, 0) / count, tl.sum(product_across, 0) / count
