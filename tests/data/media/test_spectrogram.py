from __future__ import annotations

import doctest
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pkdray.data.media import spectrogram
from pkdray.data.media.spectrogram import (
    AFFWILD2,
    RECOLA,
    biovid_spectrogram,
    clip_of,
    log_mel,
    log_spectrogram,
    moments,
    zscore,
)
from pkdray.errors import DatasetError

PRESETS = pytest.mark.parametrize("preset", [AFFWILD2, RECOLA], ids=["affwild2", "recola"])


def noise(samples, seed=0):
    return (0.1 * np.random.default_rng(seed).normal(size=samples)).astype(np.float32)


def hertz(mel):
    return 700 * (10 ** (mel / 2595) - 1)


def centres(preset):
    """The filters' corners and centres on the HTK mel scale, in Hz."""
    return hertz(np.linspace(0, 2595 * np.log10(1 + preset.rate_hz / 2 / 700), preset.n_mels + 2))


def reference(samples, preset):
    """An independent float64 log-mel spectrogram: numpy alone, one column at a time."""
    n_fft, half = preset.n_fft, preset.n_fft // 2
    window = np.zeros(n_fft)
    left = (n_fft - preset.win_length) // 2
    window[left : left + preset.win_length] = 0.5 - 0.5 * np.cos(
        2 * np.pi * np.arange(preset.win_length) / preset.win_length
    )
    padded = np.pad(samples.astype(np.float64), half, mode="reflect")
    power = np.stack(
        [
            np.abs(np.fft.rfft(padded[start : start + n_fft] * window)) ** 2
            for start in range(0, len(samples) + 1, preset.hop_length)
        ],
        axis=1,
    )
    bins = np.arange(half + 1) * preset.rate_hz / n_fft
    corners = centres(preset)
    mel = np.stack(
        [np.interp(bins, corners[row : row + 3], [0, 1, 0], left=0, right=0) @ power for row in range(preset.n_mels)]
    )
    decibels = 10 * np.log10(np.maximum(mel, 1e-10))
    decibels = np.maximum(decibels, decibels.max() - preset.top_db)
    return decibels if preset.mean is None else (decibels - preset.mean) / preset.std


def test_doctests():
    assert doctest.testmod(spectrogram).failed == 0


class TestLogMel:
    def test_the_presets_are_the_papers(self):
        assert (AFFWILD2.rate_hz, AFFWILD2.win_length, AFFWILD2.hop_length, AFFWILD2.n_fft) == (44_100, 882, 441, 1024)
        assert (AFFWILD2.n_mels, AFFWILD2.top_db, AFFWILD2.mean, AFFWILD2.std) == (64, 80, -14.8, 19.895)
        assert (RECOLA.rate_hz, RECOLA.win_length, RECOLA.hop_length, RECOLA.n_mels) == (16_000, 400, 160, 64)
        assert RECOLA.mean is None

    @pytest.mark.parametrize(
        ("preset", "samples", "columns"),
        [(AFFWILD2, round(32 / 30 * 44_100), 107), (RECOLA, 16_000, 101), (AFFWILD2, 883, 3), (RECOLA, 257, 2)],
    )
    def test_shapes(self, preset, samples, columns):
        result = log_mel(noise(samples), preset, rate_hz=preset.rate_hz)
        assert result.shape == (64, columns)
        assert result.dtype == np.float32
        assert preset.columns(samples) == columns

    @PRESETS
    @pytest.mark.parametrize("seconds", [0.5, 0.7123])
    def test_it_is_what_numpy_makes(self, preset, seconds):
        count = round(seconds * preset.rate_hz)
        samples = noise(count) + 0.3 * np.sin(2 * np.pi * 1234 * np.arange(count) / preset.rate_hz).astype(np.float32)
        result = log_mel(samples, preset, rate_hz=preset.rate_hz)
        assert np.allclose(result, reference(samples, preset), atol=5e-3)

    @PRESETS
    @pytest.mark.parametrize("frequency", [150, 440, 1000, 3100, 6500])
    def test_a_tone_peaks_in_its_own_mel_bin(self, preset, frequency):
        tone = np.sin(2 * np.pi * frequency * np.arange(preset.rate_hz) / preset.rate_hz).astype(np.float32)
        result = log_mel(tone, preset, rate_hz=preset.rate_hz)
        nearest = int(np.argmin(np.abs(centres(preset)[1:-1] - frequency)))
        # The ends hold half a window of the mirrored tone.
        assert set(result[:, 3:-3].argmax(axis=0).tolist()) <= {nearest - 1, nearest, nearest + 1}
        if frequency == 1000:
            assert set(result[:, 3:-3].argmax(axis=0).tolist()) == {nearest}

    def test_twice_the_amplitude_is_six_decibels(self):
        quiet, loud = (log_mel(gain * noise(16_000), RECOLA, rate_hz=16_000) for gain in (0.25, 0.5))
        assert np.allclose(loud - quiet, 20 * np.log10(2), atol=1e-3)

    def test_decibels_end_80_below_the_loudest(self):
        samples = np.zeros(16_000, dtype=np.float32)
        samples[8000] = 1
        result = log_mel(samples, RECOLA, rate_hz=16_000)
        assert result.max() - result.min() == pytest.approx(80)
        assert log_mel(samples, replace(RECOLA, top_db=35.0), rate_hz=16_000).min() == pytest.approx(result.max() - 35)

    def test_normalisation_comes_last(self):
        raw = log_mel(noise(9999), replace(AFFWILD2, mean=None, std=None), rate_hz=44_100)
        assert np.allclose(log_mel(noise(9999), AFFWILD2, rate_hz=44_100), (raw + 14.8) / 19.895, atol=1e-5)

    def test_silence_is_minus_100_decibels(self):
        assert np.allclose(log_mel(np.zeros(16_000), RECOLA, rate_hz=16_000), -100)

    def test_a_batch_is_a_loop_of_singles(self):
        # The loud clip must not lift the floor of the quiet one.
        clips = np.stack([noise(5003, 1), 1e-5 * noise(5003, 2), np.zeros(5003, dtype=np.float32)])
        batch = log_mel(clips, RECOLA, rate_hz=16_000)
        assert batch.shape == (3, 64, 32)
        for clip, result in zip(clips, batch, strict=True):
            assert np.allclose(result, log_mel(clip, RECOLA, rate_hz=16_000), atol=1e-4)

    def test_the_samples_stay_as_they_were(self):
        samples = noise(5003)
        before = samples.copy()
        log_mel(samples, RECOLA, rate_hz=16_000)
        log_mel(samples[::-1], RECOLA, rate_hz=16_000)
        assert np.array_equal(samples, before)

    @pytest.mark.parametrize(
        ("samples", "rate", "what", "cure"),
        [
            (noise(9999), 44_100, "samples have 44100 Hz, but the preset is for 16000 Hz", "rate_hz=16000"),
            (noise(256), 16_000, r"shape \[256\].* n above 256 \(0\.016 s\)", "longer clip"),
            (noise(0), 16_000, r"shape \[0\]", "longer clip"),
            (np.zeros((0, 999)), 16_000, r"shape \[0, 999\]", "longer clip"),
            (np.zeros((2, 3, 999)), 16_000, r"shape \[2, 3, 999\]", "longer clip"),
            (np.where(np.arange(999) == 5, np.nan, 0), 16_000, "1 of 999 samples are NaN", "leave this clip out"),
        ],
    )
    def test_what_cannot_be_heard(self, samples, rate, what, cure):
        with pytest.raises(DatasetError, match=what) as error:
            log_mel(samples, RECOLA, rate_hz=rate)
        assert cure in error.value.cure


