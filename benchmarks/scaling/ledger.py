"""The ledger alone, without Ray: what a trial costs with so many before it, and what reading them all costs."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.storages import RDBStorage

from benchmarks.scaling.study import ask, make_run, plan_of
from benchmarks.scaling.timing import Cost, middle, row, timed
from pkdray.console import Console
from pkdray.files import write_atomic
from pkdray.report import gather, sections
from pkdray.report.page import page
from pkdray.search.ledger import STUDY, Ledger
from pkdray.search.monitor import Monitor
from pkdray.search.results import trials_table
from pkdray.search.run import STUDY_FILE, Run
from pkdray.search.tune import make_scheduler
from pkdray.steps.runs import list_runs, show
from pkdray.training.plan import Plan

Row = dict[str, Any]


def measure(folder: Path, sizes: list[int], *, running: int, repeats: int) -> Iterator[Row]:
    """Rows of the tables "a trial" and "all trials"."""
    for trials in sizes:
        run, plan = make_run(folder / str(trials), trials, min(running, trials // 2))
        for sampler in ("random", "tpe"):
            yield from a_trial(run, plan_of(2 * trials, sampler), trials, sampler, repeats)
        yield from all_trials(run, plan, trials)


def a_trial(run: Run, plan: Plan, trials: int, sampler: str, repeats: int) -> Iterator[Row]:
    """A proposal, a report and an end, with others at once; and a look at how the sweep stands."""
    ledger, rng = run.ledger(), np.random.default_rng(1)
    monitor = Monitor(run, plan, ledger)
    at_once = [trial for trial in ledger.trials() if trial.state.name == "RUNNING"]
    for trial in at_once:
        monitor.started(trial.number, trial.params)
    costs: dict[str, list[Cost]] = {"ask": [], "report": [], "end": [], "look": []}
    for _ in range(repeats):
        number, cost = timed(lambda: ask(ledger, plan))
        costs["ask"].append(cost)
        for epoch in range(1, 4):
            costs["report"].append(timed(lambda: ledger.report(number, epoch, float(rng.random())))[1])  # noqa: B023
        costs["end"].append(timed(lambda: ledger.complete(number, float(rng.random()), {"epochs": 4}))[1])  # noqa: B023
        costs["look"].append(timed(monitor.read)[1])
    for what, several in costs.items():
        yield row(what, middle(several), trials=trials, sampler=sampler, running=len(at_once))


def all_trials(run: Run, plan: Plan, trials: int) -> Iterator[Row]:
    """What a resume, the end of a sweep, and those who look at a run pay; and Optuna's own cache beside ours."""
    study = optuna.load_study(study_name=STUDY, storage=RDBStorage(f"sqlite:///{run.path / STUDY_FILE}"))
    yield row("Optuna: open", timed(lambda: study.get_trials(deepcopy=False))[1], trials=trials)
    yield row("Optuna: a question", timed(lambda: study.get_trials(deepcopy=False))[1], trials=trials)
    ledger, cost = timed(lambda: run.ledger())
    rows = ledger.trials()
    yield row("open", cost, trials=trials, study_bytes=(run.path / STUDY_FILE).stat().st_size)
    released, cost = timed(ledger.release)
    yield row("release", cost, trials=trials, rows=released)
    _, cost = timed(lambda: make_scheduler(plan.config, mode=plan.metric.mode, trials=rows))
    yield row("rungs", cost, trials=trials)
    yield row("first proposal", timed(lambda: ask(ledger, plan))[1], trials=trials)
    yield row("counts and best", timed(lambda: (ledger.counts(), ledger.best()))[1], trials=trials)
    yield row("trials.parquet", timed(lambda: _write(run, ledger))[1], trials=trials)
    silent = Console(as_json=True)
    looks: dict[str, Callable[[], Any]] = {
        "show": lambda: show(str(run.path), run.runs_dir, silent),
        "runs": lambda: list_runs(run.runs_dir, silent),
    }
    for what, look in looks.items():
        yield row(what, timed(lambda: _unseen(look))[1], trials=trials)  # noqa: B023
    facts, cost = timed(lambda: gather(run))
    yield row("report: facts", cost, trials=trials)
    parts, cost = timed(lambda: sections(facts))
    yield row("report: figures", cost, trials=trials)
    text, cost = timed(lambda: page(run.name, parts))
    yield row("report: page", cost, trials=trials, page_bytes=len(text.encode()))


def _write(run: Run, ledger: Ledger) -> None:
    table = trials_table(ledger)
    write_atomic(run.path / "trials.parquet", lambda temporary: table.to_parquet(temporary, index=False))


def _unseen(look: Callable[[], Any]) -> None:
    with redirect_stdout(io.StringIO()):
        look()
