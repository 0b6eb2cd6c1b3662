"""Real files, written with PyAV's own encoders; their damaged copies; resampling beside scipy's."""

from __future__ import annotations

import doctest
import wave
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from scipy.signal import firwin, resample_poly

from pkdray.data.media import audio
from pkdray.data.media.audio import read_audio, resample_audio
from pkdray.errors import DatasetError

RATE = 44_100
INTEGERS = {"u8": (np.uint8, 128, 128), "s16": (np.int16, 32768, 0), "s32": (np.int32, 2**31, 0)}


def tones(*frequencies, rate=RATE, seconds=1.3):
    """One tone of half the full scale a channel: [channels, n]."""
    t = np.arange(round(rate * seconds)) / rate
    return np.stack([0.5 * np.sin(2 * np.pi * frequency * t) for frequency in frequencies])


_TIME = np.arange(round(1.3 * RATE)) / RATE
SWEEP = 0.5 * np.sin(2 * np.pi * (300 * _TIME + 800 * _TIME**2))[None]
"""From 300 to 2,400 Hz: unlike a tone, it shows where it is."""


def write(path, samples, *, codec="pcm_s16le", form="s16", rate=RATE, options=None, video=False, first=0, gap=None):
    """Encodes [channels, n]; ``first`` delays the track by so many samples, ``gap`` = (at, length) tears it."""
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[len(samples)]
    planar = form.endswith("p")
    kind = form.removesuffix("p")
    if kind in INTEGERS:
        dtype, scale, offset = INTEGERS[kind]
        data = np.clip(np.round(samples * scale), -scale, scale - 1) + offset
    else:
        dtype, data = {"flt": np.float32, "dbl": np.float64}[kind], samples
    data = data.astype(dtype)
    with av.open(str(path), "w", options=options or {}) as container:
        if video:
            pictures = container.add_stream("mpeg4", rate=25)
            pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
        stream = container.add_stream(codec, rate=rate)
        stream.layout, stream.format = layout, form
        if video:
            for shade in range(int(samples.shape[1] / rate * 25)):
                picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), shade, np.uint8), format="rgb24")
                container.mux(pictures.encode(picture))
            container.mux(pictures.encode(None))
        size = stream.codec_context.frame_size or 1024
        for start in range(0, data.shape[1], size):
            block = data[:, start : start + size]
            block = block if planar else block.T.reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format=form, layout=layout)
            frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
            frame.pts = start + first + (gap[1] if gap and start >= gap[0] else 0)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def loudest(samples, rate):
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return np.argmax(spectrum) * rate / len(samples)


def apart(samples, expected, within=50):
    """The mean difference, where ``expected`` may lie up to about 1 ms off: containers count time in milliseconds.

    The mean, because FFmpeg's AAC encoder crackles once in the sweep.
    """
    inner = expected[within:-within]
    lags = range(2 * within)
    return min(np.abs(samples[lag : lag + len(inner)] - inner).mean() for lag in lags)


def test_doctests():
    assert doctest.testmod(audio).failed == 0


