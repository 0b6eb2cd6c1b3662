"""What networks answer with: tensors, and dicts and named tuples of them, treated as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def each(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """The same structure with every tensor replaced by what ``function`` makes of it.

    Example:
        >>> each(torch.neg, {"a": torch.tensor([3.0]), "b": (torch.tensor([1.0]),)})
        {'a': tensor([-3.]), 'b': (tensor([-1.]),)}
    """
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {name: each(function, part) for name, part in value.items()}
    return _like(value, [each(function, part) for part in value])


def joined(parts: Sequence[Any]) -> Any:
    """Answers to parts of a batch as the answer to all of it: concatenated along the first dimension.

    Example:
        >>> joined([(torch.tensor([3]),), (torch.tensor([1, 4]),)])
        (tensor([3, 1, 4]),)
    """
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(list(parts))
    if isinstance(first, Mapping):
        return {name: joined([part[name] for part in parts]) for name in first}
    return _like(first, [joined(field) for field in zip(*parts, strict=True)])


def _like(value: Any, fields: Sequence[Any]) -> Any:
    return type(value)(*fields) if hasattr(value, "_fields") else tuple(fields)
