from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pkdray.losses._pace import ACCURACY, LARGEST_WEIGHT, LARGEST_WEIGHT_NEARBY, Pace, best_weight


def pace_of(spread, cost, tol):
    """A pace for points that are all equally far from the centre."""
    return Pace(spread, cost, torch.full((len(cost), 1, 25), 1 / 25), tol)


def over_relaxed_rate(slowest, weight):
    """Spectral radius of successive over-relaxation on two blocks whose plain iteration shrinks by ``slowest``."""
    coupling = math.sqrt(slowest)
    # u' = (1 - w) u + w c v;  v' = (1 - w) v + w c u'
    first = np.array([[1 - weight, weight * coupling], [0, 1]])
    second = np.array([[1, 0], [weight * coupling, 1 - weight]])
    return max(abs(np.linalg.eigvals(second @ first)))


@pytest.mark.parametrize("slowest", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("weight", [1.0, 1.1, 1.2])
def test_the_best_weight_is_found_from_the_rate_of_any_smaller_one(slowest, weight):
    rate = over_relaxed_rate(slowest, weight)
    found = best_weight(weight, rate)
    if rate <= 0.5:
        assert found == weight
        return
    assert found == pytest.approx(2 / (1 + math.sqrt(1 - slowest)))
    fastest = over_relaxed_rate(slowest, found)
    # At the best weight two eigenvalues meet, so rounding moves them by its square root.
    assert fastest == pytest.approx(found - 1, abs=1e-6)
    assert all(over_relaxed_rate(slowest, found + step) > fastest for step in (-0.05, 0.05))


def test_a_rate_that_tells_nothing_of_the_slowest_mode_changes_nothing():
    assert best_weight(1.8, 0.8) == 1.8
    assert best_weight(1.0, 0.3) == 1.0


@pytest.mark.parametrize(("residual", "largest"), [(0.3, LARGEST_WEIGHT), (0.01, LARGEST_WEIGHT_NEARBY)])
def test_the_weight_stays_where_the_iteration_converges(residual, largest):
    pace = pace_of([1.0], [100.0], tol=1e-9)
    pace.first_look(4, [residual])
    pace.going(8, [0.999 * residual], [1.0])
    assert pace.weight(None) == largest


def test_slow_convergence_needs_a_smaller_step_to_stop():
    def stops(before, now):
        pace = pace_of([1.0], [0.1], None)
        pace.first_look(4, [before])
        return pace.going(8, [now], [1.0]) == []

    assert stops(1.0, 0.5 * ACCURACY)
    assert not stops(0.6 * ACCURACY, 0.5 * ACCURACY)
    assert stops(0.012 * ACCURACY, 0.01 * ACCURACY)


def test_half_of_a_tolerance_is_compared_with_the_residual_itself():
    pace = pace_of([1.0], [1.0], tol=1e-3)
    pace.first_look(4, [0.501e-3])
    assert pace.going(8, [0.499e-3], [1.0]) == []
    assert pace.going(12, [0.501e-3], [1.0]) == [0]


def test_a_residual_that_stays_is_a_plateau_once_there_were_looks_enough():
    pace = pace_of([1.0, 1.0, 1.0], [10.0, 10.0, 10.0], None)
    pace.first_look(1, [0.3, 0.3, 0.3])
    pace.going(4, [0.2999, 0.1, 1e-9], [1.0, 1.0, 1.0])
    assert pace.stuck(4) == []
    pace.going(8, [0.2999, 0.01, 1e-9], [1.0, 1.0, 1.0])
    assert pace.only([1, 0]).stuck(8) == [1]
    assert pace.stuck(8) == [0]
    # A search that did not help is not repeated at the very next look.
    pace.going(10, [0.2999, 0.01, 1e-9], [1.0, 1.0, 1.0])
    assert pace.stuck(9) == []
    assert pace.stuck(12) == [0]


def test_the_residual_counts_concentrated_and_far_errors_more_unless_a_tolerance_was_given():
    log_u, step = torch.zeros(2, 1, 25), torch.zeros(2, 1, 25)
    step[0, 0, 3] = -0.1
    step[1] = -0.004
    torch.testing.assert_close(pace_of([1.0], [1.0], None).residual(log_u, step), torch.tensor([0.02, 0.004]))
    exact = torch.tensor([0.1, 0.004 * 25]).exp().sub(1)
    found = pace_of([1.0], [1.0], tol=1e-3).residual(log_u, step)
    torch.testing.assert_close(found, torch.stack([exact[0] / 25, torch.tensor(0.004).expm1()]))
    share = torch.zeros(2, 1, 25)
    share[:, 0, 3] = 1
    far = Pace([1.0, 1.0], [1.0, 1.0], share, None)
    torch.testing.assert_close(far.residual(log_u, step), torch.tensor([0.1, 0.004]))
    torch.testing.assert_close(far.only([1]).residual(log_u[1:], step[1:]), torch.tensor([0.004]))


def test_without_a_tolerance_the_residual_is_measured_by_the_gradient():
    """Long gradients stand a larger residual than short ones, in the same units."""

    def stops_at(value, residual):
        pace = pace_of([1.0], [1.0], None)
        pace.first_look(1, [1.0])
        return pace.going(4, [residual], [value]) == []

    assert stops_at(1.0, 0.3 * ACCURACY)
    assert not stops_at(1e-2, 0.3 * ACCURACY)
    assert stops_at(1e-2, 0.03 * ACCURACY)


def test_a_growing_residual_far_from_the_solution_slows_down_and_a_small_one_does_not():
    pace = pace_of([1.0, 1.0], [100.0, 100.0], None)
    before = pace.only([0]).weight(None)
    pace.first_look(4, [2.0, 0.02])
    pace.going(8, [3.0, 0.03], [1.0, 1.0])
    assert pace.only([0]).weight(None) == pytest.approx((1 + before) / 2)
    assert pace.only([1]).weight(None) == before


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_problem_that_is_no_number_may_stop_and_harms_no_other(number):
    pace = pace_of([number, 1.0], [number, 1.0], None)
    pace.first_look(1, [number, 1.0])
    going = pace.going(4, [math.nan, 0.9], [number, 1.0])
    assert going == [1]
    assert math.isfinite(pace.only([1]).weight(None))


def test_problems_keep_their_own_history_when_others_leave():
    pace = pace_of([1.0, 1.0, 1.0], [1.0, 10.0, 100.0], tol=1e-3)
    pace.first_look(4, [0.5, 0.5, 0.5])
    alone = pace_of([1.0], [100.0], tol=1e-3)
    alone.first_look(4, [0.5])
    rest = pace.only([2])
    assert rest.going(8, [0.4], [1.0]) == alone.going(8, [0.4], [1.0]) == [0]
    assert rest.weight(None) == alone.weight(None)
