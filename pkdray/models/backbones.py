"""Backbones: from one modality to a feature vector a sample, or a frame where the targets are per frame."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import ClassVar

from torch import Tensor, nn

from pkdray.config import EncoderConfig
from pkdray.models.encoder import Encoder
from pkdray.models.shapes import check_shape
from pkdray.models.tcn import TCNEncoder
from pkdray.models.visual import build_r3d18, build_resnet18, build_vgg19

__all__ = ["ENCODERS", "Encoder", "GRUEncoder", "LSTMEncoder", "MLPEncoder", "align_frames", "build_encoder", "mlp"]


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


class MLPEncoder(Encoder):
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


class GRUEncoder(Encoder):
    """Gated recurrent layers over the frames; the last state stands for the sample unless the targets are per frame.

    Shapes: [B, T, d] -> [B, h], or [B, T, h] with ``per_frame``.
    """

    cell: ClassVar[Callable[..., nn.RNNBase]] = nn.GRU

    def __init__(self, inputs: int, hidden: Sequence[int], dropout: float, *, per_frame: bool) -> None:
        super().__init__()
        widths = [inputs, *hidden]
        self.layers = nn.ModuleList(
            self.cell(inner, outer, batch_first=True) for inner, outer in itertools.pairwise(widths)
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


class LSTMEncoder(GRUEncoder):
    """A ``GRUEncoder`` with long short-term memory cells."""

    cell = nn.LSTM


Shape = tuple[int, ...]


def _mlp(config: EncoderConfig, shape: Shape, per_frame: bool) -> Encoder:
    return MLPEncoder(shape[-1], config.hidden, config.dropout, per_frame=per_frame)


def _gru(config: EncoderConfig, shape: Shape, per_frame: bool) -> Encoder:
    return GRUEncoder(shape[-1], config.hidden, config.dropout, per_frame=per_frame)


def _tcn(config: EncoderConfig, shape: Shape, per_frame: bool) -> Encoder:
    return TCNEncoder(shape[-1], config.hidden, config.dropout, per_frame=per_frame)


def _vgg19_gru(config: EncoderConfig, shape: Shape, per_frame: bool) -> Encoder:
    return build_vgg19(config, shape, per_frame=per_frame, head=GRUEncoder)


def _r3d18(config: EncoderConfig, shape: Shape, per_frame: bool) -> Encoder:
    return build_r3d18(config, shape, per_frame=per_frame)


def _r3d18_lstm(config: EncoderConfig, shape: Shape, per_frame: bool) -> Encoder:
    return build_r3d18(config, shape, per_frame=per_frame, head=LSTMEncoder)


def _resnet18(config: EncoderConfig, shape: Shape, per_frame: bool) -> Encoder:
    return build_resnet18(config, shape, per_frame=per_frame)


ENCODERS: dict[str, Callable[[EncoderConfig, Shape, bool], Encoder]] = {
    "mlp": _mlp,
    "gru": _gru,
    "tcn": _tcn,
    "vgg19_gru": _vgg19_gru,
    "r3d18": _r3d18,
    "r3d18_lstm": _r3d18_lstm,
    "resnet18": _resnet18,
}
"""What builds an encoder of each kind that a config may name: (config, shape of a sample, per frame) -> encoder."""


def build_encoder(config: EncoderConfig, shape: Sequence[int], *, per_frame: bool) -> Encoder:
    """The encoder that ``config`` names, for samples of ``shape``; its ``width`` is ``config.hidden[-1]``.

    Raises:
        ShapeError: the kind cannot take samples of this shape.
        CheckpointError: the file of weights is missing, damaged or of another network.
    """
    check_shape(config.kind, shape)
    encoder = ENCODERS[config.kind](config, tuple(shape), per_frame)
    encoder.learning_rate = config.learning_rate
    return encoder


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
