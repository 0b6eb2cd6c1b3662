"""A study that is read once: its rows are those of the database, and questions cost no queries."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from pkdray.config import Parameter
from pkdray.errors import StorageError
from pkdray.search.folders import STUDY_FILE
from pkdray.search.held import HeldStorage
from pkdray.search.ledger import STUDY, Ledger
from pkdray.search.rows import read_trials
from pkdray.search.samplers import make_sampler
from pkdray.search.space import suggest

SPACE = {
    "method.name": [Parameter(choice=["kl", "pkdot"])],
    "method.alpha": [Parameter(float_=(0.1, 0.9))],
    "method.top_k": [Parameter(int_=(3, 9), when={"method.name": "pkdot"})],
    "student.encoder.hidden": [Parameter(choice=[[8], [8, 4]])],
}


def start(ledger: Ledger, kind: str = "tpe") -> int:
    trial = ledger.ask(lambda number: make_sampler(kind, seed=5, number=number, startup_trials=3))
    suggest(SPACE, trial, {})
    return trial.number


@contextmanager
def queries(ledger: Ledger) -> Iterator[list[str]]:
    """Every statement that reaches the database."""
    said: list[str] = []

    def listen(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        said.append(statement)

    engine = ledger._storage.engine
    sqlalchemy.event.listen(engine, "before_cursor_execute", listen)
    try:
        yield said
    finally:
        sqlalchemy.event.remove(engine, "before_cursor_execute", listen)


def lived(path: Path) -> Ledger:
    """A study that has a trial of every fate."""
    ledger = Ledger.create(path, mode="min", planned=9, points=[{"method.name": "kl", "method.alpha": 0.3}])
    for value in (0.5, 0.25, 0.75, math.inf):
        number = start(ledger)
        for epoch in (3, 1, 2):
            ledger.report(number, epoch, value / epoch)
        ledger.complete(number, value, {"epochs": 3, "metrics": {"mse": 0.5}})
    pruned, failed, _, running = (start(ledger) for _ in range(4))
    ledger.report(pruned, 1, math.nan)
    ledger.report(pruned, 2, -math.inf)
    ledger.prune(pruned)
    ledger.fail(failed, "the loss became nan")
    ledger.report(running, 1, 0.5)
    assert ledger.retry_failed() == 1
    return ledger


def rows(trials: list[FrozenTrial]) -> list[str]:
    """As text, in which a nan is a nan; parameters in their order, which samplers see, the rest by name."""
    return [
        repr(
            [
                (trial.number, trial._trial_id, trial.state, trial.values, trial.params, trial.distributions),
                (trial.datetime_start, trial.datetime_complete),
                [sorted(one.items()) for one in (trial.intermediate_values, trial.user_attrs, trial.system_attrs)],
            ]
        )
        for trial in trials
    ]


def test_six_queries_read_what_optuna_reads(tmp_path: Path) -> None:
    ledger = lived(tmp_path / "study.db")
    # A second study in the same file, whose rows are none of ours.
    other = RDBStorage(f"sqlite:///{tmp_path / 'study.db'}")
    optuna.create_study(storage=other, study_name="other").add_trial(create_trial(value=1.0, user_attrs={"a": 1}))
    with queries(ledger) as said:
        read = read_trials(ledger._storage.engine, other.get_study_id_from_name(STUDY))
    assert [statement.split()[0] for statement in said] == ["BEGIN", *["SELECT"] * 6]
    expected = other.get_all_trials(other.get_study_id_from_name(STUDY))
    assert len(expected) == 9
    assert {trial.state for trial in expected} == set(TrialState)
    assert rows(read) == rows(expected)


def test_what_is_remembered_is_what_is_written(tmp_path: Path) -> None:
    begun = datetime.now()
    ledger = lived(tmp_path / "study.db")
    over = datetime.now()
    remembered, written = ledger.trials(), Ledger(tmp_path / "study.db").trials()
    for mine, theirs in zip(remembered, written, strict=True):
        for name in ("params", "distributions", "user_attrs", "system_attrs", "state", "number", "_trial_id"):
            assert getattr(mine, name) == getattr(theirs, name), name
        assert repr(sorted(mine.intermediate_values.items())) == repr(sorted(theirs.intermediate_values.items()))
        assert mine.values == theirs.values
        for name in ("datetime_start", "datetime_complete"):
            one, other = getattr(mine, name), getattr(theirs, name)
            assert (one is None) == (other is None)
            assert one is None or begun <= min(one, other) <= max(one, other) <= over


@pytest.mark.parametrize("kind", ["tpe", "random", "gp", "nsga2"])
def test_a_proposal_asks_the_database_no_more_where_many_trials_run(tmp_path: Path, kind: str) -> None:
    asked = []
    for running in (1, 20):
        ledger = Ledger.create(tmp_path / f"{running}.db", mode="max", planned=99)
        for index in range(6):
            ledger.complete(start(ledger, "random"), 0.1 * index, {})
        for _ in range(running):
            ledger.report(start(ledger, "random"), 1, 0.5)
        with queries(ledger) as said:
            start(ledger, kind)
        asked.append([statement for statement in said if statement.startswith("SELECT")])
    # The trials draw other values, so a few more or fewer of them: not 19 rows and all that belongs to them.
    assert abs(len(asked[1]) - len(asked[0])) <= 4 * len(SPACE)
    assert not any(" IN (" in statement and "intermediate" in statement for statement in asked[1])


def test_how_a_sweep_stands_costs_no_query(tmp_path: Path) -> None:
    ledger = lived(tmp_path / "study.db")
    with queries(ledger) as said:
        assert ledger.counts().complete == 4
        assert ledger.best() is not None
        assert len(ledger.trials()) == 9
        assert ledger.planned == 9
    assert said == []


def test_what_the_database_refuses_is_not_remembered(tmp_path: Path) -> None:
    ledger = lived(tmp_path / "study.db")
    before = rows(ledger.trials())

    @sqlalchemy.event.listens_for(ledger._storage.engine, "connect")
    def _forbid(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA query_only = ON")

    ledger._storage.engine.dispose()
    running = next(trial.number for trial in ledger.trials() if trial.state == TrialState.RUNNING)
    for write in (
        lambda: ledger.report(running, 2, 0.5),
        lambda: ledger.complete(running, 0.5, {}),
        lambda: ledger.fail(running, "why"),
        ledger.release,
        lambda: ledger.extend(100),
    ):
        with pytest.raises(StorageError, match="readonly"):
            write()
    assert rows(ledger.trials()) == before
    assert ledger.planned == 9


def test_a_row_that_was_handed_out_stays_as_it_was(tmp_path: Path) -> None:
    ledger = Ledger.create(tmp_path / "study.db", mode="max", planned=3)
    number = start(ledger)
    (seen,) = ledger.trials()
    ledger.report(number, 1, 0.5)
    ledger.complete(number, 0.75, {})
    assert (seen.state, seen.intermediate_values, seen.user_attrs) == (TrialState.RUNNING, {}, {})
    assert ledger.trials()[0].value == 0.75


def test_a_held_study_is_one_study(tmp_path: Path) -> None:
    Ledger.create(tmp_path / "study.db", mode="max", planned=3)
    disk = RDBStorage(f"sqlite:///{tmp_path / 'study.db'}")
    held = HeldStorage(disk, STUDY)
    with pytest.raises(KeyError):
        held.get_study_id_from_name("another")
    with pytest.raises(NotImplementedError):
        held.create_new_study([optuna.study.StudyDirection.MAXIMIZE])
    with pytest.raises(KeyError):
        HeldStorage(disk, "another")


def test_a_trial_that_begins_while_the_study_is_read_does_not_make_it_unreadable(tmp_path: Path) -> None:
    ledger = lived(tmp_path / STUDY_FILE)
    tried = []

    def meanwhile(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "FROM trial_params" not in statement or tried:
            return
        tried.append(statement)
        # A sweep writes just now; where the reader keeps it waiting, it will do so a moment later.
        with closing(sqlite3.connect(ledger.path, timeout=0)) as sweep, suppress(sqlite3.OperationalError):
            (number,) = sweep.execute("SELECT MAX(trial_id) + 1 FROM trials").fetchone()
            sweep.execute(
                "INSERT INTO trials (trial_id, number, study_id, state) VALUES (?, 9, 1, 'RUNNING')", [number]
            )
            sweep.execute(
                "INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (?, 'a', '1')", [number]
            )
            sweep.commit()

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", meanwhile)
    try:
        found = Ledger(ledger.path)
    finally:
        sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", meanwhile)
    assert tried
    assert len(found.trials()) == 9
