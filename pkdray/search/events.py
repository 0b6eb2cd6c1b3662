"""TensorBoard's event files of a run's trials, made afterwards from what the trials left."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from optuna.trial import FrozenTrial

from pkdray import mirrors
from pkdray.files import storage_errors
from pkdray.search.ledger import FINISHED, reason, summary
from pkdray.search.results import trial_overrides
from pkdray.search.run import Run
from pkdray.search.trial import CURVES
from pkdray.tracking import Study, numbers
from pkdray.tracking.tensorboard import TENSORBOARD, TensorBoardTracker, events_folder

_FATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}


def write_events(run: Run) -> int:
    """Write the event files of the ended trials that have none yet; returns how many trials those were.

    A stopped trial has no curves beyond what the ledger holds: its best value by epoch.

    Raises:
        StorageError: the run's folder cannot be written.
        RunError: its ledger cannot be read.
    """
    ledger = run.ledger()
    missing = [
        trial
        for trial in ledger.trials()
        if trial.state in FINISHED and not events_folder(run.path, trial.number).exists()
    ]
    if not missing:
        return 0
    with storage_errors(run.path / TENSORBOARD):
        (run.path / TENSORBOARD).mkdir(exist_ok=True)
        # Written aside and moved, so that a trial's folder is whole or absent.
        build = Path(tempfile.mkdtemp(prefix=".build-", dir=run.path / TENSORBOARD))
        try:
            tracker = TensorBoardTracker(Study(run.name, build, "", run.config.search.metric or "", ""))
            for trial in missing:
                said = summary(trial)
                method = said.get("method", run.config.method.name)
                overrides = trial_overrides(run, ledger, trial.number)
                tracker.start(trial.number, {"method.name": method, **overrides})
                for epoch, values in _epochs(run, trial):
                    tracker.epoch(trial.number, epoch, values)
                final = numbers({**said.get("metrics", {}), "value": trial.value})
                tracker.end(trial.number, _FATES[trial.state.name], final, reason(trial))
                events_folder(build, trial.number).rename(events_folder(run.path, trial.number))
        finally:
            shutil.rmtree(build, ignore_errors=True)
    return len(missing)


def _epochs(run: Run, trial: FrozenTrial) -> Iterator[tuple[int, dict[str, float]]]:
    curves = run.trial(trial.number) / CURVES
    if mirrors.have(curves):
        for entry in pd.read_parquet(curves).to_dict("records"):
            yield int(entry["epoch"]), numbers(entry)
    else:
        for epoch, value in sorted(trial.intermediate_values.items()):
            yield epoch, {"best": value}
