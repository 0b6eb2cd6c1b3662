"""Everything that a report says, read once. What cannot be read is a sentence that says why, not a failure."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import pyarrow as pa
from optuna.trial import FrozenTrial, TrialState

from pkdray import mirrors
from pkdray.data.dataset import Dataset
from pkdray.errors import PkdrayError, RunError
from pkdray.evaluate import as_then, openings, overtaken, read_evaluation
from pkdray.search.ledger import Counts, summary
from pkdray.search.results import PREDICTIONS
from pkdray.search.run import Run, fixed_values
from pkdray.search.space import suggest
from pkdray.search.trial import CURVES
from pkdray.training.bundles import METRICS as METRICS_FILE
from pkdray.training.metrics import METRICS
from pkdray.training.plan import Plan

T = TypeVar("T")

SPLITS = ("val", "test")
TOP = 5
"""How many of the best trials stand out."""


@dataclass(frozen=True)
class Facts:
    """A run as its report sees it.

    Args:
        run: the run.
        trials: every row of the ledger, by number.
        counts: how they stand.
        best: the number of the trial that the report is about: the evaluation's choice while that stands, else the best
            of the search; None while no trial is complete.
        kept: the number of the trial whose student is in ``best/``; None where there is none. A sweep that was
            interrupted has not brought it up to date.
        active: whether some process is sweeping it now.
        evaluation: evaluation.json; None where there is none.
        overtaken: why the evaluation is not of the best trial any more; None where it is, or where there is none.
        openings: when the test split was opened, and for what.
        as_then: the options of ``pkdray evaluate`` that ask for the same again.
        dataset, plan, pool: what the run was made with, its plan, and pool.yaml; None where they cannot be read.
        predictions: split -> the best student's answers.
        curves: number -> curves.parquet of the best trials.
        negative_transfer, similarity, projections, costs: what `pkdray.diagnostics` found of the best trial.
        faults: of what is None, why.
    """

    run: Run
    trials: list[FrozenTrial]
    counts: Counts
    best: int | None
    kept: int | None = None
    active: bool = False
    evaluation: dict[str, Any] | None = None
    overtaken: str | None = None
    openings: list[dict[str, Any]] = field(default_factory=list)
    as_then: list[str] = field(default_factory=list)
    dataset: Dataset | None = None
    plan: Plan | None = None
    pool: dict[str, Any] | None = None
    predictions: dict[str, pd.DataFrame] = field(default_factory=dict)
    curves: dict[int, pd.DataFrame] = field(default_factory=dict)
    negative_transfer: Any = None
    similarity: Any = None
    projections: pd.DataFrame | None = None
    costs: pd.DataFrame | None = None
    faults: dict[str, str] = field(default_factory=dict)

    @property
    def metric(self) -> str:
        """The study's metric."""
        return self.run.config.search.metric or ""

    @property
    def mode(self) -> str:
        """``max`` or ``min``."""
        return METRICS[self.metric].mode

    @property
    def better(self) -> str:
        """Which way is better, in words."""
        return "higher is better" if self.mode == "max" else "lower is better"

    @property
    def complete(self) -> list[FrozenTrial]:
        """The complete trials, best first."""
        found = [trial for trial in self.trials if trial.state == TrialState.COMPLETE and trial.value is not None]
        sign = -1 if self.mode == "max" else 1
        return sorted(found, key=lambda trial: (sign * (trial.value or 0.0), trial.number))

    @property
    def current(self) -> dict[str, Any] | None:
        """The evaluation, where it is of the best trial."""
        return self.evaluation if self.overtaken is None else None

    @property
    def opened(self) -> str:
        """How often the test split was opened, as a sentence, whether or not an evaluation came of it."""
        if "openings" in self.faults:
            return self.faults["openings"]
        said = (self.evaluation or {}).get("test_opened") or {"times": 0, "at": ""}
        times = max(len(self.openings), said["times"])
        if times == 0:
            return "The test split has not been opened."
        at = str(self.openings[-1]["at"] if self.openings else said["at"])[:10]
        return f"The test split was opened {f'once, on {at}' if times == 1 else f'{times} times, last on {at}'}."

    def command(self, step: str, *arguments: str) -> str:
        """A command on this run, as a person would type it anywhere on a machine that sees it."""
        return " ".join(["pkdray", step, mirrors.typed(self.run.path), *arguments])

    def why(self, what: str) -> str:
        """Why a fact is not there."""
        return self.faults.get(what, "")


