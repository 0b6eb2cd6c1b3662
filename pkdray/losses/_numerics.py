"""Precision shared by the losses: float32 at least, norms with a slope at zero, means with row weights."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

DELTA = 1e-4
"""Smoothing of norms, sqrt(|x|^2 + DELTA^2).

It bounds the slope of a cosine at the zero vector by 1 / DELTA, where a clamp at 1e-12 would give 1e12; at norm 1 it
changes the cosine by 5e-9, less than float32 can hold.
"""


def full_precision(value: Tensor) -> Tensor:
    """Return float32 for float16 and bfloat16 (and integers), float32 and float64 as they are."""
    return value if value.dtype in (torch.float32, torch.float64) else value.float()


def without_autocast(value: Tensor) -> AbstractContextManager[object]:
    """Switch autocast off: rounding similarities to bfloat16 costs about 2 % of the gradient."""
    kind = value.device.type
    if torch.compiler.is_compiling():
        # The questions below would break the graph.
        return torch.autocast(kind, enabled=False)
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return nullcontext()
    return torch.autocast(kind, enabled=False)


def safe_norm(value: Tensor) -> Tensor:
    """Norm over the last dimension, kept, with a finite slope at zero."""
    return (value.square().sum(-1, keepdim=True) + DELTA**2).sqrt()


def weighted_mean(rows: Tensor, weight: Tensor | None) -> Tensor:
    """Mean of weight * rows over all rows; the count, not the weights' sum, divides."""
    return rows.mean() if weight is None else (weight.to(rows.dtype) * rows).mean()
