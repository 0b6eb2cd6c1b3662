"""Where the samples of a raw recording lie, and what stays in memory while they overlap."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pkdray.data.importers import extract as extracting
from pkdray.data.importers import windows
from pkdray.data.importers.extract import MediaOptions
from pkdray.data.importers.windows import RememberingDetector, Window, cut, files_for, options_for
from pkdray.data.info import RecordingsInfo
from pkdray.data.media.faces import FaceDetector
from pkdray.data.media.video import Frame, VideoInfo
from pkdray.errors import DatasetError

FACE = MediaOptions(("face",))


@pytest.fixture
def lasting(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """``lasting(frames, rate)``: a video that has so many frames, without there being one."""

    def make(frames: int, rate: float) -> Path:
        monkeypatch.setattr(windows.video, "frame_times", lambda _: (np.arange(frames) / rate, frames / rate))
        monkeypatch.setattr(windows.video, "probe", lambda _: VideoInfo(2, 2, rate, frames / rate, frames))
        return Path("film.mp4")

    return make


def clips_of(made: list[Window]) -> list[list[int]]:
    return [one.recording.extra["last_frames"].tolist() for one in made]


def test_biovid_has_a_window_of_three_seconds_every_second(lasting: Callable[..., Path]) -> None:
    made, sources = cut("biovid", {"video": lasting(250, 25)}, FACE)
    assert [one.span for one in made] == [(float(start), start + 3.0) for start in range(8)]
    assert [one.times_s.tolist() for one in made] == [[start + 1.5] for start in range(8)]
    assert sources.keep == 3.0
    apart, sources = cut("biovid", {"video": lasting(250, 25)}, FACE, step_s=3.2)
    assert [one.span[0] for one in apart] == [0.0, 3.2, 6.4]
    assert sources.keep == 0
    assert type(sources.detector) is FaceDetector


def test_one_frame_too_few_is_one_window_fewer(lasting: Callable[..., Path]) -> None:
    assert len(cut("biovid", {"video": lasting(125, 25)}, FACE)[0]) == 3
    assert len(cut("biovid", {"video": lasting(124, 25)}, FACE)[0]) == 2
    assert len(cut("recola", {"video": lasting(90, 30)}, FACE, per_frame=True)[0]) == 3
    with pytest.raises(DatasetError, match=r"film\.mp4 lasts 2\.96 s; a sample takes 3 s"):
        cut("biovid", {"video": lasting(74, 25)}, FACE)


def test_affwild2_has_clips_to_the_end(lasting: Callable[..., Path]) -> None:
    made, _ = cut("affwild2", {"video": lasting(70, 30)}, FACE)
    assert clips_of(made) == [[32], [64], [70]]
    assert [one.recording.frames.shape for one in made if one.recording.frames is not None] == [(8,)] * 3
    np.testing.assert_allclose([one.times_s[0] for one in made], np.array([31, 63, 69]) / 30)
    np.testing.assert_allclose([one.span for one in made], np.array([[0, 32], [32, 64], [38, 70]]) / 30)


@pytest.mark.parametrize(
    ("clips", "expected"),
    [
        # Clips that were answered already stand in brackets of their own.
        (2, [([], [32, 64]), ([], [96, 128]), ([128], [140])]),
        (3, [([], [32, 64, 96]), ([96], [128, 140])]),
        (7, [([32, 32], [32, 64, 96, 128, 140])]),
    ],
)
def test_samples_of_several_clips_answer_each_clip_once(
    lasting: Callable[..., Path], clips: int, expected: list[tuple[list[int], list[int]]]
) -> None:
    options = MediaOptions(("face",), window=clips)
    made, _ = cut("affwild2", {"video": lasting(140, 30)}, options, per_frame=True)
    assert clips_of(made) == [[*again, *new] for again, new in expected]
    for one, (again, new) in zip(made, expected, strict=True):
        frames = one.recording.frames
        assert frames is not None
        assert frames.shape == (clips, 8)
        assert frames[:, -1].tolist() == [*again, *new]
        np.testing.assert_allclose(one.times_s, [*[np.nan] * len(again), *((end - 1) / 30 for end in new)])
        np.testing.assert_allclose(one.answer_spans, [[(end - 32) / 30, end / 30] for end in (*again, *new)])


def test_the_clip_of_a_short_video_begins_with_it(lasting: Callable[..., Path]) -> None:
    options = MediaOptions(("face",), window=3)
    (one,), _ = cut("affwild2", {"video": lasting(23, 30)}, options, per_frame=True)
    np.testing.assert_allclose(one.answer_spans, [[0, 23 / 30]] * 3)
    assert one.span == pytest.approx((0, 23 / 30))


def test_answers_that_are_not_of_clips_are_of_the_whole_sample(lasting: Callable[..., Path]) -> None:
    made, _ = cut("recola", {"video": lasting(50, 25)}, FACE, per_frame=True)
    assert made[1].answer_spans.tolist() == [[1.0, 2.0]] * 25
    options = MediaOptions(("face",), window=2)
    made, _ = cut("affwild2", {"video": lasting(70, 30)}, options)
    assert made[1].answer_spans.shape == (1, 2)
    np.testing.assert_allclose(made[1].answer_spans, [[32 / 30, 70 / 30]])


def test_answers_per_frame_may_not_overlap(lasting: Callable[..., Path]) -> None:
    path = lasting(140, 30)
    for name, step in (("recola", 0.5), ("affwild2", 0.5)):
        with pytest.raises(DatasetError, match="they would overlap"):
            cut(name, {"video": path}, FACE, per_frame=True, step_s=step)
    for step in (0.0, -2.0, float("nan"), float("inf")):
        with pytest.raises(DatasetError, match="The step is"):
            cut("recola", {"video": path}, FACE, step_s=step)


def test_the_options_of_the_set_are_kept_for_the_modalities_asked_for() -> None:
    said = RecordingsInfo(name="biovid", options={"modalities": ["face", "ecg"], "size": 71, "gaps": "black"})
    assert options_for(said, ["face"]) == MediaOptions(("face",), size=71, gaps="black")
    with pytest.raises(DatasetError, match="'voice' cannot be made from a recording of biovid"):
        options_for(said, ["voice"])


def test_each_kind_of_data_has_its_file() -> None:
    talk, table = Path("talk.mp4"), Path("talk.csv")
    both = MediaOptions(("face", "voice", "ecg"))
    assert files_for(both, talk, table) == {"video": talk, "audio": talk, "biosignals": table}
    assert files_for(MediaOptions(("ecg",)), table) == {"biosignals": table}
    for options, signals, says in (
        (both, None, "talk.mp4 does not hold ecg"),
        (FACE, table, "talk.csv is of no use"),
        (MediaOptions(("ecg",)), table, "talk.mp4 is of no use"),
    ):
        with pytest.raises(DatasetError, match=says):
            files_for(options, talk, signals)


class TestGoingBack:
    @pytest.fixture
    def opened(self, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
        """A video of 10 frames a second whose k-th picture is k; how often it was opened to be read."""
        times: list[Path] = []

        def frames(path: Path, *, end_s: float | None = None) -> Iterator[Frame]:
            if end_s is None:
                times.append(path)
            for index in range(33):
                yield Frame(index / 10, np.full((2, 3, 3), index, np.uint8))

        monkeypatch.setattr(extracting.video, "read_frames", frames)
        return times

    def cut(self, forward: Any, start_s: float, count: int) -> list[int]:
        return [int(frame.image[0, 0, 0]) for frame in forward.cut(start_s, count, 10)]

    @pytest.mark.parametrize("keep", [0.0, 0.4, 3.0])
    def test_what_is_kept_changes_how_long_it_takes_and_not_what_comes_out(
        self, opened: list[Path], keep: float
    ) -> None:
        forward = extracting._Forward(Path("film.mp4"), None, keep=keep)
        for start in (0.0, 0.5, 1.0, 1.7, 0.2, 2.5, 2.9, 2.6):
            first = round(start * 10)
            assert self.cut(forward, start, 9) == list(range(33))[first : first + 9]
        assert len(opened) == {0.0: 7, 0.4: 3, 3.0: 1}[keep]

    def test_numbers_count_from_one(self, opened: list[Path]) -> None:
        forward = extracting._Forward(Path("film.mp4"), None, numbered=True, keep=8.0)
        shown = [int(frame.image[0, 0, 0]) for number in (4, 8, 33, 26) for frame in forward.cut(float(number), 1, 1.0)]
        assert shown == [3, 7, 32, 25]
        assert list(forward.cut(34.0, 1, 1.0)) == []


def test_a_picture_in_memory_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []

    def find(self: FaceDetector, images: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        looked.append(len(images))
        for image in images:
            yield np.array([[0.0, 0, 20, 20 + image[0, 0, 0]]]), np.array([0.99])

    monkeypatch.setattr(FaceDetector, "_candidates", find)
    detector = RememberingDetector()
    pictures = [np.full((60, 50, 3), level, np.uint8) for level in range(7)]
    detector.detect(pictures[:5])
    second = detector.detect(pictures[2:])
    assert looked == [5, 2]
    np.testing.assert_array_equal(second.boxes[:, 3], 20 + np.arange(2, 7))
    del pictures
    gc.collect()
    detector.detect([np.zeros((60, 50, 3), np.uint8)])
    assert looked == [5, 2, 1]
    assert len(detector._seen) == 1
