"""Frames without a label: they take part in no loss and in no metric, and whatever they hold changes nothing."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from pkdray.data.dataset import Modality, write_dataset
from pkdray.embeddings import Rows, read_embeddings
from pkdray.evaluate.rows import teacher_row
from pkdray.losses.objective import hyperparameters
from pkdray.training.inputs import split_arrays
from pkdray.training.students import predict_rows, scores, student_step, train_student
from pkdray.training.teachers import load_teacher, train_adapters, train_teacher

FRAMES, KEPT = 6, 4
STILL = {
    "teachers.encoder.dropout": 0.0,
    "student.encoder.dropout": 0.0,
    "student.tnet.training": "none",
    "teachers.encoders": {"heart": {"hidden": [4], "dropout": 0.0}},
}
METHODS: list[dict[str, Any]] = [
    {"name": "supervised"},
    {"name": "pkd", "theta": 0.9},
    {"name": "crd", "selection": "confidence"},
    {"name": "rkd"},
    {"name": "pkdot", "top_k": 5},
    {"name": "mt-pkdot", "top_k": 5, "selection": "batch"},
    {"name": "mt-pkdot", "top_k": 5, "selection": "sample"},
]


def unlabelled(dataset, dest, known: np.ndarray):
    """The dataset with NaN where ``known`` [N, T] is False: in the first, the second or both targets by turns."""
    samples = dataset.samples
    turn = np.cumsum(~known).reshape(known.shape) % 3
    for index, name in enumerate(dataset.info.target_columns):
        values = np.stack(samples[name])
        samples[name] = list(np.where(known | (turn == index), values, np.nan))
    info = dataset.info.model_copy(update={"missing_targets": True})
    return write_dataset(dest, info, samples, {name: dataset.features(name) for name in info.modalities})


@pytest.fixture
def evenly(small_dataset, tmp_path):
    """Two of six frames of every sample have no label; gives the dataset, and which frames do, bool [N, T]."""
    dataset = small_dataset("regression", "frames")
    ranks = np.random.default_rng(5).random((len(dataset), FRAMES)).argsort(axis=1)
    known = ranks < KEPT
    return unlabelled(dataset, tmp_path / "evenly", known), known


@pytest.fixture
def unevenly(small_dataset, tmp_path):
    """From one to six frames of a sample have a label."""
    dataset = small_dataset("regression", "frames")
    rng = np.random.default_rng(6)
    known = rng.random((len(dataset), FRAMES)) < 0.55
    known[np.arange(len(dataset)), rng.integers(0, FRAMES, len(dataset))] = True
    return unlabelled(dataset, tmp_path / "unevenly", known), known


def cut(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Samples without the frames of which nothing is known; what has no frames stays."""
    if values.shape[:2] != known.shape:
        return values
    return values[known].reshape(len(values), KEPT, *values.shape[2:])


def without_frames(plan):
    """The study of the same samples after the frames without a label were cut out."""
    modalities = {
        name: Modality(shape=(KEPT, one.shape[1]) if one.frames else one.shape)
        for name, one in plan.info.modalities.items()
    }
    info = plan.info.model_copy(
        update={"target_frames": KEPT, "missing_targets": False, "modalities": modalities},
    )
    return dataclasses.replace(plan, info=info)


def cut_all(arrays, dataset, known):
    return {
        split: {name: cut(np.asarray(values), known[dataset.rows(split)]) for name, values in named.items()}
        for split, named in arrays.items()
    }


def assert_close(one: dict[str, float], other: dict[str, float]) -> None:
    assert all(np.isfinite(value) for value in one.values())
    assert one == pytest.approx(other, rel=2e-3, abs=2e-5)


def concordance(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x.astype(np.float64), y.astype(np.float64)
    covariance = ((x - x.mean()) * (y - y.mean())).mean()
    return 2 * covariance / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)


def mean_concordance(said: np.ndarray, target: np.ndarray) -> float:
    return float(np.mean([concordance(said[..., index], target[..., index]) for index in range(2)]))


def test_teachers_and_adapters_are_those_of_the_dataset_without_these_frames(evenly, plan, tmp_path):
    dataset, known = evenly
    whole = plan(dataset, STILL)
    short = without_frames(whole)
    arrays = split_arrays(whole, dataset, list(dataset.info.modalities))
    found = []
    for study, given in ((whole, arrays), (short, cut_all(arrays, dataset, known))):
        folder = tmp_path / f"{study.info.target_frames}"
        best = train_teacher(study, study.pool["joint"], given, folder / "joint")
        teacher = load_teacher(study, study.pool["joint"], folder / "joint")
        found.append((best, train_adapters(study, teacher, given, folder / "adapters")))
    assert_close(found[0][0], found[1][0])
    assert_close(found[0][1], found[1][1])


def test_students_are_those_of_the_dataset_without_these_frames(evenly, plan, taught, student_arrays):
    dataset, known = evenly
    whole = plan(dataset, STILL)
    arrays = student_arrays(whole, dataset, taught(whole, dataset))
    assert np.isnan(arrays["train"]["joint.loss"]).mean() == pytest.approx((FRAMES - KEPT) / FRAMES)
    short, fewer = without_frames(whole), cut_all(arrays, dataset, known)
    for method in METHODS:
        config = whole.trial_config({f"method.{name}": value for name, value in method.items()})
        fitted = train_student(whole, config, arrays, seed=5)
        reference = train_student(short, config, fewer, seed=5)
        assert len(fitted.history) == len(reference.history)
        for epoch, other in zip(fitted.history, reference.history, strict=True):
            assert_close(epoch, other)


