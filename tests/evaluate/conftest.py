"""A finished run of three trials, made without Ray, to be evaluated."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pkdray.config import apply_overrides, build_config
from pkdray.data.dataset import Dataset, open_dataset
from pkdray.evaluate import Request, evaluate_run
from pkdray.search.results import write_results
from pkdray.search.run import POOLS, Run, fixed_values, sampler_for
from pkdray.search.space import suggest
from pkdray.search.sweep import study_arrays
from pkdray.search.trial import run_trial
from pkdray.training.embed import embed_pool
from pkdray.training.inputs import split_arrays
from pkdray.training.plan import Plan, make_plan
from pkdray.training.pools import Pool
from pkdray.training.teachers import train_teacher

STUDY: dict[str, Any] = {
    "name": "honest",
    "seed": 5,
    "dataset": {"path": "mfeat", "prevalent": ["fou"], "privileged": ["mor", "zer"]},
    "teachers": {
        "encoder": {"hidden": [13], "dropout": 0.1},
        "embedding": 11,
        "training": {"epochs": 5, "batch_size": 97, "learning_rate": 0.01},
        "adapters": {"enabled": False},
    },
    "student": {"encoder": {"hidden": [12], "dropout": 0.1}, "tnet": {"hidden": [9], "fit": {"epochs": 2}}},
    "method": {"name": "kl"},
    "training": {"epochs": 3, "batch_size": 97, "learning_rate": 0.0001},
    "search": {
        "trials": 3,
        "sampler": "grid",
        "space": {"training.learning_rate": {"choice": [0.01, 0.001]}, "training.batch_size": {"choice": [97, 53]}},
    },
}


@dataclass(frozen=True)
class World:
    """A run and what it was made of."""

    run: Run
    plan: Plan
    dataset: Dataset

    @property
    def pool(self) -> Pool:
        return self.run.pool(self.plan)

    def evaluate(self, on_progress: Any = None, **asked: Any) -> dict[str, Any]:
        return evaluate_run(self.run, self.plan, self.dataset, self.taught, Request(**asked), on_progress)

    def taught(self, plan: Plan) -> Pool:
        return taught(plan, self.dataset, self.run.runs_dir / POOLS)


def taught(plan: Plan, dataset: Dataset, pools: Path) -> Pool:
    """The plan's pool, trained here and not by Ray Train."""
    pool = Pool.at(pools, plan)
    if not pool.finished:
        (member,) = plan.pool.values()
        arrays = split_arrays(plan, dataset, member.modalities)
        metrics = train_teacher(plan, member, arrays, pool.teacher(member.name))
        embed_pool(plan, dataset, pool)
        pool.write(plan, {member.name: metrics})
    return pool


@pytest.fixture(scope="session")
def make_world() -> Callable[..., World]:
    """Runs the trials of a study without Ray: ``make_world(folder, dataset, overrides)``."""

    def make(runs: Path, dataset: Dataset, overrides: Mapping[str, Any] | None = None) -> World:
        plan = make_plan(build_config(apply_overrides(STUDY, overrides or {})), dataset)
        pool = taught(plan, dataset, runs / POOLS)
        run = Run.create(runs / "honest", plan)
        ledger = run.ledger()
        for _ in range(plan.config.search.trials):
            trial = ledger.ask(sampler_for(plan.config))
            drawn = suggest(plan.config.search.space, trial, fixed_values(plan.config))
            summary = run_trial(plan, drawn, study_arrays(plan, dataset, pool), run.trial(trial.number))
            ledger.complete(trial.number, summary["value"], summary)
        write_results(run, plan, dataset, ledger)
        return World(run, plan, dataset)

    return make


@pytest.fixture(scope="session")
def finished(make_world: Callable[..., World], tmp_path_factory: pytest.TempPathFactory) -> World:
    """Three trials of kl; look at them, or copy them with `copied`."""
    return make_world(tmp_path_factory.mktemp("runs"), open_dataset("mfeat"))


@pytest.fixture
def copied(finished: World, tmp_path: Path) -> World:
    """A copy of the finished run, not evaluated, to be changed."""
    return copy_of(finished, tmp_path)


@pytest.fixture(scope="session")
def evaluated(finished: World, local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[World, Any]:
    """The finished run's copy, evaluated with two seeds."""
    world = copy_of(finished, tmp_path_factory.mktemp("evaluated"))
    return world, world.evaluate(seeds=2)


@pytest.fixture
def evaluated_copy(evaluated: tuple[World, Any], tmp_path: Path) -> World:
    """A copy of the evaluated run, to be changed."""
    return copy_of(evaluated[0], tmp_path)


def copy_of(world: World, folder: Path) -> World:
    shutil.copytree(world.run.runs_dir, folder, dirs_exist_ok=True)
    return World(Run(folder / world.run.name), world.plan, world.dataset)
