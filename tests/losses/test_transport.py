from __future__ import annotations

import json
import math
from pathlib import Path

import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pkdray.losses import anchored_rows, pkdot_loss, similarity_matrix, sinkhorn_divergence, transport
from pkdray.losses._sinkhorn import Solution

GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text(encoding="utf-8"))


def named(case):
    return "-".join(str(value) for key, value in case.items() if key not in ("value", "gradient"))


def clouds(seed, n=7, m=7, k=3):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, k, generator=generator, dtype=torch.float64)
    return x, torch.rand(m, k, generator=generator, dtype=torch.float64)


def tight(x, y, epsilon):
    return sinkhorn_divergence(x, y, epsilon, tol=1e-11, max_iter=5000)


@pytest.mark.parametrize("case", GOLDEN["divergence"], ids=named)
@pytest.mark.parametrize(
    ("dtype", "tol", "value_error", "gradient_error"),
    [(torch.float64, None, 1e-6, 5e-5), (torch.float32, 1e-5, 1e-4, 1e-3), (torch.float32, None, 1e-3, 1e-2)],
)
def test_golden_divergence(reference, case, dtype, tol, value_error, gradient_error):
    x = torch.from_numpy(reference.cloud(case["n"], case["k"], 0.0)).to(dtype)
    y = torch.from_numpy(reference.cloud(case["m"], case["k"], 0.7)).to(x.dtype).requires_grad_()
    value = sinkhorn_divergence(x, y, case["epsilon"], tol=tol)
    (gradient,) = torch.autograd.grad(value, y)
    assert value.dtype == dtype
    # In float32 the terms of the difference, of the size of epsilon, are rounded whatever the divergence is.
    assert value.item() == pytest.approx(
        case["value"], rel=value_error, abs=torch.finfo(dtype).eps * 4 * case["epsilon"]
    )
    expected = torch.tensor(case["gradient"], dtype=dtype)
    assert (gradient - expected).norm() <= gradient_error * expected.norm()


@pytest.mark.parametrize("case", GOLDEN["pkdot"], ids=named)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_golden_pkdot(reference, case, dtype):
    student = torch.from_numpy(reference.cloud(case["size"], case["width"], 0.4)).to(dtype)
    teacher = torch.from_numpy(reference.cloud(case["size"], case["width"] + 2, 0.0)).to(dtype)
    value = pkdot_loss(student, teacher, epsilon=case["epsilon"], top_k=case["top_k"], anchors=case["anchors"])
    assert value.item() == pytest.approx(case["value"], rel=1e-3 if dtype == torch.float32 else 1e-6)


def test_the_golden_file_is_what_its_script_writes(reference):
    fresh = reference.golden()
    assert {name: [named(case) for case in cases] for name, cases in fresh.items()} == {
        name: [named(case) for case in cases] for name, cases in GOLDEN.items()
    }
    for name, cases in fresh.items():
        for case, frozen in zip(cases, GOLDEN[name], strict=True):
            assert case["value"] == pytest.approx(frozen["value"], rel=1e-9)


def test_pot_agrees(randn):
    x, y = randn(13, 3), randn(29, 3)
    x, y = x / 3, y / 3

    def cost(a, b):
        return ot.solve(torch.cdist(a, b) ** 2 / 2, reg=0.1, reg_type="KL", max_iter=5000, tol=1e-11).value

    expected = cost(x, y) - cost(x, x) / 2 - cost(y, y) / 2
    torch.testing.assert_close(tight(x, y, 0.1), expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("epsilon", [1e-3, 0.1, 10.0])
def test_between_two_points_it_is_the_cost(randn, epsilon):
    x, y = randn(1, 5), randn(1, 5)
    torch.testing.assert_close(sinkhorn_divergence(x, y, epsilon), (x - y).square().sum() / 2)


def test_between_translated_clouds_it_is_half_the_squared_distance(randn):
    x, shift = randn(13, 5), randn(5)
    torch.testing.assert_close(sinkhorn_divergence(x, x + shift, 0.1), shift.square().sum() / 2)


def test_small_epsilon_nears_the_assignment(randn):
    x = torch.arange(7.0, dtype=torch.float64)[:, None]
    y = x.flip(0) + torch.linspace(-0.2, 0.2, 7, dtype=torch.float64)[:, None]
    exact = (x - y.sort(dim=0).values).square().sum() / 2 / 7
    torch.testing.assert_close(sinkhorn_divergence(x, y, 1e-2), exact, rtol=1e-3, atol=0)


def test_large_epsilon_nears_the_distance_of_the_means(randn):
    x, y = randn(7, 3), randn(13, 3)
    expected = (x.mean(0) - y.mean(0)).square().sum() / 2
    torch.testing.assert_close(sinkhorn_divergence(x, y, 1e4), expected, rtol=1e-3, atol=0)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31), st.sampled_from([0.05, 0.3, 2.0]), st.sampled_from([(7, 7), (7, 13), (1, 7), (2, 2)]))
