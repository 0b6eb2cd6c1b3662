from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pkdray.data import validation
from pkdray.data.faults import Faults
from pkdray.data.importers import affwild2
from pkdray.data.info import DatasetInfo
from pkdray.errors import DatasetError


@pytest.fixture(scope="module")
def whole(tmp_path_factory, replicas) -> Path:
    """Eight annotated faces; read only."""
    root = tmp_path_factory.mktemp("affwild2")
    replicas.write_affwild2_replica(root)
    return root


@pytest.fixture
def small(tmp_path, replicas):
    """Writes four recordings, the first changed as told, and gives the root."""

    def make(**changes) -> Path:
        videos = [
            replicas.AffVideo("a", "Train_Set", 70),
            replicas.AffVideo("b", "Train_Set", 33),
            replicas.AffVideo("c", "Train_Set", 41, batch="batch2", new=True),
            replicas.AffVideo("d", "Validation_Set", 64, batch="new_vids"),
        ]
        replicas.write_affwild2_replica(tmp_path, videos=[replace(videos[0], **changes), *videos[1:]])
        return tmp_path

    return make


def of(scan, kind):
    return [one for one in scan.findings if one.kind == kind]


def annotation(root, name):
    return next(root.rglob(f"{name}.txt"))


def by_id(scan):
    return {one.sample_id: one for one in scan.recordings}


def test_clips_of_32_frames_end_with_the_frame_of_their_label(whole, replicas):
    scan = affwild2.scan(whole)
    assert (scan.name, scan.task, scan.targets, scan.classes) == (
        "affwild2",
        "regression",
        ("valence", "arousal"),
        (),
    )
    one = by_id(scan)["13-30-1920x1080-00064"]
    assert one.frames.tolist() == [36, 40, 44, 48, 52, 56, 60, 64]
    assert one.frames.dtype == np.int64
    assert one.extra["last_frames"].tolist() == [64]
    assert one.target == pytest.approx(replicas.aff_values(128)[63])
    assert (one.target.dtype, one.mask, one.start_s, one.part) == (np.float32, None, None, "train")
    assert (one.subject_id, one.sequence_id) == ("13-30-1920x1080", "13-30-1920x1080")
    assert one.sources == {
        "faces": whole / "cropped_aligned_new_50_vids" / "13-30-1920x1080",
        "video": whole / "new_vids" / "13-30-1920x1080.mp4",
        "audio": whole / "new_vids" / "13-30-1920x1080.mp4",
    }


def test_the_first_annotation_is_frame_one(whole, replicas):
    values, odd = affwild2.read_annotation(annotation(whole, "video77"))
    assert values.shape == (545, 2)
    assert values[0] == pytest.approx(replicas.aff_values(545)[0])
    assert np.flatnonzero(np.isnan(values[:, 0])).tolist() == [31]
    assert odd == []


def test_the_last_clip_is_moved_back_to_end_with_the_last_frame(whole):
    scan = by_id(affwild2.scan(whole))
    assert [name for name in scan if name.startswith("7-60-")] == [
        "7-60-1920x1080-00032",
        "7-60-1920x1080-00064",
        "7-60-1920x1080-00071",
    ]
    assert scan["7-60-1920x1080-00071"].frames.tolist() == [43, 47, 51, 55, 59, 63, 67, 71]
    short = scan["video9-00023"]
    assert short.frames.tolist() == [0, 0, 3, 7, 11, 15, 19, 23]
    assert short.extra["faces"].tolist() == [False, False] + [True] * 6


def test_clips_with_an_invalid_label_are_left_out_and_told(whole):
    scan = affwild2.scan(whole)
    assert scan.left_out == ("video1-00064", "video77-00032")
    assert [(one.where, one.samples, str(one)) for one in of(scan, "invalid label")] == [
        ("video1", ("video1-00064",), "1 of 4 clips of video1 have no valid label (-5): 'video1-00064'."),
        ("video77", ("video77-00032",), "1 of 18 clips of video77 have no valid label (-5): 'video77-00032'."),
    ]
    assert (scan.found["frames"], scan.found["invalid frames"]) == (97 + 71 + 64 + 64 + 23 + 128 + 545 + 47, 4)
    assert np.isfinite(np.stack([one.target for one in scan.recordings])).all()


