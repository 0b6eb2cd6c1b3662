"""A temporal convolutional network over features, causal like a GRU but with a finite memory."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from pkdray.models.encoder import Encoder

KERNEL = 3


class CausalBlock(nn.Module):
    """Two dilated causal convolutions and a residual: y = ReLU(F(x) + R x).

    F is (convolution, ReLU, dropout) twice; R is the identity, or a 1 x 1 convolution where the width changes. Frame t
    of the output sees the frames t - 2 (k - 1) 2^i ... t of the input, with kernel k and dilation 2^i.
    Shapes: [B, c, T] -> [B, h, T].
    """

    def __init__(self, inner: int, outer: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.first = nn.Conv1d(inner, outer, KERNEL, dilation=dilation)
        self.second = nn.Conv1d(outer, outer, KERNEL, dilation=dilation)
        self.residual = nn.Conv1d(inner, outer, 1) if inner != outer else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.padding = (KERNEL - 1) * dilation

    def forward(self, values: Tensor) -> Tensor:
        """Convolve a batch of sequences, channels first."""
        features = values
        for layer in (self.first, self.second):
            features = self.dropout(layer(functional.pad(features, (self.padding, 0))).relu())
        return (features + self.residual(values)).relu()


class TCNEncoder(Encoder):
    """Causal blocks with dilations 1, 2, 4 ...; the frames are averaged unless the targets are per frame.

    With L widths the last layer sees 1 + 4 (2^L - 1) frames: 5, 13, 29, 61 ... The mean, and not the last frame, stands
    for a sample, since that sees a part of a long one only.
    Shapes: [B, T, d] -> [B, h], or [B, T, h] with ``per_frame``.
    Source: Bai et al. (2018), An empirical evaluation of generic convolutional and recurrent networks, Section 3,
    without weight normalisation.
    """

    def __init__(self, inputs: int, hidden: Sequence[int], dropout: float, *, per_frame: bool) -> None:
        super().__init__()
        widths = itertools.pairwise([inputs, *hidden])
        self.layers = nn.Sequential(
            *(CausalBlock(inner, outer, 2**level, dropout) for level, (inner, outer) in enumerate(widths))
        )
        self.per_frame = per_frame
        self.width = hidden[-1]

    def forward(self, values: Tensor) -> Tensor:
        """Encode a batch of one modality."""
        features = self.layers(values.transpose(1, 2)).transpose(1, 2)
        return features if self.per_frame else features.mean(dim=1)
