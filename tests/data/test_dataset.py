from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pkdray.data.dataset import Dataset, DatasetInfo, Modality, open_dataset, write_dataset
from pkdray.data.storage import write_features
from pkdray.errors import DatasetError, PkdrayError
from pkdray.files import checksum


def reseal(path: Path) -> None:
    """Make the checksums and the fingerprint fit files that a test has altered."""
    said = yaml.safe_load((path / "dataset.yaml").read_text())
    info = DatasetInfo.model_validate(said)
    info = info.model_copy(update={"checksums": {name: checksum(path / name) for name in info.file_names}})
    info = info.model_copy(update={"fingerprint": info.computed_fingerprint()})
    (path / "dataset.yaml").write_text(yaml.safe_dump(info.to_dict()))


class TestRoundTrip:
    def test_features_come_back_bit_by_bit(self, parts, tmp_path):
        info, samples, features = parts()
        features["face"][3, 2, 1] = np.float32(1e-42)
        write_dataset(tmp_path / "d", info, samples, features)
        dataset = open_dataset(tmp_path / "d")
        for name, values in features.items():
            found = dataset.features(name)
            assert found.dtype == np.float32
            assert np.array_equal(found.view(np.int32), values.view(np.int32))

    def test_samples_come_back(self, parts, tmp_path):
        info, samples, features = parts()
        dataset = write_dataset(tmp_path / "d", info, samples, features)
        reopened = Dataset.open(tmp_path / "d").samples
        pd.testing.assert_frame_equal(dataset.samples, reopened)
        pd.testing.assert_frame_equal(reopened[samples.columns], samples, check_dtype=False)
        assert list(reopened["sample_id"][:2]) == ["000", "001"]

    def test_classification_targets(self, parts, tmp_path):
        info, samples, features = parts()
        targets = write_dataset(tmp_path / "d", info, samples, features).targets()
        assert targets.dtype == np.int64
        assert np.array_equal(targets, np.arange(33) % 3)

    def test_regression_targets_are_columns_in_the_order_of_the_names(self, parts, tmp_path):
        info, samples, features = parts("regression")
        targets = write_dataset(tmp_path / "d", info, samples, features).targets()
        assert targets.dtype == np.float32
        assert targets.shape == (33, 2)
        assert np.array_equal(targets[:, 1], samples["target_arousal"])

    def test_a_single_regression_target_is_called_target(self, parts, tmp_path):
        info, samples, features = parts("regression", targets=("target",))
        samples = samples.rename(columns={"target_valence": "target"}).drop(columns="target_arousal")
        assert write_dataset(tmp_path / "d", info, samples, features).targets().shape == (33, 1)

    @pytest.mark.parametrize("task", ["classification", "regression"])
    def test_targets_per_frame(self, parts, tmp_path, task):
        info, samples, features = parts(task, target_frames=5)
        frames = {}
        for column in info.target_columns:
            frames[column] = np.stack([samples[column].to_numpy()] * 5, axis=1)
            frames[column][:, 1] = 0
            samples[column] = list(frames[column])
        write_dataset(tmp_path / "d", info, samples, features)
        targets = open_dataset(tmp_path / "d").targets()
        if task == "classification":
            assert np.array_equal(targets, frames["target"])
        else:
            assert targets.shape == (33, 5, 2)
            assert np.array_equal(targets[..., 0], frames["target_valence"])

    def test_a_pickle_leaves_the_features_behind(self, parts, tmp_path):
        dataset = write_dataset(tmp_path / "d", *parts())
        before = len(pickle.dumps(dataset))
        dataset.features("face")
        assert len(pickle.dumps(dataset)) == before
        again = pickle.loads(pickle.dumps(dataset))  # noqa: S301
        assert np.array_equal(again.features("face"), dataset.features("face"))

    def test_large_modalities_are_read_in_several_blocks(self, parts, tmp_path, monkeypatch):
        monkeypatch.setattr("pkdray.data.storage._GROUP_BYTES", 4 * 35 * 4)
        info, samples, features = parts()
        write_dataset(tmp_path / "d", info, samples, features)
        assert pq.ParquetFile(tmp_path / "d/features/face.parquet").num_row_groups == 9
        assert np.array_equal(open_dataset(tmp_path / "d").features("face"), features["face"])


