"""A small study of the bundled digits, taught without Ray; and one sweep through Ray that several files look at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pkdray.config import Config, apply_overrides, build_config
from pkdray.data.dataset import Dataset, open_dataset
from pkdray.search import monitor
from pkdray.search.run import POOLS, Run
from pkdray.search.sweep import Progress, sweep
from pkdray.training.embed import embed_pool
from pkdray.training.inputs import split_arrays
from pkdray.training.plan import Plan, make_plan
from pkdray.training.pools import Pool
from pkdray.training.teachers import load_teacher, train_adapters, train_teacher

DIGITS: dict[str, Any] = {
    "name": "digits",
    "seed": 3,
    "dataset": {"path": "mfeat", "prevalent": ["fou"], "privileged": ["mor", "zer"]},
    "teachers": {
        "pool": [{"name": "joint"}, {"name": "shape", "modalities": ["fou", "mor"]}],
        "encoder": {"hidden": [13], "dropout": 0.1},
        "embedding": 11,
        "training": {"epochs": 4, "batch_size": 97, "learning_rate": 0.01},
        "adapters": {"hidden": [7], "training": {"epochs": 2, "batch_size": 97}},
    },
    "student": {
        "encoder": {"hidden": [12], "dropout": 0.1},
        "tnet": {"hidden": [9], "dropout": 0.1, "fit": {"epochs": 2, "batch_size": 97}},
    },
    "method": {"name": "pkd"},
    "training": {"epochs": 9, "batch_size": 97, "learning_rate": 0.01, "checkpoint_every": 2},
    "search": {
        "trials": 7,
        "startup_trials": 3,
        "asha": {"grace_epochs": 2, "reduction_factor": 2},
        "space": {
            "training.learning_rate": {"float": [1e-4, 3e-2], "log": True},
            "method.name": {"choice": ["kl", "pkd", "pkdot", "mt-pkdot"]},
            "method.alpha": {"float": [0.1, 0.9]},
            "method.top_k": {"int": [3, 20], "when": {"method.name": ["pkdot", "mt-pkdot"]}},
            "method.teachers": {"subset": ["joint", "shape", "zer"], "min": 2, "when": {"method.name": "mt-pkdot"}},
        },
    },
}


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return open_dataset("mfeat")


@pytest.fixture(scope="session")
def config() -> Callable[..., Config]:
    """The config of the small study: ``config({"search.trials": 3})``."""

    def make(overrides: Mapping[str, Any] | None = None) -> Config:
        return build_config(apply_overrides(DIGITS, overrides or {}))

    return make


@pytest.fixture(scope="session")
def study(config: Callable[..., Config], digits: Dataset) -> Callable[..., Plan]:
    """Resolves the small study: ``study({"search.trials": 3})``."""

    def make(overrides: Mapping[str, Any] | None = None) -> Plan:
        return make_plan(config(overrides), digits)

    return make


@pytest.fixture(scope="session")
def pools(study: Callable[..., Plan], digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the finished pool of the small study, made without Ray; copy it, or write nothing into it."""
    plan = study()
    folder = tmp_path_factory.mktemp("taught") / POOLS
    pool = Pool.at(folder, plan)
    metrics = {
        member.name: train_teacher(
            plan, member, split_arrays(plan, digits, member.modalities), pool.teacher(member.name)
        )
        for member in plan.pool.values()
        if member.adapter_of is None
    }
    first = plan.pool[plan.first_teacher]
    teacher = load_teacher(plan, first, pool.teacher(first.name))
    train_adapters(plan, teacher, split_arrays(plan, digits, first.modalities), pool.adapters(first.name))
    embed_pool(plan, digits, pool)
    pool.write(plan, {name: {"accuracy": metrics.get(name, {}).get("accuracy", 0.0)} for name in plan.pool})
    return folder


@dataclass(frozen=True)
class Swept:
    """A finished run, and what it was made of."""

    run: Run
    plan: Plan
    dataset: Dataset
    pool: Pool
    progress: list[Progress]
    last: Progress


@pytest.fixture(scope="session")
def swept(
    study: Callable[..., Plan],
    digits: Dataset,
    pools: Path,
    local_ray: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Swept:
    """One sweep of seven trials over four methods with ASHA, through Ray; look at it, change nothing.

    One trial at a time: of several at once, which come first to a rung, and so whether ASHA stops any, is chance.
    """
    plan = study({"resources.concurrent_trials": 1})
    run = Run.create(tmp_path_factory.mktemp("runs") / "digits", plan)
    pool = Pool.at(pools, plan)
    seen: list[Progress] = []
    with pytest.MonkeyPatch.context() as patch, run.lock():
        # These trials are short: every step of Tune's loop is told, or a trial's epochs might pass between two looks.
        patch.setattr(monitor, "_PROGRESS_SECONDS", 0)
        patch.setattr(monitor, "_SHARE", 0)
        last = sweep(run, plan, digits, pool, seen.append)
    return Swept(run, plan, digits, pool, seen, last)
