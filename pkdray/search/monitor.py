"""Who watches a sweep: what Tune does and the ledger says, as live state, as progress, and for trackers."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from optuna.trial import FrozenTrial

from pkdray import mirrors
from pkdray.errors import PkdrayError, StorageError
from pkdray.resources import Resources
from pkdray.search.ledger import FINISHED as ENDED
from pkdray.search.ledger import Counts, Ledger, summary
from pkdray.search.live import (
    COMPLETE,
    FAILED,
    FINISHED,
    INTERRUPTED,
    OPEN,
    PRUNED,
    RUNNING,
    LiveFile,
    LiveState,
    beating,
)
from pkdray.search.reports import ENTRY, EPOCH, HALT, PROCESS_DIED, SUMMARY, VALUE
from pkdray.search.reports import FAILED as WHY
from pkdray.search.run import Run
from pkdray.search.space import longest_training
from pkdray.search.trial import CURVES
from pkdray.tracking import Study, Trackers, numbers, open_trackers
from pkdray.training.plan import Plan

logger = logging.getLogger(__name__)
_PROGRESS_SECONDS = 0.5
_SHARE = 20
"""So many times as long as a look at the sweep took, nobody looks again."""


@dataclass(frozen=True)
class Progress:
    """Where a sweep stands; ``seconds_left`` is a guess from this session's pace, None before its first epoch."""

    counts: Counts
    best_number: int | None
    best_value: float | None
    seconds: float
    seconds_left: float | None
    live: Mapping[str, Any] = field(default_factory=dict)
    """The same and more, as live.json has it."""


OnProgress = Callable[[Progress], None]