class TestClip:
    @given(st.integers(1, 130), st.integers(1, 130), st.booleans())
    def test_the_latest_columns_with_padding_before_them(self, columns, frames, left):
        values = np.arange(3 * 5 * columns, dtype=np.float32).reshape(3, 5, columns) + 1
        clip = clip_of(values, frames, left_pad=left, fill=-7)
        assert clip.shape == (3, 5, frames)
        assert clip.dtype == np.float32
        kept = min(columns, frames)
        if left:
            assert np.array_equal(clip[..., frames - kept :], values[..., columns - kept :])
            assert (clip[..., : frames - kept] == -7).all()
        else:
            assert np.array_equal(clip[..., :kept], values[..., :kept])
            assert (clip[..., kept:] == -7).all()

    def test_the_first_clip_of_an_affwild2_video(self):
        short = log_mel(noise(23_456), AFFWILD2, rate_hz=44_100)
        clip = clip_of(short, 107)
        assert clip.shape == (64, 107)
        assert (clip[:, :53] == 0).all()
        assert np.array_equal(clip[:, 53:], short)
        assert clip_of(short, 54) is not short

    @pytest.mark.parametrize(("shape", "frames"), [((64, 0), 107), ((64,), 107), ((64, 5), 0)])
    def test_what_is_no_clip(self, shape, frames):
        with pytest.raises(DatasetError, match="cannot become a clip"):
            clip_of(np.zeros(shape), frames)


