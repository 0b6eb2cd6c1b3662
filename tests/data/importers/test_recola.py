from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from pkdray.data import validation
from pkdray.data.faults import Faults
from pkdray.data.importers import recola
from pkdray.data.info import DatasetInfo
from pkdray.errors import DatasetError


@pytest.fixture(scope="module")
def whole(tmp_path_factory, replicas) -> Path:
    """Four people of train, three of dev, two of test, 131 labels each; read only."""
    root = tmp_path_factory.mktemp("recola")
    replicas.write_recola_replica(root)
    return root


@pytest.fixture
def damaged(tmp_path, replicas) -> Path:
    """The same, to be damaged."""
    replicas.write_recola_replica(tmp_path)
    return tmp_path


def of(scan, kind):
    return [one for one in scan.findings if one.kind == kind]


def clips(person, *numbers):
    return tuple(f"{person}-{number:03d}" for number in numbers)


def test_clips_of_one_second_with_25_labels(whole, replicas):
    scan = recola.scan(whole)
    assert (scan.name, scan.task, scan.targets, scan.classes) == ("recola", "regression", ("valence", "arousal"), ())
    # 131 rows are 5 clips and 6 rows, of each of 7 people.
    assert len(scan.recordings) == 35
    assert scan.found["rows beyond the last whole clip"] == 6 * 7
    assert (scan.target_frames, scan.track_rate) == (25, 25.0)
    one = next(one for one in scan.recordings if one.sample_id == "train_1-002")
    assert (one.sample_id, one.subject_id, one.sequence_id, one.part) == ("train_1-002", "train_1", "train_1", "train")
    assert (one.start_s, one.end_s, one.extra["first_row"], one.mask) == (2.0, 3.0, 50, None)
    assert one.target == pytest.approx(replicas.recola_gold("train_1", 131)[50:75])
    assert one.target.dtype == np.float32
    assert one.sources == {
        "video": whole / "recordings_video" / "train_1.mp4",
        "audio": whole / "recordings_audio" / "train_1.wav",
        "frame_times": whole / "recordings_video_frame_time" / "train_1.csv",
    }
    # train_2 comes before train_10.
    people = ["dev_1", "dev_2", "dev_3", "train_1", "train_2", "train_3", "train_10"]
    assert [one.subject_id for one in scan.recordings[::5]] == list(scan.tracks) == people


def test_the_gold_standard_is_kept_as_read(whole, replicas):
    scan = recola.scan(whole)
    assert set(scan.tracks) == {"train_1", "train_2", "train_3", "train_10", "dev_1", "dev_2", "dev_3"}
    assert scan.tracks["dev_2"] == pytest.approx(replicas.recola_gold("dev_2", 131))
    assert scan.tracks["dev_2"].dtype == np.float32
    assert scan.found["gold standard"] == ".arff files"


def test_the_true_length_gives_300_clips_and_a_row(tmp_path, replicas):
    replicas.write_recola_replica(tmp_path, people=("train_1", "train_2", "dev_1"), rows=7501)
    scan = recola.scan(tmp_path, modalities=["video", "audio", "biosignals"])
    assert len(scan.recordings) == 900
    assert scan.found["rows beyond the last whole clip"] == 3
    assert scan.recordings[299].end_s == 300.0
    assert of(scan, "unusual number of rows") == of(scan, "length mismatch") == []


def test_lengths_other_than_7501_rows_are_told(whole):
    finding = of(recola.scan(whole), "unusual number of rows")[0]
    assert (finding.harm, finding.what) == (
        "kept",
        "dev_1 has 131 rows of gold standard, not 7501 (five minutes at 25 Hz).",
    )


