"""A raw recording as successive samples, cut as a set's samples were cut.

Where samples lie, and when their answers are for, by set:

* biovid: windows of 3 s at 25 fps, one every second; an answer is for the window's middle.
* affwild2: clips of 32 frames, of which 8 are used, each after the other; an answer is for the clip's last frame. The
  last clip ends with the video, even if it begins within the one before. Samples of several clips (windows) follow one
  another as well; the last one is moved back to end with the video, and clips that were answered already are answered
  once. Unlike the set's ready faces, which were aligned by landmarks, these are
  looked for in the video and cut out unaligned.
* recola: clips of 1 s, each after the other; 25 answers a second, each for its own frame.

What is left at the end and is too short for a sample gets no answer.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pkdray.data.importers import affwild2, biovid, recola
from pkdray.data.importers.extract import MODALITIES, MediaOptions, Sources
from pkdray.data.importers.recordings import Recording
from pkdray.data.info import RecordingsInfo
from pkdray.data.media import audio, biosignals, spectrogram, video
from pkdray.data.media.faces import FaceDetector
from pkdray.errors import DatasetError

_LENGTH_S = {"biovid": biovid.CROP_S[1] - biovid.CROP_S[0], "recola": recola.CLIP_LABELS / recola.GOLD_RATE}
_STEP_S = {"biovid": 1.0, "recola": _LENGTH_S["recola"]}
_SOUND_HZ = {"affwild2": spectrogram.AFFWILD2.rate_hz, "recola": spectrogram.RECOLA.rate_hz}
_INSTANT_S = 1e-3


@dataclass(frozen=True, eq=False)
class Window:
    """One sample of a raw recording.

    Args:
        recording: what to extract.
        times_s: float64 [A], when each of the sample's A answers is for; NaN for one that another sample gives.
        clip_spans: float64 [A, 2], where the clip of each answer starts and ends (s); None where each answer is of the
            whole sample.
    """

    recording: Recording
    times_s: np.ndarray
    clip_spans: np.ndarray | None = None

    @property
    def span(self) -> tuple[float, float]:
        """Where the sample starts and ends (s)."""
        assert self.recording.start_s is not None
        assert self.recording.end_s is not None
        return self.recording.start_s, self.recording.end_s

    @property
    def answer_spans(self) -> np.ndarray:
        """Where each answer's clip, or else the sample, starts and ends (s), float64 [A, 2]."""
        return np.tile(self.span, (len(self.times_s), 1)) if self.clip_spans is None else self.clip_spans


def options_for(recordings: RecordingsInfo, modalities: Sequence[str]) -> MediaOptions:
    """The options that a set's samples were made with, for some of its modalities.

    Raises:
        DatasetError: the set has no such modality, or the options are none.
    """
    strangers = [name for name in modalities if name not in MODALITIES[recordings.name]]
    if strangers:
        raise DatasetError(
            f"'{strangers[0]}' cannot be made from a recording of {recordings.name}, only "
            f"{', '.join(MODALITIES[recordings.name])}.",
            cure="Give features: one table or array a modality.",
        )
    try:
        return MediaOptions(**{**recordings.options, "modalities": tuple(modalities)})
    except TypeError as error:
        raise DatasetError(
            f"How the recordings of {recordings.name} were cut cannot be understood ({error}).",
            cure="It was written by another version of pkdray: install that one.",
        ) from error


def files_for(options: MediaOptions, recording: Path, signals: Path | None = None) -> dict[str, Path]:
    """Which file each kind of data comes from: ``video`` and ``audio`` from the recording, ``biosignals`` from a table.

    Raises:
        DatasetError: a modality is in neither, or the biosignals are of no use.
    """
    kinds = {"face": "video", "voice": "audio"}
    media = [name for name in options.modalities if name in kinds]
    others = [name for name in options.modalities if name not in kinds]
    if signals is not None and (not media or not others):
        unused, needed = (signals, media) if media else (recording, others)
        raise DatasetError(f"{unused} is of no use: all that is needed is {', '.join(needed)}.", cure="Leave it out.")
    if others and media and signals is None:
        raise DatasetError(
            f"{recording} does not hold {', '.join(others)}, which a video or sound never does.",
            cure="Give the signals of the same time as well: biosignals=SIGNALS.csv.",
        )
    files = {kinds[name]: recording for name in media}
    return files | ({"biosignals": signals or recording} if others else {})


def cut(
    name: str,
    files: Mapping[str, Path],
    options: MediaOptions,
    *,
    per_frame: bool = False,
    step_s: float | None = None,
    device: str = "cpu",
) -> tuple[list[Window], Sources]:
    """The samples of a raw recording, and what to extract them with, in this order.

    Reads the recording to its end once, to see that it is whole and how long it is, without looking for faces.

    Args:
        name: the set whose way of cutting is taken: ``biovid``, ``affwild2`` or ``recola``.
        files: as ``files_for`` gives them.
        options: how samples are made.
        per_frame: a sample has an answer a frame (of Aff-Wild2, a clip), and not one alone.
        step_s: seconds from one sample's start to the next; None for the set's own. Aff-Wild2 counts in whole frames,
            and in whole samples where these have several clips.
        device: where faces are looked for.

    Raises:
        DatasetError: a file is missing, damaged or too short for one sample; the step is not above 0, or so short that
            answers per frame would overlap.
    """
    if step_s is not None and not 0 < step_s < float("inf"):
        raise DatasetError(f"The step is {step_s} s.", cure="Choose a step above 0.")
    if name == "affwild2":
        return _cut_by_frames(files, options, per_frame, step_s, device)
    length, step = _LENGTH_S[name], step_s or _STEP_S[name]
    if per_frame and step < length - _INSTANT_S:
        raise _overlap(step, length)
    sources = _sources(options, device, keep=length - step + 1.0 if step < length else 0.0)
    ends = {}
    if "video" in files:
        ends["video"] = video.frame_times(files["video"])[1]
    if "audio" in files:
        ends["audio"] = _sound_s(sources, files["audio"], _SOUND_HZ[name])
    if "biosignals" in files:
        ends["biosignals"] = _signals_s(sources, name, files["biosignals"])
    kind, end = min(ends.items(), key=lambda item: item[1])
    count = int(np.floor((end - length + _INSTANT_S) / step)) + 1
    if end < length - _INSTANT_S:
        raise DatasetError(
            f"{files[kind]} lasts {end:.2f} s; a sample takes {length:g} s.", cure="Give a longer recording."
        )
    windows = []
    for index in range(count):
        start = index * step
        times = start + (np.arange(recola.CLIP_LABELS) / recola.GOLD_RATE if per_frame else np.array([length / 2]))
        windows.append(Window(_recording(files, index, start, start + length), times))
    return windows, sources


