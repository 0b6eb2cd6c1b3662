from __future__ import annotations

import math

import numpy as np
import pytest

from pkdray.losses._pace import ACCURACY, LARGEST_WEIGHT, LARGEST_WEIGHT_NEARBY, Pace, best_weight


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
    pace = Pace([1.0], [100.0], tol=1e-9)
    pace.first_look(4, [residual])
    pace.going(8, [0.999 * residual], [1.0])
    assert pace.weight(None) == largest


def test_slow_convergence_needs_a_smaller_step_to_stop():
    fast, slow = Pace([1.0], [1.0], tol=1e-3), Pace([1.0], [1.0], tol=1e-3)
    fast.first_look(4, [0.1])
    assert fast.going(8, [0.9e-3], [1.0]) == []
    slow.first_look(4, [1e-3])
    assert slow.going(8, [0.9e-3], [1.0]) == [0]


def test_without_a_tolerance_the_residual_is_measured_by_the_gradient():
    """Long gradients stand a larger residual than short ones, in the same units."""

    def stops_at(value, residual):
        pace = Pace([1.0], [1.0], None)
        pace.first_look(1, [1.0])
        return pace.going(4, [residual], [value]) == []

    assert stops_at(1.0, 0.9 * ACCURACY)
    assert not stops_at(1e-2, 0.9 * ACCURACY)
    assert stops_at(1e-2, 0.09 * ACCURACY)


def test_a_growing_residual_far_from_the_solution_slows_down_and_a_small_one_does_not():
    pace = Pace([1.0, 1.0], [100.0, 100.0], None)
    before = pace.only([0]).weight(None)
    pace.first_look(4, [2.0, 0.02])
    pace.going(8, [3.0, 0.03], [1.0, 1.0])
    assert pace.only([0]).weight(None) == pytest.approx((1 + before) / 2)
    assert pace.only([1]).weight(None) == before


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_problem_that_is_no_number_may_stop_and_harms_no_other(number):
    pace = Pace([number, 1.0], [number, 1.0], None)
    pace.first_look(1, [number, 1.0])
    going = pace.going(4, [math.nan, 0.9], [number, 1.0])
    assert going == [1]
    assert math.isfinite(pace.only([1]).weight(None))


def test_problems_keep_their_own_history_when_others_leave():
    pace = Pace([1.0, 1.0, 1.0], [1.0, 10.0, 100.0], tol=1e-3)
    pace.first_look(4, [0.5, 0.5, 0.5])
    alone = Pace([1.0], [100.0], tol=1e-3)
    alone.first_look(4, [0.5])
    rest = pace.only([2])
    assert rest.going(8, [0.4], [1.0]) == alone.going(8, [0.4], [1.0]) == [0]
    assert rest.weight(None) == alone.weight(None)
