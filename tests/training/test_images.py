"""Teacher and student on images that stay on disk: the same loop, the same steps, another array."""

from __future__ import annotations

import numpy as np
import pytest

from pkdray.config import Config
from pkdray.data.mapped import MappedArray
from pkdray.training.inputs import student_rows
from pkdray.training.plan import make_plan
from pkdray.training.students import scores, train_student

SHAPE = (1, 33, 35, 3)
QUICK = {"epochs": 1, "batch_size": 17, "checkpoint_every": 1}


@pytest.fixture
def filmed(film_of):
    return film_of(SHAPE)


@pytest.fixture
def study(filmed):
    config = Config.model_validate(
        {
            "name": "film",
            "dataset": {"path": str(filmed.path), "prevalent": ["film"], "privileged": ["voice"]},
            "teachers": {
                "encoders": {"film": {"kind": "resnet18"}},
                "adapters": {"enabled": False},
                "training": QUICK,
            },
            "student": {"encoders": {"film": {"kind": "resnet18"}}, "tnet": {"training": "none"}},
            "method": {"name": "pkdot", "top_k": 5},
            "training": QUICK,
        }
    )
    return make_plan(config, filmed)


@pytest.mark.slow
def test_from_a_film_to_a_student_and_where_the_film_lies_makes_no_difference(study, filmed, taught, student_arrays):
    pool = taught(study, filmed)
    said = pool.load_embeddings(study, filmed.samples["sample_id"].tolist())["joint"]
    assert np.isfinite(said.embedding).all()
    arrays = student_arrays(study, filmed, pool)
    assert isinstance(arrays["train"]["input.film"], MappedArray)
    on_disk = train_student(study, study.config, arrays, seed=3)
    in_memory = train_student(
        study,
        study.config,
        {split: named | {"input.film": named["input.film"].gather()} for split, named in arrays.items()},
        seed=3,
    )
    assert [epoch["train/loss"] for epoch in on_disk.history] == [epoch["train/loss"] for epoch in in_memory.history]
    assert on_disk.best == in_memory.best
    val = student_rows(arrays["val"], study.prevalent, [], privileged=False)
    assert set(scores(on_disk.model, val, study)) >= {"accuracy", "macro_f1"}
