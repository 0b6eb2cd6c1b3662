"""Biosignals (ECG, EDA, EMG): BioVid's and RECOLA's files, windows, zero-phase filters and resampling."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from pkdray.data.faults import some
from pkdray.errors import DatasetError

BIOVID_RATE_HZ = 512.0
BIOVID_ROWS = 2816
BIOVID_COLUMNS = ("time", "gsr", "ecg", "emg_trapezius", "emg_corrugator", "emg_zygomaticus")
RECOLA_RATE_HZ = 250.0
_RECOLA_COLUMNS = ("ecg", "eda")
_RECOLA_TIMES = ("time", "frametime", "timestamp")
# A clock that is one percent off would shift a label by three seconds in a recording of five minutes.
_RATE_TOLERANCE = 0.01
_GAP_SAMPLES = 3.0


@dataclass(frozen=True, eq=False)
class Signals:
    """One recording's biosignals, all at one rate.

    Args:
        time_s: float64 [n], seconds, increasing.
        rate_hz: samples a second.
        channels: float64 [n] by name, in the file's units.
    """

    time_s: np.ndarray
    rate_hz: float
    channels: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.time_s)


@dataclass(frozen=True)
class FilterPreset:
    """A Butterworth filter by its corners.

    Args:
        low_hz: lower corner in Hz; None for a low-pass.
        high_hz: upper corner in Hz; None for a high-pass.
        order: of the filter that runs once forwards and once backwards.
        source: where the corners come from.
    """

    low_hz: float | None
    high_hz: float | None
    order: int
    source: str


ECG = FilterPreset(0.5, 40.0, 4, "the monitoring bandwidth of electrocardiography (AHA/ACC/HRS, Kligfield et al. 2007)")
EDA = FilterPreset(None, 5.0, 4, "BioSPPy's electrodermal low-pass (Carreiras et al. 2015)")
EMG = FilterPreset(20.0, 250.0, 4, "BioVid's own filter (Walter et al. 2013); lower corner also De Luca et al. 2010")


def read_biovid_csv(path: str | Path, *, rows: int | None = BIOVID_ROWS) -> Signals:
    """Read one ``<sample>_bio.csv`` of BioVid.

    TAB-separated; ``time`` in MICROseconds; gsr in microsiemens, ecg and emg_* in microvolts; 512 Hz.

    Args:
        path: the file.
        rows: how many rows it should have, give or take one: 2,816 (5.5 s) in Parts A and B; None for any number, as
            in Part C.

    Returns:
        The channels ``gsr``, ``ecg``, ``emg_trapezius``, ``emg_corrugator``, ``emg_zygomaticus`` and any further ones
        by their names, with time in SECONDS. Dead channels are kept: ask ``dead_channels`` (Part A's corrugator and
        zygomaticus are dead).

    Raises:
        DatasetError: the file is missing or unreadable; a column is missing; a cell is no finite number; time does
            not increase, has a gap or does not run at 512 Hz; the number of rows is wrong.

    Example:
        >>> read_biovid_csv("071309_w_21-PA4-006_bio.csv").rate_hz  # doctest: +SKIP
        512.0
    """
    path = Path(path)
    table = _read_table(path, "\t", "TABs", BIOVID_COLUMNS)
    if rows is not None and abs(len(table) - rows) > 1:
        raise DatasetError(
            f"{path} has {len(table)} rows, not {rows} (give or take one).",
            cure="Restore the file or leave the sample out; for Part C's long recordings pass rows=None.",
        )
    time_s = table["time"].to_numpy() * 1e-6
    _check_clock(path, time_s, BIOVID_RATE_HZ, "read as microseconds")
    channels = {name: table[name].to_numpy() for name in table.columns if name != "time"}
    return Signals(time_s, BIOVID_RATE_HZ, channels)


def read_recola_physio(path: str | Path, *, required: Sequence[str] = _RECOLA_COLUMNS) -> Signals:
    """Read one CSV of RECOLA's ``recordings_physio`` (raw or ``filtered``).

    Semicolon-separated, with a header, 250 Hz; the ECG and EDA are in the recorder's units. A time column (``time``,
    ``frametime`` or ``timestamp``) may be there, in seconds or in milliseconds; without one, sample i is at i / 250 s.

    Args:
        path: the file.
        required: the channels that it must have, in small letters.

    Returns:
        Every channel by its name in SMALL letters (``ecg``, ``eda``, ``hr`` ...), with time in seconds.

    Raises:
        DatasetError: the file is missing or unreadable; a required column is missing; a cell is no finite number; the
            time column does not increase, has a gap or runs at 250 Hz in neither unit.

    Example:
        >>> sorted(read_recola_physio("recordings_physio/train_1.csv").channels)  # doctest: +SKIP
        ['ecg', 'eda', 'hr']
    """
    path = Path(path)
    table = _read_table(path, ";", "semicolons", required, small_letters=True)
    times = [name for name in table.columns if name in _RECOLA_TIMES]
    if times:
        time_s = table[times[0]].to_numpy()
        milliseconds = len(time_s) > 1 and time_s[-1] - time_s[0] > 100 * len(time_s) / RECOLA_RATE_HZ
        time_s = time_s * 1e-3 if milliseconds else time_s
        _check_clock(path, time_s, RECOLA_RATE_HZ, f"read as {'milliseconds' if milliseconds else 'seconds'}")
    else:
        time_s = np.arange(len(table)) / RECOLA_RATE_HZ
    channels = {name: table[name].to_numpy() for name in table.columns if name not in times}
    return Signals(time_s, RECOLA_RATE_HZ, channels)


def estimated_rate(time_s: np.ndarray) -> float:
    """The mean sampling rate that a time column shows, in Hz: (n - 1) / (t_n - t_1).

    Args:
        time_s: [n], seconds, increasing.

    Raises:
        DatasetError: there are fewer than two times, or they do not increase.

    Example:
        >>> estimated_rate(np.arange(5) / 512)
        512.0
    """
    time_s = np.asarray(time_s, dtype=np.float64)
    if time_s.ndim != 1 or len(time_s) < 2:
        raise DatasetError(
            f"A rate cannot be told from times of shape {list(time_s.shape)}.", cure="Give at least two, one a sample."
        )
    steps = np.diff(time_s)
    # Written so that NaN is refused as well.
    if not (steps > 0).all():
        row = int(np.flatnonzero(~(steps > 0))[0])
        raise DatasetError(
            f"Time does not increase: sample {row + 2} is at {time_s[row + 1]:g} s, after {time_s[row]:g} s.",
            cure="Restore the recording; its rows may be shuffled or two recordings joined.",
        )
    return float((len(time_s) - 1) / (time_s[-1] - time_s[0]))


def dead_channels(signals: Signals) -> tuple[str, ...]:
    """The channels whose samples are all equal (zero variance): no electrode was on, or it was never recorded.

    In Part A of BioVid these are emg_corrugator and emg_zygomaticus: work on them needs Part B. A channel of noise
    without a body is not found.

    Example:
        >>> dead_channels(Signals(np.arange(3) / 512, 512.0, {"ecg": np.array([1.0, 2, 3]), "emg": np.zeros(3)}))
        ('emg',)
    """
    return tuple(name for name, values in signals.channels.items() if values.max() == values.min())


def sample_range(
    rate_hz: float, start_s: float, end_s: float, available: int, what: str = "The signal"
) -> tuple[int, int]:
    """The samples [first, last) that a span of time means.

    first is start * rate rounded half up, and last - first is (end - start) * rate rounded half down: a span has the
    same number of samples wherever it starts, and the span up to the very end never asks for one sample too many.

    Args:
        rate_hz: samples a second.
        start_s: where the span starts, in seconds from the first sample.
        end_s: where it ends; that moment's own sample is no longer in it.
        available: how many samples there are.
        what: the subject of the error's sentence.

    Raises:
        DatasetError: the rate is not above 0, the span is empty, or it reaches beyond the samples.

    Example:
        >>> sample_range(512, 2.0, 5.0, 2816)
        (1024, 2560)
    """
    check_rate(rate_hz)
    if not (math.isfinite(start_s) and math.isfinite(end_s) and 0 <= start_s < end_s):
        raise DatasetError(
            f"The span from {start_s:g} to {end_s:g} s is none.", cure="Choose 0 <= start < end, in seconds."
        )
    # Nine digits: 0.3 s at 1,000 Hz must not be 299.99999999999994 samples.
    first = math.floor(round(start_s * rate_hz, 9) + 0.5)
    count = math.ceil(round((end_s - start_s) * rate_hz, 9) - 0.5)
    if count == 0:
        raise DatasetError(
            f"The span from {start_s:g} to {end_s:g} s holds no sample at {rate_hz:g} Hz.", cure="Choose a longer one."
        )
    if first + count > available:
        raise DatasetError(
            f"{what} lasts {available / rate_hz:.6g} s ({available} samples at {rate_hz:g} Hz), which is too short for "
            f"the span from {start_s:g} to {end_s:g} s.",
            cure="Choose a span inside it, or leave this sample out.",
        )
    return first, first + count


def window(signal: np.ndarray, rate_hz: float, start_s: float, end_s: float) -> np.ndarray:
    """Cut the samples of a span of time: always ``(end_s - start_s) * rate_hz`` of them (see ``sample_range``).

    Filter before cutting: a filter's transients then lie outside the window.

    Args:
        signal: [..., n], time last.
        rate_hz: samples a second.
        start_s: seconds from the first sample.
        end_s: seconds from the first sample, beyond ``start_s``.

    Returns:
        A copy [..., m]; BioVid's pain window, 2 to 5 s at 512 Hz, has 1,536 samples.

    Raises:
        DatasetError: as ``sample_range``.

    Example:
        >>> window(np.arange(2816), 512, 2.0, 5.0).shape
        (1536,)
    """
    signal = np.asarray(signal)
    first, last = sample_range(rate_hz, start_s, end_s, signal.shape[-1] if signal.ndim else 0)
    return signal[..., first:last].copy()


def bandpass(
    signal: np.ndarray, rate_hz: float, *, low_hz: float | None = None, high_hz: float | None = None, order: int = 4
) -> np.ndarray:
    """Butterworth band-pass without phase shift; a high-pass or low-pass where one corner is None.

    The filter runs forwards and backwards (``scipy.signal.sosfiltfilt``), so nothing is delayed, the gain is squared
    and a corner is damped by 6 dB instead of 3: |H(f)|^2 of the analogue prototype is 1 / (1 + (f / fc)^(2 * order)).

    Args:
        signal: [..., n], time last, finite.
        rate_hz: samples a second.
        low_hz: lower corner in Hz, or None.
        high_hz: upper corner in Hz, below rate_hz / 2, or None.
        order: of the prototype.

    Returns:
        float64 [..., n] in the signal's units.

    Raises:
        DatasetError: the corners are not 0 < low < high < rate / 2, or both None; the signal is too short or not
            finite.

    Example:
        >>> t = np.arange(1024) / 512
        >>> bool(np.abs(bandpass(np.sin(2 * np.pi * 1 * t) + 7, 512, low_hz=20, high_hz=200)).max() < 0.01)
        True
    """
    from scipy.signal import butter

    check_rate(rate_hz)
    corners = [corner for corner in (low_hz, high_hz) if corner is not None]
    edges = [0.0, *corners, rate_hz / 2]
    if not corners or any(not a < b for a, b in pairwise(edges)):
        raise DatasetError(
            f"The filter's corners are {low_hz} and {high_hz} Hz at a rate of {rate_hz:g} Hz.",
            cure=f"Choose 0 < low < high < {rate_hz / 2:g} Hz (half the rate), at least one of them.",
        )
    kind = "lowpass" if low_hz is None else "highpass" if high_hz is None else "bandpass"
    return _both_ways(
        butter(order, corners if len(corners) > 1 else corners[0], kind, fs=rate_hz, output="sos"), signal
    )


def notch(signal: np.ndarray, rate_hz: float, *, centre_hz: float = 50.0, quality: float = 30.0) -> np.ndarray:
    """Take out the hum of the mains (50 Hz in Europe, where BioVid and RECOLA were recorded) without phase shift.

    Args:
        signal: [..., n], time last, finite.
        rate_hz: samples a second.
        centre_hz: what is taken out, in Hz.
        quality: centre / bandwidth: 30 takes out about 1.7 Hz around 50 Hz.

    Returns:
        float64 [..., n] in the signal's units.

    Raises:
        DatasetError: the centre is not between 0 and rate / 2, the quality is not above 0; the signal is too short or
            not finite.

    Example:
        >>> hum = np.sin(2 * np.pi * 50 * np.arange(2560) / 512)
        >>> bool(np.abs(notch(hum, 512)[1000:1500]).max() < 0.01)
        True
    """
    from scipy.signal import iirnotch, tf2sos

    check_rate(rate_hz)
    if not (0 < centre_hz < rate_hz / 2 and quality > 0):
        raise DatasetError(
            f"A notch at {centre_hz:g} Hz of quality {quality:g} does not go with a rate of {rate_hz:g} Hz.",
            cure=f"Choose a centre between 0 and {rate_hz / 2:g} Hz and a quality above 0.",
        )
    return _both_ways(tf2sos(*iirnotch(centre_hz, quality, fs=rate_hz)), signal)


def clean(signal: np.ndarray, rate_hz: float, preset: FilterPreset) -> np.ndarray:
    """Filter by one of the presets ``ECG`` (0.5 to 40 Hz), ``EDA`` (below 5 Hz) or ``EMG`` (20 to 250 Hz).

    An upper corner above 98 % of half the rate is lowered to that: at 512 Hz EMG keeps its 250 Hz, at 250 Hz it ends
    at 122.5 Hz.

    Args:
        signal: [..., n], time last, finite; the whole recording rather than a window of it.
        rate_hz: samples a second.
        preset: the corners.

    Returns:
        float64 [..., n] in the signal's units.

    Raises:
        DatasetError: the rate is too low for the preset, or as ``bandpass``.

    Example:
        >>> level = clean(np.full(1024, 8.25), 512, EDA)
        >>> bool(np.allclose(level, 8.25))
        True
    """
    check_rate(rate_hz)
    limit = 0.98 * rate_hz / 2
    high = None if preset.high_hz is None else min(preset.high_hz, limit)
    if preset.low_hz is not None and preset.low_hz >= limit:
        raise DatasetError(
            f"A rate of {rate_hz:g} Hz cannot show what lies between {preset.low_hz} and {preset.high_hz} Hz.",
            cure="Use the recording at its original rate, or another filter.",
        )
    return bandpass(signal, rate_hz, low_hz=preset.low_hz, high_hz=high, order=preset.order)


def resample(signal: np.ndarray, rate_hz: float, new_rate_hz: float) -> np.ndarray:
    """Change the sampling rate by a polyphase filter that keeps out aliases (``scipy.signal.resample_poly``).

    The line from the first to the last sample is taken out before and put back afterwards: an EDA level of 8
    microsiemens stays at 8 and does not sink to 0 at the ends, as it would between zeros.

    Args:
        signal: [..., n], time last, finite.
        rate_hz: the signal's rate.
        new_rate_hz: the rate wanted.

    Returns:
        float64 [..., ceil(n * new / old)].

    Raises:
        DatasetError: a rate is not above 0, their ratio is no fraction of numbers up to 10,000, the signal is empty or
            not finite.

    Example:
        >>> resample(np.full(17, 8.0), 512, 256).shape
        (9,)
    """
    from scipy.signal import resample_poly

    check_rate(rate_hz)
    check_rate(new_rate_hz)
    values = _finite(signal)
    ratio = (Fraction(new_rate_hz) / Fraction(rate_hz)).limit_denominator(10_000)
    up, down = ratio.numerator, ratio.denominator
    if not 0 < up <= 10_000 or abs(up / down * rate_hz / new_rate_hz - 1) > 1e-9:
        raise DatasetError(
            f"From {rate_hz:g} to {new_rate_hz:g} Hz is not a fraction of whole numbers up to 10,000.",
            cure="Choose rates in a simpler proportion, whole numbers of Hz for example.",
        )
    if up == down:
        return values.copy()
    # scipy's padtype="line" leaves a ripple of 7e-5 of the level, and NaN of one sample; so the line goes round it.
    count = values.shape[-1]
    start = values[..., :1]
    slope = (values[..., -1:] - start) / max(1, count - 1)
    level = resample_poly(values - (start + slope * np.arange(count)), up, down, axis=-1)
    return level + start + slope * (np.arange(level.shape[-1]) * down / up)


def check_rate(rate_hz: float) -> None:
    """Refuse what is no sampling rate.

    Raises:
        DatasetError: the rate is not a finite number above 0.
    """
    if not (math.isfinite(rate_hz) and rate_hz > 0):
        raise DatasetError(f"The rate is {rate_hz!r} Hz.", cure="Give a finite rate above 0, in Hz.")


def _finite(signal: np.ndarray) -> np.ndarray:
    values = np.asarray(signal, dtype=np.float64)
    if values.ndim == 0 or values.size == 0:
        raise DatasetError(f"The signal is empty: its shape is {list(values.shape)}.", cure="Give it samples [..., n].")
    wrong = int(values.size - np.isfinite(values).sum())
    if wrong:
        # One NaN would spread over the whole filtered recording.
        raise DatasetError(
            f"The signal has {wrong} of {values.size} samples that are NaN or infinite.",
            cure="Fill them in, or leave this sample out.",
        )
    return values


def _both_ways(sections: np.ndarray, signal: np.ndarray) -> np.ndarray:
    from scipy.signal import sosfiltfilt

    values = _finite(signal)
    # scipy's own padding; it refuses what is not longer than that.
    zeros = min(int((sections[:, 2] == 0).sum()), int((sections[:, 5] == 0).sum()))
    padding = 3 * (2 * len(sections) + 1 - zeros)
    if values.shape[-1] <= padding:
        raise DatasetError(
            f"The signal has {values.shape[-1]} samples; this filter needs more than {padding}.",
            cure="Filter the whole recording, and cut windows afterwards.",
        )
    return sosfiltfilt(sections, values, axis=-1, padlen=padding)


def _read_table(
    path: Path, separator: str, separators: str, required: Sequence[str], small_letters: bool = False
) -> pd.DataFrame:
    """A CSV of numbers as float64 columns with clean names, or a ``DatasetError`` that says what it has instead."""
    try:
        with warnings.catch_warnings():
            # pandas would drop the surplus cells of a row with no more than this warning.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(path, sep=separator, encoding="utf-8-sig", index_col=False, low_memory=False)
            # By themselves, since pandas calls a repeated name 'ecg.1'.
            header = pd.read_csv(path, sep=separator, encoding="utf-8-sig", header=None, nrows=1, dtype=str)
    except FileNotFoundError as error:
        raise DatasetError(
            f"{path} does not exist: this sample has no biosignals there.",
            cure="Check the path, or leave the sample out.",
        ) from error
    except pd.errors.ParserWarning as error:
        raise DatasetError(
            f"{path} has more cells in its rows than columns in its header.", cure="Name every column in the header."
        ) from error
    except (OSError, ValueError) as error:
        # pandas' errors for empty and ragged files, and undecodable text, are ValueErrors.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DatasetError(
            f"{path} cannot be read as a table separated by {separators} ({reason}).",
            cure="Check that the file is whole, or restore it.",
        ) from error
    names = [name.strip() for name in header.fillna("").iloc[0]]
    table.columns = pd.Index([name.lower() for name in names] if small_letters else names)
    # A header that ends with a separator names a last column of nothing.
    if names[-1] == "" and table.iloc[:, -1].isna().all():
        table = table.iloc[:, :-1]
    missing = [name for name in required if name not in table]
    if missing:
        other = len(names) == 1 and any(mark in names[0] for mark in ",;\t")
        raise DatasetError(
            f"{path} has the columns {some(names)}, without {some(missing)}.",
            cure=f"Separate the columns by {separators}."
            if other
            else f"Expected are the columns {', '.join(required)}, separated by {separators}.",
        )
    if "" in table:
        raise DatasetError(
            f"{path} has no name for column {names.index('') + 1} of {len(names)}.", cure="Name it or remove it."
        )
    twice = table.columns[table.columns.duplicated()]
    if len(twice):
        raise DatasetError(f"{path} has the column {some(twice)} twice.", cure="Keep one of them.")
    if table.empty:
        raise DatasetError(f"{path} has a header but no rows.", cure="Restore the file, or leave the sample out.")
    return pd.DataFrame({str(name): _numbers(path, table[name]) for name in table.columns})


def _numbers(path: Path, cells: pd.Series) -> np.ndarray:
    numbers = pd.to_numeric(cells, errors="coerce").to_numpy(dtype=np.float64)
    wrong = np.flatnonzero(~np.isfinite(numbers))
    if len(wrong):
        cell = cells.iloc[int(wrong[0])]
        comma = isinstance(cell, str) and "," in cell
        raise DatasetError(
            f"{path} has {len(wrong)} cells in column '{cells.name}' that are no finite numbers, the first "
            f"({'empty' if pd.isna(cell) else repr(str(cell))}) in row {int(wrong[0]) + 1} of the data.",
            cure="Write decimals with a point." if comma else "Restore the file, or leave the sample out.",
        )
    return numbers


def _check_clock(path: Path, time_s: np.ndarray, rate_hz: float, unit: str) -> None:
    try:
        found = estimated_rate(time_s)
    except DatasetError as error:
        raise DatasetError(f"{path}: {error.what}", cure=error.cure) from error
    gaps = np.diff(time_s)
    widest = int(gaps.argmax())
    # The rate comes first: a wrong unit is a gap everywhere.
    typical = 1 / float(np.median(gaps))
    if abs(typical / rate_hz - 1) > _RATE_TOLERANCE:
        raise DatasetError(
            f"{path} has times that run at {typical:.6g} Hz when {unit}, not at {rate_hz:g} Hz.",
            cure="Restore the original file; its time column may be in another unit.",
        )
    if gaps[widest] > _GAP_SAMPLES / rate_hz or abs(found / rate_hz - 1) > _RATE_TOLERANCE:
        raise DatasetError(
            f"{path} lacks samples: after {time_s[widest]:.6g} s the next one is at {time_s[widest + 1]:.6g} s, and "
            f"the mean rate is {found:.6g} Hz.",
            cure="Restore the file, or leave the sample out.",
        )
