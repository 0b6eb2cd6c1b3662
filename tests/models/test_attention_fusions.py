"""The fusions by attention against their equations in float64 numpy, one sample and one frame at a time."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from pkdray.models.attention import Attention, EncoderLayer
from pkdray.models.fusion import build_fusion

TWO, THREE, ONE = {"face": 5, "heart.rate": 3}, {"face": 5, "heart.rate": 3, "voice": 4}, {"face": 5}
SAMPLES, FRAMES, WIDTH = 3, 6, 8
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


class Weights:
    """A module's weights by name, as float64 arrays."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.values = {name: value.detach().double().numpy() for name, value in module.state_dict().items()}

    def linear(self, name: str, x: np.ndarray) -> np.ndarray:
        bias = self.values.get(f"{name}.bias")
        y = x @ self.values[f"{name}.weight"].T
        return y if bias is None else y + bias

    def norm(self, name: str, x: np.ndarray) -> np.ndarray:
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
        return scaled * self.values[f"{name}.weight"] + self.values[f"{name}.bias"]

    def attention(self, name: str, queries: np.ndarray, context: np.ndarray, heads: int = 4) -> np.ndarray:
        """Tokens of one sample: [T, D], [S, D] -> [T, D]."""
        q, k, v = (
            self.linear(f"{name}.{part}", x) for part, x in (("query", queries), ("key", context), ("value", context))
        )
        size = q.shape[1] // heads
        joined = np.zeros_like(q)
        for head in range(heads):
            cut = slice(head * size, (head + 1) * size)
            for token in range(len(q)):
                scores = np.array([q[token, cut] @ key[cut] for key in k]) / np.sqrt(size)
                chances = np.exp(scores) / np.exp(scores).sum()
                joined[token, cut] = sum(chance * value[cut] for chance, value in zip(chances, v, strict=True))
        return self.linear(f"{name}.output", joined)

    def layer(self, name: str, x: np.ndarray) -> np.ndarray:
        x = self.norm(f"{name}.first_norm", x + self.attention(f"{name}.attention", x, x))
        inner = np.maximum(self.linear(f"{name}.feed_forward.0", x), 0)
        return self.norm(f"{name}.second_norm", x + self.linear(f"{name}.feed_forward.2", inner))


def key(name: str) -> str:
    return "@" + name.replace(".", "/")


def jca(weights: Weights, streams: list[np.ndarray], names: list[str]) -> np.ndarray:
    joint = np.concatenate(streams, axis=1)
    attended = []
    for stream, name in zip(streams, names, strict=True):
        at = f"attentions.{key(name)}"
        w, u = (weights.values[f"{at}.{part}.weight"] for part in ("correlation", "stream"))
        v, p = (weights.values[f"{at}.{part}.weight"] for part in ("joint", "output"))
        c = np.tanh(stream.T @ w @ joint / np.sqrt(joint.shape[1]))
        h = np.maximum(u @ stream + v @ c.T, 0)
        attended.append(stream + p @ h)
    return np.maximum(weights.linear("layer", np.concatenate(attended, axis=1)), 0)


def transformer(weights: Weights, streams: list[np.ndarray], names: list[str]) -> np.ndarray:
    tokens = [
        weights.layer(f"encoders.{key(name)}", weights.linear(f"projections.{key(name)}", stream))
        for name, stream in zip(names, streams, strict=True)
    ]
    if len(tokens) == 1:
        return tokens[0]
    crossed = []
    for index, name in enumerate(names):
        others = np.concatenate([tokens[j] for j in range(len(names)) if j != index])
        crossed.append(weights.attention(f"crossings.{key(name)}", tokens[index], others))
    logits = weights.linear("gates", np.concatenate(crossed, axis=1)).reshape(len(crossed[0]), len(names), -1)
    gates = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return sum(gates[:, index] * stream for index, stream in enumerate(crossed))


def jmt(weights: Weights, streams: list[np.ndarray], names: list[str]) -> np.ndarray:
    tokens = [weights.layer("joint_encoder", weights.linear("joint_projection", np.concatenate(streams, axis=1)))]
    for name, stream in zip(names, streams, strict=True):
        tokens.append(weights.layer(f"encoders.{key(name)}", weights.linear(f"projections.{key(name)}", stream)))
    pairs = [(a, b) for a, b in itertools.product(range(len(tokens)), repeat=2) if a != b]
    crossed = [weights.attention(f"crossings.{index}", tokens[a], tokens[b]) for index, (a, b) in enumerate(pairs)]
    frames = range(len(crossed[0]))
    return np.stack([weights.layer("fusion", np.stack([stream[t] for stream in crossed])).mean(axis=0) for t in frames])


