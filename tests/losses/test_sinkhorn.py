"""The fast solver against a float64 reference, geomloss and POT, in the situations that a training meets."""

from __future__ import annotations

import geomloss
import ot
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pkdray.losses import _sinkhorn as sinkhorn
from pkdray.losses import anchored_rows, similarity_matrix, sinkhorn_divergence

STAGES = ("late", "mid", "early", "random", "tight", "few wrong", "outlier")


def situation(stage, seed=0, size=67, top_k=30, anchors="least_similar"):
    """Anchored rows of a teacher whose embeddings cluster, and of a student at a stage of its training, float64."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    teacher = noise(6, 64)[torch.randint(0, 6, (size,), generator=generator)] + 0.7 * noise(size, 64)
    # Tight classes, as a classifier makes them; the student has a few samples in the wrong one.
    lanes = torch.arange(size) % 5
    wrong = torch.where(torch.arange(size) < 3, 0, lanes)
    centres = noise(5, 64)
    if stage in ("tight", "few wrong"):
        teacher = centres[lanes] + 0.1 * noise(size, 64)
    student = {
        "tight": centres[lanes] + 0.1 * noise(size, 64),
        "few wrong": centres[wrong] + 0.1 * noise(size, 64),
        "outlier": teacher + 0.5 * noise(size, 64),
        "late": teacher + 0.05 * noise(size, 64),
        "mid": teacher + 0.5 * noise(size, 64),
        "early": noise(1, 64) + 0.1 * noise(size, 64),
        "random": noise(size, 64),
    }[stage]
    x, y = anchored_rows(similarity_matrix(teacher), similarity_matrix(student), top_k, anchors)
    if stage == "outlier":
        x[3] = x[3] * 10
    return x, y


def with_gradient(x, y, epsilon, **options):
    y = y.clone().requires_grad_()
    value = sinkhorn_divergence(x, y, epsilon, **options)
    return value.detach(), torch.autograd.grad(value.sum(), y)[0]


def relative(found, expected):
    return ((found.double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("anchors", ["least_similar", "most_similar"])
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("epsilon", [1.0, 0.1, 0.01])
def test_float32_is_good_enough_for_a_training_wherever_it_stands(reference, stage, epsilon, anchors):
    if (stage, epsilon) == ("outlier", 0.01):
        pytest.skip("the reference's Newton steps stall at a residual of 1e-13 there")
    x, y = situation(stage, size=41, anchors=anchors)
    expected, gradient = reference.divergence(x.numpy(), y.numpy(), epsilon)
    value, found = with_gradient(x.float(), y.float(), epsilon)
    assert value.item() == pytest.approx(expected, rel=1e-3)
    assert relative(found, torch.from_numpy(gradient)) <= 1e-2


@pytest.mark.parametrize("stage", STAGES)
def test_so_it_is_at_a_thousandth_but_for_a_few(stage):
    """Against our own exact mode, since POT takes minutes here; test_transport.py holds that to golden data."""
    x, y = situation(stage, size=31)
    expected, gradient = with_gradient(x, y, 1e-3)
    value, found = with_gradient(x.float(), y.float(), 1e-3)
    assert relative(value, expected) <= 1e-3
    assert relative(found, gradient) <= 5e-2


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 2**31),
    st.sampled_from([0.05, 0.3, 2.0]),
    st.sampled_from([(13, 13), (7, 29), (29, 7), (2, 2), (1, 5)]),
    st.sampled_from([0.01, 1.0, 5.0]),
)
def test_what_it_calls_converged_is_good_enough(seed, epsilon, sizes, scale):
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(size, 3, generator=generator, dtype=torch.float64) for size in sizes)
    x, y = x, scale * y + 1
    _, info = sinkhorn_divergence(x.float(), y.float(), epsilon, return_info=True)
    # Clouds of another size and place, at an epsilon of a thousandth of the cost, take longer; it says so.
    assume(info.converged.item())
    exact, gradient = with_gradient(x, y, epsilon, tol=1e-9)
    value, found = with_gradient(x.float(), y.float(), epsilon)
    assert relative(value, exact) <= 1e-3
    assert relative(found, gradient) <= 2e-2


@pytest.mark.parametrize("epsilon", [1.0, 0.1])
def test_geomloss_nears_it_as_its_annealing_slows_down(epsilon):
    x, y = situation("mid", size=29, top_k=11)
    value, gradient = with_gradient(x, y, epsilon)
    errors = []
    for scaling in (0.5, 0.9, 0.99):
        with torch.enable_grad():
            live = y.clone().requires_grad_()
            peer = geomloss.SamplesLoss("sinkhorn", p=2, blur=epsilon**0.5, scaling=scaling)(x, live)
            errors.append(relative(torch.autograd.grad(peer, live)[0], gradient))
    assert peer.item() == pytest.approx(value.item(), rel=1e-3)
    assert errors[2] <= 2e-2
    assert errors[2] < errors[0]


def test_an_outlier_that_costs_more_than_the_floor_is_served(reference):
    """e^-60 is the smallest weight of a kernel; here a point of y is 200 epsilon from everybody."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(13, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    y[4] += 20
    expected, gradient = reference.divergence(x.numpy(), y.numpy(), 1.0)
    assert sinkhorn_divergence(x, y, 1.0).item() == pytest.approx(expected, rel=1e-6)
    value, found = with_gradient(x.float(), y.float(), 1.0)
    assert value.item() == pytest.approx(expected, rel=1e-3)
    assert relative(found, torch.from_numpy(gradient)) <= 1e-2


