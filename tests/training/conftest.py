"""A taught pool without Ray: what `workers.teach` makes, step by step in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pkdray.data.dataset import Dataset, Modality, write_dataset
from pkdray.training.embed import embed_pool
from pkdray.training.inputs import split_arrays, with_embeddings
from pkdray.training.plan import Plan
from pkdray.training.pools import Pool
from pkdray.training.teachers import load_teacher, train_adapters, train_teacher


@pytest.fixture
def taught(tmp_path: Path) -> Callable[[Plan, Dataset], Pool]:
    """Trains teachers and adapters, writes the embeddings, and declares the pool finished."""

    def make(plan: Plan, dataset: Dataset) -> Pool:
        pool = Pool.at(tmp_path / "pools", plan)
        metrics: dict[str, dict[str, float]] = {}
        for member in plan.pool.values():
            if member.adapter_of is None:
                arrays = split_arrays(plan, dataset, member.modalities)
                metrics[member.name] = train_teacher(plan, member, arrays, pool.teacher(member.name))
        first = plan.pool[plan.first_teacher]
        if any(member.adapter_of for member in plan.pool.values()):
            teacher = load_teacher(plan, first, pool.teacher(first.name))
            arrays = split_arrays(plan, dataset, first.modalities)
            train_adapters(plan, teacher, arrays, pool.adapters(first.name))
        embed_pool(plan, dataset, pool)
        pool.write(plan, {name: metrics.get(name, {}) for name in plan.pool})
        return pool

    return make


@pytest.fixture
def student_arrays() -> Callable[[Plan, Dataset, Pool], dict[str, dict[str, np.ndarray]]]:
    """The arrays that a trial reads: train and val, inputs and what the teachers say."""

    def make(plan: Plan, dataset: Dataset, pool: Pool) -> dict[str, dict[str, np.ndarray]]:
        ids = dataset.samples["sample_id"]
        said = {
            split: pool.load_embeddings(plan, ids.iloc[dataset.rows(split, plan.config.dataset.fold)].tolist())
            for split in ("train", "val")
        }
        return with_embeddings(split_arrays(plan, dataset, plan.prevalent), said, plan.first_teacher)

    return make


@pytest.fixture
def film_of(small_dataset: Callable[..., Dataset], tmp_path: Path) -> Callable[[tuple[int, ...]], Dataset]:
    """``film_of((T, H, W, 3))``: the small dataset with a film a sample, whose brightness tells the class."""

    def make(shape: tuple[int, ...]) -> Dataset:
        dataset = small_dataset()
        rng = np.random.default_rng(7)
        film = rng.integers(0, 60, (len(dataset), *shape)) + 60 * dataset.targets()[:, None, None, None, None]
        modality = Modality(kind="images", shape=shape, rate=25)
        info = dataset.info.model_copy(update={"modalities": {**dataset.info.modalities, "film": modality}})
        features = {name: dataset.features(name) for name in dataset.info.modalities} | {"film": film.astype(np.uint8)}
        return write_dataset(tmp_path / "filmed", info, dataset.samples, features)

    return make
