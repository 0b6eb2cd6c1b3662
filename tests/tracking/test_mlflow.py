"""What an MLflow store holds after a sweep and its resume, read back by MLflow's own client."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("mlflow")


def test_every_trial_is_one_run_below_the_sweeps_and_a_resume_continues_it(tracked, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    tracked({"mlflow": {"uri": uri, "experiment": "digits"}})
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("digits")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert sorted(runs) == ["demo", "demo-0", "demo-1", "demo-2", "demo-3"]
    sweep = runs["demo"]
    assert sweep.info.status == "FINISHED"
    assert sweep.data.tags["dataset"] == "mfeat"
    assert (sweep.data.metrics["best/accuracy"], sweep.data.tags["pkdray.best_trial"]) == (0.53, "3")
    told = {name: (run.info.status, run.data.tags.get("pkdray.fate")) for name, run in runs.items() if name != "demo"}
    assert told == {
        "demo-0": ("FINISHED", "complete"),
        "demo-1": ("KILLED", "pruned"),
        "demo-2": ("FAILED", "failed"),
        "demo-3": ("FINISHED", "complete"),
    }
    assert runs["demo-2"].data.tags["pkdray.reason"] == "The training loss became nan in epoch 2."
    continued = runs["demo-3"]
    assert continued.data.tags["mlflow.parentRunId"] == sweep.info.run_id
    assert continued.data.tags["pkdray.sessions"] == "2"
    assert continued.data.params == {
        "method.name": "kl",
        "training.learning_rate": "0.003",
        "method.teachers": '["joint", "fac"]',
    }
    history = client.get_metric_history(continued.info.run_id, "accuracy")
    assert [(point.step, point.value) for point in history] == [(1, 0.13), (2, 0.23), (3, 0.33), (4, 0.43), (5, 0.53)]