def test_windows_of_16_clips_mask_what_is_invalid_and_what_comes_again(whole, replicas):
    scan = affwild2.scan(whole, window=16)
    assert (scan.target_frames, scan.left_out) == (16, ())
    first, second = by_id(scan)["video77-w000"], by_id(scan)["video77-w001"]
    assert (first.target.shape, first.frames.shape, first.extra["faces"].shape) == ((16, 2), (16, 8), (16, 8))
    assert first.mask.tolist() == [False] + [True] * 15
    assert np.isnan(first.target[0]).all()
    assert first.target[15] == pytest.approx(replicas.aff_values(545)[511])
    assert first.frames[15].tolist() == [484, 488, 492, 496, 500, 504, 508, 512]
    # 18 clips: the last two are new, the others were in the first window.
    assert second.mask.tolist() == [False] * 14 + [True, True]
    assert second.extra["last_frames"].tolist() == [*range(96, 545, 32), 545]
    assert second.frames[13].tolist() == first.frames[15].tolist()
    assert np.isnan(second.target[:14]).all()
    assert second.target[15] == pytest.approx(replicas.aff_values(545)[544])
    # 128 frames are four clips; the first stands for what is missing in front.
    short = by_id(scan)["13-30-1920x1080-w000"]
    assert short.extra["last_frames"].tolist() == [32] * 13 + [64, 96, 128]
    assert short.mask.tolist() == [False] * 12 + [True] * 4
    samples = scan.samples("train/dev")
    row = samples.set_index("sample_id").loc["video77-w000"]
    assert np.isnan(row["target_arousal"]).tolist() == [True] + [False] * 15
    # 36 clips, two of them invalid.
    assert scan.unlabelled == 16 * len(scan.recordings) - 34
    assert scan.report().counts["unlabelled frames"] == scan.unlabelled


@given(st.integers(1, 3000), st.integers(2, 20))
def test_windows_hold_every_clip_once_as_its_own(frames, size):
    ends = affwild2.clip_ends(frames)
    windows = affwild2.clip_windows(ends, size)
    assert np.concatenate([clips[new] for clips, new in windows]).tolist() == ends.tolist()
    for clips, new in windows:
        assert len(clips) == len(new) == size
        assert new.any()
        places = np.searchsorted(ends, clips)
        assert set(np.diff(places)) <= ({1} if len(ends) >= size else {0, 1})
        assert np.flatnonzero(np.diff(places) == 0).tolist() == list(range(max(0, size - len(ends))))


def test_a_window_without_any_valid_label_is_left_out(small):
    root = small(invalid=tuple(range(1, 71)))
    scan = affwild2.scan(root, window=2)
    (finding,) = of(scan, "invalid label")
    assert (finding.what, finding.samples) == (
        "2 of 2 windows of a have no valid label (-5): 'a-w000', 'a-w001'.",
        ("a-w000", "a-w001"),
    )


def test_left_and_right_share_a_video_and_a_subject(whole):
    scan = by_id(affwild2.scan(whole))
    left, right = scan["video5_left-00032"], scan["video5_right-00032"]
    assert left.subject_id == right.subject_id == "video5"
    assert (left.sequence_id, right.sequence_id) == ("video5_left", "video5_right")
    assert left.sources["video"] == right.sources["video"] == whole / "batch2" / "video5.mp4"
    assert left.sources["faces"] != right.sources["faces"]
    assert scan["video8_right-00032"].sources["audio"] == whole / "new_vids" / "video8.avi"


def test_a_video_whose_own_name_ends_with_left_is_found_first(small):
    root = small(name="turn_left")
    shutil.move(root / "batch1" / "turn.mp4", root / "batch1" / "turn_left.mp4")
    one = by_id(affwild2.scan(root))["turn_left-00032"]
    assert one.sources["video"].name == "turn_left.mp4"


def test_images_that_are_absent_are_counted_and_known(whole):
    scan = affwild2.scan(whole)
    # Missing: 4 of video1 and the first 32 of video5_left.
    assert scan.found["frames without a face"] == 36
    assert by_id(scan)["video1-00032"].extra["faces"].tolist() == [False] + [True] * 7
    assert by_id(scan)["video5_left-00032"].extra["faces"].any() == np.False_
    assert by_id(scan)["video5_left-00064"].extra["faces"].all() == np.True_