class TestReading:
    def test_features_are_read_only_and_cached(self, parts, tmp_path):
        dataset = write_dataset(tmp_path / "d", *parts())
        values = dataset.features("face")
        with pytest.raises(ValueError, match="read-only"):
            values[0] = 0
        assert dataset.features("face") is values

    def test_changing_samples_does_not_change_the_dataset(self, parts, tmp_path):
        dataset = write_dataset(tmp_path / "d", *parts())
        samples = dataset.samples
        samples["split"] = "train"
        assert set(dataset.samples["split"]) == {"train", "val", "test"}

    def test_rows_follow_the_split_column(self, parts, tmp_path):
        dataset = write_dataset(tmp_path / "d", *parts())
        assert dataset.rows("train").tolist() == list(range(18))
        assert dataset.rows("val").tolist() == list(range(18, 24))
        assert dataset.rows("test").dtype == np.int64

    def test_folds_rotate_test_and_val(self, parts, tmp_path):
        dataset = write_dataset(tmp_path / "d", *parts())
        assert dataset.folds == 4
        fold = dataset.samples["fold"].to_numpy()
        for i in range(4):
            test, val, train = (dataset.rows(name, fold=i) for name in ("test", "val", "train"))
            assert set(fold[test]) == {i}
            assert set(fold[val]) == {(i + 1) % 4}
            assert sorted([*test, *val, *train]) == list(range(33))

    @pytest.mark.parametrize(("split", "fold", "word"), [("dev", None, "'dev'"), ("test", 4, "0 to 3")])
    def test_unknown_rows(self, parts, tmp_path, split, fold, word):
        dataset = write_dataset(tmp_path / "d", *parts())
        with pytest.raises(DatasetError, match=word):
            dataset.rows(split, fold)

    def test_a_fold_needs_a_fold_column(self, parts, tmp_path):
        info, samples, features = parts()
        dataset = write_dataset(tmp_path / "d", info, samples.drop(columns="fold"), features)
        assert dataset.folds == 0
        with pytest.raises(DatasetError, match="has no folds"):
            dataset.rows("test", 0)

    def test_sequences_are_numbered_in_order_of_appearance(self, parts, tmp_path):
        codes = write_dataset(tmp_path / "d", *parts()).sequences()
        assert codes[:6].tolist() == [0, 1, 0, 2, 3, 2]
        assert codes.dtype == np.int64

    def test_an_unknown_modality_names_those_there_are(self, parts, tmp_path):
        with pytest.raises(DatasetError, match="face, voice"):
            write_dataset(tmp_path / "d", *parts()).features("ecg")

    def test_rows_of_a_features_file_may_be_in_any_order(self, parts, tmp_path):
        info, samples, features = parts()
        path = write_dataset(tmp_path / "d", info, samples, features).path
        order = np.random.default_rng(1).permutation(33)
        write_features(path / "features/face.parquet", samples["sample_id"].to_numpy()[order], features["face"][order])
        reseal(path)
        assert np.array_equal(Dataset.open(path).features("face"), features["face"])

    def test_variable_lists_of_one_length_are_read_too(self, parts, tmp_path):
        info, samples, features = parts()
        path = write_dataset(tmp_path / "d", info, samples, features).path
        lists = pa.array(features["voice"].tolist(), pa.list_(pa.float64()))
        pq.write_table(pa.table({"sample_id": samples["sample_id"], "values": lists}), path / "features/voice.parquet")
        reseal(path)
        assert np.array_equal(Dataset.open(path).features("voice"), features["voice"])


class TestFingerprint:
    def test_is_the_same_wherever_the_folder_lies(self, parts, tmp_path):
        first = write_dataset(tmp_path / "a", *parts())
        second = write_dataset(tmp_path / "elsewhere" / "b", *parts())
        shutil.move(second.path, tmp_path / "c")
        assert first.fingerprint == second.fingerprint == Dataset.open(tmp_path / "c").fingerprint

    def test_changes_with_the_features_and_with_the_info(self, parts, tmp_path):
        info, samples, features = parts()
        first = write_dataset(tmp_path / "a", info, samples, features)
        features["voice"][4, 5] += 1
        second = write_dataset(tmp_path / "b", info, samples, features)
        third = write_dataset(tmp_path / "c", info.model_copy(update={"notes": "x"}), samples, features)
        assert len({first.fingerprint, second.fingerprint, third.fingerprint}) == 3


