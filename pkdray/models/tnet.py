"""The T-Net, which hallucinates privileged features, and the adapters that recycle a frozen teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pkdray.models.backbones import Encoder, align_frames, mlp
from pkdray.models.fusion import ConcatFusion
from pkdray.models.named import NamedModules


class TNet(nn.Module):
    """From prevalent inputs to the teacher's privileged features: own encoders, then a bottleneck MLP.

    The encoders are the T-Net's own, so that a frozen T-Net does not move while the student trains.
    Shapes: {modality: [B, d] or [B, T, d]} -> [B, P] or [B, T, P], P the sum of the privileged encoders' widths.
    Source: PKDOT (2024), section on the transformation network (512-256-128-256-512).
    """

    def __init__(self, encoders: Mapping[str, Encoder], hidden: Sequence[int], outputs: int, dropout: float) -> None:
        super().__init__()
        self.encoders = NamedModules(encoders)
        width = sum(encoder.width for encoder in encoders.values())
        self.layers = mlp([width, *hidden], dropout)
        self.output = nn.Linear(hidden[-1], outputs)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Hallucinate the privileged features of a batch."""
        features = align_frames({name: encoder(inputs[name]) for name, encoder in self.encoders.items()})
        return self.output(self.layers(torch.cat(list(features.values()), dim=-1)))


class Adapter(nn.Module):
    """One modality's frozen teacher features to the joint embedding's space, with a head of its own.

    Shapes: [..., h] -> embedding [..., D], prediction [..., C]. Source: MT-PKDOT (512-256-512).
    """

    def __init__(self, inputs: int, hidden: Sequence[int], embedding: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.layers = mlp([inputs, *hidden], dropout)
        self.fusion = ConcatFusion({"features": hidden[-1]}, embedding)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(embedding, outputs)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The adapted embedding and its prediction."""
        embedding = self.fusion({"features": self.layers(features)})
        return embedding, self.head(self.dropout(embedding))
