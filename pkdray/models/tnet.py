"""The T-Net, which hallucinates privileged features, and the adapters that recycle a frozen teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pkdray.models.backbones import Encoder, align_frames, mlp
from pkdray.models.encoder import Inputs
from pkdray.models.fusion import ConcatFusion
from pkdray.models.named import NamedModules


class TNet(nn.Module):
    """From prevalent features to the teacher's privileged ones: a bottleneck MLP, and encoders where it has its own.

    One that trains with the student gets the student's features, as in the paper. A frozen one has encoders of its own,
    so that it does not move while the student trains.
    Shapes: {modality: features [B, h] or [B, T, h]} -> [B, P] or [B, T, P], P the sum of the privileged encoders'
    widths; with encoders of its own it takes the modalities themselves.
    Source: PKDOT (2024), section on the transformation network (512-256-128-256-512).
    """

    def __init__(
        self,
        width: int,
        hidden: Sequence[int],
        outputs: int,
        dropout: float,
        *,
        encoders: Mapping[str, Encoder] | None = None,
    ) -> None:
        super().__init__()
        self.encoders = None if encoders is None else NamedModules(encoders)
        self.layers = mlp([width, *hidden], dropout)
        self.output = nn.Linear(hidden[-1], outputs)

    def forward(self, inputs: Inputs) -> Tensor:
        """Hallucinate the privileged features of a batch, from its modalities."""
        if self.encoders is None:
            raise ValueError("this T-Net has no encoders: give the student's features to `hallucinate`")
        return self.hallucinate({name: encoder(inputs[name]) for name, encoder in self.encoders.items()})

    def hallucinate(self, features: Mapping[str, Tensor]) -> Tensor:
        """The same from the modalities' features."""
        aligned = align_frames(dict(features))
        return self.output(self.layers(torch.cat(list(aligned.values()), dim=-1)))


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
