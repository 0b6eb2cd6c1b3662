from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from pkdray.data import validation
from pkdray.data.faults import Faults
from pkdray.data.importers import biovid
from pkdray.data.importers.build import make_plan
from pkdray.data.importers.extract import MediaOptions
from pkdray.data.importers.recordings import wrong_root
from pkdray.data.info import DatasetInfo
from pkdray.errors import DatasetError

FIRST = "071309_w_21-BL1-081"
LAST = "112016_m_25-PA4-008"


@pytest.fixture(scope="module")
def whole(tmp_path_factory, replicas) -> Path:
    """Seven subjects, two samples of each of the five classes; read only."""
    root = tmp_path_factory.mktemp("biovid") / "PartA"
    replicas.write_biovid_replica(root)
    return root


@pytest.fixture
def two(tmp_path, replicas) -> Path:
    """Three subjects, two samples of BL1 and PA4 each, to be damaged."""
    root = tmp_path / "PartB"
    replicas.write_biovid_replica(
        root, part="B", subjects=replicas.BIOVID_SUBJECTS[:3], levels=("BL1", "PA4"), signals="raw"
    )
    return root


def of(scan, kind):
    return [one for one in scan.findings if one.kind == kind]


def accounted(scan, names):
    """Every name is either imported or in a finding that says that it was left out."""
    imported = {one.sample_id for one in scan.recordings}
    assert imported | set(scan.left_out) == set(names)
    assert not imported & set(scan.left_out)


def bio(root, sample):
    return next(root.rglob(f"{sample}_bio.csv"))


def csv_row(root, sample, change):
    """Change the cells of one row of samples.csv."""
    path = root / "starting_point" / "samples.csv"
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    rows = [change(list(row)) if row[-1] == sample else row for row in rows]
    path.write_text("\n".join("\t".join(row) for row in rows if row) + "\n")


def test_the_samples_of_two_classes(whole):
    scan = biovid.scan(whole)
    assert (scan.name, scan.task, scan.targets, scan.classes) == (
        "biovid",
        "classification",
        ("target",),
        ("BL1", "PA4"),
    )
    assert len(scan.recordings) == 28
    first, last = scan.recordings[0], scan.recordings[-1]
    assert (first.sample_id, first.subject_id, first.target, first.extra["level"]) == (
        FIRST,
        "071309_w_21",
        0,
        "BL1",
    )
    assert (last.sample_id, last.subject_id, last.target, last.part) == (LAST, "112016_m_25", 1, None)
    assert (last.start_s, last.end_s, last.extra["signal_rows"]) == (2.0, 5.0, (1024, 2560))
    assert last.sources == {
        "video": whole / "video" / "112016_m_25" / f"{LAST}.mp4",
        "biosignals": whole / "biosignals_filtered" / "112016_m_25" / f"{LAST}_bio.csv",
    }
    assert last.sequence_id == LAST
    assert scan.found["samples of other classes, not asked for"] == 42
    assert scan.found["rows of samples.csv"] == 70
    assert scan.found["biosignals"] == "filtered"


def test_the_crop_is_that_of_the_papers(whole):
    first, last = biovid.scan(whole).recordings[0].extra["signal_rows"]
    assert last - first == 1536
    assert biovid.VIDEO_RATE * (biovid.CROP_S[1] - biovid.CROP_S[0]) == 75


def test_the_samples_of_five_classes(whole):
    scan = biovid.scan(whole, classes="five")
    assert len(scan.recordings) == 70
    assert {one.extra["level"]: one.target for one in scan.recordings} == {
        "BL1": 0,
        "PA1": 1,
        "PA2": 2,
        "PA3": 3,
        "PA4": 4,
    }
    assert scan.report().counts["class PA3"] == 14


def test_part_a_has_dead_channels_and_says_so(whole):
    scan = biovid.scan(whole)
    assert [(one.where, one.harm, one.cure) for one in of(scan, "dead channel")] == [
        ("emg_corrugator", "note", "This is so in all of Part A: take Part B for work on it."),
        ("emg_zygomaticus", "note", "This is so in all of Part A: take Part B for work on it."),
    ]
    assert scan.found["biosignal files read for dead channels"] == "7 (the first of each subject)"
    assert scan.found["dead channels"] == "emg_corrugator 7, emg_zygomaticus 7"
    deep = biovid.scan(whole, deep=True)
    assert deep.found["biosignal files read for dead channels"] == "28"
    assert deep.found["dead channels"] == "emg_corrugator 28, emg_zygomaticus 28"
    assert of(deep, "dead channel")[0].what.startswith(
        f"Channel emg_corrugator is zero throughout 28 of 28 files that were read: '{FIRST}', "
    )