def test_problems_solved_together_equal_each_alone(monkeypatch):
    lanes = [situation(stage, seed, size=31) for seed in (0, 1) for stage in STAGES[:4]]
    x, y = (torch.stack(side).float() for side in zip(*lanes, strict=True))
    epsilon = torch.tensor([1.0, 0.1, 0.01, 0.001, 0.01, 1.0, 0.001, 0.1])
    values, info = sinkhorn_divergence(x, y, epsilon, return_info=True)
    _, gradients = with_gradient(x, y, epsilon)
    for lane in range(8):
        alone, alone_info = sinkhorn_divergence(x[lane], y[lane], epsilon[lane].item(), return_info=True)
        assert relative(values[lane], alone) <= 1e-3
        assert relative(gradients[lane], with_gradient(x[lane], y[lane], epsilon[lane].item())[1]) <= 2e-2
        # It may stay longer, until enough others have finished too, but never shorter.
        assert info.iterations[lane] >= alone_info.iterations
    assert len(set(info.iterations.tolist())) > 1
    monkeypatch.setattr(sinkhorn, "CHUNK", 2 * 31 * 31)
    torch.testing.assert_close(sinkhorn_divergence(x, y, epsilon), values, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(with_gradient(x, y, epsilon)[1], gradients, rtol=1e-1, atol=1e-4)


@pytest.mark.parametrize("sizes", [(13, 13), (7, 29)])
def test_pot_is_one_word_away(sizes):
    """The reference solver: the same value, the same gradients, the same information, by other means."""
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.rand(3, size, 5, generator=generator, dtype=torch.float64).requires_grad_() for size in sizes)
    epsilon = torch.tensor([1.0, 0.2, 0.1], dtype=torch.float64, requires_grad=True)
    fast, info = sinkhorn_divergence(x, y, epsilon, tol=1e-10, return_info=True)
    reference, reference_info = sinkhorn_divergence(x, y, epsilon, tol=1e-10, solver="pot", return_info=True)
    torch.testing.assert_close(fast, reference, rtol=1e-7, atol=0)
    gradients = [torch.autograd.grad(value.sum(), (x, y, epsilon)) for value in (fast, reference)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-8)
    assert info.converged.all()
    assert reference_info.converged.all()
    assert (info.iterations <= reference_info.iterations).all()


@pytest.mark.parametrize("epsilon", [1e-4, 1e-6, 1e-12])
def test_an_epsilon_of_nothing_gives_a_bound_of_the_assignment_and_says_so(epsilon):
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(13, 5, generator=generator) for _ in range(2))
    value, gradient = with_gradient(x, y, epsilon)
    assert gradient.isfinite().all()
    # The self terms vanish, and the dual is a bound from below wherever the iteration stops.
    assignment = ot.emd2([], [], (torch.cdist(x, y).square() / 2).double().numpy())
    assert 0.8 * assignment <= value.item() <= 1.001 * assignment


@pytest.mark.parametrize("solver", ["fast", "pot"])
def test_a_cloud_that_is_no_number_harms_no_other(solver):
    x = torch.randn(2, 7, 3)
    x[0, 0, 0] = torch.nan
    assert sinkhorn_divergence(x, x.flip(1), 0.1, solver=solver).isnan().tolist() == [True, False]


def test_a_drift_between_clusters_is_searched_along_and_not_walked():
    """Four of 67 samples in a wrong, far cluster: potentials must move by 100 epsilon, and walk slowly."""
    generator = torch.Generator().manual_seed(4)
    centres = torch.randn(5, 32, generator=generator, dtype=torch.float64)
    lanes = torch.arange(67) % 5
    wrong = torch.where(torch.arange(67) < 5, 0, lanes)
    x, y = (
        torch.nn.functional.normalize(
            centres[to] + 0.02 * torch.randn(67, 32, generator=generator, dtype=torch.float64)
        )
        for to in (lanes, wrong)
    )
    exact, gradient = with_gradient(x, y, 0.01)
    _, info = sinkhorn_divergence(x.float(), y.float(), 0.01, return_info=True)
    value, found = with_gradient(x.float(), y.float(), 0.01)
    assert info.converged
    assert info.iterations <= 100
    assert relative(value, exact) <= 1e-3
    assert relative(found, gradient) <= 5e-2
    assert plain_iterations(-torch.cdist(x, y).square() / 2 / 0.01, tol=1e-2) >= 300


def test_it_adapts_to_clusters_that_the_plain_iteration_creeps_on():
    """Between clusters the plain iteration moves next to no mass; the observed rate tells how far to go beyond it."""
    x, y = situation("late", size=101)
    _, info = sinkhorn_divergence(x, y, 0.01, tol=1e-6, return_info=True)
    assert info.converged
    assert info.iterations.item() <= plain_iterations(-torch.cdist(x, y).square() / 2 / 0.01, tol=1e-6) / 2


def plain_iterations(kernel, tol):
    log_v = torch.zeros(kernel.shape[1], dtype=torch.float64)
    count, residual = 0, 1.0
    while residual > tol and count < 5000:
        log_u = -torch.logsumexp(kernel + log_v, 1)
        log_v = -torch.logsumexp(kernel + log_u[:, None], 0)
        residual = ((kernel + log_u[:, None] + log_v).exp().sum(1) - 1).abs().mean()
        count += 1
    return count