def test_more_images_than_annotations_are_clamped_and_counted(whole):
    scan = affwild2.scan(whole)
    assert scan.found["faces beyond the annotations"] == 3
    assert scan.found["recordings whose faces outnumber their annotations"] == 1
    (finding,) = of(scan, "faces beyond the annotations")
    assert (finding.harm, finding.what) == (
        "note",
        f"{whole / 'cropped_aligned' / '7-60-1920x1080'} goes up to frame 74, the annotations of 7-60-1920x1080 to 71: "
        "3 faces have no label.",
    )


def test_files_that_macos_leaves_behind_are_nothing(whole):
    scan = affwild2.scan(whole)
    assert not any(".DS_Store" in str(one) or "._video1" in str(one) for one in scan.findings)
    assert (scan.found["face folders"], scan.found["videos"]) == (8, 7)
    assert (scan.found["annotations of Train_Set"], scan.found["annotations of Validation_Set"]) == (6, 2)


@pytest.mark.parametrize(
    ("prefix", "track", "nested", "where"),
    [
        ("", "VA_Estimation_Challenge", False, "VA_Estimation_Challenge"),
        ("annotations", "VA_Set", False, "annotations/VA_Set"),
        ("x/6th ABAW Annotations", "VA_Estimation_Challenge", True, "x/6th ABAW Annotations/VA_Estimation_Challenge"),
    ],
)
def test_layouts_old_new_and_nested(tmp_path, replicas, prefix, track, nested, where):
    replicas.write_affwild2_replica(tmp_path, prefix=prefix, track=track, nested_faces=nested)
    scan = affwild2.scan(tmp_path)
    assert scan.found["annotations"] == where
    assert len(scan.recordings) == 34
    assert scan.left_out == ("video1-00064", "video77-00032")


@pytest.mark.parametrize(
    ("text", "kind", "what"),
    [
        ("0.5,0.25\n-0.5,0.75\n", "no header", "{path} starts with '0.5,0.25' and not with 'valence,arousal'."),
        ("v;a\n0.5,0.25\n-0.5,0.75\n", "no header", "{path} starts with 'v;a' and not with 'valence,arousal'."),
        (
            "arousal, valence\n0.25,0.5\n0.75,-0.5\n",
            "arousal before valence",
            "{path} has arousal before valence; its header is followed.",
        ),
        (
            "valence,arousal\n0.5,0.25\n-0.5,0.75\nx,1\n\n0.1\n0.1,0.2\n",
            "unreadable rows",
            "{path} has 3 rows that are no pair of numbers, of the frames '3', '4', '5'; they are taken as invalid.",
        ),
        (
            "valence,arousal\n0.5,0.25\n-0.5,0.75\n2,0.1\n-5,0.1\n",
            "outside [-1, 1]",
            "{path} has 1 frames with a value outside [-1, 1], such as 2, at '3'; they are taken as invalid.",
        ),
    ],
)
def test_odd_annotations(tmp_path, text, kind, what):
    path = tmp_path / "x.txt"
    path.write_text(text)
    values, odd = affwild2.read_annotation(path)
    assert odd == [(kind, what.format(path=path))]
    assert values[:2].tolist() == [[0.5, 0.25], [-0.5, 0.75]]
    assert np.array_equal(np.isnan(values[:, 0]), np.isnan(values[:, 1]))
    if kind == "outside [-1, 1]":
        assert np.isnan(values[2:]).all()
    if kind == "unreadable rows":
        assert np.isnan(values[:, 0]).tolist() == [False, False, True, True, True, False]


def test_odd_annotations_are_told_by_the_scan(small):
    root = small()
    path = annotation(root, "a")
    path.write_text(path.read_text().replace("valence,arousal\n", ""))
    empty = annotation(root, "b")
    empty.write_text("valence,arousal\n")
    scan = affwild2.scan(root)
    (finding,) = of(scan, "no header")
    assert (finding.where, finding.harm) == ("a", "kept")
    assert "a-00070" in by_id(scan)
    (finding,) = of(scan, "unreadable annotation")
    assert (str(finding), finding.harm, finding.samples) == (
        f"{empty} has no frames. Restore it from the original archive.",
        "left out",
        ("b",),
    )


