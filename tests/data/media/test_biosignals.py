from __future__ import annotations

import doctest
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import signal as scipy_signal

from pkdray.data.media import biosignals
from pkdray.data.media.biosignals import (
    BIOVID_COLUMNS,
    ECG,
    EDA,
    EMG,
    Signals,
    bandpass,
    clean,
    dead_channels,
    estimated_rate,
    notch,
    read_biovid_csv,
    read_recola_physio,
    resample,
    sample_range,
    window,
)
from pkdray.errors import DatasetError


def biovid(path, rows=2816, *, separator="\t", header=BIOVID_COLUMNS, times=None, cells=None, dead=()):
    """Writes a replica of a BioVid file: padded header, whole microseconds."""
    times = np.round(np.arange(rows) * 1e6 / 512) if times is None else times
    rng = np.random.default_rng(0)
    lines = [separator.join(f" {name} " for name in header)]
    for row in range(len(times)):
        values = [f"{rng.normal():.6f}" if name not in dead else "0" for name in header[1:]]
        lines.append(separator.join([f"{times[row]:.0f}", *values]))
    for (row, column), cell in (cells or {}).items():
        parts = lines[row].split(separator)
        parts[column] = cell
        lines[row] = separator.join(parts)
    path.write_text("\n".join(lines) + "\n")
    return path


def recola(path, text=None, rows=500, header="ECG;EDA;HR", times=None):
    rng = np.random.default_rng(1)
    lines = [header]
    for row in range(rows):
        cells = [f"{value:.5f}" for value in rng.normal(size=len(header.strip(";").split(";")) - (times is not None))]
        lines.append(";".join([*([] if times is None else [f"{times[row]:.3f}"]), *cells]))
    path.write_text(text if text is not None else "\n".join(lines) + "\n")
    return path


def tone(frequency, rate=512, seconds=8.0):
    return np.sin(2 * np.pi * frequency * np.arange(round(rate * seconds)) / rate)


def gain(filtered, original):
    """How much of a tone is left, away from the ends."""
    quarter = len(original) // 4
    return np.ptp(filtered[quarter:-quarter]) / np.ptp(original[quarter:-quarter])


def test_doctests():
    assert doctest.testmod(biosignals).failed == 0