def test_part_b_has_living_channels_and_deep_finds_the_one_that_died(two, replicas):
    assert biovid.scan(two, part="B").found["dead channels"] == "none"
    bio(two, "080609_w_27-PA4-008").write_text(replicas.signal_text(2816, 1.0, ("gsr",)))
    assert of(biovid.scan(two, part="B"), "dead channel") == []
    (finding,) = of(biovid.scan(two, part="B", deep=True), "dead channel")
    assert str(finding) == (
        "Channel gsr is zero throughout 1 of 12 files that were read: '080609_w_27-PA4-008'. Do without these samples."
    )
    assert (finding.harm, finding.samples) == ("kept", ("080609_w_27-PA4-008",))


def test_rows_one_more_or_less_are_no_news_and_the_header_may_have_blanks(whole):
    scan = biovid.scan(whole, classes="five")
    assert {biovid._signal_head(path).rows for path in whole.rglob("*_bio.csv")} == {2815, 2816, 2817}
    header = bio(whole, FIRST).read_text().splitlines()[0]
    assert header == "time\tgsr \t ecg\temg_trapezius\temg_corrugator \temg_zygomaticus"
    assert of(scan, "unusual number of rows") == of(scan, "unusual time stamps") == of(scan, "wrong columns") == []


def test_a_folder_within_a_folder_of_its_name_is_read(tmp_path, replicas):
    names = replicas.write_biovid_replica(tmp_path, part="B", levels=("BL1", "PA4"), each=1, signals="raw", nested=True)
    scan = biovid.scan(tmp_path, part="B")
    accounted(scan, names)
    assert scan.left_out == ()
    (finding,) = of(scan, "double-nested folder")
    inner = tmp_path / "biosignals_raw" / "biosignals_raw"
    assert (finding.what, finding.harm) == (f"{inner} lies inside a folder of its own name; it is read.", "note")
    assert scan.recordings[0].sources["biosignals"].parent.parent == inner


def test_filtered_signals_come_before_raw_ones_unless_asked_for(two):
    shutil.copytree(two / "biosignals_raw", two / "biosignals_filtered")
    assert biovid.scan(two, part="B").found["biosignals"] == "filtered"
    scan = biovid.scan(two, part="B", signals="raw")
    assert scan.found["biosignals"] == "raw"
    assert "biosignals_raw" in str(scan.recordings[0].sources["biosignals"])


def test_samples_that_lack_something_are_left_out_one_by_one(two):
    names = [one.sample_id for one in biovid.scan(two, part="B").recordings]
    no_video, no_signals, nothing, empty, empty_csv = names[0], names[2], names[4], names[6], names[8]
    video = {one: next(two.rglob(f"{one}.mp4")) for one in names}
    video[no_video].unlink()
    bio(two, no_signals).unlink()
    video[nothing].unlink()
    bio(two, nothing).unlink()
    video[empty].write_bytes(b"")
    bio(two, empty_csv).write_bytes(b"")
    scan = biovid.scan(two, part="B")
    accounted(scan, names)
    assert scan.left_out == tuple(sorted([no_video, no_signals, nothing, empty, empty_csv]))
    by_sample = {one.where: one for one in scan.findings if one.harm == "left out"}
    assert {name: (one.kind, str(one)) for name, one in by_sample.items()} == {
        no_video: ("no video", f"{no_video} has no video file. Restore it."),
        no_signals: ("no biosignals", f"{no_signals} has no biosignals file. Restore it."),
        nothing: (
            "row without files",
            f"samples.csv lists {nothing}, which has no video and no biosignals file. Restore its files.",
        ),
        empty: ("unusable file", f"{video[empty]} has 0 bytes. Restore it from the original archive."),
        empty_csv: (
            "unusable file",
            f"{two / 'biosignals_raw' / empty_csv.split('-')[0] / empty_csv}_bio.csv has 0 bytes. Restore it from the "
            "original archive.",
        ),
    }
    assert scan.report().counts["left out"] == 5
    alone = biovid.scan(two, part="B", modalities=["video"])
    accounted(alone, names)
    assert alone.left_out == tuple(sorted([no_video, nothing, empty]))
    assert set(alone.recordings[0].sources) == {"video"}


def test_a_broken_link_is_one_sample_lost(two):
    path = bio(two, FIRST)
    path.unlink()
    path.symlink_to(two / "moved.csv")
    scan = biovid.scan(two, part="B")
    assert scan.left_out == (FIRST,)
    (finding,) = of(scan, "unusable file")
    assert str(finding) == (
        f"{path} cannot be opened: No such file or directory. Restore it from the original archive."
    )