def test_recordings_that_lack_faces_or_video_are_left_out(small):
    root = small(faces=False)
    (root / "batch1" / "b.mp4").unlink()
    empty = root / "batch2" / "c.mp4"
    empty.write_bytes(b"")
    scan = affwild2.scan(root, modalities=["faces"])
    (finding,) = of(scan, "no faces")
    assert (str(finding), finding.samples) == (
        f"{annotation(root, 'a')} has no folder a in cropped_aligned or cropped_aligned_new_50_vids. Unpack its faces.",
        ("a-00032", "a-00064", "a-00070"),
    )
    assert set(scan.recordings[0].sources) == {"faces"}
    with pytest.raises(DatasetError, match="needs samples of the train part"):
        affwild2.scan(root).samples("train/dev")
    scan = affwild2.scan(root)
    assert [(one.where, one.samples, str(one)) for one in of(scan, "no video")] == [
        (
            "b",
            ("b-00032", "b-00033"),
            f"{annotation(root, 'b')} has no b.mp4 or .avi in batch1, batch2, new_vids. Unpack its video, or import "
            "without audio.",
        ),
        (
            "c",
            ("c-00032", "c-00041"),
            f"{annotation(root, 'c')} has no c.mp4 or .avi in batch1, batch2, new_vids. Unpack its video, or import "
            "without audio.",
        ),
    ]
    (finding,) = of(scan, "unusable file")
    assert str(finding) == f"{empty} has 0 bytes. Restore it from the original archive."
    shutil.rmtree(root / "cropped_aligned" / "b")
    (root / "cropped_aligned" / "b").mkdir()
    (finding,) = of(affwild2.scan(root, modalities=["faces"]), "no faces")[1:]
    assert finding.what == f"{root / 'cropped_aligned' / 'b'} has no image of the frames 1 to 33."


def test_a_broken_link_to_an_annotation_is_told(small):
    root = small()
    path = annotation(root, "a")
    path.unlink()
    path.symlink_to(root / "moved.txt")
    scan = affwild2.scan(root)
    (finding,) = of(scan, "unreadable annotation")
    assert (finding.harm, finding.samples) == ("left out", ("a",))
    assert finding.what.startswith(f"{path} cannot be read: [Errno 2] No such file or directory")


def test_a_limit_keeps_both_parts(whole):
    few = affwild2.scan(whole).limited(5)
    assert [one.sample_id for one in few.recordings] == [
        "13-30-1920x1080-00032",
        "7-60-1920x1080-00032",
        "video1-00032",
        "video77-00064",
        "video8_right-00032",
    ]
    assert set(few.samples("train/dev")["split"]) == {"train", "val", "test"}


def test_what_belongs_to_no_annotation_is_noted(small):
    root = small()
    (root / "cropped_aligned" / "test1").mkdir()
    (root / "batch2" / "test1.avi").write_bytes(b"x")
    (root / "batch2" / "list.txt").write_text("x")
    (root / "6th ABAW Annotations" / "VA_Estimation_Challenge" / "Train_Set" / "notes.md").write_text("x")
    (root / "6th ABAW Annotations" / "VA_Estimation_Challenge" / "Test_Set").mkdir()
    (root / "old" / "VA_Set").mkdir(parents=True)
    (root / "old" / "VA_Set" / "x").write_text("x")
    shutil.copytree(root / "cropped_aligned" / "a", root / "cropped_aligned_new_50_vids" / "a")
    shutil.copy(root / "batch1" / "a.mp4", root / "batch2" / "a.avi")
    scan = affwild2.scan(root)
    track = root / "6th ABAW Annotations" / "VA_Estimation_Challenge"
    assert {one.kind: (one.harm, str(one)) for one in scan.findings if one.kind != "unknown file"} == {
        "faces without annotation": (
            "note",
            f"{root / 'cropped_aligned' / 'test1'} has no annotation in Train_Set or Validation_Set: of the test part "
            "or another track.",
        ),
        "video without annotation": (
            "note",
            f"{root / 'batch2' / 'test1.avi'} has no annotation in Train_Set or Validation_Set: of the test part or "
            "another track.",
        ),
        "other part": ("note", f"{track / 'Test_Set'} is neither Train_Set nor Validation_Set."),
        "second annotations": ("note", f"{root / 'old' / 'VA_Set'} is not read; {track} is. Remove one of them."),
        "faces twice": (
            "note",
            f"{root / 'cropped_aligned_new_50_vids' / 'a'} holds faces of a a second time; "
            f"{root / 'cropped_aligned' / 'a'} is read.",
        ),
        "video twice": (
            "note",
            f"{root / 'batch2' / 'a.avi'} is a second video of a; {root / 'batch1' / 'a.mp4'} is read.",
        ),
    }
    assert [one.what for one in of(scan, "unknown file")] == [
        f"{track / 'Train_Set' / 'notes.md'} is no annotation and is not read.",
        f"{root / 'batch2' / 'list.txt'} is no .mp4 or .avi and is not read.",
    ]


