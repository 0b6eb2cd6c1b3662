"""Encoders: what shape goes in and comes out, and what the numbers are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pkdray.config import EncoderConfig
from pkdray.models.backbones import align_frames, build_encoder, mlp


def encoder(kind: str, shape: tuple[int, ...], *, per_frame: bool = False, dropout: float = 0.5):
    config = EncoderConfig(kind=kind, hidden=[13, 9], dropout=dropout)
    return build_encoder(config, shape, per_frame=per_frame)


@pytest.mark.parametrize(
    ("kind", "shape", "per_frame", "expected"),
    [
        ("mlp", (7,), False, (3, 9)),
        ("mlp", (7,), True, (3, 9)),
        ("mlp", (5, 7), False, (3, 9)),
        ("mlp", (5, 7), True, (3, 5, 9)),
        ("gru", (5, 7), False, (3, 9)),
        ("gru", (5, 7), True, (3, 5, 9)),
    ],
)
def test_the_features_are_a_vector_a_sample_or_a_frame(kind, shape, per_frame, expected):
    built = encoder(kind, shape, per_frame=per_frame)
    assert built(torch.randn(3, *shape)).shape == expected
    assert built.width == 9


def test_an_mlp_is_affine_and_relu_layer_by_layer():
    layers = mlp([4, 6, 3], dropout=0.9).eval()
    values = torch.randn(5, 4)
    expected = values.double().numpy()
    for linear in (layer for layer in layers if isinstance(layer, torch.nn.Linear)):
        expected = np.maximum(expected @ linear.weight.detach().double().numpy().T + linear.bias.detach().numpy(), 0)
    np.testing.assert_allclose(layers(values).detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_an_mlp_of_a_sequence_is_the_mean_of_its_frames():
    torch.manual_seed(1)
    whole, frames = encoder("mlp", (5, 7)).eval(), encoder("mlp", (7,)).eval()
    frames.load_state_dict(whole.state_dict())
    values = torch.randn(3, 5, 7)
    expected = torch.stack([frames(values[:, frame]) for frame in range(5)]).mean(dim=0)
    torch.testing.assert_close(whole(values), expected)


def test_an_mlp_ignores_the_order_of_frames_and_a_gru_does_not():
    values = torch.randn(3, 5, 7)
    backwards = values.flip(1)
    frames, recurrent = encoder("mlp", (5, 7)).eval(), encoder("gru", (5, 7)).eval()
    torch.testing.assert_close(frames(values), frames(backwards))
    assert not torch.allclose(recurrent(values), recurrent(backwards), atol=1e-4)


def test_a_gru_sees_the_past_alone_and_its_last_state_stands_for_the_sample():
    whole = encoder("gru", (5, 7)).eval()
    stepwise = encoder("gru", (5, 7), per_frame=True).eval()
    stepwise.load_state_dict(whole.state_dict())
    values = torch.randn(3, 5, 7)
    changed = values.clone()
    changed[:, 3:] += 1
    states = stepwise(values)
    torch.testing.assert_close(whole(values), states[:, 4])
    torch.testing.assert_close(stepwise(changed)[:, :3], states[:, :3])
    assert not torch.allclose(stepwise(changed)[:, 3], states[:, 3], atol=1e-4)


@pytest.mark.parametrize("kind", ["mlp", "gru"])
def test_dropout_is_active_in_training_alone(kind):
    built = encoder(kind, (5, 7))
    values = torch.randn(3, 5, 7)
    assert not torch.equal(built.train()(values), built(values))
    assert torch.equal(built.eval()(values), built(values))


def test_a_gru_refuses_vectors_and_says_what_to_do():
    with pytest.raises(ValueError, match=r"\[T, d\], not \[7\]\.\nChoose kind mlp\."):
        encoder("gru", (7,))


def test_align_frames_repeats_vectors_over_the_frames():
    vector, sequence = torch.randn(3, 4), torch.randn(3, 5, 2)
    aligned = align_frames({"heart": vector, "face": sequence})
    assert list(aligned) == ["heart", "face"]
    assert aligned["heart"].shape == (3, 5, 4)
    for frame in range(5):
        assert torch.equal(aligned["heart"][:, frame], vector)
    assert torch.equal(aligned["face"], sequence)


def test_align_frames_leaves_vectors_alone():
    features = {"heart": torch.randn(3, 4), "skin": torch.randn(3, 2)}
    aligned = align_frames(features)
    assert all(aligned[name] is features[name] for name in features)