def test_faulty_biosignals(two, replicas):
    names = [one.sample_id for one in biovid.scan(two, part="B").recordings]
    text = replicas.signal_text(2816, 0.5)
    bio(two, names[0]).write_text(text.replace("\t", ","))
    bio(two, names[1]).write_text(replicas.signal_text(2559, 0.5))
    bio(two, names[2]).write_text(replicas.signal_text(2700, 0.5))
    seconds = text.splitlines()
    seconds = [seconds[0]] + [f"{index / 512}\t" + row.partition("\t")[2] for index, row in enumerate(seconds[1:])]
    bio(two, names[3]).write_text("\n".join(seconds))
    bio(two, names[4]).write_text(text.replace("\n0\t", "\nzero\t"))
    bio(two, names[5]).write_text(text.splitlines()[0])
    scan = biovid.scan(two, part="B", deep=True)
    accounted(scan, names)
    said = {(one.kind, one.harm, one.where): str(one) for one in scan.findings}
    assert said[("wrong columns", "left out", names[0])] == (
        f"{bio(two, names[0])} has no column 'time', 'gsr', 'ecg', 'emg_trapezius', 'emg_corrugator', ..., only "
        "'time,gsr , ecg,emg_trapezius,emg_corrugator ,emg_zygomaticus'. Restore it; the columns are separated by tabs."
    )
    assert said[("too few rows", "left out", names[1])] == (
        f"{bio(two, names[1])} has 2559 rows; the crop from 2.0 to 5.0 s ends at row 2560 at 512 Hz. Restore it from "
        "the original archive."
    )
    assert said[("too few rows", "left out", names[5])].startswith(f"{bio(two, names[5])} has 0 rows; ")
    assert said[("unusual number of rows", "kept", names[2])] == (
        f"{bio(two, names[2])} has 2700 rows, not 2816 +-1 (5.5 s at 512 Hz)."
    )
    assert said[("unusual time stamps", "kept", names[3])] == (
        f"{bio(two, names[3])} ends at time 5.498046875, not at about 5.5e6 microseconds; rows are taken to be 1/512 s "
        "apart."
    )
    unreadable = said[("unreadable values", "left out", names[4])]
    assert unreadable.startswith(f"{bio(two, names[4])} has values that are no numbers: could not convert string to ")
    assert unreadable.endswith("Restore it.")


def test_samples_csv_is_compared_with_names_and_files(two):
    names = [one.sample_id for one in biovid.scan(two, part="B").recordings]
    csv_row(two, names[0], lambda row: [])
    csv_row(two, names[1], lambda row: [*row[:2], "3", "PA3", *row[4:]])
    csv_row(two, names[2], lambda row: [row[0], "999999_m_9", *row[2:]])
    path = two / "starting_point" / "samples.csv"
    path.write_text(path.read_text() + path.read_text().splitlines()[-1] + "\n")
    scan = biovid.scan(two, part="B")
    accounted(scan, names)
    assert scan.left_out == (names[1],)
    said = {(one.kind, one.harm, one.where): str(one) for one in scan.findings}
    assert said[("not in samples.csv", "kept", names[0])] == (
        f"{names[0]} has files but no row in samples.csv; its name says its subject and class."
    )
    assert said[("contradictory class", "left out", names[1])] == (
        f"samples.csv gives {names[1]} class_id 3 (PA3) and class_name PA3, its name says BL1. Correct the row."
    )
    assert said[("contradictory subject", "kept", names[2])] == (
        f"samples.csv gives {names[2]} the subject 999999_m_9; the name's subject counts. Correct the row."
    )
    assert said[("row twice", "kept", "100914_m_39-PA4-008")] == (
        "100914_m_39-PA4-008 has more than one row in samples.csv; the first counts. Remove the others."
    )


def test_samples_csv_may_be_missing_but_not_of_other_columns(two):
    path = two / "starting_point" / "samples.csv"
    text = path.read_text()
    path.unlink()
    scan = biovid.scan(two, part="B")
    assert len(scan.recordings) == 12
    (finding,) = of(scan, "no samples.csv")
    assert str(finding) == (
        f"There is no {path}; files are taken by their names alone. Restore it to be told of samples that are missing "
        "altogether."
    )
    path.write_bytes(b"")
    with pytest.raises(DatasetError) as caught:
        biovid.scan(two, part="B")
    assert caught.value.what == f"{path} cannot be read: No columns to parse from file"
    assert caught.value.cure == "Restore it from the original archive."
    path.write_text(text.replace("\t", ";"))
    with pytest.raises(DatasetError) as caught:
        biovid.scan(two, part="B")
    assert caught.value.what.startswith(f"{path} has no column 'subject_id', 'subject_name', 'class_id', ")
    assert caught.value.cure == (
        "Restore it; it has the columns subject_id, subject_name, class_id, class_name, sample_id, sample_name, "
        "separated by tabs."
    )


