"""Audio tracks as arrays: decoded by PyAV, resampled by torchaudio."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pkdray.data.media.biosignals import check_rate, sample_range
from pkdray.errors import DatasetError

# Containers round their time stamps (Matroska to 1 ms) and codecs start within a frame; what is more is a gap.
_JITTER_S = 0.02
# One frame of AAC or MP3 and a bit: less than that may be missing at the end of a sound file.
_SHORTFALL_S = 0.1
# RIFF sizes that a program writes when it does not know the length yet (ffmpeg, sox, arecord writing to a pipe).
_STREAMED = 0x7FFFF000
# Some writers count the RIFF header in or forget a padding byte.
_RIFF_SLACK_BYTES = 64
# Kaiser window as resampy's "kaiser_best": against torchaudio's defaults, a tone at 8.1 kHz that must vanish on the way
# from 44.1 to 16 kHz keeps -101 dB instead of -7 dB, in twice the (short) time. PyAV's own resampler keeps -13 dB.
_KAISER = {
    "lowpass_filter_width": 64,
    "rolloff": 0.9475937167399596,
    "resampling_method": "sinc_interp_kaiser",
    "beta": 14.769656459379492,
}
# Elements of the resampling kernel: 44,100 to 16,000 Hz has 160 * 794.
_KERNEL_LIMIT = 20_000_000


def read_audio(
    path: str | Path,
    *,
    rate_hz: int | None = None,
    mono: bool = True,
    start_s: float = 0.0,
    end_s: float | None = None,
) -> tuple[np.ndarray, int]:
    """Decode the audio track of a sound file or a video.

    Time zero is the file's own (the start of whichever of its tracks starts first), so that samples and video frames
    line up: a track that starts late is preceded by silence, a gap in its time stamps is filled with silence. What
    was asked for is cut after resampling, so a cut equals the same cut of the whole. Decoding always starts at the
    beginning, since a seek lands at a different sample in every codec: to cut many clips, read the whole once.

    Args:
        path: any container that FFmpeg reads (wav, flac, mp3, m4a, mp4, avi ...); of several tracks, the best.
        rate_hz: the rate wanted, a whole number of Hz; None for the file's own. Resampling keeps everything below 0.95
            times half the lower rate, and damps aliases by 100 dB.
        mono: average the channels.
        start_s: seconds from time zero.
        end_s: seconds from time zero, beyond ``start_s``; None for the end of the track.

    Returns:
        Samples float32 [n] (``mono``) or [channels, n], integers scaled so that full scale is [-1, 1] (floats as they
        are, and lossy codecs may overshoot a little), and their rate in Hz. n = (end_s - start_s) * rate.

    Raises:
        DatasetError: the file is missing, empty, corrupt or truncated; it has no audio track, or one without samples;
            samples are not finite; the span reaches beyond the track; the rate is no rate.

    Example:
        >>> import tempfile, wave
        >>> path = Path(tempfile.mkdtemp()) / "half.wav"
        >>> with wave.open(str(path), "wb") as file:
        ...     file.setparams((1, 2, 8000, 0, "NONE", ""))
        ...     file.writeframes(np.full(4000, 16384, dtype="<i2").tobytes())
        >>> samples, rate = read_audio(path)
        >>> samples.shape, rate, samples[0].item()
        ((4000,), 8000, 0.5)
    """
    path = Path(path)
    if rate_hz is not None:
        check_rate(rate_hz)
        if rate_hz != int(rate_hz):
            raise DatasetError(f"The rate is {rate_hz!r} Hz.", cure="Choose a whole number of Hz.")
    if not (math.isfinite(start_s) and start_s >= 0 and (end_s is None or (math.isfinite(end_s) and end_s > start_s))):
        raise DatasetError(
            f"The span from {start_s!r} to {end_s!r} s is none.", cure="Choose 0 <= start < end, in seconds."
        )
    samples, native = _decoded(path, end_s, mono, rate_hz)
    rate = native if rate_hz is None else int(rate_hz)
    samples = resample_audio(samples, native, rate)
    if end_s is not None:
        first, last = sample_range(rate, start_s, end_s, samples.shape[-1], f"The audio of {path}")
        samples = samples[..., first:last]
    elif start_s:
        length = samples.shape[-1] / rate
        if start_s >= length:
            raise DatasetError(
                f"The audio of {path} lasts {length:.6g} s, so nothing starts at {start_s:g} s.",
                cure="Choose an earlier start, or leave this sample out.",
            )
        samples = samples[..., sample_range(rate, start_s, length, samples.shape[-1])[0] :]
    return np.ascontiguousarray(samples), rate


def resample_audio(samples: np.ndarray, rate_hz: int, new_rate_hz: int) -> np.ndarray:
    """Resample audio by a windowed sinc (``torchaudio.functional.resample``, Kaiser window of 64 zero crossings).

    Args:
        samples: float32 [..., n], time last.
        rate_hz: their rate, a whole number of Hz.
        new_rate_hz: the rate wanted.

    Returns:
        float32 [..., ceil(n * new / old)].

    Raises:
        DatasetError: the two rates have hardly a common divisor, so that the filter would fill the memory.

    Example:
        >>> resample_audio(np.zeros((2, 44_100), dtype=np.float32), 44_100, 16_000).shape
        (2, 16000)
    """
    if rate_hz == new_rate_hz:
        return samples
    import torch
    from torchaudio.functional import resample

    common = math.gcd(rate_hz, new_rate_hz)
    old, new = rate_hz // common, new_rate_hz // common
    width = math.ceil(_KAISER["lowpass_filter_width"] * old / (min(old, new) * _KAISER["rolloff"]))  # type: ignore[operator]
    if new * (2 * width + old) > _KERNEL_LIMIT:
        raise DatasetError(
            f"From {rate_hz} to {new_rate_hz} Hz is a ratio of {new}/{old}, for which the filter would be too large.",
            cure="Choose a rate in a simpler proportion, such as 16000 or 44100 Hz.",
        )
    with torch.inference_mode():
        tensor = torch.from_numpy(np.ascontiguousarray(samples, dtype=np.float32))
        return resample(tensor, rate_hz, new_rate_hz, **_KAISER).numpy()


def _decoded(path: Path, end_s: float | None, mono: bool, rate_hz: int | None) -> tuple[np.ndarray, int]:
    """The track's samples up to a little beyond ``end_s``, at its own rate."""
    import av

    _check_file(path)
    try:
        # A title in Latin-1 is no reason not to listen.
        # Nor may a playlist inside a dataset fetch anything.
        container = av.open(str(path.absolute()), metadata_errors="replace", options={"protocol_whitelist": "file"})
    except av.error.FFmpegError as error:
        raise DatasetError(
            f"{path} cannot be opened as audio or video: it is truncated, damaged or of another format "
            f"({error.strerror or error}).",
            cure="Restore the file; an mp4 that was never finished has to be recorded or exported again.",
        ) from error
    with container:
        stream: Any = container.streams.best("audio")
        if stream is None:
            others = ", ".join(sorted({other.type for other in container.streams})) or "no streams"
            raise DatasetError(
                f"{path} has no audio track, only {others}.", cure="Leave this sample out, or give the sound file."
            )
        rate = int(stream.codec_context.sample_rate or 0)
        if rate <= 0:
            raise DatasetError(f"{path} has an audio track without a sampling rate.", cure="Restore the file.")
        wanted = math.inf
        if end_s is not None:
            # The resampling filter looks ahead.
            ahead = 80 / min(rate, rate_hz or rate)
            wanted = math.ceil((end_s + ahead) * rate)
        blocks: list[np.ndarray] = []
        count = 0
        for block in _blocks(path, container, stream, rate):
            blocks.append(block.mean(axis=0, keepdims=True) if mono and len(block) > 1 else block)
            count += block.shape[1]
            if count >= wanted:
                break
        else:
            _check_length(path, container, stream, count, rate)
    if not count:
        raise DatasetError(
            f"{path} has an audio track without samples.", cure="Restore the file, or leave this sample out."
        )
    samples = np.concatenate(blocks, axis=1)
    wrong = int(samples.size - np.isfinite(samples).sum())
    if wrong:
        raise DatasetError(
            f"{path} has {wrong} of {samples.size} samples that are NaN or infinite.",
            cure="Restore the file, or leave this sample out.",
        )
    return samples[0] if mono else samples, rate