EQUATIONS = {"jca": jca, "transformer": transformer, "jmt": jmt}


@pytest.mark.parametrize("frames", [0, 1, FRAMES])
@pytest.mark.parametrize("widths", [ONE, TWO, THREE], ids=len)
@pytest.mark.parametrize("kind", EQUATIONS)
def test_it_is_what_the_equations_say(kind, widths, frames):
    torch.manual_seed(frames)
    fusion = build_fusion(kind, widths, WIDTH, frames=max(frames, 1))
    leading = (SAMPLES, frames) if frames else (SAMPLES,)
    features = {name: torch.randn(*leading, width) for name, width in widths.items()}
    found = fusion(features).detach().numpy()
    weights = Weights(fusion)
    for sample in range(SAMPLES):
        streams = [np.atleast_2d(features[name][sample].double().numpy()) for name in widths]
        expected = EQUATIONS[kind](weights, streams, list(widths))
        np.testing.assert_allclose(found[sample], expected if frames else expected[0], **CLOSE)


def test_two_streams_are_gated_by_a_sigmoid():
    fusion = build_fusion("transformer", TWO, WIDTH)
    weights = Weights(fusion).values
    crossed = np.random.default_rng(0).normal(size=(5, 2 * WIDTH))
    logits = crossed @ weights["gates.weight"].T + weights["gates.bias"]
    difference = crossed @ (weights["gates.weight"][:WIDTH] - weights["gates.weight"][WIDTH:]).T
    difference += weights["gates.bias"][:WIDTH] - weights["gates.bias"][WIDTH:]
    softmax = np.exp(logits[:, :WIDTH]) / (np.exp(logits[:, :WIDTH]) + np.exp(logits[:, WIDTH:]))
    np.testing.assert_allclose(softmax, 1 / (1 + np.exp(-difference)))


def test_two_modalities_make_six_tokens_and_three_make_twelve():
    assert len(build_fusion("jmt", TWO, WIDTH).crossings) == 6
    assert len(build_fusion("jmt", THREE, WIDTH).crossings) == 12


@pytest.mark.parametrize(("width", "heads"), [(8, 4), (6, 2), (7, 1), (64, 4)])
def test_heads_divide_any_width(width, heads):
    attention = Attention(width)
    assert attention.heads == heads
    assert attention(torch.randn(2, 3, width), torch.randn(2, 5, width)).shape == (2, 3, width)


def test_an_encoder_layer_is_torchs_own():
    ours, theirs = EncoderLayer(8), torch.nn.TransformerEncoderLayer(8, 4, 16, dropout=0.0, batch_first=True)
    state = {
        "self_attn.in_proj_weight": torch.cat(
            [getattr(ours.attention, part).weight for part in ("query", "key", "value")]
        ),
        "self_attn.in_proj_bias": torch.cat([getattr(ours.attention, part).bias for part in ("query", "key", "value")]),
        "self_attn.out_proj.weight": ours.attention.output.weight,
        "self_attn.out_proj.bias": ours.attention.output.bias,
    }
    for mine, other in (("feed_forward.0", "linear1"), ("feed_forward.2", "linear2")):
        state |= {f"{other}.{part}": ours.state_dict()[f"{mine}.{part}"] for part in ("weight", "bias")}
    for mine, other in (("first_norm", "norm1"), ("second_norm", "norm2")):
        state |= {f"{other}.{part}": ours.state_dict()[f"{mine}.{part}"] for part in ("weight", "bias")}
    theirs.load_state_dict(state)
    tokens = torch.randn(3, 5, 8)
    torch.testing.assert_close(ours(tokens), theirs(tokens), rtol=1e-5, atol=1e-5)


def test_the_frames_of_a_jca_are_those_of_its_weights():
    fusion = build_fusion("jca", TWO, WIDTH, frames=4)
    with pytest.raises(ValueError, match="for 4 frames was given 6"):
        fusion({name: torch.randn(2, 6, width) for name, width in TWO.items()})
