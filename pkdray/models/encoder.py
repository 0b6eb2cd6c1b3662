"""What every encoder is, what it takes, and what it says when samples do not fit it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

from torch import Tensor, nn

from pkdray.errors import ConfigError


class Steps(NamedTuple):
    """What a frozen network made of samples beforehand, ``values`` [B, S, 512]: in place of the samples themselves.

    A type of its own, because no shape tells the steps of a film from a film.
    """

    values: Tensor


Inputs: TypeAlias = Mapping[str, Tensor | Steps]
"""What a network takes: modality -> samples [B, ...], or what its frozen backbone made of them."""


class Encoder(nn.Module):
    """From one modality to ``width`` numbers a sample, or a frame where the targets are per frame.

    ``learning_rate`` is its own where training is to use another than for the rest of the network.
    Shapes: [B, *shape] -> [B, width]; [B, T, width] for a sequence where the targets are per frame.
    """

    width: int
    learning_rate: float | None = None


class ShapeError(ConfigError, ValueError):
    """An encoder that cannot take samples of this shape."""
