"""Four nodes of one CPU each, and a small study of the bundled digits whose one teacher is trained already."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from nodes import Nodes

from pkdray.config import apply_overrides, build_config
from pkdray.data.dataset import open_dataset
from pkdray.search.run import POOLS
from pkdray.training.embed import embed_pool
from pkdray.training.inputs import split_arrays
from pkdray.training.plan import make_plan
from pkdray.training.pools import Pool
from pkdray.training.teachers import train_teacher

STUDY: dict[str, Any] = {
    "name": "nodes",
    "seed": 5,
    "dataset": {"path": "mfeat", "prevalent": ["fou"], "privileged": ["mor"]},
    "teachers": {
        "pool": [{"name": "joint"}],
        "encoder": {"hidden": [13]},
        "embedding": 11,
        "training": {"epochs": 3, "batch_size": 97, "learning_rate": 0.01},
        "adapters": {"enabled": False},
    },
    "student": {"encoder": {"hidden": [12]}, "tnet": {"training": "none"}},
    "method": {"name": "pkd"},
    "training": {"epochs": 60, "patience": 60, "batch_size": 53, "learning_rate": 0.01, "checkpoint_every": 5},
    "search": {
        "trials": 8,
        "sampler": "random",
        "asha": None,
        "space": {"training.learning_rate": {"float": [1e-4, 3e-2], "log": True}},
    },
}


@pytest.fixture(scope="session")
def four() -> Iterator[Nodes]:
    """A head and three nodes; who kills one adds another."""
    nodes = Nodes(further=3)
    try:
        yield nodes
    finally:
        nodes.close()


@pytest.fixture(scope="session")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pools with that of the study, made without Ray."""
    dataset = open_dataset("mfeat")
    plan = make_plan(build_config(STUDY), dataset)
    folder = tmp_path_factory.mktemp("taught") / POOLS
    pool = Pool.at(folder, plan)
    (member,) = plan.pool.values()
    scores = train_teacher(plan, member, split_arrays(plan, dataset, member.modalities), pool.teacher(member.name))
    embed_pool(plan, dataset, pool)
    pool.write(plan, {member.name: {"accuracy": scores["accuracy"]}})
    return folder


@pytest.fixture
def home(tmp_path: Path, taught: Path) -> Callable[..., Path]:
    """A user's folder with the study's YAML and, unless it is to be taught, its pool: ``home({"seed": 3})``."""

    def make(overrides: dict[str, Any] | None = None, *, pool: bool = True) -> Path:
        config = build_config(apply_overrides(STUDY, overrides or {}))
        (tmp_path / "space.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json", by_alias=True)))
        if pool:
            shutil.copytree(taught, tmp_path / "runs" / POOLS)
        return tmp_path

    return make