def test_strange_files_and_names(two):
    folder = two / "video" / "071309_w_21"
    names = [one.sample_id for one in biovid.scan(two, part="B").recordings]
    (folder / "notes.txt").write_text("x")
    (folder / "holiday.mp4").write_bytes(b"x")
    (folder / "._holiday.mp4").write_bytes(b"x")
    shutil.move(next(two.rglob("080609_w_27-PA4-008.mp4")), folder)
    strange = "bob-PA4-004"
    for path in (two / "video" / "bob" / f"{strange}.mp4", two / "biosignals_raw" / "bob" / f"{strange}_bio.csv"):
        path.parent.mkdir()
        shutil.copy(bio(two, names[0]), path)
    scan = biovid.scan(two, part="B")
    accounted(scan, [*names, strange, "holiday"])
    said = {(one.kind, one.harm): str(one) for one in scan.findings}
    assert said[("unknown file", "note")] == f"{folder / 'notes.txt'} is no .mp4 file and is not read."
    assert said[("no sample's name", "left out")] == (
        "'holiday' is not named <subject>-<class>-<number>, such as 071309_w_21-PA4-006: its class is unknown. Rename "
        "it, or remove it."
    )
    assert said[("wrong subject folder", "kept")] == (
        f"{folder / '080609_w_27-PA4-008.mp4'} lies in the folder of 071309_w_21; the name's subject, 080609_w_27, "
        "counts. Move it to its subject's folder."
    )
    assert said[("unknown subject id", "kept")] == (
        "Subject 'bob' is not named MMDDYY_m_AGE or MMDDYY_w_AGE; protocols that list subjects cannot know it."
    )


def test_a_second_file_of_a_sample_is_told(two):
    copy = two / "video" / "100914_m_39" / f"{FIRST}.mp4"
    shutil.copy(next(two.rglob(f"{FIRST}.mp4")), copy)
    (finding,) = of(biovid.scan(two, part="B"), "twice")
    first = two / "video" / "071309_w_21" / f"{FIRST}.mp4"
    assert str(finding) == f"{copy} is a second one of {FIRST}; {first} is read. Remove one of them."


def test_wrong_roots_say_what_was_expected_found_and_meant(whole, tmp_path):
    expected = "expected there are video/<subject>/<sample>.mp4, biosignals_filtered/ or biosignals_raw/, "
    with pytest.raises(DatasetError) as caught:
        biovid.scan(whole.parent)
    assert caught.value.what == (
        f"{whole.parent} is not a root of BioVid (part A): {expected}starting_point/samples.csv; it holds PartA/."
    )
    assert caught.value.cure == f"Perhaps you mean {whole}, which holds video/."
    with pytest.raises(DatasetError) as caught:
        biovid.scan(whole / "video")
    assert caught.value.cure == f"Perhaps you mean {whole}, which holds video/."
    (tmp_path / "vidoe").mkdir()
    (tmp_path / "vidoe" / "x").mkdir()
    with pytest.raises(DatasetError) as caught:
        biovid.scan(tmp_path)
    assert caught.value.cure == "Perhaps vidoe is what should be called video: then rename it."
    with pytest.raises(DatasetError) as caught:
        biovid.scan(tmp_path / "nowhere")
    assert caught.value.what == f"{tmp_path / 'nowhere'} does not exist."
    assert caught.value.cure == "Give the folder that the set was unpacked to."
    with pytest.raises(DatasetError) as caught:
        biovid.scan(tmp_path / "vidoe" / "x")
    assert caught.value.what == f"{tmp_path / 'vidoe' / 'x'} is empty."
    error = wrong_root(tmp_path, "X", ("a/",), ("unlike",))
    assert error.what == f"{tmp_path} is not a root of X: expected there are a/; it holds vidoe/."
    assert error.cure == "Give the folder that holds them."


@pytest.mark.parametrize(
    ("arguments", "what", "cure"),
    [
        ({"part": "D"}, "part is 'D'.", "Choose from A, B, C."),
        ({"classes": "two"}, "classes is 'two'.", "Choose from BL1-PA4, five."),
        ({"modalities": ["ecg"]}, "modalities are ['ecg'].", "Choose video, biosignals or both of them."),
        ({"modalities": []}, "modalities are [].", "Choose video, biosignals or both of them."),
    ],
)
def test_arguments_that_mean_nothing(whole, arguments, what, cure):
    with pytest.raises(DatasetError) as caught:
        biovid.scan(whole, **arguments)
    assert (caught.value.what, caught.value.cure) == (what, cure)


