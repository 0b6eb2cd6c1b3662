"""Similarity matrices and projections: of the teacher, and of the student before and after its training."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from pkdray.diagnostics import projections, similarity
from pkdray.diagnostics.layout import two_dimensional
from pkdray.diagnostics.resemblance import agreement
from pkdray.diagnostics.spaces import untrained
from pkdray.search.results import load_student
from pkdray.search.sweep import study_arrays
from pkdray.training import students
from pkdray.training.inputs import split_arrays


def cosines(embedding: np.ndarray) -> np.ndarray:
    unit = embedding.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    return unit @ unit.T


@pytest.mark.parametrize("tnet", ["frozen", "joint", "none"])
def test_the_untrained_student_is_the_one_that_training_began_with(tnet, small_dataset, trained, monkeypatch):
    made = trained(small_dataset(), {"student.tnet.training": tnet})
    began: list[dict[str, torch.Tensor]] = []
    fit = students.fit

    def watch(model, *arguments, **options):
        if isinstance(model, students.Student):
            began.append({name: value.clone() for name, value in model.state_dict().items()})
        return fit(model, *arguments, **options)

    monkeypatch.setattr(students, "fit", watch)
    arrays = study_arrays(made.plan, made.dataset, made.pool)
    students.train_student(made.plan, made.plan.config, arrays, seed=made.plan.config.seed)
    trained_student, _ = load_student(made.run, made.plan, made.plan.config, 0)
    state = torch.random.get_rng_state()
    found = untrained(made.plan, made.plan.config, trained_student).state_dict()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert found.keys() == began[0].keys()
    assert all(torch.equal(found[name], value) for name, value in began[0].items())
    after = trained_student.state_dict()
    assert not all(torch.equal(after[name], value) for name, value in began[0].items())


def test_matrices_are_cosines_of_the_embeddings_sorted_by_class(small_dataset, trained):
    dataset = small_dataset()
    made = trained(dataset, {"method.name": "mt-pkdot", "method.top_k": 5, "method.teachers": ["heart", "voice"]})
    found = similarity(*made.all, 0)
    val = dataset.rows("val")
    assert len(val) < 64
    order = np.argsort(dataset.targets()[val], kind="stable")
    assert found.labels == [dataset.info.classes[index] for index in dataset.targets()[val][order]]
    shares = made.run.ledger().best().user_attrs["summary"]["teachers"]
    assert found.teacher_name == max(shares, key=shares.__getitem__)
    said = made.pool.load_embeddings(made.plan, dataset.samples["sample_id"].iloc[val].tolist())
    np.testing.assert_allclose(found.teacher, cosines(said[found.teacher_name].embedding[order]), atol=1e-5)
    student, _ = load_student(made.run, made.plan, made.plan.config, 0)
    face = torch.as_tensor(split_arrays(made.plan, dataset, ["face"], ["val"])["val"]["input.face"])
    with torch.no_grad():
        after = student({"face": face}).embedding.numpy()
    np.testing.assert_allclose(found.after, cosines(after[order]), atol=1e-5)
    assert np.abs(found.before - found.after).max() > 0.01
    above = ~np.tri(len(val), dtype=bool)
    expected = np.corrcoef(found.after[above], found.teacher[above])[0, 1]
    assert found.agreement["after"] == pytest.approx(expected, abs=1e-9)
    assert found.agreement["before"] != found.agreement["after"]


def test_of_many_rows_some_are_drawn_and_the_seed_says_which(small_dataset, trained):
    made = trained(small_dataset("regression", "frames"), {})
    found = similarity(*made.all, 0, samples=13)
    assert found.teacher.shape == found.before.shape == found.after.shape == (13, 13)
    assert [float(label) for label in found.labels] == sorted(float(label) for label in found.labels)
    assert found.total == projections(*made.all, 0, samples=13).attrs["total"] == 6 * len(made.dataset.rows("val"))
    one = similarity(*made.all, 0, samples=1)
    assert one.after.shape == (1, 1)
    assert np.isnan(one.agreement["after"])
    assert len(projections(*made.all, 0, samples=1)) == 3
    again, other = similarity(*made.all, 0, samples=13), similarity(*made.all, 0, samples=13, seed=1)
    assert np.array_equal(found.after, again.after)
    assert not np.array_equal(found.after, other.after)
    everything = similarity(*made.all, 0, samples=10_000)
    val = made.dataset.rows("val")
    assert len(everything.labels) == 6 * len(val)
    said = made.pool.load_embeddings(made.plan, made.dataset.samples["sample_id"].iloc[val].tolist())["joint"]
    first = made.dataset.targets()[val][..., 0].reshape(-1)
    expected = cosines(said.embedding.reshape(-1, 11)[np.argsort(first, kind="stable")])
    np.testing.assert_allclose(everything.teacher, expected, atol=1e-5)


def test_a_supervised_student_is_compared_with_the_first_teacher(small_dataset, trained):
    made = trained(small_dataset(), {"method.name": "supervised"})
    assert similarity(*made.all, 0).teacher_name == "joint"


def test_agreement_is_nothing_where_a_matrix_does_not_vary():
    rising = np.array([[1.0, 0.1, 0.5], [0.1, 1.0, 0.9], [0.5, 0.9, 1.0]])
    assert agreement(rising, -3 * rising) == pytest.approx(-1)
    assert np.isnan(agreement(rising, np.ones((3, 3))))
    assert np.isnan(agreement(np.eye(1), np.eye(1)))


def test_a_projection_has_a_row_a_space_and_sample_and_is_the_same_again(small_dataset, trained):
    dataset = small_dataset()
    made = trained(dataset, {})
    found = projections(*made.all, 0, samples=19)
    assert found.columns.tolist() == ["space", "x", "y", "sample_id", "subject_id", "target"]
    assert found["space"].unique().tolist() == ["teacher", "student before", "student after"]
    assert found.groupby("space").size().tolist() == [19] * 3
    assert np.isfinite(found[["x", "y"]].to_numpy()).all()
    about = dataset.samples.set_index("sample_id").loc[found["sample_id"]]
    assert about["split"].unique().tolist() == ["val"]
    assert about["subject_id"].tolist() == found["subject_id"].tolist()
    assert [dataset.info.classes[index] for index in about["target"]] == found["target"].tolist()
    pd.testing.assert_frame_equal(projections(*made.all, 0, samples=19), found, check_exact=True)


def test_clusters_stay_clusters_and_few_rows_are_drawn_as_they_are():
    rng = np.random.default_rng(0)
    centres = np.repeat(np.eye(3, 17) * 20, 11, axis=0)
    flat = two_dimensional((centres + rng.normal(size=centres.shape)).astype(np.float32), seed=5)
    group = np.repeat(np.arange(3), 11)
    distance = np.linalg.norm(flat[:, None] - flat[None], axis=-1) + np.eye(33) * 1e9
    assert (group[distance.argmin(axis=1)] == group).all()
    few = np.arange(15, dtype=np.float32).reshape(3, 5)
    assert two_dimensional(few, 0).tolist() == few[:, :2].tolist()
    assert two_dimensional(few[:, :1], 0).tolist() == [[0, 0], [5, 0], [10, 0]]
    assert two_dimensional(rng.normal(size=(4, 7)).astype(np.float32), 0).shape == (4, 2)
