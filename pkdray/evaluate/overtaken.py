"""Whether an evaluation still speaks of the run's best trial: a sweep that goes on may find a better one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def overtaken(evaluation: Mapping[str, Any] | None, best: int | None) -> str | None:
    """Why an evaluation no longer speaks of the run, in a sentence; None where it does, or where there is none.

    What it measured stays true of the trial that it was made of; it says nothing of a trial that is better now. With
    ``--top`` its student need not have been the best of the search, so what counts is which trial was.

    Args:
        evaluation: what `read_evaluation` found.
        best: number of the best complete trial of the ledger.

    Example:
        >>> overtaken({"trial": 4, "request": {"trial": 2}}, 9)
        'The evaluation is of trial 4; since then trial 9 has become the best.'
        >>> overtaken({"trial": 4, "request": {"trial": 2}}, 2) is None
        True
    """
    if evaluation is None or best is None:
        return None
    # One that does not say what was asked for is of the trial that it names.
    if (evaluation.get("request") or evaluation).get("trial", best) == best:
        return None
    return f"The evaluation is of trial {evaluation['trial']}; since then trial {best} has become the best."