def _blocks(path: Path, container: Any, stream: Any, rate: int) -> Iterator[np.ndarray]:
    """Float32 blocks [channels, m] that follow one another without gaps from the file's time zero on."""
    import av

    lossless = stream.codec_context.name == "flac"
    if lossless:
        # FFmpeg would otherwise play every second damaged frame of FLAC as noise.
        stream.codec_context.options = {"err_detect": "crccheck+explode"}
    # Only the sample format changes: integers become floats with full scale at 1, whatever their width.
    to_float = av.AudioResampler(format="fltp")
    # As for the pictures: the file's start, but never before 0.
    zero = max(0, container.start_time or 0) / av.time_base
    # A damaged time stamp must not ask for a year of silence.
    latest_s = (container.duration / av.time_base if container.duration else 3600.0) + 1
    position = 0
    try:
        for frame in container.decode(stream):
            if frame.sample_rate != rate:
                raise _damaged(path, position / rate, f"its rate changes from {rate} to {frame.sample_rate} Hz")
            drift = 0 if frame.time is None else round((frame.time - zero) * rate) - position
            # The first frame counts to the sample; afterwards rounded time stamps must not tear the signal.
            if position and abs(drift) <= _JITTER_S * rate:
                drift = 0
            if drift > 0 and lossless and position:
                raise _damaged(path, position / rate, f"{drift / rate:.3g} s are missing")
            if drift > 0 and (position + drift) / rate > latest_s:
                raise _damaged(path, position / rate, f"the next time stamp is {(position + drift) / rate:.3f} s")
            for converted in to_float.resample(frame):
                block = converted.to_ndarray()
                if drift > 0:
                    yield np.zeros((len(block), drift), dtype=np.float32)
                    position += drift
                elif drift < 0:
                    # Stamped before what was already given, or before time zero.
                    cut = min(-drift, block.shape[1])
                    block = block[:, cut:]
                drift = 0
                position += block.shape[1]
                yield block
    except (av.error.FFmpegError, ValueError) as error:
        # AudioResampler answers a change of the layout or the format with a ValueError.
        raise _damaged(path, position / rate, getattr(error, "strerror", None) or str(error)) from error