def test_nothing_left_names_the_first_that_was_left_out(two):
    for path in two.rglob("*.mp4"):
        path.write_bytes(b"")
    with pytest.raises(DatasetError) as caught:
        biovid.scan(two, part="B")
    assert caught.value.what == f"{two} has no sample of BL1, PA4 with video and biosignals."
    first = two / "video" / "071309_w_21" / f"{FIRST}.mp4"
    assert caught.value.details == (f"{first} has 0 bytes. Restore it from the original archive.",)
    assert caught.value.cure == "Look at the first that was left out."


@pytest.mark.parametrize("protocol", ["loso", "loso67", "61-26", "5-fold"])
@pytest.mark.parametrize("classes", ["BL1-PA4", "five"])
def test_the_samples_of_every_protocol_are_a_valid_table(whole, protocol, classes):
    scan = biovid.scan(whole, classes=classes)
    assert scan.protocols == ("loso", "loso67", "61-26", "5-fold")
    samples = scan.samples(protocol, seed=3)
    faults = Faults()
    info = DatasetInfo(name="biovid", task=scan.task, targets=scan.targets, classes=scan.classes)
    validation.check_samples(info, samples, faults)
    faults.raise_if_any(protocol)
    each = {"BL1-PA4": 4, "five": 10}[classes]
    # 100914_m_39 and 082414_m_64 hardly react; 100914_m_39 and 112016_m_25 are reported by 61-26.
    assert len(samples) == each * {"loso67": 5}.get(protocol, 7)
    assert ("fold" in samples) == (protocol != "61-26")
    if protocol == "61-26":
        assert set(samples.loc[samples["split"] == "test", "subject_id"]) == {"100914_m_39", "112016_m_25"}
    if protocol == "loso":
        assert samples.groupby("fold")["subject_id"].nunique().tolist() == [1] * 7


def test_the_report_counts_and_tells(whole):
    report = biovid.scan(whole).report("loso67")
    expected = {
        "subjects": 7,
        "samples": 28,
        "left out": 0,
        "class BL1": 14,
        "class PA4": 14,
        "video files": 70,
        "biosignals files": 70,
        "loso67 folds": 5,
        "layout": "part A",
    }
    assert {name: report.counts[name] for name in expected} == expected
    assert report.lines[0] == "biovid: 28 samples of 7 subjects, 0 samples left out"
    assert "  class PA4: 14" in report.lines
    assert [line for line in report.lines if line.startswith("left out: ")] == [
        "left out: excluded by loso67: 2 times, 8 samples: '082414_m_64', '100914_m_39'. The first: Subject "
        "082414_m_64 is one of the 20 that loso67 leaves out. Choose another protocol to keep them."
    ]
    dead = next(line for line in report.lines if "dead channel:" in line)
    assert dead.startswith("note: dead channel: 2 times, 14 samples: 'emg_corrugator', 'emg_zygomaticus'. The first: ")


def test_part_c_is_cut_where_the_stimulus_says(tmp_path, replicas):
    replicas.write_biovid_part_c_replica(tmp_path)
    scan = biovid.scan(tmp_path, part="C")
    mine = [one for one in scan.recordings if one.subject_id == "071309_w_21"]
    # Runs: BL1 0-9, PA4 9-13, BL1 13-21, PA2 21-25, BL1 25-28 (too short), PA4 28-32, BL1 32-44 s.
    assert [(one.extra["level"], one.sample_id[-3:], one.start_s, one.end_s) for one in mine] == [
        ("BL1", "001", pytest.approx(5.5), pytest.approx(8.5)),
        ("BL1", "003", pytest.approx(17.5), pytest.approx(20.5)),
        ("BL1", "007", pytest.approx(40.5), pytest.approx(43.5)),
        ("PA4", "002", pytest.approx(12.0), pytest.approx(15.0)),
        ("PA4", "006", pytest.approx(31.0), pytest.approx(34.0)),
    ]
    assert {one.sequence_id for one in mine} == {"071309_w_21"}
    assert mine[0].sources == {
        "video": tmp_path / "video" / "071309_w_21.mp4",
        "biosignals": tmp_path / "biosignals_raw" / "071309_w_21.csv",
        "stimulus": tmp_path / "stimulus" / "071309_w_21.csv",
    }
    assert mine[0].extra["signal_rows"] is None
    assert (scan.found["stimulus times"], scan.found["biosignals"]) == ("microseconds", "raw")
    assert scan.left_out == ("071309_w_21-BL1-005", "080609_w_27-BL1-005", "100914_m_39-BL1-005")
    assert of(scan, "short baseline")[0].what == (
        "The baseline of 071309_w_21 from 25.00 to 28.00 s is shorter than a clip, 5.5 s."
    )
    five = biovid.scan(tmp_path, part="C", classes="five")
    assert len(five.recordings) == 18


