"""Turn one recording that a scan found into the arrays of a sample: faces, voices, biosignals.

``extract`` depends on the recording, the options and the files alone, so that samples can be made in any order and on
any machine. What is dear to open (the face detector, a sound track of minutes, a video that is read on from where the
sample before ended) stays in a ``Sources`` from one sample to the next; that changes how long it takes, not what comes
out.

What a sample has, by set and modality (T first):

* biovid, 2.0 to 5.0 s: ``face`` images [75, size, size, 3] at 25 fps; ``emg``, ``ecg`` and ``gsr``, log spectrograms
  [127, 65] in dB, or [1536, 1] as waveforms.
* affwild2, 32 frames: ``face`` images [8, size, size, 3] of every fourth; ``voice`` log-mel [107, 64], standardised by
  the published mean and std. In windows of N such clips ``face`` [N, 8, size, size, 3]; ``voice`` [N, 107, 64, 1], a
  picture of one channel a clip.
* recola, 1 s with 25 labels: ``face`` images [25, size, size, 3]; ``voice`` log-mel [100, 64, 1], one
  picture of 64 mels every 10 ms in dB; or, in frames, [25, 256], in each row the four columns that begin within the
  label's 40 ms; ``ecg`` and ``eda`` [25, 10], in each row the ten
  samples within them.

A frame without a face takes its neighbour's within the sample alone: nothing comes in from the sample before. In a
window, a clip without sound is silent if another has sound, as it takes another's face.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from pkdray.data.importers import affwild2, biovid, recola
from pkdray.data.importers.recordings import Recording, entries, reading
from pkdray.data.info import Modality
from pkdray.data.media import audio, biosignals, spectrogram, video
from pkdray.data.media.biosignals import Signals
from pkdray.data.media.faces import FaceDetector, Gaps, crop_face, face_crops, retain
from pkdray.data.media.video import Frame
from pkdray.errors import DatasetError

T = TypeVar("T")

MODALITIES: dict[str, tuple[str, ...]] = {
    "biovid": ("face", "emg", "ecg", "gsr"),
    "affwild2": ("face", "voice"),
    "recola": ("face", "voice", "ecg", "eda"),
}
"""What can be made of each set."""

_FRAME_SLACK = 2
"""Frames that a video may be too short for a sample (two are 80 ms at 25 fps); they are filled in and counted."""
_SOUND_SLACK_S = 0.1
"""Seconds that a sound track may be too short for a sample; they are filled with silence and counted."""
_INSTANT_S = 1e-3
"""A frame's time may be rounded to the millisecond."""
_FACE_SIDE = 224
"""Pre-cut images that are square and no larger are taken for faces that were cut out already."""
_AFF_COLUMNS = 107
_AFF_RATE_HZ = 30.0
_RECOLA_COLUMNS = 4
_RECOLA_SAMPLES = round(recola.PHYSIO_RATE / recola.GOLD_RATE)
_SPECTROGRAM_SHAPE = (127, 65)
# nperseg 16 less noverlap 4: a column every 12 samples.
_SPECTROGRAM_RATE_HZ = biovid.SIGNAL_RATE / 12
_IMAGE = re.compile(r"img_(\d+)\.jpe?g", re.IGNORECASE)
_FILTERS = {"ecg": biosignals.ECG, "gsr": biosignals.EDA, "eda": biosignals.EDA}


class NoFaceError(DatasetError):
    """No frame of a sample shows a face, and black pictures were not asked for."""


