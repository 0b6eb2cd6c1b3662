"""Teaching through Ray Train: several teachers at once, what is whole is kept, the same numbers as without Ray."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from patience import PATIENCE_SECONDS

from pkdray.data.dataset import open_dataset
from pkdray.embeddings import read_embeddings
from pkdray.errors import CheckpointError, DivergedError
from pkdray.locks import own_note
from pkdray.training.inputs import split_arrays
from pkdray.training.metrics import evaluate
from pkdray.training.pools import LOCK_FILE, Pool
from pkdray.training.teachers import load_teacher, train_teacher
from pkdray.training.workers import teach

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("local_ray")]

TWO = [{"name": "joint"}, {"name": "duo", "modalities": ["voice", "heart"]}]


def contents(pool: Pool) -> dict[str, bytes]:
    files = (path for path in pool.path.rglob("*") if path.is_file() and path.name != LOCK_FILE)
    return {str(path.relative_to(pool.path)): path.read_bytes() for path in files}


def never(name, _metrics):
    raise AssertionError(f"{name} was trained again")


def test_two_teachers_are_taught_reused_and_continued(small_dataset, plan, taught, tmp_path, monkeypatch):
    # Paths as a user types them, from a folder that is not the one where Ray was started.
    monkeypatch.chdir(tmp_path)
    dataset = open_dataset(small_dataset().path.relative_to(tmp_path))
    study = plan(dataset, {"teachers.pool": TWO})
    told: dict[str, dict[str, float]] = {}
    pool = teach(study, dataset, Path("under-ray"), lambda name, metrics: told.update({name: metrics}))
    assert pool.finished
    pool.verify(study)
    first = contents(pool)
    assert sorted(first) == [
        "duo/config.yaml",
        "duo/curves.parquet",
        "duo/model.safetensors",
        *(f"embeddings/{name}.parquet" for name in ("duo", "face", "heart", "joint", "voice")),
        "joint.adapters/config.yaml",
        "joint.adapters/curves.parquet",
        "joint.adapters/model.safetensors",
        "joint/config.yaml",
        "joint/curves.parquet",
        "joint/model.safetensors",
        "pool.yaml",
    ]
    assert sorted(told) == ["duo", "joint"]
    recorded = pool.read()["teachers"]
    assert {name: recorded[name]["validation"] for name in told} == told
    assert set(told["joint"]) == {"accuracy", "balanced_accuracy", "macro_f1"}
    assert set(recorded["voice"]["validation"]) == set(told["joint"])

    # The same numbers as in this process alone, bit for bit.
    alone = contents(taught(study, dataset))
    assert sorted(alone) == sorted(first)
    for name in set(first) - {"pool.yaml"}:
        assert first[name] == alone[name], name

    # Finished: reused without a look at Ray.
    assert contents(teach(study, dataset, Path("under-ray"), never)) == first

    # Damaged: told, before anything is started.
    path = pool.teacher("duo") / "model.safetensors"
    path.write_bytes(first["duo/model.safetensors"][:-1] + b"\x01")
    with pytest.raises(
        CheckpointError, match=r"damaged:\n.* duo/model\.safetensors is missing or not what was written"
    ):
        teach(study, dataset, Path("under-ray"), never)

    # Unfinished, with one teacher lost: that one alone is trained, to the same weights.
    (pool.path / "pool.yaml").unlink()
    shutil.rmtree(pool.teacher("duo"))
    pool.tnets.mkdir()
    (pool.tnets / "stale.safetensors").write_bytes(b"of the lost teacher")
    kept = {name: (pool.path / name).stat().st_mtime_ns for name in first if name.startswith("joint")}
    again = teach(study, dataset, Path("under-ray"))
    assert {name: (pool.path / name).stat().st_mtime_ns for name in kept} == kept
    assert contents(again) == first


def test_two_who_need_one_pool_at_once_train_it_once(small_dataset, plan, tmp_path, monkeypatch):
    monkeypatch.setattr("pkdray.training.pools.LOOK_SECONDS", 0.01)
    dataset = small_dataset()
    study = plan(dataset, {"teachers.training.epochs": 2, "teachers.adapters.enabled": False})
    waits, waited, first, second = threading.Event(), [], [], []

    def wait(holder: str | None) -> None:
        waited.append(holder)
        waits.set()

    def follow() -> None:
        second.append(teach(study, dataset, tmp_path / "pools", never, wait))

    other = threading.Thread(target=follow)

    def trained(name, _metrics):
        first.append(name)
        other.start()
        assert waits.wait(PATIENCE_SECONDS), "the second one waits while the first trains"

    made = teach(study, dataset, tmp_path / "pools", trained)
    kept = contents(made)
    other.join(PATIENCE_SECONDS)
    assert (first, second) == (["joint"], [made])
    assert waited[0] == own_note()
    assert contents(second[0]) == kept


def test_two_workers_make_one_teacher_that_works(small_dataset, plan, tmp_path):
    dataset = small_dataset()
    overrides = {
        "resources.workers_per_teacher": 2,
        "teachers.adapters.enabled": False,
        "teachers.training.epochs": 12,
        "teachers.encoder.dropout": 0.0,
    }
    study = plan(dataset, overrides)
    pool = teach(study, dataset, tmp_path / "pools")
    pool.verify(study)
    joint = study.pool["joint"]
    teacher = load_teacher(study, joint, pool.teacher("joint"))
    arrays = split_arrays(study, dataset, joint.modalities)
    val = arrays["val"]
    said = teacher({name: torch.from_numpy(val[f"input.{name}"]) for name in joint.modalities})
    scores = evaluate(said.prediction, torch.from_numpy(val["target"]), "classification")
    assert scores["accuracy"] > 0.6
    assert scores == pytest.approx(pool.read()["teachers"]["joint"]["validation"], rel=1e-6)
    assert len(read_embeddings(pool.embeddings("joint"))[0]) == 131
    # Without dropout, batches of 17 in shares of 9 train as they would whole.
    alone = train_teacher(study, joint, arrays, tmp_path / "alone")
    assert alone["accuracy"] == pytest.approx(scores["accuracy"], abs=0.02)
    curves, expected = (
        pd.read_parquet(folder / "curves.parquet") for folder in (pool.teacher("joint"), tmp_path / "alone")
    )
    np.testing.assert_allclose(curves["train/loss"], expected["train/loss"], rtol=1e-4)


def test_a_teacher_that_diverges_is_told_in_its_own_words(small_dataset, plan, tmp_path):
    dataset = small_dataset()
    # Each step multiplies the weights by 1 - 10 * 10.
    sgd = {"optimizer": "sgd", "learning_rate": 10, "weight_decay": 10, "batch_size": 17}
    study = plan(dataset, {"teachers.adapters.enabled": False, "teachers.training": sgd})
    with pytest.raises(DivergedError, match=r"became (nan|inf) in epoch \d"):
        teach(study, dataset, tmp_path / "pools")
    assert not Pool.at(tmp_path / "pools", study).finished
