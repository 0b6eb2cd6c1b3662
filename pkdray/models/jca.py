"""Joint cross-attention: correlations between the features of each stream and those of all streams together."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pkdray.models.named import NamedModules

INNER = 32
"""k, the inner width of the attention; 32 in the authors' code."""


class JointAttention(nn.Module):
    """What one stream X [T, h] takes from the joint one J [T, d].

        C = tanh(X^T W J / sqrt(d))        H = ReLU(X^T U^T + C V^T)        X' = X + (H P^T)^T

    with W [T, T], U [k, T], V [k, d], P [T, k] without biases: C [h, d] correlates features over the T frames. So the
    weights belong to one number of frames. Shapes: X [B, T, h], J [B, T, d] -> [B, T, h].
    """

    def __init__(self, frames: int, joint: int) -> None:
        super().__init__()
        self.correlation = nn.Linear(frames, frames, bias=False)
        self.stream = nn.Linear(frames, INNER, bias=False)
        self.joint = nn.Linear(joint, INNER, bias=False)
        self.output = nn.Linear(INNER, frames, bias=False)

    def forward(self, stream: Tensor, joint: Tensor) -> Tensor:
        """Add the attention to each sample's stream."""
        turned = stream.transpose(1, 2)
        weighed = self.correlation(joint.transpose(1, 2)).transpose(1, 2)
        correlation = (turned @ weighed / math.sqrt(joint.shape[-1])).tanh()
        inner = torch.relu(self.stream(turned) + self.joint(correlation))
        return stream + self.output(inner).transpose(1, 2)


class JCAFusion(nn.Module):
    """Joint cross-attention (JCA), per sample: z = ReLU(W [X'_1 | ... | X'_M] + b), X'_m of `JointAttention`.

    J = [X_1 | ... | X_M], so the two streams of the paper may be any number. A stream without frames has T = 1.
    It keeps h_m * d correlations a sample (512 x 1024 for two streams of 512): mind the batch size.
    Shapes: M tensors [B, h_m] or [B, T, h_m] -> [B, D] or [B, T, D], T = ``frames``. A frame sees all frames of its
    sample, later ones too. Source: Praveen et al. (2022), A joint cross-attention model for audio-visual fusion in
    dimensional emotion recognition.
    """

    def __init__(self, widths: Mapping[str, int], embedding: int, frames: int) -> None:
        super().__init__()
        self.names = list(widths)
        self.frames = frames
        joint = sum(widths.values())
        self.attentions = NamedModules({name: JointAttention(frames, joint) for name in widths})
        self.layer = nn.Linear(joint, embedding)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Fuse the streams of each sample, in the order of ``widths``.

        Raises:
            ValueError: the streams have another number of frames than the weights.
        """
        streams = [features[name] for name in self.names]
        vectors = streams[0].ndim == 2
        if vectors:
            streams = [stream.unsqueeze(1) for stream in streams]
        if streams[0].shape[1] != self.frames:
            raise ValueError(f"a jca fusion for {self.frames} frames was given {streams[0].shape[1]}")
        joint = torch.cat(streams, dim=-1)
        attended = [self.attentions[name](stream, joint) for name, stream in zip(self.names, streams, strict=True)]
        embedding = torch.relu(self.layer(torch.cat(attended, dim=-1)))
        return embedding.squeeze(1) if vectors else embedding
