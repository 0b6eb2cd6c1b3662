"""Weights & Biases: a run a trial, grouped by the sweep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import wandb

from pkdray.tracking.trackers import Study

_INIT_SECONDS = 30.0


class WandbTracker:
    """A trial's run has an id made of the sweep's key and the trial's number, so that a resume continues it."""

    def __init__(self, study: Study, project: str, entity: str | None, mode: Literal["online", "offline"]) -> None:
        self._study, self._project, self._entity, self._mode = study, project, entity, mode
        self._runs: dict[int, Any] = {}

    def start(self, number: int, parameters: Mapping[str, Any]) -> None:
        """Make the trial's run with its hyperparameters, or go on with it."""
        run = wandb.init(
            project=self._project,
            entity=self._entity,
            mode=self._mode,
            id=f"{self._study.key}-{number}",
            name=f"{self._study.run}-{number}",
            group=self._study.run,
            job_type="trial",
            config={**parameters, **self._study.about, "trial": number},
            dir=str(self._study.folder),
            # Several trials at once in one process, each its own run.
            reinit="create_new",
            resume="allow",
            settings=wandb.Settings(
                silent=True, console="off", disable_git=True, save_code=False, x_disable_stats=True,
                init_timeout=_INIT_SECONDS,
            ),
        )  # fmt: skip
        self._runs[number] = run

    def epoch(self, number: int, epoch: int, values: Mapping[str, float]) -> None:
        """A point on every curve; the epoch is the step, of which W&B takes none twice."""
        self._runs[number].log({**values, "epoch": epoch}, step=epoch)

    def end(self, number: int, fate: str, values: Mapping[str, float], reason: str | None) -> None:
        """The result in the run's summary."""
        run = self._runs.pop(number)
        run.summary.update({f"final/{name}": value for name, value in values.items()})
        run.summary.update({"fate": fate, **({"reason": reason} if reason else {})})
        run.finish(exit_code=1 if fate == "failed" else 0)

    def close(self, state: str, best: Mapping[str, Any] | None) -> None:
        """Every run has been finished."""
