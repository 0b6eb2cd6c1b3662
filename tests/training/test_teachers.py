"""Teachers and adapters, trained in this process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from pkdray.errors import CheckpointError
from pkdray.training.inputs import as_rows, split_arrays
from pkdray.training.loop import LAST
from pkdray.training.metrics import evaluate
from pkdray.training.plan import Plan
from pkdray.training.teachers import load_adapters, load_teacher, train_adapters, train_teacher

# What a user may have: labels or numbers, a vector or a sequence a sample, one target a sample or a frame.
WORLDS = [
    ("classification", "vectors", "mlp", "concat"),
    ("classification", "sequences", "gru", "gated"),
    ("classification", "frames", "mlp", "concat"),
    ("regression", "vectors", "mlp", "gated"),
    ("regression", "sequences", "mlp", "concat"),
    ("regression", "frames", "gru", "concat"),
]
each_world = pytest.mark.parametrize(("task", "kind", "encoder", "fusion"), WORLDS)


@pytest.fixture
def study(small_dataset, plan):
    def make(task="classification", kind="vectors", encoder="mlp", fusion="concat", **overrides):
        dataset = small_dataset(task, kind)
        return plan(
            dataset,
            {
                "teachers.encoder.kind": encoder,
                "teachers.encoders": {"heart": {"hidden": [4]}},
                "teachers.fusion": fusion,
                **overrides,
            },
        ), dataset

    return make


def train(plan: Plan, dataset, folder: Path, name: str = "joint", **settings) -> dict[str, float]:
    member = plan.pool[name]
    return train_teacher(plan, member, split_arrays(plan, dataset, member.modalities), folder, **settings)


def judged(plan: Plan, dataset, folder: Path, split: str = "val") -> dict[str, float]:
    """The metrics of the teacher in a folder, from its files alone."""
    member = plan.pool["joint"]
    arrays = split_arrays(plan, dataset, member.modalities, [split])[split]
    teacher = load_teacher(plan, member, folder)
    said = teacher({name: torch.from_numpy(arrays[f"input.{name}"]) for name in member.modalities})
    assert not said.prediction.requires_grad
    target = torch.from_numpy(arrays["target"])
    return evaluate(
        as_rows(said.prediction, 1), as_rows(target, 0 if plan.info.task == "classification" else 1), plan.info.task
    )


@each_world
def test_a_teacher_learns_and_is_found_again_in_its_folder(study, tmp_path, task, kind, encoder, fusion):
    plan, dataset = study(task, kind, encoder, fusion, **{"teachers.training.epochs": 12})
    best = train(plan, dataset, tmp_path / "joint")
    found = judged(plan, dataset, tmp_path / "joint")
    assert found == pytest.approx({name: best[name] for name in found}, rel=1e-5)
    # Chance is 1/4 for four classes and 0 for a concordance.
    assert best[plan.metric.name] > (0.6 if task == "classification" else 0.5)
    assert sorted(path.name for path in (tmp_path / "joint").iterdir()) == [
        "config.yaml",
        "curves.parquet",
        "model.safetensors",
    ]
    curves = pd.read_parquet(tmp_path / "joint" / "curves.parquet")
    assert curves["epoch"].tolist() == list(range(1, len(curves) + 1))
    assert curves["train/loss"].iloc[-1] < curves["train/loss"].iloc[0]
    assert curves.loc[curves["epoch"] == best["epoch"], plan.metric.name].item() == best[plan.metric.name]
    config = yaml.safe_load((tmp_path / "joint" / "config.yaml").read_text())
    assert config["name"] == "joint"
    assert config["modalities"] == ["face", "voice", "heart"]


@each_world
def test_the_same_teacher_twice(study, tmp_path, task, kind, encoder, fusion):
    plan, dataset = study(task, kind, encoder, fusion)
    torch.manual_seed(1)
    first = train(plan, dataset, tmp_path / "one")
    torch.manual_seed(2)
    assert train(plan, dataset, tmp_path / "two") == first
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert files[0] == files[1]


def test_another_seed_is_another_teacher(study, tmp_path):
    plan, dataset = study()
    other, _ = study(seed=4)
    train(plan, dataset, tmp_path / "one")
    train(other, dataset, tmp_path / "two")
    one, two = (
        load_teacher(study, study.pool["joint"], tmp_path / name) for study, name in ((plan, "one"), (other, "two"))
    )
    assert not torch.equal(one.head.weight, two.head.weight)


def test_two_teachers_of_a_pool_start_from_different_weights(study, tmp_path):
    pool = [{"name": "joint"}, {"name": "twin"}]
    plan, dataset = study(**{"teachers.pool": pool, "teachers.training.epochs": 1})
    for name in ("joint", "twin"):
        train(plan, dataset, tmp_path / name, name)
    one, two = (load_teacher(plan, plan.pool[name], tmp_path / name) for name in ("joint", "twin"))
    assert not torch.equal(one.head.weight, two.head.weight)


def test_a_finished_teacher_is_left_as_it_is(study, tmp_path):
    plan, dataset = study()
    first = train(plan, dataset, tmp_path / "joint")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "joint").iterdir()}

    def never(_metrics):
        raise AssertionError("it was trained again")

    assert train(plan, dataset, tmp_path / "joint", report=never) == first
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "joint").iterdir()} == before


def test_the_teacher_of_another_study_is_replaced(study, tmp_path):
    plan, dataset = study()
    other, _ = study(**{"teachers.embedding": 8})
    train(other, dataset, tmp_path / "joint")
    train(plan, dataset, tmp_path / "joint")
    train(plan, dataset, tmp_path / "fresh")
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("joint", "fresh")]
    assert files[0] == files[1]


def test_an_interrupted_teacher_is_continued(study, tmp_path):
    plan, dataset = study(**{"teachers.training.checkpoint_every": 2})
    epochs: list[float] = []

    def interrupt(metrics):
        if metrics["epoch"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(plan, dataset, tmp_path / "joint", report=interrupt)
    assert (tmp_path / "joint" / LAST).exists()
    train(plan, dataset, tmp_path / "joint", report=lambda metrics: epochs.append(metrics["epoch"]))
    train(plan, dataset, tmp_path / "whole")
    assert epochs == [3, 4]
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("joint", "whole")]
    assert files[0] == files[1]
    pd.testing.assert_frame_equal(*(pd.read_parquet(tmp_path / name / "curves.parquet") for name in ("joint", "whole")))


def test_test_labels_do_not_reach_a_teacher(study, tmp_path, monkeypatch):
    plan, dataset = study()
    train(plan, dataset, tmp_path / "one")
    targets = dataset.targets()
    targets[dataset.rows("test")] = (targets[dataset.rows("test")] + 1) % 4
    monkeypatch.setattr(type(dataset), "targets", lambda self: targets)
    train(plan, dataset, tmp_path / "two")
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert files[0] == files[1]


def test_a_damaged_teacher_is_told(study, tmp_path):
    plan, dataset = study()
    train(plan, dataset, tmp_path / "joint")
    path = tmp_path / "joint" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is truncated"):
        load_teacher(plan, plan.pool["joint"], tmp_path / "joint")
    other, _ = study(**{"teachers.embedding": 8})
    train(plan, dataset, tmp_path / "joint")
    with pytest.raises(CheckpointError, match="does not fit the network"):
        load_teacher(other, other.pool["joint"], tmp_path / "joint")


@each_world
def test_adapters_recycle_a_frozen_teacher(study, tmp_path, task, kind, encoder, fusion):
    plan, dataset = study(
        task,
        kind,
        encoder,
        fusion,
        **{
            "teachers.training.epochs": 12,
            "teachers.adapters.hidden": [12],
            "teachers.adapters.training": {"epochs": 25, "batch_size": 23, "learning_rate": 0.02},
        },
    )
    train(plan, dataset, tmp_path / "joint")
    arrays = split_arrays(plan, dataset, ["face", "voice", "heart"])
    teacher = load_teacher(plan, plan.pool["joint"], tmp_path / "joint")
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    best = train_adapters(plan, teacher, arrays, tmp_path / "joint.adapters")
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    adapters = load_adapters(plan, tmp_path / "joint.adapters")
    val = arrays["val"]
    said = teacher({name: torch.from_numpy(val[f"input.{name}"]) for name in plan.pool["joint"].modalities})
    target = as_rows(torch.from_numpy(val["target"]), 0 if task == "classification" else 1)
    found = {}
    for name, (embedding, prediction) in adapters(said.features).items():
        assert embedding.shape == said.embedding.shape
        found[name] = evaluate(as_rows(prediction, 1), target, task)
        for metric, value in found[name].items():
            assert best[f"{name}/{metric}"] == pytest.approx(value, rel=1e-5)
    metric = plan.metric.name
    assert best[metric] == pytest.approx(np.mean([scores[metric] for scores in found.values()]), rel=1e-5)
    # voice says the most of the target, and an adapter on it must have learnt that.
    assert found["voice"][metric] > (0.5 if task == "classification" else 0.4)
    curves = pd.read_parquet(tmp_path / "joint.adapters" / "curves.parquet")
    assert curves["train/alignment"].iloc[-1] < curves["train/alignment"].iloc[0]
    np.testing.assert_allclose(
        curves["train/loss"], 0.5 * curves["train/alignment"] + 0.5 * curves["train/task"], rtol=1e-5
    )


def test_the_same_adapters_twice_and_finished_ones_are_kept(study, tmp_path):
    plan, dataset = study()
    train(plan, dataset, tmp_path / "joint")
    arrays = split_arrays(plan, dataset, ["face", "voice", "heart"])
    for name in ("one", "two"):
        teacher = load_teacher(plan, plan.pool["joint"], tmp_path / "joint")
        train_adapters(plan, teacher, arrays, tmp_path / name)
    files = [(tmp_path / name / "model.safetensors") for name in ("one", "two")]
    assert files[0].read_bytes() == files[1].read_bytes()
    before = files[0].stat().st_mtime_ns
    train_adapters(plan, teacher, arrays, tmp_path / "one")
    assert files[0].stat().st_mtime_ns == before


def test_adapters_of_an_earlier_teacher_are_not_kept(study, tmp_path):
    plan, dataset = study()
    train(plan, dataset, tmp_path / "joint")
    arrays = split_arrays(plan, dataset, ["face", "voice", "heart"])
    teacher = load_teacher(plan, plan.pool["joint"], tmp_path / "joint")
    train_adapters(plan, teacher, arrays, tmp_path / "adapters")
    before = (tmp_path / "adapters" / "model.safetensors").read_bytes()
    # As after a loss of the teacher's folder, on a device whose sums come out otherwise.
    with torch.no_grad():
        for value in teacher.parameters():
            value.add_(0.01)
    train_adapters(plan, teacher, arrays, tmp_path / "adapters")
    assert (tmp_path / "adapters" / "model.safetensors").read_bytes() != before
