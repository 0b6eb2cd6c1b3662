from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import rbf_kernel
from torch.nn.functional import huber_loss, normalize, pdist

from pkdray.losses import (
    correlation_congruence_loss,
    relational_angle_loss,
    relational_distance_loss,
    similarity_preserving_loss,
)

LOSSES = {
    "sp": similarity_preserving_loss,
    "distance": relational_distance_loss,
    "angle": relational_angle_loss,
    "congruence": correlation_congruence_loss,
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


def turned(rows, seed):
    """The rows under a random orthogonal map."""
    generator = torch.Generator().manual_seed(seed)
    width = rows.shape[-1]
    return rows @ torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=rows.dtype)).Q


def test_similarity_preserving(randn):
    student, teacher = randn(13, 7), randn(13, 5)
    s, t = (normalize(rows @ rows.T, dim=1) for rows in (student, teacher))
    torch.testing.assert_close(
        similarity_preserving_loss(student, teacher), torch.linalg.norm(s - t) ** 2 / 13**2, rtol=1e-7, atol=0
    )


def test_distance_agrees_with_pdist(randn):
    student, teacher = randn(13, 7), randn(13, 5)
    s, t = pdist(student), pdist(teacher)
    peer = huber_loss(s / s.mean(), t / t.mean())
    torch.testing.assert_close(relational_distance_loss(student, teacher), peer, rtol=1e-7, atol=0)


def test_distances_beyond_one_mean_are_taken_linearly():
    near, far = torch.tensor([[0.0], [0.0], [9.0]]), torch.tensor([[0.0], [9.0], [9.0]])
    # Both have one distance of 0 and two of 1.5 means: the two pairs that differ are off by 1.5, and cost 1 each.
    assert relational_distance_loss(near, far).item() == pytest.approx(2 / 3, rel=1e-3)


def test_angle_agrees_with_the_law_of_cosines(randn):
    student, teacher = randn(11, 7), randn(11, 5)

    def cosines(rows):
        d = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").numpy()
        size = range(len(rows))
        triplets = [(i, j, k) for i in size for j in size for k in size if len({i, j, k}) == 3]
        return np.array(
            [(d[i, j] ** 2 + d[k, j] ** 2 - d[i, k] ** 2) / (2 * d[i, j] * d[k, j]) for i, j, k in triplets]
        )

    difference = np.abs(cosines(student) - cosines(teacher))
    peer = np.where(difference <= 1, difference**2 / 2, difference - 0.5).mean()
    np.testing.assert_allclose(relational_angle_loss(student, teacher), peer, rtol=1e-7)


@pytest.mark.parametrize("gamma", [0.1, 0.4, 2.0])
def test_congruence_of_high_order_is_that_of_the_gaussian_kernel(randn, gamma):
    student, teacher = randn(13, 7), randn(13, 5)
    kernels = [rbf_kernel(normalize(rows).numpy(), gamma=gamma) for rows in (student, teacher)]
    peer = ((kernels[0] - kernels[1]) ** 2).mean()
    np.testing.assert_allclose(correlation_congruence_loss(student, teacher, gamma, order=30), peer, rtol=1e-6)
    errors = [abs(correlation_congruence_loss(student, teacher, gamma, order).item() - peer) for order in (1, 3, 9)]
    assert errors[0] > errors[1] > errors[2]


def test_congruence_takes_its_width_as_a_tensor(randn):
    student, teacher = randn(13, 7).float(), randn(13, 5).float()
    for gamma in (torch.tensor(0.4), torch.tensor(0.4, dtype=torch.float64)):
        value = correlation_congruence_loss(student, teacher, gamma)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, correlation_congruence_loss(student, teacher))


@every_loss
def test_batched_equals_a_loop(randn, loss):
    student, teacher = randn(2, 3, 7, 5), randn(2, 3, 7, 11)
    batched = loss(student, teacher)
    assert batched.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(batched[i, j], loss(student[i, j], teacher[i, j]))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31), st.floats(0.5, 100), st.sampled_from([2, 3, 7, 13]))
def test_laws(seed, scale, size):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, size, 5, generator=generator, dtype=torch.float64)
    shift = torch.randn(5, generator=generator, dtype=torch.float64)
    order = torch.randperm(size, generator=generator)
    # Up to the smoothing of the norm, which a short row feels.
    close = {"rtol": 1e-4, "atol": 1e-5}
    for loss in LOSSES.values():
        value = loss(student, teacher)
        assert value >= 0
        torch.testing.assert_close(loss(teacher, student), value)
        assert loss(student, student) == 0
        torch.testing.assert_close(loss(student[order], teacher[order]), value)
        torch.testing.assert_close(loss(scale * student, teacher), value, **close)
        torch.testing.assert_close(loss(turned(student, seed), teacher), value, **close)
        # Another width alone is no difference.
        torch.testing.assert_close(loss(torch.nn.functional.pad(student, (0, 4)), teacher), value, **close)
    for loss in (relational_distance_loss, relational_angle_loss):
        torch.testing.assert_close(loss(student + scale * shift, teacher), loss(student, teacher), **close)
    assert similarity_preserving_loss(student, teacher) <= 4 / size
    assert relational_angle_loss(student, teacher) <= 1.5