class TestBioVid:
    @pytest.mark.parametrize("rows", [2815, 2816, 2817])
    def test_the_published_layout(self, tmp_path, rows):
        signals = read_biovid_csv(biovid(tmp_path / "a_bio.csv", rows))
        assert list(signals.channels) == list(BIOVID_COLUMNS[1:])
        assert len(signals) == rows
        assert all(len(values) == rows and values.dtype == np.float64 for values in signals.channels.values())
        assert signals.rate_hz == 512
        assert np.allclose(signals.time_s, np.arange(rows) / 512, atol=1e-6)
        assert estimated_rate(signals.time_s) == pytest.approx(512, rel=1e-5)
        # Columns by name: the first row's second random number is the ECG's.
        assert signals.channels["ecg"][0] == pytest.approx(np.random.default_rng(0).normal(size=2)[1], abs=1e-6)

    def test_a_long_recording_of_part_c_with_a_further_channel(self, tmp_path):
        path = biovid(tmp_path / "c.csv", 5001, header=(*BIOVID_COLUMNS, "temperature"))
        assert len(read_biovid_csv(path, rows=None).channels["temperature"]) == 5001
        with pytest.raises(DatasetError, match=r"c\.csv has 5001 rows, not 2816") as error:
            read_biovid_csv(path)
        assert "rows=None" in error.value.cure

    def test_the_dead_channels_of_part_a(self, tmp_path):
        path = biovid(tmp_path / "a.csv", dead=("emg_corrugator", "emg_zygomaticus"))
        assert dead_channels(read_biovid_csv(path)) == ("emg_corrugator", "emg_zygomaticus")
        assert dead_channels(read_biovid_csv(biovid(tmp_path / "b.csv"))) == ()

    def test_a_level_that_never_moves_is_dead_too(self):
        signals = Signals(np.arange(7) / 512, 512.0, {"gsr": np.full(7, 0.1), "ecg": np.arange(7.0)})
        assert dead_channels(signals) == ("gsr",)

    def test_a_subject_without_biosignals(self, tmp_path):
        with pytest.raises(DatasetError, match=r"x_bio\.csv does not exist: this sample has no biosignals") as error:
            read_biovid_csv(tmp_path / "x_bio.csv")
        assert "leave the sample out" in error.value.cure

    @pytest.mark.parametrize(
        ("changes", "what", "cure"),
        [
            ({"separator": ","}, r"has the columns 'time , gsr .*, without 'time', 'gsr'", "by TABs"),
            ({"header": ("time", "gsr", "ecg", "emg")}, "without 'emg_trapezius', 'emg_corrugator'", "time, gsr, ecg"),
            ({"header": (*BIOVID_COLUMNS, "ecg")}, "the column 'ecg' twice", "Keep one"),
            ({"header": (*BIOVID_COLUMNS, "", "x")}, "no name for column 7 of 8", "Name it"),
            ({"rows": 2800}, "2800 rows, not 2816", "leave the sample out"),
            ({"rows": 0}, "no rows", "leave the sample out"),
            (
                {"cells": {(31, 2): ""}},
                r"1 cells in column 'ecg' that are no finite numbers, the first \(empty\) in row 31",
                "leave the sample",
            ),
            ({"cells": {(7, 1): "0,25"}}, r"'gsr'.*\('0,25'\) in row 7", "with a point"),
            ({"cells": {(7, 1): "inf"}}, r"'gsr'.*\('inf'\) in row 7", "Restore"),
            ({"cells": {(9, 5): "1\t2\t3"}}, "cannot be read .*Expected 6 fields in line 10, saw 8", "whole"),
            ({"times": np.arange(2816) * 1000 / 512}, "run at .* Hz when read as microseconds, not at 512 Hz", "unit"),
            ({"times": np.arange(2816) * 1000.0}, "run at 1000 Hz", "unit"),
            (
                {"times": np.arange(2816) * 1e6 / 512 + 40_000 * (np.arange(2816) > 700)},
                r"lacks samples: after 1\.36719 s the next one is at 1\.40914 s",
                "Restore",
            ),
            ({"times": np.arange(2816)[::-1] * 1e6 / 512}, r"a\.csv: Time does not increase: sample 2", "shuffled"),
        ],
    )
    def test_what_is_wrong_is_named(self, tmp_path, changes, what, cure):
        path = biovid(tmp_path / "a.csv", **changes)
        with pytest.raises(DatasetError, match=what) as error:
            read_biovid_csv(path)
        assert str(path) in str(error.value)
        assert cure in error.value.cure

    @pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00\x01"])
    def test_what_is_no_table(self, tmp_path, content):
        (tmp_path / "a.csv").write_bytes(content)
        with pytest.raises(DatasetError, match="cannot be read as a table separated by TABs"):
            read_biovid_csv(tmp_path / "a.csv")

    def test_a_folder(self, tmp_path):
        with pytest.raises(DatasetError, match="cannot be read"):
            read_biovid_csv(tmp_path)