def test_the_test_part_has_no_labels_and_is_told(damaged):
    scan = recola.scan(damaged)
    assert [(one.harm, one.samples, str(one)) for one in of(scan, "test part")] == [
        (
            "left out",
            (name,),
            f"{name} is of the test part and has no labels: results are reported on dev.",
        )
        for name in ("test_1", "test_2")
    ]
    for dimension in ("valence", "arousal"):
        folder = damaged / "ratings_gold_standard" / dimension
        text = (folder / "dev_1.arff").read_text().replace("dev_1", "test_1")
        (folder / "test_1.arff").write_text(text)
    finding = of(recola.scan(damaged), "test part")[0]
    assert finding.what == (
        "test_1 is of the test part and has labels, which were withheld when results were published: results are "
        "reported on dev."
    )


def test_physiology_filtered_or_raw(whole, tmp_path, replicas):
    scan = recola.scan(whole, modalities=["video", "biosignals"])
    assert scan.found["physiology"] == "filtered"
    assert scan.found["physiological columns"] == "time, ECG, EDA, HR"
    folder = whole / "recordings_physio" / "filtered"
    assert scan.recordings[0].sources["biosignals"].parent == folder
    replicas.write_recola_replica(tmp_path, filtered=False)
    scan = recola.scan(tmp_path, modalities=["biosignals"])
    assert (scan.found["physiology"], set(scan.recordings[0].sources)) == ("raw", {"biosignals"})
    with pytest.raises(DatasetError) as caught:
        recola.scan(tmp_path, physio="filtered")
    assert "expected there are recordings_physio/filtered/*.csv" in caught.value.what


def test_raters_have_trailing_spaces(whole):
    scan = recola.scan(whole)
    assert scan.found["raters"] == 3
    path = whole / "ratings_individual" / "arousal" / "dev_1.csv"
    assert path.read_text().splitlines()[0] == "time ;FM1 ;FM2 ;FF1 "
    table = recola.read_raters(path)
    assert list(table) == ["time", "FM1", "FM2", "FF1"]
    assert len(table) == 131


def test_the_headerless_variant_has_arousal_first(tmp_path, replicas):
    replicas.write_recola_replica(tmp_path, gold="csv")
    scan = recola.scan(tmp_path)
    assert scan.found["gold standard"] == ".csv files"
    assert scan.tracks["train_3"] == pytest.approx(replicas.recola_gold("train_3", 131))
    assert len(scan.recordings) == 35


def test_both_variants_are_told(damaged, tmp_path):
    (damaged / "ratings_gold_standard" / "dev_1.csv").write_text("0.1;0.2\n" * 131)
    (damaged / "ratings_gold_standard" / "valence" / "dev_1.arff").unlink()
    (damaged / "ratings_gold_standard" / "valence" / "dev_2.arff").unlink()
    scan = recola.scan(damaged)
    (finding,) = of(scan, "gold standard twice")
    assert finding.what == (
        f"{damaged / 'ratings_gold_standard'} has both .arff and .csv files; the .arff files are read and others used "
        "where one is missing."
    )
    assert scan.tracks["dev_1"][0] == pytest.approx([0.2, 0.1])
    (finding,) = of(scan, "half a gold standard")
    assert (str(finding), finding.harm, finding.samples) == (
        f"dev_2 has no {damaged / 'ratings_gold_standard' / 'valence' / 'dev_2'}.arff. Restore it.",
        "left out",
        ("dev_2",),
    )


def test_attributes_may_stand_in_any_order_and_labels_may_be_unknown(tmp_path):
    path = tmp_path / "x.arff"
    path.write_text(
        "% comment\n@RELATION x\n@ATTRIBUTE GoldStandard numeric\n@attribute 'Instance_name' string\n"
        "@attribute frameTime numeric\n@DATA\n% more\n0.5,'train_1',0.00\n?,'train_1',0.04\n"
    )
    times, values, names = recola.read_gold_arff(path)
    assert times.tolist() == [0, 0.04]
    assert values[0] == 0.5
    assert np.isnan(values[1])
    assert names == {"train_1"}


