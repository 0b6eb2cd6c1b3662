"""One small sweep as trackers are told of it: complete, pruned, failed, and one cut off and resumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE_SECONDS

from pkdray.config import TrackingConfig
from pkdray.tracking import Study, Trackers, open_trackers


def tell(hub: Trackers, number: int, epochs: range, fate: str | None, reason: str | None = None) -> None:
    hub.start(number, {"method.name": "kl", "training.learning_rate": 0.003, "method.teachers": ["joint", "fac"]})
    for epoch in epochs:
        hub.epoch(number, epoch, {"accuracy": round(0.1 * epoch + 0.01 * number, 4), "train/loss": 2.0 / epoch})
    if fate:
        hub.end(number, fate, {} if fate == "failed" else {"accuracy": 0.5, "value": 0.5}, reason)


@pytest.fixture
def tracked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], Path]:
    """Tells of a sweep in two sessions; returns the run's folder."""
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    # Whoever shares two cores may wait for longer than a sweep would.
    monkeypatch.setenv("WANDB__SERVICE_WAIT", str(PATIENCE_SECONDS))

    def run(tracking: dict[str, Any]) -> Path:
        warned: list[str] = []
        monkeypatch.setattr("pkdray.tracking.trackers.logger.warning", lambda *said: warned.append(str(said)))
        folder = tmp_path / "demo"
        folder.mkdir()
        study = Study("demo", folder, "2026-11-21T10:00:00+00:00", "accuracy", "max", {"dataset": "mfeat"})
        config = TrackingConfig.model_validate(tracking)
        first = open_trackers(config, study, {}, patience=PATIENCE_SECONDS)
        tell(first, 0, range(1, 4), "complete")
        tell(first, 1, range(1, 3), "pruned")
        tell(first, 2, range(1, 2), "failed", "The training loss became nan in epoch 2.")
        tell(first, 3, range(1, 4), None)
        first.close("interrupted", {"trial": 0, "value": 0.5})
        second = open_trackers(config, study, {3: 3}, patience=PATIENCE_SECONDS)
        # From its checkpoint of epoch 2.
        tell(second, 3, range(3, 6), "complete")
        second.close("finished", {"trial": 3, "value": 0.53})
        assert warned == []
        return folder

    return run