def _cut_by_frames(
    files: Mapping[str, Path],
    options: MediaOptions,
    per_frame: bool,
    step_s: float | None,
    device: str,
) -> tuple[list[Window], Sources]:
    path = next(iter(files.values()))
    times, end_s = video.frame_times(path)
    rate = video.probe(path).rate_hz or len(times) / end_s
    length = affwild2.CLIP_FRAMES * options.window
    step = length if step_s is None else max(1, round(step_s * rate))
    if per_frame and step < length:
        raise _overlap(step / rate, length / rate)
    sources = _sources(options, device, keep=float(length - step) if step < length else 0.0)
    count = len(times)
    if "audio" in files:
        # Rounded: a sound may end within the last frame that it belongs to.
        count = min(count, int(_sound_s(sources, files["audio"], _SOUND_HZ["affwild2"]) * rate + 0.5))
    if options.window == 1:
        groups = [(np.array([end]), np.array([True])) for end in affwild2.clip_ends(count, step)]
    else:
        groups = affwild2.clip_windows(affwild2.clip_ends(count), options.window)[:: max(1, round(step / length))]
    windows = []
    for index, (group, new) in enumerate(groups):
        moments = np.where(new, times[group - 1], np.nan) if per_frame else times[[group[-1] - 1]]
        frames = np.stack([affwild2.clip_frames(int(end)) for end in group])
        numbers = frames if options.window > 1 else frames[0]
        spans = np.stack([times[np.maximum(group - affwild2.CLIP_FRAMES, 0)], np.append(times, end_s)[group]], axis=1)
        made = _recording(files, index, float(spans[0, 0]), float(spans[-1, 1]), numbers, group)
        windows.append(Window(made, moments, spans if per_frame else None))
    return windows, sources


def _recording(
    files: Mapping[str, Path],
    index: int,
    start_s: float,
    end_s: float,
    frames: np.ndarray | None = None,
    last_frames: np.ndarray | None = None,
) -> Recording:
    name = next(iter(files.values())).name
    return Recording(
        sample_id=f"{name}-{index:06d}",
        subject_id=name,
        # Another than the sample's: the file is read on, and not from its beginning for each sample.
        sequence_id=name,
        sources=files,
        target=0,
        start_s=start_s,
        end_s=end_s,
        frames=frames,
        extra={"signal_rows": None, "last_frames": last_frames},
    )


def _overlap(step_s: float, length_s: float) -> DatasetError:
    return DatasetError(
        f"The step is {step_s:g} s, but a sample has answers for {length_s:g} s: they would overlap.",
        cure=f"Choose a step of at least {length_s:g} s.",
    )


def _sound_s(sources: Sources, path: Path, rate_hz: int) -> float:
    try:
        return len(sources.kept("sound", path, lambda: audio.read_audio(path, rate_hz=rate_hz)[0])) / rate_hz
    except DatasetError as error:
        raise DatasetError(error.what, cure="Voices are needed: give a recording with a whole sound track.") from error


def _signals_s(sources: Sources, name: str, path: Path) -> float:
    def read() -> biosignals.Signals:
        if name == "biovid":
            return biosignals.read_biovid_csv(path, rows=None)
        return biosignals.read_recola_physio(path, required=())

    signals = sources.kept("signals", path, read)
    return len(signals) / signals.rate_hz


def _sources(options: MediaOptions, device: str, keep: float) -> Sources:
    sources = Sources(options, device, keep=keep)
    if keep:
        sources.detector = RememberingDetector(min_face_size=options.min_face_size, device=device)
    return sources


@dataclass(frozen=True)
class RememberingDetector(FaceDetector):
    """A detector that looks at each picture in memory once, for samples that overlap.

    Pictures are known by identity, as long as somebody else holds them: they must not be changed in place.
    """

    _seen: dict[int, tuple[weakref.ref[np.ndarray], np.ndarray, float]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __getstate__(self) -> dict[str, object]:
        return {**super().__getstate__(), "_seen": {}}

    def _look(
        self,
        images: Sequence[np.ndarray] | np.ndarray,
        chosen: Sequence[int],
        boxes: np.ndarray,
        probabilities: np.ndarray,
    ) -> None:
        new = []
        for index in chosen:
            known = self._seen.get(id(images[index]))
            if known is not None and known[0]() is images[index]:
                boxes[index], probabilities[index] = known[1:]
            else:
                new.append(index)
        super()._look(images, new, boxes, probabilities)
        for key in [key for key, (picture, _, _) in self._seen.items() if picture() is None]:
            del self._seen[key]
        for index in new:
            picture = images[index]
            self._seen[id(picture)] = (weakref.ref(picture), boxes[index].copy(), float(probabilities[index]))