def test_half_of_the_folders_missing_is_noted(small):
    root = small()
    shutil.rmtree(root / "cropped_aligned_new_50_vids")
    shutil.rmtree(root / "batch2")
    scan = affwild2.scan(root)
    assert str(of(scan, "faces missing")[0]) == (
        f"There is no cropped_aligned_new_50_vids/ below {root}; its recordings have no faces. Unpack it too."
    )
    assert str(of(scan, "videos missing")[0]) == f"There is no batch2/ below {root}. Unpack it too."
    assert scan.left_out == ("c-00032", "c-00041")


def test_wrong_roots(whole, small, tmp_path):
    with pytest.raises(DatasetError) as caught:
        affwild2.scan(whole / "batch1")
    assert caught.value.what == (
        f"{whole / 'batch1'} is not a root of Aff-Wild2: expected there are "
        "VA_Estimation_Challenge/{Train_Set,Validation_Set}/ (or VA_Set/, perhaps below '6th ABAW Annotations/'), "
        "cropped_aligned/ and cropped_aligned_new_50_vids/, batch1/, batch2/ and new_vids/; it holds video1.mp4, "
        "video77.mp4."
    )
    assert caught.value.cure == "Give the folder that holds them."
    with pytest.raises(DatasetError) as caught:
        affwild2.scan(whole / "6th ABAW Annotations")
    assert caught.value.cure == f"Perhaps you mean {whole}, which holds cropped_aligned/."
    root = small()
    shutil.rmtree(root / "cropped_aligned")
    shutil.rmtree(root / "cropped_aligned_new_50_vids")
    with pytest.raises(DatasetError) as caught:
        affwild2.scan(root)
    assert caught.value.what.endswith("it holds 6th ABAW Annotations/, batch1/, batch2/, new_vids/.")
    assert caught.value.cure == "Give the folder that holds them."
    (root / "cropped-aligned").mkdir()
    with pytest.raises(DatasetError) as caught:
        affwild2.scan(root)
    assert caught.value.cure == "Perhaps cropped-aligned is what should be called cropped_aligned: then rename it."
    assert len(affwild2.scan(root, modalities=["audio"]).recordings) == 9
    for name in ("batch1", "batch2", "new_vids"):
        (root / name).rename(root / f"{name}-")
    with pytest.raises(DatasetError) as caught:
        affwild2.scan(root, modalities=["audio"])
    assert caught.value.cure == "Perhaps batch1- is what should be called batch1: then rename it."
    for path in root.rglob("*.txt"):
        path.unlink()
    with pytest.raises(DatasetError) as caught:
        affwild2.scan(root, modalities=["audio"])
    track = root / "6th ABAW Annotations" / "VA_Estimation_Challenge"
    assert caught.value.what == (
        f"{track} has no annotations in Train_Set or Validation_Set; it holds 'Train_Set', 'Validation_Set'."
    )
    assert caught.value.cure == "Unpack the annotations of the valence-arousal track there."