def test_losses_and_gammas_of_the_teachers_are_of_the_labelled_frames(unevenly, plan, taught):
    dataset, known = unevenly
    study = plan(dataset, {"teachers.training.epochs": 2})
    pool = taught(study, dataset)
    targets, sequences = dataset.targets().astype(np.float64), dataset.samples["sequence_id"].to_numpy()
    seen = np.isin(np.arange(len(dataset)), np.concatenate([dataset.rows("train"), dataset.rows("val")]))
    for name in study.pool:
        _, said = read_embeddings(pool.embeddings(name))
        squares = np.square(said.prediction - targets).mean(axis=-1)
        labelled = known & seen[:, None]
        np.testing.assert_array_equal(np.isfinite(said.loss), labelled)
        np.testing.assert_allclose(said.loss[labelled], squares[labelled], rtol=1e-4, atol=1e-6)
        for sequence in np.unique(sequences[seen]):
            rows = sequences == sequence
            rho = mean_concordance(said.prediction[rows][known[rows]], targets[rows][known[rows]])
            np.testing.assert_allclose(said.gamma[rows], np.clip(1 - rho, 0, 2), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method["name"] + method.get("selection", ""))
def test_what_unlabelled_frames_hold_moves_no_loss_and_no_gradient(unevenly, plan, taught, student_arrays, method):
    dataset, known = unevenly
    study = plan(dataset, {**STILL, **{f"method.{name}": value for name, value in method.items()}})
    arrays = student_arrays(study, dataset, taught(study, dataset))["train"]
    known = known[dataset.rows("train")]
    moved = {name: np.array(values) for name, values in arrays.items()}
    for name in ("input.face", *(name for name in moved if name.endswith((".embedding", ".prediction", ".gamma")))):
        moved[name][~known] = 7.5
    batch = torch.arange(0, len(known), 3)
    losses, gradients = [], []
    student = train_student(study, study.trial_config({"training.epochs": 1}), {"train": arrays, "val": arrays}, seed=1)
    step = student_step(study, study.config)
    for given in (arrays, moved):
        student.model.zero_grad()
        loss, parts = step(student.model, Rows(given).take(batch), hyperparameters(study.config.method))
        loss.backward()
        assert all(torch.isfinite(part) for part in parts.values())
        losses.append(float(loss.detach()))
        gradients.append(torch.cat([value.grad.flatten() for value in student.model.parameters()]))
    assert losses[0] == losses[1]
    assert torch.isfinite(gradients[0]).all()
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


def test_metrics_are_of_the_labelled_frames_and_not_inflated(unevenly, plan, taught, student_arrays):
    dataset, known = unevenly
    study = plan(dataset, {"method.name": "supervised", **STILL})
    pool = taught(study, dataset)
    arrays = student_arrays(study, dataset, pool)
    student = train_student(study, study.config, arrays, seed=2).model
    val = dataset.rows("val")
    rows = Rows({name: arrays["val"][name] for name in ("input.face", "target")})
    said, target = predict_rows(student, rows, ["face"]).numpy(), dataset.targets()[val]
    inside = known[val]
    expected = mean_concordance(said[inside], target[inside])
    found = scores(student, rows, study)
    assert found["ccc"] == pytest.approx(expected, abs=1e-5)
    assert found["mse"] == pytest.approx(np.square(said[inside] - target[inside]).mean(), rel=1e-4)
    # What is usually published: an unlabelled frame counts, with a prediction of 0 that equals its label of 0. It is
    # told far from the targets' means, as the valence of a video may be.
    usual = [np.where(inside[..., None], values + shift, 0) for values, shift in ((said, 3.0), (target, 3.0))]
    honest = mean_concordance(said[inside] + 3, target[inside] + 3)
    assert honest == pytest.approx(expected, abs=1e-6)
    assert mean_concordance(usual[0].reshape(-1, 2), usual[1].reshape(-1, 2)) > expected + 0.1
    # The teacher, as `evaluate` scores it.
    _, joint = read_embeddings(pool.embeddings("joint"))
    upper = teacher_row(dataset, {None: (study, pool)})["pairs"][0]
    for name, split in (("validation", "val"), ("test", "test")):
        inside = known[dataset.rows(split)]
        ours = joint.prediction[dataset.rows(split)][inside], dataset.targets()[dataset.rows(split)][inside]
        assert upper[name]["ccc"] == pytest.approx(mean_concordance(*ours), abs=1e-5)


def test_a_tnet_learns_from_every_frame(unevenly, plan, taught, student_arrays):
    dataset, _ = unevenly
    study = plan(dataset, {"student.tnet.training": "joint", "method.name": "supervised"})
    arrays = student_arrays(study, dataset, taught(study, dataset))
    fitted = train_student(study, study.config, arrays, seed=5)
    assert all(np.isfinite(list(epoch.values())).all() for epoch in fitted.history)
    step = student_step(study, study.config)
    batch = Rows(arrays["train"]).take(torch.arange(9))
    output = fitted.model({"face": batch["input.face"]})
    _, parts = step(fitted.model, batch, {})
    every = np.square(output.hallucinated.detach().numpy() - batch["privileged"].numpy()).mean()
    assert float(parts["tnet"].detach()) == pytest.approx(every, rel=1e-4)