@dataclass(frozen=True)
class MediaOptions:
    """How samples are made.

    Args:
        modalities: which of ``MODALITIES`` of the set.
        size: side of a face's picture (pixels).
        margin: what to add around a face, as a fraction of its longer side.
        min_face_size: pixels of the smallest face to look for, >= 12.
        every: the detector looks at every so many frames and interpolates between; 1 looks at all of them.
        gaps: ``retain`` repeats the last face where none was found, and refuses a sample without any; ``black`` leaves
            black pictures, even throughout a sample.
        biosignals: BioVid's as log ``spectrogram`` or as ``waveform``.
        voice: RECOLA's as one log-mel ``spectrogram`` a second, or cut into ``frames``, a row a label.
        emg: which of BioVid's three EMG channels is ``emg``.
        unfiltered: biosignals are raw and still to be filtered, over the whole recording, before a sample is cut.
        window: how many of Aff-Wild2's clips a sample has.

    Raises:
        DatasetError: an argument is out of its domain.
    """

    modalities: tuple[str, ...]
    size: int = 112
    margin: float = 0.0
    min_face_size: int = 40
    every: int = 1
    gaps: Gaps = "retain"
    biosignals: Literal["spectrogram", "waveform"] = "spectrogram"
    voice: Literal["spectrogram", "frames"] = "spectrogram"
    emg: str = "emg_trapezius"
    unfiltered: bool = False
    window: int = 1

    def __post_init__(self) -> None:
        for name, value, least in (
            ("size", self.size, 1),
            ("min_face_size", self.min_face_size, 12),
            ("every", self.every, 1),
            ("window", self.window, 1),
        ):
            if value < least:
                raise DatasetError(f"{name} is {value}.", cure=f"Choose at least {least}.")
        for name, said, known in (
            ("gaps", self.gaps, ("retain", "black")),
            ("biosignals", self.biosignals, ("spectrogram", "waveform")),
            ("voice", self.voice, ("spectrogram", "frames")),
            ("emg", self.emg, tuple(one for one in biovid.CHANNELS if one.startswith("emg_"))),
        ):
            if said not in known:
                raise DatasetError(f"{name} is '{said}'.", cure=f"Choose from {', '.join(known)}.")
        if not 0 <= self.margin < float("inf"):
            raise DatasetError(f"margin is {self.margin}.", cure="Choose 0 or more.")


@dataclass(frozen=True, eq=False)
class Extracted:
    """One sample.

    Args:
        arrays: by modality, as ``described`` says.
        report: ``frames`` in the sample, each once and without padding; ``faces`` found in them; ``retained`` frames,
            which repeat another frame's face or are black; ``clamped frames`` and ``clamped sound (s)``, beyond the end
            of the video or sound.
        found: bool, of the shape of the recording's ``frames``: in which of them a face was found, False for padding;
            None where frames have no numbers, or no video was searched.
    """

    arrays: Mapping[str, np.ndarray]
    report: Mapping[str, int | float]
    found: np.ndarray | None = None


def described(name: str, options: MediaOptions) -> dict[str, Modality]:
    """What the modalities of a set look like.

    Args:
        name: ``biovid``, ``affwild2`` or ``recola``.
        options: how they are made.

    Raises:
        DatasetError: the set has no such modality, or none is asked for.

    Example:
        >>> described("affwild2", MediaOptions(("face", "voice")))["voice"].shape
        (107, 64)
    """
    strangers = [one for one in options.modalities if one not in MODALITIES[name]]
    if strangers or not options.modalities or len(set(options.modalities)) < len(options.modalities):
        said = f"'{strangers[0]}'" if strangers else f"{list(options.modalities)}"
        raise DatasetError(
            f"{name} was asked for the modality {said}.", cure=f"Choose from {', '.join(MODALITIES[name])}, each once."
        )

    def images(frames: int, rate: float | None) -> Modality:
        return Modality(kind="images", shape=(frames, options.size, options.size, 3), rate=rate)

    made: dict[str, Modality] = {}
    for one in options.modalities:
        if name == "biovid":
            if one == "face":
                made[one] = images(75, biovid.VIDEO_RATE)
            elif options.biosignals == "spectrogram":
                made[one] = Modality(shape=_SPECTROGRAM_SHAPE, rate=_SPECTROGRAM_RATE_HZ)
            else:
                made[one] = Modality(shape=(1536, 1), rate=biovid.SIGNAL_RATE)
        elif name == "affwild2":
            # Videos of several rates: every fourth frame is a time that differs from one to the next.
            made[one] = images(8, None) if one == "face" else Modality(shape=(_AFF_COLUMNS, 64), rate=100.0)
            if options.window > 1:
                channels = () if one == "face" else (1,)
                made[one] = Modality(kind=made[one].kind, shape=(options.window, *made[one].shape, *channels))
        elif one == "face":
            made[one] = images(recola.CLIP_LABELS, recola.GOLD_RATE)
        elif one == "voice" and options.voice == "spectrogram":
            made[one] = Modality(shape=(recola.CLIP_LABELS * _RECOLA_COLUMNS, 64, 1))
        else:
            width = 64 * _RECOLA_COLUMNS if one == "voice" else _RECOLA_SAMPLES
            made[one] = Modality(shape=(recola.CLIP_LABELS, width), rate=recola.GOLD_RATE)
    return made


