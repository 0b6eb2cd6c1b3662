from __future__ import annotations

import shutil
import struct
from fractions import Fraction
from itertools import chain, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pkdray.data.media.video import Frame, frame_times, probe, read_frames, window
from pkdray.errors import DatasetError

SLOWER = {"codec_options": {"bf": "2", "b_strategy": "0"}}
CONTAINERS = {
    "mp4": {},
    "mov": {},
    "mkv": {},
    "avi": SLOWER,
    "ts": SLOWER,
    "flv": {},
    "webm": {"codec": "libvpx"},
    "h264": {},
    "mpeg4.avi": {"codec": "mpeg4", **SLOWER},
    "mjpeg.avi": {"codec": "mjpeg"},
    "fragments.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
}


def times(frames):
    return [frame.time_s for frame in frames]


@pytest.fixture
def clip(make_video, numbered):
    """``clip(name, count=37, ...)``: frame k shows the number k."""
    return lambda name="clip.mp4", count=37, **how: make_video(name, [numbered(k) for k in range(count)], **how)


class TestTimes:
    @pytest.mark.parametrize("kind", CONTAINERS)
    def test_every_frame_at_its_time_whatever_the_container(self, clip, number_of, kind):
        frames = list(read_frames(clip(f"clip.{kind}", **CONTAINERS[kind])))
        assert [number_of(frame.image) for frame in frames] == list(range(37))
        # The clock of MPEG-TS has 90 kHz, and that of FLV and MKV 1 kHz: 25 Hz fits all of them.
        np.testing.assert_allclose(times(frames), np.arange(37) / 25, atol=1e-6)

    @pytest.mark.parametrize("kind", ["mp4", "mkv", "h264"])
    @pytest.mark.parametrize("rate", [30, Fraction(30000, 1001), 50])
    def test_other_rates(self, clip, kind, rate):
        path = clip(f"clip.{kind}", rate_hz=rate)
        np.testing.assert_allclose(times(read_frames(path)), np.arange(37) / float(rate), atol=6e-4)
        if kind != "h264":
            assert probe(path).rate_hz == pytest.approx(float(rate), rel=1e-3)

    def test_images_are_rgb_of_their_own(self, clip, numbered):
        first, second = list(read_frames(clip(count=2)))
        assert first.image.dtype == np.uint8
        assert first.image.flags.c_contiguous
        assert np.abs(first.image.astype(int) - numbered(0)).mean() < 6
        assert first.image[40, 8, 0] > 150 > first.image[40, 8, 2]
        before = second.image.copy()
        first.image[:] = 0
        assert (second.image == before).all()

    def test_variable_frame_rate(self, clip, number_of):
        shown = [0.0, 0.04, 0.2, 0.233, 1.0, 1.04, 1.5]
        path = clip(count=7, times_s=shown, codec_options={"bf": "0"})
        frames = list(read_frames(path))
        np.testing.assert_allclose(times(frames), shown, atol=1e-4)
        grid = list(read_frames(path, rate_hz=10, end_s=1.3))
        assert times(grid) == [k / 10 for k in range(13)]
        assert [number_of(frame.image) for frame in grid] == [0, 1, 2, 3, 3, 3, 3, 3, 3, 3, 4, 5, 5]

    def test_a_picture_that_starts_after_the_sound(self, make_video, numbered):
        path = make_video(
            "late.mp4",
            [numbered(k) for k in range(11)],
            times_s=[0.52 + k / 25 for k in range(11)],
            audio_hz=16_000,
        )
        found = times(read_frames(path))
        np.testing.assert_allclose(found, 0.52 + np.arange(11) / 25, atol=2e-3)
        # No frame has been shown before 0.52 s.
        assert times(read_frames(path, rate_hz=10))[0] == 0.6


