"""A study's arrays: standardised on the training rows alone, and only what a training reads."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pkdray.training.inputs import as_rows, split_arrays, student_rows, with_embeddings


@pytest.mark.parametrize("fold", [None, 2])
@pytest.mark.parametrize("kind", ["vectors", "sequences"])
def test_inputs_are_standardised_by_what_the_training_rows_show(small_dataset, plan, kind, fold):
    dataset = small_dataset(kind=kind)
    study = plan(dataset, {"dataset.fold": fold})
    arrays = split_arrays(study, dataset, ["face", "heart"])
    assert list(arrays) == ["train", "val"]
    for split, named in arrays.items():
        rows = dataset.rows(split, fold)
        assert list(named) == ["input.face", "input.heart", "target"]
        np.testing.assert_array_equal(named["target"], dataset.targets()[rows])
        for name in ("face", "heart"):
            values = dataset.features(name).astype(np.float64)
            train = values[dataset.rows("train", fold)].reshape(-1, values.shape[-1])
            expected = (values[rows] - train.mean(axis=0)) / train.std(axis=0)
            assert named[f"input.{name}"].dtype == np.float32
            np.testing.assert_allclose(named[f"input.{name}"], expected, rtol=1e-4, atol=1e-5)


def test_the_test_split_comes_only_when_asked_for(small_dataset, plan):
    dataset = small_dataset()
    arrays = split_arrays(plan(dataset), dataset, ["face"], ("train", "val", "test"))
    np.testing.assert_array_equal(arrays["test"]["target"], dataset.targets()[dataset.rows("test")])


def test_embeddings_are_added_by_teacher_and_field(small_dataset, plan):
    from pkdray.embeddings import TeacherEmbeddings

    dataset = small_dataset()
    arrays = split_arrays(plan(dataset), dataset, ["face"])

    def said(count: int, value: float) -> TeacherEmbeddings:
        return TeacherEmbeddings(*(np.full((count, *shape), value, np.float32) for shape in [(7,), (4,), (), (), (3,)]))

    embeddings = {
        split: {name: said(len(named["target"]), value) for name, value in (("joint", 1.0), ("face", 2.0))}
        for split, named in arrays.items()
    }
    joined = with_embeddings(arrays, embeddings, "joint")
    fields = [f"{name}.{field}" for name in ("joint", "face") for field in ("embedding", "prediction", "loss", "gamma")]
    assert list(joined["val"]) == ["input.face", "target", *fields, "privileged"]
    assert joined["val"]["face.gamma"].tolist() == [2.0] * 20
    assert joined["train"]["privileged"].shape == (85, 3)
    assert (joined["train"]["privileged"] == 1).all()
    assert "privileged" not in arrays["train"]
    taken = student_rows(joined["val"], ["face"], ["face"], privileged=False).take(torch.arange(5))
    assert list(taken) == ["target", "input.face", *fields[4:]]
    assert "privileged" in student_rows(joined["val"], ["face"], [], privileged=True)


@pytest.mark.parametrize(
    ("shape", "dims", "expected"),
    [((5, 3), 1, (5, 3)), ((5, 6, 3), 1, (30, 3)), ((5,), 0, (5,)), ((5, 6), 0, (30,)), ((2, 5, 3), 2, (2, 5, 3))],
)
def test_samples_and_frames_become_rows(shape, dims, expected):
    values = torch.randn(shape)
    rows = as_rows(values, dims)
    assert rows.shape == expected
    assert torch.equal(rows.reshape(-1), values.reshape(-1))
