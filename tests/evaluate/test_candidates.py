"""Who is compared, without training anybody."""

from __future__ import annotations

from typing import Any

import pytest

from pkdray.evaluate.candidates import lower_bound
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