def test_laws(seed, epsilon, sizes):
    x, y = clouds(seed, *sizes)
    value = tight(x, y, epsilon)
    assert value >= -1e-10
    torch.testing.assert_close(tight(y, x, epsilon), value, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(tight(x.flip(0), y.roll(1, 0), epsilon), value, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(tight(x + 3, y + 3, epsilon), value, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(tight(2 * x, 2 * y, 4 * epsilon), 4 * value, rtol=1e-6, atol=1e-9)
    assert abs(tight(x, x, epsilon)) <= 1e-10


@pytest.mark.parametrize("epsilon", [1.0, 0.1, 0.01, 0.001])
def test_equal_clouds_are_at_zero_with_a_gradient_of_zero(randn, epsilon):
    x = (randn(29, 11) / 5).float()
    y = x.clone().requires_grad_()
    value = sinkhorn_divergence(x, y, epsilon)
    assert abs(value.item()) <= 1e-7
    assert torch.autograd.grad(value, y)[0].abs().max() <= 1e-6


def test_gradcheck_in_both_clouds_and_epsilon():
    x, y = clouds(5, 7, 5, 2)
    epsilon = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(tight, (x.requires_grad_(), y.requires_grad_(), epsilon), atol=1e-6)


def test_gradcheck_of_the_whole_loss(randn):
    student, teacher = randn(7, 5).requires_grad_(), randn(7, 3)

    def loss(embedding):
        return pkdot_loss(embedding, teacher, epsilon=0.1, top_k=3, tol=1e-11, max_iter=5000)

    assert torch.autograd.gradcheck(loss, student, atol=1e-6)


@pytest.mark.parametrize(
    "second",
    [
        lambda f, y: torch.func.jacrev(torch.func.jacrev(f))(y),
        lambda f, y: torch.func.grad(lambda z: torch.func.grad(f)(z).square().sum())(y),
        lambda f, y: torch.func.jacrev(torch.func.jacrev(lambda z: f(z) ** 2))(y),
        lambda f, y: torch.func.vmap(torch.func.grad(lambda z: torch.func.grad(f)(z).sum()))(y[None]),
        lambda f, y: torch.autograd.grad(
            torch.autograd.grad(f(y.requires_grad_()), y, create_graph=True)[0].square().sum(), y
        ),
    ],
    ids=["jacrev", "grad", "of a square", "vmap", "create_graph"],
)
def test_second_derivatives_are_refused_and_not_wrong(randn, second):
    x = randn(7, 3)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        second(lambda y: sinkhorn_divergence(x, y, 0.5), randn(7, 3))


@pytest.mark.parametrize("iterations", [1, 2, 5])
@pytest.mark.parametrize("sizes", [(13, 13), (7, 29)])
def test_wherever_it_stops_moving_both_clouds_changes_nothing(randn, sizes, iterations):
    x, y = (randn(size, 3).requires_grad_() for size in sizes)
    value, info = sinkhorn_divergence(x, y, 0.4, tol=1e-12, max_iter=iterations, return_info=True)
    assert not info.converged
    by_x, by_y = torch.autograd.grad(value, (x, y))
    torch.testing.assert_close(by_x.sum(0), -by_y.sum(0))


def test_no_gradient_reaches_the_teacher_and_no_iteration_is_recorded(randn):
    student, teacher = randn(13, 5).requires_grad_(), randn(13, 5).requires_grad_()
    value = pkdot_loss(student, teacher, epsilon=0.01, top_k=5)
    assert torch.autograd.grad(value, teacher, allow_unused=True, retain_graph=True) == (None,)
    seen, queue = set(), [value.grad_fn]
    while queue:
        node = queue.pop()
        if node is not None and node not in seen:
            seen.add(node)
            queue.extend(parent for parent, _ in node.next_functions)
    assert len(seen) < 120


def test_batched_equals_a_loop(randn):
    x, y = randn(2, 3, 7, 5), randn(2, 3, 13, 5)
    epsilon = torch.tensor([[0.5, 1.0, 2.0], [4.0, 0.7, 0.9]], dtype=torch.float64)
    batched = tight(x, y, epsilon)
    assert batched.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(batched[i, j], tight(x[i, j], y[i, j], epsilon[i, j].item()))
    assert sinkhorn_divergence(x[:0], y[:0], 0.1).shape == (0, 3)


def test_a_lane_of_nan_does_not_spoil_the_others(randn):
    x, y = randn(3, 7, 5), randn(3, 7, 5)
    y[1, 2, 3] = torch.nan
    values, info = sinkhorn_divergence(x, y, 1.0, return_info=True)
    assert values.isnan().tolist() == [False, True, False]
    torch.testing.assert_close(values[2], sinkhorn_divergence(x[2], y[2], 1.0), rtol=1e-4, atol=0)
    assert (info.iterations < 1000).all()
    assert info.converged.tolist() == [True, False, True]


def test_info_tells_how_far_it_came():
    x, y = clouds(3, 13, 29)
    _, info = sinkhorn_divergence(x, y, 0.05, return_info=True)
    assert info.converged.item()
    assert info.residual.item() <= 1e-5
    value, info = sinkhorn_divergence(x, y, 1e-3, max_iter=3, return_info=True)
    assert value.isfinite()
    assert info.iterations.item() == 3
    assert not info.converged.item()
    assert info.residual.item() > 1e-5
    several, info = sinkhorn_divergence(x.expand(5, 13, 3), y.expand(5, 29, 3), 0.05, return_info=True)
    assert several.shape == info.iterations.shape == info.residual.shape == info.converged.shape == (5,)


def test_vmap_equals_a_loop(randn):
    student, teacher = randn(3, 13, 5), randn(3, 13, 7)
    epsilon, top_k = torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64), torch.tensor([3, 5, 12])

    def loss(s, t, e, k):
        return pkdot_loss(s, t, epsilon=e, top_k=k, tol=1e-11, max_iter=5000)

    gradients, values = torch.func.vmap(torch.func.grad_and_value(loss))(student, teacher, epsilon, top_k)
    for lane in range(3):
        embedding = student[lane].clone().requires_grad_()
        value = pkdot_loss(
            embedding,
            teacher[lane],
            epsilon=epsilon[lane].item(),
            top_k=int(top_k[lane]),
            tol=1e-11,
            max_iter=5000,
        )
        torch.testing.assert_close(values[lane], value.detach(), rtol=1e-8, atol=1e-12)
        torch.testing.assert_close(gradients[lane], torch.autograd.grad(value, embedding)[0], rtol=1e-6, atol=1e-9)
    shared = torch.func.vmap(lambda s: loss(s, teacher[0], 0.1, 3))(student)
    torch.testing.assert_close(shared[1], loss(student[1], teacher[0], 0.1, 3), rtol=1e-8, atol=1e-12)
    by_epsilon = torch.func.vmap(lambda e: loss(student[0], teacher[0], e, 3))(epsilon)
    torch.testing.assert_close(by_epsilon[2], loss(student[0], teacher[0], 1.0, 3), rtol=1e-8, atol=1e-12)


def test_vmap_takes_its_lanes_from_any_dimension(randn):
    x, y = randn(7, 3, 5), randn(13, 5, 3)
    values = torch.func.vmap(lambda a, b: tight(a, b, 1.0), in_dims=(1, 2))(x, y)
    torch.testing.assert_close(values[1], tight(x[:, 1], y[:, :, 1], 1.0))


def test_a_gradient_asked_for_outside_of_vmap_reaches_every_argument(randn):
    x, y, epsilon = randn(3, 7, 5), randn(3, 7, 5), torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)

    def total(x, y, epsilon):
        return torch.func.vmap(tight)(x, y, epsilon).sum()

    expected = torch.func.grad(lambda *values: tight(*values).sum(), argnums=(0, 1, 2))(x, y, epsilon)
    torch.testing.assert_close(torch.func.grad(total, argnums=(0, 1, 2))(x, y, epsilon), expected)
    live = [value.clone().requires_grad_() for value in (x, y, epsilon)]
    torch.testing.assert_close(torch.autograd.grad(total(*live), live), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(randn, dtype):
    student, teacher = randn(13, 5).to(dtype).requires_grad_(), randn(13, 7).to(dtype)
    value = pkdot_loss(student, teacher, epsilon=0.1, top_k=5)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, pkdot_loss(student.float(), teacher.float(), epsilon=0.1, top_k=5))
    assert torch.autograd.grad(value, student)[0].isfinite().all()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = pkdot_loss(student.float(), teacher.float(), epsilon=0.1, top_k=5)
    torch.testing.assert_close(inside, value, rtol=0, atol=0)


@pytest.mark.parametrize("top_k", [1, 5, 100])
@pytest.mark.parametrize("anchors", ["least_similar", "most_similar"])
@pytest.mark.parametrize("epsilon", [1.0, 0.01])
def test_hard_points_are_finite(randn, epsilon, anchors, top_k):
    spread = randn(7, 5).float()
    for student, teacher in (
        (torch.ones(7, 5), spread),
        (spread, torch.ones(7, 5)),
        (torch.ones(7, 5), torch.ones(7, 5)),
        (torch.zeros(7, 5), spread),
        (torch.zeros(7, 5), torch.zeros(7, 5)),
        (spread, spread.clone()),
        (spread[:2], -spread[:2]),
        (spread[:1], spread[1:2]),
        (1e15 * spread, 1e-15 * spread),
    ):
        embedding = student.clone().requires_grad_()
        value = pkdot_loss(embedding, teacher, epsilon=epsilon, top_k=top_k, anchors=anchors)
        assert value.isfinite()
        assert value >= -1e-6
        assert torch.autograd.grad(value, embedding)[0].isfinite().all()


def test_one_row_gives_zero():
    embedding = torch.ones(1, 5, requires_grad=True)
    value = pkdot_loss(embedding, torch.ones(1, 3), epsilon=0.1, top_k=5)
    assert value.item() == 0
    assert (torch.autograd.grad(value, embedding)[0] == 0).all()


def test_a_tensor_of_anchors_gives_the_same_loss(randn):
    student, teacher = randn(13, 5), randn(13, 7)
    for anchors in ("least_similar", "most_similar"):
        plain = pkdot_loss(student, teacher, epsilon=0.1, top_k=5, anchors=anchors)
        torch.testing.assert_close(
            pkdot_loss(student, teacher, epsilon=0.1, top_k=torch.tensor(5), anchors=anchors), plain
        )


def test_the_order_of_the_samples_does_not_matter_but_that_of_the_anchors_does(randn):
    student, teacher, order = randn(13, 5), randn(13, 7), torch.randperm(13)
    value = pkdot_loss(student, teacher, epsilon=0.1, top_k=5)
    torch.testing.assert_close(
        pkdot_loss(student[order], teacher[order], epsilon=0.1, top_k=5), value, rtol=1e-5, atol=0
    )
    rows_t, rows_s = anchored_rows(similarity_matrix(teacher), similarity_matrix(student), 5)
    by_value = rows_s.sort(dim=1).values
    assert abs(sinkhorn_divergence(rows_t, by_value, 0.1) - value) > 1e-3


def test_nothing_but_the_solver_reads_values_on_the_host(monkeypatch):
    from torch._subclasses.fake_tensor import FakeTensorMode

    def solve(x, y, epsilon, **_options):
        return Solution(epsilon, y)

    monkeypatch.setattr(transport._sinkhorn, "solve", solve)
    with FakeTensorMode():
        student = torch.randn(13, 5, requires_grad=True)
        epsilon, top_k = torch.rand(()), torch.ones((), dtype=torch.int64)
        value = pkdot_loss(student, torch.randn(13, 7), epsilon=epsilon, top_k=top_k)
        value.backward()
        assert student.grad is not None


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda x: sinkhorn_divergence(x, torch.ones(7, 4), 0.1), r"\[7, 3\].*\[7, 4\]"),
        (lambda x: sinkhorn_divergence(x, torch.ones(2, 7, 3), 0.1), r"\[7, 3\].*\[2, 7, 3\]"),
        (lambda x: sinkhorn_divergence(x[0], x[0], 0.1), "coordinate dimension"),
        (lambda x: sinkhorn_divergence(x[:0], x, 0.1), "x has no rows"),
        (lambda x: sinkhorn_divergence(x, x, 0.0), "epsilon is 0.0"),
        (lambda x: sinkhorn_divergence(x, x, math.inf), "epsilon is inf"),
        (lambda x: sinkhorn_divergence(x, x, torch.ones(7)), "epsilon has shape"),
        (lambda x: sinkhorn_divergence(x, x, 0.1, tol=-1), "tol is -1"),
        (lambda x: sinkhorn_divergence(x, x, 0.1, max_iter=0), "max_iter is 0"),
        (lambda x: sinkhorn_divergence(x, x, 0.1, solver="emd"), "solver is 'emd'.*'fast', 'pot'"),
        (lambda x: pkdot_loss(x, x[:5], epsilon=0.1, top_k=1), r"\[7, 3\].*\[5, 3\]"),
        (lambda x: pkdot_loss(x, x, epsilon=0.1, top_k=0), "top_k is 0"),
        (lambda x: pkdot_loss(x, x, epsilon=-0.1, top_k=1), "epsilon is -0.1"),
        (lambda x: pkdot_loss(x, x, epsilon=0.1, top_k=1, anchors="all"), "'all'"),
    ],
)
def test_errors_name_the_value_and_the_cure(call, said):
    with pytest.raises(ValueError, match=said):
        call(torch.ones(7, 3))