def test_part_c_takes_seconds_and_names_too(tmp_path, replicas):
    replicas.write_biovid_part_c_replica(tmp_path, scale=1)
    for path in (tmp_path / "stimulus").iterdir():
        path.write_text(path.read_text().replace("\t4\n", "\tPA4\n").replace("\t0\n", "\tBL1\n"))
    scan = biovid.scan(tmp_path, part="C")
    assert scan.found["stimulus times"] == "seconds"
    assert len(scan.recordings) == 15


def test_part_c_takes_milliseconds_for_what_they_are(tmp_path, replicas):
    replicas.write_biovid_part_c_replica(tmp_path / "milli", scale=1e3)
    replicas.write_biovid_part_c_replica(tmp_path / "micro", scale=1e6)
    milli, micro = (biovid.scan(tmp_path / name, part="C") for name in ("milli", "micro"))
    assert milli.found["stimulus times"] == "milliseconds"
    assert [one.start_s for one in milli.recordings] == pytest.approx([one.start_s for one in micro.recordings])


def test_part_c_says_that_its_timing_is_unsure(tmp_path, replicas):
    replicas.write_biovid_part_c_replica(tmp_path)
    scan = biovid.scan(tmp_path, part="C")
    assert [one.harm for one in of(scan, "unconfirmed timing")] == ["note"]
    said = next(line for line in scan.report().lines if "unconfirmed timing" in line)
    assert "The timing of Part C is unsure" in said
    plan = make_plan(tmp_path / "out", scan, MediaOptions(("gsr",)), protocol="loso")
    assert biovid.UNCONFIRMED_C in plan.info.notes


def test_part_c_that_lacks_something(tmp_path, replicas):
    subjects = [*replicas.BIOVID_SUBJECTS, "010203_w_45", "010203_m_46"]
    replicas.write_biovid_part_c_replica(tmp_path, subjects=subjects)
    (tmp_path / "stimulus" / f"{subjects[0]}.csv").unlink()
    (tmp_path / "video" / f"{subjects[1]}.mp4").unlink()
    (tmp_path / "biosignals_raw" / f"{subjects[2]}.csv").write_bytes(b"")
    (tmp_path / "biosignals_raw" / f"{subjects[3]}.csv").write_text(replicas.signal_text(512 * 33, 0.5))
    bad = tmp_path / "biosignals_raw" / f"{subjects[4]}.csv"
    bad.write_text(replicas.signal_text(512 * 44, 0.5).replace("gsr", "eda"))
    table = tmp_path / "stimulus" / f"{subjects[5]}.csv"
    table.write_text(table.read_text().replace("\t2\n", "\t7\n"))
    broken = tmp_path / "stimulus" / f"{subjects[6]}.csv"
    broken.write_text("time\tlabel\n0\tcold\n")
    empty = tmp_path / "stimulus" / f"{subjects[8]}.csv"
    empty.write_text("time\tlabel\n")
    scan = biovid.scan(tmp_path, part="C")
    said = {(one.kind, one.where): (one.harm, str(one), len(one.samples)) for one in scan.findings}
    assert said[("no stimulus", subjects[0])] == (
        "left out",
        f"Subject {subjects[0]} has recordings but no stimulus/{subjects[0]}.csv: no sample of them is labelled. "
        "Restore it.",
        1,
    )
    assert said[("no video", subjects[1])] == ("left out", f"Subject {subjects[1]} has no video file. Restore it.", 5)
    assert said[("no biosignals", subjects[2])] == (
        "left out",
        f"{tmp_path / 'biosignals_raw' / subjects[2]}.csv has 0 bytes. Restore it.",
        5,
    )
    assert said[("beyond the biosignals", f"{subjects[3]}-PA4-006")][1] == (
        f"{subjects[3]}-PA4-006 ends at 34.00 s, the biosignals of {subjects[3]} at 33.00 s. Restore them if they were "
        "cut short."
    )
    assert said[("wrong columns", subjects[4])][::2] == ("left out", 5)
    assert said[("wrong columns", subjects[4])][1].startswith(f"{bad} has no column 'gsr', only 'time', 'eda', ")
    assert said[("unknown stimulus", f"{subjects[5]}-7-004")][1] == (
        f"{table} has the label 7 from 21.00 to 25.00 s, outside 0 (BL1) to 4 (PA4)."
    )
    assert said[("unreadable stimulus", subjects[6])][0] == "left out"
    assert said[("unreadable stimulus", subjects[6])][1].startswith(f"{broken} has a cell that is no number: ")
    assert (
        said[("unreadable stimulus", subjects[8])][1] == f"{empty} has no rows. Restore it from the original archive."
    )
    assert {one.subject_id for one in scan.recordings} == {subjects[3], subjects[5], subjects[7]}


