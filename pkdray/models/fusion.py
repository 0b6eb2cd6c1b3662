"""Fusion: from the features of several modalities to one embedding."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from pkdray.models.jca import JCAFusion
from pkdray.models.named import NamedModules
from pkdray.models.transformers import JMTFusion, TransformerFusion


class ConcatFusion(nn.Module):
    """Concatenation and an MLP layer: z = ReLU(W [f_1 | ... | f_M] + b).

    Shapes: M tensors [..., h_m] -> [..., D].
    """

    def __init__(self, widths: Mapping[str, int], embedding: int) -> None:
        super().__init__()
        self.names = list(widths)
        self.layer = nn.Linear(sum(widths.values()), embedding)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Fuse the streams in the order of ``widths``."""
        return torch.relu(self.layer(torch.cat([features[name] for name in self.names], dim=-1)))


class GatedFusion(nn.Module):
    """Gated multimodal units: z = sum_m g_m * ReLU(W_m f_m), g = softmax over m of V_m [f_1 | ... | f_M].

    Shapes: M tensors [..., h_m] -> [..., D]; each of the D units has gates of its own (Arevalo et al., 2017, with a
    softmax in place of the pairwise sigmoid so that any number of modalities fits).
    """

    def __init__(self, widths: Mapping[str, int], embedding: int) -> None:
        super().__init__()
        self.names = list(widths)
        self.projections = NamedModules({name: nn.Linear(width, embedding) for name, width in widths.items()})
        self.gates = nn.Linear(sum(widths.values()), embedding * len(self.names))

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Fuse the streams in the order of ``widths``."""
        streams = torch.stack([torch.relu(self.projections[name](features[name])) for name in self.names], dim=-2)
        gates = self.gates(torch.cat([features[name] for name in self.names], dim=-1))
        return (gates.unflatten(-1, streams.shape[-2:]).softmax(dim=-2) * streams).sum(dim=-2)


def _concat(widths: Mapping[str, int], embedding: int, _frames: int) -> nn.Module:
    return ConcatFusion(widths, embedding)


def _gated(widths: Mapping[str, int], embedding: int, _frames: int) -> nn.Module:
    return GatedFusion(widths, embedding)


def _transformer(widths: Mapping[str, int], embedding: int, _frames: int) -> nn.Module:
    return TransformerFusion(widths, embedding)


def _jmt(widths: Mapping[str, int], embedding: int, _frames: int) -> nn.Module:
    return JMTFusion(widths, embedding)


FUSIONS: dict[str, Callable[[Mapping[str, int], int, int], nn.Module]] = {
    "concat": _concat,
    "gated": _gated,
    "jca": JCAFusion,
    "transformer": _transformer,
    "jmt": _jmt,
}
"""What builds a fusion of each kind that a config may name: (widths by stream, embedding, frames) -> fusion."""


def build_fusion(kind: str, widths: Mapping[str, int], embedding: int, *, frames: int = 1) -> nn.Module:
    """The fusion called ``kind`` for streams of the given widths.

    Args:
        kind: one of ``FUSIONS``.
        widths: h_m by stream.
        embedding: D.
        frames: T of the streams where the targets are per frame; 1 for vectors.
    """
    return FUSIONS[kind](widths, embedding, frames)
