"""Prediction from a student's folder: right answers, aligned samples, and clear refusals."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from small_bundles import KINDS, features, make_bundle

import pkdray
from pkdray.errors import CheckpointError, DatasetError, PkdrayError
from pkdray.predict import load_student, predict_file
from pkdray.training.bundles import read_bundle, read_info, write_info


def as_table(values: np.ndarray, ids: list[str]) -> pd.DataFrame:
    if values.ndim == 3:
        frames = values.shape[1]
        table = pd.DataFrame(values.reshape(-1, values.shape[-1]), columns=[f"c{i}" for i in range(values.shape[-1])])
        table.insert(0, "sample_id", np.repeat(ids, frames))
        table.insert(1, "frame", np.tile(np.arange(frames), len(ids)))
        return table
    table = pd.DataFrame(values, columns=[f"c{i}" for i in range(values.shape[-1])])
    table.insert(0, "sample_id", ids)
    return table


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_those_of_the_pipeline(tmp_path: Path, kind: str):
    student = pkdray.load_student(make_bundle(tmp_path, kind))
    given = features(kind, 17)
    _, pipeline, _ = read_bundle(tmp_path)
    with torch.no_grad():
        expected = pipeline(*map(torch.from_numpy, given.values())).numpy()
    np.testing.assert_array_equal(student.predict_array(given), expected)
    table = student.predict(given)
    if kind == "frames":
        assert table.columns.tolist() == ["sample_id", "frame", "valence", "arousal"]
        np.testing.assert_array_equal(table[["valence", "arousal"]].to_numpy(), expected.reshape(-1, 2))
        assert student.classes == []
    else:
        assert table["prediction"].tolist() == [student.classes[index] for index in expected.argmax(axis=1)]
        assert table["sample_id"].tolist() == [str(row) for row in range(17)]
    assert student.modalities == {name: value.shape[1:] for name, value in given.items()}
    assert str(student.info.task) in ("classification", "regression")
    assert "face" in repr(student)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("kind", KINDS)
def test_files_of_shuffled_samples_are_aligned(tmp_path: Path, kind: str, suffix: str):
    folder = make_bundle(tmp_path / "student", kind)
    given = features(kind, 11)
    ids = [f"{number:03d}" for number in range(11)]
    inputs = {}
    for seed, (name, values) in enumerate(given.items()):
        order = np.random.default_rng(seed).permutation(11)
        table = as_table(values[order], [ids[row] for row in order])
        inputs[name] = tmp_path / f"{name}{suffix}"
        table.to_csv(inputs[name], index=False) if suffix == ".csv" else table.to_parquet(inputs[name])
    output = tmp_path / "out" / f"answers{suffix}"
    table = predict_file(folder, inputs, output)
    expected = load_student(folder).predict(given)
    expected["sample_id"] = [ids[int(name)] for name in expected["sample_id"]]
    keys = [key for key in ("sample_id", "frame") if key in table]
    pd.testing.assert_frame_equal(
        table.sort_values(keys).reset_index(drop=True), expected.sort_values(keys).reset_index(drop=True)
    )
    read = pd.read_csv(output, dtype={"sample_id": str}) if suffix == ".csv" else pd.read_parquet(output)
    pd.testing.assert_frame_equal(read, table, check_dtype=suffix == ".parquet")
    assert not list(output.parent.glob(".*"))


def test_one_modality_needs_no_name(tmp_path: Path):
    student = load_student(make_bundle(tmp_path, "one"))
    values = features("one", 7)["face"]
    expected = student.predict_array({"face": values})
    np.testing.assert_array_equal(student.predict_array(values), expected)
    np.testing.assert_array_equal(student.predict_array(torch.from_numpy(values)), expected)
    np.testing.assert_array_equal(student.predict_array(values.tolist()), expected)
    np.testing.assert_array_equal(student.predict_array(pd.DataFrame(values)), expected)
    lists = pd.DataFrame({"sample_id": list("abcdefg"), "values": list(values)})
    assert student.predict(lists)["sample_id"].tolist() == list("abcdefg")
    np.testing.assert_array_equal(student.predict_array(lists), expected)
    path = tmp_path / "face.parquet"
    as_table(values, list("abcdefg")).to_parquet(path)
    pd.testing.assert_frame_equal(student.predict(path), student.predict(str(path)))


def test_many_samples_are_answered_in_batches(tmp_path: Path):
    student = load_student(make_bundle(tmp_path, "one"))
    values = features("one", 4096 + 5)["face"]
    last = student.predict_array(values[-9:])
    np.testing.assert_allclose(student.predict_array(values)[-9:], last, rtol=1e-5, atol=1e-6)


def test_samples_that_one_modality_lacks_are_listed(tmp_path: Path):
    student = load_student(make_bundle(tmp_path, "two"))
    given = features("two", 5)
    tables = {
        "face": as_table(given["face"], ["a", "b", "c", "d", "e"]),
        "heart.rate": as_table(given["heart.rate"], ["x", "b", "a", "d", "e"]),
    }
    with pytest.raises(DatasetError) as caught:
        student.predict(tables)
    assert "1 samples of 'face' are missing in 'heart.rate': 'c'" in str(caught.value)
    assert "1 samples of 'heart.rate' are missing in 'face': 'x'" in str(caught.value)


WRONG = {
    "width": (lambda face: {"face": face[:, :4]}, r"shape \[3, 4\]; the student needs \[N, 5\]"),
    "one sample without its axis": (lambda face: {"face": face[0]}, r"shape \[5\]; the student needs"),
    "no sample": (lambda face: {"face": face[:0]}, r"shape \[0, 5\]"),
    "NaN": (lambda face: {"face": np.where(face == face[1, 2], np.nan, face)}, r"NaN or infinite .* in 1 samples: '1'"),
    "beyond float32": (lambda face: {"face": face.astype(np.float64) * 1e300}, "infinite"),
    "text": (lambda face: {"face": np.array([["a"] * 5])}, "not an array of numbers"),
    "ragged": (lambda face: {"face": [[1.0], [1.0, 2.0]]}, "not an array of numbers"),
    "missing": (lambda face: {}, "Modality 'face' is missing"),
    "unknown": (lambda face: {"face": face, "voice": face}, "Modality 'voice' is unknown"),
    "misspelt": (lambda face: {"Face": face}, "2 faults"),
    "text in a table": (
        lambda face: pd.DataFrame({"sample_id": ["a"], **{f"c{i}": ["x"] for i in range(5)}}),
        "not an array of numbers",
    ),
    "repeated": (lambda face: as_table(face, ["a", "b", "a"]), "sample_ids more than once: 'a'"),
    "nameless": (lambda face: as_table(face, ["a", None, "b"]), "rows without a sample_id"),
    "no file": (lambda face: "nowhere.csv", r"nowhere.csv does not exist"),
    "no columns": (lambda face: pd.DataFrame({"sample_id": ["a"]}), "the student needs"),
    "uneven lists": (
        lambda face: pd.DataFrame({"sample_id": ["a", "b"], "values": [[1.0], [1.0, 2.0]]}),
        "differ in length",
    ),
    "frames of nobody": (lambda face: pd.DataFrame({"frame": [0], "c": [1.0]}), "but none 'sample_id'"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_wrong_features_are_refused(tmp_path: Path, fault: str):
    student = load_student(make_bundle(tmp_path, "one"))
    make, says = WRONG[fault]
    with pytest.raises(DatasetError, match=says) as caught:
        student.predict(make(features("one", 3)["face"]))
    assert caught.value.cure


def test_answers_that_are_not_finite_are_refused(tmp_path: Path):
    make_bundle(tmp_path, "one")
    said = yaml.safe_load((tmp_path / "preprocessing.yaml").read_text(encoding="utf-8"))
    said["modalities"]["face"]["std"] = [1e-20] * 5
    (tmp_path / "preprocessing.yaml").write_text(yaml.safe_dump(said), encoding="utf-8")
    write_info(tmp_path, read_info(tmp_path))
    values = features("one", 4)["face"]
    values[2] = 1e30
    table = as_table(values, ["a", "b", "c", "d"])
    with pytest.raises(DatasetError, match="answers for 1 samples are not finite: 'c'"):
        load_student(tmp_path).predict(table)


def test_several_modalities_must_be_named_and_of_one_kind(tmp_path: Path):
    student = load_student(make_bundle(tmp_path, "two"))
    given = features("two", 3)
    with pytest.raises(DatasetError, match=r"needs 2 modalities, 'face', 'heart\.rate', but one table was given"):
        student.predict(given["face"])
    with pytest.raises(DatasetError, match="different numbers of samples"):
        student.predict({**given, "face": given["face"][:2]})
    with pytest.raises(DatasetError, match=r"'heart.rate' has no sample_ids, but 'face' has"):
        student.predict({**given, "face": as_table(given["face"], ["a", "b", "c"])})
    with pytest.raises(DatasetError, match="a column 'frame' numbers the frames"):
        student.predict({**given, "heart.rate": given["heart.rate"][:, 0]})


def test_outputs_are_checked_before_anything_is_read(tmp_path: Path):
    for output, says in (("answers.xlsx", "suffix '.xlsx'"), ("answers", "suffix ''")):
        with pytest.raises(PkdrayError, match=says):
            predict_file(tmp_path / "nowhere", tmp_path / "x.csv", tmp_path / output)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(PkdrayError, match="is a folder"):
        predict_file(tmp_path / "nowhere", tmp_path / "x.csv", tmp_path / "folder.csv")
    with pytest.raises(PkdrayError, match="also an input"):
        predict_file(tmp_path / "nowhere", {"face": tmp_path / "x.csv"}, tmp_path / "." / "x.csv")


def test_a_folder_that_is_no_student_is_refused(tmp_path: Path):
    with pytest.raises(CheckpointError, match="does not exist"):
        load_student(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"has no config\.yaml"):
        load_student(tmp_path)
    (tmp_path / "run.yaml").write_text("name: study\n", encoding="utf-8")
    with pytest.raises(CheckpointError, match="is a run") as caught:
        load_student(tmp_path)
    assert "pkdray export" in str(caught.value)


BLOCKED = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"ray", "optuna", "ot", "onnx", "onnxruntime"}:
            raise ImportError(f"prediction imported {name}")

sys.meta_path.insert(0, Refuse())
from pkdray.predict import predict_file

print(len(predict_file(sys.argv[1], sys.argv[2], sys.argv[3])))
"""


def test_prediction_needs_neither_ray_nor_optuna_nor_pot(tmp_path: Path):
    folder = make_bundle(tmp_path / "student", "one")
    as_table(features("one", 9)["face"], list("abcdefghi")).to_csv(tmp_path / "in.csv", index=False)
    command = [sys.executable, "-c", BLOCKED, str(folder), str(tmp_path / "in.csv"), str(tmp_path / "out.csv")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "9"
    assert len(pd.read_csv(tmp_path / "out.csv")) == 9


def test_the_package_is_light_until_a_student_is_loaded():
    code = "import sys, pkdray; print([name for name in ('torch', 'ray', 'pandas', 'numpy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert pkdray.load_student is load_student
    with pytest.raises(AttributeError, match="no attribute 'load_students'"):
        _ = pkdray.load_students
