"""Video as frames with times: PyAV (FFmpeg), decoded forward, and never a broken file taken for a whole one.

Times are seconds from the file's own zero, the start of whichever of its streams starts first, as for ``read_audio``
and for players: a picture that starts after the sound starts late here too, while a clock that does not begin at 0
(MPEG-TS, FLV, fragmented MP4) is put right.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pkdray.errors import DatasetError

_INSTANT = 1e-6
"""Seconds within which two times are the same: 3 * 0.1 is not quite 0.3."""

_STILL_S = 60.0
"""A picture that stands still for longer is taken for a damaged time stamp, not repeated a million times."""

# RIFF lengths: what programs write that do not know it yet, and how wrong those are that count the header in.
_STREAMED = 0x7FFFF000
_RIFF_SLACK = 64

# FFmpeg takes pictures, and text, for videos of one frame or a few.
_NO_VIDEO = ("image2", "tty", "bin", "xbin", "adf", "idf")


@dataclass(frozen=True)
class VideoInfo:
    """What a video's header says of it.

    Args:
        width: pixels, as displayed: after the rotation that phones note in the header.
        height: pixels, as displayed.
        rate_hz: mean number of frames a second; None where nothing says it.
        duration_s: seconds; None where the header does not say it.
        frames: how many; None where the header does not say it (MKV, WebM, MPEG-TS).
    """

    width: int
    height: int
    rate_hz: float | None
    duration_s: float | None
    frames: int | None


@dataclass(frozen=True, eq=False, slots=True)
class Frame:
    """One picture of a video.

    Args:
        time_s: when it is shown, in seconds from the beginning of the file.
        image: uint8 RGB [H, W, 3], its own memory.
    """

    time_s: float
    image: np.ndarray


def probe(path: str | Path) -> VideoInfo:
    """What a video is, from its header and its first frame.

    Raises:
        DatasetError: the file is missing, empty or damaged, holds no video, or not even its first frame can be decoded.

    Example:
        >>> from pkdray.data.media.video import probe
        >>> probe("071309_w_21-PA4-006.mp4")  # doctest: +SKIP
        VideoInfo(width=640, height=480, rate_hz=25.0, duration_s=5.48, frames=137)
    """
    with closing(_Reader(Path(path))) as reader:
        first = next(reader.shots(), None)
        assert first is not None  # The reader raises where there is no frame.
        height, width = first.picture.height, first.picture.width
        if _turn(first.picture).transposed:
            height, width = width, height
        return VideoInfo(width, height, reader.rate_hz, reader.duration_s, reader.frames)


def read_frames(
    path: str | Path,
    *,
    start_s: float = 0.0,
    end_s: float | None = None,
    rate_hz: float | None = None,
    size: tuple[int, int] | None = None,
) -> Iterator[Frame]:
    """The frames of a video with start_s <= time < end_s, one by one, upright, in order of time.

    Decodes forward from the beginning, since a seek lands on some earlier frame, and stops at ``end_s``. A video that
    ends before ``end_s`` just has fewer frames.

    With ``rate_hz``, the frames are put on the grid t_k = start_s + k / rate_hz: every t_k takes the latest frame shown
    by then (repeating or skipping frames), and ``time_s`` is t_k. The grid begins where the first frame does and ends
    with the last frame's duration. A timestamp that its container rounded (MKV counts milliseconds) still counts as on
    the grid. No frame is repeated for more than a minute.

    Args:
        path: a video file of any container and codec that FFmpeg knows; the content counts, not the suffix.
        start_s: seconds, >= 0.
        end_s: seconds, > start_s; None for the end of the video.
        rate_hz: frames a second, > 0; None for the video's own frames.
        size: (height, width) in pixels to scale to; None for the video's own.

    Raises:
        DatasetError: the file is missing, empty, no video, truncated or damaged. It is raised after the frames that
            could be read, and says how many those are: whoever collects frames must not keep them. A file that is
            shorter than it says is refused even if ``end_s`` is before the cut; other damage behind ``end_s`` is not
            looked for. Damage that still decodes to a picture cannot be seen, since video carries no checksums, nor can
            a cut between two frames in formats that do not say how long they are (MPEG-TS, raw H.264).
        ValueError: an argument is out of its domain.

    Example:
        >>> frames = list(read_frames("071309_w_21-PA4-006.mp4", start_s=2.0, end_s=5.0))  # doctest: +SKIP
        >>> len(frames), frames[0].time_s, frames[0].image.shape  # doctest: +SKIP
        (75, 2.0, (480, 640, 3))
    """
    _check_window(start_s, end_s)
    if rate_hz is not None and not 0 < rate_hz < float("inf"):
        raise ValueError(f"rate_hz is {rate_hz}. Choose a finite rate above 0.")
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise ValueError(f"size is {size}. Give (height, width) in pixels, each at least 1.")
    return _read(Path(path), start_s, end_s, rate_hz, size)


def frame_times(path: str | Path) -> tuple[np.ndarray, float]:
    """When the frames of a video are shown, and when the last one ends.

    Decodes the whole video, so that damage anywhere in it is found, but makes no images.

    Returns:
        float64 [N], seconds, ascending; and the end in seconds.

    Raises:
        DatasetError: the file is missing, empty, no video, truncated or damaged.

    Example:
        >>> times_s, end_s = frame_times("071309_w_21-PA4-006.mp4")  # doctest: +SKIP
        >>> len(times_s), end_s  # doctest: +SKIP
        (137, 5.48)
    """
    with closing(_Reader(Path(path))) as reader:
        shots = [(shot.time_s, shot.end_s) for shot in reader.shots()]
    return np.array([time_s for time_s, _ in shots]), shots[-1][1]


def window(frames: Iterable[Frame], start_s: float, end_s: float | None) -> Iterator[Frame]:
    """Those of the frames with start_s <= time < end_s, times compared to the microsecond.

    Takes frames in order of time, and takes none after the first that is too late, so that windows that follow one
    another split a video without a gap or a repetition.

    Args:
        frames: in order of time.
        start_s: seconds, >= 0.
        end_s: seconds, > start_s; None for no end.

    Raises:
        ValueError: an argument is out of its domain.

    Example:
        >>> frames = [Frame(k / 25, np.zeros((2, 3, 3), np.uint8)) for k in range(137)]
        >>> len(list(window(frames, 2.0, 5.0)))
        75
    """
    _check_window(start_s, end_s)
    return _within(frames, start_s, end_s)


def _check_window(start_s: float, end_s: float | None) -> None:
    if not 0 <= start_s < float("inf"):
        raise ValueError(f"start_s is {start_s}. Choose a finite time of at least 0.")
    if end_s is not None and not end_s > start_s:
        raise ValueError(f"end_s is {end_s}, and start_s {start_s}. Choose an end behind the start.")


def _within(frames: Iterable[Any], start_s: float, end_s: float | None) -> Iterator[Any]:
    for frame in frames:
        if end_s is not None and frame.time_s >= end_s - _INSTANT:
            return
        if frame.time_s >= start_s - _INSTANT:
            yield frame


@dataclass(frozen=True, eq=False, slots=True)
class _Shot:
    """A decoded frame not yet turned into an image, which most of them need not be."""

    time_s: float
    end_s: float
    picture: Any


def _read(
    path: Path, start_s: float, end_s: float | None, rate_hz: float | None, size: tuple[int, int] | None
) -> Iterator[Frame]:
    with closing(_Reader(path)) as reader:
        shots = reader.shots()
        if rate_hz is not None:
            shots = _on_grid(reader, start_s, rate_hz)
        turn = None
        for shot in _within(shots, start_s, end_s):
            turn = turn or _turn(shot.picture)
            with reader.decoding():
                image = _image(shot.picture, turn, size)
            yield Frame(shot.time_s, image)
        # Even if the window is before the cut: frames are stored in another order than they are shown in, so that one
        # that is missing may be followed by others.
        reader.check_length()


def _on_grid(reader: _Reader, start_s: float, rate_hz: float) -> Iterator[_Shot]:
    """The latest shot at every point of the grid."""
    # Frames count a little before their time, which may be rounded: by a tick of the container's clock, or by a quarter
    # of a step for clocks that count in whole frames (AVI).
    slack = max(_INSTANT, min(reader.tick_s, 0.25 / rate_hz))
    shown: _Shot | None = None
    k = 0

    def until(end_s: float) -> Iterator[_Shot]:
        nonlocal k
        assert shown is not None
        if end_s - shown.time_s > _STILL_S:
            raise reader.damaged(f"the picture stands still from {shown.time_s:.2f} s to {end_s:.2f} s")
        while (time_s := start_s + k / rate_hz) < end_s - slack:
            yield replace(shown, time_s=time_s)
            k += 1

    for shot in reader.shots():
        if shown is None:
            k = max(0, int(np.ceil((shot.time_s - slack - start_s) * rate_hz)))
        else:
            yield from until(shot.time_s)
        shown = shot
    if shown is not None:
        yield from until(shown.end_s)


class _Reader:
    """An open video: its header, and its frames with their times.

    Args:
        path: the file.

    Raises:
        DatasetError: the file cannot be opened or holds no video.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.read = 0
        self.last_s = 0.0
        self.container = _open(path)
        try:
            self.stream = _video_stream(path, self.container)
        except DatasetError:
            self.container.close()
            raise
        # One: with several frames decoded at a time, FFmpeg's H.264 decoder hands out a damaged one, now and then,
        # without the mark that says so. Several files at a time keep a machine busy as well.
        self.stream.thread_count = 1
        self.format = str(self.container.format.name)
        # Without a container there is nothing to average: FFmpeg then says 25.
        averaged = self.stream.average_rate if self.container.duration else None
        rate = averaged or self.stream.guessed_rate or self.stream.average_rate
        self.rate_hz = float(rate) if rate else None
        self.zero_s = (self.container.start_time or 0) / 1e6
        self.tick_s = float(self.stream.time_base or 0)
        self.frames = self.stream.frames or None

    @property
    def duration_s(self) -> float | None:
        """Seconds, as declared by the header."""
        if self.stream.duration:
            return float(self.stream.duration * self.stream.time_base)
        return self.container.duration / 1e6 if self.container.duration else None

    def close(self) -> None:
        self.container.close()

    def shots(self) -> Iterator[_Shot]:
        """Every frame with its time, in order.

        Raises:
            DatasetError: the file is truncated or damaged, or a frame's time is before that of the frame before it.
        """
        with self.decoding():
            for picture, time_s in self._pictures():
                end_s = time_s + self._length_s(picture)
                if self.read and time_s < self.last_s - self.tick_s:
                    raise self.damaged(f"time runs backwards, from {self.last_s:.3f} s to {time_s:.3f} s")
                self.last_s = time_s
                self.read += 1
                yield _Shot(time_s, end_s, picture)
        self.check_length()
        if reason := self._cut_short():
            raise self.damaged(reason)

    def check_length(self) -> None:
        """Refuse a file that is shorter than its header says.

        Raises:
            DatasetError: it is.
        """
        if missing := _missing_bytes(self.path):
            raise self.damaged(f"the file is {missing} bytes shorter than it says it is")

    def _pictures(self) -> Iterator[tuple[Any, float]]:
        """Decoded frames and their times; whatever the decoder says of damage is raised."""
        # AVI says when to decode a frame, not when to show it, and FFmpeg passes the one off as the other: with
        # B-frames, times come out shifted and out of order. As the frames that are shown are those that were decoded,
        # the k-th of them gets the k-th time.
        queue: deque[float] | None = deque() if self.format == "avi" else None
        self.packets, self.end_s = 0, 0.0
        next_s = 0.0
        # The sound is not decoded, but it may be what lasts until the declared end.
        streams = [stream for stream in self.container.streams if stream.type in ("video", "audio")]
        for packet in self.container.demux(streams):
            if packet.pts is not None or packet.dts is not None:
                begin = packet.pts if packet.pts is not None else packet.dts
                self.end_s = max(self.end_s, float((begin + (packet.duration or 0)) * packet.time_base))
            if packet.stream.index != self.stream.index:
                continue
            if packet.dts is not None:
                self.packets += 1
            if packet.is_corrupt:
                raise self.damaged("a frame's data is incomplete")
            if queue is not None and packet.size and packet.dts is not None:
                queue.append(float(packet.dts * packet.time_base))
            for picture in packet.decode():
                if picture.is_corrupt:
                    raise self.damaged("a frame cannot be decoded")
                if queue is not None:
                    time_s = queue.popleft() if queue else next_s
                elif picture.pts is None:
                    time_s = next_s
                else:
                    time_s = float(picture.pts * picture.time_base) - self.zero_s
                next_s = time_s + self._length_s(picture)
                yield picture, time_s

    def _length_s(self, picture: Any) -> float:
        """Seconds that a frame is shown for."""
        if picture.duration:
            return float(picture.duration * picture.time_base)
        return 1 / self.rate_hz if self.rate_hz else 0.0

    def _cut_short(self) -> str | None:
        """Why what was read cannot be all there was, though the decoder had nothing to say against it."""
        if not self.read:
            return "there are no frames"
        if self.format == "avi":
            short = bool(self.frames) and self.packets < (self.frames or 0)
        elif self.format.startswith(("mov", "matroska", "flv")):
            # Others do not declare a duration: FFmpeg estimates it, sometimes badly.
            declared = (self.container.duration or 0) / 1e6
            short = self.end_s < declared - max(0.25, 2 / self.rate_hz if self.rate_hz else 0.0)
        else:
            short = False
        return "the rest is missing" if short else None

    @contextmanager
    def decoding(self) -> Iterator[None]:
        """Turn what FFmpeg says of damage into a ``DatasetError`` that says how far the video could be read."""
        import av

        try:
            yield
        except av.FFmpegError as error:
            raise self.damaged(_reason(error)) from error

    def damaged(self, reason: str) -> DatasetError:
        """The error that says why, and how far the video could be read."""
        declared = []
        if self.frames:
            declared.append(f"{self.frames} frames")
        if self.duration_s:
            declared.append(f"{self.duration_s:.2f} s")
        whole = f" of the declared {' and '.join(declared)}" if declared else ""
        return DatasetError(
            f"{self.path} is truncated or damaged: {reason}; {self.read} frames could be read, the last at "
            f"{self.last_s:.2f} s{whole}.",
            cure="Copy the file again from its source. To keep what is left of it, re-encode it with ffmpeg; else "
            "leave the sample out.",
        )


