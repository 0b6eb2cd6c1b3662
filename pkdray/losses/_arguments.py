"""What the losses accept: checks of shape and domain, none of which reads a tensor's values and waits for a device."""

from __future__ import annotations

import torch
from torch import Tensor


def same_shape(first_name: str, first: Tensor, second_name: str, second: Tensor, *, min_dims: int = 1) -> None:
    """Refuse two tensors of different shapes, and tensors with too few dimensions."""
    if first.shape != second.shape:
        raise ValueError(
            f"{first_name} has shape {list(first.shape)} but {second_name} has {list(second.shape)}. "
            "Give both the same shape: broadcasting would compare the wrong pairs."
        )
    if first.ndim < min_dims:
        raise ValueError(
            f"{first_name} has {first.ndim} dimensions, {min_dims} at least are needed (shape {list(first.shape)}). "
            "Add the missing batch or feature dimension."
        )


def not_empty(name: str, value: Tensor, rows: int) -> None:
    """Refuse a batch without rows: its mean would be NaN and would spoil the training silently."""
    if rows == 0:
        raise ValueError(f"{name} has no rows (shape {list(value.shape)}). Leave empty batches out.")


def leading_shape(name: str, value: Tensor, whole_name: str, whole: Tensor, *, dims: int | None = None) -> None:
    """Require that ``value`` has the first dimensions of ``whole``: all but the last, or exactly ``dims`` of them."""
    wanted = whole.shape[:-1] if dims is None else whole.shape[:dims]
    if value.shape != wanted:
        raise ValueError(
            f"{name} has shape {list(value.shape)}, but {whole_name} {list(whole.shape)} needs {list(wanted)}. "
            f"Give one {name} entry per row."
        )


def same_batch(first_name: str, first: Tensor, second_name: str, second: Tensor) -> None:
    """Require embeddings [..., B, D] and [..., B, E] of the same rows; the widths may differ."""
    if first.ndim < 2 or first.shape[:-1] != second.shape[:-1]:
        raise ValueError(
            f"{first_name} has shape {list(first.shape)} but {second_name} has {list(second.shape)}. "
            "Give one row of each per sample, in the same order: [B, D] and [B, E]."
        )
    not_empty(first_name, first, first.shape[-2])


def boolean(name: str, value: Tensor) -> None:
    """Require a boolean mask: a float mask is a weight, and means something else."""
    if value.dtype != torch.bool:
        raise ValueError(
            f"{name} has dtype {value.dtype}, not torch.bool. Pass a boolean mask, for example {name} > 0."
        )


def positive(name: str, value: float | Tensor) -> None:
    """Require a number above zero; the values of a tensor are not read, since that would wait for the device."""
    if not isinstance(value, Tensor | int | float):
        raise ValueError(f"{name} is {value!r}, a {type(value).__name__}. Pass a number or a tensor.")
    if not isinstance(value, Tensor) and not 0 < value < float("inf"):
        raise ValueError(f"{name} is {value}. Choose a finite {name} above 0.")


def scalar(name: str, value: float | Tensor) -> None:
    """Require a float or a tensor without dimensions."""
    if isinstance(value, Tensor) and value.ndim:
        raise ValueError(f"{name} has shape {list(value.shape)}. Pass a float or a 0-d tensor (use vmap for several).")


def between(name: str, value: float | Tensor, low: float, high: float) -> None:
    """Require ``low <= value <= high`` of a float; the values of a tensor are not read."""
    if not isinstance(value, Tensor) and not low <= value <= high:
        raise ValueError(f"{name} is {value}, outside [{low:g}, {high:g}]. Choose a {name} inside it.")


def one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Require one of the named choices."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}. Choose one of {', '.join(map(repr, choices))}.")