class Sources:
    """What stays open from one sample to the next; made once a process.

    Of each kind, only the file that was read last is kept: go through recordings sequence by sequence, in order of
    time. What could not be opened is not tried again for the next sample.

    Args:
        options: how samples are made.
        device: where the face detector computes: ``cpu``, ``cuda``.
        keep: how much of a video stays decoded behind the frame that is shown, for samples that overlap: seconds, or
            frames where a set counts in frames. It takes the memory of so many whole pictures.

    Raises:
        DatasetError: there is no such device here.
    """

    def __init__(self, options: MediaOptions, device: str = "cpu", *, keep: float = 0.0) -> None:
        _check_device(device)
        self.keep = keep
        self.detector = FaceDetector(min_face_size=options.min_face_size, device=device)
        self._kept: dict[str, tuple[object, Any]] = {}

    def kept(self, kind: str, key: object, make: Callable[[], T]) -> T:
        """The value for ``key``, made if it is not that of the last call with this ``kind``.

        Raises:
            DatasetError: ``make`` raised it, now or then.
        """
        if kind not in self._kept or self._kept[kind][0] != key:
            # Freed before the next one is made: a sound track may have hundreds of megabytes.
            self._kept.pop(kind, None)
            try:
                value: Any = make()
            except DatasetError as error:
                value = error
            self._kept[kind] = (key, value)
        value = self._kept[kind][1]
        if isinstance(value, DatasetError):
            raise DatasetError(value.what, cure=value.cure, details=value.details)
        return value


def extract(name: str, recording: Recording, options: MediaOptions, sources: Sources) -> Extracted:
    """Make one sample.

    Args:
        name: ``biovid``, ``affwild2`` or ``recola``.
        recording: of a scan of that set.
        options: how.
        sources: made with the same options.

    Returns:
        Arrays of the shapes that ``described`` names.

    Raises:
        DatasetError: a file is missing, damaged or too short; no face was found; a channel that was asked for is dead.
    """
    return {"biovid": extract_biovid, "affwild2": extract_affwild2, "recola": extract_recola}[name](
        recording, options, sources
    )


def extract_biovid(recording: Recording, options: MediaOptions, sources: Sources) -> Extracted:
    """One pain sample of BioVid; see ``extract``."""
    arrays: dict[str, np.ndarray] = {}
    report: dict[str, int | float] = {}
    if "face" in options.modalities:
        start, end = _span(recording)
        if "frames" in recording.sources:
            arrays["face"] = _precut_faces(recording, options, sources, report)
        else:
            path = recording.sources["video"]
            whole_file = recording.sequence_id == recording.sample_id
            frames: Iterable[Frame]
            if whole_file:
                frames = video.read_frames(path, start_s=start, end_s=end, rate_hz=biovid.VIDEO_RATE)
            else:
                frames = _forward(sources, path, None).cut(start, 75, biovid.VIDEO_RATE)
            arrays["face"] = _faces(frames, 75, options, sources, report, str(path))
    channels = {one: options.emg if one == "emg" else one for one in options.modalities if one != "face"}
    if channels:
        path = recording.sources["biosignals"]
        for name, channel in channels.items():
            signal = _channel(sources, path, channel, biosignals.read_biovid_csv, options.unfiltered)
            rows = recording.extra["signal_rows"]
            if rows is None:
                start, end = _span(recording)
                rows = biosignals.sample_range(biovid.SIGNAL_RATE, start, end, len(signal), str(path))
            cut = signal[rows[0] : rows[1]]
            if len(cut) < rows[1] - rows[0]:
                raise DatasetError(
                    f"{path} has {len(signal)} rows; the sample ends at row {rows[1]}.",
                    cure="Restore it from the original archive.",
                )
            if options.biosignals == "spectrogram":
                arrays[name] = np.ascontiguousarray(spectrogram.biovid_spectrogram(cut).values.T)
            else:
                arrays[name] = cut[:, None].astype(np.float32)
    return Extracted(arrays, report)


