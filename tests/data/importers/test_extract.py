"""One recording becomes the arrays of one sample, whatever was read before it; what cannot be read is said."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import media_writers as writers
import numpy as np
import pytest
import replicas
from PIL import Image

from pkdray.data.importers import affwild2, biovid, recola
from pkdray.data.importers import extract as module
from pkdray.data.importers.extract import MODALITIES, Extracted, MediaOptions, Sources, described, extract, in_order
from pkdray.data.importers.recordings import Recording, Scan
from pkdray.data.media import audio, biosignals, spectrogram
from pkdray.data.media.video import Frame
from pkdray.errors import DatasetError

PEOPLE = ("train_1", "train_2", "dev_1")


@pytest.fixture(scope="module")
def biovid_scan(tmp_path_factory: pytest.TempPathFactory) -> Scan:
    root = tmp_path_factory.mktemp("biovid")
    replicas.write_biovid_replica(
        root, subjects=replicas.BIOVID_SUBJECTS[:2], levels=("BL1", "PA4"), each=1, make_video=writers.make_video
    )
    return biovid.scan(root)


@pytest.fixture(scope="module")
def affwild2_scan(tmp_path_factory: pytest.TempPathFactory) -> Scan:
    root = tmp_path_factory.mktemp("affwild2")
    videos = [
        replicas.AffVideo("video1", "Train_Set", 97, faceless=(3, 4, 5, 36)),
        replicas.AffVideo("video9", "Train_Set", 23, batch="batch2", suffix=".avi"),
        replicas.AffVideo("video5_left", "Validation_Set", 64, faceless=tuple(range(1, 33)), more_frames=-5),
    ]
    replicas.write_affwild2_replica(
        root, videos=videos, make_video=writers.make_sounding_video, make_image=writers.make_image
    )
    return affwild2.scan(root)


@pytest.fixture(scope="module")
def recola_scan(tmp_path_factory: pytest.TempPathFactory) -> Scan:
    root = tmp_path_factory.mktemp("recola")
    replicas.write_recola_replica(
        root, people=PEOPLE, rows=81, make_video=writers.make_video, make_audio=writers.make_audio
    )
    return recola.scan(root, modalities=("video", "audio", "biosignals"))


def one_of(scan: Scan, sample_id: str) -> Recording:
    return next(one for one in scan.recordings if one.sample_id == sample_id)


def made(name: str, one: Recording, **options: Any) -> Extracted:
    options = {"modalities": MODALITIES[name], "every": 25, **options}
    chosen = MediaOptions(**options)
    result = extract(name, one, chosen, Sources(chosen))
    for modality, about in described(name, chosen).items():
        values = result.arrays[modality]
        assert values.shape == about.shape, modality
        assert values.dtype == about.dtype, modality
    return result


def with_source(one: Recording, **sources: Path) -> Recording:
    return replace(one, sources={**one.sources, **sources})


class TestBioVid:
    def test_three_seconds_have_75_faces_and_spectrograms_of_the_same_seconds(self, biovid_scan: Scan) -> None:
        one = biovid_scan.recordings[1]
        result = made("biovid", one, size=97)
        assert result.report == {"frames": 75, "faces": 75, "retained": 0}
        assert result.arrays["face"].std(axis=(1, 2, 3)).min() > 20
        signals = biosignals.read_biovid_csv(one.sources["biosignals"])
        for name, channel in (("emg", "emg_trapezius"), ("ecg", "ecg"), ("gsr", "gsr")):
            wanted = spectrogram.biovid_spectrogram(signals.channels[channel][1024:2560]).values.T
            np.testing.assert_array_equal(result.arrays[name], wanted)

    def test_waveforms_are_the_values_of_the_file(self, biovid_scan: Scan) -> None:
        one = biovid_scan.recordings[0]
        result = made("biovid", one, modalities=("gsr",), biosignals="waveform")
        signals = biosignals.read_biovid_csv(one.sources["biosignals"])
        np.testing.assert_array_equal(result.arrays["gsr"][:, 0], signals.channels["gsr"][1024:2560].astype(np.float32))

    def test_raw_signals_are_filtered_before_they_are_cut(self, biovid_scan: Scan) -> None:
        one = biovid_scan.recordings[0]
        result = made("biovid", one, modalities=("ecg",), biosignals="waveform", unfiltered=True)
        signals = biosignals.read_biovid_csv(one.sources["biosignals"])
        wanted = biosignals.clean(signals.channels["ecg"], 512, biosignals.ECG)[1024:2560]
        np.testing.assert_allclose(result.arrays["ecg"][:, 0], wanted, atol=1e-6)

    def test_a_video_of_another_rate_is_put_on_the_grid(self, biovid_scan: Scan, tmp_path: Path) -> None:
        path = tmp_path / "thirty.mp4"
        writers.make_video(path, seconds=5.5, rate=30, level=0.5)
        result = made("biovid", with_source(biovid_scan.recordings[0], video=path), modalities=("face",))
        assert result.report["faces"] == 75

    def test_a_video_that_ends_two_frames_early_is_filled_and_counted(self, biovid_scan: Scan, tmp_path: Path) -> None:
        path = tmp_path / "short.mp4"
        writers.make_video(path, seconds=123 / 25, rate=25, level=0.5)
        result = made("biovid", with_source(biovid_scan.recordings[0], video=path), modalities=("face",))
        assert result.report == {"frames": 75, "faces": 73, "retained": 2, "clamped frames": 2}
        np.testing.assert_array_equal(result.arrays["face"][73:], result.arrays["face"][[72, 72]])

    def test_a_video_that_ends_much_too_early_is_refused(self, biovid_scan: Scan, tmp_path: Path) -> None:
        path = tmp_path / "short.mp4"
        writers.make_video(path, seconds=4.0, rate=25, level=0.5)
        with pytest.raises(DatasetError, match="has 50 of the sample's 75 frames: it ends too early"):
            made("biovid", with_source(biovid_scan.recordings[0], video=path), modalities=("face",))

    def test_a_truncated_video_is_refused(self, biovid_scan: Scan, tmp_path: Path) -> None:
        one = biovid_scan.recordings[0]
        path = tmp_path / "cut.mp4"
        path.write_bytes(one.sources["video"].read_bytes()[:-900])
        with pytest.raises(DatasetError, match=r"truncated|damaged"):
            made("biovid", with_source(one, video=path), modalities=("face",))

    def test_a_clip_without_a_face_is_refused_or_black_as_asked(self, biovid_scan: Scan, tmp_path: Path) -> None:
        path = tmp_path / "empty.mp4"
        writers.make_video(path, seconds=5.5, rate=25, level=0.5, face=False)
        one = with_source(biovid_scan.recordings[0], video=path)
        with pytest.raises(DatasetError, match=r"No face was found in any of the 75 frames of .*empty.mp4"):
            made("biovid", one, modalities=("face",))
        result = made("biovid", one, modalities=("face",), gaps="black")
        assert not result.arrays["face"].any()
        assert result.report == {"frames": 75, "faces": 0, "retained": 75}

    def test_a_dead_channel_is_refused(self, biovid_scan: Scan) -> None:
        with pytest.raises(DatasetError, match=r"Channel emg_corrugator is dead in .*_bio.csv: all 2815 values are 0"):
            made("biovid", biovid_scan.recordings[0], modalities=("emg",), emg="emg_corrugator")

    def test_part_c_is_cut_out_of_one_long_video(self, tmp_path: Path) -> None:
        subject = replicas.BIOVID_SUBJECTS[0]
        runs = ((0, 6.0), (4, 4.0), (0, 9.0))
        replicas.write_biovid_part_c_replica(tmp_path, subjects=[subject], runs=runs, make_video=writers.make_video)
        scan = biovid.scan(tmp_path, part="C")
        options = MediaOptions(("face", "ecg"), every=25, biosignals="waveform")
        sources = Sources(options)
        signals = biosignals.read_biovid_csv(scan.recordings[0].sources["biosignals"], rows=None)
        assert len(scan.recordings) == 3
        for one in in_order(scan.recordings):
            result = extract("biovid", one, options, sources)
            assert result.report["faces"] == 75
            assert one.start_s is not None
            first = round(one.start_s * 512)
            wanted = signals.channels["ecg"][first : first + 1536]
            np.testing.assert_array_equal(result.arrays["ecg"][:, 0], wanted.astype(np.float32))

    def test_pre_cut_images_are_taken_as_they_are_and_gaps_retained(self, tmp_path: Path) -> None:
        subjects = replicas.BIOVID_SUBJECTS[:1]
        names = replicas.write_biovid_precut_replica(tmp_path, subjects=subjects, each=1, make_image=writers.make_image)
        folder = tmp_path / "0" / names[0]
        (folder / "img_00007.jpg").unlink()
        one = one_of(biovid.scan(tmp_path), names[0])
        result = made("biovid", one, emg="emg_corrugator")
        assert result.report == {"frames": 75, "faces": 74, "retained": 1}
        with Image.open(folder / "img_00075.jpg") as image:
            np.testing.assert_array_equal(result.arrays["face"][74], np.array(image))

    def test_pre_cut_images_of_a_whole_clip_are_cropped_to_the_window(self, tmp_path: Path) -> None:
        names = replicas.write_biovid_precut_replica(
            tmp_path, subjects=replicas.BIOVID_SUBJECTS[:1], each=1, images=137, span=(1, 137)
        )
        for number in range(1, 138):
            Image.new("RGB", (112, 112), (number, number, number)).save(
                tmp_path / "0" / names[0] / f"img_{number:05d}.jpg", quality=95
            )
        result = made("biovid", one_of(biovid.scan(tmp_path), names[0]), modalities=("face",))
        seen = result.arrays["face"].mean(axis=(1, 2, 3))
        # Image 51 is the frame at 2.0 s.
        np.testing.assert_allclose(seen, np.arange(51, 126), atol=1)
        # Without the first two images it still is.
        for number in (1, 2):
            (tmp_path / "0" / names[0] / f"img_{number:05d}.jpg").unlink()
        result = made("biovid", one_of(biovid.scan(tmp_path), names[0]), modalities=("face",))
        np.testing.assert_allclose(result.arrays["face"].mean(axis=(1, 2, 3)), seen)


class TestAffWild2:
    def test_a_clip_has_every_fourth_face(self, affwild2_scan: Scan) -> None:
        one = one_of(affwild2_scan, "video1-00064")
        result = made("affwild2", one)
        assert result.report == {"frames": 8, "faces": 7, "retained": 1}
        # The first frame, 36, has no face: the next one stands in.
        for index, number in ((0, 40), (1, 40), (2, 44), (7, 64)):
            with Image.open(one.sources["faces"] / f"{number:05d}.jpg") as image:
                np.testing.assert_array_equal(result.arrays["face"][index], np.array(image.convert("RGB")))

    def test_the_voice_is_that_of_the_32_frames(self, affwild2_scan: Scan) -> None:
        one = one_of(affwild2_scan, "video1-00064")
        result = made("affwild2", one, modalities=("voice",))
        sound, rate = audio.read_audio(one.sources["audio"], start_s=32 / 30, end_s=64 / 30)
        wanted = spectrogram.log_mel(sound, spectrogram.AFFWILD2, rate_hz=rate)
        np.testing.assert_allclose(result.arrays["voice"], wanted.T, atol=1e-5)

    def test_the_clip_of_a_short_video_is_padded_in_front(self, affwild2_scan: Scan) -> None:
        result = made("affwild2", one_of(affwild2_scan, "video9-00023"))
        assert result.report == {"frames": 6, "faces": 6, "retained": 0}, "frames 3, 7, ... 23"
        np.testing.assert_array_equal(result.arrays["face"][0], result.arrays["face"][2])
        padded = 107 - (1 + round(23 / 30 * 44_100) // 441)
        assert padded > 20
        assert not result.arrays["voice"][:padded].any()
        assert result.arrays["voice"][padded:].any(axis=1).all()

    def test_a_sound_that_ends_early_is_clamped_and_counted(self, affwild2_scan: Scan) -> None:
        result = made("affwild2", one_of(affwild2_scan, "video5_left-00064"), modalities=("voice",))
        # Five frames of thirty a second, but for the padding that AAC adds at the end.
        assert 0.1 < result.report["clamped sound (s)"] <= 5 / 30 + 0.001

    def test_a_clip_without_a_face_is_refused(self, affwild2_scan: Scan) -> None:
        with pytest.raises(DatasetError, match="No face was found in any of the 8 frames of video5_left-00032"):
            made("affwild2", one_of(affwild2_scan, "video5_left-00032"))

    def test_a_window_takes_a_face_from_the_clip_before_or_behind(self, affwild2_scan: Scan) -> None:
        root = affwild2_scan.recordings[0].sources["faces"].parents[1]
        one = one_of(affwild2.scan(root, window=3), "video5_left-w000")
        result = made("affwild2", one, window=3)
        assert result.arrays["face"].shape == (3, 8, 112, 112, 3)
        # Frames 1 to 32 have no face, and this clip is there twice: each picture counts once.
        assert [result.report[one] for one in ("frames", "faces", "retained")] == [16, 8, 8]
        for clip in (0, 1):
            for frame in range(8):
                np.testing.assert_array_equal(result.arrays["face"][clip, frame], result.arrays["face"][2, 0])
        np.testing.assert_array_equal(result.arrays["voice"][0], result.arrays["voice"][1])
        assert np.abs(result.arrays["voice"][1] - result.arrays["voice"][2]).max() > 0.1

    def test_a_clip_of_a_window_may_be_without_sound_but_not_all_of_them(
        self, affwild2_scan: Scan, tmp_path: Path
    ) -> None:
        root = affwild2_scan.recordings[0].sources["faces"].parents[1]
        one = one_of(affwild2.scan(root, window=3), "video1-w000")
        path = tmp_path / "short.mp4"
        writers.make_sounding_video(path, seconds=1.5, rate=30, level=0.5)
        result = made("affwild2", with_source(one, audio=path), modalities=("voice",), window=3)
        # 96 frames are 3.2 s. In the last clip there is no sound at all.
        assert result.report["clamped sound (s)"] == pytest.approx(1.7, abs=0.05)
        whole = made("affwild2", one, modalities=("voice",), window=3)
        np.testing.assert_allclose(result.arrays["voice"][0], whole.arrays["voice"][0], atol=0.05)
        assert np.isfinite(result.arrays["voice"]).all()
        assert np.ptp(result.arrays["voice"][2]) == 0
        late = replace(one, extra={**one.extra, "last_frames": np.array([96, 96, 97])})
        with pytest.raises(DatasetError, match=r"before video1-w000 \(2.13 to 3.23 s\)"):
            made("affwild2", with_source(late, audio=path), modalities=("voice",), window=3)

    def test_a_truncated_picture_is_refused(self, affwild2_scan: Scan, tmp_path: Path) -> None:
        one = one_of(affwild2_scan, "video1-00064")
        for number in range(33, 65):
            path = one.sources["faces"] / f"{number:05d}.jpg"
            content = path.read_bytes() if path.exists() else b""
            (tmp_path / path.name).write_bytes(content[: 700 if number == 48 else None])
        with pytest.raises(DatasetError, match=r"00048.jpg cannot be read"):
            made("affwild2", with_source(one, faces=tmp_path))

    def test_a_file_without_sound_is_opened_once_for_all_its_clips(
        self, affwild2_scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "mute.mp4"
        writers.make_video(path, seconds=4, rate=30, level=0.5)
        opened = []
        read = audio.read_audio
        monkeypatch.setattr(audio, "read_audio", lambda *a, **k: opened.append(a) or read(*a, **k))
        options = MediaOptions(("voice",))
        sources = Sources(options)
        for one in affwild2_scan.recordings[:3]:
            with pytest.raises(DatasetError, match=r"mute.mp4 has no audio track, only video"):
                extract("affwild2", with_source(one, audio=path), options, sources)
        assert len(opened) == 1


class TestRecola:
    def test_a_second_has_a_row_a_label(self, recola_scan: Scan) -> None:
        one = one_of(recola_scan, "train_2-001")
        result = made("recola", one)
        assert result.report == {"frames": 25, "faces": 25, "retained": 0}
        sound, rate = audio.read_audio(one.sources["audio"], rate_hz=16_000, start_s=1, end_s=2)
        mel = spectrogram.log_mel(sound, spectrogram.RECOLA, rate_hz=rate)
        rows = made("recola", one, modalities=("voice",), voice="frames").arrays["voice"]
        for label in (0, 7, 24):
            wanted = mel[:, 4 * label : 4 * label + 4].T.ravel()
            np.testing.assert_allclose(rows[label], wanted, atol=1e-4)
        assert result.arrays["voice"].shape == (100, 64, 1)
        np.testing.assert_array_equal(result.arrays["voice"][..., 0].reshape(25, 256), rows)
        signals = biosignals.read_recola_physio(one.sources["biosignals"])
        for name in ("ecg", "eda"):
            wanted = signals.channels[name][250:500].astype(np.float32)
            np.testing.assert_array_equal(result.arrays[name].ravel(), wanted)

    def test_clips_in_order_are_the_same_as_each_by_itself(
        self, recola_scan: Scan, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        options = MediaOptions(MODALITIES["recola"], every=25, size=31)
        sources = Sources(options)
        opened: list[Path] = []
        read = module.video.read_frames

        def counted(path: Path, **about: Any) -> Iterator[Frame]:
            if "end_s" not in about:
                opened.append(path)
            return read(path, **about)

        monkeypatch.setattr(module.video, "read_frames", counted)
        first = recola_scan.recordings[:6]
        together = {one.sample_id: extract("recola", one, options, sources) for one in in_order(first)}
        assert len(opened) == len({one.sources["video"] for one in first})
        for one in reversed(first):
            alone = extract("recola", one, options, Sources(options))
            for name, values in alone.arrays.items():
                np.testing.assert_array_equal(values, together[one.sample_id].arrays[name])

    def test_a_sound_that_ends_much_too_early_is_refused(self, recola_scan: Scan, tmp_path: Path) -> None:
        path = tmp_path / "short.wav"
        writers.make_audio(path, seconds=1.5, rate=16_000, level=0.5)
        one = with_source(one_of(recola_scan, "train_1-001"), audio=path)
        with pytest.raises(DatasetError, match=r"short.wav ends at 1.50 s; the sample needs 1.00 to 2.00 s"):
            made("recola", one, modalities=("voice",))


class TestForward:
    @pytest.fixture
    def path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A video of 10 frames a second whose k-th picture is k everywhere."""

        def frames(path: Path, *, end_s: float | None = None) -> Iterator[Frame]:
            for index in range(33):
                yield Frame(index / 10, np.full((2, 3, 3), index, np.uint8))

        monkeypatch.setattr(module.video, "read_frames", frames)
        return tmp_path / "numbered.mp4"

    def cut(self, forward: Any, start_s: float, count: int, rate_hz: float) -> list[int]:
        return [int(frame.image[0, 0, 0]) for frame in forward.cut(start_s, count, rate_hz)]

    def test_each_moment_shows_the_latest_frame(self, path: Path) -> None:
        forward = module._Forward(path, None)
        assert self.cut(forward, 0.0, 5, 20) == [0, 0, 1, 1, 2]
        assert self.cut(forward, 0.25, 3, 5) == [2, 4, 6]
        assert self.cut(forward, 2.0, 4, 10) == [20, 21, 22, 23]

    def test_it_goes_back_where_it_must(self, path: Path) -> None:
        forward = module._Forward(path, None)
        assert self.cut(forward, 2.0, 2, 10) == [20, 21]
        assert self.cut(forward, 1.0, 2, 10) == [10, 11]

    def test_the_last_frame_lasts_as_long_as_the_one_before(self, path: Path) -> None:
        assert self.cut(module._Forward(path, None), 3.1, 9, 20) == [31, 31, 32, 32]

    def test_a_table_of_times_overrules_the_file(self, path: Path, tmp_path: Path) -> None:
        times = tmp_path / "times.csv"
        times.write_text("frame;time\n" + "".join(f"{k};{0.5 + k / 5:.3f}\n" for k in range(20)))
        forward = module._Forward(path, times)
        assert self.cut(forward, 1.1, 4, 5) == [3, 4, 5, 6]
        assert self.cut(forward, 0.0, 3, 2) == [0, 0, 2]
        assert self.cut(forward, 4.3, 4, 5) == [19]