class TestWindow:
    def test_the_authors_crop_of_biovid(self, clip, number_of):
        frames = list(read_frames(clip(count=137), start_s=2.0, end_s=5.0))
        assert [number_of(frame.image) for frame in frames] == list(range(50, 125))
        assert (frames[0].time_s, frames[-1].time_s) == (2.0, 4.96)

    @given(st.lists(st.integers(0, 60), min_size=2, max_size=5, unique=True))
    def test_windows_in_a_row_split_the_video(self, edges):
        frames = [Frame(k * 0.1, np.zeros((1, 1, 3), np.uint8)) for k in range(57)]
        edges = sorted(edges)
        parts = [times(window(frames, begin * 0.1, end * 0.1)) for begin, end in pairwise(edges)]
        assert list(chain(*parts)) == [frame.time_s for k, frame in enumerate(frames) if edges[0] <= k < edges[-1]]

    def test_nothing_is_taken_after_the_end(self):
        def frames():
            for k in range(4):
                yield Frame(float(k), np.zeros((1, 1, 3), np.uint8))
            raise AssertionError("one too many")

        assert times(window(frames(), 1.0, 3.0)) == [1.0, 2.0]

    def test_a_video_that_ends_earlier_just_has_fewer_frames(self, clip):
        assert len(list(read_frames(clip(), start_s=1.0, end_s=5.0))) == 12
        assert list(read_frames(clip(), start_s=3.0)) == []

    @pytest.mark.parametrize(
        ("wrong", "word"),
        [
            ({"start_s": -1.0}, "start_s is -1.0"),
            ({"start_s": float("nan")}, "start_s is nan"),
            ({"start_s": 2.0, "end_s": 2.0}, "end_s is 2.0"),
            ({"rate_hz": 0.0}, "rate_hz is 0.0"),
            ({"size": (0, 3)}, "size is"),
        ],
    )
    def test_arguments_are_checked_at_the_call(self, wrong, word):
        with pytest.raises(ValueError, match=word):
            read_frames("missing.mp4", **wrong)


class TestGrid:
    @pytest.mark.parametrize("kind", CONTAINERS)
    def test_the_own_rate_changes_nothing(self, clip, number_of, kind):
        frames = list(read_frames(clip(f"clip.{kind}", **CONTAINERS[kind]), rate_hz=25))
        assert [number_of(frame.image) for frame in frames] == list(range(37))
        assert times(frames) == [k / 25 for k in range(37)]

    def test_rounded_times_are_on_the_grid(self, clip, number_of):
        # 0.033, 0.067, 0.100 in MKV: without slack every third frame would be there twice.
        frames = list(read_frames(clip("clip.mkv", count=61, rate_hz=30), rate_hz=30))
        assert [number_of(frame.image) for frame in frames] == list(range(61))

    @pytest.mark.parametrize("rate", [7.0, 12.5, 24.0, 60.0])
    def test_every_point_shows_the_latest_frame_until_then(self, clip, number_of, rate):
        frames = list(read_frames(clip(), rate_hz=rate, start_s=0.1))
        assert len(frames) == np.ceil((37 / 25 - 0.1) * rate - 1e-9)
        np.testing.assert_allclose(times(frames), 0.1 + np.arange(len(frames)) / rate)
        for frame in frames:
            assert number_of(frame.image) == int(frame.time_s * 25 + 1e-2)
        assert len({id(frame.image) for frame in frames}) == len(frames)


class TestPicture:
    def test_size(self, clip, numbered, number_of):
        path = clip()
        frames = list(read_frames(path, size=(31, 77)))
        assert {frame.image.shape for frame in frames} == {(31, 77, 3)}
        assert [number_of(frame.image) for frame in frames] == list(range(37))

    @pytest.mark.parametrize(
        ("rotation", "hflip", "upright"),
        [
            (0, False, lambda image: image),
            (90, False, np.rot90),
            (180, False, lambda image: np.rot90(image, 2)),
            (-90, False, lambda image: np.rot90(image, -1)),
            (0, True, lambda image: image[:, ::-1]),
        ],
    )
    def test_a_phones_rotation_is_undone(self, make_video, numbered, rotation, hflip, upright):
        path = make_video("phone.mp4", [numbered(5)] * 3, rotation=rotation, hflip=hflip)
        wanted = upright(numbered(5))
        info = probe(path)
        assert (info.height, info.width) == wanted.shape[:2]
        image = next(read_frames(path)).image
        assert image.shape == wanted.shape
        assert np.abs(image.astype(int) - wanted).mean() < 6
        assert next(read_frames(path, size=(30, 50))).image.shape == (30, 50, 3)

    def test_the_matrix_that_iphones_write(self, make_video, numbered):
        # Held upright, an iPhone stores a = 0, b = 1, c = -1, d = 0: turn clockwise to see it. Written by hand here,
        # so that the sense does not rest on the library that reads it.
        path = make_video("phone.mov", [numbered(5)] * 3)
        content = bytearray(path.read_bytes())
        place = content.index(b"tkhd") + 4 + 40
        assert struct.unpack(">9i", content[place : place + 36])[0] == 1 << 16
        content[place : place + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 62 << 16, 0, 1 << 30)
        path.write_bytes(content)
        image = next(read_frames(path)).image
        assert np.abs(image.astype(int) - np.rot90(numbered(5), -1)).mean() < 6