def extract_affwild2(recording: Recording, options: MediaOptions, sources: Sources) -> Extracted:
    """One clip of Aff-Wild2, or one window of clips; see ``extract``.

    Its faces were cut out already or, with a ``video`` alone, are looked for.
    """
    arrays: dict[str, np.ndarray] = {}
    report: dict[str, int | float] = {}
    searched: np.ndarray | None = None
    if "face" in options.modalities and "faces" not in recording.sources:
        arrays["face"], searched = _numbered_faces(recording, options, sources, report)
    elif "face" in options.modalities:
        assert recording.frames is not None
        folder = recording.sources["faces"]
        numbers = recording.frames.reshape(-1)
        crops = np.zeros((len(numbers), options.size, options.size, 3), np.uint8)
        found = np.asarray(recording.extra["faces"], dtype=bool).reshape(-1)
        for index in np.flatnonzero(found):
            image = _read_image(folder / f"{int(numbers[index]):05d}.jpg")
            crops[index] = _scaled(image, options.size)
        filled = _filled(crops, found, options, report, f"{recording.sample_id} in {folder}", _once(numbers))
        arrays["face"] = filled.reshape(*recording.frames.shape, *filled.shape[1:])
    if "voice" in options.modalities:
        voices = _clip_voices(recording, sources, report)
        arrays["voice"] = voices[0] if options.window == 1 else voices[..., None]
    return Extracted(arrays, report, searched)


def extract_recola(recording: Recording, options: MediaOptions, sources: Sources) -> Extracted:
    """One second of RECOLA; see ``extract``."""
    arrays: dict[str, np.ndarray] = {}
    report: dict[str, int | float] = {}
    start, end = _span(recording)
    labels = recola.CLIP_LABELS
    if "face" in options.modalities:
        path = recording.sources["video"]
        frames = _forward(sources, path, recording.sources.get("frame_times")).cut(start, labels, recola.GOLD_RATE)
        arrays["face"] = _faces(frames, labels, options, sources, report, f"{path} from {start:g} to {end:g} s")
    if "voice" in options.modalities:
        sound = _cut_sound(sources, recording.sources["audio"], spectrogram.RECOLA.rate_hz, start, end, report)
        mel = spectrogram.log_mel(sound, spectrogram.RECOLA, rate_hz=spectrogram.RECOLA.rate_hz)
        # The 101st column is centred on the clip's end, where the next clip's first is.
        columns = mel.T[: labels * _RECOLA_COLUMNS]
        arrays["voice"] = columns[..., None] if options.voice == "spectrogram" else columns.reshape(labels, -1)
    for name in ("ecg", "eda"):
        if name in options.modalities:
            path = recording.sources["biosignals"]
            signal = _channel(sources, path, name, biosignals.read_recola_physio, options.unfiltered)
            cut = biosignals.window(signal, recola.PHYSIO_RATE, start, end)
            arrays[name] = cut.astype(np.float32).reshape(labels, -1)
    return Extracted(arrays, report)


def _check_device(device: str) -> None:
    if device == "cpu":
        return
    import torch

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise DatasetError(f"The device '{device}' cannot be used: {reason}.", cure="Choose cpu.") from error


def _span(recording: Recording) -> tuple[float, float]:
    assert recording.start_s is not None
    assert recording.end_s is not None
    return recording.start_s, recording.end_s


def _faces(
    frames: Iterable[Frame],
    count: int,
    options: MediaOptions,
    sources: Sources,
    report: dict[str, int | float],
    where: str,
) -> np.ndarray:
    """The face of each of ``count`` frames; a few at the end may be missing."""
    faces = face_crops(frames, sources.detector, size=options.size, margin=options.margin, every=options.every)
    got = min(len(faces.times_s), count)
    _check_frames(count - got, count, where)
    if count > got:
        report["clamped frames"] = count - got
    crops = np.concatenate([faces.crops[:got], np.zeros((count - got, *faces.crops.shape[1:]), np.uint8)])
    return _filled(crops, np.pad(faces.found[:got], (0, count - got)), options, report, where)


def _check_frames(lacking: int, count: int, where: str) -> None:
    if lacking > _FRAME_SLACK:
        raise DatasetError(
            f"{where} has {count - lacking} of the sample's {count} frames: it ends too early.",
            cure="Restore it from the original archive; else the sample stays out.",
        )


