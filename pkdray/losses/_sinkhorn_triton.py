"""The fast solver on a GPU: which problems the Triton kernel takes, and how it is started.

Triton itself is imported where the first problem is solved: it comes with torch's builds for GPUs only.
"""

from __future__ import annotations

import importlib.util
from contextlib import nullcontext
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from pkdray.losses._pace import ACCURACY
from pkdray.losses._sinkhorn import Solution, symmetric_steps

LARGEST_POINTS, LARGEST_COORDINATES = 1024, 256
"""Beyond these a block of 16 rows or a point no longer fits a program's registers."""

SCRATCH = 2**26
"""Numbers in memory (256 MB) for the problems that are started together; the GPU works on some hundred at a time."""


class Sizes(NamedTuple):
    """What the kernel is compiled for.

    Attributes:
        P: points, padded.
        KP: coordinates, padded.
        R: rows in a block of a sweep.
        RD: rows in a block of a product of clouds.
        warps: threads of a program, by 32.
    """

    P: int
    KP: int
    R: int
    RD: int
    warps: int


def available(x: Tensor, y: Tensor) -> bool:
    """Whether :func:`solve` takes these clouds, ``[L, n, k]`` and ``[L, m, k]``."""
    return (
        x.is_cuda
        and x.device == y.device
        and x.dtype == y.dtype == torch.float32
        and max(x.shape[-2], y.shape[-2]) <= LARGEST_POINTS
        and x.shape[-1] <= LARGEST_COORDINATES
        and _supported(x.device.index)
    )


@cache
def _supported(device: int) -> bool:
    # AMD's GPUs have Triton too, but nobody has tried them.
    return (
        torch.version.cuda is not None
        and torch.cuda.get_device_capability(device) >= (8, 0)
        and importlib.util.find_spec("triton") is not None
    )


def sizes(n: int, m: int, k: int) -> Sizes:
    """The blocks for clouds of n and m points of k coordinates."""
    P, KP = (max(16, 1 << (size - 1).bit_length()) for size in (max(n, m), k))
    return Sizes(P, KP, R=max(16, min(P, 8192 // P)), RD=max(16, min(P, 4096 // P)), warps=4 if P <= 32 else 8)


def solve(
    x: Tensor,
    y: Tensor,
    epsilon: Tensor,
    *,
    tol: float | None,
    max_iter: int,
    complete: bool = False,
) -> Solution:
    """As :func:`pkdray.losses._sinkhorn.solve`, for clouds that are :func:`available`; each problem stops by itself.

    Nothing waits for the GPU.
    """
    from pkdray.losses._sinkhorn_kernel import scratch_size, solve_lane

    x, y, epsilon = x.contiguous(), y.contiguous(), epsilon.contiguous()
    (lanes, n, k), m = x.shape, y.shape[1]
    size = sizes(n, m, k)
    stride = scratch_size(size.P, size.KP)
    value, grad_y = torch.empty_like(epsilon), torch.empty_like(y)
    # The kernel writes these where they are asked for alone.
    asked = lanes if complete else 0
    grad_x, iterations = torch.empty_like(x[:asked]), torch.empty(asked, dtype=torch.int64, device=x.device)
    grad_epsilon, residual = torch.empty_like(epsilon[:asked]), torch.empty_like(epsilon[:asked])
    together = max(1, min(lanes, SCRATCH // stride))
    scratch = x.new_empty(together * stride)
    with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
        for first in range(0, lanes, together):
            part = slice(first, first + together)
            solve_lane[(min(together, lanes - first),)](
                x[part], y[part], epsilon[part], scratch, value[part], grad_y[part], grad_x[part],
                grad_epsilon[part], iterations[part], residual[part], n, m, k, -1.0 if tol is None else tol,
                symmetric_steps(ACCURACY if tol is None else tol), max_iter, P=size.P, KP=size.KP, R=size.R,
                RD=size.RD, STRIDE=stride, COMPLETE=complete, num_warps=size.warps, num_stages=1,
            )  # fmt: skip
    if not complete:
        return Solution(value, grad_y)
    converged = iterations < max_iter if tol is None else residual <= tol
    return Solution(value, grad_y, grad_x, grad_epsilon, iterations, residual, converged)
