"""A run of as many trials as one likes: some made by the ledger, the rest copied from them inside SQLite."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pkdray.config import build_config
from pkdray.data.dataset import open_dataset
from pkdray.search.ledger import Ledger
from pkdray.search.run import STUDY_FILE, Run, fixed_values, sampler_for
from pkdray.search.space import suggest
from pkdray.search.trial import CURVES
from pkdray.training.plan import Plan, make_plan

SEEDLINGS = 100
"""So many trials are asked for, reported and told; the others are their copies with other numbers in them."""
EPOCHS = 30
SPACE: dict[str, Any] = {
    "training.learning_rate": {"float": [1e-4, 3e-2], "log": True},
    "method.name": {"choice": ["kl", "pkd", "pkdot", "mt-pkdot"]},
    "method.alpha": {"float": [0.1, 0.9]},
    "method.epsilon": {"float": [0.01, 1.0], "log": True, "when": {"method.name": ["pkdot", "mt-pkdot"]}},
    "method.top_k": {"int": [3, 90], "when": {"method.name": ["pkdot", "mt-pkdot"]}},
    "method.teachers": {"subset": ["joint", "zer"], "min": 1, "when": {"method.name": "mt-pkdot"}},
}
_ROWS = (
    "trial_params",
    "trial_values",
    "trial_intermediate_values",
    "trial_user_attributes",
    "trial_system_attributes",
)


def plan_of(trials: int, sampler: str = "tpe", **overrides: Any) -> Plan:
    """A study of the bundled digits."""
    config = {
        "name": "scaling",
        "seed": 3,
        "dataset": {"path": "mfeat", "prevalent": ["fou"], "privileged": ["mor", "zer"]},
        "teachers": {"pool": [{"name": "joint"}], "adapters": {"enabled": True}},
        "training": {"epochs": EPOCHS},
        "search": {"trials": trials, "sampler": sampler, "space": SPACE, "asha": {"grace_epochs": 3}},
        **overrides,
    }
    return make_plan(build_config(config), open_dataset("mfeat"))


def make_run(folder: Path, trials: int, running: int) -> tuple[Run, Plan]:
    """A run with ``trials`` rows: half complete after 30 epochs, half stopped after 3 or 9, 2 % failed; the last
    ``running`` of them have told their epochs and not their end.
    """
    plan = plan_of(2 * trials)
    run = Run.create(folder / f"trials-{trials}", plan)
    ledger, rng = run.ledger(), np.random.default_rng(5)
    for index in range(min(SEEDLINGS, trials)):
        number = ask(ledger, plan)
        finish(run, ledger, number, rng, failed=index % 50 == 7)
    _multiply(run.path / STUDY_FILE, len(ledger.trials()), trials)
    _reopen(run.path / STUDY_FILE, trials - running)
    return run, plan


def _reopen(path: Path, first: int) -> None:
    with sqlite3.connect(path) as study:
        of_these = "trial_id IN (SELECT trial_id FROM trials WHERE number >= ?)"
        for table in ("trial_values", "trial_user_attributes"):
            study.execute(f"DELETE FROM {table} WHERE {of_these}", (first,))
        study.execute("UPDATE trials SET state = 'RUNNING', datetime_complete = NULL WHERE number >= ?", (first,))
    study.close()


def ask(ledger: Ledger, plan: Plan) -> int:
    """The next trial's number; its values are drawn."""
    trial = ledger.ask(sampler_for(plan.config))
    with ledger.writing():
        suggest(plan.config.search.space, trial, fixed_values(plan.config))
    return trial.number


def finish(run: Run, ledger: Ledger, number: int, rng: np.random.Generator, *, failed: bool = False) -> None:
    """One trial's life after its proposal, as Tune would tell it."""
    epochs = EPOCHS if number % 2 else int(rng.choice([3, 9]))
    values = (0.3 + 0.6 * rng.random()) * (1 - 0.8 ** np.arange(1, epochs + 1))
    for epoch, value in enumerate(values[: EPOCHS - 1], start=1):
        ledger.report(number, epoch, float(value))
    if failed:
        ledger.fail(number, "the loss became nan")
    elif epochs < EPOCHS:
        ledger.prune(number)
    else:
        ledger.complete(number, float(values[-1]), _summary(ledger, number, values))
        table = pd.DataFrame({"epoch": np.arange(1.0, EPOCHS + 1), "train/loss": 1 - values, "best": values})
        run.trial(number).mkdir(parents=True, exist_ok=True)
        table.assign(accuracy=values).to_parquet(run.trial(number) / CURVES)


def _summary(ledger: Ledger, number: int, values: np.ndarray) -> dict[str, Any]:
    return {
        "metrics": {"accuracy": float(values[-1]), "f1": float(values[-1]) - 0.01, "task_loss": 0.5},
        "epoch": EPOCHS,
        "epochs": EPOCHS,
        "seconds": 31.25,
        "method": ledger.trials()[number].params["method.name"],
        "teachers": {"joint": 0.75, "zer": 0.2},
        "node": f"node{number % 100:03d}",
        "device": "NVIDIA A100-SXM4-80GB",
    }


def _multiply(path: Path, made: int, trials: int) -> None:
    """Copy whole blocks of trials; every number that a trial drew or reached is moved a little, inside its domain."""
    with sqlite3.connect(path) as study:
        offset = made
        while offset < trials:
            most = min(made, trials - offset)
            days = f"+{offset * 60} seconds"
            study.execute(
                "INSERT INTO trials SELECT trial_id + ?, number + ?, study_id, state, "
                "strftime('%Y-%m-%d %H:%M:%f', datetime_start, ?), strftime('%Y-%m-%d %H:%M:%f', datetime_complete, ?) "
                "FROM trials WHERE number < ?",
                (offset, offset, days, days, most),
            )
            for table in _ROWS:
                names = [column[1] for column in study.execute(f"PRAGMA table_info({table})")][1:]
                drawn = ", ".join(_MOVED.get((table, name), name) for name in names)
                study.execute(
                    f"INSERT INTO {table} ({', '.join(names)}) SELECT {drawn} FROM {table} WHERE trial_id <= :most",
                    {"offset": offset, "most": most},
                )
            offset += most
    study.close()


_SHRUNK = "* (1 - 0.02 * (abs(random()) % 1000) / 1000.0)"
_MOVED = dict.fromkeys(((table, "trial_id") for table in _ROWS), "trial_id + :offset") | {
    ("trial_values", "value"): f"value {_SHRUNK}",
    ("trial_intermediate_values", "intermediate_value"): f"intermediate_value {_SHRUNK}",
    ("trial_params", "param_value"): (
        "CASE WHEN distribution_json LIKE '%FloatDistribution%' "
        f"THEN max(json_extract(distribution_json, '$.attributes.low'), param_value {_SHRUNK}) ELSE param_value END"
    ),
}
