"""How a run is evaluated as it was before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pkdray.evaluate.opening import EVALUATION, openings, read_json
from pkdray.search.run import Run

_ONE_TRIAL_A_RIVAL = 2
"""The last format of evaluation.json in which ``--top`` gave the methods of ``--against`` one trial each."""


def as_then(run: Run) -> list[str]:
    """The options of ``pkdray evaluate`` for which the test split was opened last; none where it was not opened.

    With them it is not opened once more. ``--reopen`` is among them where that cannot be: what it was opened for is
    not on record, another trial has become the best since, or an older pkdray compared other trials.

    Raises:
        RunError: a record of the evaluation is damaged, or the ledger cannot be read.
    """
    found = openings(run)
    if not found:
        return []
    request = found[-1]["request"]
    if request is None:
        return ["--reopen"]
    best = run.ledger().best()
    overtaken = best is not None and request.get("trial", best.number) != best.number
    again = overtaken or _of_other_trials(request, run)
    return [*_arguments(request), *(["--reopen"] if again else [])]


def _arguments(request: Mapping[str, Any]) -> list[str]:
    folds = [str(fold) for fold in request.get("folds") or [] if fold is not None]
    values = {
        "--seeds": str(len(request["seeds"])) if request.get("seeds") else "",
        "--folds": ",".join(folds),
        "--top": str(request["top"]) if request.get("top", 1) > 1 else "",
        "--against": ",".join(request.get("against") or []),
    }
    return [word for option, value in values.items() if value for word in (option, value)]


def _of_other_trials(request: Mapping[str, Any], run: Run) -> bool:
    if request.get("top", 1) == 1 or not request.get("against"):
        return False
    written = read_json(run.path / EVALUATION)
    return written is not None and written.get("format", 1) <= _ONE_TRIAL_A_RIVAL