class TestRecola:
    def test_without_a_time_column(self, tmp_path):
        signals = read_recola_physio(recola(tmp_path / "train_1.csv", rows=501))
        assert list(signals.channels) == ["ecg", "eda", "hr"]
        assert signals.rate_hz == 250
        assert np.array_equal(signals.time_s, np.arange(501) / 250)

    @pytest.mark.parametrize("scale", [1, 1000])
    def test_with_a_time_column_in_seconds_or_milliseconds(self, tmp_path, scale):
        path = recola(tmp_path / "t.csv", rows=501, header="time;ECG;EDA", times=np.arange(501) / 250 * scale)
        signals = read_recola_physio(path)
        assert list(signals.channels) == ["ecg", "eda"]
        assert np.allclose(signals.time_s, np.arange(501) / 250)

    def test_spaces_and_a_separator_at_the_end(self, tmp_path):
        path = recola(tmp_path / "t.csv", text="ECG ; EDA ;\n1;2;\n3;4;\n")
        signals = read_recola_physio(path)
        assert {name: values.tolist() for name, values in signals.channels.items()} == {"ecg": [1, 3], "eda": [2, 4]}

    @pytest.mark.parametrize(
        ("text", "what", "cure"),
        [
            ("ECG,EDA\n1,2\n", "without 'ecg', 'eda'", "by semicolons"),
            ("ECG;HR\n1;2\n", "the columns 'ECG', 'HR', without 'eda'", "ecg, eda"),
            ("ECG;EDA\n1;2;3\n4;5;6\n", "more cells in its rows", "Name every column"),
            ("ECG;EDA\n1;x\n", r"'eda' that are no finite numbers, the first \('x'\) in row 1", "Restore"),
            ("ECG;EDA;ecg\n1;2;3\n", "the column 'ecg' twice", "Keep one"),
            ("time;ECG;EDA\n0;1;2\n0.01;1;2\n0.02;1;2\n", "run at 100 Hz when read as seconds, not at 250", "unit"),
            ("time;ECG;EDA\n0;1;2\n", "rate cannot be told", "at least two"),
        ],
    )
    def test_what_is_wrong_is_named(self, tmp_path, text, what, cure):
        with pytest.raises(DatasetError, match=what) as error:
            read_recola_physio(recola(tmp_path / "dev_2.csv", text=text))
        assert "dev_2.csv" in str(error.value)
        assert cure in error.value.cure

    def test_one_channel_is_enough_where_one_is_asked_for(self, tmp_path):
        path = recola(tmp_path / "t.csv", text="EDA\n1\n2\n")
        assert read_recola_physio(path, required=["eda"]).channels["eda"].tolist() == [1, 2]


class TestRate:
    @given(st.integers(2, 300), st.floats(0.5, 5000), st.floats(-100, 100))
    def test_a_steady_clock(self, count, rate, start):
        assert estimated_rate(start + np.arange(count) / rate) == pytest.approx(rate, rel=1e-6)

    def test_what_tells_no_rate(self):
        with pytest.raises(DatasetError, match=r"shape \[1\]"):
            estimated_rate(np.array([3.0]))
        with pytest.raises(DatasetError, match="sample 3 is at 1 s, after 1 s"):
            estimated_rate(np.array([0.0, 1.0, 1.0]))
        with pytest.raises(DatasetError, match="Time does not increase"):
            estimated_rate(np.array([0.0, np.nan, 1.0]))