class TestWriting:
    def test_the_same_dataset_again_is_left_as_it_is(self, parts, tmp_path):
        write_dataset(tmp_path / "d", *parts())
        before = (tmp_path / "d" / "samples.parquet").stat().st_mtime_ns
        write_dataset(tmp_path / "d", *parts())
        assert (tmp_path / "d" / "samples.parquet").stat().st_mtime_ns == before
        assert [entry.name for entry in tmp_path.iterdir()] == ["d"]

    def test_another_dataset_is_refused_naming_both_fingerprints(self, parts, tmp_path):
        info, samples, features = parts()
        first = write_dataset(tmp_path / "d", info, samples, features)
        features["voice"][0, 0] = 9
        with pytest.raises(DatasetError, match=first.fingerprint):
            write_dataset(tmp_path / "d", info, samples, features)
        assert Dataset.open(tmp_path / "d").fingerprint == first.fingerprint

    def test_a_folder_of_something_else_is_refused(self, parts, tmp_path):
        (tmp_path / "d").mkdir()
        (tmp_path / "d" / "thesis.txt").write_text("years of work")
        with pytest.raises(DatasetError, match="not an empty folder"):
            write_dataset(tmp_path / "d", *parts())
        assert (tmp_path / "d" / "thesis.txt").read_text() == "years of work"

    def test_an_empty_folder_is_filled(self, parts, tmp_path):
        (tmp_path / "d").mkdir()
        assert len(write_dataset(tmp_path / "d", *parts())) == 33

    def test_a_failure_leaves_nothing(self, parts, tmp_path, monkeypatch):
        def fail(*_args, **_kwargs):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("pkdray.data.storage.write_features", fail)
        with pytest.raises(PkdrayError, match="no space"):
            write_dataset(tmp_path / "d", *parts())
        assert list(tmp_path.iterdir()) == []

    def test_the_folder_is_readable_by_others(self, parts, tmp_path):
        plain = tmp_path / "plain"
        plain.mkdir()
        dataset = write_dataset(tmp_path / "d", *parts())
        assert dataset.path.stat().st_mode == plain.stat().st_mode

    def test_all_faults_are_named_at_once(self, parts, tmp_path):
        info, samples, features = parts()
        features["voice"][4, 5] = np.nan
        features["face"] = features["face"][:, :4]
        samples.loc[0, "target"] = 3
        samples.loc[1, "split"] = "test"
        with pytest.raises(DatasetError) as error:
            write_dataset(tmp_path / "d", info, samples, features)
        said = str(error.value)
        assert len(error.value.details) == 4
        for word in ("'voice' has 1 values", "[33, 5, 7]", "outside the 3 classes", "'p0'"):
            assert word in said
        assert not (tmp_path / "d").exists()


def change(column, row, value):
    def apply(info, samples, features):
        samples[column] = samples[column].astype(object) if isinstance(value, (str, float)) else samples[column]
        samples.loc[row, column] = value

    return apply


def set_split(split, old):
    def apply(info, samples, features):
        samples.loc[samples["split"] == old, "split"] = split

    return apply


def only_in_val(info, samples, features):
    samples.loc[samples["split"] == "train", "target"] %= 2


