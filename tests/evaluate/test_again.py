"""The options that ask for the same evaluation again: whoever follows them opens the test split no second time."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pkdray.errors import RunError
from pkdray.evaluate import EVALUATION, FORMAT, as_then
from pkdray.evaluate.opening import OPENED
from pkdray.search.run import Run


@pytest.fixture
def run(copied: Any) -> Run:
    return copied.run


def asked(run: Run, **changes: Any) -> dict[str, Any]:
    best = run.ledger().best()
    assert best is not None
    return {"trial": best.number, "seeds": [3, 4, 5], "folds": [None], "top": 1, "against": []} | changes


def opened_for(run: Run, *requests: dict[str, Any] | None) -> None:
    openings = [{"at": "2026-01-02", "request": request} for request in requests]
    (run.path / OPENED).write_text(json.dumps({"openings": openings}))


def test_a_run_that_was_never_tested_asks_for_nothing(run: Run) -> None:
    assert as_then(run) == []


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({}, "--seeds 3"),
        ({"seeds": [3], "folds": [0, 1, 4]}, "--seeds 1 --folds 0,1,4"),
        ({"top": 5, "against": ["kl", "pkd"]}, "--seeds 3 --top 5 --against kl,pkd"),
        ({"trial": -1}, "--seeds 3 --reopen"),
    ],
)
def test_they_are_those_of_the_last_opening(run: Run, changes: dict[str, Any], options: str) -> None:
    opened_for(run, asked(run, seeds=[1]), asked(run, **changes))
    assert " ".join(as_then(run)) == options


@pytest.mark.parametrize(
    ("format_", "top", "against", "again"),
    [
        (FORMAT - 1, 5, ["kl"], True),
        (FORMAT - 1, 1, ["kl"], False),
        (FORMAT - 1, 5, [], False),
        (FORMAT, 5, ["kl"], False),
    ],
)
def test_other_trials_than_an_older_pkdrays_are_another_request(
    run: Run, format_: int, top: int, against: list[str], again: bool
) -> None:
    opened_for(run, asked(run, top=top, against=against))
    (run.path / EVALUATION).write_text(json.dumps({"format": format_}))
    assert ("--reopen" in as_then(run)) == again


def test_what_is_not_on_record_cannot_be_asked_for_again(run: Run) -> None:
    opened_for(run, None)
    assert as_then(run) == ["--reopen"]


def test_a_damaged_record_is_said_to_be(run: Run) -> None:
    (run.path / OPENED).write_text("{")
    with pytest.raises(RunError, match=r"test_opened\.json is damaged"):
        as_then(run)
