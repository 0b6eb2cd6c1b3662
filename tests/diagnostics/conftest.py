"""Small runs with one trained trial each, without Ray; those of one dataset share their teacher pool."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pkdray.data.dataset import Dataset
from pkdray.search.run import POOLS, Run, sampler_for
from pkdray.search.sweep import study_arrays
from pkdray.search.trial import run_trial
from pkdray.training.embed import embed_pool
from pkdray.training.inputs import split_arrays
from pkdray.training.plan import Plan
from pkdray.training.pools import Pool
from pkdray.training.teachers import load_teacher, train_adapters, train_teacher


@dataclass(frozen=True)
class Trained:
    """A run whose trial 0 is complete, and what it was made of."""

    run: Run
    plan: Plan
    dataset: Dataset
    pool: Pool

    @property
    def all(self) -> tuple[Run, Plan, Dataset, Pool]:
        return self.run, self.plan, self.dataset, self.pool


@pytest.fixture
def trained(tmp_path: Path, plan: Callable[..., Plan]) -> Callable[..., Trained]:
    """``trained(dataset, {"method.name": "pkd"}, name="run")``: teaches the pool if need be, and trains one trial."""

    def make(dataset: Dataset, overrides: Mapping[str, Any], name: str = "run") -> Trained:
        made = plan(dataset, {"dataset.path": str(dataset.path), "search.trials": 1, **overrides})
        pool = Pool.at(tmp_path / "runs" / POOLS, made)
        if not pool.finished:
            _teach(made, dataset, pool)
        run = Run.create(tmp_path / "runs" / name, made)
        ledger = run.ledger()
        number = ledger.ask(sampler_for(made.config)).number
        summary = run_trial(made, {}, study_arrays(made, dataset, pool), run.trial(number), tnets=pool.tnets)
        ledger.complete(number, summary.pop("value"), summary)
        return Trained(run, made, dataset, pool)

    return make


def _teach(plan: Plan, dataset: Dataset, pool: Pool) -> None:
    metrics: dict[str, dict[str, float]] = {}
    for member in plan.pool.values():
        if member.adapter_of is None:
            arrays = split_arrays(plan, dataset, member.modalities)
            metrics[member.name] = train_teacher(plan, member, arrays, pool.teacher(member.name))
    first = plan.pool[plan.first_teacher]
    teacher = load_teacher(plan, first, pool.teacher(first.name))
    train_adapters(plan, teacher, split_arrays(plan, dataset, first.modalities), pool.adapters(first.name))
    embed_pool(plan, dataset, pool)
    pool.write(plan, {name: metrics.get(name, {}) for name in plan.pool})
