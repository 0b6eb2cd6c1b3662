from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pkdray.data.dataset import Dataset
from pkdray.data.importers.features import import_features
from pkdray.errors import DatasetError

COUNT = 40


class Tables:
    """A labels table of 40 samples of 20 subjects and two modalities, to alter and then to import."""

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(0)
        ids = [f"{n:03d}" for n in range(COUNT)]
        self.folder = folder
        self.labels = pd.DataFrame(
            {
                "sample_id": ids,
                "target": [("calm", "glad", "sad")[n // 2 % 3] for n in range(COUNT)],
                "subject_id": [f"p{n // 2}" for n in range(COUNT)],
            }
        )
        self.face = pd.DataFrame(rng.normal(size=(COUNT * 5, 7)), columns=[f"au{n}" for n in range(7)])
        self.face.insert(0, "sample_id", np.repeat(ids, 5))
        self.face.insert(1, "frame", np.tile(np.arange(5), COUNT))
        self.voice = pd.DataFrame(rng.normal(size=(COUNT, 3)), columns=list("xyz"))
        self.voice.insert(0, "sample_id", ids)

    def run(self, dest: str = "d", **options) -> Dataset:
        self.labels.to_csv(self.folder / "labels.csv", index=False)
        self.face.to_csv(self.folder / "face.csv", index=False)
        self.voice.to_parquet(self.folder / "voice.parquet")
        modalities = {"face": self.folder / "face.csv", "voice": self.folder / "voice.parquet"}
        known = {"name": "mine", "task": "classification", "modalities": modalities}
        return import_features(self.folder / dest, labels=self.folder / "labels.csv", **{**known, **options})

    def fails(self, **options) -> str:
        with pytest.raises(DatasetError) as error:
            self.run(**options)
        assert error.value.cure
        assert not (self.folder / "d").exists()
        return str(error.value)


@pytest.fixture
def tables(tmp_path) -> Tables:
    return Tables(tmp_path)


class TestImport:
    def test_what_was_given_comes_out(self, tables):
        dataset = tables.run(rates={"face": 12.5}, licence="CC0", source="the lab", notes="n")
        assert dataset.info.classes == ("calm", "glad", "sad")
        assert dataset.info.modalities["face"].rate == 12.5
        assert dataset.info.licence == "CC0"
        assert np.array_equal(dataset.targets(), np.arange(COUNT) // 2 % 3)
        face = tables.face.drop(columns=["sample_id", "frame"]).to_numpy(np.float32).reshape(COUNT, 5, 7)
        assert np.array_equal(dataset.features("face"), face)
        assert dataset.fingerprint == Dataset.open(dataset.path).fingerprint

    def test_tables_may_be_in_different_orders(self, tables):
        expected = tables.run("a")
        tables.face = tables.face.sample(frac=1, random_state=1)
        tables.voice = tables.voice.sample(frac=1, random_state=2)
        assert tables.run("b").fingerprint == expected.fingerprint

    def test_subjects_are_disjoint_and_seeded(self, tables):
        first = tables.run("a", seed=1)
        assert first.samples.groupby("subject_id")["split"].nunique().max() == 1
        assert tables.run("b", seed=1).fingerprint == first.fingerprint
        assert tables.run("c", seed=2).fingerprint != first.fingerprint
        assert (first.samples["sequence_id"] == first.samples["subject_id"]).all()

    def test_without_subjects_each_sample_is_its_own(self, tables):
        del tables.labels["subject_id"]
        samples = tables.run().samples
        assert (samples["subject_id"] == samples["sample_id"]).all()

    def test_a_given_split_is_kept(self, tables):
        tables.labels["split"] = np.repeat(["train", "Validation", "dev", "TEST"], [20, 6, 4, 10])
        dataset = tables.run()
        assert dataset.rows("val").tolist() == list(range(20, 30))
        assert dataset.rows("test").tolist() == list(range(30, 40))

    def test_folds(self, tables):
        dataset = tables.run(folds=5)
        assert dataset.folds == 5
        assert dataset.samples.groupby("subject_id")["fold"].nunique().max() == 1

    def test_integer_classes_are_in_the_order_of_numbers(self, tables):
        tables.labels["target"] = [(10, 2, -1)[n // 2 % 3] for n in range(COUNT)]
        dataset = tables.run()
        assert dataset.info.classes == ("-1", "2", "10")
        assert dataset.targets()[:6].tolist() == [2, 2, 1, 1, 0, 0]

    def test_whole_numbers_with_a_point_are_classes_too(self, tables):
        tables.labels["target"] = [(10.0, 2.0)[n // 2 % 2] for n in range(COUNT)]
        assert tables.run().info.classes == ("2", "10")

    def test_a_class_may_be_called_none(self, tables):
        tables.labels["target"] = tables.labels["target"].replace("sad", "None")
        assert tables.run().info.classes == ("None", "calm", "glad")

    def test_a_single_regression_target(self, tables):
        tables.labels["target"] = np.arange(COUNT) / 8
        dataset = tables.run(task="regression")
        assert dataset.info.targets == ("target",)
        assert np.array_equal(dataset.targets()[:, 0], np.arange(COUNT) / 8)

    def test_several_regression_targets(self, tables):
        del tables.labels["target"]
        tables.labels["target_valence"] = np.arange(COUNT) / 8
        tables.labels["target_arousal"] = -np.arange(COUNT) / 8
        dataset = tables.run(task="regression")
        assert dataset.info.targets == ("valence", "arousal")
        assert np.array_equal(dataset.targets()[:, 1], -np.arange(COUNT) / 8)

    def test_frames_of_single_targets_place_samples_in_their_sequence(self, tables):
        tables.labels["frame"] = np.tile([4, 9], COUNT // 2)
        dataset = tables.run()
        assert dataset.info.target_frames is None
        assert dataset.samples["frame"].tolist()[:3] == [4, 9, 4]

    @pytest.mark.parametrize("task", ["classification", "regression"])
    def test_several_rows_a_sample_are_targets_per_frame(self, tables, task):
        rows = tables.labels.loc[np.repeat(np.arange(COUNT), 5)].reset_index(drop=True)
        rows["frame"] = np.tile(np.arange(5), COUNT)
        rows["target"] = np.arange(5 * COUNT) % 4 if task == "classification" else np.arange(5 * COUNT) / 8
        rows["split"] = np.repeat(["train", "val", "test"], [100, 50, 50])
        tables.labels = rows.sample(frac=1, random_state=0)
        dataset = tables.run(task=task)
        assert dataset.info.target_frames == 5
        found = dataset.samples["sample_id"].astype(int).to_numpy()
        expected = rows["target"].to_numpy().reshape(COUNT, 5)[found]
        targets = dataset.targets()
        assert np.array_equal(targets if task == "classification" else targets[..., 0], expected)
        assert "frame" not in dataset.samples

    def test_targets_per_frame_are_split_by_subject(self, tables):
        rows = tables.labels.loc[np.repeat(np.arange(COUNT), 5)].reset_index(drop=True)
        rows["frame"] = np.tile(np.arange(5), COUNT)
        tables.labels = rows
        dataset = tables.run(folds=4)
        assert dataset.samples.groupby("subject_id")["split"].nunique().max() == 1
        assert dataset.targets().shape == (COUNT, 5)

    def test_an_empty_destination_is_filled(self, tables):
        (tables.folder / "d").mkdir()
        assert len(tables.run()) == COUNT


class TestFaults:
    def test_an_existing_destination_is_not_touched(self, tables):
        (tables.folder / "d").mkdir()
        (tables.folder / "d" / "mine.txt").write_text("keep")
        with pytest.raises(DatasetError, match="not an empty folder"):
            tables.run()
        assert [entry.name for entry in (tables.folder / "d").iterdir()] == ["mine.txt"]

    def test_all_tables_are_checked_before_anything_is_said(self, tables):
        tables.labels["split"] = ["train"] * 21 + ["val"] * 9 + ["test"] * 10
        tables.face = tables.face[tables.face["sample_id"] != "004"]
        tables.voice.loc[3, "y"] = np.nan
        said = tables.fails(rates={"ecg": 1.0})
        assert "4 faults" in said
        for word in (
            "'face' lacks 1 of 40 samples: '004'",
            "samples '003'",
            "1 subjects are in more than one split: 'p10'",
            "'ecg'",
        ):
            assert word in said

    def test_several_faults_of_the_labels_and_a_missing_file(self, tables):
        tables.labels["split"] = "training"
        tables.labels["age"] = 30
        tables.labels.loc[2, "target"] = ""
        said = tables.fails(modalities={"face": tables.folder / "nowhere.csv"})
        for word in ("'training'", "'age'", "1 rows without a target, at samples '002'", "nowhere.csv does not exist"):
            assert word in said

    def test_alone_and_repeated_samples(self, tables):
        tables.voice.loc[5, "sample_id"] = "x"
        said = tables.fails()
        assert "lacks 1 of 40 samples: '005'" in said
        assert "not among the samples: 'x'" in said
        tables.labels = pd.concat([tables.labels, tables.labels[:2]])
        assert "2 sample_ids more than once: '000', '001'" in tables.fails()

    def test_a_misspelt_subject_is_not_ignored(self, tables):
        tables.labels = tables.labels.rename(columns={"subject_id": "subject"})
        assert "no known meaning: 'subject'" in tables.fails()

    def test_no_target(self, tables):
        tables.labels = tables.labels.rename(columns={"target": "label"})
        assert "no column 'target'" in tables.fails()
        assert "target_<name>" in tables.fails(task="regression")

    def test_two_kinds_of_target(self, tables):
        tables.labels["target_valence"] = 0.5
        assert "both 'target' and 'target_valence'" in tables.fails(task="regression")
        assert "no known meaning: 'target_valence'" in tables.fails()

    def test_words_are_no_regression_targets(self, tables):
        said = tables.fails(task="regression")
        assert "40 values in column 'target' that are not finite numbers, such as 'calm'" in said

    def test_fractions_are_no_classes(self, tables):
        tables.labels["target"] = 0.37
        tables.labels.to_parquet(tables.folder / "labels.parquet")
        with pytest.raises(DatasetError, match=r"fractional targets, such as 0\.37"):
            import_features(
                tables.folder / "d",
                name="mine",
                task="classification",
                labels=tables.folder / "labels.parquet",
                modalities={},
            )

    def test_one_class_is_nothing_to_tell_apart(self, tables):
        tables.labels["target"] = "calm"
        assert "at least two classes" in tables.fails()

    def test_an_empty_subject(self, tables):
        tables.labels.loc[7, "subject_id"] = ""
        assert "1 rows without a subject_id, the first being row 8" in tables.fails()

    def test_no_modality(self, tables):
        assert "no modality" in tables.fails(modalities={})

    def test_a_modality_that_is_no_file_name(self, tables):
        tables.run("other")
        assert "../face" in tables.fails(modalities={"../face": tables.folder / "face.csv"})

    def test_too_many_folds_and_too_few_subjects(self, tables):
        assert "21 folds" in tables.fails(folds=21)
        tables.labels["subject_id"] = "p0"
        assert "1 subjects cannot be split" in tables.fails()

    def test_a_sample_of_two_subjects(self, tables):
        rows = tables.labels.loc[np.repeat(np.arange(COUNT), 5)].reset_index(drop=True)
        rows["frame"] = np.tile(np.arange(5), COUNT)
        rows.loc[6, "subject_id"] = "p19"
        tables.labels = rows
        assert "1 samples with more than one subject_id: '001'" in tables.fails()

    def test_frames_of_labels_and_of_a_modality_differ(self, tables):
        rows = tables.labels.loc[np.repeat(np.arange(COUNT), 4)].reset_index(drop=True)
        rows["frame"] = np.tile(np.arange(4), COUNT)
        tables.labels = rows
        assert "'face' has 5 frames a sample, the targets have 4" in tables.fails()
        tables.labels = rows[:-1]
        assert "'039' has 3 frames, '000' has 4" in tables.fails()
