"""Who is compared: the best trials, the bound without any teacher, and other methods asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pkdray.config import METHODS
from pkdray.errors import ConfigError
from pkdray.search.ledger import Ledger
from pkdray.search.ledger import summary as ledger_summary
from pkdray.search.results import trial_overrides
from pkdray.search.run import Run
from pkdray.training.plan import Plan

BARE = {"method.name": "supervised", "student.tnet.training": "none"}
"""The lower bound: prevalent modalities and labels alone, and nothing of a teacher."""

RATE = "training.learning_rate"
RATES = 7
"""Learning rates that a method without trials of its own is tuned over."""


@dataclass(frozen=True)
class Candidate:
    """A configuration to be trained again: its values by dotted path, and where they come from."""

    overrides: Mapping[str, Any]
    what: str
    trial: int | None = None
    score: float | None = None
    """Of its trial, in the search."""


@dataclass(frozen=True)
class Contender:
    """One row of the evaluation: the candidates among which validation chooses, in the order of preference."""

    label: str
    candidates: Sequence[Candidate] = field(default_factory=list)
    searched: tuple[int, int] | None = None
    """Of a method's own trials: how many are complete, of how many that have ended."""

    @property
    def tuned(self) -> bool:
        """Whether the candidates are learning rates to be tried with one seed, and not trials to be judged by all."""
        return len(self.candidates) > 1 and all(candidate.trial is None for candidate in self.candidates)


def best_students(run: Run, plan: Plan, ledger: Ledger, top: int) -> Contender:
    """The best ``top`` complete trials, best first; of equal proposals the first."""
    return Contender("student", _best_trials(run, plan, ledger, ranked(ledger, plan), top))


def lower_bound(plan: Plan, best: Mapping[str, Any]) -> Contender:
    """The student's network without T-Net, trained on the labels with the same budget.

    Its network and training settings are the study's or the best trial's, its learning rate one of eight: as the search
    tuned the student's, so is the bound's tuned.
    """
    settings = {
        path: value
        for path, value in best.items()
        if path.startswith(("training.", "student.")) and not path.startswith("student.tnet.")
    }
    what = f"{', '.join(plan.prevalent)} and labels alone, no T-Net"
    places = [("the study's settings", BARE), ("the best trial's settings", {**BARE, **settings})]
    return Contender("lower bound", _tuned(plan, places, what))


def other_method(run: Run, plan: Plan, ledger: Ledger, name: str, top: int) -> Contender:
    """A method asked for: its best ``top`` trials; where none is complete its defaults, with a tuned learning rate."""
    own = [trial for trial in ranked(ledger, plan) if ledger_summary(trial).get("method") == name]
    if own:
        ended = sum(trial.state.is_finished() and _of_method(trial, name) for trial in ledger.trials())
        return Contender(name, _best_trials(run, plan, ledger, own, top), (len(own), ended))
    overrides = {"method.name": name}
    return Contender(name, _tuned(plan, [("its defaults", overrides)], described(plan, overrides)))


def _of_method(trial: Any, name: str) -> bool:
    # A study that does not search the method has this one alone.
    return bool(trial.params.get("method.name", name) == name)


def check_methods(names: Iterable[str], plan: Plan) -> list[str]:
    """The methods asked for by ``--against``, each once.

    Raises:
        ConfigError: an unknown one, or one that the task does not have.
    """
    asked = list(dict.fromkeys(name for name in names if name))
    unknown = [name for name in asked if name not in METHODS]
    if unknown:
        raise ConfigError(
            f"--against names {', '.join(unknown)}, which no method is called.",
            cure=f"Choose from {', '.join(METHODS)}.",
        )
    if plan.info.task == "regression" and "kl" in asked:
        raise ConfigError(
            "--against names kl, which compares class probabilities; a regression has none.",
            cure="Leave kl out.",
        )
    return asked


def ranked(ledger: Ledger, plan: Plan) -> list[Any]:
    """The complete trials, best first."""
    complete = [trial for trial in ledger.trials() if trial.state.name == "COMPLETE" and trial.value is not None]
    sign = -1 if plan.metric.mode == "max" else 1
    return sorted(complete, key=lambda trial: (sign * trial.value, trial.number))


def described(plan: Plan, overrides: Mapping[str, Any], where: str | None = None) -> str:
    """A student in words, such as ``fou, pkdot with a frozen T-Net (trial 7)``."""
    config = plan.trial_config(dict(overrides))
    tnet = config.student.tnet.training
    beside = f" with a {tnet} T-Net" if tnet != "none" else ""
    return f"{', '.join(plan.prevalent)}, {config.method.name}{beside}" + (f" ({where})" if where else "")


def _best_trials(run: Run, plan: Plan, ledger: Ledger, trials: Iterable[Any], top: int) -> list[Candidate]:
    """The first ``top`` of some trials whose proposals differ."""
    found: list[Candidate] = []
    for trial in trials:
        if len(found) == top:
            break
        overrides = trial_overrides(run, ledger, trial.number)
        if all(overrides != candidate.overrides for candidate in found):
            what = described(plan, overrides, f"trial {trial.number}")
            found.append(Candidate(overrides, what, trial.number, trial.value))
    return found


def _tuned(plan: Plan, places: Sequence[tuple[str, Mapping[str, Any]]], what: str) -> list[Candidate]:
    """Every place with its own learning rate and with seven over the range that the search had."""
    candidates: list[Candidate] = []
    for place, overrides in places:
        own = plan.trial_config(dict(overrides)).training.learning_rate
        for rate in [own, *_rates(plan, own)]:
            values = {**overrides, RATE: rate}
            said = f"{what} ({place}, learning rate {rate:.2g})"
            if all(_settings(plan, values) != _settings(plan, candidate.overrides) for candidate in candidates):
                candidates.append(Candidate(values, said))
    return candidates


def _settings(plan: Plan, overrides: Mapping[str, Any]) -> dict[str, Any]:
    return plan.trial_config(dict(overrides)).model_dump(mode="json", exclude={"search"})


def _rates(plan: Plan, own: float) -> list[float]:
    ends = [float(value) for parameter in plan.config.search.space.get(RATE, []) for value in parameter.extremes()]
    low, high = (min(ends), max(ends)) if ends and min(ends) < max(ends) else (own / 10, min(10.0, own * 10))
    return [float(f"{rate:.4g}") for rate in np.geomspace(low, high, RATES)]
