"""Backbones: from one modality to a feature vector a sample, or a frame where the targets are per frame."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TypeAlias

from torch import Tensor, nn

from pkdray.config import EncoderConfig


def mlp(widths: Sequence[int], dropout: float) -> nn.Sequential:
    """Linear, ReLU and dropout between each pair of widths.

    Shapes: [..., widths[0]] -> [..., widths[-1]].

    Example:
        >>> import torch
        >>> mlp([76, 64], dropout=0.0)(torch.zeros(5, 76)).shape
        torch.Size([5, 64])
    """
    layers: list[nn.Module] = []
    for inner, outer in itertools.pairwise(widths):
        layers += [nn.Linear(inner, outer), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers)


class MLPEncoder(nn.Module):
    """An MLP on every frame; the frames of a sample are averaged unless the targets are per frame.

    Shapes: [B, d] -> [B, h]; [B, T, d] -> [B, h], or [B, T, h] with ``per_frame``.
    """

    def __init__(self, inputs: int, hidden: Sequence[int], dropout: float, *, per_frame: bool) -> None:
        super().__init__()
        self.layers = mlp([inputs, *hidden], dropout)
        self.per_frame = per_frame
        self.width = hidden[-1]

    def forward(self, values: Tensor) -> Tensor:
        """Encode a batch of one modality."""
        features = self.layers(values)
        return features.mean(dim=1) if features.ndim == 3 and not self.per_frame else features


class GRUEncoder(nn.Module):
    """Gated recurrent layers over the frames; the last state stands for the sample unless the targets are per frame.

    Shapes: [B, T, d] -> [B, h], or [B, T, h] with ``per_frame``.
    """

    def __init__(self, inputs: int, hidden: Sequence[int], dropout: float, *, per_frame: bool) -> None:
        super().__init__()
        widths = [inputs, *hidden]
        self.layers = nn.ModuleList(
            nn.GRU(inner, outer, batch_first=True) for inner, outer in itertools.pairwise(widths)
        )
        self.dropout = nn.Dropout(dropout)
        self.per_frame = per_frame
        self.width = hidden[-1]

    def forward(self, values: Tensor) -> Tensor:
        """Encode a batch of one modality."""
        features = values
        for layer in self.layers:
            features = self.dropout(layer(features)[0])
        return features if self.per_frame else features[:, -1]


Encoder: TypeAlias = MLPEncoder | GRUEncoder


def build_encoder(config: EncoderConfig, shape: Sequence[int], *, per_frame: bool) -> Encoder:
    """The encoder that ``config`` names, for samples of ``shape`` ([d] or [T, d]).

    Raises:
        ValueError: a GRU for features without a time axis.
    """
    if config.kind == "gru":
        if len(shape) != 2:
            raise ValueError(f"a gru encoder needs features of shape [T, d], not {list(shape)}: use kind mlp")
        return GRUEncoder(shape[-1], config.hidden, config.dropout, per_frame=per_frame)
    return MLPEncoder(shape[-1], config.hidden, config.dropout, per_frame=per_frame)


def align_frames(features: dict[str, Tensor]) -> dict[str, Tensor]:
    """Repeat a sample-level stream over the frames of the frame-level ones, so that they can be fused.

    Shapes: [B, h] beside [B, T, g] -> [B, T, h] beside [B, T, g].
    """
    frames = next((value.shape[1] for value in features.values() if value.ndim == 3), None)
    if frames is None:
        return features
    return {
        name: value if value.ndim == 3 else value.unsqueeze(1).expand(-1, frames, -1)
        for name, value in features.items()
    }