class TestLogSpectrogram:
    @staticmethod
    def emg(samples=1536):
        return 5 * np.random.default_rng(3).normal(size=samples)

    def test_the_biovid_setting(self):
        result = biovid_spectrogram(self.emg())
        assert result.values.shape == (65, 127)
        assert result.values.dtype == np.float32
        assert np.allclose(result.frequencies_hz, np.arange(65) * 4.0)
        assert np.allclose(result.times_s, (8 + 12 * np.arange(127)) / 512)

    def test_a_faithful_one_only_declares_another_rate(self):
        true, faithful = biovid_spectrogram(self.emg()), biovid_spectrogram(self.emg(), faithful=True)
        assert np.allclose(true.values - faithful.values, 10 * np.log10(1000 / 512), atol=1e-4)
        assert np.allclose(faithful.frequencies_hz, true.frequencies_hz * 1000 / 512)
        assert np.allclose(faithful.times_s, true.times_s * 512 / 1000)
        whole = [zscore(part.values, *moments([part.values])) for part in (true, faithful)]
        assert np.allclose(*whole, atol=1e-4)

    def test_it_is_what_numpy_makes(self):
        signal = self.emg(203) + 40
        result = log_spectrogram(signal, 250, 31, 11, 49)
        assert result.values.shape == (25, 9)
        # Tukey 0.25 with a periodic end: the flat middle of a Hann window's flanks.
        position = np.arange(31) / 31
        flank = np.minimum(position, 1 - position) / 0.125
        window = np.where(flank < 1, 0.5 * (1 - np.cos(np.pi * flank)), 1.0)
        for column in range(9):
            segment = signal[column * 20 : column * 20 + 31]
            power = np.abs(np.fft.rfft((segment - segment.mean()) * window, 49)) ** 2 / (250 * (window**2).sum())
            power[1:] *= 2
            expected = 10 * np.log10(np.maximum(power, 1e-10))
            assert np.allclose(result.values[:, column], expected, atol=1e-3)

    def test_a_tone_peaks_at_its_frequency_and_channels_stay_apart(self):
        t = np.arange(2000) / 512
        both = np.stack([np.sin(2 * np.pi * 60 * t), 3 * np.sin(2 * np.pi * 180 * t)])
        result = log_spectrogram(both, 512, 128, 32, 128)
        assert result.values.shape[:2] == (2, 65)
        assert (result.frequencies_hz[result.values[0].argmax(axis=0)] == 60).all()
        assert (result.frequencies_hz[result.values[1].argmax(axis=0)] == 180).all()

    def test_a_constant_signal_lies_on_the_floor(self):
        assert np.allclose(biovid_spectrogram(np.full(1536, 2.5)).values, -100)

    @pytest.mark.parametrize(
        ("signal", "arguments", "what", "cure"),
        [
            (np.zeros(99), (512, 16, 16, 128), "noverlap 16, nfft 128", "0 <= noverlap < nperseg <= nfft"),
            (np.zeros(99), (512, 16, 4, 15), "nfft 15", "nperseg <= nfft"),
            (np.zeros(99), (0, 16, 4, 16), "rate is 0 Hz", "above 0"),
            (np.zeros(15), (512, 16, 4, 128), r"shape \[15\]; one segment needs 16", "longer window"),
            (np.full(99, np.nan), (512, 16, 4, 128), "99 of 99 samples", "leave this sample out"),
            (1e-6 * np.arange(99.0) % 3e-6, (512, 16, 4, 128), "below the floor of 1e-10", "microvolts"),
        ],
    )
    def test_what_has_no_spectrogram(self, signal, arguments, what, cure):
        with pytest.raises(DatasetError, match=what) as error:
            log_spectrogram(signal, *arguments)
        assert cure in error.value.cure


class TestZscore:
    @given(
        st.lists(
            hnp.arrays(np.float64, st.tuples(st.integers(0, 4), st.integers(1, 5)), elements=st.floats(-1e3, 1e3)),
            min_size=1,
            max_size=5,
        ),
        st.sampled_from([0.0, 1e6]),
    )
    def test_clip_by_clip_is_all_at_once(self, clips, level):
        clips = [clip + level for clip in clips]
        everything = np.concatenate([clip.ravel() for clip in clips])
        if everything.size == 0 or everything.std() < 1e-3:
            return
        mean, std = moments(iter(clips))
        assert mean == pytest.approx(everything.mean(), rel=1e-9, abs=1e-9)
        assert std == pytest.approx(everything.std(), rel=1e-6)
        assert zscore(everything, mean, std).std() == pytest.approx(1, rel=1e-3)

    def test_numbers_or_arrays(self):
        values = np.arange(35, dtype=np.float32).reshape(5, 7)
        assert zscore(values, 3.0, 2.0).dtype == np.float32
        rows = zscore(values, values.mean(axis=1, keepdims=True), values.std(axis=1, keepdims=True))
        assert np.allclose(rows.mean(axis=1), 0, atol=1e-6)
        assert np.allclose(rows.std(axis=1), 1)

    @pytest.mark.parametrize(
        ("mean", "std", "what"),
        [
            (0.0, 0.0, "std 0.0 is not defined"),
            (float("nan"), 1.0, "mean nan"),
            (np.zeros(7), np.array([1, 1, 1, 1, 1, 1, -1]), "not defined"),
            (np.zeros(3), 1.0, r"\[5, 7\] do not go with a mean \[3\]"),
            (np.zeros((2, 5, 7)), 1.0, r"\[5, 7\] do not go with a mean \[2, 5, 7\]"),
        ],
    )
    def test_what_is_no_standardisation(self, mean, std, what):
        with pytest.raises(DatasetError, match=what):
            zscore(np.zeros((5, 7)), mean, std)

    @pytest.mark.parametrize(
        ("clips", "what"),
        [
            ([], "have 0 values"),
            ([np.full(5, 0.1), np.full(3, 0.1)], "have 8 values and a standard deviation of"),
            ([np.array([1.0, np.nan])], "NaN or infinite"),
        ],
    )
    def test_what_has_no_moments(self, clips, what):
        with pytest.raises(DatasetError, match=what):
            moments(clips)
