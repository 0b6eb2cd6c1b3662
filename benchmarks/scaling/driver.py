"""The driver of a sweep on Ray, with trials that say much and train nothing: what a trial and a report cost it."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Any

import ray

from benchmarks.scaling.study import plan_of
from benchmarks.scaling.timing import load, row, timed
from pkdray.embeddings import SharedArrays
from pkdray.search import sweep as sweep_module
from pkdray.search.monitor import Monitor
from pkdray.search.reports import ENTRY, EPOCH, FAILED, SUMMARY, VALUE, outcome
from pkdray.search.run import Run

Row = dict[str, Any]


def measure(folder: Path, trials: int, reports: int, at_once: int) -> Iterator[Row]:
    """Two sweeps, of many short trials and of few talkative ones, from which both costs follow; needs a Ray."""
    shared = SharedArrays.put({})
    talk(folder / "warm", shared, 2 * at_once, 1, at_once)
    short = talk(folder / "short", shared, trials, 1, at_once)
    long = talk(folder / "long", shared, max(at_once, trials // 10), reports, at_once)
    yield from (short, long)
    more = long["trials"] * reports - long["trials"]
    cpu = long["cpu_seconds"] - short["cpu_seconds"] * long["trials"] / trials
    wall = long["wall_seconds"] - short["wall_seconds"] * long["trials"] / trials
    yield {
        "what": "a report",
        "cpu_seconds": round(cpu / more, 6),
        "wall_seconds": round(wall / more, 6),
        "reports_a_second_of_driver_cpu": round(more / cpu, 1),
    }
    yield {
        "what": "a trial",
        "cpu_seconds": round(short["cpu_seconds"] / trials, 6),
        "wall_seconds": round(short["wall_seconds"] / trials, 6),
    }


def talk(folder: Path, shared: SharedArrays, trials: int, reports: int, at_once: int) -> Row:
    """One sweep of trials that report ``reports`` epochs, the last as their end, through all that a sweep has."""
    plan = plan_of(
        trials,
        "random",
        training={"epochs": reports},
        resources={"concurrent_trials": at_once},
        search={"trials": trials, "sampler": "random", "asha": None, "space": SPACE},
    )
    run = Run.create(folder, plan)
    dataset = run.dataset()
    assert dataset is not None
    ledger = run.ledger()
    trains = sweep_module._tune_trial
    sweep_module._tune_trial = talking  # type: ignore[assignment]
    try:
        with run.lock():
            monitor = Monitor(run, plan, ledger)
            _, cost = timed(lambda: sweep_module._fit(run, plan, run.pool(plan), ledger, shared, monitor))
    finally:
        sweep_module._tune_trial = trains
    counts = ledger.counts()
    assert counts.complete == trials, counts
    return row(
        "sweep",
        cost,
        trials=trials,
        reports=reports,
        at_once=at_once,
        nodes=len([node for node in ray.nodes() if node["Alive"]]),
        driver_peak_bytes=1024 * getrusage(RUSAGE_SELF).ru_maxrss,
        load=load(),
    )


SPACE: Mapping[str, Any] = {
    "training.learning_rate": {"float": [1e-4, 3e-2], "log": True},
    "method.name": {"choice": ["kl", "pkd"]},
    "method.alpha": {"float": [0.1, 0.9]},
}


def talking(_: dict[str, Any], *, plan: Any, **__: Any) -> None:
    """A trial that says what one that trains says, and trains nothing."""
    from ray import tune

    started = time.monotonic()
    epochs = plan.config.training.epochs
    for epoch in range(1, epochs):
        entry = {
            "epoch": epoch,
            "best": epoch / epochs,
            "accuracy": epoch / epochs,
            "train/loss": 1 / epoch,
            "train/task": 0.5 / epoch,
            "train/distillation": 0.5 / epoch,
            "finished": False,
            "node": platform.node(),
            "device": "cpu",
        }
        tune.report({EPOCH: epoch, VALUE: entry["best"], SUMMARY: "", FAILED: "", ENTRY: json.dumps(entry)})
    seconds = time.monotonic() - started
    tune.report(outcome({"value": 1.0, "epochs": epochs, "epoch": epochs, "metrics": {}, "seconds": seconds}))
