"""Every loss against the frozen float64 reference, and its derivative against finite differences.

Transport has its golden tests in test_transport.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import pkdray.losses as losses
from pkdray.losses import similarity_matrix

GOLDEN = {
    case["loss"]: case
    for case in json.loads(Path(__file__).with_name("golden.json").read_text(encoding="utf-8"))["losses"]
}

# The package's side of each case of make_golden.py, called with the same arguments.
LOSSES = {
    "ccc": losses.ccc,
    "ccc_loss": losses.ccc_loss,
    "ccc_loss per sequence": lambda pred, target, mask: losses.ccc_loss(pred, target, mask, dim=1),
    "cross_entropy_loss": losses.cross_entropy_loss,
    "mse_loss": losses.mse_loss,
    "ordinal_loss": losses.ordinal_loss,
    "cumulative_logits": losses.cumulative_logits,
    "ordinal_probabilities": losses.ordinal_probabilities,
    "ordinal_probabilities out of order": losses.ordinal_probabilities,
    "cosine_loss": losses.cosine_loss,
    "kl_loss": losses.kl_loss,
    "hint_loss": losses.hint_loss,
    "contrastive_loss": losses.contrastive_loss,
    "similarity_preserving_loss": losses.similarity_preserving_loss,
    "relational_distance_loss": losses.relational_distance_loss,
    "relational_angle_loss": losses.relational_angle_loss,
    "correlation_congruence_loss": losses.correlation_congruence_loss,
    "correlation_congruence_loss of order 5": losses.correlation_congruence_loss,
    "similarity_matrix": similarity_matrix,
    "anchored_rows": lambda t, s, k, anchors: torch.stack(
        losses.anchored_rows(similarity_matrix(t), similarity_matrix(s), k, anchors)
    ),
    "centroid_loss": lambda s, t: losses.centroid_loss(similarity_matrix(s), similarity_matrix(t)),
    "negative_transfer_gate": lambda gamma, theta: torch.stack(losses.negative_transfer_gate(gamma, theta)),
    "sequence_gamma": lambda pred, target: losses.sequence_gamma(losses.ccc(pred, target, dim=1)),
    "classification_gamma": lambda logits, target: losses.classification_gamma(
        torch.nn.functional.cross_entropy(logits, target, reduction="none")
    ),
    "select_teacher": losses.select_teacher,
    "uniform_weights": losses.uniform_weights,
    "confidence_weights": losses.confidence_weights,
    "mix": losses.mix,
    "uncertainty_weighting": losses.uncertainty_weighting,
    "effective_alpha": losses.effective_alpha,
}
LOSSES["anchored_rows most similar"] = LOSSES["anchored_rows"]
LOSSES["select_teacher per sample"] = losses.select_teacher

# The gate and the selections choose: constants to autograd.
CONSTANT = (
    "negative_transfer_gate",
    "select_teacher",
    "select_teacher per sample",
    "uniform_weights",
    "confidence_weights",
)


def tensors(arguments, dtype):
    for value in arguments:
        if isinstance(value, np.ndarray):
            tensor = torch.from_numpy(value.copy())
            yield tensor.to(dtype) if tensor.is_floating_point() else tensor
        else:
            yield value


def test_every_public_loss_has_a_golden_value(reference):
    assert set(GOLDEN) == set(LOSSES) == set(reference.CASES)
    elsewhere = {"sinkhorn_divergence", "pkdot_loss"}
    public = {name for name in losses.__all__ if name[0].islower()}
    assert {name.split()[0] for name in LOSSES} | elsewhere == public


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-6), (torch.float32, 1e-3)], ids=["float64", "float32"])
def test_golden_value(reference, name, dtype, error):
    _, *arguments = reference.CASES[name]
    value = LOSSES[name](*tensors(arguments, dtype))
    expected = torch.tensor(GOLDEN[name]["value"], dtype=torch.float64).reshape(GOLDEN[name]["shape"])
    assert value.dtype == dtype
    assert expected.numel()
    # An entry near zero is held to the size of the largest one.
    tolerance = {"rtol": error, "atol": error * expected.abs().max().item()}
    torch.testing.assert_close(value.double(), expected, **tolerance)


@pytest.mark.parametrize("name", sorted(set(LOSSES) - set(CONSTANT)))
def test_gradient(reference, name):
    arguments = list(tensors(reference.CASES[name][1:], torch.float64))
    if name != "mix":
        # Six rows are enough: finite differences cost a call per element.
        arguments = [value[:6].clone() if isinstance(value, torch.Tensor) else value for value in arguments]
    places = [i for i, value in enumerate(arguments) if isinstance(value, torch.Tensor) and value.is_floating_point()]

    def loss(*values):
        given = dict(enumerate(arguments)) | dict(zip(places, values, strict=True))
        return LOSSES[name](*given.values())

    assert torch.autograd.gradcheck(loss, [arguments[i].requires_grad_() for i in places])


@pytest.mark.parametrize("name", CONSTANT)
def test_a_choice_has_no_gradient(reference, name):
    first, *others = tensors(reference.CASES[name][1:], torch.float64)
    assert not LOSSES[name](first.requires_grad_(), *others).requires_grad
