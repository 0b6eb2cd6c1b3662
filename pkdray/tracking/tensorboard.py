"""TensorBoard: event files in ``<run>/tensorboard/<number>/``."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter
from tensorboardX.summary import hparams

from pkdray.tracking.trackers import Study

TENSORBOARD = "tensorboard"


def events_folder(run: Path, number: int) -> Path:
    """Where a trial's event files lie."""
    return run / TENSORBOARD / str(number)


class TensorBoardTracker:
    """A folder of events a trial: its curves, and at its end its hyperparameters with what came of them."""

    def __init__(self, study: Study) -> None:
        self._folder = study.folder
        self._writers: dict[int, SummaryWriter] = {}
        self._parameters: dict[int, dict[str, Any]] = {}

    def start(self, number: int, parameters: Mapping[str, Any]) -> None:
        """Open the trial's folder, which a continued trial's earlier events are in."""
        self._parameters[number] = {name: _shown(value) for name, value in parameters.items()}
        # Files are named by the second, and a resume may come within it.
        unique = f".{uuid.uuid4().hex[:8]}"
        self._writers[number] = SummaryWriter(str(events_folder(self._folder, number)), filename_suffix=unique)

    def epoch(self, number: int, epoch: int, values: Mapping[str, float]) -> None:
        """A point on every curve; written out at once, since a sweep may be killed."""
        for name, value in values.items():
            self._writers[number].add_scalar(name, value, epoch)
        self._writers[number].flush()

    def end(self, number: int, fate: str, values: Mapping[str, float], reason: str | None) -> None:
        """The hyperparameters beside the result, for TensorBoard's HPARAMS page."""
        with self._writers.pop(number) as writer:
            parameters = self._parameters.pop(number)
            if fate != "open":
                final = {f"final/{name}": value for name, value in values.items()}
                # Not `add_hparams`: its second file is named by the second too, and would replace a short trial's.
                for summary in hparams({**parameters, "fate": fate}, final):
                    writer.file_writer.add_summary(summary)
                for name, value in final.items():
                    writer.add_scalar(name, value)
            if reason:
                writer.add_text("reason", reason)

    def close(self, state: str, best: Mapping[str, Any] | None) -> None:
        """Nothing is open any more."""


def _shown(value: Any) -> Any:
    """What TensorBoard takes as a hyperparameter: numbers, flags and text."""
    return value if isinstance(value, bool | int | float | str) else json.dumps(value)
