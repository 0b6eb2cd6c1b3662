from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import binary_cross_entropy_with_logits
from torchmetrics.functional.regression import concordance_corrcoef
from torchmetrics.regression import ConcordanceCorrCoef

from pkdray.losses import (
    ccc,
    ccc_loss,
    cross_entropy_loss,
    cumulative_logits,
    mse_loss,
    ordinal_loss,
    ordinal_probabilities,
)


def ccc_by_hand(x, y):
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    covariance = ((x - x.mean()) * (y - y.mean())).mean()
    return 2 * covariance / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)


def test_one_coefficient_per_target(randn):
    pred, target = randn(7, 13, 3), randn(7, 13, 3)
    expected = [ccc_by_hand(pred[..., j].ravel(), target[..., j].ravel()) for j in range(3)]
    np.testing.assert_allclose(ccc(pred, target), expected, rtol=1e-12)
    np.testing.assert_allclose(ccc(pred.reshape(-1, 3), target.reshape(-1, 3)), expected, rtol=1e-12)
    np.testing.assert_allclose(ccc_loss(pred, target), 1 - np.mean(expected), rtol=1e-12)


def test_a_vector_gives_a_scalar(randn):
    pred, target = randn(29), randn(29)
    assert ccc(pred, target).shape == ()
    np.testing.assert_allclose(ccc(pred, target), ccc_by_hand(pred, target), rtol=1e-12)


def test_frames_of_one_target(randn):
    pred, target = randn(7, 13), randn(7, 13)
    np.testing.assert_allclose(ccc(pred, target, dim=(0, 1)), ccc_by_hand(pred, target), rtol=1e-12)
    np.testing.assert_allclose(
        ccc(pred, target, dim=1), [ccc_by_hand(pred[i], target[i]) for i in range(7)], rtol=1e-12
    )
    torch.testing.assert_close(ccc(pred, target, dim=-1), ccc(pred, target, dim=1))
    assert ccc(pred[..., None], target[..., None], dim=1).shape == (7, 1)


@pytest.mark.parametrize("per_row", [True, False])
def test_mask_leaves_elements_out(randn, per_row):
    pred, target = randn(7, 13, 3), randn(7, 13, 3)
    mask = randn(7, 13) > 0 if per_row else randn(7, 13, 3) > 0
    full = mask[..., None].expand(7, 13, 3) if per_row else mask
    pred = torch.where(full, pred, torch.nan).requires_grad_()
    expected = [ccc_by_hand(pred.detach()[..., j][full[..., j]], target[..., j][full[..., j]]) for j in range(3)]
    np.testing.assert_allclose(ccc(pred, target, mask).detach(), expected, rtol=1e-12)
    (gradient,) = torch.autograd.grad(ccc_loss(pred, target, mask), pred)
    assert gradient.isfinite().all()
    assert (gradient[~full] == 0).all()


def test_torchmetrics_agrees(randn):
    # Theirs divides variances by N - 1; with equal means the divisor cancels, and in a long sequence it is 1.
    pred, target = randn(29, 3), randn(29, 3)
    pred, target = pred - pred.mean(0), target - target.mean(0)
    torch.testing.assert_close(ccc(pred, target), concordance_corrcoef(pred, target), rtol=1e-9, atol=0)
    pred, target = pred.repeat(1000, 1) + 0.3, target.repeat(1000, 1)
    torch.testing.assert_close(ccc(pred, target), concordance_corrcoef(pred, target), rtol=1e-4, atol=1e-6)


def test_torchmetrics_agrees_exactly_on_means_that_are_as_much_farther_apart_as_its_variances_are_larger(randn):
    # Theirs has n / (n - 1) times our covariances; a distance of the means larger by the root of that cancels it.
    pred, target, shift, n = randn(29, 3), randn(29, 3), randn(3), 29
    pred, target = pred - pred.mean(0), target - target.mean(0)
    peer = ConcordanceCorrCoef(num_outputs=3).double()
    peer.update(pred + (n / (n - 1)) ** 0.5 * shift, target)
    torch.testing.assert_close(ccc(pred + shift, target), peer.compute(), rtol=1e-6, atol=1e-7)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.floats(-100, 100), st.floats(-100, 100)), min_size=2, max_size=13),
    st.floats(-5, 5),
    st.floats(0.1, 5),
)
def test_laws_of_the_coefficient(pairs, shift, scale):
    pred, target = torch.tensor(pairs, dtype=torch.float64).T
    value = ccc(pred, target)
    assert value.isfinite()
    assert abs(value) <= 1 + 1e-12
    torch.testing.assert_close(value, ccc(target, pred))
    if torch.std(pred) + torch.std(target) > 1e-3:
        torch.testing.assert_close(value, ccc(scale * pred + shift, scale * target + shift), rtol=1e-6, atol=1e-8)