def test_behind_damage_a_long_video_is_damaged_and_not_short(
    recola_scan: Scan, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = module.video.read_frames

    def damaged(path: Path, **about: Any) -> Iterator[Frame]:
        for frame in read(path, **about):
            if frame.time_s > 1.5:
                raise DatasetError("The video is damaged.", cure="Restore it.")
            yield frame

    monkeypatch.setattr(module.video, "read_frames", damaged)
    options = MediaOptions(("face",), every=25, size=31)
    sources = Sources(options)
    first, *rest = [one for one in recola_scan.recordings if one.subject_id == "train_1"]
    assert extract("recola", first, options, sources).report["faces"] == 25
    assert len(rest) == 2
    for one in rest:
        with pytest.raises(DatasetError, match="The video is damaged"):
            extract("recola", one, options, sources)


def test_options_out_of_their_domain_are_refused() -> None:
    for wrong in (
        {"every": 0},
        {"min_face_size": 3},
        {"gaps": "blue"},
        {"biosignals": "x"},
        {"emg": "ecg"},
        {"window": 0},
    ):
        with pytest.raises(DatasetError, match=next(iter(wrong))):
            MediaOptions(("face",), **wrong)  # type: ignore[arg-type]
    with pytest.raises(DatasetError, match="recola was asked for the modality 'emg'"):
        described("recola", MediaOptions(("face", "emg")))
    with pytest.raises(DatasetError, match="The device 'neither' cannot be used"):
        Sources(MediaOptions(("face",)), "neither")
