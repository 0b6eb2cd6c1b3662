"""Who is compared, without training anybody."""

from __future__ import annotations

from typing import Any

import pytest

from pkdray.evaluate.candidates import best_students, lower_bound, other_method, ranked
from pkdray.evaluate.evaluation import choose


def test_the_lower_bound_may_have_the_network_that_the_search_found_for_the_student(finished: Any) -> None:
    """Or the search's work on the network would be told as the teacher's."""
    plan = finished.plan
    best: dict[str, Any] = {
        "method.name": "pkd",
        "student.encoder.hidden": [29],
        "student.encoder.dropout": 0.37,
        "student.tnet.training": "frozen",
        "student.tnet.hidden": [31],
        "training.learning_rate": 0.0123,
    }
    configs = [plan.trial_config(dict(one.overrides)) for one in lower_bound(plan, best).candidates]
    assert {config.method.name for config in configs} == {"supervised"}
    assert {config.student.tnet.training for config in configs} == {"none"}
    own = plan.config.student.encoder
    networks = {(tuple(config.student.encoder.hidden), config.student.encoder.dropout) for config in configs}
    assert networks == {((29,), 0.37), (tuple(own.hidden), own.dropout)}
    assert all(config.student.tnet.hidden == plan.config.student.tnet.hidden for config in configs)


@pytest.mark.parametrize(
    ("found", "mode", "expected"),
    [
        ([[0.7, 0.8], [0.8, 0.8]], "max", 1),
        ([[0.7, 0.8], [0.8, 0.8]], "min", 0),
        ([[0.75, 0.75], [0.7, 0.8]], "max", 0),
        # Its only training that did not diverge was a lucky one.
        ([[0.7, 0.8], [0.9]], "max", 0),
        ([[0.7, 0.8], [0.1]], "min", 0),
        ([[], [0.2, 0.1]], "max", 1),
        ([[], []], "max", 0),
    ],
)
def test_the_mean_decides_among_those_with_the_fewest_diverged_trainings(
    found: list[list[float]], mode: str, expected: int
) -> None:
    assert choose(found, mode) == expected


@pytest.mark.parametrize("top", [1, 2, 5])
def test_a_searched_method_has_as_many_chances_as_the_student(finished: Any, top: int) -> None:
    """All that was searched is kl: its best trials are the student's, as many as there are."""
    run, plan = finished.run, finished.plan
    ledger = run.ledger()
    found = other_method(run, plan, ledger, "kl", top)
    assert found.candidates == best_students(run, plan, ledger, top).candidates
    assert [one.trial for one in found.candidates] == [trial.number for trial in ranked(ledger, plan)][:top]
    assert not found.tuned
    ended = [trial for trial in ledger.trials() if trial.state.is_finished()]
    assert found.searched == (len(ranked(ledger, plan)), len(ended))
    never = other_method(run, plan, ledger, "pkd", top)
    assert never.tuned
    assert never.searched is None
    assert {one.trial for one in never.candidates} == {None}
