"""Fusion: a conformance suite for every kind, and the formula of each by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pkdray.models.fusion import FUSIONS, build_fusion

WIDTHS = {"face": 3, "voice": 5, "heart": 2}


def streams(*leading: int) -> dict[str, torch.Tensor]:
    return {name: torch.randn(*leading, width) for name, width in WIDTHS.items()}


def numbers(linear: torch.nn.Linear) -> tuple[np.ndarray, np.ndarray]:
    return linear.weight.detach().double().numpy(), linear.bias.detach().double().numpy()


@pytest.mark.parametrize("kind", FUSIONS)
@pytest.mark.parametrize("leading", [(4,), (4, 6)])
def test_any_leading_shape_becomes_the_embedding(kind, leading):
    assert build_fusion(kind, WIDTHS, 7)(streams(*leading)).shape == (*leading, 7)


@pytest.mark.parametrize("kind", FUSIONS)
def test_streams_are_found_by_name_and_not_by_position(kind):
    fusion, features = build_fusion(kind, WIDTHS, 7), streams(4)
    turned = dict(reversed(features.items()))
    assert torch.equal(fusion(features), fusion(turned))


@pytest.mark.parametrize("kind", FUSIONS)
def test_every_stream_matters_and_a_frame_is_fused_alone(kind):
    fusion, features = build_fusion(kind, WIDTHS, 7), streams(4, 6)
    before = fusion(features)
    for name in WIDTHS:
        changed = {**features, name: features[name].clone()}
        changed[name][2, 3] += 2.0
        after = fusion(changed)
        assert not torch.allclose(after[2, 3], before[2, 3]), name
        after[2, 3] = before[2, 3]
        torch.testing.assert_close(after, before)


@pytest.mark.parametrize("kind", FUSIONS)
def test_one_stream_is_enough(kind):
    assert build_fusion(kind, {"face": 3}, 7)({"face": torch.randn(4, 3)}).shape == (4, 7)


def test_concat_is_relu_of_an_affine_map_of_all_streams():
    fusion, features = build_fusion("concat", WIDTHS, 7), streams(4)
    weight, bias = numbers(fusion.layer)
    joined = np.concatenate([features[name].double().numpy() for name in WIDTHS], axis=1)
    np.testing.assert_allclose(
        fusion(features).detach().numpy(), np.maximum(joined @ weight.T + bias, 0), rtol=1e-5, atol=1e-6
    )


def test_gated_is_a_softmax_over_modalities_for_each_unit():
    fusion, features = build_fusion("gated", WIDTHS, 7), streams(4)
    joined = np.concatenate([features[name].double().numpy() for name in WIDTHS], axis=1)
    weight, bias = numbers(fusion.gates)
    logits = (joined @ weight.T + bias).reshape(4, 3, 7)
    gates = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = np.zeros((4, 7))
    for index, name in enumerate(WIDTHS):
        weight, bias = numbers(fusion.projections[name])
        expected += gates[:, index] * np.maximum(features[name].double().numpy() @ weight.T + bias, 0)
    np.testing.assert_allclose(fusion(features).detach().numpy(), expected, rtol=1e-5, atol=1e-6)
