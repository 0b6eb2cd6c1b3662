"""Where a sweep stands: throughput and time left against hand-made histories, and a file that is whole or absent."""

from __future__ import annotations

import json
import platform
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pkdray.errors import RunError, StorageError
from pkdray.search import live as live_module
from pkdray.search.ledger import Counts
from pkdray.search.live import (
    KEPT,
    SILENT_SECONDS,
    WINDOW,
    LiveFile,
    LiveState,
    beating,
    is_dead,
    read_live,
    silence,
)
from pkdray.search.run import Run
from pkdray.training.plan import Plan


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def state(clock: Clock, planned: int = 10, finished: int = 0, **settings: Any) -> LiveState:
    settings = {"epochs": 40, **settings}
    made = LiveState("demo", metric="accuracy", mode="max", clock=clock, **settings)
    made.stand(Counts(planned=planned, complete=finished, pruned=0, failed=0, running=0), None)
    return made


def train(live: LiveState, clock: Clock, number: int, epochs: range, seconds: float) -> None:
    for epoch in epochs:
        clock.now += seconds
        live.epoch(number, epoch, 0.01 * epoch, rung=8 if epoch >= 8 else 0, node="n1", device="cpu")


def start(live: LiveState, number: int, epochs: int = 40) -> None:
    live.started(number, {"method.name": "kl"}, method="kl", epochs=epochs)


def test_nothing_is_guessed_before_the_first_epoch(clock: Clock) -> None:
    live = state(clock)
    start(live, 0)
    clock.now += 100
    said = live.snapshot()
    assert (said["epochs_per_second"], said["trials_per_minute"], said["seconds_left"]) == (None, None, None)
    assert (said["seconds"], said["counts"]["running"]) == (100.0, 1)


def test_throughput_is_that_of_the_last_minute(clock: Clock) -> None:
    live = state(clock)
    start(live, 0, 1000)
    train(live, clock, 0, range(1, 101), 0.1)
    train(live, clock, 0, range(101, 181), 2.0)
    assert live.snapshot()["epochs_per_second"] == pytest.approx(0.5), "the quick beginning is over"
    clock.now += WINDOW / 2
    assert live.snapshot()["epochs_per_second"] < 0.4, "a standstill shows"


def test_throughput_of_epochs_longer_than_the_window_is_still_known(clock: Clock) -> None:
    live = state(clock)
    start(live, 0, 1000)
    train(live, clock, 0, range(1, 30), 300.0)
    assert live.snapshot()["epochs_per_second"] == pytest.approx(1 / 300, abs=1e-3)


def test_time_left_counts_running_and_waiting_trials_by_how_long_trials_last(clock: Clock) -> None:
    live = state(clock, planned=4)
    start(live, 0)
    train(live, clock, 0, range(1, 11), 0.5)
    # Nobody has ended: this one has 30 epochs to go, and three are yet to train 40, at 2 epochs a second.
    assert live.snapshot()["seconds_left"] == pytest.approx((30 + 3 * 40) / 2)


def test_pruned_trials_shorten_what_is_expected(clock: Clock) -> None:
    live = state(clock, planned=12, finished=2)
    start(live, 0)
    train(live, clock, 0, range(1, 11), 0.5)
    live.ended(0, "pruned", epochs=10, value=0.1)
    start(live, 1)
    train(live, clock, 1, range(1, 21), 0.5)
    live.ended(1, "pruned", epochs=20, value=0.2)
    # Ten trials of (10 + 20) / 2 epochs.
    assert live.snapshot()["seconds_left"] == pytest.approx(10 * 15 / 2)
    start(live, 2)
    train(live, clock, 2, range(1, 13), 0.5)
    # Nine of them, and one that went further than 10 epochs: who did that lasted for 20.
    assert live.snapshot()["seconds_left"] == pytest.approx((8 + 9 * 15) / 2)


def test_a_resumed_sweep_knows_how_long_its_trials_lasted(clock: Clock) -> None:
    live = state(clock, planned=20, finished=10, lengths=[8] * 9 + [40, 0])
    start(live, 10)
    # It goes on from its checkpoint of epoch 20: the pace is that of this session's ten epochs.
    train(live, clock, 10, range(21, 31), 1.0)
    assert live.snapshot()["epochs_per_second"] == pytest.approx(1.0)
    assert live.snapshot()["seconds_left"] == pytest.approx(10 + 9 * (8 * 9 + 40) / 10)


def test_at_the_end_the_slowest_decides(clock: Clock) -> None:
    live = state(clock, planned=2)
    for number in (0, 1):
        start(live, number)
    for epoch in range(1, 9):
        clock.now += 1
        live.epoch(0, epoch, 0.1)
        live.epoch(1, epoch + 31, 0.1)
    # 32 and 1 epochs left at 2 a second; but the first alone does one a second.
    assert live.snapshot()["seconds_left"] == pytest.approx(32)


