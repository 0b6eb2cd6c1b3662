"""What Tune reports, as the live state and the trackers get it, without Ray."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from optuna.samplers import RandomSampler

from pkdray.search import monitor as monitor_module
from pkdray.search.live import read_live
from pkdray.search.monitor import Monitor
from pkdray.search.reports import ENTRY, EPOCH, FAILED, HALT, SUMMARY, VALUE, outcome
from pkdray.search.run import Run
from pkdray.search.trial import CURVES
from pkdray.tracking import Trackers
from pkdray.training.plan import Plan


class Recorder:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments: self.told.append((name, *arguments))


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    made = Recorder()
    monkeypatch.setattr(
        monitor_module, "open_trackers", lambda _config, _study, known: Trackers({"recorder": lambda: made}, known)
    )
    return made


@pytest.fixture
def run(tmp_path: Path, study: Callable[..., Plan]) -> Run:
    return Run.create(tmp_path / "digits", study())


def result(epoch: int, value: float, **special: Any) -> dict[str, Any]:
    entry = {"epoch": epoch, "accuracy": value / 2, "best": value, "finished": False, "node": "n1", "device": "cpu"}
    return {EPOCH: epoch, VALUE: value, SUMMARY: "", FAILED: "", ENTRY: json.dumps(entry), **special}


def test_every_end_is_told_for_what_it_is(run: Run, study: Callable[..., Plan], recorder: Recorder) -> None:
    ledger = run.ledger()
    for number in range(5):
        assert ledger.ask(lambda _: RandomSampler(seed=0)).number == number
    monitor = Monitor(run, study(), ledger)
    monitor.begin(lambda: {2: 4, 4: 1})
    for number in range(5):
        monitor.started(number, {"method.name": "kl", "training.epochs": 3})
        monitor.reported(number, result(1, 0.25), 0)
    assert monitor.read().live["running"][4]["epochs"] == 3
    # The complete one had another process's epochs before, and its last is not reported.
    run.trial(0).mkdir(parents=True)
    pd.DataFrame({"epoch": [1, 2, 3], "accuracy": [0.125, 0.5, 0.75]}).to_parquet(run.trial(0) / CURVES)
    monitor.ended(0, outcome({"epochs": 3, "value": 0.75, "metrics": {"accuracy": 0.75}}))
    monitor.ended(1, result(1, 0.25))
    monitor.ended(2, result(0, float("-inf"), **{FAILED: "the loss became nan"}))
    monitor.ended(3, None)
    monitor.ended(4, result(0, float("-inf"), **{HALT: "the disk is full"}))
    progress = monitor.close()

    fates = {row["trial"]: (row["fate"], row["value"], row["reason"]) for row in progress.live["finished"]}
    assert fates[0] == ("complete", 0.75, None)
    assert fates[1] == ("pruned", 0.25, None)
    assert fates[2] == ("failed", 0.25, "the loss became nan")
    assert fates[3][0] == "failed"
    assert "process died" in fates[3][2]
    assert 4 not in fates, "it is kept for a resume"
    assert progress.live["state"] == "interrupted"
    assert read_live(run.path) == progress.live

    of_first = [told[0:1] + told[2:] for told in recorder.told if told[1] == 0]
    assert of_first == [
        ("start", {"method.name": "kl", "training.epochs": 3}),
        ("epoch", 1, {"accuracy": 0.125, "best": 0.25}),
        ("epoch", 2, {"accuracy": 0.5}),
        ("epoch", 3, {"accuracy": 0.75}),
        ("end", "complete", {"accuracy": 0.75, "value": 0.75, "epochs": 3.0}, None),
    ]
    ends = {told[1]: told[2] for told in recorder.told if told[0] == "end"}
    assert ends == {0: "complete", 1: "pruned", 2: "failed", 3: "failed", 4: "open"}
    assert recorder.told[-1] == ("close", "interrupted", None)


def test_a_trial_whose_process_dies_before_it_starts_does_not_end_the_sweep(
    run: Run, study: Callable[..., Plan], recorder: Recorder
) -> None:
    """Ray Tune tells the failure of an actor that could not be made without having told its start."""
    ledger = run.ledger()
    ledger.ask(lambda _: RandomSampler(seed=0))
    monitor = Monitor(run, study(), ledger)
    monitor.begin(None)
    ledger.fail(0, "its process died")
    monitor.ended(0, None)
    live = monitor.close().live
    assert live["counts"]["failed"] == 1
    assert live["running"] == []
    assert recorder.told == [("close", "interrupted", None)]


def test_a_resumed_session_tells_no_epoch_again_and_knows_how_long_trials_last(
    run: Run, study: Callable[..., Plan], recorder: Recorder
) -> None:
    ledger = run.ledger()
    for _ in range(2):
        ledger.ask(lambda _: RandomSampler(seed=0))
    for epoch in range(1, 5):
        ledger.report(0, epoch, 0.1)
        ledger.report(1, epoch, 0.1)
    ledger.prune(0)
    ledger.release()
    monitor = Monitor(run, study(), ledger)
    monitor.begin(None)
    ledger.ask(lambda _: RandomSampler(seed=0))
    monitor.started(1, {})
    for epoch in (3, 4, 5):
        monitor.reported(1, result(epoch, 0.5), None)
    epochs_left = monitor._live.seconds_left(1.0)
    monitor.close()
    assert [told[2] for told in recorder.told if told[0] == "epoch"] == [5]
    # One trial ended after 4 epochs; this one may go on to its 9th, and five more are to come.
    assert epochs_left == (9 - 5) + 5 * 4
