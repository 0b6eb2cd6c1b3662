"""The two fusions by transformers. Their tokens are the frames of one sample; a stream without frames is one token."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pkdray.models.attention import Attention, EncoderLayer
from pkdray.models.named import NamedModules


class TransformerFusion(nn.Module):
    """The multimodal transformer: self-attention per modality, cross-attention between them, and a gate.

        x_m = EncoderLayer_m(W_m f_m)        c_m = Attention_m(x_m, [x_j for j != m])
        g = softmax over m of V [c_1 | ... | c_M]        z = sum_m g_m * c_m

    For two modalities this is PKDOT's g = sigmoid(W [c_v | c_p]), z = g c_v + (1 - g) c_p, since a softmax of two is a
    sigmoid of their difference. With more, a modality looks at the tokens of all the others at once; alone, z = x_1.
    Shapes: M tensors [B, h_m] or [B, T, h_m] -> [B, D] or [B, T, D]. A frame sees all frames of its sample, later ones
    too. Source: PKDOT (2024).
    """

    def __init__(self, widths: Mapping[str, int], embedding: int) -> None:
        super().__init__()
        self.names = list(widths)
        self.projections = NamedModules({name: nn.Linear(width, embedding) for name, width in widths.items()})
        self.encoders = NamedModules({name: EncoderLayer(embedding) for name in widths})
        # One modality has nothing to look at and nothing to choose from.
        several = self.names if len(self.names) > 1 else []
        self.crossings = NamedModules({name: Attention(embedding) for name in several})
        self.gates = nn.Linear(len(several) * embedding, len(several) * embedding) if several else None

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Fuse the streams of each sample."""
        tokens = {name: self.encoders[name](_tokens(self.projections[name](features[name]))) for name in self.names}
        if self.gates is None:
            fused = tokens[self.names[0]]
        else:
            crossed = [
                self.crossings[name](tokens[name], torch.cat([tokens[j] for j in self.names if j != name], dim=1))
                for name in self.names
            ]
            streams = torch.stack(crossed, dim=-2)
            gates = self.gates(torch.cat(crossed, dim=-1)).unflatten(-1, streams.shape[-2:]).softmax(dim=-2)
            fused = (gates * streams).sum(dim=-2)
        return _like(features[self.names[0]], fused)


class JMTFusion(nn.Module):
    """The joint multimodal transformer: the streams and their joint representation, crossed in all ordered pairs.

        x_0 = EncoderLayer_0(W_0 [f_1 | ... | f_M])        x_m = EncoderLayer_m(W_m f_m)
        t_ab = Attention_ab(x_a, x_b) for all a != b in 0 ... M        z = mean over ab of EncoderLayer({t_ab})

    Two modalities make the paper's six tokens a time step (v->p, p->v, pv->v, v->pv, pv->p, p->pv; the first asks),
    M make M (M + 1). The crossings run over the frames of a sample, the last layer over the tokens of one time step;
    the mean of its tokens, and not the authors' last one, is the embedding, so that no pair is favoured.
    Shapes: M tensors [B, h_m] or [B, T, h_m] -> [B, D] or [B, T, D]. A frame sees all frames of its sample, later ones
    too. Source: Waligora et al. (2024), Joint multimodal transformer for emotion recognition in the wild.
    """

    def __init__(self, widths: Mapping[str, int], embedding: int) -> None:
        super().__init__()
        self.names = list(widths)
        self.projections = NamedModules({name: nn.Linear(width, embedding) for name, width in widths.items()})
        self.encoders = NamedModules({name: EncoderLayer(embedding) for name in widths})
        self.joint_projection = nn.Linear(sum(widths.values()), embedding)
        self.joint_encoder = EncoderLayer(embedding)
        # By number, since two names can be joined in more than one way: 0 is the joint representation.
        self.pairs = list(itertools.permutations(range(len(self.names) + 1), 2))
        self.crossings = nn.ModuleList(Attention(embedding) for _ in self.pairs)
        self.fusion = EncoderLayer(embedding)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Fuse the streams of each sample."""
        joint = self.joint_projection(torch.cat([features[name] for name in self.names], dim=-1))
        tokens = [self.joint_encoder(_tokens(joint))]
        tokens += [self.encoders[name](_tokens(self.projections[name](features[name]))) for name in self.names]
        crossed = torch.stack(
            [crossing(tokens[a], tokens[b]) for crossing, (a, b) in zip(self.crossings, self.pairs, strict=True)], dim=2
        )
        samples, frames = crossed.shape[:2]
        fused = self.fusion(crossed.flatten(0, 1)).mean(dim=1).unflatten(0, (samples, frames))
        return _like(features[self.names[0]], fused)


def _tokens(stream: Tensor) -> Tensor:
    """[B, D] -> [B, 1, D]; [B, T, D] stays."""
    return stream.unsqueeze(1) if stream.ndim == 2 else stream


def _like(stream: Tensor, fused: Tensor) -> Tensor:
    return fused.squeeze(1) if stream.ndim == 2 else fused
