"""The trial that is looked at."""

from __future__ import annotations

from typing import Any

from pkdray.config import Config
from pkdray.errors import RunError
from pkdray.search.ledger import summary
from pkdray.search.results import trial_overrides
from pkdray.search.run import Run
from pkdray.training.plan import Plan


def complete_trial(run: Run, plan: Plan, number: int) -> tuple[Config, dict[str, Any]]:
    """The config of a complete trial, and what it reported at its end, its ``value`` included.

    Raises:
        RunError: there is no such trial, or it did not run to its end.
    """
    ledger = run.ledger()
    trials = ledger.trials()
    if not 0 <= number < len(trials):
        raise RunError(
            f"{run.name} has no trial {number}.", cure=f"Its trials are 0 to {len(trials) - 1}." if trials else None
        )
    if trials[number].state.name != "COMPLETE":
        raise RunError(
            f"Trial {number} of {run.name} is {trials[number].state.name.lower()}, not complete.",
            cure="Choose one of those that ran to their end: `pkdray show` lists the best.",
        )
    return plan.trial_config(trial_overrides(run, ledger, number)), {
        **summary(trials[number]),
        "value": trials[number].value,
    }