def _damaged(path: Path, time_s: float, reason: str) -> DatasetError:
    return DatasetError(
        f"{path} is truncated or damaged: its audio cannot be decoded after {time_s:.3f} s ({reason}).",
        cure="Restore the file, or leave this sample out.",
    )


def _check_file(path: Path) -> None:
    """Refuse what FFmpeg would take without a word: no file, an empty one, or half a RIFF file (wav, avi)."""
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise IsADirectoryError("it is a folder")
        with path.open("rb") as file:
            head = file.read(12)
    except FileNotFoundError as error:
        raise DatasetError(f"{path} does not exist.", cure="Check the path.") from error
    except OSError as error:
        raise DatasetError(
            f"{path} cannot be read ({error.strerror or error}).", cure="Give the path of a file that you may read."
        ) from error
    if size == 0:
        raise DatasetError(f"{path} is empty (0 bytes).", cure="Restore the file, or leave this sample out.")
    said = int.from_bytes(head[4:8], "little")
    # An avi above 1 GB goes on in further RIFF chunks, so a file may well be longer than the first one says.
    if head[:4] == b"RIFF" and 0 < said < _STREAMED and said + 8 > size + _RIFF_SLACK_BYTES:
        raise DatasetError(
            f"{path} is truncated: its header says {said + 8} bytes, but it has {size}.",
            cure="Restore the file, or leave this sample out; if the header is wrong, write the file again "
            "(ffmpeg -i old.wav new.wav).",
        )


def _check_length(path: Path, container: Any, stream: Any, count: int, rate: int) -> None:
    """Compare what was decoded with what the file says, where it says so and does not guess from a bit rate."""
    import av

    said = None
    kind = container.format.name
    if stream.duration is not None and stream.time_base is not None:
        # An mp3's length is known only with a Xing header, of which the encoder's delay at the start is the sign.
        if kind in ("wav", "flac", "ogg") or "mp4" in kind or (kind == "mp3" and stream.start_time):
            said = float(stream.duration * stream.time_base)
    elif "matroska" in kind and len(container.streams) == 1 and container.duration is not None:
        # Matroska counts from zero to the end, even where nothing is at the start.
        said = (container.duration - (container.start_time or 0)) / av.time_base
    if said is not None and count / rate < said - _SHORTFALL_S:
        raise DatasetError(
            f"{path} is truncated: it should last {said:.3f} s, but only {count / rate:.3f} s can be decoded.",
            cure="Restore the file, or leave this sample out.",
        )
