"""Spectrograms: the papers' log-mel presets for voices, log spectrograms for biosignals, z-scores."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pkdray.data.media.biosignals import BIOVID_RATE_HZ, check_rate
from pkdray.data.media.threads import one_thread
from pkdray.errors import DatasetError

if TYPE_CHECKING:
    from torch import nn

BIOVID_DECLARED_RATE_HZ = 1000.0
_POWER_FLOOR = 1e-10


@dataclass(frozen=True)
class MelPreset:
    """How a log-mel spectrogram is made.

    Args:
        rate_hz: the samples' rate.
        win_length: samples in a (Hann) window.
        hop_length: samples from one column to the next.
        n_fft: length of the Fourier transform; the window is centred in it.
        n_mels: rows: triangular filters between 0 Hz and half the rate on the HTK mel scale, not normalised.
        top_db: what is more than this below the loudest cell of a clip is raised to it.
        mean: subtracted from the decibels; None for neither mean nor std.
        std: divided by.
    """

    rate_hz: int
    win_length: int
    hop_length: int
    n_fft: int
    n_mels: int
    top_db: float = 80.0
    mean: float | None = None
    std: float | None = None

    def columns(self, samples: int) -> int:
        """Columns of the spectrogram of so many samples: 1 + floor(samples / hop_length).

        Example:
            >>> AFFWILD2.columns(round(32 / 30 * 44100))
            107
        """
        return 1 + samples // self.hop_length


AFFWILD2 = MelPreset(44_100, 882, 441, 1024, 64, mean=-14.8, std=19.895)
"""Aff-Wild2: windows of 20 ms every 10 ms; 32 frames at 30 fps (47,040 samples) give 64 x 107. Kuhnke et al. (2020),
"Two-Stream Aural-Visual Affect Analysis in the Wild", whose mean and std these are, in dB."""

RECOLA = MelPreset(16_000, 400, 160, 512, 64)
"""RECOLA: the paper says 16 kHz, clips of 1 s, log-mel and z-score, and no more. Windows of 25 ms every 10 ms and 64
mels are OUR choice (usual for speech); a clip gives 64 x 101. No mean and std: take ``moments`` of the train clips."""


class Spectrogram(NamedTuple):
    """A log spectrogram with its axes.

    Args:
        values: float32 [..., F, T], dB.
        frequencies_hz: [F], in Hz.
        times_s: [T], the middle of each column's window, in seconds from the first sample.
    """

    values: np.ndarray
    frequencies_hz: np.ndarray
    times_s: np.ndarray


def log_mel(samples: np.ndarray, preset: MelPreset, *, rate_hz: float) -> np.ndarray:
    """Log-mel spectrogram of a clip, as torchaudio's ``MelSpectrogram`` and ``AmplitudeToDB("power")`` make it.

        dB = 10 log10(max(mel power, 1e-10)), at least max(dB) - top_db; (dB - mean) / std where the preset has them

    The samples are mirrored at both ends, so that column k is centred on sample k * hop_length. The loudest cell is
    taken over each clip by itself: a clip does not depend on what stands beside it in a batch, but cutting a
    spectrogram is not the same as the spectrogram of a cut.

    Args:
        samples: [n] or [clips, n], in [-1, 1].
        preset: ``AFFWILD2``, ``RECOLA`` or your own.
        rate_hz: the samples' rate, which must be the preset's (``read_audio`` resamples and returns it).

    Returns:
        float32 [n_mels, columns] or [clips, n_mels, columns], columns = 1 + floor(n / hop_length). Digital silence is
        -100 dB everywhere.

    Raises:
        DatasetError: the rate is not the preset's; there are no more than n_fft / 2 samples; samples are not finite.

    Example:
        >>> log_mel(np.zeros(47_040, dtype=np.float32), AFFWILD2, rate_hz=44_100).shape
        (64, 107)
    """
    import torch

    if rate_hz != preset.rate_hz:
        raise DatasetError(
            f"The samples have {rate_hz:g} Hz, but the preset is for {preset.rate_hz} Hz.",
            cure=f"Read the audio with rate_hz={preset.rate_hz}.",
        )
    values = np.ascontiguousarray(samples, dtype=np.float32)
    if values.ndim not in (1, 2) or values.shape[-1] <= preset.n_fft // 2 or not values.size:
        raise DatasetError(
            f"The samples have shape {list(values.shape)}; a log-mel spectrogram needs [n] or [clips, n] with n above "
            f"{preset.n_fft // 2} ({preset.n_fft // 2 / preset.rate_hz:.3g} s).",
            cure="Take a longer clip, or put silence before it.",
        )
    if not np.isfinite(values).all():
        raise DatasetError(
            f"{int((~np.isfinite(values)).sum())} of {values.size} samples are NaN or infinite.",
            cure="Restore the recording, or leave this clip out.",
        )
    with torch.inference_mode(), one_thread():
        decibels = 10 * torch.log10(_mel_transform(preset)(torch.from_numpy(values)).clamp(min=_POWER_FLOOR))
        decibels = torch.maximum(decibels, decibels.amax(dim=(-2, -1), keepdim=True) - preset.top_db)
    result = decibels.numpy()
    if preset.mean is None or preset.std is None:
        return result
    return zscore(result, preset.mean, preset.std)


def clip_of(spectrogram: np.ndarray, frames: int, left_pad: bool = True, fill: float = 0.0) -> np.ndarray:
    """Give a spectrogram exactly ``frames`` columns, the latest ones: a clip's label is that of its end.

    A shorter one (the start of a recording) is preceded by columns of ``fill``; a longer one loses its first columns.

    Args:
        spectrogram: [..., F, T], T at least 1.
        frames: the columns wanted, such as 107 for Aff-Wild2.
        left_pad: False pads and cuts at the end instead.
        fill: 0 is the mean of a normalised spectrogram, as in the public Aff-Wild2 code; without normalisation pass the
            silence's level in dB.

    Returns:
        A new array [..., F, frames].

    Raises:
        DatasetError: the spectrogram has no columns, or ``frames`` is below 1.

    Example:
        >>> clip_of(np.array([[1.0, 2.0], [3.0, 4.0]]), 3).tolist()
        [[0.0, 1.0, 2.0], [0.0, 3.0, 4.0]]
    """
    values = np.asarray(spectrogram)
    if values.ndim < 2 or values.shape[-1] < 1 or frames < 1:
        raise DatasetError(
            f"A spectrogram of shape {list(values.shape)} cannot become a clip of {frames} columns.",
            cure="Give a spectrogram [..., F, T] with a column or more, and ask for one or more.",
        )
    kept = min(frames, values.shape[-1])
    clip = np.full((*values.shape[:-1], frames), fill, dtype=values.dtype)
    if left_pad:
        clip[..., frames - kept :] = values[..., values.shape[-1] - kept :]
    else:
        clip[..., :kept] = values[..., :kept]
    return clip


def log_spectrogram(
    signal: np.ndarray, rate_hz: float, nperseg: int, noverlap: int, nfft: int, floor: float = _POWER_FLOOR
) -> Spectrogram:
    """Log spectrogram of a biosignal: 10 log10(max(power density, floor)).

    The power density is that of ``scipy.signal.spectrogram`` with its usual window (Tukey 0.25) after each segment's
    mean was taken out, in the signal's units squared per Hz. Another rate only stretches the frequencies and adds
    10 log10(true / other) to all values, which a z-score takes out again; so does another base of the logarithm.

    Args:
        signal: [..., n], time last: microvolts, for the default floor to lie below an amplifier's noise.
        rate_hz: the TRUE rate of the samples.
        nperseg: samples in a segment.
        noverlap: samples that neighbours share.
        nfft: length of the Fourier transform, at least nperseg.
        floor: the smallest power density told apart, units squared per Hz. A constant signal lies on it everywhere
            (``dead_channels`` finds those beforehand).

    Returns:
        Values float32 [..., nfft // 2 + 1, (n - noverlap) // (nperseg - noverlap)] and their axes.

    Raises:
        DatasetError: the sizes do not go together, the signal is shorter than a segment or not finite, or it varies so
            little that all of it would lie on the floor.

    Example:
        >>> log_spectrogram(np.random.default_rng(0).normal(size=1536), 512, 16, 4, 128).values.shape
        (65, 127)
    """
    from scipy.signal import spectrogram

    check_rate(rate_hz)
    values = np.asarray(signal, dtype=np.float64)
    if not (0 <= noverlap < nperseg <= nfft and floor > 0):
        raise DatasetError(
            f"nperseg {nperseg}, noverlap {noverlap}, nfft {nfft} and floor {floor:g} do not go together.",
            cure="Choose 0 <= noverlap < nperseg <= nfft and a floor above 0.",
        )
    if values.ndim < 1 or values.shape[-1] < nperseg or not values.size:
        raise DatasetError(
            f"The signal has shape {list(values.shape)}; one segment needs {nperseg} samples.",
            cure="Take a longer window.",
        )
    if not np.isfinite(values).all():
        raise DatasetError(
            f"{int((~np.isfinite(values)).sum())} of {values.size} samples are NaN or infinite.",
            cure="Fill them in, or leave this sample out.",
        )
    # Spelled out, so that a change of scipy's defaults cannot change our features.
    frequencies, times, power = spectrogram(
        values,
        fs=rate_hz,
        window=("tukey", 0.25),
        nperseg=nperseg,
        noverlap=noverlap,
        nfft=nfft,
        detrend="constant",
        scaling="density",
        mode="psd",
        axis=-1,
    )
    if power.max() <= floor and np.ptp(values, axis=-1).max() > 0:
        raise DatasetError(
            f"The signal's power density is at most {power.max():.3g}, below the floor of {floor:g}: its spectrogram "
            "would be flat.",
            cure="Give the signal in microvolts rather than in volts, or a lower floor.",
        )
    return Spectrogram((10 * np.log10(np.maximum(power, floor))).astype(np.float32), frequencies, times)


def biovid_spectrogram(signal: np.ndarray, *, faithful: bool = False) -> Spectrogram:
    """Log spectrogram of BioVid's biosignals in the PKDOT setting: nperseg 16, noverlap 4, nfft 128.

    Args:
        signal: [..., n] at 512 Hz; 1,536 samples (2 to 5 s) give 65 x 127.
        faithful: declare the rate of 1,000 Hz as the authors' code does instead of the true 512 Hz. The shape stays;
            the axes are wrong, and every value is 10 log10(1000 / 512) = 2.9 dB lower.

    Raises:
        DatasetError: as ``log_spectrogram``.

    Example:
        >>> biovid_spectrogram(np.random.default_rng(0).normal(size=1536)).frequencies_hz[-1].item()
        256.0
    """
    return log_spectrogram(signal, BIOVID_DECLARED_RATE_HZ if faithful else BIOVID_RATE_HZ, 16, 4, 128)


def moments(train: Iterable[np.ndarray]) -> tuple[float, float]:
    """Mean and (population) standard deviation over all cells of the TRAIN clips, for ``zscore``.

    Val and test clips must not come in: what is known of them would enter training.

    Args:
        train: arrays of any shapes and sizes, read one by one.

    Raises:
        DatasetError: there are no cells, or they are not finite, or all are equal.

    Example:
        >>> moments([np.array([1.0, 3.0]), np.array([[5.0]])])
        (3.0, 1.632993161855452)
    """
    count, mean, squares = 0, 0.0, 0.0
    for clip in train:
        values = np.asarray(clip, dtype=np.float64)
        if not values.size:
            continue
        # Chan et al.'s update: sums of squares alone would cancel where the mean is large beside the spread.
        step, total = float(values.mean()) - mean, count + values.size
        squares += float(np.square(values - values.mean()).sum()) + step**2 * count * values.size / total
        mean += step * values.size / total
        count = total
    std = float(np.sqrt(squares / count)) if count else 0.0
    if not (np.isfinite(mean) and np.isfinite(std)):
        raise DatasetError("The train clips have NaN or infinite values.", cure="Leave these clips out.")
    if std <= 1e-12 * abs(mean) or std == 0:
        raise DatasetError(
            f"The train clips have {count} values and a standard deviation of {std:g}.",
            cure="Give clips that are not all the same; a dead channel has nothing to standardise.",
        )
    return mean, std


def zscore(values: np.ndarray, mean: float | np.ndarray, std: float | np.ndarray) -> np.ndarray:
    """(values - mean) / std, with a mean and std of TRAINING data only (``moments``), as float32.

    Args:
        values: any shape.
        mean: a number, or an array that broadcasts against ``values``.
        std: the same; above 0.

    Raises:
        DatasetError: mean or std is not finite, std is not above 0, or they would change the shape of ``values``.

    Example:
        >>> zscore(np.array([1.0, 5.0]), 3.0, 2.0).tolist()
        [-1.0, 1.0]
    """
    values = np.asarray(values)
    if not (np.isfinite(mean).all() and np.isfinite(std).all() and (np.asarray(std) > 0).all()):
        raise DatasetError(
            f"A z-score by mean {mean!r} and std {std!r} is not defined.", cure="Give finite numbers, std above 0."
        )
    try:
        same = np.broadcast_shapes(values.shape, np.shape(mean), np.shape(std)) == values.shape
    except ValueError:
        same = False
    if not same:
        raise DatasetError(
            f"Values of shape {list(values.shape)} do not go with a mean {list(np.shape(mean))} and a std "
            f"{list(np.shape(std))}.",
            cure="Measure mean and std on values of the same layout.",
        )
    return ((values - mean) / std).astype(np.float32)


@lru_cache(maxsize=8)
def _mel_transform(preset: MelPreset) -> nn.Module:
    from torchaudio.transforms import MelSpectrogram

    return MelSpectrogram(
        sample_rate=preset.rate_hz,
        n_fft=preset.n_fft,
        win_length=preset.win_length,
        hop_length=preset.hop_length,
        n_mels=preset.n_mels,
        power=2.0,
        center=True,
        pad_mode="reflect",
        norm=None,
        mel_scale="htk",
    )
