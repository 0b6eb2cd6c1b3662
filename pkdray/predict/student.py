"""A student that is ready to predict, from arrays, tables and files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from pkdray.data.faults import Faults, some
from pkdray.data.mapped import MappedArray
from pkdray.errors import CheckpointError, DatasetError
from pkdray.predict.inputs import Source, aligned, read_images, read_modality, take
from pkdray.predict.timeline import Progress, answer_recording
from pkdray.training.answers import answers_table
from pkdray.training.bundles import CONFIG, Pipeline, StudentInfo, read_bundle

_BATCH, _BATCH_BYTES = 4096, 32 << 20


class LoadedStudent:
    """A student that is ready to predict; make one with `load_student`.

    Attributes:
        name: the name of the student's folder.
        info: what the student's config.yaml says.
        modalities: the shape of a sample by modality: (d,) or (T, d) for features, (T, H, W, 3) for images.
        images: those of the modalities that are images.
        recordings: how recordings are cut into samples; None for a student that was trained on features.
        classes: the names of the classes; empty for regression.
        targets: the names of the targets.
        metrics: what the student's metrics.json says.
    """

    def __init__(
        self, info: StudentInfo, pipeline: Pipeline, metrics: Mapping[str, Any], name: str = "student"
    ) -> None:
        self.name = name
        self.info = info
        self.metrics = dict(metrics)
        self.modalities = {name: tuple(shape) for name, shape in info.architecture.shapes.items()}
        self.images = list(pipeline.images)
        self.recordings = pipeline.recordings
        self.classes = list(info.classes)
        self.targets = list(info.targets)
        self._pipeline = pipeline.eval()

    def __repr__(self) -> str:
        inputs = ", ".join(f"{name} {list(shape)}" for name, shape in self.modalities.items())
        outputs = f"{len(self.classes)} classes" if self.classes else ", ".join(self.targets)
        return f"LoadedStudent({inputs} -> {outputs})"

    def predict(self, features: Mapping[str, Source] | Source) -> pd.DataFrame:
        """Answer for raw features and images, as a table.

        Args:
            features: by modality, or for a student of one modality that modality's alone: an array [N, d] or
                [N, T, d], a table as `read_features` reads them, or a file; images as an array uint8 [N, T, H, W, 3]
                or a .npy file. Samples of several modalities are matched by sample_id where they have one.

        Returns:
            One row a sample, or a sample's frame: sample_id (the row's number for bare arrays), frame, and
            ``prediction`` with ``p_<class>`` or one column a target.

        Raises:
            DatasetError: a modality or a sample is missing or unknown, a shape or type is wrong, values are not finite.
        """
        sample_ids, values = self._answer(features)
        return answers_table(sample_ids, values, self.info.task, self.classes, self.targets)

    def predict_array(self, features: Mapping[str, Source] | Source) -> np.ndarray:
        """Answer for raw features, as an array; arguments and errors are those of `predict`.

        Returns:
            float32 [N, C] or, with answers per frame, [N, T, C]: probabilities of ``classes``, or ``targets``.
        """
        return self._answer(features)[1]

    def predict_recording(
        self,
        path: str | Path,
        *,
        biosignals: str | Path | None = None,
        step_s: float | None = None,
        device: str = "cpu",
        progress: Progress | None = None,
    ) -> pd.DataFrame:
        """Answer for a raw recording, as a time line.

        The recording is cut into samples as the recordings of the student's dataset were (`importers.windows` says
        where they lie and when an answer is for), faces are looked for, and each sample is answered by itself.

        Args:
            path: a video; a sound file, or a table of signals, for a student that needs nothing else.
            biosignals: a table of signals, as the student's set has them, that begins when the recording does.
            step_s: seconds from one sample's start to the next; None for the set's own.
            device: where faces are looked for: ``cpu``, ``cuda``.
            progress: called with (samples done, samples).

        Returns:
            One row an answer, in order of time: ``time_s``, when it is for; ``start_s`` and ``end_s`` of its sample,
            or of its clip in a sample of several; ``prediction`` and ``p_<class>``, or one column a target; for
            students that see faces, ``faces``, the share of those frames in which one was found. Where there was none,
            answers are missing (NaN), unless the student was trained on black pictures for such frames.

        Raises:
            DatasetError: the student was trained on features, not on recordings; a file is missing, damaged or too
                short, or lacks what the student needs; no face is found in all of it.

        Example:
            >>> load_student("student").predict_recording("talk.mp4")  # doctest: +SKIP
        """
        if self.recordings is None:
            raise DatasetError(
                f"The student {self.name} was not trained on recordings, so how {path} is to be cut is not known.",
                cure=f"Give features of {some(self.modalities)}, extracted as for its dataset.",
            )
        timeline = answer_recording(
            self.predict_array,
            self.recordings,
            self.modalities,
            Path(path).expanduser(),
            None if biosignals is None else Path(biosignals).expanduser(),
            outputs=self.info.architecture.outputs,
            per_frame=self.info.architecture.per_frame,
            step_s=step_s,
            device=device,
            progress=progress,
        )
        return timeline.table(self.classes, self.targets)

    def _answer(self, features: Mapping[str, Source] | Source) -> tuple[list[str], np.ndarray]:
        sample_ids, arrays = aligned(self._read(features))
        size = sum(array.nbytes for array in arrays.values()) // len(sample_ids)
        count = max(1, min(_BATCH, _BATCH_BYTES // max(1, size)))
        batches = []
        with torch.no_grad():
            for start in range(0, len(sample_ids), count):
                rows = slice(start, start + count)
                inputs = [torch.from_numpy(take(arrays[name], rows)) for name in self.modalities]
                batches.append(self._pipeline(*inputs).numpy())
        values = np.concatenate(batches)
        wrong = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
        if wrong.any():
            raise DatasetError(
                f"The student's answers for {int(wrong.sum())} samples are not finite: "
                f"{some(np.asarray(sample_ids, dtype=object)[wrong])}.",
                cure="Their features are far outside of what it was trained on: extract them as for its dataset.",
            )
        return sample_ids, values

    def _read(
        self, features: Mapping[str, Source] | Source
    ) -> dict[str, tuple[np.ndarray | None, np.ndarray | MappedArray]]:
        needed = some(self.modalities)
        if not isinstance(features, Mapping):
            if len(self.modalities) > 1:
                raise DatasetError(
                    f"The student needs {len(self.modalities)} modalities, {needed}, but one table was given.",
                    cure="Give one a modality, by name: "
                    + " ".join(f"{name}={name}.parquet" for name in self.modalities)
                    + " on the command line, a dict in Python.",
                )
            features = {next(iter(self.modalities)): features}
        faults = Faults()
        for name in self.modalities:
            if name not in features:
                faults.add(f"Modality '{name}' is missing.", f"The student needs {needed}.")
        for name in features:
            if name not in self.modalities:
                faults.add(f"Modality '{name}' is unknown to the student.", f"It needs {needed}.")
        faults.raise_if_any("The input")
        found: dict[str, tuple[np.ndarray | None, np.ndarray | MappedArray]] = {}
        for name, shape in self.modalities.items():
            with faults.catch():
                read = read_images if name in self.images else read_modality
                found[name] = read(name, features[name], shape)
        faults.raise_if_any("The input")
        return found


def load_student(path: str | Path) -> LoadedStudent:
    """Open a student's folder, made by ``pkdray export``.

    Args:
        path: the folder. Weights and preprocessing are compared with their checksums; nothing is unpickled.

    Raises:
        CheckpointError: it is no student, or a file is missing, truncated or was altered.

    Example:
        >>> student = load_student("student")  # doctest: +SKIP
        >>> student.predict("features.csv")  # doctest: +SKIP
    """
    folder = Path(path).expanduser()
    if not (folder / CONFIG).is_file():
        what, cure = "is no student: it has no config.yaml", "Name a folder made by `pkdray export`."
        if not folder.exists():
            what = "does not exist"
        elif (folder / "run.yaml").is_file():
            what, cure = "is a run, not a student", f"Export its best student first: pkdray export {folder} -o student"
        raise CheckpointError(f"{folder} {what}.", cure=cure)
    return LoadedStudent(*read_bundle(folder), name=folder.resolve().name)