FAULTS = [
    (change("sample_id", 2, "001"), "'001'"),
    (change("sample_id", 2, ""), "1 samples have no sample_id"),
    (change("subject_id", 17, "p7"), "'p7'"),
    (change("subject_id", 2, None), "no subject_id"),
    (change("target", 2, -1), "'002'"),
    (change("target", 2, 3), "0 to 2"),
    (change("target", 2, 0.5), "of type object"),
    (change("split", 2, "training"), "'training'"),
    (set_split("train", "val"), "'val' has no samples"),
    (set_split("train", "test"), "'test' has no samples"),
    (only_in_val, "is of class 'sad'"),
    (change("fold", 2, 9), "'fold'"),
    (change("fold", 2, 3), "more than one fold: 'p0'"),
    (lambda info, samples, features: samples.insert(0, "clean_target", 1), "'clean_target'"),
    (lambda info, samples, features: samples.insert(0, "frame", 0), "frame of another sample"),
    (lambda info, samples, features: samples.insert(0, "frame", 0.5), "type float64"),
    (lambda info, samples, features: samples.pop("subject_id"), "no column 'subject_id'"),
    (lambda info, samples, features: features.pop("face"), "'face' has an entry in the info but no array"),
    (lambda info, samples, features: features.update(ecg=features["face"]), "'ecg' has an array but no entry"),
    (lambda info, samples, features: features.update(voice=features["voice"][:32]), r"\[32, 13\]"),
    (lambda info, samples, features: features.update(voice=np.full((33, 13), "x")), "of <U1"),
    (lambda info, samples, features: features["face"].__setitem__((31, 4, 6), np.inf), "'face' has 1 values .* '031'"),
    (lambda info, samples, features: features.update(voice=np.full((33, 13), 1e39)), "429 values"),
]


@pytest.mark.parametrize(("spoil", "word"), FAULTS)
def test_a_fault_is_named_and_nothing_is_written(parts, tmp_path, spoil, word):
    info, samples, features = parts()
    spoil(info, samples, features)
    with pytest.raises(DatasetError, match=word) as error:
        write_dataset(tmp_path / "d", info, samples, features)
    assert error.value.cure
    assert not (tmp_path / "d").exists()


def test_no_samples(parts, tmp_path):
    info, samples, features = parts()
    with pytest.raises(DatasetError, match="has no samples"):
        write_dataset(tmp_path / "d", info, samples[:0], {name: values[:0] for name, values in features.items()})


def test_targets_that_are_not_finite(parts, tmp_path):
    info, samples, features = parts("regression")
    samples.loc[5, "target_arousal"] = np.nan
    with pytest.raises(DatasetError, match="NaN or infinite, in 1 samples: '005'"):
        write_dataset(tmp_path / "d", info, samples, features)


def test_frames_of_targets_and_of_a_modality_must_agree(parts, tmp_path):
    info, samples, features = parts("regression", target_frames=4)
    for column in info.target_columns:
        samples[column] = [np.zeros(4, np.float32)] * 33
    with pytest.raises(DatasetError, match="'face' has 5 frames a sample, the targets have 4"):
        write_dataset(tmp_path / "d", info, samples, features)
    samples[column] = [np.zeros(4 + row % 2, np.float32) for row in range(33)]
    with pytest.raises(DatasetError, match=r"does not hold 4 targets|faults"):
        write_dataset(tmp_path / "d", info, samples, features)


