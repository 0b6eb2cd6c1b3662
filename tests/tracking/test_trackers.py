"""What trackers are told, in order and once; and that one which fails or hangs costs a sweep nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pkdray.tracking import Study, Trackers, trackers
from pkdray.tracking.trackers import Tracker


class Recorder:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments: self.told.append((name, *arguments))


def making(tracker: Any) -> Callable[[], Tracker]:
    return lambda: tracker


def test_a_trials_course_arrives_in_order_and_a_repeated_epoch_once() -> None:
    recorder, warned = Recorder(), []
    hub = Trackers({"recorder": making(recorder)}, warn=warned.append)
    assert hub
    hub.start(3, {"method.name": "kl"})
    hub.epoch(3, 1, {"accuracy": 0.25})
    hub.epoch(3, 2, {"accuracy": 0.5})
    # Its process died: it starts again at its checkpoint.
    hub.start(3, {"method.name": "kl"})
    hub.epoch(3, 2, {"accuracy": 0.5})
    hub.epoch(3, 3, {"accuracy": 0.75})
    hub.end(3, "complete", {"value": 0.75})
    hub.close("finished", {"trial": 3, "value": 0.75})
    assert recorder.told == [
        ("start", 3, {"method.name": "kl"}),
        ("epoch", 3, 1, {"accuracy": 0.25}),
        ("epoch", 3, 2, {"accuracy": 0.5}),
        ("epoch", 3, 3, {"accuracy": 0.75}),
        ("end", 3, "complete", {"value": 0.75}, None),
        ("close", "finished", {"trial": 3, "value": 0.75}),
    ]
    assert warned == []


def test_after_a_resume_nothing_is_told_twice_and_a_trial_cut_off_is_open() -> None:
    recorder = Recorder()
    hub = Trackers({"recorder": making(recorder)}, known={5: 4})
    hub.start(5, {})
    for epoch in (3, 4, 5):
        hub.epoch(5, epoch, {})
    hub.close("interrupted", None)
    assert recorder.told == [
        ("start", 5, {}),
        ("epoch", 5, 5, {}),
        ("end", 5, "open", {}, None),
        ("close", "interrupted", None),
    ]


@pytest.mark.parametrize("where", ["at its start", "in an epoch"])
def test_a_tracker_that_fails_is_warned_of_once_and_the_others_go_on(where: str) -> None:
    class Broken(Recorder):
        def epoch(self, *_: Any) -> None:
            raise ConnectionError("the server is gone\nwith a long story")

    def broken() -> Tracker:
        if where == "at its start":
            raise ConnectionError("the server is gone\nwith a long story")
        return Broken()  # type: ignore[return-value]

    recorder, warned = Recorder(), []
    hub = Trackers({"MLflow": broken, "recorder": making(recorder)}, warn=warned.append)
    hub.start(0, {})
    for epoch in range(1, 50):
        hub.epoch(0, epoch, {})
    hub.close("finished", None)
    assert len(recorder.told) == 52
    assert warned == ["MLflow is told nothing more of this sweep, which goes on: the server is gone"]


def test_a_tracker_that_hangs_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "ROOM", 7)
    released, warned = threading.Event(), []

    class Slow(Recorder):
        def start(self, *_: Any) -> None:
            released.wait(60)

    hub = Trackers({"W&B": making(Slow())}, warn=warned.append, patience=0.01)
    hub.start(0, {})
    for epoch in range(1, 100):
        hub.epoch(0, epoch, {})
    hub.close("finished", None)
    released.set()
    assert warned == ["W&B is told nothing more of this sweep, which goes on: it is 7 events behind"]


def test_a_sweep_waits_for_its_trackers_only_so_long() -> None:
    released, warned = threading.Event(), []

    class Slow(Recorder):
        def close(self, *_: Any) -> None:
            released.wait(60)

    hub = Trackers({"W&B": making(Slow())}, warn=warned.append, patience=0.01)
    hub.close("finished", None)
    released.set()
    assert "does not keep up" in warned[0]


def test_a_runs_key_lasts_over_sessions_and_is_another_for_another_run_of_the_name() -> None:
    first = Study("demo", Path("a"), "2026-11-21T10:00:00+00:00", "accuracy", "max")
    moved = Study("demo", Path("b"), "2026-11-21T10:00:00+00:00", "accuracy", "max")
    again = Study("demo", Path("a"), "2026-11-21T11:00:00+00:00", "accuracy", "max")
    assert first.key == moved.key != again.key