def _filled(
    crops: np.ndarray,
    found: np.ndarray,
    options: MediaOptions,
    report: dict[str, int | float],
    where: str,
    counted: np.ndarray | None = None,
) -> np.ndarray:
    """Gaps filled in, and counted: at the indices ``counted``, None for all."""
    counted = np.arange(len(found)) if counted is None else counted
    if not found.any() and options.gaps == "retain":
        raise NoFaceError(
            f"No face was found in any of the {len(counted)} frames of {where}.",
            cure="Keep such samples as black pictures (gaps black), or, of whole pictures, look for smaller faces.",
        )
    filled, retained = retain(crops, found, mode=options.gaps)
    report["frames"] = len(counted)
    report["faces"] = int(found[counted].sum())
    report["retained"] = int(retained[counted].sum())
    return filled


def _once(numbers: np.ndarray) -> np.ndarray:
    """Indices at which each frame comes first; not those of padding, which has number 0."""
    known, first = np.unique(numbers, return_index=True)
    return first[known > 0]


def _precut_faces(
    recording: Recording, options: MediaOptions, sources: Sources, report: dict[str, int | float]
) -> np.ndarray:
    """BioVid's pre-cut images of 2.0 to 5.0 s; faces that were cut out already are only scaled."""
    folder = recording.sources["frames"]
    start, _ = _span(recording)
    assert recording.frames is not None
    # Other readers write 1.jpg or 00001.JPG: the number counts.
    named = {int(match[1]): path for path in entries(folder) if (match := _IMAGE.fullmatch(path.name))}
    first = int(recording.frames[0])
    wanted = first + np.round((biovid.CROP_S[0] - start) * biovid.VIDEO_RATE).astype(int) + np.arange(75)
    present = np.isin(wanted, recording.frames)
    crops = np.zeros((75, options.size, options.size, 3), np.uint8)
    found = np.zeros(75, dtype=bool)
    whole: list[int] = []
    pictures: list[Frame] = []
    for index in np.flatnonzero(present):
        image = _read_image(named[int(wanted[index])])
        if image.shape[0] == image.shape[1] <= _FACE_SIDE:
            crops[index], found[index] = _scaled(image, options.size), True
        else:
            whole.append(int(index))
            pictures.append(Frame(index / biovid.VIDEO_RATE, image))
    if pictures:
        faces = face_crops(pictures, sources.detector, size=options.size, margin=options.margin, every=options.every)
        crops[whole], found[whole] = faces.crops, faces.found
    return _filled(crops, found, options, report, str(folder))


def _numbered_faces(
    recording: Recording, options: MediaOptions, sources: Sources, report: dict[str, int | float]
) -> tuple[np.ndarray, np.ndarray]:
    """The faces in frames of a video, known by their numbers from 1 (0 is padding), and in which one was found."""
    assert recording.frames is not None
    numbers = recording.frames.ravel()
    path = recording.sources["video"]
    shown = _forward(sources, path, None, numbered=True)
    present = np.flatnonzero(numbers > 0)
    pictures = [frame for index in present for frame in shown.cut(float(numbers[index]), 1, 1.0)]
    _check_frames(len(present) - len(pictures), len(present), str(path))
    faces = face_crops(pictures, sources.detector, size=options.size, margin=options.margin)
    crops = np.zeros((len(numbers), options.size, options.size, 3), np.uint8)
    found = np.zeros(len(numbers), dtype=bool)
    crops[present[: len(pictures)]], found[present[: len(pictures)]] = faces.crops, faces.found
    where = f"{path} from frame {numbers[present].min()} to {numbers.max()}"
    filled = _filled(crops, found, options, report, where, _once(numbers))
    shape = recording.frames.shape
    return filled.reshape(*shape, *crops.shape[1:]), found.reshape(shape)