def test_unknown_labels_are_masked_and_clips_without_any_are_left_out(damaged):
    path = damaged / "ratings_gold_standard" / "valence" / "dev_1.arff"
    rows = path.read_text().splitlines()
    start = rows.index("@data") + 2
    for row in [*range(25), 60, 61]:
        rows[start + row] = rows[start + row].rpartition(",")[0] + ",?"
    path.write_text("\n".join(rows))
    scan = recola.scan(damaged)
    (finding,) = of(scan, "no labels")
    assert (finding.what, finding.samples) == ("dev_1-000 has no label at all.", ("dev_1-000",))
    one = next(one for one in scan.recordings if one.sample_id == "dev_1-002")
    assert np.flatnonzero(~one.mask).tolist() == [10, 11]
    samples = scan.samples("train/dev")
    assert [int(np.isnan(valence).sum()) for valence in samples["target_valence"]] == [
        2 if name == "dev_1-002" else 0 for name in samples["sample_id"]
    ]
    assert scan.unlabelled == 2


def test_lengths_that_do_not_match_are_clamped_and_counted(tmp_path, replicas):
    lengths = replicas.RecolaLengths(
        valence={"train_1": 128}, frames={"train_2": 70, "dev_1": 127}, physio={"train_3": 1000, "dev_2": 1320}
    )
    replicas.write_recola_replica(tmp_path, lengths=lengths)
    scan = recola.scan(tmp_path, modalities=["video", "audio", "biosignals"])
    assert scan.found["length mismatches"] == 6
    assert {one.harm for one in of(scan, "length mismatch")} == {"kept"}
    assert [one.what for one in of(scan, "length mismatch")] == [
        "train_1 has 128 rows of valence and 131 of arousal; the first 128 count.",
        "dev_1 has 5.24 s of gold standard and 5.08 s of frame times; the shorter counts.",
        "train_1 has 5.12 s of gold standard and 5.20 s of biosignals; the shorter counts.",
        "train_1 has 5.12 s of gold standard and 5.20 s of frame times; the shorter counts.",
        "train_2 has 5.24 s of gold standard and 2.80 s of frame times; the shorter counts.",
        "train_3 has 5.24 s of gold standard and 4.00 s of biosignals; the shorter counts.",
    ]
    assert scan.tracks["train_1"].shape == (128, 2)
    (finding,) = of(scan, "beyond the frame times")
    assert (str(finding), finding.harm, finding.samples) == (
        "3 clips of train_2 lie beyond the end of its frame times at 2.80 s. Restore it if it was cut short.",
        "left out",
        clips("train_2", 2, 3, 4),
    )
    (finding,) = of(scan, "beyond the biosignals")
    assert finding.samples == clips("train_3", 4)
    assert scan.left_out == ("test_1", "test_2", *clips("train_2", 2, 3, 4), *clips("train_3", 4))


def test_people_who_lack_something_are_left_out(damaged):
    (damaged / "recordings_audio" / "train_1.wav").unlink()
    (damaged / "recordings_video" / "train_2.mp4").write_bytes(b"")
    (damaged / "recordings_video_frame_time" / "train_3.csv").unlink()
    times = damaged / "recordings_video_frame_time" / "train_10.csv"
    times.write_text("frame,time\n0,0.0\n")
    for dimension in ("valence", "arousal"):
        (damaged / "ratings_gold_standard" / dimension / "dev_2.arff").unlink()
    scan = recola.scan(damaged)
    assert scan.left_out == (
        "dev_2",
        "test_1",
        "test_2",
        *clips("train_1", 0, 1, 2, 3, 4),
        *clips("train_2", 0, 1, 2, 3, 4),
    )
    said = {(one.kind, one.where): str(one) for one in scan.findings}
    assert said[("no audio", "train_1")] == "train_1 has no recordings_audio/train_1.wav. Restore it."
    assert said[("no video", "train_2")] == (f"{damaged / 'recordings_video' / 'train_2.mp4'} has 0 bytes. Restore it.")
    assert said[("no frame times", "train_3")] == (
        "train_3 has no recordings_video_frame_time/train_3.csv; the video's own time stamps count."
    )
    assert said[("no frame times", "train_10")] == (
        f"{times} has a row without a time in its second column: list index out of range. So the video's own time "
        "stamps count. Restore it; it is separated by ';'."
    )
    assert said[("no gold standard", "dev_2")] == "dev_2 has recordings but no gold standard. Restore it."
    assert "frame_times" not in next(one for one in scan.recordings if one.subject_id == "train_3").sources
    assert not any(one.subject_id == "train_1" for one in recola.scan(damaged).recordings)
    assert any(one.subject_id == "train_1" for one in recola.scan(damaged, modalities=["video"]).recordings)


