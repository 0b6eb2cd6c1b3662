"""From a raw recording to a time line of answers: sample by sample, faces found on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd

from pkdray.data.importers.extract import Extracted, NoFaceError, extract
from pkdray.data.importers.windows import Window, cut, files_for, options_for
from pkdray.data.info import RecordingsInfo
from pkdray.errors import DatasetError

Answer: TypeAlias = Callable[[Mapping[str, np.ndarray]], np.ndarray]
"""From arrays [N, ...] by modality to float32 [N, C] or [N, A, C]."""
Progress: TypeAlias = Callable[[int, int], None]
"""Called with (samples done, samples)."""

_PENDING_BYTES = 32 << 20


@dataclass(frozen=True, eq=False)
class Timeline:
    """What a student says of W samples, A times each.

    Args:
        windows: the samples, in order of time.
        values: float32 [W, A, C]: probabilities or targets; NaN where no face was found.
        faces: [W, A], the share of frames in which a face was found: of the answer's clip where a sample has several,
            else of the whole sample; None where none was looked for.
    """

    windows: Sequence[Window]
    values: np.ndarray
    faces: np.ndarray | None

    def table(self, classes: Sequence[str], targets: Sequence[str]) -> pd.DataFrame:
        """One row an answer: see `LoadedStudent.predict_recording`.

        Args:
            classes: the C classes; empty for regression.
            targets: the C targets, for regression.
        """
        times = np.stack([window.times_s for window in self.windows])
        kept = ~np.isnan(times.ravel())
        spans = np.concatenate([window.answer_spans for window in self.windows])[kept]
        values = self.values.reshape(-1, self.values.shape[-1])[kept]
        # Binary fractions of seconds, such as 0.1 + 0.04, are of no use to a reader.
        columns: dict[str, object] = {"time_s": times.ravel()[kept].round(6)}
        columns |= {"start_s": spans[:, 0].round(6), "end_s": spans[:, 1].round(6)}
        if classes:
            best = np.where(np.isnan(values).any(axis=1), -1, values.argmax(axis=1))
            columns["prediction"] = pd.array([classes[index] if index >= 0 else None for index in best], dtype="string")
        names = [f"p_{name}" for name in classes] or targets
        columns |= {name: values[:, index] for index, name in enumerate(names)}
        if self.faces is not None:
            columns["faces"] = self.faces.ravel()[kept]
        return pd.DataFrame(columns)


def answer_recording(
    answer: Answer,
    recordings: RecordingsInfo,
    shapes: Mapping[str, Sequence[int]],
    path: Path,
    signals: Path | None,
    *,
    outputs: int,
    per_frame: bool,
    step_s: float | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Timeline:
    """Cut a raw recording into samples and answer each.

    Args:
        answer: the student.
        recordings: how to cut.
        shapes: of a sample, by modality, in the student's order.
        path: the recording.
        signals: biosignals of the same time.
        outputs: C, how many numbers an answer has.
        per_frame: a sample has an answer a frame.
        step_s: seconds from one sample's start to the next.
        device: where faces are looked for.
        progress: told after every sample.

    Raises:
        DatasetError: see `LoadedStudent.predict_recording`.
    """
    options = options_for(recordings, list(shapes))
    files = files_for(options, path, signals)
    windows, sources = cut(
        recordings.name,
        files,
        options,
        per_frame=per_frame,
        step_s=step_s,
        device=device,
    )
    values = np.full((len(windows), len(windows[0].times_s), outputs), np.nan, np.float32)
    faces = np.zeros(values.shape[:2]) if "face" in shapes else None
    pending: dict[int, Extracted] = {}

    def flush() -> None:
        if pending:
            arrays = {name: np.stack([made.arrays[name] for made in pending.values()]) for name in shapes}
            said = answer(arrays)
            if per_frame and said.shape[1] != values.shape[1]:
                raise DatasetError(
                    f"The student has {said.shape[1]} answers a sample, but samples of {recordings.name} have "
                    f"{values.shape[1]} labels.",
                    cure="Cut the recording yourself, and give arrays.",
                )
            values[list(pending)] = said if per_frame else said[:, None]
            pending.clear()

    for index, window in enumerate(windows):
        try:
            made = extract(recordings.name, window.recording, options, sources)
        except NoFaceError:
            continue
        else:
            if faces is not None:
                faces[index] = _face_shares(made, window)
            pending[index] = made
            if sum(array.nbytes for array in made.arrays.values()) * len(pending) > _PENDING_BYTES:
                flush()
        finally:
            if progress is not None:
                progress(index + 1, len(windows))
    flush()
    if faces is not None and not faces.any():
        raise DatasetError(
            f"No face was found in any of the {len(windows)} samples of {path}.",
            cure=f"Faces of fewer than {options.min_face_size} pixels are not looked for: give a recording in which "
            "the face is larger, upright and not covered.",
        )
    if faces is not None and options.gaps == "retain":
        # A clip without a face was answered from its neighbour's.
        values[faces == 0] = np.nan
    return Timeline(windows, values, faces)


def _face_shares(made: Extracted, window: Window) -> np.ndarray:
    """In which share of the frames a face was found: [A] of each answer's clip, or [] of the sample."""
    frames = window.recording.frames
    if window.clip_spans is None or made.found is None or frames is None:
        return np.asarray(made.report["faces"] / made.report["frames"])
    clips = (len(window.times_s), -1)
    return made.found.reshape(clips).sum(axis=1) / (frames > 0).reshape(clips).sum(axis=1)