@pytest.mark.parametrize(
    ("arguments", "what", "cure"),
    [
        ({"window": 0}, "window is 0 clips.", "Choose 16, as published, or 1 for a sample a clip."),
        ({"modalities": ["video"]}, "modalities are ['video'].", "Choose faces, audio or both of them."),
        (
            {"stride": 0},
            "stride is 0.",
            "Choose at least 1, and 32 with windows, whose clips follow one another; a window of 1 takes any.",
        ),
        (
            {"stride": 8, "window": 3},
            "stride is 8 with windows of 3 clips.",
            "Choose at least 1, and 32 with windows, whose clips follow one another; a window of 1 takes any.",
        ),
    ],
)
def test_arguments_that_mean_nothing(whole, arguments, what, cure):
    with pytest.raises(DatasetError) as caught:
        affwild2.scan(whole, **arguments)
    assert (caught.value.what, caught.value.cure) == (what, cure)


def test_nothing_left(small):
    root = small()
    for path in root.rglob("*.mp4"):
        path.unlink()
    with pytest.raises(DatasetError) as caught:
        affwild2.scan(root)
    assert caught.value.what == f"{root} has no sample with faces and audio and a valid label."
    assert caught.value.cure == "Look at the first that was left out."
    assert caught.value.details[0].startswith(f"{annotation(root, 'a')} has no a.mp4 or .avi in batch1, ")


def test_the_protocol_is_a_valid_table(whole):
    scan = affwild2.scan(whole)
    samples = scan.samples("train/dev", seed=1)
    faults = Faults()
    validation.check_samples(
        DatasetInfo(name="affwild2", task=scan.task, targets=scan.targets, target_frames=scan.target_frames),
        samples,
        faults,
    )
    faults.raise_if_any("affwild2")
    assert set(samples.loc[samples["split"] == "test", "subject_id"]) == {"video77", "video8"}
    assert samples.groupby("subject_id")["split"].nunique().max() == 1
    assert list(samples) == ["sample_id", "subject_id", "sequence_id", "target_valence", "target_arousal", "split"]
    report = scan.report("train/dev", seed=1)
    assert report.counts["train/dev test subjects"] == 2
    assert report.lines[0] == "affwild2: 34 samples of 7 subjects, 2 samples left out"
    assert any(
        line.startswith("left out: invalid label: 2 times, 2 samples: 'video1', 'video77'. The first: 1 of 4 clips of ")
        for line in report.lines
    )


def test_two_people_of_one_video_in_both_parts_are_not_trained_on(tmp_path, replicas):
    videos = [
        replicas.AffVideo("a_left", "Train_Set", 64),
        replicas.AffVideo("a_right", "Validation_Set", 64),
        replicas.AffVideo("b", "Train_Set", 64),
        replicas.AffVideo("c", "Train_Set", 64),
    ]
    replicas.write_affwild2_replica(tmp_path, videos=videos)
    (tmp_path / "cropped_aligned_new_50_vids").mkdir()
    scan = affwild2.scan(tmp_path)
    samples = scan.samples("train/dev")
    assert "a_left-00032" not in set(samples["sample_id"])
    assert set(samples.loc[samples["split"] == "test", "sequence_id"]) == {"a_right"}
    (finding,) = scan.assign("train/dev").findings
    assert finding.samples == ("a_left-00032", "a_left-00064")


@given(st.integers(1, 700), st.integers(1, 70))
def test_clips_cover_a_video_and_end_with_its_last_frame(count, stride):
    ends = affwild2.clip_ends(count, stride)
    assert ends[-1] == count
    assert (np.diff(ends) > 0).all()
    assert (np.diff(ends) <= stride).all()
    for end in ends.tolist():
        frames = affwild2.clip_frames(end)
        assert frames.shape == (8,)
        assert frames[-1] == end
        assert ((frames == 0) | (frames > end - 32)).all()
    if stride == 32:
        seen = {frame for end in ends.tolist() for frame in range(max(1, end - 31), end + 1)}
        assert seen == set(range(1, count + 1))


def test_with_a_stride_of_one_every_frame_has_a_clip(small):
    scan = affwild2.scan(small(), stride=1)
    assert [one.sample_id for one in scan.recordings if one.sequence_id == "b"] == [
        f"b-{frame:05d}" for frame in range(1, 34)
    ]
    assert by_id(scan)["b-00002"].frames.tolist() == [0, 0, 0, 0, 0, 0, 0, 2]