def test_faulty_text_files(damaged):
    gold = damaged / "ratings_gold_standard"
    bad = {
        "train_1": (gold / "valence" / "train_1.arff", lambda text: text.replace("GoldStandard", "Gold")),
        "train_2": (gold / "arousal" / "train_2.arff", lambda text: text.partition("@data")[0] + "@data\n"),
        "train_3": (gold / "arousal" / "train_3.arff", lambda text: text.replace("0.04,", "now,")),
        "train_10": (gold / "valence" / "train_10.arff", lambda text: text.replace("train_10,", "train_9,")),
        "dev_1": (gold / "arousal" / "dev_1.arff", lambda text: text.replace(",1.00,", ",1.50,")),
    }
    for path, change in bad.values():
        path.write_text(change(path.read_text()))
    physio = damaged / "recordings_physio" / "filtered" / "dev_2.csv"
    physio.write_text(physio.read_text().replace(";", ","))
    (gold / "arousal" / "train_all.arff").write_text("x")
    scan = recola.scan(damaged, modalities=["video", "biosignals"])
    said = {(one.kind, one.where): (one.harm, str(one)) for one in scan.findings}
    kind = "unreadable gold standard"
    assert said[(kind, "train_1")] == (
        "left out",
        f"{bad['train_1'][0]} has no attribute 'goldstandard', only 'instance_name', 'frametime', 'gold'. Restore it "
        "from the original archive.",
    )
    assert said[(kind, "train_2")] == (
        "left out",
        f"{bad['train_2'][0]} has no rows. Restore it from the original archive.",
    )
    assert said[(kind, "train_3")] == (
        "left out",
        f"{bad['train_3'][0]} has a row that is not 'name,time,value': could not convert string to float: 'now'. "
        "Correct it.",
    )
    assert said[("contradictory name", "train_10")] == (
        "kept",
        f"{bad['train_10'][0]} has rows of 'train_9'; the file's name counts.",
    )
    assert said[("unusual time stamps", "dev_1")] == (
        "kept",
        f"{bad['dev_1'][0]} has time 1.5 s in row 26, not 1; rows are taken to be 40 ms apart.",
    )
    assert said[("unreadable biosignals", "dev_2")] == (
        "left out",
        f"{physio} has no column 'ECG' or 'EDA', only 'time,ECG,EDA ,HR'. Restore it; it is separated by ';'.",
    )
    assert said[("unknown file", str(gold / "arousal" / "train_all.arff"))] == (
        "note",
        f"{gold / 'arousal' / 'train_all.arff'} is not named {{train,dev}}_k.arff; it is not read.",
    )
    assert {one.subject_id for one in scan.recordings} == {"train_10", "dev_1", "dev_3"}