def test_part_c_has_dead_channels_too(tmp_path, replicas):
    replicas.write_biovid_part_c_replica(tmp_path, subjects=replicas.BIOVID_SUBJECTS[:2])
    path = tmp_path / "biosignals_raw" / f"{replicas.BIOVID_SUBJECTS[1]}.csv"
    path.write_text(replicas.signal_text(512 * 44, 0.5, ("ecg",)))
    assert of(biovid.scan(tmp_path, part="C"), "dead channel") == []
    scan = biovid.scan(tmp_path, part="C", deep=True)
    assert scan.found["biosignal files read for dead channels"] == 2
    (finding,) = of(scan, "dead channel")
    assert str(finding) == f"Channel ecg is zero throughout {path}. Do without these samples."
    assert (finding.harm, len(finding.samples)) == ("kept", 5)


def test_a_limit_keeps_many_subjects_and_both_classes(whole):
    scan = biovid.scan(whole)
    few = scan.limited(9)
    assert len(few.recordings) == 9
    assert len({one.subject_id for one in few.recordings}) == 5
    assert {one.target for one in few.recordings} == {0, 1}
    (finding,) = of(few, "limit")
    assert str(finding) == ("19 of 28 samples are beyond the limit of 9. Import without a limit for the whole set.")
    accounted(few, [one.sample_id for one in scan.recordings])
    assert scan.limited(28) is scan
    assert len(few.samples("loso")) == 9
    with pytest.raises(DatasetError) as caught:
        scan.limited(0)
    assert (caught.value.what, caught.value.cure) == ("The limit is 0.", "Choose at least 1.")


def test_parts_that_are_taken_for_each_other(tmp_path, replicas, whole):
    replicas.write_biovid_part_c_replica(tmp_path)
    (tmp_path / "biosignals_filtered").mkdir()
    with pytest.raises(DatasetError) as caught:
        biovid.scan(tmp_path)
    assert caught.value.what == (
        f"{tmp_path / 'video'} holds one video a subject, as Part C does, and no folder a subject."
    )
    assert caught.value.cure == "Say that it is part C."
    with pytest.raises(DatasetError) as caught:
        biovid.scan(whole, part="C")
    assert caught.value.what.startswith(
        f"{whole} is not a root of BioVid (part C): expected there are video/<subject>.mp4, "
        "biosignals_raw/<subject>.csv, stimulus/<subject>.csv; it holds biosignals_filtered/, starting_point/, "
    )


@pytest.mark.parametrize("numbered", [True, False])
def test_the_pre_cut_layout(tmp_path, replicas, numbered):
    names = replicas.write_biovid_precut_replica(
        tmp_path, subjects=replicas.BIOVID_SUBJECTS[:3], numbered=numbered, span=(50, 70)
    )
    (tmp_path / "readme.txt").write_text("Cut by us.\n")
    scan = biovid.scan(tmp_path, part="B")
    accounted(scan, names)
    assert scan.left_out == ()
    one = scan.recordings[0]
    folder = "0" if numbered else "BL1"
    assert one.sources == {
        "frames": tmp_path / folder / FIRST,
        "biosignals": tmp_path / "physio" / folder / f"{FIRST}_bio.csv",
    }
    assert one.frames.tolist() == list(range(50, 71))
    # Image 1 of a crop is at 2.0 s.
    assert (one.start_s, one.end_s) == (pytest.approx(2 + 49 / 25), pytest.approx(2 + 70 / 25))
    assert one.extra["signal_rows"] == (1024, 2560)
    assert [one.target for one in scan.recordings[:4]] == [0, 0, 1, 1]
    assert scan.found["layout"] == "pre-cut images"
    assert scan.found["annotation files"] == "annotations_filtered.txt"
    assert scan.found["images start at"] == "2 s"
    assert of(scan, "contradictory class") == []