def _read_image(path: Path) -> np.ndarray:
    """A picture as uint8 RGB [H, W, 3].

    Raises:
        DatasetError: it is missing, damaged or truncated.
    """
    from PIL import Image

    try:
        with reading(path), Image.open(path) as image:
            return np.array(image.convert("RGB"))
    except (SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DatasetError(f"{path} is no sound picture: {error}.", cure="Restore it from the archive.") from error


def _scaled(image: np.ndarray, size: int) -> np.ndarray:
    """A face that was cut out already, at the size asked for; one of that size as it is."""
    if image.shape[:2] == (size, size):
        return image
    return crop_face(image, np.array([0, 0, image.shape[1], image.shape[0]]), size=size)


def _clip_voices(recording: Recording, sources: Sources, report: dict[str, int | float]) -> np.ndarray:
    """Log-mel of the sound of each clip, the 32 frames that end with its last, float32 [N, 107, 64]."""
    path = recording.sources["audio"]
    preset = spectrogram.AFFWILD2
    rate = sources.kept("rate", path, lambda: video.probe(path).rate_hz) or _AFF_RATE_HZ
    track = sources.kept("sound", path, lambda: audio.read_audio(path, rate_hz=preset.rate_hz)[0])
    spans = [
        (max(0.0, (last - affwild2.CLIP_FRAMES) / rate), last / rate)
        for last in np.asarray(recording.extra["last_frames"]).tolist()
    ]
    voices, lacking, heard = [], 0, False
    for start, end in spans:
        known = max(len(track), round(end * preset.rate_hz) + 1)
        first, stop = biosignals.sample_range(preset.rate_hz, start, end, known)
        sound = track[first:stop]
        # Videos end before their annotations do and sounds before their videos: a part of a clip counts all the same.
        heard |= len(sound) > preset.n_fft // 2
        lacking += stop - first - len(sound)
        mel = spectrogram.log_mel(np.pad(sound, (0, stop - first - len(sound))), preset, rate_hz=preset.rate_hz)
        voices.append(spectrogram.clip_of(mel, _AFF_COLUMNS).T)
    if not heard:
        raise DatasetError(
            f"The sound of {path} ends at {len(track) / preset.rate_hz:.2f} s, before {recording.sample_id} "
            f"({spans[0][0]:.2f} to {spans[-1][1]:.2f} s).",
            cure="Restore it if it was cut short.",
        )
    if lacking:
        report["clamped sound (s)"] = round(lacking / preset.rate_hz, 3)
    return np.ascontiguousarray(np.stack(voices))


def _cut_sound(
    sources: Sources, path: Path, rate_hz: int, start_s: float, end_s: float, report: dict[str, int | float]
) -> np.ndarray:
    """The sound of a span; a little silence at the end where the track is a little short."""
    track = sources.kept("sound", path, lambda: audio.read_audio(path, rate_hz=rate_hz)[0])
    lacking = max(0, round(end_s * rate_hz) - len(track))
    if lacking > _SOUND_SLACK_S * rate_hz:
        raise DatasetError(
            f"The sound of {path} ends at {len(track) / rate_hz:.2f} s; the sample needs {start_s:.2f} to "
            f"{end_s:.2f} s.",
            cure="Restore it if it was cut short.",
        )
    if lacking:
        report["clamped sound (s)"] = round(lacking / rate_hz, 3)
        track = np.pad(track, (0, lacking))
    return biosignals.window(track, rate_hz, start_s, end_s)


def _channel(sources: Sources, path: Path, name: str, read: Callable[..., Signals], unfiltered: bool) -> np.ndarray:
    """One channel of a whole recording, filtered if asked for, float64 [n].

    Raises:
        DatasetError: it is missing or dead.
    """
    options = {"rows": None} if read is biosignals.read_biovid_csv else {"required": ()}
    signals = sources.kept("signals", path, lambda: read(path, **options))
    if name not in signals.channels:
        raise DatasetError(
            f"{path} has no channel '{name}', only {', '.join(signals.channels)}.", cure="Do without it, or restore it."
        )
    if name in biosignals.dead_channels(signals):
        raise DatasetError(
            f"Channel {name} is dead in {path}: all {len(signals)} values are {signals.channels[name][0]:g}.",
            cure="Choose another channel, or go on without the sample.",
        )
    if not unfiltered:
        return signals.channels[name]
    preset = _FILTERS.get(name, biosignals.EMG)
    return sources.kept(
        f"filtered {name}", path, lambda: biosignals.clean(signals.channels[name], signals.rate_hz, preset)
    )


def _forward(sources: Sources, path: Path, times: Path | None, *, numbered: bool = False) -> _Forward:
    return sources.kept("video", (path, times, numbered), lambda: _Forward(path, times, numbered, sources.keep))


@dataclass(eq=False)
class _Forward:
    """A long video of which samples are cut one after another, each frame decoded once.

    Args:
        path: the video.
        times: RECOLA's table of when each frame was taken; None where the video's own times count.
        numbered: the frames' numbers, from 1, count as their times.
        keep: for how long a frame stays decoded after it was shown, so that a sample may begin before the last ended.

    Raises:
        DatasetError: the video or the table cannot be read.
    """

    path: Path
    times: Path | None
    numbered: bool = False
    keep: float = 0.0
    _past: deque[Frame] = field(default_factory=deque, init=False)
    _again: deque[Frame] = field(default_factory=deque, init=False)
    _frames: Iterator[Frame] = field(default_factory=lambda: iter(()), init=False)
    _shown: Frame | None = field(default=None, init=False)
    _coming: Frame | None = field(default=None, init=False)
    _damage: DatasetError | None = field(default=None, init=False)
    _first_s: float = field(default=0.0, init=False)
    _step_s: float = field(default=0.04, init=False)

    def __post_init__(self) -> None:
        # A file that is shorter than it says is refused at once, and not after the samples before the cut.
        for _ in video.read_frames(self.path, end_s=_INSTANT_S):
            pass
        self._open()

    def _open(self) -> None:
        self._frames, self._damage = self._timed(), None
        self._past.clear()
        self._again.clear()
        self._shown, self._coming = self._next(), self._next()
        self._first_s = self._shown.time_s if self._shown else 0.0

    def _next(self) -> Frame | None:
        """The next frame, None at the end; what is behind damage is not taken for the end."""
        if self._again:
            return self._again.popleft()
        if self._damage is not None:
            raise DatasetError(self._damage.what, cure=self._damage.cure, details=self._damage.details)
        try:
            return next(self._frames, None)
        except DatasetError as error:
            self._damage = error
            raise

    def _timed(self) -> Iterator[Frame]:
        frames = video.read_frames(self.path)
        if self.numbered:
            for number, frame in enumerate(frames, start=1):
                yield Frame(float(number), frame.image)
            return
        if self.times is None:
            yield from frames
            return
        # Frames beyond the table were taken at no known time.
        for time_s, frame in zip(recola.read_frame_times(self.times).tolist(), frames, strict=False):
            yield Frame(time_s, frame.image)

    def cut(self, start_s: float, count: int, rate_hz: float) -> Iterator[Frame]:
        """At each of ``count`` points of the grid that starts at ``start_s``, the latest frame; fewer at the end.

        Raises:
            DatasetError: the video is damaged.
        """
        self._go_back(max(start_s, self._first_s) + _INSTANT_S)
        for index in range(count):
            time_s = start_s + index / rate_hz
            while self._coming is not None and self._coming.time_s <= time_s + _INSTANT_S:
                assert self._shown is not None
                self._step_s = self._coming.time_s - self._shown.time_s
                self._past.append(self._shown)
                self._shown, self._coming = self._coming, self._next()
                while self._past and self._past[0].time_s < self._shown.time_s - self.keep:
                    self._past.popleft()
            if self._shown is None or (
                self._coming is None and time_s >= self._shown.time_s + self._step_s - _INSTANT_S
            ):
                return
            yield Frame(time_s, self._shown.image)

    def _go_back(self, time_s: float) -> None:
        """Show a frame of no later than ``time_s``: one that was kept, or else from the beginning."""
        while self._past and self._shown is not None and self._shown.time_s > time_s:
            if self._coming is not None:
                self._again.appendleft(self._coming)
            self._shown, self._coming = self._past.pop(), self._shown
        if self._shown is None or self._shown.time_s > time_s:
            self._open()


def in_order(recordings: Sequence[Recording]) -> list[Recording]:
    """Recordings in the order in which ``Sources`` opens each file once: by sequence, then by time."""

    def place(one: Recording) -> tuple[str, float, str]:
        last = one.extra.get("last_frames")
        moment = one.start_s if one.start_s is not None else float(np.max(last)) if last is not None else 0.0
        return one.sequence_id, moment, one.sample_id

    return sorted(recordings, key=place)