class TestDamage:
    @pytest.fixture
    def path(self, parts, tmp_path) -> Path:
        return write_dataset(tmp_path / "d", *parts()).path

    def test_no_dataset_there(self, tmp_path):
        with pytest.raises(DatasetError, match=r"no dataset\.yaml"):
            Dataset.open(tmp_path)

    def test_neither_a_path_nor_a_name_lists_the_bundled_names(self, tmp_path):
        with pytest.raises(DatasetError, match="mfeat"):
            open_dataset(str(tmp_path / "nowhere"))

    @pytest.mark.parametrize("verify", [True, False])
    def test_every_missing_file_is_named(self, path, verify):
        (path / "samples.parquet").unlink()
        (path / "features" / "face.parquet").unlink()
        with pytest.raises(DatasetError, match=r"(?s)samples\.parquet is missing.*face\.parquet is missing"):
            Dataset.open(path, verify)

    def test_a_checksum_that_does_not_match_names_both(self, path):
        file = path / "features" / "face.parquet"
        recorded = yaml.safe_load((path / "dataset.yaml").read_text())["checksums"]["features/face.parquet"]
        content = bytearray(file.read_bytes())
        content[100] ^= 1
        file.write_bytes(content)
        with pytest.raises(DatasetError) as error:
            Dataset.open(path)
        assert recorded in str(error.value)
        assert checksum(file) in str(error.value)

    @pytest.mark.parametrize("name", ["samples.parquet", "features/voice.parquet"])
    def test_a_truncated_file(self, path, name):
        content = (path / name).read_bytes()
        (path / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(DatasetError, match="truncated"):
            Dataset.open(path)
        with pytest.raises(DatasetError, match="truncated"):
            Dataset.open(path, verify=False).features("voice")

    def test_an_altered_yaml(self, path):
        text = (path / "dataset.yaml").read_text()
        (path / "dataset.yaml").write_text(text.replace("CC0", "mine"))
        with pytest.raises(DatasetError, match="was altered"):
            Dataset.open(path)

    @pytest.mark.parametrize(
        ("old", "new", "word"),
        [
            ("task: classification", "task: clustering", "task: "),
            ("- 7", "- -7", r"modalities\.face\.shape"),
            ("licence: CC0", "licence: CC0\nowner: me", "owner"),
            ("  face:", "  ../face:", "modalities"),
            ("- sad", "- glad", "one class twice"),
            ("task: classification", "task: regression", "regression has no classes"),
            ("name: small", "name: [", "cannot be read"),
        ],
    )
    def test_a_yaml_that_describes_no_dataset(self, path, old, new, word):
        text = (path / "dataset.yaml").read_text()
        assert old in text
        (path / "dataset.yaml").write_text(text.replace(old, new, 1))
        with pytest.raises(DatasetError, match=word):
            Dataset.open(path)

    def test_misaligned_ids_are_named_with_counts(self, path, parts):
        _, samples, features = parts()
        ids = samples["sample_id"].tolist()
        ids[:7] = [f"x{n}" for n in range(7)]
        write_features(path / "features/face.parquet", ids, features["face"])
        reseal(path)
        with pytest.raises(DatasetError) as error:
            Dataset.open(path)
        said = str(error.value)
        assert "'face' lacks 7 of 33 samples: '000', '001', '002', '003', '004', ..." in said
        assert "'face' has 7 sample_ids that are not among the samples: 'x0'" in said
        with pytest.raises(DatasetError, match="lacks 7"):
            Dataset.open(path, verify=False).features("face")

    def test_repeated_ids_and_nan_in_a_file(self, path, parts):
        _, samples, features = parts()
        ids = samples["sample_id"].tolist()
        features["voice"][9] = np.nan
        write_features(path / "features/voice.parquet", [*ids, "004"], features["voice"][[*range(33), 4]])
        reseal(path)
        with pytest.raises(DatasetError) as error:
            Dataset.open(path)
        assert "'voice' has 1 sample_ids more than once: '004'" in str(error.value)
        assert "'voice' has 13 values that are NaN or infinite, in 1 samples: '009'" in str(error.value)

    def test_a_shape_that_the_file_does_not_have(self, path, parts):
        _, samples, features = parts()
        write_features(path / "features/face.parquet", samples["sample_id"], features["face"][:, :4])
        reseal(path)
        with pytest.raises(DatasetError, match=r"28 values a sample.*\[5, 7\], 35 values"):
            Dataset.open(path)

    def test_columns_that_are_not_there_or_no_lists(self, path, parts):
        ids = parts()[1]["sample_id"]
        pq.write_table(pa.table({"sample_id": ids, "values": np.zeros(33)}), path / "features/face.parquet")
        pq.write_table(pa.table({"id": ids}), path / "features/voice.parquet")
        reseal(path)
        with pytest.raises(DatasetError, match=r"(?s)of type double.*no column 'sample_id'"):
            Dataset.open(path)


def test_a_modality_knows_its_sizes():
    assert Modality(shape=(5, 7)).size == 35
    assert Modality(shape=(5, 7)).frames == 5
    assert Modality(shape=(13,)).frames is None


@pytest.mark.parametrize("name", ["sample_id", "frame"])
def test_a_target_cannot_take_a_column_of_the_answers(name: str) -> None:
    with pytest.raises(ValueError, match=f"a target cannot be called {name}"):
        DatasetInfo(name="x", task="regression", targets=("valence", name))


class TestFramesWithoutALabel:
    @pytest.fixture
    def gappy(self, parts):
        def make(**about):
            info, samples, features = parts("regression", target_frames=5)
            for column in info.target_columns:
                samples[column] = list(np.stack([samples[column].to_numpy()] * 5, axis=1) + np.arange(5.0))
            samples["target_valence"].iloc[7][3] = np.nan
            samples["target_arousal"].iloc[9][:2] = np.nan
            return info.model_copy(update={"missing_targets": True, **about}), samples, features

        return make

    def test_nan_comes_back_where_the_dataset_says_so(self, gappy, tmp_path):
        info, samples, features = gappy()
        write_dataset(tmp_path / "d", info, samples, features)
        dataset = open_dataset(tmp_path / "d")
        targets = dataset.targets()
        assert dataset.info.missing_targets
        assert np.argwhere(np.isnan(targets)).tolist() == [[7, 3, 0], [9, 0, 1], [9, 1, 1]]
        assert targets[7, 3, 1] == samples["target_arousal"].iloc[7][3].astype(np.float32)

    def test_nan_is_a_fault_where_it_does_not(self, gappy, tmp_path):
        with pytest.raises(DatasetError, match="1 targets that are NaN or infinite, in 1 samples: '007'"):
            write_dataset(tmp_path / "d", *gappy(missing_targets=False))

    def test_infinity_stays_a_fault(self, gappy, tmp_path):
        info, samples, features = gappy()
        samples["target_valence"].iloc[7][1] = -np.inf
        with pytest.raises(DatasetError, match="1 targets that are infinite, in 1 samples: '007'"):
            write_dataset(tmp_path / "d", info, samples, features)

    def test_every_sample_needs_a_frame_with_all_of_its_targets(self, gappy, tmp_path):
        info, samples, features = gappy()
        samples["target_valence"].iloc[9][2:] = np.nan
        with pytest.raises(DatasetError, match=r"1 samples have no frame with a label.*'009'") as caught:
            write_dataset(tmp_path / "d", info, samples, features)
        assert caught.value.cure == "Remove these samples."
        assert not (tmp_path / "d").exists()

    @pytest.mark.parametrize(("task", "frames"), [("classification", 5), ("regression", None)])
    def test_only_a_regression_with_targets_per_frame_may_have_them(self, parts, tmp_path, task, frames):
        info, samples, features = parts(task, target_frames=frames)
        info = info.model_copy(update={"missing_targets": True})
        with pytest.raises(DatasetError, match="missing_targets are for regression with target_frames"):
            write_dataset(tmp_path / "d", info, samples, features)

    def test_a_dataset_without_them_says_and_hashes_what_it_did_before(self, parts, gappy, tmp_path):
        info, _, _ = parts("regression")
        assert "missing_targets" not in info.to_dict()
        assert gappy()[0].to_dict()["missing_targets"] is True
        assert gappy()[0].computed_fingerprint() != gappy(missing_targets=False)[0].computed_fingerprint()


@pytest.mark.parametrize(
    ("kind", "shape"),
    [("features", (4, 7, 3)), ("features", (4, 7, 5, 3)), ("images", (7, 5, 3)), ("images", (4, 2, 7, 5, 1))],
)
def test_shapes_that_no_modality_has(kind, shape):
    with pytest.raises(ValueError, match=f"{kind} have a shape of"):
        Modality(kind=kind, shape=shape)


def test_sequences_of_clips_and_of_pictures_come_back(parts, tmp_path):
    info, samples, _ = parts("regression", target_frames=5)
    for column in info.target_columns:
        samples[column] = list(np.stack([samples[column].to_numpy()] * 5, axis=1))
    rng = np.random.default_rng(1)
    film = rng.integers(0, 256, (33, 5, 2, 7, 9, 3), dtype=np.uint8)
    sound = rng.normal(size=(33, 5, 11, 3, 1)).astype(np.float32)
    modalities = {"film": Modality(kind="images", shape=film.shape[1:]), "sound": Modality(shape=sound.shape[1:])}
    assert {one.frames for one in modalities.values()} == {5}
    info = info.model_copy(update={"modalities": modalities})
    write_dataset(tmp_path / "d", info, samples, {"film": film, "sound": sound})
    dataset = open_dataset(tmp_path / "d")
    np.testing.assert_array_equal(dataset.features("film")[np.arange(33)].gather(), film)
    np.testing.assert_array_equal(dataset.features("sound"), sound)
