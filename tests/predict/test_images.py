"""Films that are given as arrays: uint8 as stored, in memory or on the disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_bundles import films, make_filmed_bundle

from pkdray.errors import DatasetError
from pkdray.predict import LoadedStudent, load_student
from pkdray.training.bundles import read_bundle

FACE, VOICE = (3, 33, 35, 3), (4, 5)


@pytest.fixture
def student(tmp_path: Path) -> LoadedStudent:
    return load_student(make_filmed_bundle(tmp_path / "student", {"face": FACE, "voice": VOICE}))


def given(count: int) -> dict[str, np.ndarray]:
    voice = np.random.default_rng(2).normal(3, 2, (count, *VOICE)).astype(np.float32)
    return {"face": films(FACE, count), "voice": voice}


def test_pictures_are_normalised_by_the_encoder_and_features_by_the_pipeline(
    student: LoadedStudent, tmp_path: Path
) -> None:
    _, pipeline, _ = read_bundle(tmp_path / "student")
    values = given(5)
    standard = (values["voice"] - pipeline.get_buffer("mean_1").numpy()) / pipeline.get_buffer("std_1").numpy()
    with torch.no_grad():
        inputs = {"face": torch.from_numpy(values["face"]), "voice": torch.from_numpy(standard)}
        expected = pipeline.student(inputs).prediction.numpy()
    np.testing.assert_allclose(student.predict_array(values), expected, rtol=1e-5, atol=1e-6)
    assert student.images == ["face"]
    assert student.modalities == {"face": FACE, "voice": VOICE}


def test_a_file_answers_as_its_array_does_and_is_read_in_parts(
    student: LoadedStudent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = given(7)
    expected = student.predict(values)
    for name, array in values.items():
        np.save(tmp_path / f"{name}.npy", array)
    monkeypatch.setattr("pkdray.predict.student._BATCH_BYTES", 3 * values["face"][0].nbytes)
    sizes: list[int] = []
    student._pipeline.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    found = student.predict({name: tmp_path / f"{name}.npy" for name in values})
    assert sizes[0] < 7
    assert sum(sizes) == 7
    assert found["sample_id"].tolist() == [str(row) for row in range(7)]
    np.testing.assert_allclose(found[["valence", "arousal"]], expected[["valence", "arousal"]], rtol=1e-4, atol=1e-5)


WRONG = {
    "floats": (lambda face, _: face.astype(np.float32), "images of 'face' are float32; the student needs uint8"),
    "one film without its axis": (lambda face, _: face[0], r"shape \[3, 33, 35, 3\]; the student needs \[N, 3, 33"),
    "channels first": (lambda face, _: face.transpose(0, 1, 4, 2, 3), "the student needs"),
    "none": (lambda face, _: face[:0], r"shape \[0, 3, 33, 35, 3\]"),
    "a table": (lambda face, _: "face.csv", "images of 'face' are to be read from face.csv"),
    "a video": (lambda face, _: "talk.mp4", "are to be read from talk.mp4"),
    "no file": (lambda face, folder: folder / "nowhere.npy", "nowhere.npy is missing"),
    "a damaged file": (lambda face, folder: damaged(folder, face), "truncated or damaged"),
    "a number": (lambda face, folder: saved(folder, np.uint8(3)), "holds a single number"),
}


def saved(folder: Path, values: np.ndarray | np.uint8) -> Path:
    np.save(folder / "face.npy", values)
    return folder / "face.npy"


def damaged(folder: Path, values: np.ndarray) -> Path:
    path = saved(folder, values)
    path.write_bytes(path.read_bytes()[:-1])
    return path


@pytest.mark.parametrize("fault", WRONG)
def test_wrong_pictures_are_refused(student: LoadedStudent, tmp_path: Path, fault: str) -> None:
    make, says = WRONG[fault]
    values = given(2)
    with pytest.raises(DatasetError, match=says) as caught:
        student.predict({**values, "face": make(values["face"], tmp_path)})
    assert caught.value.cure
