"""MLflow: a run for the sweep, and below it a run a trial."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from typing import Any

from pkdray.tracking.trackers import Study

# A server that is gone would otherwise be asked for many minutes; what the user has set wins.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")

from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

SWEEP, TRIAL, FATE, REASON, SESSIONS = (f"pkdray.{name}" for name in ("sweep", "trial", "fate", "reason", "sessions"))
STATUS = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED", "open": "SCHEDULED"}
"""MLflow's words for how a trial ended. An open one waits for a resume."""
_LONGEST_PARAMETER, _LONGEST_TAG = 500, 5000


class MlflowTracker:
    """Runs are found again by tags (the run's key, the trial's number), so that a resume continues them."""

    def __init__(self, study: Study, uri: str, experiment: str) -> None:
        self._study = study
        self._client = MlflowClient(tracking_uri=uri)
        self._experiment = self._experiment_id(experiment)
        self._trials: dict[int, str] = {}
        self._parent = self._run("sweep", study.run, dict(study.about))

    def start(self, number: int, parameters: Mapping[str, Any]) -> None:
        """Make the trial's run with its hyperparameters, or go on with it."""
        tags = {MLFLOW_PARENT_RUN_ID: self._parent}
        run = self._trials[number] = self._run(str(number), f"{self._study.run}-{number}", tags)
        params = [Param(name, _shown(value)[:_LONGEST_PARAMETER]) for name, value in parameters.items()]
        self._client.log_batch(run, params=params)

    def epoch(self, number: int, epoch: int, values: Mapping[str, float]) -> None:
        """A point on every curve."""
        self._log(self._trials[number], values, epoch)

    def end(self, number: int, fate: str, values: Mapping[str, float], reason: str | None) -> None:
        """The result, and how the trial ended."""
        run = self._trials.pop(number)
        # Names of their own: the curves of the same metrics shall not get a last point of another epoch.
        self._log(run, {f"final/{name}": value for name, value in values.items()}, 0)
        tags = [RunTag(FATE, fate), *([RunTag(REASON, reason[:_LONGEST_TAG])] if reason else [])]
        self._client.log_batch(run, tags=tags)
        self._client.set_terminated(run, STATUS[fate])

    def close(self, state: str, best: Mapping[str, Any] | None) -> None:
        """The best trial, on the sweep's run."""
        if best is not None:
            self._client.log_batch(self._parent, tags=[RunTag("pkdray.best_trial", str(best["trial"]))])
            self._log(self._parent, {f"best/{self._study.metric}": best["value"]}, 0)
        self._client.set_terminated(self._parent, "FINISHED" if state == "finished" else "SCHEDULED")

    def _experiment_id(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        try:
            return str(self._client.create_experiment(name))
        except MlflowException:
            # Another sweep that starts at this moment may have made it.
            found = self._client.get_experiment_by_name(name)
            if found is None:
                raise
            return str(found.experiment_id)

    def _run(self, trial: str, name: str, tags: Mapping[str, str]) -> str:
        ours = f"tags.`{SWEEP}` = '{self._study.key}' and tags.`{TRIAL}` = '{trial}'"
        found = self._client.search_runs([self._experiment], ours, max_results=1)
        if found:
            run = str(found[0].info.run_id)
            sessions = int(found[0].data.tags.get(SESSIONS, "1")) + 1
            self._client.update_run(run, status="RUNNING")
            self._client.set_tag(run, SESSIONS, str(sessions))
            return run
        marks = {SWEEP: self._study.key, TRIAL: trial, SESSIONS: "1"}
        made = self._client.create_run(self._experiment, tags={**tags, **marks}, run_name=name)
        return str(made.info.run_id)

    def _log(self, run: str, values: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        self._client.log_batch(run, metrics=[Metric(name, value, now, step) for name, value in values.items()])


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
