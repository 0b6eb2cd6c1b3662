"""The ledger: every trial exactly once, whatever happened to the process that ran it."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.trial import TrialState

from pkdray.config import Parameter
from pkdray.errors import RunError, StorageError
from pkdray.search.ledger import Counts, Ledger, reason, retry_of, summary
from pkdray.search.samplers import make_sampler
from pkdray.search.space import suggest

SPACE = {
    "method.name": [Parameter(choice=["kl", "pkdot"])],
    "method.alpha": [Parameter(float_=(0.1, 0.9))],
    "method.temperature": [Parameter(float_=(1, 6), when={"method.name": "kl"})],
    "method.teachers": [Parameter(subset=["joint", "voice"], min=1)],
}


def sampler(number: int) -> optuna.samplers.BaseSampler:
    return make_sampler("tpe", seed=5, number=number, startup_trials=3)


def new(path: Path, **settings: Any) -> Ledger:
    return Ledger.create(path / "study.db", **{"mode": "max", "planned": 7, **settings})


def start(ledger: Ledger) -> tuple[int, dict[str, Any]]:
    trial = ledger.ask(sampler)
    return trial.number, suggest(SPACE, trial, {})


def finish(ledger: Ledger, value: float) -> int:
    number, _ = start(ledger)
    ledger.complete(number, value, {"epochs": 5})
    return number


def states(ledger: Ledger) -> list[str]:
    return [trial.state.name for trial in ledger.trials()]


def fill_disk(ledger: Ledger) -> None:
    """From now on SQLite may not grow this study's file by a single page, as on a full disk."""

    @sqlalchemy.event.listens_for(ledger._storage.engine, "connect")
    def _limit(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA max_page_count = 1")

    ledger._storage.engine.dispose()


def test_what_becomes_of_a_trial_is_read_back_by_the_next_process(tmp_path: Path) -> None:
    ledger = new(tmp_path)
    complete, values = start(ledger)
    ledger.report(complete, 1, 0.4)
    ledger.report(complete, 2, 0.6)
    ledger.complete(complete, 0.6, {"epochs": 3, "metrics": {"accuracy": 0.6}, "teachers": {"joint": 0.25}})
    pruned, _ = start(ledger)
    ledger.report(pruned, 4, 0.3)
    ledger.prune(pruned)
    failed, _ = start(ledger)
    ledger.fail(failed, "the loss became nan")
    running, _ = start(ledger)

    trials = Ledger(tmp_path / "study.db").trials()
    assert [trial.number for trial in trials] == [complete, pruned, failed, running] == [0, 1, 2, 3]
    assert states(ledger) == ["COMPLETE", "PRUNED", "FAIL", "RUNNING"]
    assert trials[0].value == 0.6
    assert trials[0].intermediate_values == {1: 0.4, 2: 0.6}
    assert summary(trials[0]) == {"epochs": 3, "metrics": {"accuracy": 0.6}, "teachers": {"joint": 0.25}}
    assert suggest(SPACE, trials[0], {}) == values
    assert trials[1].value == 0.3, "a pruned trial keeps the last value that was reported"
    assert reason(trials[2]) == "the loss became nan"
    assert reason(trials[0]) is None
    assert summary(trials[3]) == {}


def test_counts_add_up_to_the_plan_at_every_moment(tmp_path: Path) -> None:
    ledger = new(tmp_path, planned=5)
    assert ledger.counts() == Counts(planned=5, complete=0, pruned=0, failed=0, running=0)
    assert ledger.counts().open == 5
    finish(ledger, 0.5)
    ledger.prune(start(ledger)[0])
    ledger.fail(start(ledger)[0], "why")
    start(ledger)
    counts = ledger.counts()
    assert counts == Counts(planned=5, complete=1, pruned=1, failed=1, running=1)
    assert (counts.finished, counts.open) == (3, 1)


@pytest.mark.parametrize(("mode", "expected"), [("max", 2), ("min", 4)])
def test_the_best_trial_is_a_complete_one_and_the_earlier_of_equals(tmp_path: Path, mode: str, expected: int) -> None:
    ledger = new(tmp_path, mode=mode)
    assert ledger.best() is None
    for value in (9.0, -9.0):
        # Better than all others either way, but without final weights.
        number, _ = start(ledger)
        ledger.report(number, 1, value)
        ledger.prune(number)
    assert ledger.best() is None
    for value in (0.7, 0.5, 0.2, 0.7, 0.2):
        finish(ledger, value)
    best = Ledger(tmp_path / "study.db").best()
    assert best is not None
    assert best.number == expected


def test_a_trial_left_running_is_asked_for_again_with_its_number_and_its_parameters(tmp_path: Path) -> None:
    first = new(tmp_path, planned=6)
    finish(first, 0.5)
    left = dict(start(first) for _ in range(2))
    first.report(1, 3, 0.4)
    assert states(first) == ["COMPLETE", "RUNNING", "RUNNING"]

    second = Ledger(tmp_path / "study.db")
    assert second.release() == 2
    assert second.release() == 0
    assert states(second) == ["COMPLETE", "WAITING", "WAITING"]
    assert second.counts().open == 5
    assert dict(start(second) for _ in range(2)) == left
    assert second.trials()[1].intermediate_values == {3: 0.4}, "what the scheduler knew of it is kept"
    number, values = start(second)
    assert number == 3
    assert values not in left.values()
    for number in (1, 2, 3):
        second.complete(number, 0.1 * number, {})
    assert states(second) == ["COMPLETE"] * 4


def test_a_trial_killed_between_two_draws_keeps_the_ones_it_made(tmp_path: Path) -> None:
    whole, broken = new(tmp_path / "whole"), new(tmp_path / "broken")
    _, expected = start(whole)
    trial = broken.ask(sampler)
    trial.suggest_float("method.alpha", 0.1, 0.9)
    drawn = broken.trials()[0].params
    resumed = Ledger(tmp_path / "broken" / "study.db")
    resumed.release()
    number, values = start(resumed)
    assert number == 0
    assert values["method.alpha"] == drawn["method.alpha"]
    assert values.keys() - {"method.temperature"} == expected.keys() - {"method.temperature"}


def test_resumed_after_every_trial_a_sweep_proposes_what_an_unbroken_one_does(tmp_path: Path) -> None:
    unbroken = new(tmp_path / "a")
    for value in (0.2, 0.9, 0.4, 0.6, 0.1):
        finish(unbroken, value)
    for value in (0.2, 0.9, 0.4, 0.6, 0.1):
        path = tmp_path / "b" / "study.db"
        finish(Ledger(path) if path.exists() else new(tmp_path / "b"), value)
    proposals = [trial.params for trial in unbroken.trials()]
    assert [trial.params for trial in Ledger(tmp_path / "b" / "study.db").trials()] == proposals
    assert len({str(sorted(params.items())) for params in proposals}) == 5


def test_more_trials_may_be_planned_and_fewer_may_not(tmp_path: Path) -> None:
    ledger = new(tmp_path, planned=2)
    finish(ledger, 0.5)
    finish(ledger, 0.5)
    ledger.extend(2)
    assert ledger.counts().open == 0
    ledger.extend(5)
    reopened = Ledger(tmp_path / "study.db")
    assert reopened.counts().open == 3
    with pytest.raises(RunError, match="4 trials are asked for, but 5 are planned"):
        reopened.extend(4)
    assert reopened.planned == 5


def test_each_failed_trial_is_retried_once_and_the_plan_is_met_exactly(tmp_path: Path) -> None:
    ledger = new(tmp_path, planned=4)
    proposed = {}
    for number in range(4):
        _, proposed[number] = start(ledger)
        if number in (1, 3):
            ledger.fail(number, "worker died")
        else:
            ledger.complete(number, 0.1 * number, {})
    assert ledger.counts().open == 0
    assert ledger.retry_failed() == 2
    assert ledger.retry_failed() == 0, "asking twice plans nothing twice"
    assert ledger.counts() == Counts(planned=4, complete=2, pruned=0, failed=0, running=0)
    assert ledger.counts().open == 2

    again = [start(ledger), start(ledger)]
    assert again == [(4, proposed[1]), (5, proposed[3])]
    assert [retry_of(trial) for trial in ledger.trials()] == [None, None, None, None, 1, 3]
    ledger.complete(4, 0.9, {})
    ledger.fail(5, "died again")
    assert ledger.counts() == Counts(planned=4, complete=3, pruned=0, failed=1, running=0)
    assert ledger.counts().open == 0

    assert ledger.retry_failed() == 1, "a retry that failed may be retried; the trial behind it is not repeated twice"
    assert start(ledger) == (6, proposed[3])
    ledger.complete(6, 0.3, {})
    assert ledger.counts().finished == ledger.planned == 4


def test_a_grid_is_tried_point_by_point_in_its_order(tmp_path: Path) -> None:
    points = [{"method.name": "kl", "method.alpha": 0.25}, {"method.name": "pkdot", "method.alpha": 0.75}]
    space = {name: SPACE[name] for name in ("method.name", "method.alpha")}
    ledger = new(tmp_path, planned=3, points=points)
    assert ledger.counts().open == 3, "a waiting point is no trial beside the planned ones"
    tried = []
    for _ in range(3):
        trial = ledger.ask(lambda number: make_sampler("grid", seed=0, number=number, startup_trials=1))
        tried.append(suggest(space, trial, {}))
        ledger.complete(trial.number, 0.5, {})
    assert tried[:2] == points
    assert tried[2] not in points
    assert ledger.counts().open == 0


def test_a_finished_trial_cannot_be_finished_again(tmp_path: Path) -> None:
    ledger = new(tmp_path)
    number = finish(ledger, 0.5)
    with pytest.raises(RuntimeError, match="already finished"):
        ledger.complete(number, 0.9, {})
    assert ledger.trials()[number].value == 0.5


def damaged(raw: bytes, how: str) -> bytes:
    if how == "empty":
        return b""
    if how == "no database":
        return b"not a database at all, " * 500
    return raw[: len(raw) // 3]


@pytest.mark.parametrize("how", ["empty", "no database", "truncated"])
def test_a_damaged_ledger_is_a_run_error_that_names_the_file(tmp_path: Path, how: str) -> None:
    ledger = new(tmp_path)
    for _ in range(3):
        finish(ledger, 0.5)
    path = tmp_path / "study.db"
    path.write_bytes(damaged(path.read_bytes(), how))
    with pytest.raises(RunError, match=r"study\.db is not a readable study") as caught:
        Ledger(path).counts()
    assert caught.value.cure is not None


def test_a_bad_block_anywhere_in_a_ledger_is_a_run_error_or_does_not_matter(tmp_path: Path) -> None:
    """The head may be whole, so that the file opens and only a later query stumbles."""
    ledger = new(tmp_path)
    for _ in range(3):
        finish(ledger, 0.5)
    path = tmp_path / "study.db"
    raw = path.read_bytes()
    told = 0
    for start_of_block in range(4096, len(raw), 2 * 4096):
        path.write_bytes(raw[:start_of_block] + b"\xa5" * 4096 + raw[start_of_block + 4096 :])
        try:
            damaged_ledger = Ledger(path)
            damaged_ledger.counts()
            damaged_ledger.best()
        except RunError:
            told += 1
    assert told >= 3


def test_a_foreign_study_and_a_missing_one_are_run_errors(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="There is no ledger"):
        Ledger(tmp_path / "study.db")
    optuna.create_study(storage=f"sqlite:///{tmp_path / 'other.db'}", study_name="someone else's")
    with pytest.raises(RunError, match="not a readable study"):
        Ledger(tmp_path / "other.db")


def test_a_full_disk_is_a_storage_error_and_loses_nothing_that_was_told(tmp_path: Path) -> None:
    ledger = new(tmp_path)
    finish(ledger, 0.8)
    open_number, values = start(ledger)
    fill_disk(ledger)
    with pytest.raises(StorageError, match="full"):
        ledger.complete(open_number, 0.9, {"much": "x" * 100_000})
    freed = Ledger(tmp_path / "study.db")
    assert freed.release() == 1
    best = freed.best()
    assert best is not None
    assert best.value == 0.8
    assert start(freed) == (open_number, values)


def test_a_ledger_that_may_not_be_written_is_a_storage_error_for_every_writer(tmp_path: Path) -> None:
    ledger = new(tmp_path)
    number, _ = start(ledger)

    @sqlalchemy.event.listens_for(ledger._storage.engine, "connect")
    def _forbid(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA query_only = ON")

    ledger._storage.engine.dispose()
    for write in (
        lambda: ledger.report(number, 1, 0.5),
        lambda: ledger.complete(number, 0.5, {}),
        lambda: ledger.prune(number),
        lambda: ledger.fail(number, "why"),
        ledger.release,
        lambda: ledger.extend(100),
    ):
        with pytest.raises(StorageError, match="readonly"):
            write()
    assert Ledger(tmp_path / "study.db").trials()[number].state == TrialState.RUNNING


def test_a_reader_beside_a_sweep_sees_whole_rows(tmp_path: Path) -> None:
    ledger = new(tmp_path)
    finish(ledger, 0.5)
    with sqlite3.connect(f"file:{tmp_path / 'study.db'}?mode=ro", uri=True) as dashboard:
        (count,) = dashboard.execute("SELECT count(*) FROM trials WHERE state = 'COMPLETE'").fetchone()
    assert count == 1