class TestWindow:
    def test_the_pain_window(self):
        values = np.arange(3 * 2815).reshape(3, 2815)
        cut = window(values, 512, 2.0, 5.0)
        assert cut.shape == (3, 1536)
        assert np.array_equal(cut, values[:, 1024:2560])
        cut[:] = 0
        assert values[0, 1024] == 1024

    @given(st.sampled_from([25, 29.97, 250, 512, 44_100]), st.integers(0, 4000), st.integers(1, 3000))
    def test_a_span_has_the_same_number_of_samples_wherever_it_starts(self, rate, start_ms, length_ms):
        start, length = start_ms / 1000, length_ms / 1000
        exact = Fraction(rate).limit_denominator(1000) * length_ms / 1000
        if exact <= Fraction(1, 2):
            return
        first, last = sample_range(rate, start, start + length, 10**9)
        assert abs(last - first - exact) <= Fraction(1, 2)
        assert abs(first - start * rate) <= 0.5 + 1e-6
        other = sample_range(rate, 0, length, 10**9)
        assert other == (0, last - first) or abs(exact % 1 - Fraction(1, 2)) < 1e-6

    @given(st.integers(2, 5000), st.sampled_from([25, 250, 512, 16_000]), st.integers(0, 999))
    def test_the_span_to_the_very_end_never_asks_for_too_much(self, count, rate, thousandths):
        start = thousandths / 1000 * (count - 1) / rate
        first, last = sample_range(rate, start, count / rate, count)
        assert 0 <= first < last <= count

    def test_halves_of_a_sample(self):
        assert sample_range(1, 1.5, 11, 11) == (2, 11)
        assert sample_range(1, 0.5, 4.0, 4) == (1, 4)
        assert sample_range(1000, 0.0, 0.3, 300) == (0, 300)

    @given(st.integers(1, 60), st.integers(1, 20))
    def test_neighbours_tile_the_signal(self, length, pieces):
        values = np.arange(length * pieces)
        parts = [window(values, 250, i * length / 250, (i + 1) * length / 250) for i in range(pieces)]
        assert np.array_equal(np.concatenate(parts), values)

    @pytest.mark.parametrize(
        ("arguments", "what"),
        [
            (
                (512, 2.0, 5.6),
                r"lasts 5\.5 s \(2816 samples at 512 Hz\), which is too short for the span from 2 to 5\.6",
            ),
            ((512, 5.0, 2.0), "span from 5 to 2 s is none"),
            ((512, -1.0, 2.0), "from -1 to 2 s is none"),
            ((512, 0.0, float("nan")), "to nan s is none"),
            ((512, 0.0, 0.0001), "holds no sample at 512 Hz"),
            ((0, 0.0, 1.0), "rate is 0 Hz"),
            ((float("nan"), 0.0, 1.0), "rate is nan Hz"),
        ],
    )
    def test_what_is_no_window(self, arguments, what):
        with pytest.raises(DatasetError, match=what) as error:
            window(np.zeros(2816), *arguments)
        assert error.value.cure