def _open(path: Path) -> Any:
    import av

    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise DatasetError(f"{path} {what}.", cure="Give the path of a video file.")
    if path.stat().st_size == 0:
        raise DatasetError(f"{path} is empty (0 bytes).", cure="Copy the file again from its source.")
    try:
        # Absolute, or FFmpeg takes a name such as 'a:1.mp4' for a protocol; and a playlist must not reach the network.
        container = av.open(str(path.absolute()), options={"protocol_whitelist": "file"})
    except (av.FFmpegError, OSError, ValueError) as error:
        raise DatasetError(
            f"{path} cannot be opened, so none of its frames can be read: it is truncated, damaged or no video "
            f"({_reason(error)}).",
            cure="Copy the file again from its source, or convert it with ffmpeg.",
        ) from error
    return container


def _video_stream(path: Path, container: Any) -> Any:
    from av.stream import Disposition

    # Cover art of a song is a video stream of one frame.
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    name = str(container.format.name)
    if name in _NO_VIDEO or name.endswith("_pipe"):
        raise DatasetError(f"{path} is no video, but {name}.", cure="Give the path of a video file.")
    if streams and streams[0].codec_context is None:
        raise DatasetError(
            f"{path} is in a format that cannot be decoded here.", cure="Convert it with ffmpeg to H.264 in MP4."
        )
    if not streams:
        kinds = sorted({stream.type for stream in container.streams})
        raise DatasetError(
            f"{path} has no video stream, only {', '.join(kinds)}." if kinds else f"{path} has no streams at all.",
            cure="Give the path of a video file." if kinds else "Copy the file again from its source.",
        )
    return streams[0]