@pytest.mark.parametrize(
    ("read", "text", "what", "cure"),
    [
        (
            recola.read_gold_csv,
            "0.1;0.2\n0.3\n",
            "{path} has a row that is not 'arousal;valence': ",
            "Correct it; the file has no header.",
        ),
        (
            recola.read_gold_csv,
            "0.1;0.2;0.3\n",
            "{path} has 1 rows of 3 columns, not arousal;valence.",
            "Restore it from the original archive.",
        ),
        (
            recola.read_frame_times,
            "frame;time\n",
            "{path} has no rows.",
            "Restore it from the original archive.",
        ),
        (
            recola.read_frame_times,
            "frame;time\n0;start\n",
            "{path} has a row without a time in its second column: ",
            "Restore it; it is separated by ';'.",
        ),
        (recola.read_raters, "", "{path} cannot be read: ", "Restore it from the original archive."),
    ],
)
def test_readers_name_what_is_wrong(tmp_path, read, text, what, cure):
    path = tmp_path / "x.csv"
    path.write_text(text)
    with pytest.raises(DatasetError) as caught:
        read(path)
    assert caught.value.what.startswith(what.format(path=path))
    assert caught.value.cure == cure


def test_files_that_cannot_be_read_at_all(tmp_path):
    path = tmp_path / "x.arff"
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DatasetError) as caught:
        recola.read_gold_arff(path)
    assert caught.value.what.startswith(f"{path} cannot be read: 'utf-8' codec")
    assert caught.value.cure == "Restore it from the original archive, or let yourself read it."


def test_wrong_roots(whole, tmp_path):
    with pytest.raises(DatasetError) as caught:
        recola.scan(whole / "recordings_audio")
    assert caught.value.what.startswith(
        f"{whole / 'recordings_audio'} is not a root of RECOLA: expected there are "
        "ratings_gold_standard/{arousal,valence}/*.arff, recordings_audio/*.wav, recordings_video/*.mp4, "
        "recordings_video_frame_time/*.csv, recordings_physio/*.csv or recordings_physio/filtered/*.csv; it holds "
        "dev_1.wav, dev_2.wav, "
    )
    assert caught.value.cure == f"Perhaps you mean {whole}, which holds ratings_gold_standard/."
    shutil.copytree(whole, tmp_path / "AVEC_2016")
    with pytest.raises(DatasetError) as caught:
        recola.scan(tmp_path)
    assert caught.value.cure == f"Perhaps you mean {tmp_path / 'AVEC_2016'}, which holds ratings_gold_standard/."
    root = tmp_path / "AVEC_2016"
    (root / "recordings_audio").rename(root / "recording_audio")
    with pytest.raises(DatasetError) as caught:
        recola.scan(root)
    assert caught.value.cure == ("Perhaps recording_audio is what should be called recordings_audio: then rename it.")
    assert len(recola.scan(root, modalities=["video"]).recordings) == 35


def test_folders_inside_folders_of_their_name(damaged):
    inner = damaged / "ratings_gold_standard" / "ratings_gold_standard"
    for name in ("valence", "arousal"):
        shutil.move(damaged / "ratings_gold_standard" / name, inner / name)
    assert len(recola.scan(damaged).recordings) == 35


def test_what_else_lies_there(damaged):
    (damaged / "recordings_audio" / "old").mkdir()
    notes = damaged / "recordings_audio" / "notes.txt"
    notes.write_text("x")
    shutil.rmtree(damaged / "recordings_physio")
    shutil.rmtree(damaged / "ratings_individual" / "valence")
    (damaged / "ratings_individual" / "arousal" / "notes.txt").write_text("x")
    scan = recola.scan(damaged)
    (finding,) = of(scan, "unknown file")
    assert finding.what == f"{notes} is not named {{train,dev,test}}_k.wav and is not read."
    assert (scan.found["biosignals files"], scan.found["raters"]) == (0, 3)


def test_arguments_that_mean_nothing(whole):
    with pytest.raises(DatasetError) as caught:
        recola.scan(whole, modalities=["ecg"])
    assert caught.value.what == "modalities are ['ecg']."
    assert caught.value.cure == "Choose from audio, video, biosignals."


