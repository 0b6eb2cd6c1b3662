"""A run's evaluation, if this pkdray can read it."""

from __future__ import annotations

from typing import Any

from pkdray.evaluate import EVALUATION, read_evaluation
from pkdray.search.run import Run


def evaluation_of(run: Run) -> dict[str, Any] | None:
    """What `evaluate` found: None before it ran, and nothing (``{}``) where an older pkdray wrote another format.

    Raises:
        RunError: the file is damaged.
    """
    found = read_evaluation(run)
    if found is not None:
        return found
    return {} if (run.path / EVALUATION).exists() else None
