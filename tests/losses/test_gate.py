from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pkdray.losses import ccc, classification_gamma, cross_entropy_loss, negative_transfer_gate, sequence_gamma


def gate_by_hand(gamma, theta):
    return (gamma, 1) if gamma <= theta else (1, 0)


@given(st.lists(st.floats(0, 2), min_size=1, max_size=13), st.floats(0, 2))
def test_gate(gammas, theta):
    gamma = torch.tensor(gammas, dtype=torch.float64)
    expected = torch.tensor([gate_by_hand(g, theta) for g in gammas], dtype=torch.float64)
    for threshold in (theta, torch.tensor(theta, dtype=torch.float64), torch.full_like(gamma, theta)):
        beta, keep = negative_transfer_gate(gamma, threshold)
        assert torch.equal(beta, expected[:, 0])
        assert torch.equal(keep, expected[:, 1])


def test_gate_at_its_threshold_is_open_and_at_its_ends():
    beta, keep = negative_transfer_gate(torch.tensor([0.5]), 0.5)
    assert (beta.item(), keep.item()) == (0.5, 1)
    gamma = torch.tensor([0.0, 0.7, 2.0])
    assert negative_transfer_gate(gamma, 2)[1].tolist() == [1, 1, 1]
    assert negative_transfer_gate(gamma, 0)[1].tolist() == [1, 0, 0]


def test_an_unscored_teacher_does_not_teach():
    beta, keep = negative_transfer_gate(torch.tensor([math.nan]), 2.0)
    assert (beta.item(), keep.item()) == (1, 0)


def test_no_gradient_reaches_gamma():
    gamma = torch.tensor([0.3], requires_grad=True)
    assert not any(part.requires_grad for part in negative_transfer_gate(gamma, 0.5))


def test_a_threshold_per_target():
    beta, keep = negative_transfer_gate(torch.full((7, 2), 0.5), torch.tensor([0.4, 0.6]))
    assert keep[3].tolist() == [0, 1]
    assert beta[3].tolist() == [1, 0.5]


def test_sequence_gamma(randn):
    pred, target = randn(7, 13), randn(7, 13)
    torch.testing.assert_close(sequence_gamma(ccc(pred, target, dim=1)), 1 - ccc(pred, target, dim=1))
    assert sequence_gamma(torch.tensor([1.0000001, -1.0000001, 0.25])).tolist() == [0, 2, 0.75]
    assert sequence_gamma(torch.tensor([0.5], dtype=torch.float16)).dtype == torch.float32


def test_classification_gamma_is_what_the_true_class_lacks(randn):
    logits, target = randn(7, 5), torch.tensor([0, 1, 2, 3, 4, 0, 1])
    losses = torch.stack([cross_entropy_loss(logits[i : i + 1], target[i : i + 1]) for i in range(7)])
    lacking = 1 - logits.softmax(-1)[torch.arange(7), target]
    torch.testing.assert_close(classification_gamma(losses), lacking)
    assert classification_gamma(torch.tensor([0.0, -1e-7, math.inf])).tolist() == [0, 0, 1]
    assert classification_gamma(torch.tensor([1e-9])).item() == pytest.approx(1e-9)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: negative_transfer_gate(torch.ones(3), 3.0), r"theta is 3.0, outside \[0, 2\]"),
        (lambda: negative_transfer_gate(torch.ones(3), math.nan), "theta is nan"),
        (lambda: negative_transfer_gate(torch.ones(3), torch.ones(2)), r"\[2\].*\[3\]"),
        (lambda: negative_transfer_gate(torch.ones(3), torch.ones(2, 3)), r"\[2, 3\].*\[3\]"),
    ],
)
def test_errors_name_the_value_and_the_cure(call, said):
    with pytest.raises(ValueError, match=said):
        call()