def test_gradient(randn):
    pred, target = randn(7, 5, 2).requires_grad_(), randn(7, 5, 2)
    mask = randn(7, 5, 2) > -1
    assert torch.autograd.gradcheck(lambda p: ccc_loss(p, target, mask), pred)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 0.1, -3.7])
def test_constants_count_as_zero_with_finite_gradients(dtype, value):
    constant = torch.full((13,), value, dtype=dtype)
    for pred, target in (
        (constant.clone(), constant),
        (constant.clone(), torch.linspace(-1, 1, 13).to(dtype)),
        (torch.linspace(-1, 1, 13).to(dtype), constant),
        (constant + 1, constant),
    ):
        pred = pred.clone().requires_grad_()
        result = ccc(pred, target)
        assert abs(result.item()) < 1e-6
        (gradient,) = torch.autograd.grad(result, pred)
        assert gradient.isfinite().all()


def test_far_from_zero_keeps_its_digits():
    target = torch.linspace(-1, 1, 29)
    torch.testing.assert_close(ccc(target + 1000, target.flip(0) + 1000), torch.tensor(-1.0), rtol=1e-3, atol=0)


def test_fully_masked_is_zero_and_left_out_of_the_loss(randn):
    pred, target = randn(13, 2).requires_grad_(), randn(13, 2)
    nobody = torch.zeros(13, 2, dtype=torch.bool)
    assert ccc(pred, target, nobody).tolist() == [0, 0]
    loss = ccc_loss(pred, target, nobody)
    assert loss.item() == 0
    assert torch.autograd.grad(loss, pred)[0].abs().sum() == 0
    first_only = nobody.clone()
    first_only[:, 0] = True
    torch.testing.assert_close(ccc_loss(pred, target, first_only), ccc_loss(pred[:, 0], target[:, 0]))


def test_one_element_is_finite():
    pred = torch.tensor([0.3], requires_grad=True)
    loss = ccc_loss(pred, torch.tensor([0.5]))
    assert loss.item() == 1
    assert torch.autograd.grad(loss, pred)[0].isfinite().all()


def test_cross_entropy(randn):
    logits, target, weight = randn(13, 7), torch.arange(13) % 7, randn(13).abs()
    shifted = logits.numpy() - logits.numpy().max(1, keepdims=True)
    rows = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(13), target]
    np.testing.assert_allclose(cross_entropy_loss(logits, target), rows.mean(), rtol=1e-12)
    np.testing.assert_allclose(cross_entropy_loss(logits, target, weight), (rows * weight.numpy()).mean(), rtol=1e-12)
    torch.testing.assert_close(cross_entropy_loss(logits, target), torch.nn.functional.cross_entropy(logits, target))
    frames = cross_entropy_loss(logits.expand(3, 13, 7), target.expand(3, 13))
    torch.testing.assert_close(frames, cross_entropy_loss(logits, target))


def test_cross_entropy_of_extreme_logits_is_finite():
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4]], requires_grad=True)
    loss = cross_entropy_loss(logits, torch.tensor([1, 1]))
    assert loss.item() == pytest.approx(1e4)
    assert torch.autograd.grad(loss, logits)[0].isfinite().all()


def test_ordinal_is_a_binary_cross_entropy_per_threshold(randn):
    logits, target, weight = randn(13, 4), torch.arange(13) % 5, randn(13).abs()
    above = torch.stack([target > k for k in range(4)], 1).double()
    rows = binary_cross_entropy_with_logits(logits, above, reduction="none").sum(1)
    torch.testing.assert_close(ordinal_loss(logits, target), rows.mean())
    torch.testing.assert_close(ordinal_loss(logits, target, weight), (rows * weight).mean())
    frames = ordinal_loss(logits.expand(3, 13, 4), target.expand(3, 13), weight.expand(3, 13))
    torch.testing.assert_close(frames, ordinal_loss(logits, target, weight))