def gather(run: Run, say: Callable[[str], None] = lambda _: None) -> Facts:
    """Read a run, and let `pkdray.diagnostics` look at its best trial.

    Args:
        run: the run, in whatever state.
        say: told what is being done.

    Raises:
        RunError: the ledger cannot be read.
    """
    ledger = run.ledger()
    trials = ledger.trials()
    leader = ledger.best()
    reader = _Reader()
    evaluation = reader.read("evaluation", lambda: read_evaluation(run))
    leading = leader.number if leader else None
    why = overtaken(evaluation, leading)
    best = int(evaluation["trial"]) if evaluation is not None and why is None else leading
    say("Reading the dataset and the teacher pool ...")
    dataset = reader.read("dataset", run.dataset)
    plan = reader.read("dataset", lambda: run.plan(dataset)) if dataset is not None else None
    pool = reader.read("pool", lambda: run.pool(plan).read()) if plan is not None else None
    facts = Facts(
        run=run,
        trials=trials,
        counts=ledger.counts(),
        best=best,
        kept=_kept(run),
        active=run.is_active(),
        evaluation=evaluation,
        overtaken=why,
        openings=reader.read("openings", lambda: openings(run)) or [],
        as_then=reader.read("as_then", lambda: as_then(run)) or [],
        dataset=dataset,
        plan=plan,
        pool=pool,
        predictions={split: table for split in SPLITS if (table := _predictions(run, split, reader)) is not None},
        faults=reader.faults,
    )
    read = {number: _curves(run, number, reader) for number in _leaders(facts)}
    facts.curves.update({number: table for number, table in read.items() if table is not None})
    return _diagnosed(facts, reader, say)


def proposed(facts: Facts) -> dict[int, dict[str, Any]]:
    """What each finished trial drew, by path of the configuration."""
    space, fixed = facts.run.config.search.space, fixed_values(facts.run.config)
    return {
        trial.number: suggest(space, trial, fixed)
        for trial in facts.trials
        if trial.state.is_finished() and trial.params
    }


def method_of(trial: FrozenTrial, facts: Facts) -> str:
    """The name of a trial's method."""
    return str(summary(trial).get("method") or trial.params.get("method.name") or facts.run.config.method.name)


def seconds_of(trial: FrozenTrial) -> float | None:
    """How long a trial took, pauses included."""
    if trial.datetime_start is None or trial.datetime_complete is None:
        return None
    return (trial.datetime_complete - trial.datetime_start) / timedelta(seconds=1)


class _Reader:
    """Reads one thing after another, and remembers why it could not."""

    def __init__(self) -> None:
        self.faults: dict[str, str] = {}

    def read(self, what: str, reading: Callable[[], T]) -> T | None:
        try:
            return reading()
        except PkdrayError as error:
            self.faults[what] = str(error)
            return None


def _diagnosed(facts: Facts, reader: _Reader, say: Callable[[str], None]) -> Facts:
    """With what the diagnostics say of the best trial, where all that they need is there."""
    from pkdray.diagnostics import costs, negative_transfer, projections, similarity

    names = ("negative_transfer", "similarity", "projections", "costs")
    run, number = facts.run, facts.best
    fault = ""
    if number is None:
        fault = "No trial is complete yet."
    elif facts.plan is None:
        fault = facts.why("dataset")
    elif facts.pool is None:
        fault = facts.why("pool")
    if fault or number is None or facts.plan is None or facts.dataset is None:
        reader.faults.update(dict.fromkeys(names, fault))
        return facts
    plan, dataset, pool = facts.plan, facts.dataset, run.pool(facts.plan)
    say(f"Looking at who taught trial {number} ...")
    taught = reader.read("negative_transfer", lambda: negative_transfer(run, plan, dataset, pool, number))
    if taught is None:
        reader.faults.setdefault(
            "negative_transfer", f"Trial {number} learnt from the labels alone: it has no teacher."
        )
    say("Comparing teacher and student ...")
    return replace(
        facts,
        negative_transfer=taught,
        similarity=reader.read("similarity", lambda: similarity(run, plan, dataset, pool, number)),
        projections=reader.read("projections", lambda: projections(run, plan, dataset, pool, number)),
        costs=reader.read("costs", lambda: costs(run, plan, _leaders(facts))),
    )


def _leaders(facts: Facts) -> list[int]:
    """The best trials, and the student's among them."""
    numbers = [trial.number for trial in facts.complete[:TOP]]
    return numbers if facts.best is None or facts.best in numbers else [*numbers, facts.best]


def _kept(run: Run) -> int | None:
    try:
        return int(json.loads((run.best / METRICS_FILE).read_text(encoding="utf-8"))["trial"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _predictions(run: Run, split: str, reader: _Reader) -> pd.DataFrame | None:
    path = run.best / PREDICTIONS.format(split=split)
    return reader.read(f"predictions.{split}", lambda: _parquet(path)) if path.is_file() else None


def _curves(run: Run, number: int, reader: _Reader) -> pd.DataFrame | None:
    path = run.trial(number) / CURVES
    return reader.read(f"curves.{number}", lambda: _parquet(path) if mirrors.have(path) else None)


def _parquet(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise RunError(f"{path} is damaged ({type(error).__name__}).") from error
