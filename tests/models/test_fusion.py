"""Fusion: a conformance suite for every kind, and the formula of each by hand."""

from __future__ import annotations

import warnings
from typing import get_args

import numpy as np
import pytest
import torch

from pkdray.config.sections import Fusion
from pkdray.models.fusion import FUSIONS, build_fusion

WIDTHS = {"face": 3, "voice": 5, "heart": 2}


def streams(*leading: int) -> dict[str, torch.Tensor]:
    return {name: torch.randn(*leading, width) for name, width in WIDTHS.items()}


def fusion_of(kind: str, *leading: int) -> torch.nn.Module:
    return build_fusion(kind, WIDTHS, 7, frames=leading[1] if len(leading) > 1 else 1)


def lively(kind: str, *leading: int) -> torch.nn.Module:
    """A fusion whose last ReLU, if it has one, passes every unit: two of dead units are alike for any streams."""
    fusion = fusion_of(kind, *leading)
    if isinstance(last := getattr(fusion, "layer", None), torch.nn.Linear):
        torch.nn.init.constant_(last.bias, 10.0)
    return fusion


def numbers(linear: torch.nn.Linear) -> tuple[np.ndarray, np.ndarray]:
    return linear.weight.detach().double().numpy(), linear.bias.detach().double().numpy()


@pytest.mark.parametrize("kind", FUSIONS)
@pytest.mark.parametrize("leading", [(4,), (4, 6), (1, 1)])
def test_samples_and_frames_become_embeddings(kind, leading):
    assert fusion_of(kind, *leading)(streams(*leading)).shape == (*leading, 7)


@pytest.mark.parametrize("kind", FUSIONS)
def test_streams_are_found_by_name_and_not_by_position(kind):
    fusion, features = build_fusion(kind, WIDTHS, 7), streams(4)
    turned = dict(reversed(features.items()))
    assert torch.equal(fusion(features), fusion(turned))


@pytest.mark.parametrize("kind", FUSIONS)
@pytest.mark.parametrize("leading", [(4,), (4, 6)])
def test_every_stream_matters_and_a_sample_is_fused_alone(kind, leading):
    fusion, features = lively(kind, *leading), streams(*leading)
    before = fusion(features)
    for name in WIDTHS:
        changed = {**features, name: features[name].clone()}
        changed[name][2] += 2.0 + torch.rand_like(changed[name][2])
        after = fusion(changed)
        assert not torch.allclose(after[2], before[2]), name
        others = [0, 1, 3]
        torch.testing.assert_close(after[others], before[others])
    alone = fusion({name: stream[2:3] for name, stream in features.items()})
    torch.testing.assert_close(alone[0], before[2])


@pytest.mark.parametrize("kind", ["concat", "gated"])
def test_these_fuse_a_frame_alone(kind):
    fusion, features = fusion_of(kind, 4, 6), streams(4, 6)
    changed = {**features, "face": features["face"].clone()}
    changed["face"][2, 3] += 2.0
    before, after = fusion(features), fusion(changed)
    after[2, 3] = before[2, 3]
    torch.testing.assert_close(after, before)


@pytest.mark.parametrize("kind", ["jca", "transformer", "jmt"])
def test_these_let_the_frames_of_a_sample_see_one_another(kind):
    fusion, features = lively(kind, 4, 6), streams(4, 6)
    changed = {**features, "face": features["face"].clone()}
    changed["face"][2, 3] += 2.0
    assert not torch.allclose(fusion(changed)[2, 1], fusion(features)[2, 1], atol=1e-6)


@pytest.mark.parametrize("kind", FUSIONS)
@pytest.mark.parametrize("leading", [(4,), (4, 6)])
def test_gradients_reach_every_parameter_that_can_matter(kind, leading):
    fusion = fusion_of(kind, *leading)
    (fusion(streams(*leading)) * torch.randn(*leading, 7)).sum().backward()
    without = {name for name, value in fusion.named_parameters() if value.grad is None or not value.grad.any()}
    # A softmax over one token is 1 whatever was asked, and adding to all keys alike (their bias) changes no softmax.
    asked = ("key.", "query.") if len(leading) == 1 else ("key.bias",)
    assert {name for name in without if not any(part in name for part in asked)} == set()


@pytest.mark.parametrize("kind", FUSIONS)
def test_a_state_dict_says_everything(kind):
    fusion, again, features = fusion_of(kind, 4, 6), fusion_of(kind, 4, 6), streams(4, 6)
    assert not torch.equal(again(features), fusion(features))
    again.load_state_dict(fusion.state_dict())
    assert torch.equal(again(features), fusion(features))


@pytest.mark.parametrize("kind", FUSIONS)
def test_many_fusions_run_as_one(kind):
    # torch.func.vmap over stacked weights: the way to train many students at once.
    several, features = [fusion_of(kind, 4, 6) for _ in range(3)], streams(4, 6)
    target = torch.randn(4, 6, 7)
    weights, _ = torch.func.stack_module_state(several)

    def loss(one):
        return (torch.func.functional_call(several[0], one, (features,)) - target).square().mean()

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop")
        gradients = torch.func.vmap(torch.func.grad(loss))(weights)
    for index, fusion in enumerate(several):
        (fusion(features) - target).square().mean().backward()
        for name, value in fusion.named_parameters():
            torch.testing.assert_close(gradients[name][index], value.grad, rtol=1e-4, atol=1e-6)


def test_a_config_may_name_every_fusion_and_no_other():
    assert set(get_args(Fusion)) == set(FUSIONS)


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