def test_pre_cut_whole_clips_and_cropped_signals(tmp_path, replicas):
    replicas.write_biovid_precut_replica(
        tmp_path, subjects=replicas.BIOVID_SUBJECTS[:3], each=1, images=137, span=(51, 125), rows=1536
    )
    scan = biovid.scan(tmp_path, part="B")
    one = scan.recordings[0]
    assert (one.start_s, one.end_s) == (2.0, 5.0)
    assert len(one.frames) == 75
    assert one.extra["signal_rows"] == (0, 1536)
    assert scan.found["images start at"] == "0 s"


def test_pre_cut_samples_that_lack_something(tmp_path, replicas):
    names = replicas.write_biovid_precut_replica(tmp_path, subjects=replicas.BIOVID_SUBJECTS[:4], numbered=False)
    images = {one: next(tmp_path.glob(f"*/{one}")) for one in names}
    for number in (5, 6, 70):
        (images[names[0]] / f"img_{number:05d}.jpg").unlink()
    for path in images[names[1]].iterdir():
        path.unlink()
    shutil.rmtree(images[names[2]])
    bio(tmp_path, names[3]).unlink()
    path = tmp_path / "annotations_filtered.txt"
    lines = path.read_text().splitlines()
    del lines[4]
    lines[4] = lines[4].replace(" 0", " 3")
    lines[5] = lines[5].replace("BL1/", "PA4/")
    lines += ["", "BL1 1 75", lines[6].replace(" 1 75 ", " 2 74 ")]
    path.write_text("\n".join(lines))
    scan = biovid.scan(tmp_path, part="B")
    accounted(scan, [*names, f"annotations_filtered.txt:{len(lines) - 1}"])
    said = {(one.kind, one.where): (one.harm, str(one)) for one in scan.findings}
    assert said[("missing images", names[0])] == (
        "kept",
        f"{images[names[0]]} lacks 3 of the images 1 to 75: '5', '6', '70'.",
    )
    assert said[("no images", names[1])] == (
        "left out",
        f"{images[names[1]]} has none of the images 1 to 75. Restore them.",
    )
    assert said[("no video", names[2])] == ("left out", f"{names[2]} has no video file. Restore it.")
    assert said[("no biosignals", names[3])] == ("left out", f"{names[3]} has no biosignals file. Restore it.")
    assert said[("not annotated", names[4])] == (
        "left out",
        f"{names[4]} has files but no line in an annotation file. Add a line 'class/sample start end label'.",
    )
    assert said[("contradictory class", names[5])] == (
        "kept",
        f"annotations_filtered.txt gives {names[5]} the label 3; the name's class counts. Correct the line.",
    )
    assert said[("contradictory class", names[6])] == (
        "kept",
        f"annotations_filtered.txt has {names[6]} in folder PA4; the name's class, BL1, counts. Correct the line.",
    )
    assert said[("two ranges", names[7])] == (
        "kept",
        f"annotations_filtered.txt has the images 2 to 74 of {names[7]}, another line 1 to 75, which are taken.",
    )
    assert said[("unreadable line", f"annotations_filtered.txt:{len(lines) - 1}")] == (
        "left out",
        f"Line {len(lines) - 1} of {path} is not 'class/sample start end label'. Correct it.",
    )
    assert np.array_equal(
        scan.recordings[[one.sample_id for one in scan.recordings].index(names[0])].frames,
        [number for number in range(1, 76) if number not in (5, 6, 70)],
    )


def test_pre_cut_without_annotations_takes_all_images(tmp_path, replicas):
    replicas.write_biovid_precut_replica(tmp_path, subjects=replicas.BIOVID_SUBJECTS[:3], each=1)
    (tmp_path / "annotations_filtered.txt").unlink()
    scan = biovid.scan(tmp_path, part="B")
    (finding,) = of(scan, "no annotation file")
    assert finding.what == (
        f"{tmp_path} has no .txt file with lines 'class/sample start end label'; all images are taken."
    )
    assert scan.recordings[0].frames.tolist() == list(range(1, 76))
    assert (scan.recordings[0].start_s, scan.recordings[0].end_s) == (2.0, 5.0)


def test_pre_cut_without_physiology_is_told(tmp_path, replicas):
    replicas.write_biovid_precut_replica(tmp_path, subjects=replicas.BIOVID_SUBJECTS[:3], each=1)
    shutil.rmtree(tmp_path / "physio")
    with pytest.raises(DatasetError) as caught:
        biovid.scan(tmp_path, part="B")
    assert caught.value.what == (
        f"{tmp_path} is not a root of BioVid (pre-cut): expected there are <class>/<sample>/img_00001.jpg, "
        "physio/<class>/<sample>_bio.csv; it holds 0/, 4/, annotations_filtered.txt."
    )
    assert set(biovid.scan(tmp_path, part="B", modalities=["video"]).recordings[0].sources) == {"frames"}
