"""The bytes to hold, counted before there is a teacher, against the arrays that a sweep really shares."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pkdray.data.dataset import Dataset
from pkdray.doctor.holdings import held_bytes
from pkdray.search.sweep import study_arrays
from pkdray.training.embed import embed_pool
from pkdray.training.inputs import split_arrays
from pkdray.training.plan import Plan
from pkdray.training.pools import Pool
from pkdray.training.teachers import load_teacher, train_adapters, train_teacher


@pytest.mark.parametrize(
    ("task", "kind", "adapters"),
    [("classification", "vectors", False), ("regression", "frames", False), ("classification", "sequences", True)],
)
def test_the_count_is_that_of_the_arrays(
    small_dataset: Callable[..., Dataset],
    plan: Callable[..., Plan],
    tmp_path: Path,
    task: str,
    kind: str,
    adapters: bool,
) -> None:
    dataset = small_dataset(task, kind)
    teachers = [{"name": "joint"}, {"name": "sound", "modalities": ["face", "voice"]}]
    study = plan(dataset, {"teachers.pool": teachers, "teachers.adapters.enabled": adapters})
    assert len(study.pool) == 2 + 3 * adapters
    pool = Pool.at(tmp_path, study)
    for member in study.pool.values():
        if member.adapter_of is None:
            train_teacher(study, member, split_arrays(study, dataset, member.modalities), pool.teacher(member.name))
    first = study.pool[study.first_teacher]
    if adapters:
        teacher = load_teacher(study, first, pool.teacher(first.name))
        train_adapters(study, teacher, split_arrays(study, dataset, first.modalities), pool.adapters(first.name))
    embed_pool(study, dataset, pool)
    arrays = study_arrays(study, dataset, pool)
    counted = sum(
        values.nbytes for split in arrays.values() for values in split.values() if isinstance(values, np.ndarray)
    )
    assert held_bytes(study, dataset) == counted > 0