def _reason(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


@dataclass(frozen=True)
class _Turn:
    """How to hold a stored picture upright: transpose first, then flip."""

    transposed: bool = False
    flip_rows: bool = False
    flip_columns: bool = False


def _turn(picture: Any) -> _Turn:
    """From the display matrix, which maps a stored (x, y) to x' = a x + c y, y' = b x + d y; turns by 90 degrees."""
    matrix = picture.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return _Turn()
    (a, b), (c, d) = np.frombuffer(bytes(matrix), dtype=np.int32).reshape(3, 3)[:2, :2].astype(float)
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return _Turn(False, bool(d < 0), bool(a < 0))
    return _Turn(True, bool(b < 0), bool(c < 0))


def _image(picture: Any, turn: _Turn, size: tuple[int, int] | None) -> np.ndarray:
    height, width = (None, None) if size is None else size[::-1] if turn.transposed else size
    image = picture.to_ndarray(format="rgb24", height=height, width=width, interpolation="BILINEAR" if size else None)
    if turn.transposed:
        image = image.transpose(1, 0, 2)
    if turn.flip_rows:
        image = image[::-1]
    if turn.flip_columns:
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def _missing_bytes(path: Path) -> int:
    """By how much a file is shorter than its own header says; 0 for formats that do not say.

    Looks at the outermost boxes of MP4 and MOV, the RIFF chunk of AVI, and the segment of MKV and WebM.
    """
    length = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide"):
            end = _boxes_end(file, length)
        elif head[:4] == b"RIFF":
            end = 8 + int.from_bytes(head[4:8], "little")
            # Above a gigabyte, further RIFF chunks follow.
            end = 0 if end >= _STREAMED else end - _RIFF_SLACK
        elif head[:4] == b"\x1a\x45\xdf\xa3":
            end = _segment_end(file)
        else:
            end = 0
    return max(0, end - length)


def _boxes_end(file: Any, length: int) -> int:
    """MP4: where the last box ends that begins within the file."""
    end = 0
    while end + 8 <= length:
        file.seek(end)
        head = file.read(16)
        size = int.from_bytes(head[:4], "big")
        if size == 1:
            size = int.from_bytes(head[8:16], "big")
        if size < 8:
            return 0  # 0 stands for "to the end of the file"; anything else is no box.
        end += size
    return end


def _segment_end(file: Any) -> int:
    """MKV: where the segment ends: EBML header, then a segment whose length may be unknown."""
    end = 0
    for _ in range(2):
        file.seek(end)
        head = file.read(16)
        if len(head) < 5:
            return 0
        width = 9 - head[4].bit_length()
        value = int.from_bytes(head[4 : 4 + width], "big") & ((1 << 7 * width) - 1)
        if value == (1 << 7 * width) - 1:
            return 0
        end += 4 + width + value
    return end