class TestFormats:
    @pytest.mark.parametrize(
        ("name", "codec", "form", "error"),
        [
            ("a.wav", "pcm_u8", "u8", 1 / 128),
            ("a.wav", "pcm_s16le", "s16", 1 / 32768),
            ("a.wav", "pcm_s24le", "s32", 2**-22),
            ("a.wav", "pcm_s32le", "s32", 2**-23),
            ("a.wav", "pcm_f32le", "flt", 1e-7),
            ("a.wav", "pcm_f64le", "dbl", 1e-7),
            ("a.flac", "flac", "s16", 1 / 32768),
            ("a.flac", "flac", "s32", 2**-22),
            ("a.mkv", "pcm_s16le", "s16", 1 / 32768),
            ("a.avi", "pcm_s16le", "s16", 1 / 32768),
        ],
    )
    @pytest.mark.parametrize("channels", [1, 2])
    def test_lossless_formats_give_back_what_went_in(self, tmp_path, name, codec, form, error, channels):
        samples = tones(440, 1000)[:channels]
        read, rate = read_audio(write(tmp_path / name, samples, codec=codec, form=form), mono=False)
        assert rate == RATE
        assert read.dtype == np.float32
        assert read.shape == samples.shape
        assert np.abs(read - samples).max() <= error

    @pytest.mark.parametrize(
        ("name", "codec", "form"),
        [
            ("a.mp3", "libmp3lame", "fltp"),
            ("a.mp3", "libmp3lame", "s16p"),
            ("a.m4a", "aac", "fltp"),
            ("a.mkv", "aac", "fltp"),
            ("a.mp4", "aac", "fltp"),
        ],
    )
    def test_lossy_planar_formats_keep_the_tones_in_their_channels_and_places(self, tmp_path, name, codec, form):
        samples = tones(440, 1000)
        read, rate = read_audio(write(tmp_path / name, samples, codec=codec, form=form), mono=False)
        assert rate == RATE
        # The codec may fill its last frame.
        assert 0 <= read.shape[1] - samples.shape[1] < 1200
        middle = slice(5000, 50_000)
        # Not shifted by the codec's delay of about 1,000 samples either.
        assert np.abs(read[:, middle] - samples[:, middle]).max() < 0.03
        assert [loudest(channel, RATE) for channel in read] == pytest.approx([440, 1000], abs=1)

    @pytest.mark.parametrize(("name", "codec", "form"), [("a.mp4", "aac", "fltp"), ("a.avi", "pcm_s16le", "s16")])
    def test_the_track_of_a_video(self, tmp_path, name, codec, form):
        path = write(tmp_path / name, tones(700), codec=codec, form=form, video=True)
        samples, rate = read_audio(str(path))
        assert samples.ndim == 1
        assert loudest(samples, rate) == pytest.approx(700, abs=1)

    def test_full_scale(self, tmp_path):
        samples = np.array([[-1.0, 1.0, 0.0]])
        read, _ = read_audio(write(tmp_path / "a.wav", samples))
        assert read.tolist() == [-1, 32767 / 32768, 0]

    def test_mono_is_the_mean_of_the_channels(self, tmp_path):
        for name, samples in {"stereo.wav": tones(440, 1000), "surround.wav": tones(*range(200, 800, 100))}.items():
            read, _ = read_audio(write(tmp_path / name, samples, codec="pcm_f32le", form="flt"))
            assert np.allclose(read, samples.mean(axis=0), atol=1e-6)
        one = write(tmp_path / "mono.wav", tones(440))
        assert read_audio(one)[0].shape == read_audio(one, mono=False)[0][0].shape

    def test_a_file_that_python_itself_wrote(self, tmp_path):
        with wave.open(str(tmp_path / "a.wav"), "wb") as file:
            file.setparams((2, 2, 8000, 0, "NONE", ""))
            file.writeframes(np.array([[100, -200], [300, -400], [500, -600]], dtype="<i2").tobytes())
        samples, rate = read_audio(tmp_path / "a.wav", mono=False)
        assert rate == 8000
        assert (samples * 32768).tolist() == [[100, 300, 500], [-200, -400, -600]]

    def test_a_name_like_an_address(self, tmp_path, monkeypatch):
        write(tmp_path / "a.wav", tones(440)).rename(tmp_path / "http:a.wav")
        monkeypatch.chdir(tmp_path)
        assert read_audio("http:a.wav")[0].shape == (57_330,)

    def test_a_title_that_is_not_utf_8(self, tmp_path):
        path = write(tmp_path / "a.wav", tones(440))
        tag = b"LIST" + (18).to_bytes(4, "little") + b"INFOINAM" + (6).to_bytes(4, "little") + b"caf\xe9 \0"
        content = path.read_bytes() + tag
        path.write_bytes(b"RIFF" + (len(content) - 8).to_bytes(4, "little") + content[8:])
        assert read_audio(path)[0].shape == (57_330,)


