"""Standardisation of features by what the training rows show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from pkdray.errors import DatasetError

_BLOCK_BYTES = 32 << 20


@dataclass(frozen=True, eq=False)
class Standardizer:
    """Subtracts a mean and divides by a standard deviation per channel: z = (x - mean) / std.

    Args:
        mean: float32 [d].
        std: float32 [d], positive.

    Example:
        >>> values = np.array([[1.0, 5.0], [3.0, 5.0], [99.0, 7.0]], dtype=np.float32)
        >>> Standardizer.fit(values, rows=np.array([0, 1])).apply(values).tolist()
        [[-1.0, 0.0], [1.0, 0.0], [97.0, 2.0]]
    """

    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def fit(cls, values: np.ndarray, rows: np.ndarray | None = None) -> Self:
        """Measure mean and (population) standard deviation per channel, over all other axes.

        A channel that is constant to float32's precision gets std 1, so that it becomes 0 and not noise.

        Args:
            values: [N, ..., d], finite. Pictures of one channel, [N, T, H, W, 1], have d = 1: one mean and one
                deviation of all their values.
            rows: the training rows; None for all.

        Raises:
            DatasetError: there are no rows.
        """
        count = len(values) if rows is None else len(rows)
        if count == 0:
            raise DatasetError("There are no rows to standardise by.", cure="Give the train split at least one sample.")
        channels = values.shape[-1]
        size = max(1, _BLOCK_BYTES // max(1, 8 * int(np.prod(values.shape[1:]))))

        def blocks() -> Any:
            # Gathering all training rows at once in float64 would cost twice the dataset.
            for start in range(0, count, size):
                chosen = slice(start, start + size)
                block = values[chosen] if rows is None else values[rows[chosen]]
                yield block.reshape(-1, channels).astype(np.float64)

        total = count * int(np.prod(values.shape[1:-1]))
        mean = sum(block.sum(axis=0) for block in blocks()) / total
        # Two passes: the one-pass formula cancels where the mean is large beside the spread.
        variance = sum(np.square(block - mean).sum(axis=0) for block in blocks()) / total
        std = np.sqrt(variance).astype(np.float32)
        constant = std <= np.finfo(np.float32).eps * np.abs(mean)
        std[constant] = 1.0
        return cls(mean.astype(np.float32), std)

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Standardise ``values`` [..., d] into a new float32 array of the same shape.

        Raises:
            DatasetError: ``values`` does not have d channels.
        """
        if values.shape[-1:] != self.mean.shape:
            raise DatasetError(
                f"The features have shape {list(values.shape)}, but were standardised with {len(self.mean)} channels.",
                cure="Extract the features as for the dataset that the model was trained on.",
            )
        return (values.astype(np.float32, copy=False) - self.mean) / self.std

    def to_dict(self) -> dict[str, list[float]]:
        """As plain numbers for YAML; ``from_dict`` gives back the same bits."""
        return {"mean": self.mean.tolist(), "std": self.std.tolist()}

    @classmethod
    def from_dict(cls, said: Mapping[str, Any]) -> Self:
        """Rebuild what ``to_dict`` gave.

        Raises:
            DatasetError: ``mean`` and ``std`` are not lists of finite numbers of one length, or a std is not positive.
        """
        try:
            mean = np.asarray(said["mean"], dtype=np.float32)
            std = np.asarray(said["std"], dtype=np.float32)
            sound = mean.ndim == 1 and mean.shape == std.shape and len(mean) > 0
            sound = sound and bool(np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all())
        except (KeyError, TypeError, ValueError):
            sound = False
        if not sound:
            raise DatasetError(
                f"A standardisation needs 'mean' and 'std', finite numbers of one length, std > 0, not {said!r}.",
                cure="Restore the file that holds it, or make it again.",
            )
        return cls(mean, std)