def test_ordinal_of_two_classes_is_the_cross_entropy(randn):
    logits, target = randn(13, 2), torch.arange(13) % 2
    torch.testing.assert_close(ordinal_loss(cumulative_logits(logits), target), cross_entropy_loss(logits, target))


def test_ordinal_costs_more_the_farther_off():
    sure_of_level_4 = cumulative_logits(torch.tensor([[0.0, 0.0, 0.0, 0.0, 5.0]]))
    costs = [ordinal_loss(sure_of_level_4, torch.tensor([level])).item() for level in (4, 3, 2, 1, 0)]
    assert costs == sorted(costs)
    assert costs[4] > 3 * costs[1]
    flat = [cross_entropy_loss(torch.tensor([[0.0, 0.0, 0.0, 0.0, 5.0]]), torch.tensor([k])).item() for k in (3, 0)]
    assert flat[0] == pytest.approx(flat[1])


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-30, 30), min_size=2, max_size=7), st.floats(-100, 100))
def test_laws_of_cumulative_logits(values, shift):
    logits = torch.tensor(values, dtype=torch.float64)
    cumulative = cumulative_logits(logits)
    assert (cumulative.diff() <= 1e-12).all()
    torch.testing.assert_close(cumulative_logits(logits + shift), cumulative, rtol=1e-9, atol=1e-9)
    # The scale read from the other end.
    torch.testing.assert_close(cumulative_logits(logits.flip(0)).flip(0), -cumulative)
    torch.testing.assert_close(ordinal_probabilities(cumulative), logits.softmax(0), rtol=1e-6, atol=1e-12)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=6))
def test_laws_of_ordinal_probabilities(values):
    logits = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    probabilities = ordinal_probabilities(logits)
    assert (probabilities >= 0).all()
    torch.testing.assert_close(probabilities.sum(), torch.ones((), dtype=torch.float64))
    assert torch.autograd.grad(probabilities[0], logits)[0].isfinite().all()
    ordered = logits.detach().sort(descending=True).values
    above = torch.cat([torch.ones(1), ordered.sigmoid(), torch.zeros(1)]).double()
    torch.testing.assert_close(ordinal_probabilities(ordered), -above.diff())


def test_ordinal_probabilities_keep_their_digits_where_both_sigmoids_are_one():
    # 1 - e^-30 and 1 - e^-31 are both 1 in float32; the class between them has e^-30 - e^-31 all the same.
    probabilities = ordinal_probabilities(torch.tensor([31.0, 30.0]))
    assert probabilities[1].item() == pytest.approx(np.exp(-30) - np.exp(-31), rel=1e-5, abs=0)


def test_logits_that_contradict_themselves_get_a_probability_of_zero():
    probabilities = ordinal_probabilities(torch.tensor([-1.0, 2.0]))
    left, right = 1 / (1 + np.exp(-1)), 1 / (1 + np.exp(-2))
    np.testing.assert_allclose(probabilities, np.array([left, 0, right]) / (left + right), rtol=1e-6)


def test_ordinal_of_extreme_logits_is_finite():
    logits = torch.tensor([[1e4, -1e4, 3.0], [-1e4, 1e4, 0.0]], requires_grad=True)
    target = torch.tensor([0, 2])
    loss = ordinal_loss(cumulative_logits(logits), target)
    # Row 0 is sure of level 0 and right; row 1 is sure of level 1 where it is 2, and only the second question is wrong.
    assert loss.item() == pytest.approx(5e3)
    assert torch.autograd.grad(loss, logits)[0].isfinite().all()
    assert ordinal_loss(logits, target).item() == pytest.approx((1e4 + 3 + 1e4) / 2, rel=1e-3)