class TestPlaces:
    """Time zero is the file's, whatever the track does."""

    @pytest.mark.parametrize(
        ("name", "codec", "form"), [("a.mp4", "aac", "fltp"), ("a.mkv", "aac", "fltp"), ("b.mkv", "pcm_s16le", "s16")]
    )
    def test_a_track_that_starts_late_is_preceded_by_silence(self, tmp_path, name, codec, form):
        path = write(tmp_path / name, SWEEP, codec=codec, form=form, video=True, first=22_050)
        samples, _ = read_audio(path)
        begin = 22_050
        # AAC's encoder starts with a frame of its own.
        assert np.abs(samples[: begin - 1100]).max() < 1e-3
        assert apart(samples[begin + 2000 : begin + 40_000], SWEEP[0, 2000:40_000]) < 0.01

    def test_without_pictures_the_track_itself_is_time_zero(self, tmp_path):
        late = write(tmp_path / "a.mkv", SWEEP, first=22_050)
        assert np.array_equal(read_audio(late)[0], read_audio(write(tmp_path / "b.mkv", SWEEP))[0])

    @pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
    def test_a_gap_is_silence_and_what_follows_stays_in_place(self, tmp_path, name):
        path = write(tmp_path / name, SWEEP, codec="aac", form="fltp", gap=(22_528, 11_025))
        samples, _ = read_audio(path)
        assert np.abs(samples[24_000:32_000]).max() < 1e-6
        assert apart(samples[38_000:60_000], SWEEP[0, 26_975:48_975]) < 0.01

    def test_what_lies_before_time_zero_is_cut(self, tmp_path):
        path = write(tmp_path / "a.mp4", SWEEP, codec="aac", form="fltp", video=True, first=-11_025)
        samples, _ = read_audio(path)
        assert apart(samples[2000:40_000], SWEEP[0, 13_025:51_025]) < 0.01

    @pytest.mark.parametrize(
        ("starts", "expected"),
        [
            ([0, 100, 200], [1] * 100 + [2] * 100 + [3] * 100),
            ([0, 101, 199], [1] * 100 + [2] * 100 + [3] * 100),
            ([-30, 70, 170], [1] * 70 + [2] * 100 + [3] * 100),
            ([40, 140, 240], [0] * 40 + [1] * 100 + [2] * 100 + [3] * 100),
            ([0, 60, 160], [1] * 100 + [2] * 60 + [3] * 100),
            ([0, 150, 250], [1] * 100 + [0] * 50 + [2] * 100 + [3] * 100),
            ([0, None, 200], [1] * 100 + [2] * 100 + [3] * 100),
            ([-150, -50, 50], [2] * 50 + [3] * 100),
        ],
    )
    def test_time_stamps_no_muxer_here_would_write(self, starts, expected):
        frames = []
        for value, start in enumerate(starts, start=1):
            frame = av.AudioFrame.from_ndarray(np.full((1, 100), value, np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 1000, start, Fraction(1, 1000)
            frames.append(frame)
        container = SimpleNamespace(start_time=None, duration=10**6, decode=lambda stream: iter(frames))
        stream = SimpleNamespace(codec_context=SimpleNamespace(name="aac"))
        read = np.concatenate(list(audio._blocks(Path("a.ts"), container, stream, 1000)), axis=1)
        assert read[0].tolist() == expected

    def test_a_time_stamp_of_next_year(self):
        frame = av.AudioFrame.from_ndarray(np.ones((1, 100), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 1000, 10**13, Fraction(1, 1000)
        container = SimpleNamespace(start_time=None, duration=10**6, decode=lambda stream: iter([frame]))
        stream = SimpleNamespace(codec_context=SimpleNamespace(name="aac"))
        with pytest.raises(
            DatasetError, match=r"a\.ts is .* after 0\.000 s \(the next time stamp is 10000000000\.000 s\)"
        ):
            list(audio._blocks(Path("a.ts"), container, stream, 1000))


class TestSpan:
    @pytest.mark.parametrize("rate", [None, 16_000, 48_000])
    @pytest.mark.parametrize(
        ("start", "end"), [(0.0, 0.5), (0.3, 0.8), (0.123456, 1.2), (0.25, None), (0.1, 28_672 / RATE)]
    )
    def test_a_cut_is_the_cut_of_the_whole(self, tmp_path, rate, start, end):
        path = write(tmp_path / "a.wav", tones(440, 3000))
        whole, hertz = read_audio(path, rate_hz=rate, mono=False)
        cut, _ = read_audio(path, rate_hz=rate, mono=False, start_s=start, end_s=end)
        first = int(start * hertz + 0.5)
        last = whole.shape[1] if end is None else first + round((end - start) * hertz)
        assert cut.shape == (2, last - first)
        assert np.abs(cut - whole[:, first:last]).max() < 1e-6
        assert cut.flags["C_CONTIGUOUS"]

    @pytest.mark.parametrize("rate", [None, 16_000, 8000])
    def test_clips_tile_a_recording(self, tmp_path, rate):
        path = write(tmp_path / "a.wav", tones(440, seconds=1.5))
        parts = [read_audio(path, rate_hz=rate, start_s=s / 4, end_s=(s + 1) / 4)[0] for s in range(6)]
        assert np.abs(np.concatenate(parts) - read_audio(path, rate_hz=rate)[0]).max() < 1e-6

    def test_a_cut_does_not_read_on(self, tmp_path):
        # The end is damaged, but nobody asked for it.
        path = write(
            tmp_path / "a.m4a", tones(440, seconds=3), codec="aac", form="fltp", options={"movflags": "faststart"}
        )
        content = path.read_bytes()
        path.write_bytes(content[: len(content) * 3 // 4])
        assert read_audio(path, end_s=1.0)[0].shape == (44_100,)
        with pytest.raises(DatasetError, match="truncated"):
            read_audio(path)

    @pytest.mark.parametrize(
        ("span", "what"),
        [
            ({"end_s": 1.5}, r"audio of .*a\.wav lasts 1\.3 s .* too short for the span from 0 to 1\.5 s"),
            ({"start_s": 1.3}, r"a\.wav lasts 1\.3 s, so nothing starts at 1\.3 s"),
            ({"start_s": 5.0, "end_s": 6.0}, r"a\.wav lasts 1\.3 s .* span from 5 to 6 s"),
            ({"start_s": -1.0}, r"span from -1\.0 to None s is none"),
            ({"start_s": 1.0, "end_s": 1.0}, r"span from 1\.0 to 1\.0 s is none"),
            ({"end_s": float("nan")}, "to nan s is none"),
            ({"rate_hz": 0}, "rate is 0 Hz"),
            ({"rate_hz": 16_000.5}, r"rate is 16000\.5 Hz"),
            ({"rate_hz": 44_101}, "ratio of 44101/44100, for which the filter would be too large"),
        ],
    )
    def test_what_cannot_be_asked_for(self, tmp_path, span, what):
        path = write(tmp_path / "a.wav", tones(440))
        with pytest.raises(DatasetError, match=what) as error:
            read_audio(path, **span)
        assert error.value.cure


class TestResample:
    @pytest.mark.parametrize(
        ("old", "new"), [(44_100, 16_000), (48_000, 16_000), (48_000, 44_100), (22_050, 44_100), (8000, 16_000)]
    )
    def test_beside_scipy(self, old, new):
        samples = tones(300, 1000, rate=old, seconds=0.5)
        ours = resample_audio(samples.astype(np.float32), old, new)
        common = np.gcd(old, new)
        up, down = new // common, old // common
        # scipy's default filter is off by 1e-3; one of the same sharpness is not.
        taps = firwin(2 * 64 * max(up, down) + 1, 0.95 / max(up, down), window=("kaiser", 14.77))
        scipys = resample_poly(samples, up, down, axis=-1, window=taps)
        assert ours.dtype == np.float32
        assert ours.shape == scipys.shape
        inside = slice(new // 50, -new // 50)
        assert np.abs(ours - scipys)[:, inside].max() < 2e-5
        exact = tones(300, 1000, rate=new, seconds=0.5)
        assert np.abs(ours - exact)[:, inside].max() < 2e-5

    @pytest.mark.parametrize(("frequency", "kept"), [(100, 1), (5000, 1), (7000, 1), (8100, 0), (9000, 0), (15_000, 0)])
    def test_what_the_new_rate_cannot_hold_is_gone(self, frequency, kept):
        samples = tones(frequency, seconds=0.5)[0].astype(np.float32)
        power = np.square(resample_audio(samples, RATE, 16_000)[800:-800].astype(np.float64)).mean() / 0.125
        assert power == pytest.approx(kept, abs=1e-4)
        if not kept:
            assert power < 1e-9

    def test_the_same_rate_changes_nothing(self):
        samples = tones(440).astype(np.float32)
        assert resample_audio(samples, RATE, RATE) is samples

    def test_a_file_is_resampled_on_reading(self, tmp_path):
        path = write(tmp_path / "a.wav", tones(440, 1000))
        samples, rate = read_audio(path, rate_hz=16_000, mono=False)
        assert rate == 16_000
        assert samples.shape == (2, 20_800)
        assert [loudest(channel, rate) for channel in samples] == pytest.approx([440, 1000], abs=1)


FILES = {
    "a.wav": {},
    "a.flac": {"codec": "flac", "form": "s16"},
    "a.mp3": {"codec": "libmp3lame", "form": "fltp"},
    "a.m4a": {"codec": "aac", "form": "fltp"},
    "fast.m4a": {"codec": "aac", "form": "fltp", "options": {"movflags": "faststart"}},
    "a.mkv": {"codec": "aac", "form": "fltp"},
    "v.mp4": {"codec": "aac", "form": "fltp", "video": True},
    "fast.mp4": {"codec": "aac", "form": "fltp", "video": True, "options": {"movflags": "faststart"}},
    "v.avi": {"video": True},
}


class TestDamage:
    @pytest.mark.parametrize("name", FILES)
    @pytest.mark.parametrize("kept", [0.05, 0.6, 0.85])
    def test_truncated(self, tmp_path, name, kept):
        path = write(tmp_path / name, tones(440, 1000, seconds=2), **FILES[name])
        read_audio(path)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * kept)])
        with pytest.raises(DatasetError, match="truncated") as error:
            read_audio(path)
        assert str(path) in str(error.value)
        assert "Restore the file" in error.value.cure

    @pytest.mark.parametrize("name", ["a.flac", "a.mp3", "a.m4a", "a.mkv", "v.mp4"])
    @pytest.mark.parametrize("seed", [0, 1])
    def test_overwritten_in_the_middle(self, tmp_path, name, seed):
        noise = np.random.default_rng(seed)
        samples = tones(440, 1000, seconds=2) + noise.normal(size=(2, 2 * RATE)) * 0.05
        path = write(tmp_path / name, samples, **FILES[name])
        content = bytearray(path.read_bytes())
        middle = len(content) // 2
        content[middle : middle + 3000] = noise.integers(0, 256, 3000, dtype=np.uint8).tobytes()
        path.write_bytes(content)
        with pytest.raises(
            DatasetError, match=r"truncated or damaged: its audio cannot be decoded after \d\.\d+ s|truncated"
        ):
            read_audio(path)

    def test_a_single_bit_of_flac(self, tmp_path):
        # Without its checksums asked for, FFmpeg plays half of these as noise.
        noise = np.random.default_rng(0).normal(size=(1, RATE)) * 0.05
        path = write(tmp_path / "a.flac", noise, **FILES["a.flac"])
        whole = path.read_bytes()
        for place in np.linspace(10_000, len(whole) - 100, 9).astype(int):
            content = bytearray(whole)
            content[place] ^= 0x10
            path.write_bytes(content)
            with pytest.raises(DatasetError, match="is truncated"):
                read_audio(path)

    def test_a_file_on_disk_that_says_nothing_of_its_length_is_read(self, tmp_path):
        # As ffmpeg and arecord leave it when they write to a pipe.
        path = write(tmp_path / "a.wav", tones(440))
        content = bytearray(path.read_bytes())
        data = content.index(b"data") + 4
        content[4:8] = content[data : data + 4] = b"\xff\xff\xff\xff"
        path.write_bytes(content)
        assert read_audio(path)[0].shape == (57_330,)

    @pytest.mark.parametrize(
        ("content", "what"),
        [
            (b"", r"x\.wav is empty \(0 bytes\)"),
            (b"this is a text\n" * 99, r"x\.wav cannot be opened as audio or video"),
            (b"RIFF\x24\x00\x00\x00WAVE", r"x\.wav cannot be opened|x\.wav is truncated"),
            (b"\x00" * 5000, "cannot be opened"),
        ],
    )
    def test_what_is_no_sound(self, tmp_path, content, what):
        (tmp_path / "x.wav").write_bytes(content)
        with pytest.raises(DatasetError, match=what) as error:
            read_audio(tmp_path / "x.wav")
        assert error.value.cure

    def test_no_file_and_a_folder(self, tmp_path):
        with pytest.raises(DatasetError, match=r"none\.wav does not exist"):
            read_audio(tmp_path / "none.wav")
        with pytest.raises(DatasetError, match="it is a folder"):
            read_audio(tmp_path)

    def test_a_video_without_sound(self, tmp_path):
        with av.open(str(tmp_path / "mute.mp4"), "w") as container:
            stream = container.add_stream("mpeg4", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
            container.mux(stream.encode(None))
        with pytest.raises(DatasetError, match=r"mute\.mp4 has no audio track, only video") as error:
            read_audio(tmp_path / "mute.mp4")
        assert "Leave this sample out" in error.value.cure

    def test_a_track_without_samples(self, tmp_path):
        with wave.open(str(tmp_path / "a.wav"), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
        with pytest.raises(DatasetError, match="audio track without samples"):
            read_audio(tmp_path / "a.wav")

    def test_samples_that_are_no_numbers(self, tmp_path):
        samples = tones(440)
        samples[0, 7:10] = np.nan
        with pytest.raises(DatasetError, match=r"3 of 57330 samples that are NaN"):
            read_audio(write(tmp_path / "a.wav", samples, codec="pcm_f32le", form="flt"))