class Monitor:
    """Listens to Tune (`search.tune.Listener`), keeps live.json fresh, and tells the trackers and whoever asked."""

    def __init__(self, run: Run, plan: Plan, ledger: Ledger, on_progress: OnProgress | None = None) -> None:
        self._run, self._plan, self._ledger, self._on_progress = run, plan, ledger, on_progress
        trials = ledger.trials()
        self._live = LiveState(
            run.name,
            metric=plan.metric.name,
            mode=plan.metric.mode,
            epochs=longest_training(plan.config),
            lengths=[_length(trial) for trial in trials if trial.state in ENDED],
            resources=_takes(plan.resources),
        )
        self._known = {
            trial.number: max(trial.intermediate_values)
            for trial in trials
            if trial.state not in ENDED and trial.intermediate_values
        }
        self._file = LiveFile(run.path)
        self._reached: Callable[[], Mapping[int, int]] | None = None
        self._trackers: Trackers | None = None
        self._next = 0.0
        self._progress = self.read()
        self._file.write(self._progress.live)

    def waiting(self) -> AbstractContextManager[None]:
        """Around what takes long before the first trial starts: live.json stays fresh."""
        return beating(lambda: self._file.write(self._live.snapshot()))

    def begin(self, reached: Callable[[], Mapping[int, int]] | None) -> None:
        """The trials are about to start; ``reached`` says how many came to each of ASHA's rungs."""
        self._reached = reached
        about = self._run.about
        facts = {
            "dataset": str(about["dataset"]),
            "dataset_fingerprint": str(about["dataset_fingerprint"]),
            "pool_fingerprint": str(about["pool"]),
            "seed": str(about["seed"]),
        }
        study = Study(
            self._run.name,
            self._run.path.resolve(),
            str(about["created"]),
            self._plan.metric.name,
            self._plan.metric.mode,
            facts,
        )
        self._trackers = open_trackers(self._plan.config.tracking, study, self._known)

    def started(self, number: int, overrides: dict[str, Any]) -> None:
        """A trial starts, or starts again after its process died."""
        config = self._plan.config
        method = str(overrides.get("method.name", config.method.name))
        self._live.started(
            number, overrides, method=method, epochs=int(overrides.get("training.epochs", config.training.epochs))
        )
        if self._trackers:
            self._trackers.start(number, {"method.name": method, **overrides})

    def reported(self, number: int, result: Mapping[str, Any], rung: int | None) -> None:
        """A trial has done an epoch."""
        entry = json.loads(result[ENTRY])
        epoch = int(result[EPOCH])
        self._live.epoch(
            number, epoch, float(result[VALUE]), rung=rung, node=entry.get("node"), device=entry.get("device")
        )
        if self._trackers:
            self._trackers.epoch(number, epoch, numbers(entry))

    def ended(self, number: int, result: Mapping[str, Any] | None) -> None:
        """A trial has ended."""
        fate, why, said = _fate(result)
        value = float(result[VALUE]) if result and fate in (COMPLETE, PRUNED) else None
        epochs = int(result[EPOCH]) if result and fate in (COMPLETE, PRUNED) else 0
        self._live.ended(number, fate, epochs=epochs, value=value, reason=why)
        if self._trackers:
            if fate == COMPLETE:
                self._tell_the_rest(number)
            values = numbers({**said.get("metrics", {}), "value": value, "epochs": epochs or None})
            self._trackers.end(number, fate, values, why)

    def tick(self) -> None:
        """Tell how the sweep stands, unless that was told a moment ago."""
        now = time.monotonic()
        if now >= self._next:
            self._progress = self.read()
            self._file.offer(lambda: self._progress.live)
            if self._on_progress:
                self._on_progress(self._progress)
            # With thousands of trials at once a look takes long: the driver has more to do than to look.
            ended = time.monotonic()
            self._next = ended + max(_PROGRESS_SECONDS, _SHARE * (ended - now))

    def read(self) -> Progress:
        """How the sweep stands."""
        return self._stand(RUNNING)

    def close(self) -> Progress:
        """The sweep is over: how it stands, in live.json too. Trackers get a moment to catch up."""
        # What ended the sweep may be the ledger's own fault, which must not be hidden by reading it.
        with contextlib.suppress(PkdrayError):
            over = self._progress = self.read()
            self._progress = self._stand(FINISHED if over.counts.finished >= over.counts.planned else INTERRUPTED)
        if self._trackers:
            self._trackers.close(str(self._progress.live["state"]), self._progress.live["best"])
        self._file.write(self._progress.live)
        return self._progress

    def _stand(self, state: str) -> Progress:
        counts, best = self._ledger.counts(), self._ledger.best()
        named = (best.number, best.value or 0.0, summary(best).get("method")) if best else None
        self._live.stand(counts, named)
        if self._reached:
            self._live.climb(self._reached())
        live = self._live.snapshot(state)
        number, value = (best.number, best.value) if best else (None, None)
        return Progress(counts, number, value, live["seconds"], live["seconds_left"], live)

    def _tell_the_rest(self, number: int) -> None:
        """The epochs that no report told of: the last one, and all of a trial that had finished before a kill."""
        path = self._run.trial(number) / CURVES
        try:
            mirrors.pull_file(path)
            curves = pd.read_parquet(path)
        except (OSError, StorageError) as error:
            logger.warning("The trackers lack the last epochs of trial %d: %s", number, error)
            return
        assert self._trackers is not None
        for entry in curves.to_dict("records"):
            self._trackers.epoch(number, int(entry["epoch"]), numbers(entry))


def _fate(result: Mapping[str, Any] | None) -> tuple[str, str | None, dict[str, Any]]:
    """How a trial ended by its last report, why if it failed, and its summary if it is complete."""
    if not result or EPOCH not in result:
        return FAILED, PROCESS_DIED, {}
    if result.get(HALT):
        return OPEN, None, {}
    if result.get(WHY):
        return FAILED, str(result[WHY]), {}
    if result.get(SUMMARY):
        return COMPLETE, None, json.loads(result[SUMMARY])
    return PRUNED, None, {}


def _takes(resources: Resources) -> dict[str, float]:
    return {
        "workers": resources.workers_per_trial,
        "cpus": resources.cpus_per_trial,
        "gpus": round(resources.gpus_per_trial, 4),
        "readers": resources.readers,
    }


def _length(trial: FrozenTrial) -> int:
    """The epochs that an ended trial was trained for."""
    return int(summary(trial).get("epochs") or max(trial.intermediate_values, default=0))