def test_mse(randn):
    pred, target, weight = randn(7, 13), randn(7, 13), randn(7).abs()
    mask = randn(7, 13) > 0
    squares = ((pred - target) ** 2).numpy()
    np.testing.assert_allclose(mse_loss(pred, target), squares.mean(), rtol=1e-12)
    np.testing.assert_allclose(
        mse_loss(pred, target, weight=weight), (squares * weight.numpy()[:, None]).mean(), rtol=1e-12
    )
    holes = torch.where(mask, pred, torch.nan).requires_grad_()
    loss = mse_loss(holes, target, mask)
    np.testing.assert_allclose(loss.detach(), squares[mask.numpy()].mean(), rtol=1e-12)
    assert torch.autograd.grad(loss, holes)[0].isfinite().all()
    np.testing.assert_allclose(
        mse_loss(pred, target, mask, weight), (squares * weight.numpy()[:, None])[mask.numpy()].mean(), rtol=1e-12
    )
    assert mse_loss(pred, target, torch.zeros(7, dtype=torch.bool)).item() == 0


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: ccc(torch.ones(3), torch.ones(4)), r"\[3\].*\[4\]"),
        (lambda: ccc(torch.ones(()), torch.ones(())), "dimension"),
        (lambda: ccc(torch.ones(3), torch.ones(3), torch.ones(3)), "boolean"),
        (lambda: ccc(torch.ones(3, 2), torch.ones(3, 2), torch.ones(2, dtype=torch.bool)), r"\[2\].*\[3, 2\]"),
        (lambda: ccc(torch.ones(3), torch.ones(3), dim=1), "dim is 1"),
        (lambda: ccc(torch.ones(3, 2), torch.ones(3, 2), dim=(0, -2)), "once"),
        (lambda: cross_entropy_loss(torch.ones(3), torch.ones(3).long()), r"\[B, C\]"),
        (lambda: cross_entropy_loss(torch.ones(3, 2), torch.ones(2).long()), r"target has shape \[2\]"),
        (lambda: cross_entropy_loss(torch.ones(3, 2), torch.ones(3)), "class indices"),
        (lambda: cross_entropy_loss(torch.ones(3, 2), torch.ones(3).long(), torch.ones(2)), "weight has shape"),
        (lambda: cross_entropy_loss(torch.ones(0, 2), torch.ones(0).long()), "no rows"),
        (lambda: ordinal_loss(torch.ones(3, 0), torch.ones(3).long()), r"\[3, 0\].*class dimension"),
        (lambda: ordinal_loss(torch.ones(3, 2), torch.ones(3)), "class indices"),
        (lambda: ordinal_loss(torch.ones(3, 2), torch.ones(2).long()), r"target has shape \[2\]"),
        (lambda: ordinal_loss(torch.ones(3, 2), torch.ones(3).long(), torch.ones(1)), "weight has shape"),
        (lambda: ordinal_loss(torch.ones(0, 2), torch.ones(0).long()), "no rows"),
        (lambda: cumulative_logits(torch.ones(3, 1)), r"\[3, 1\].*at least 2"),
        (lambda: cumulative_logits(torch.ones(())), r"\[\].*at least 2"),
        (lambda: ordinal_probabilities(torch.ones(3, 0)), r"\[3, 0\].*C - 1"),
        (lambda: mse_loss(torch.ones(3), torch.ones(3, 1)), r"\[3\].*\[3, 1\]"),
        (lambda: mse_loss(torch.ones(3, 2), torch.ones(3, 2), weight=torch.ones(2)), "weight has shape"),
        (lambda: mse_loss(torch.ones(3), torch.ones(3), weight=torch.ones(3, 1)), "weight has shape"),
        (lambda: mse_loss(torch.ones(3), torch.ones(3), weight=torch.tensor(1.0)), "weight has shape"),
        (lambda: mse_loss(torch.ones(0), torch.ones(0)), "no rows"),
    ],
)
def test_errors_name_the_value_and_the_cure(call, said):
    with pytest.raises(ValueError, match=said):
        call()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_training_that_diverged_does_not_look_like_one_at_rest(bad):
    target = torch.linspace(-1, 1, 9)[:, None]
    assert ccc_loss(torch.full((9, 1), bad), target).isnan()
    pred = target.clone()
    pred[3] = bad
    assert ccc_loss(pred, target).isnan()
    observed = torch.ones(9, dtype=torch.bool)
    observed[3] = False
    assert ccc_loss(pred, target, observed) == pytest.approx(0, abs=1e-6)