@every_loss
def test_a_step_against_the_gradient_draws_nearer(randn, loss):
    student, teacher = randn(13, 7).requires_grad_(), randn(13, 5)
    first = loss(student, teacher)
    for _ in range(30):
        (gradient,) = torch.autograd.grad(loss(student, teacher), student)
        student = (student - 2 * gradient).detach().requires_grad_()
    assert loss(student, teacher) < 0.9 * first


@pytest.mark.parametrize("loss", [relational_distance_loss, relational_angle_loss], ids=["distance", "angle"])
def test_far_from_zero_keeps_its_digits(randn, loss):
    student, teacher = randn(13, 7).float(), randn(13, 5).float()
    moved = loss(student + 1000, teacher)
    torch.testing.assert_close(moved, loss(student, teacher), rtol=1e-3, atol=0)


@pytest.mark.parametrize("offset", [0.1, 1e15])
def test_rows_that_all_coincide_are_equally_far_apart(offset):
    student = torch.full((13, 7), offset, requires_grad=True)
    simplex = torch.eye(13)
    loss = relational_distance_loss(student, simplex)
    assert loss.item() == pytest.approx(0, abs=1e-10)
    assert (torch.autograd.grad(loss, student)[0] == 0).all()


def test_an_angle_at_coinciding_corners_counts_as_zero():
    twins = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    line = torch.tensor([[0.0], [1.0], [2.0]])
    # Cosines at the three corners: 0, 0 (no angle at a twin) and 1, against 1, -1 and 1 on the line.
    assert relational_angle_loss(twins, line).item() == pytest.approx((0.5 + 0.5 + 0) / 3, abs=1e-5)


@every_loss
@pytest.mark.parametrize("rows", [1, 2])
def test_small_batches(randn, loss, rows):
    student = randn(rows, 5).requires_grad_()
    value = loss(student, randn(rows, 7))
    assert torch.autograd.grad(value, student)[0].isfinite().all()
    if rows == 1 or loss in (relational_angle_loss, relational_distance_loss):
        # One row has no company; the one distance between two is its own mean.
        assert value.item() == pytest.approx(0, abs=1e-12)


def test_similarities_of_large_embeddings_do_not_overflow(randn):
    student, teacher = randn(13, 7).float(), randn(13, 5).float()
    for loss in LOSSES.values():
        torch.testing.assert_close(loss(1e15 * student, teacher), loss(student, teacher), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: correlation_congruence_loss(torch.ones(3, 2), torch.ones(3, 2), 0.0), "gamma is 0.0"),
        (lambda: correlation_congruence_loss(torch.ones(3, 2), torch.ones(3, 2), math.inf), "gamma is inf"),
        (lambda: correlation_congruence_loss(torch.ones(3, 2), torch.ones(3, 2), torch.ones(3)), "0-d"),
        (lambda: correlation_congruence_loss(torch.ones(3, 2), torch.ones(3, 2), order=0), "order is 0"),
    ],
)
def test_errors_name_the_value_and_the_cure(call, said):
    with pytest.raises(ValueError, match=said):
        call()


@every_loss
def test_errors_of_every_loss(loss):
    with pytest.raises(ValueError, match=r"\[3, 2\].*\[4, 2\].*one row of each"):
        loss(torch.ones(3, 2), torch.ones(4, 2))
    with pytest.raises(ValueError, match=r"student has shape \[3\]"):
        loss(torch.ones(3), torch.ones(3))
    with pytest.raises(ValueError, match="no rows"):
        loss(torch.ones(0, 2), torch.ones(0, 2))


@pytest.mark.parametrize("ratio", [10, 1000])
def test_distances_within_tight_clusters_keep_their_gradient_in_float32(ratio):
    generator = torch.Generator().manual_seed(2)
    centres = torch.randn(6, 17, generator=generator, dtype=torch.float64)
    rows = torch.arange(29) % 6
    student, teacher = (
        centres[rows] + torch.randn(29, 17, generator=generator, dtype=torch.float64) / ratio for _ in range(2)
    )

    def gradient(dtype):
        live = student.to(dtype).requires_grad_()
        return torch.autograd.grad(relational_distance_loss(live, teacher.to(dtype)), live)[0].double()

    exact = gradient(torch.float64)
    assert (gradient(torch.float32) - exact).norm() <= 5e-3 * exact.norm()
