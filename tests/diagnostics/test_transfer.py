"""Negative transfer: the replay is the training, row by row."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from pkdray.data.dataset import write_dataset
from pkdray.diagnostics import negative_transfer
from pkdray.errors import RunError
from pkdray.search.run import Run, sampler_for
from pkdray.search.trial import CURVES
from pkdray.training.loop import derive_seed

POOL = ["joint", "voice", "heart"]
CASES = {
    "pkd, no gate": {"method.name": "pkd"},
    "pkd, gated": {"method.name": "pkd", "method.theta": 0.4},
    "kl, gated, by sample": {
        "method.name": "kl",
        "method.theta": 0.15,
        "method.selection": "sample",
        "method.teachers": POOL,
    },
    "crd, gated, confidence": {
        "method.name": "crd",
        "method.theta": 0.45,
        "method.selection": "confidence",
        "method.teachers": POOL,
    },
    "mt-pkdot, by batch": {"method.name": "mt-pkdot", "method.top_k": 5, "method.teachers": ["heart", "voice"]},
    "mt-pkdot, uniform": {"method.name": "mt-pkdot", "method.top_k": 5, "method.selection": "uniform"},
    "mt-pkdot, by sample, learned": {
        "method.name": "mt-pkdot",
        "method.top_k": 5,
        "method.selection": "sample",
        "method.alpha": "learned",
    },
    "pkdot": {"method.name": "pkdot", "method.top_k": 5},
}


def assert_replayed(made) -> pd.DataFrame:
    found = negative_transfer(*made.all, 0)
    logged = pd.read_parquet(made.run.trial(0) / CURVES)
    told = [name for name in logged if name.startswith("train/teacher/") or name == "train/gate_open"]
    assert sorted(f"train/{name}" for name in found.history.columns if name != "epoch") == sorted(told)
    assert len(found.history) == len(logged) == found.epochs
    for name in told:
        assert found.history[name.removeprefix("train/")].tolist() == logged[name].tolist(), name
    return found.history


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_the_replay_is_what_the_trainings_logged_to_the_last_bit(task, small_dataset, trained):
    dataset = small_dataset(task)
    # 79 training rows: the last batch of 16 has 15 rows, that of 26 has one, which is left out.
    opened = []
    for index, (name, overrides) in enumerate(CASES.items()):
        if task == "regression" and "kl" in name:
            continue
        size = (16, 26, 13)[index % 3]
        history = assert_replayed(trained(dataset, {"training.batch_size": size, **overrides}, name=f"run-{index}"))
        opened += history["gate_open"].tolist() if "gate_open" in history else []
    assert any(0 < share < 1 for share in opened), "no gate was ever half open"


@pytest.mark.parametrize("missing", [False, True])
def test_frames_are_rows_and_those_without_a_label_are_none(missing, small_dataset, trained, tmp_path):
    dataset = small_dataset("regression", "frames")
    if missing:
        samples = dataset.samples
        for index, name in enumerate(dataset.info.target_columns):
            samples[name] = [
                np.where((np.arange(6) + row) % 4 == index, np.nan, values) for row, values in enumerate(samples[name])
            ]
        info = dataset.info.model_copy(update={"missing_targets": True})
        features = {name: dataset.features(name) for name in dataset.info.modalities}
        dataset = write_dataset(tmp_path / "gaps", info, samples, features)
    made = trained(
        dataset,
        {"method.name": "pkd", "method.theta": 0.9, "method.selection": "sample", "method.teachers": POOL},
    )
    assert_replayed(made)
    found = negative_transfer(*made.all, 0)
    train = dataset.rows("train")
    labelled = np.isfinite(dataset.targets()[train]).all(axis=-1)
    assert missing == (not labelled.all())
    assert len(found.by_class) == 0
    subjects = pd.Series(labelled.sum(axis=1)).groupby(dataset.samples["subject_id"].to_numpy()[train]).sum()
    assert dict(zip(found.by_subject["group"], found.by_subject["samples"], strict=True)) == subjects.to_dict()
    assert np.isfinite(found.teachers[["mean_loss", "mean_gamma"]].to_numpy()).all()


def test_shares_by_teacher_class_and_subject_are_those_of_a_count_row_by_row(small_dataset, trained):
    dataset = small_dataset()
    theta, pool = 0.7, ["heart", "voice"]
    made = trained(
        dataset,
        {
            "method.name": "pkd",
            "method.theta": theta,
            "method.selection": "batch",
            "method.teachers": pool,
            "training.batch_size": 7,
            "training.epochs": 5,
        },
    )
    found = negative_transfer(*made.all, 0)
    train = dataset.rows("train")
    said = made.pool.load_embeddings(made.plan, dataset.samples["sample_id"].iloc[train].tolist())
    losses = np.stack([said[name].loss for name in pool]).astype(np.float64)
    gammas = np.stack([said[name].gamma for name in pool])
    lessons = []
    for epoch in range(1, 6):
        generator = torch.Generator().manual_seed(derive_seed(made.plan.config.seed, epoch))
        order = torch.randperm(len(train), generator=generator).numpy()
        for start in range(0, len(order), 7):
            batch = order[start : start + 7]
            if len(batch) > 1:
                best = int(losses[:, batch].mean(axis=1).argmin())
                lessons += [(row, pool[best], bool(gammas[best, row] <= np.float32(theta))) for row in batch]
    counted = pd.DataFrame(lessons, columns=["row", "teacher", "open"])
    counted["class"] = np.array(dataset.info.classes)[dataset.targets()[train]][counted["row"]]
    counted["subject"] = dataset.samples["subject_id"].to_numpy()[train][counted["row"]]
    assert 0 < counted["open"].mean() < 1
    assert counted["teacher"].nunique() > 1

    by_teacher = found.teachers.set_index("teacher")
    for name, part in counted.groupby("teacher"):
        assert by_teacher.loc[name, "rows_taught"] == pytest.approx(len(part) / len(counted), abs=1e-12)
        assert by_teacher.loc[name, "gate_open"] == pytest.approx(part["open"].mean(), abs=1e-12)
    np.testing.assert_allclose(by_teacher["mean_loss"], losses.mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(by_teacher["mean_gamma"], gammas.astype(np.float64).mean(axis=1), rtol=1e-6)
    validation = made.pool.read()["teachers"]["voice"]["validation"].get("accuracy", np.nan)
    assert by_teacher.loc["voice", "validation"] == pytest.approx(validation, nan_ok=True)
    for kind, table in (("class", found.by_class), ("subject", found.by_subject)):
        assert len(table) == counted[kind].nunique()
        for row in table.to_dict("records"):
            part = counted[counted[kind] == row["group"]]
            assert row["gate_open"] == pytest.approx(part["open"].mean(), abs=1e-12)
            assert row["samples"] == part["row"].nunique()
            for name in pool:
                assert row[name] == pytest.approx((part["teacher"] == name).mean(), abs=1e-12)
    lowest = found.by_class.loc[found.by_class["gate_open"].idxmin(), "group"]
    assert f"The gate (theta 0.7) left {100 * counted['open'].mean():.1f}".removesuffix(".0") in found.sentence
    assert f"closed most often for class '{lowest}'" in found.sentence


def test_the_sentence_says_whether_there_was_a_gate_and_whether_it_closed(small_dataset, trained):
    dataset = small_dataset()
    without = negative_transfer(*trained(dataset, {"method.name": "pkdot", "method.top_k": 5}, "none").all, 0)
    assert without.theta is None
    assert "pkdot ran without a gate, so 100 % of the training rows were distilled over 3 epochs" in without.sentence
    assert "'joint' was the only teacher" in without.sentence
    assert without.by_class["gate_open"].tolist() == [1.0] * 4
    wide = negative_transfer(*trained(dataset, {"method.name": "pkd", "method.theta": 1.0}, "wide").all, 0)
    assert "The gate (theta 1) never closed" in wide.sentence
    shut = negative_transfer(*trained(dataset, {"method.name": "pkd", "method.theta": 0.0}, "shut").all, 0)
    assert "left 0 % of the training rows" in shut.sentence
    assert shut.teachers["gate_open"].tolist() == [0.0]


def test_a_supervised_trial_has_no_teachers_and_an_unfinished_one_no_answer(small_dataset, trained, plan):
    made = trained(small_dataset(), {"method.name": "supervised"})
    assert negative_transfer(*made.all, 0) is None
    with pytest.raises(RunError, match=r"run has no trial 7"):
        negative_transfer(*made.all, 7)
    ledger = Run(made.run.path).ledger()
    ledger.prune(ledger.ask(sampler_for(made.plan.config)).number)
    with pytest.raises(RunError, match=r"Trial 1 of run is pruned, not complete"):
        negative_transfer(*made.all, 1)