def test_no_gold_standard_at_all(damaged):
    for name in ("valence", "arousal"):
        shutil.rmtree(damaged / "ratings_gold_standard" / name)
    (damaged / "ratings_gold_standard" / "readme.txt").write_text("x")
    with pytest.raises(DatasetError) as caught:
        recola.scan(damaged)
    assert caught.value.what == (
        f"{damaged / 'ratings_gold_standard'} has neither {{arousal,valence}}/*.arff nor *.csv; it holds 'readme.txt'."
    )
    assert caught.value.cure == "Unpack the gold standard there."


def test_nothing_left(damaged):
    for path in (damaged / "recordings_video").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DatasetError) as caught:
        recola.scan(damaged)
    assert caught.value.what == f"{damaged} has no labelled clip with video and audio."
    assert caught.value.details == (f"{damaged / 'recordings_video' / 'dev_1.mp4'} has 0 bytes. Restore it.",)
    assert caught.value.cure == "Look at the first that was left out."


def test_the_protocol_is_a_valid_table(whole):
    scan = recola.scan(whole)
    samples = scan.samples("train/dev", seed=2)
    faults = Faults()
    info = DatasetInfo(name="recola", task=scan.task, targets=scan.targets, target_frames=scan.target_frames)
    validation.check_samples(info, samples, faults)
    faults.raise_if_any("recola")
    split = samples.groupby("subject_id")["split"].agg(["nunique", "first"])
    assert split["nunique"].max() == 1
    assert split["first"].value_counts().to_dict() == {"train": 3, "test": 3, "val": 1}
    assert set(split.index[split["first"] == "test"]) == {"dev_1", "dev_2", "dev_3"}
    report = scan.report("train/dev")
    assert report.counts["train/dev val samples"] == 5
    assert report.lines[0] == "recola: 35 samples of 7 subjects, 2 samples left out"
    assert any(
        line.startswith("left out: test part: 2 times, 2 samples: 'test_1', 'test_2'. ") for line in report.lines
    )


def test_labels_of_other_tracks_replace_the_gold_standard(whole):
    scan = recola.scan(whole)
    shifted = {}
    for name, track in scan.tracks.items():
        # Ten rows are 0.4 s: what was said at t is about t - 0.4 s.
        shifted[name] = np.vstack([track[10:], np.full((10, 2), np.nan, dtype=np.float32)])
    shifted["dev_1"][75:] = np.nan
    moved = recola.relabelled(scan, shifted)
    before = {one.sample_id: one for one in scan.recordings}
    assert before["dev_3-001"].target[10:].tolist() == next(
        one.target[:15].tolist() for one in moved.recordings if one.sample_id == "dev_3-001"
    )
    assert len(moved.recordings) == 33
    (lost,) = [one for one in moved.findings if one.kind == "no labels"]
    assert lost.samples == (*clips("dev_1", 3), *clips("dev_1", 4))
    assert lost.what == "2 clips of dev_1 have no label in the new track: 'dev_1-003', 'dev_1-004'."
    last = next(one for one in moved.recordings if one.sample_id == "dev_2-004")
    # 131 rows less ten end at row 121: 21 of the last clip's 25.
    assert last.mask.tolist() == [True] * 21 + [False] * 4
    assert np.isnan(last.target[21:]).all()
    assert moved.unlabelled == 4 * 6
    assert moved.tracks["dev_1"] is shifted["dev_1"]


def test_tracks_that_do_not_fit_are_refused(whole):
    scan = recola.scan(whole)
    with pytest.raises(DatasetError) as caught:
        recola.relabelled(scan, {**scan.tracks, "dev_2": scan.tracks["dev_2"][1:]})
    assert caught.value.what == "The new track of dev_2 has shape (130, 2), the scan's has (131, 2)."
    assert caught.value.cure == "Give every recording a track of the same length."
    with pytest.raises(DatasetError) as caught:
        recola.relabelled(scan, {name: np.full_like(track, np.nan) for name, track in scan.tracks.items()})
    assert caught.value.what == "The new tracks have no clip with labels."
    assert caught.value.cure == "Shift them by less."