class TestFilters:
    @pytest.mark.parametrize("frequency", [0.25, 1, 3, 10, 25, 40, 60, 110])
    def test_tones_follow_the_frequency_response(self, frequency):
        sections = scipy_signal.butter(3, [2, 40], "bandpass", fs=512, output="sos")
        _, response = scipy_signal.sosfreqz(sections, worN=[frequency], fs=512)
        x = tone(frequency, seconds=16)
        assert gain(bandpass(x, 512, low_hz=2, high_hz=40, order=3), x) == pytest.approx(
            abs(response[0]) ** 2, abs=2e-3
        )

    def test_a_corner_loses_six_decibels_and_nothing_is_delayed(self):
        x = tone(40)
        y = bandpass(x, 512, high_hz=40)
        assert gain(y, x) == pytest.approx(0.5, abs=1e-3)
        middle = slice(1000, 3000)
        assert np.corrcoef(x[middle], y[middle])[0, 1] > 0.9999

    def test_high_pass_and_channels(self):
        x = np.stack([tone(1) + 5, tone(100), tone(60)])
        y = bandpass(x, 512, low_hz=20)
        assert y.shape == x.shape
        assert np.abs(y[0, 500:-500]).max() < 1e-3
        assert gain(y[1], x[1]) == pytest.approx(1, abs=1e-3)
        assert np.allclose(y[2], bandpass(x[2], 512, low_hz=20))

    def test_the_notch_takes_the_mains_and_nothing_else(self):
        assert gain(notch(tone(50), 512), tone(50)) < 1e-3
        assert gain(notch(tone(45), 512), tone(45)) == pytest.approx(1, abs=0.03)
        assert gain(notch(tone(60), 512, centre_hz=60), tone(60)) < 1e-3

    @pytest.mark.parametrize(
        ("preset", "kept", "lost"),
        [(ECG, (2, 10, 20), (0.05, 80, 200)), (EDA, (0.5, 2), (10, 40)), (EMG, (40, 100, 200), (2, 8))],
    )
    def test_presets(self, preset, kept, lost):
        for frequency in kept:
            x = tone(frequency, seconds=40)
            assert gain(clean(x, 512, preset), x) == pytest.approx(1, abs=0.02)
        for frequency in lost:
            x = tone(frequency, seconds=40)
            assert gain(clean(x, 512, preset), x) < 0.01
        assert preset.source

    def test_emg_keeps_its_corner_at_512_hz_and_loses_it_at_250(self):
        x = np.random.default_rng(0).normal(size=2816)
        assert np.array_equal(clean(x, 512, EMG), bandpass(x, 512, low_hz=20, high_hz=250))
        assert np.array_equal(clean(x, 250, EMG), bandpass(x, 250, low_hz=20, high_hz=122.5))
        with pytest.raises(DatasetError, match=r"rate of 25 Hz cannot show what lies between 20\.0 and 250"):
            clean(x, 25, EMG)

    @pytest.mark.parametrize(
        ("call", "what"),
        [
            (lambda x: bandpass(x, 512), "corners are None and None Hz"),
            (lambda x: bandpass(x, 512, low_hz=40, high_hz=20), "corners are 40 and 20 Hz"),
            (lambda x: bandpass(x, 250, high_hz=125), "corners are None and 125 Hz at a rate of 250 Hz"),
            (lambda x: bandpass(x, 512, low_hz=0.0), "corners are 0.0 and None"),
            (lambda x: bandpass(x, -1, low_hz=1), "rate is -1 Hz"),
            (lambda x: bandpass(x[:20], 512, low_hz=20, high_hz=200), "20 samples; this filter needs more than"),
            (lambda x: bandpass(x[:0], 512, low_hz=20), r"empty: its shape is \[0\]"),
            (lambda x: notch(x, 90), "notch at 50 Hz of quality 30 does not go with a rate of 90 Hz"),
            (lambda x: bandpass(np.where(np.arange(999) == 7, np.nan, x), 512, low_hz=1), "1 of 999 samples .* NaN"),
            (lambda x: resample(np.full(3, np.inf), 512, 256), "3 of 3 samples"),
        ],
    )
    def test_what_cannot_be_filtered(self, call, what):
        with pytest.raises(DatasetError, match=what) as error:
            call(tone(5, seconds=2)[:999])
        assert error.value.cure

    def test_padding_is_scipys_own(self):
        x = np.random.default_rng(0).normal(size=(3, 501))
        sections = scipy_signal.butter(4, [20, 200], "bandpass", fs=512, output="sos")
        assert np.array_equal(bandpass(x, 512, low_hz=20, high_hz=200), scipy_signal.sosfiltfilt(sections, x))


class TestResample:
    @given(st.integers(1, 700), st.sampled_from([(512, 250), (250, 512), (512, 128), (1000, 512), (250, 250)]))
    def test_the_number_of_samples_and_a_level_that_stays(self, count, rates):
        old, new = rates
        level_and_ramp = np.stack([np.full(count, 8.25), 3 + np.arange(count) / old])
        y = resample(level_and_ramp, old, new)
        assert y.shape == (2, -(-count * new // old))
        assert np.allclose(y[0], 8.25, atol=1e-9)
        assert count == 1 or np.allclose(y[1], 3 + np.arange(y.shape[1]) / new, atol=1e-9)

    def test_a_tone_stays_and_an_alias_goes(self):
        y = resample(tone(20), 512, 250)
        expected = np.sin(2 * np.pi * 20 * np.arange(len(y)) / 250)
        assert np.abs(y - expected)[100:-100].max() < 5e-3
        assert np.abs(resample(tone(200), 512, 250))[100:-100].max() < 5e-3

    def test_the_same_rate_gives_a_copy(self):
        x = tone(3)
        y = resample(x, 512, 512.0)
        assert np.array_equal(x, y)
        assert y is not x

    def test_a_ratio_that_is_none(self):
        with pytest.raises(DatasetError, match="not a fraction of whole numbers"):
            resample(tone(3), 512, 512 * np.pi / 3)
        with pytest.raises(DatasetError, match="rate is 0 Hz"):
            resample(tone(3), 512, 0)
