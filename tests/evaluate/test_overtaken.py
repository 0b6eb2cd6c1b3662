"""Whether an evaluation still speaks of the best trial."""

from __future__ import annotations

import pytest

from pkdray.evaluate import overtaken


@pytest.mark.parametrize(
    ("chosen", "leader", "best", "stands"),
    [
        (3, 3, 3, True),
        (3, 3, 8, False),
        (5, 3, 3, True),  # --top: validation chose another than the search's best, which still leads
        (5, 3, 8, False),
        (5, 3, None, True),  # the ledger has lost its trials: nothing is better
    ],
)
def test_it_is_overtaken_once_another_trial_leads_the_search(
    chosen: int, leader: int, best: int | None, stands: bool
) -> None:
    said = overtaken({"trial": chosen, "request": {"trial": leader}}, best)
    assert (said is None) == stands
    if said is not None:
        assert f"of trial {chosen};" in said
        assert f"trial {best} has" in said


def test_one_that_does_not_say_what_was_asked_for_is_of_the_trial_it_names() -> None:
    assert overtaken({"trial": 3}, 3) is None
    assert overtaken({"trial": 3}, 4) is not None
    assert overtaken({}, 4) is None


def test_without_an_evaluation_nothing_is_overtaken() -> None:
    assert overtaken(None, 3) is None