class TestProbe:
    def test_what_the_header_says(self, clip):
        info = probe(clip())
        assert (info.width, info.height, info.rate_hz, info.frames) == (98, 62, 25.0, 37)
        assert info.duration_s == pytest.approx(1.48)

    def test_what_it_does_not_say(self, clip):
        assert probe(clip("clip.mkv")).frames is None
        raw = probe(clip("clip.h264", rate_hz=30))
        assert (raw.rate_hz, raw.duration_s, raw.frames) == (30.0, None, None)

    @pytest.mark.parametrize("suffix", [".avi", ".txt", ""])
    def test_the_content_counts_not_the_suffix(self, clip, tmp_path, suffix):
        path = shutil.copy(clip(), tmp_path / f"other{suffix}")
        assert probe(path).frames == 37
        assert len(list(read_frames(path))) == 37

    def test_a_name_that_looks_like_a_protocol(self, clip, tmp_path, monkeypatch):
        shutil.copy(clip(), tmp_path / "concat:1.mp4")
        monkeypatch.chdir(tmp_path)
        assert probe("concat:1.mp4").frames == 37


class TestBroken:
    """Whoever reads a broken video must hear of it: an error, never a shorter video."""

    @staticmethod
    def outcome(path):
        frames = []
        try:
            for frame in read_frames(path):
                frames.append(frame)
        except DatasetError as error:
            return frames, error
        return frames, None

    @pytest.mark.parametrize(
        ("kind", "how"),
        [
            ("mp4", {}),
            ("mp4", {"container_options": {"movflags": "faststart"}}),
            ("mkv", {}),
            ("webm", {"codec": "libvpx"}),
            ("avi", {"codec": "mjpeg"}),
            ("avi", {"codec": "mpeg4"}),
        ],
    )
    def test_truncated_anywhere(self, clip, number_of, kind, how):
        path = clip(f"clip.{kind}", **how)
        whole = path.read_bytes()
        cuts = {1, 7, 8, 13, 40, *np.linspace(50, len(whole) - 1, 41).astype(int), len(whole) - 100}
        # The length that an AVI says need not be exact; what comes last is an index.
        tail = 64 if kind == "avi" else 0
        told = 0
        for cut in sorted(cuts):
            path.write_bytes(whole[:cut])
            frames, error = self.outcome(path)
            if error is None:
                assert cut >= len(whole) - tail
                assert len(frames) == 37
            else:
                assert str(path) in error.what
                assert error.cure
                told += f"; {len(frames)} frames could be read" in error.what
            # What is handed out before is right, though B-frames just before the cut may be missing.
            for frame in frames[:-1]:
                assert number_of(frame.image) == round(frame.time_s * 25)
        # In an MP4 with the header at its end there is nothing to read.
        assert told > 10 or (kind == "mp4" and not how)

    @pytest.mark.parametrize("kind", ["h264", "ts"])
    @pytest.mark.parametrize("whole", [2, 4, 6])
    def test_a_cut_within_a_frame(self, make_video, kind, whole):
        # Neither says how long it is: only the decoder notices, and with several threads not always.
        import av

        rng = np.random.default_rng(3)
        images = rng.integers(0, 256, (7, 62, 98, 3), dtype=np.uint8)
        path = make_video(f"clip.{kind}", images, codec_options={"bf": "0"})
        with av.open(str(path)) as container:
            packets = [packet for packet in container.demux(video=0) if packet.size]
        # Raw H.264 is its packets, one behind the other.
        start = packets[whole].pos if kind == "ts" else sum(packet.size for packet in packets[:whole])
        cut = start + packets[whole].size // 2
        path.write_bytes(path.read_bytes()[:cut])
        with pytest.raises(DatasetError, match=rf"a frame cannot be decoded; {whole} frames could be read"):
            list(read_frames(path))

    def test_time_that_runs_backwards(self, clip, tmp_path):
        import av

        path = tmp_path / "jumbled.mkv"
        with av.open(str(clip("clip.mkv", codec="mjpeg"))) as source, av.open(str(path), "w") as output:
            stream = output.add_stream_from_template(source.streams.video[0])
            for k, packet in enumerate(source.demux(video=0)):
                if packet.dts is not None:
                    packet.stream, packet.dts = stream, k
                    packet.pts = 400 if k == 20 else packet.pts
                    output.mux(packet)
        with pytest.raises(DatasetError, match=r"from 0\.760 s to 0\.400 s; 20 frames could be read"):
            list(read_frames(path))

    def test_a_damaged_table_of_times(self, clip):
        # Every frame lasts 8,000 s: on a grid, that would be 200,000 times each.
        path = clip(codec_options={"bf": "0"})
        content = bytearray(path.read_bytes())
        place = content.index(b"stts") + 12
        count, ticks = struct.unpack(">2i", content[place : place + 8])
        assert count == 37
        content[place : place + 8] = struct.pack(">2i", count, ticks * 200_000)
        path.write_bytes(content)
        with pytest.raises(DatasetError, match=r"stands still from 0\.00 s to 8000\.00 s"):
            next(read_frames(path, rate_hz=25))

    @pytest.mark.parametrize("where", np.linspace(0.1, 0.8, 9))
    def test_a_duration_that_is_not_reached(self, clip, where):
        # FLV does not say how many bytes it has.
        path = clip("clip.flv")
        content = path.read_bytes()
        path.write_bytes(content[: int(where * len(content))])
        with pytest.raises(DatasetError, match=r"frames could be read|cannot be opened"):
            list(read_frames(path))

    @pytest.mark.parametrize("kind", ["mp4", "mkv", "avi", "mjpeg.avi"])
    @pytest.mark.parametrize("where", [0.3, 0.6])
    def test_a_hole_in_the_middle(self, make_video, kind, where):
        # A lost sector. Noise, so that the hole is in pictures and not between them.
        rng = np.random.default_rng(3)
        images = rng.integers(0, 256, (37, 62, 98, 3), dtype=np.uint8)
        path = make_video(f"clip.{kind}", images, **CONTAINERS[kind])
        content = bytearray(path.read_bytes())
        assert len(content) > 40_000
        hole = int(where * len(content))
        content[hole : hole + 4096] = bytes(4096)
        path.write_bytes(content)
        frames, error = self.outcome(path)
        assert error is not None
        assert len(frames) < 37
        assert f"{len(frames)} frames could be read, the last at" in error.what

    def test_the_message(self, clip):
        path = clip(container_options={"movflags": "faststart"})
        path.write_bytes(path.read_bytes()[:-300])
        _, error = self.outcome(path)
        assert error.what.startswith(f"{path} is truncated or damaged: a frame's data is incomplete; ")
        assert error.what.endswith(" s of the declared 37 frames and 1.48 s.")

    def test_windows_of_a_truncated_file_are_refused_too(self, clip):
        path = clip(container_options={"movflags": "faststart"}, count=137)
        content = path.read_bytes()
        path.write_bytes(content[:-40])
        with pytest.raises(DatasetError, match=r"40 bytes shorter than it says it is; .* frames could be read"):
            list(read_frames(path, start_s=0.4, end_s=2.0))

    def test_a_window_before_other_damage_is_whole(self, make_video):
        rng = np.random.default_rng(3)
        path = make_video("clip.mp4", rng.integers(0, 256, (37, 62, 98, 3), dtype=np.uint8))
        content = bytearray(path.read_bytes())
        hole = int(0.8 * len(content))
        content[hole : hole + 4096] = bytes(4096)
        path.write_bytes(content)
        assert len(list(read_frames(path, end_s=0.4))) == 10
        with pytest.raises(DatasetError, match="frames could be read"):
            list(read_frames(path))

    def test_a_sound_track_that_is_longer_is_no_damage(self, clip):
        for kind in ("mp4", "mkv"):
            assert len(list(read_frames(clip(f"clip.{kind}", audio_hz=16_000, audio_s=4.0)))) == 37

    def test_a_copy_trimmed_without_encoding_is_whole(self, clip, tmp_path):
        import av

        trimmed = tmp_path / "trimmed.mp4"
        with av.open(str(clip())) as source, av.open(str(trimmed), "w") as output:
            stream = output.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    packet.pts, packet.dts, packet.stream = packet.pts - 6144, packet.dts - 6144, stream
                    output.mux(packet)
        # 0.48 s, 12 frames, are before the beginning.
        assert times(read_frames(trimmed)) == pytest.approx(np.arange(25) / 25)

    @pytest.mark.parametrize(
        ("name", "content", "word"),
        [
            ("zero.mp4", b"", r"empty \(0 bytes\)"),
            ("text.mp4", b"not a video\n" * 99, "cannot be opened, so none"),
            ("text.txt", b"not a video\n" * 99, "is no video, but tty"),
            ("noise.avi", bytes(range(256)) * 50, "cannot be opened"),
            ("list.mp4", b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:2.0,\nclip.ts\n", "cannot be opened"),
        ],
    )
    def test_no_video(self, tmp_path, name, content, word):
        (tmp_path / name).write_bytes(content)
        for read in (probe, lambda path: list(read_frames(path))):
            with pytest.raises(DatasetError, match=word) as error:
                read(tmp_path / name)
            assert error.value.cure

    def test_neither_a_file_nor_there(self, tmp_path):
        with pytest.raises(DatasetError, match="is a folder"):
            probe(tmp_path)
        with pytest.raises(DatasetError, match="does not exist"):
            probe(tmp_path / "missing.mp4")

    def test_sound_alone_and_a_photograph(self, make_video, numbered, tmp_path):
        import av
        from PIL import Image

        with av.open(str(tmp_path / "sound.mp4"), "w") as output:
            sound = output.add_stream("aac", rate=16_000)
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.float32), format="fltp", layout="mono")
            frame.rate = 16_000
            output.mux(sound.encode(frame))
            output.mux(sound.encode())
        with pytest.raises(DatasetError, match="no video stream, only audio"):
            probe(tmp_path / "sound.mp4")
        Image.fromarray(numbered(3)).save(tmp_path / "photo.jpg")
        shutil.copy(tmp_path / "photo.jpg", tmp_path / "photo.mp4")
        for name in ("photo.jpg", "photo.mp4"):
            with pytest.raises(DatasetError, match="is no video, but"):
                list(read_frames(tmp_path / name))


def test_the_times_of_all_frames_and_the_end_are_told_without_images(make_video, numbered, tmp_path) -> None:
    times = [0.0, 0.04, 0.08, 0.2, 0.24]
    path = make_video("uneven.mp4", [numbered(k) for k in range(5)], times_s=times)
    found, end_s = frame_times(path)
    np.testing.assert_allclose(found, [frame.time_s for frame in read_frames(path)])
    np.testing.assert_allclose(found, times, atol=1e-3)
    assert end_s > 0.24
    steady = make_video("steady.mp4", [numbered(k) for k in range(31)], rate_hz=25)
    assert frame_times(steady)[1] == pytest.approx(31 / 25, abs=1e-3)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(steady.read_bytes()[:-300])
    with pytest.raises(DatasetError, match=r"truncated|damaged"):
        frame_times(cut)
