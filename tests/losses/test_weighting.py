from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pkdray.losses import effective_alpha, uncertainty_weighting

sizes = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=7)


def test_uncertainty_weighting(randn):
    losses, s = randn(13, 5).abs(), randn(5)
    expected = (np.exp(-s.numpy()) * losses.numpy() + s.numpy()).sum(1)
    np.testing.assert_allclose(uncertainty_weighting(losses, s), expected, rtol=1e-12)
    np.testing.assert_allclose(uncertainty_weighting(losses, s.expand(13, 5)), expected, rtol=1e-12)
    assert uncertainty_weighting(losses[0], s).shape == ()


def test_it_is_the_likelihood_of_gaussian_errors(randn):
    # Twice the negative log-likelihood of errors with variances exp(s), but for its constant.
    errors, s = randn(5), randn(5)
    likelihood = torch.distributions.Normal(0.0, (s / 2).exp()).log_prob(errors).sum()
    torch.testing.assert_close(
        uncertainty_weighting(errors.square(), s), -2 * likelihood - 5 * math.log(2 * math.pi), rtol=1e-6, atol=1e-6
    )


@settings(deadline=None, max_examples=50)
@given(sizes, st.floats(-3, 3))
def test_at_the_best_log_variances_every_loss_counts_in_its_own_units(sizes, step):
    losses = torch.tensor(sizes, dtype=torch.float64)
    best = losses.log().requires_grad_()
    value = uncertainty_weighting(losses, best)
    torch.testing.assert_close(value, len(sizes) + losses.log().sum())
    assert torch.autograd.grad(value, best)[0].abs().max() < 1e-10
    assert uncertainty_weighting(losses, best + step) >= value - 1e-10
    weight = torch.func.grad(uncertainty_weighting)(losses, best)
    torch.testing.assert_close(weight, 1 / losses)


def test_descent_finds_the_sizes_of_the_losses_where_a_plain_alpha_takes_the_smaller():
    losses = torch.tensor([0.2, 5.0])
    s, a = torch.zeros(2, requires_grad=True), torch.zeros((), requires_grad=True)
    optimiser = torch.optim.Adam([s, a], lr=0.1)
    for _ in range(500):
        optimiser.zero_grad()
        alpha = a.sigmoid()
        (uncertainty_weighting(losses, s) + alpha * losses[0] + (1 - alpha) * losses[1]).backward()
        optimiser.step()
    torch.testing.assert_close(s.detach().exp(), losses, rtol=1e-3, atol=0)
    assert a.sigmoid() > 0.99
    torch.testing.assert_close(effective_alpha(s.detach()), torch.tensor([5.0, 0.2]) / 5.2, rtol=1e-3, atol=0)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=7), st.floats(-5, 5))
def test_laws_of_the_shares(values, shift):
    s = torch.tensor(values, dtype=torch.float64)
    shares = effective_alpha(s)
    assert (shares >= 0).all()
    torch.testing.assert_close(shares.sum(), torch.ones((), dtype=torch.float64))
    torch.testing.assert_close(effective_alpha(s + shift), shares)


def test_no_loss_at_all_leaves_the_price(randn):
    losses, s = torch.zeros(3, requires_grad=True), torch.tensor([0.0, 1.0, 2.0], requires_grad=True)
    value = uncertainty_weighting(losses, s)
    assert value.item() == 3
    assert torch.autograd.grad(value, s)[0].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: uncertainty_weighting(torch.ones(()), torch.ones(())), r"losses has shape \[\].*L_KD"),
        (lambda: uncertainty_weighting(torch.ones(0), torch.ones(0)), r"losses has shape \[0\]"),
        (lambda: uncertainty_weighting(torch.ones(3), torch.ones(2)), r"\[2\].*\[3\].*per loss"),
        (lambda: uncertainty_weighting(torch.ones(2, 3), torch.ones(2, 1)), r"\[2, 1\].*\[2, 3\]"),
        (lambda: effective_alpha(torch.ones(())), r"log_variances has shape \[\]"),
    ],
)
def test_errors_name_the_value_and_the_cure(call, said):
    with pytest.raises(ValueError, match=said):
        call()
