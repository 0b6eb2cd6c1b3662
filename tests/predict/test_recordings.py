"""A raw recording becomes a time line: cut, cropped and answered as the samples of its student's set were."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import media_writers as writers
import numpy as np
import pandas as pd
import pytest
from small_bundles import make_bundle, make_filmed_bundle

from pkdray.data.importers import extract as extracting
from pkdray.data.importers.extract import MediaOptions, Sources, extract
from pkdray.data.importers.recordings import Recording
from pkdray.data.media import audio, spectrogram, video
from pkdray.data.media.faces import FaceDetector, face_crops
from pkdray.errors import DatasetError, PkdrayError
from pkdray.predict import LoadedStudent, load_student, predict_recording_file

SIZE = 33
PAIN = ("BL1", "PA4")


def film(path: Path, faces: Sequence[bool], rate: int, sound_s: float | None = None) -> Path:
    """A video with a face in the frames that say so, and with sound."""
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as output:
        stream = output.add_stream("libx264", rate=rate, options={"preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = writers.HEIGHT, writers.WIDTH, "yuv420p"
        stream.codec_context.time_base = Fraction(1, rate)
        sound = output.add_stream("aac", rate=16_000) if sound_s else None
        for index, face in enumerate(faces):
            frame = av.VideoFrame.from_ndarray(writers.scene(0.5, index / len(faces), face), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, rate)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
        if sound is not None:
            heard = writers.tone(sound_s, 16_000, 0.5)[None]
            block = av.AudioFrame.from_ndarray(heard, format="fltp", layout="mono")
            block.rate = 16_000
            output.mux(sound.encode(block))
            output.mux(sound.encode())
    path.write_bytes(out.getvalue())
    return path


@pytest.fixture(scope="module")
def recola(tmp_path_factory: pytest.TempPathFactory) -> LoadedStudent:
    return load_student(
        make_filmed_bundle(
            tmp_path_factory.mktemp("recola"),
            {"face": (25, SIZE, SIZE, 3), "voice": (25, 256)},
            per_frame=True,
            recordings="recola",
            voice="frames",
            size=SIZE,
            every=12,
        )
    )


@pytest.fixture(scope="module")
def biovid(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., LoadedStudent]:
    def make(**options: Any) -> LoadedStudent:
        folder = tmp_path_factory.mktemp("biovid")
        options = {"size": SIZE, "every": 25, **options}
        shape = {"face": (75, SIZE, SIZE, 3)}
        return load_student(make_filmed_bundle(folder, shape, classes=PAIN, recordings="biovid", **options))

    return make


@pytest.fixture(scope="module")
def affwild2(tmp_path_factory: pytest.TempPathFactory) -> LoadedStudent:
    folder = tmp_path_factory.mktemp("affwild2")
    shapes = {"face": (8, SIZE, SIZE, 3), "voice": (107, 64)}
    return load_student(make_filmed_bundle(folder, shapes, encoder="r3d18", recordings="affwild2", size=SIZE))


def alone(name: str, student: LoadedStudent, files: dict[str, Path], start: float, end: float) -> np.ndarray:
    """What the student says of one sample that is imported by itself, as an importer would."""
    assert student.recordings is not None
    options = MediaOptions(**student.recordings.options)
    one = Recording("s", "p", "q", files, 0, start_s=start, end_s=end, extra={"signal_rows": None})
    made = extract(name, one, options, Sources(options))
    return student.predict_array({key: made.arrays[key][None] for key in student.modalities})[0]


class TestRecola:
    def test_every_second_has_25_answers_those_of_the_imported_clip(
        self, recola: LoadedStudent, tmp_path: Path
    ) -> None:
        path = film(tmp_path / "talk.mp4", [True] * 62, 25, 2.6)
        table = recola.predict_recording(path)
        assert table.columns.tolist() == ["time_s", "start_s", "end_s", "valence", "arousal", "faces"]
        np.testing.assert_allclose(table["time_s"], np.arange(50) / 25, atol=1e-6)
        assert table["start_s"].tolist() == [0.0] * 25 + [1.0] * 25
        assert table["end_s"].tolist() == [1.0] * 25 + [2.0] * 25
        assert (table["faces"] == 1).all()
        for second in (0, 1):
            expected = alone("recola", recola, {"video": path, "audio": path}, second, second + 1)
            found = table[["valence", "arousal"]].to_numpy()[25 * second : 25 * second + 25]
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        assert table["valence"].nunique() > 10

    def test_a_second_without_a_face_has_no_answers(self, recola: LoadedStudent, tmp_path: Path) -> None:
        path = film(tmp_path / "talk.mp4", [True] * 25 + [False] * 25 + [True] * 25, 25, 3.0)
        table = recola.predict_recording(path)
        assert table["faces"].tolist() == [1.0] * 25 + [0.0] * 25 + [1.0] * 25
        silent = table[["valence", "arousal"]].isna().all(axis=1)
        assert silent.tolist() == [False] * 25 + [True] * 25 + [False] * 25

    def test_a_longer_step_leaves_gaps_and_a_shorter_one_is_refused(
        self, recola: LoadedStudent, tmp_path: Path
    ) -> None:
        path = film(tmp_path / "talk.mp4", [True] * 65, 25, 2.6)
        assert recola.predict_recording(path, step_s=1.5)["start_s"].unique().tolist() == [0.0, 1.5]
        with pytest.raises(DatasetError, match=r"step is 0.5 s, but a sample has answers for 1 s: they would overlap"):
            recola.predict_recording(path, step_s=0.5)
        with pytest.raises(DatasetError, match="step is -1"):
            recola.predict_recording(path, step_s=-1)

    def test_the_shorter_of_picture_and_sound_decides(self, recola: LoadedStudent, tmp_path: Path) -> None:
        table = recola.predict_recording(film(tmp_path / "talk.mp4", [True] * 75, 25, 1.7))
        assert table["end_s"].max() == 1.0

    def test_a_video_without_sound_is_refused(self, recola: LoadedStudent, tmp_path: Path) -> None:
        path = film(tmp_path / "mute.mp4", [True] * 30, 25)
        with pytest.raises(DatasetError, match=r"mute\.mp4 has no audio track, only video") as caught:
            recola.predict_recording(path)
        assert "a whole sound track" in str(caught.value.cure)

    def test_signals_come_from_a_table_beside_the_video(self, tmp_path: Path) -> None:
        shapes = {"face": (25, SIZE, SIZE, 3), "ecg": (25, 10)}
        about: dict[str, Any] = {"per_frame": True, "recordings": "recola", "size": SIZE, "every": 25}
        student = load_student(make_filmed_bundle(tmp_path / "student", shapes, **about))
        path, signals = film(tmp_path / "talk.mp4", [True] * 75, 25), tmp_path / "talk.csv"
        pulse = np.sin(np.arange(520) / 7)
        signals.write_text("time;ECG\n" + "".join(f"{k / 250:.3f};{value:.6f}\n" for k, value in enumerate(pulse)))
        table = student.predict_recording(path, biosignals=signals)
        assert len(table) == 50
        expected = alone("recola", student, {"video": path, "biosignals": signals}, 1, 2)
        np.testing.assert_allclose(table[["valence", "arousal"]].to_numpy()[25:], expected, rtol=1e-4, atol=1e-5)
        with pytest.raises(DatasetError, match=r"talk\.mp4 does not hold ecg") as caught:
            student.predict_recording(path)
        assert "biosignals=" in str(caught.value)

    def test_a_sound_or_signals_alone_are_enough_where_no_face_is_seen(self, tmp_path: Path) -> None:
        about: dict[str, Any] = {"per_frame": True, "recordings": "recola", "voice": "frames"}
        heard = load_student(make_filmed_bundle(tmp_path / "heard", {"voice": (25, 256)}, **about))
        writers.make_audio(tmp_path / "talk.wav", seconds=2.4, rate=16_000, level=0.5)
        table = heard.predict_recording(tmp_path / "talk.wav")
        assert table.columns.tolist() == ["time_s", "start_s", "end_s", "valence", "arousal"]
        assert len(table) == 50
        expected = alone("recola", heard, {"audio": tmp_path / "talk.wav"}, 1, 2)
        np.testing.assert_allclose(table[["valence", "arousal"]].to_numpy()[25:], expected, rtol=1e-4, atol=1e-5)
        felt = load_student(make_filmed_bundle(tmp_path / "felt", {"eda": (25, 10)}, **about))
        level = "".join(f"{value:.6f}\n" for value in np.cos(np.arange(777) / 31))
        (tmp_path / "talk.csv").write_text(f"EDA\n{level}")
        assert len(felt.predict_recording(tmp_path / "talk.csv")) == 75

    def test_signals_that_nobody_needs_are_refused(self, recola: LoadedStudent, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match=r"talk\.csv is of no use: all that is needed is face, voice"):
            recola.predict_recording(tmp_path / "talk.mp4", biosignals=tmp_path / "talk.csv")


class TestBioVid:
    def test_windows_of_three_seconds_follow_every_second(
        self, biovid: Callable[..., LoadedStudent], tmp_path: Path
    ) -> None:
        student = biovid()
        path = film(tmp_path / "pain.mp4", [True] * 137, 25)
        told: list[tuple[int, int]] = []
        table = student.predict_recording(path, progress=lambda *where: told.append(where))
        assert table.columns.tolist() == ["time_s", "start_s", "end_s", "prediction", "p_BL1", "p_PA4", "faces"]
        assert table["time_s"].tolist() == [1.5, 2.5, 3.5]
        assert table["start_s"].tolist() == [0, 1, 2]
        assert table["end_s"].tolist() == [3, 4, 5]
        assert told == [(1, 3), (2, 3), (3, 3)]
        for start, row in enumerate(table[["p_BL1", "p_PA4"]].to_numpy()):
            expected = alone("biovid", student, {"video": path}, start, start + 3)
            np.testing.assert_allclose(row, expected, rtol=1e-4, atol=1e-5)
            assert table["prediction"][start] == PAIN[int(expected.argmax())]

    def test_samples_that_overlap_decode_and_look_at_each_frame_once(
        self, biovid: Callable[..., LoadedStudent], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        looked, opened = [], []
        find, read = FaceDetector._candidates, extracting.video.read_frames

        def counted(self: FaceDetector, images: np.ndarray) -> Any:
            looked.append(len(images))
            return find(self, images)

        def noted(path: Path, **about: Any) -> Any:
            opened.append(about)
            return read(path, **about)

        monkeypatch.setattr(FaceDetector, "_candidates", counted)
        monkeypatch.setattr(extracting.video, "read_frames", noted)
        path = film(tmp_path / "pain.mp4", [True] * 100, 25)
        table = biovid(every=1).predict_recording(path, step_s=0.52)
        assert table["start_s"].tolist() == [0.0, 0.52]
        assert sum(looked) == 88
        assert [about for about in opened if "end_s" not in about] == [{}]

    def test_where_gaps_are_black_a_window_without_a_face_is_answered(
        self, biovid: Callable[..., LoadedStudent], tmp_path: Path
    ) -> None:
        path = film(tmp_path / "pain.mp4", [True] * 75 + [False] * 75, 25)
        retained = biovid().predict_recording(path, step_s=3)
        assert retained["prediction"].isna().tolist() == [False, True]
        black = biovid(gaps="black").predict_recording(path, step_s=3)
        assert black["faces"].tolist() == retained["faces"].tolist() == [1.0, 0.0]
        assert black["prediction"].notna().all()

    def test_a_video_without_any_face_is_refused(self, biovid: Callable[..., LoadedStudent], tmp_path: Path) -> None:
        path = film(tmp_path / "empty.mp4", [False] * 100, 25)
        with pytest.raises(DatasetError, match=r"No face was found in any of the 2 samples of .*empty\.mp4") as caught:
            biovid().predict_recording(path)
        assert "40 pixels" in str(caught.value)

    def test_a_video_that_is_too_short_is_refused(self, biovid: Callable[..., LoadedStudent], tmp_path: Path) -> None:
        path = film(tmp_path / "short.mp4", [True] * 70, 25)
        with pytest.raises(DatasetError, match=r"short\.mp4 lasts 2\.80 s; a sample takes 3 s"):
            biovid().predict_recording(path)


class TestAffWild2:
    def test_a_clip_has_the_answer_to_its_last_frame(self, affwild2: LoadedStudent, tmp_path: Path) -> None:
        path = film(tmp_path / "wild.mp4", [True] * 75, 30, 2.6)
        table = affwild2.predict_recording(path)
        ends = [32, 64, 75]
        np.testing.assert_allclose(table["time_s"], [(end - 1) / 30 for end in ends], atol=1e-6)
        np.testing.assert_allclose(table["start_s"], [(end - 32) / 30 for end in ends], atol=1e-6)
        np.testing.assert_allclose(table["end_s"], [end / 30 for end in ends], atol=1e-6)
        frames = list(video.read_frames(path))
        sound, rate = audio.read_audio(path, rate_hz=spectrogram.AFFWILD2.rate_hz)
        for row, end in enumerate(ends):
            chosen = [frames[number - 1] for number in range(end - 28, end + 1, 4)]
            crops = face_crops(chosen, FaceDetector(), size=SIZE).crops
            first = round((end - 32) / 30 * rate)
            heard = sound[first : first + round(32 / 30 * rate)]
            voice = spectrogram.log_mel(heard, spectrogram.AFFWILD2, rate_hz=rate).T
            expected = affwild2.predict_array({"face": crops[None], "voice": voice[None]})[0]
            found = table[["valence", "arousal"]].to_numpy()[row]
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)

    def test_the_step_is_in_whole_frames(self, affwild2: LoadedStudent, tmp_path: Path) -> None:
        path = film(tmp_path / "wild.mp4", [True] * 48, 30, 1.7)
        table = affwild2.predict_recording(path, step_s=0.27)
        np.testing.assert_allclose(table["time_s"] * 30 + 1, [8, 16, 24, 32, 40, 48], atol=1e-3)
        assert table["start_s"].tolist()[:4] == [0, 0, 0, 0], "clips at the beginning are padded in front"

    @pytest.fixture
    def in_windows(self, tmp_path: Path) -> Callable[..., LoadedStudent]:
        def make(clips: int, **options: Any) -> LoadedStudent:
            cut = {"recordings": "affwild2", "size": SIZE, "window": clips, **options}
            about: dict[str, Any] = {"encoder": "r3d18_lstm", "per_frame": True, **cut}
            folder = tmp_path / "-".join(["student", str(clips), *options])
            return load_student(make_filmed_bundle(folder, {"face": (clips, 8, SIZE, SIZE, 3)}, **about))

        return make

    def test_samples_of_several_clips_have_an_answer_a_clip(
        self, in_windows: Callable[..., LoadedStudent], tmp_path: Path
    ) -> None:
        path = film(tmp_path / "wild.mp4", [True] * 75, 30)
        table = in_windows(2).predict_recording(path)
        np.testing.assert_allclose(table["time_s"] * 30 + 1, [32, 64, 75], atol=1e-3)
        np.testing.assert_allclose(table["start_s"] * 30, [0, 32, 43], atol=1e-3)
        np.testing.assert_allclose(table["end_s"] * 30, [32, 64, 75], atol=1e-3)
        assert table["faces"].tolist() == [1, 1, 1]
        assert table[["valence", "arousal"]].notna().all(axis=None)

    def test_a_clip_without_a_face_has_no_answer_whatever_its_neighbours_have(
        self, in_windows: Callable[..., LoadedStudent], tmp_path: Path
    ) -> None:
        # Of clip 1 frames 4, 8, 12 of the eight; none of clip 2, and none of clip 3 (frames 47 to 75).
        path = film(tmp_path / "wild.mp4", [True] * 14 + [False] * 61, 30)
        retained = in_windows(3).predict_recording(path)
        assert retained["faces"].tolist() == [3 / 8, 0, 0]
        assert retained["valence"].isna().tolist() == [False, True, True]
        assert retained["arousal"].isna().tolist() == [False, True, True]
        black = in_windows(3, gaps="black").predict_recording(path)
        assert black["faces"].tolist() == [3 / 8, 0, 0]
        assert black[["valence", "arousal"]].notna().all(axis=None)

    def test_a_face_in_a_clip_that_was_answered_before_gives_no_answer(
        self, in_windows: Callable[..., LoadedStudent], tmp_path: Path
    ) -> None:
        # The last window is moved back: its first clip, 33 to 64, was answered by the one before.
        path = film(tmp_path / "wild.mp4", [True] * 40 + [False] * 35, 30)
        table = in_windows(2).predict_recording(path)
        np.testing.assert_allclose(table["faces"], [1, 2 / 8, 0])
        assert table["valence"].isna().tolist() == [False, False, True]

    def test_neither_padding_nor_clips_repeated_in_front_count_as_frames(
        self, in_windows: Callable[..., LoadedStudent], tmp_path: Path
    ) -> None:
        # Of the clip's frames 0, 0, 3, 7, 11, 15, 19, 23 six exist, and four show a face.
        path = film(tmp_path / "short.mp4", [True] * 16 + [False] * 7, 30)
        table = in_windows(3).predict_recording(path)
        assert len(table) == 1
        assert table[["start_s", "end_s"]].to_numpy()[0] == pytest.approx([0, 23 / 30], abs=1e-6)
        assert table["faces"].tolist() == [4 / 6]
        assert table[["valence", "arousal"]].notna().all(axis=None)


def test_a_truncated_video_leaves_nothing_behind(recola: LoadedStudent, tmp_path: Path) -> None:
    path = film(tmp_path / "talk.mp4", [True] * 75, 25, 3.0)
    path.write_bytes(path.read_bytes()[:-900])
    student = tmp_path / "student"
    shapes = {"face": (25, SIZE, SIZE, 3), "voice": (25, 256)}
    make_filmed_bundle(student, shapes, per_frame=True, recordings="recola", size=SIZE)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(DatasetError, match=r"talk\.mp4 (is truncated|cannot be opened)"):
        predict_recording_file(student, path, tmp_path / "answers.csv", plot=tmp_path / "answers.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_student_of_features_says_what_it_needs(tmp_path: Path) -> None:
    student = load_student(make_bundle(tmp_path / "pupil", "two"))
    with pytest.raises(DatasetError, match=r"The student pupil was not trained on recordings") as caught:
        student.predict_recording("talk.mp4")
    assert "Give features of 'face', 'heart.rate'" in str(caught.value)


def test_a_student_of_another_modality_than_its_set_has_is_refused(tmp_path: Path) -> None:
    shapes = {"face": (25, SIZE, SIZE, 3), "smell": (25, 2)}
    student = load_student(make_filmed_bundle(tmp_path, shapes, per_frame=True, recordings="recola"))
    with pytest.raises(DatasetError, match="'smell' cannot be made from a recording of recola"):
        student.predict_recording("talk.mp4")


def test_an_option_from_the_future_is_told(tmp_path: Path) -> None:
    shape = {"face": (25, SIZE, SIZE, 3)}
    student = load_student(make_filmed_bundle(tmp_path, shape, per_frame=True, recordings="recola", zoom=3))
    with pytest.raises(DatasetError, match=r"cannot be understood .*zoom"):
        student.predict_recording("talk.mp4")


def test_outputs_are_checked_before_anything_is_read(tmp_path: Path) -> None:
    for output, plot, says in (
        ("answers.xlsx", None, "suffix '.xlsx'"),
        ("answers.csv", "answers.gif", "suffix '.gif'"),
        ("answers.csv", "folder.png", "is a folder"),
    ):
        (tmp_path / "folder.png").mkdir(exist_ok=True)
        picture = None if plot is None else tmp_path / plot
        with pytest.raises(PkdrayError, match=says):
            predict_recording_file(tmp_path / "nowhere", tmp_path / "talk.mp4", tmp_path / output, plot=picture)
    with pytest.raises(PkdrayError, match="also an input"):
        predict_recording_file(
            tmp_path / "nowhere", tmp_path / "talk.mp4", tmp_path / "talk.csv", biosignals=tmp_path / "talk.csv"
        )


def test_the_command_writes_a_table_and_a_picture(pkdray: Callable[..., Any], tmp_path: Path) -> None:
    shapes = {"face": (25, SIZE, SIZE, 3)}
    make_filmed_bundle(tmp_path / "student", shapes, per_frame=True, recordings="recola", size=SIZE, every=25)
    film(tmp_path / "talk.mp4", [True] * 25 + [False] * 25 + [True] * 25, 25)
    said = pkdray("predict", "student", "talk.mp4", "-o", "answers.csv", "--plot", "answers.png")
    assert (said.code, said.out.splitlines()[0]) == (
        0,
        "75 answers are in answers.csv. The time line is drawn in answers.png.",
    ), said.err
    table = pd.read_csv(tmp_path / "answers.csv")
    assert table["valence"].isna().sum() == 25
    assert (tmp_path / "answers.png").read_bytes().startswith(b"\x89PNG")
    for arguments, says in (
        (["talk.mp4", "face=x.csv"], "face=x.csv cannot go with the recording talk.mp4"),
        (["talk.mp4", "walk.mp4"], "There are 2 recordings"),
        (["face.csv", "--plot", "x.png"], "--step and --plot are for a recording"),
        (["nowhere.mp4"], "nowhere.mp4 does not exist"),
    ):
        said = pkdray("predict", "student", *arguments, "-o", "other.csv")
        assert said.code == 2
        assert says in said.err
        assert not (tmp_path / "other.csv").exists()


BLOCKED = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"ray", "optuna", "ot"} or name == "matplotlib.pyplot":
            raise ImportError(f"prediction imported {name}")

sys.meta_path.insert(0, Refuse())
from pkdray.predict import predict_recording_file

print(len(predict_recording_file(sys.argv[1], sys.argv[2], "answers.parquet", plot="answers.svg")))
"""


def test_a_recording_needs_neither_ray_nor_optuna_nor_pot(tmp_path: Path) -> None:
    shape = {"face": (75, SIZE, SIZE, 3)}
    make_filmed_bundle(tmp_path / "student", shape, classes=PAIN, recordings="biovid", size=SIZE, every=25)
    film(tmp_path / "pain.mp4", [True] * 75 + [False] * 85, 25)
    command = [sys.executable, "-c", BLOCKED, "student", "pain.mp4"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "4"
    table = pd.read_parquet(tmp_path / "answers.parquet")
    assert table["prediction"].isna().tolist() == [False, False, False, True]
    assert "no face found" in (tmp_path / "answers.svg").read_text(encoding="utf-8")
