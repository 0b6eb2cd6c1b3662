"""Attention between the tokens of ONE sample: [B, T, D] is B samples of T tokens, and nothing crosses B."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional

HEADS = 4


class Attention(nn.Module):
    """Multi-head attention: softmax(Q K^T / sqrt(D / heads)) V, heads joined and projected.

    Q = W_q q, K = W_k c, V = W_v c; the number of heads is the greatest common divisor of D and 4. No positions are
    added: the order of frames is the encoders' matter.
    Shapes: queries [B, T, D], context [B, S, D] -> [B, T, D].
    Source: Vaswani et al. (2017), Section 3.2.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = math.gcd(width, HEADS)
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))

    def forward(self, queries: Tensor, context: Tensor) -> Tensor:
        """Let every query look at the context of its own sample."""
        query, key, value = (
            layer(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, tokens in ((self.query, queries), (self.key, context), (self.value, context))
        )
        attended = functional.scaled_dot_product_attention(query, key, value)
        return self.output(attended.transpose(1, 2).flatten(-2))


class EncoderLayer(nn.Module):
    """A transformer's encoder layer: y = LN(x + Attention(x, x)), LN(y + W_2 ReLU(W_1 y)) with an inner width of 2 D.

    Shapes: [B, T, D] -> [B, T, D]. Source: Vaswani et al. (2017), Section 3.1 (normalisation after the residual).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = Attention(width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))
        self.first_norm, self.second_norm = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Encode the tokens of each sample."""
        tokens = self.first_norm(tokens + self.attention(tokens, tokens))
        return self.second_norm(tokens + self.feed_forward(tokens))
