"""What every encoder is, and what it says when samples do not fit it."""

from __future__ import annotations

from torch import nn

from pkdray.errors import ConfigError


class Encoder(nn.Module):
    """From one modality to ``width`` numbers a sample, or a frame where the targets are per frame.

    ``learning_rate`` is its own where training is to use another than for the rest of the network.
    Shapes: [B, *shape] -> [B, width]; [B, T, width] for a sequence where the targets are per frame.
    """

    width: int
    learning_rate: float | None = None


class ShapeError(ConfigError, ValueError):
    """An encoder that cannot take samples of this shape."""