def test_what_runs_and_what_ended_is_told(clock: Clock) -> None:
    live = state(clock)
    for number in range(KEPT + 2):
        start(live, number)
        train(live, clock, number, range(1, 10), 0.1)
        if number != 3:
            live.ended(number, "failed" if number == 4 else "pruned", reason="diverged" if number == 4 else None)
    live.climb({24: 1, 8: 7})
    said = live.snapshot()
    assert [row["trial"] for row in said["finished"]] == [6, 5, 4, 2, 1], "the last first"
    assert (said["finished"][2]["fate"], said["finished"][2]["reason"]) == ("failed", "diverged")
    assert said["running"] == [
        {"trial": 3, "method": "kl", "parameters": {"method.name": "kl"}, "epoch": 9, "epochs": 40}
        | {"value": 0.09, "rung": 8, "node": "n1", "device": "cpu"}
    ]
    assert said["rung"] == 8
    assert said["rungs"] == [{"epoch": 8, "trials": 7}, {"epoch": 24, "trials": 1}]
    over = live.snapshot("interrupted")
    assert (over["running"], over["seconds_left"], over["counts"]["running"]) == ([], None, 0)


def test_a_trial_kept_for_a_resume_has_not_ended_and_nan_is_no_number(clock: Clock) -> None:
    live = state(clock)
    start(live, 0)
    live.epoch(0, 1, float("nan"))
    assert live.snapshot()["running"][0]["value"] is None
    live.ended(0, "open")
    said = live.snapshot()
    assert (said["running"], said["finished"], said["trials_per_minute"]) == ([], [], None)
    json.dumps(said, allow_nan=False)


def test_the_file_is_written_about_once_a_second_and_always_when_told_so(tmp_path: Path, clock: Clock) -> None:
    live, file = state(clock), LiveFile(tmp_path, clock)
    assert read_live(tmp_path) is None
    written = []
    for seconds in (0.0, 0.4, 0.5, 0.2, 1.5):
        clock.now += seconds
        file.offer(lambda: written.append(clock.now) or live.snapshot())
    assert [moment - 1000 for moment in written] == pytest.approx([0.0, 1.1, 2.6])
    file.write(live.snapshot("finished"))
    said = read_live(tmp_path)
    assert said is not None
    assert (said["state"], said["seconds"], said["host"]) == ("finished", 2.6, platform.node())
    assert [path.name for path in tmp_path.iterdir()] == ["live.json"], "no temporary file is left"


def test_a_full_disk_is_no_reason_to_lose_a_sweep(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path, value: Any) -> None:
        raise StorageError(f"Cannot write {path}: no space is left on the device.")

    monkeypatch.setattr(live_module, "write_json", full)
    file = LiveFile(tmp_path, clock)
    for _ in range(3):
        file.write(state(clock).snapshot())
    assert [record.levelname for record in caplog.records] == ["WARNING"], "said once"
    assert "no space" in caplog.text


def test_a_file_of_another_version_is_refused_and_a_damaged_one_too(tmp_path: Path) -> None:
    (tmp_path / "live.json").write_text('{"format": 99}')
    with pytest.raises(RunError, match="another version"):
        read_live(tmp_path)
    (tmp_path / "live.json").write_text('{"for')
    with pytest.raises(RunError, match="damaged"):
        read_live(tmp_path)


def test_a_killed_sweep_is_known_by_its_lock_here_and_by_its_silence_elsewhere(
    tmp_path: Path, study: Callable[..., Plan], clock: Clock
) -> None:
    run = Run.create(tmp_path / "digits", study())
    running = state(clock).snapshot()
    with run.lock():
        assert not is_dead(run.path, running)
        assert is_dead(run.path, {**running, "pid": running["pid"] + 1}), "another command holds the run now"
    assert is_dead(run.path, running)
    assert not is_dead(run.path, {**running, "host": "elsewhere"}), "of another machine nothing is known"
    assert not is_dead(run.path, state(clock).snapshot("finished"))

    written = datetime.fromisoformat(running["updated"])
    assert silence(running, written + timedelta(seconds=SILENT_SECONDS)) is None
    assert silence(running, written + timedelta(seconds=200)) == 200
    assert silence({**running, "state": "finished"}, datetime.now(UTC) + timedelta(days=1)) is None


def test_a_heart_beats_while_a_step_waits_and_stops_with_it() -> None:
    beats, third = [], threading.Event()

    def beat() -> None:
        beats.append(len(beats))
        if len(beats) == 3:
            third.set()

    with beating(beat, seconds=0.001):
        assert beats, "at once"
        assert third.wait(20)
    assert not [thread for thread in threading.enumerate() if thread.name == "pkdray-live"]


@pytest.mark.ray
@pytest.mark.slow
def test_a_real_sweep_tells_what_its_ledger_says(swept) -> None:
    said = read_live(swept.run.path)
    assert said is not None
    best = swept.run.ledger().best()
    assert (said["state"], said["running"], said["counts"]["finished"]) == ("finished", [], 7)
    assert said["best"]["trial"] == best.number
    assert said["best"]["value"] == best.value
    rows = {row["trial"]: row for row in said["finished"]}
    for trial in swept.run.ledger().trials():
        if trial.number in rows:
            assert rows[trial.number]["fate"] == trial.state.name.lower()
            assert rows[trial.number]["value"] == pytest.approx(trial.value)
    assert {rung["epoch"] for rung in said["rungs"]} == {2, 4, 8}
    reached = [max(trial.intermediate_values, default=0) >= 2 for trial in swept.run.ledger().trials()]
    assert said["rungs"][0]["trials"] == sum(reached)

    during = [row for progress in swept.progress for row in progress.live["running"] if row["epoch"]]
    assert during, "epochs were told while trials ran"
    assert {(row["node"], row["device"]) for row in during} == {(platform.node(), "cpu")}
    assert all(row["rung"] == max([e for e in (2, 4, 8) if e <= row["epoch"]], default=0) for row in during)
    assert {row["epochs"] for row in during} == {9}
