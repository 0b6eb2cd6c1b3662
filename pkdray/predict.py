"""From a student's folder and new features to answers. Needs no run, no dataset, no Ray, no Optuna and no POT."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch

from pkdray.data.faults import Faults, some
from pkdray.data.tables import frame_numbers, order_frames, read_features
from pkdray.errors import CheckpointError, DatasetError, PkdrayError
from pkdray.files import write_atomic
from pkdray.training.answers import answers_table
from pkdray.training.bundles import CONFIG, Pipeline, StudentInfo, read_bundle

SUFFIXES = (".parquet", ".csv")
_BATCH = 4096

Source: TypeAlias = Any
"""One modality's features: an array, a table with ``sample_id``, or the path of a file (CSV, Parquet, npz)."""


class LoadedStudent:
    """A student that is ready to predict; make one with `load_student`.

    Attributes:
        info: what the student's config.yaml says.
        modalities: the shape of a sample, (d,) or (T, d), by modality.
        classes: the names of the classes; empty for regression.
        targets: the names of the targets.
        metrics: what the student's metrics.json says.
    """

    def __init__(self, info: StudentInfo, pipeline: Pipeline, metrics: Mapping[str, Any]) -> None:
        self.info = info
        self.metrics = dict(metrics)
        self.modalities = {name: tuple(shape) for name, shape in info.architecture.shapes.items()}
        self.classes = list(info.classes)
        self.targets = list(info.targets)
        self._pipeline = pipeline.eval()

    def __repr__(self) -> str:
        inputs = ", ".join(f"{name} {list(shape)}" for name, shape in self.modalities.items())
        outputs = f"{len(self.classes)} classes" if self.classes else ", ".join(self.targets)
        return f"LoadedStudent({inputs} -> {outputs})"

    def predict(self, features: Mapping[str, Source] | Source) -> pd.DataFrame:
        """Answer for raw features, as a table.

        Args:
            features: by modality, or for a student of one modality that modality's alone: an array [N, d] or
                [N, T, d], a table as `read_features` reads them, or a file. Samples of several modalities are matched
                by sample_id where they have one.

        Returns:
            One row a sample, or a sample's frame: sample_id (the row's number for bare arrays), frame, and
            ``prediction`` with ``p_<class>`` or one column a target.

        Raises:
            DatasetError: a modality or a sample is missing or unknown, a shape is wrong, values are not finite.
        """
        sample_ids, values = self._answer(features)
        return answers_table(sample_ids, values, self.info.task, self.classes, self.targets)

    def predict_array(self, features: Mapping[str, Source] | Source) -> np.ndarray:
        """Answer for raw features, as an array; arguments and errors are those of `predict`.

        Returns:
            float32 [N, C] or, with answers per frame, [N, T, C]: probabilities of ``classes``, or ``targets``.
        """
        return self._answer(features)[1]

    def _answer(self, features: Mapping[str, Source] | Source) -> tuple[list[str], np.ndarray]:
        sample_ids, arrays = _aligned(self._read(features))
        batches = []
        with torch.no_grad():
            for start in range(0, len(sample_ids), _BATCH):
                inputs = [torch.from_numpy(arrays[name][start : start + _BATCH]) for name in self.modalities]
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

    def _read(self, features: Mapping[str, Source] | Source) -> dict[str, tuple[np.ndarray | None, np.ndarray]]:
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
        found = {}
        for name, shape in self.modalities.items():
            with faults.catch():
                found[name] = _read(name, features[name], shape)
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
    return LoadedStudent(*read_bundle(folder))


def predict_file(
    student_dir: str | Path, inputs: Mapping[str, str | Path] | str | Path, output: str | Path
) -> pd.DataFrame:
    """Predict from files to a file.

    Args:
        student_dir: a folder made by ``pkdray export``.
        inputs: a table of features (CSV, Parquet, npz) by modality; the table itself for a student of one modality.
        output: ``.parquet`` or ``.csv``, written whole or not at all; replaced if it exists.

    Returns:
        The table that was written: see `LoadedStudent.predict`.

    Raises:
        PkdrayError: ``output`` has another suffix, is a folder or is one of the inputs.
        CheckpointError: ``student_dir`` is no student, or is damaged.
        DatasetError: an input is missing, unreadable or does not fit the student.
        StorageError: ``output`` cannot be written.
    """
    output = Path(output).expanduser()
    sources: dict[str, Path] | Path
    if isinstance(inputs, Mapping):
        sources = {name: Path(path).expanduser() for name, path in inputs.items()}
    else:
        sources = Path(inputs).expanduser()
    # Said at once: a student that has answered for an hour should not be lost to a typo.
    if output.suffix not in SUFFIXES:
        raise PkdrayError(
            f"The output {output} has the suffix '{output.suffix}'.", cure="End it with .parquet or .csv."
        )
    if output.is_dir():
        raise PkdrayError(f"The output {output} is a folder.", cure="Name a file in it.")
    given = sources.values() if isinstance(sources, dict) else [sources]
    if output.resolve() in [path.resolve() for path in given]:
        raise PkdrayError(f"The output {output} is also an input, which would be lost.", cure="Name another file.")
    table = load_student(student_dir).predict(sources)
    if output.suffix == ".csv":
        write_atomic(output, lambda temporary: table.to_csv(temporary, index=False))
    else:
        write_atomic(output, lambda temporary: table.to_parquet(temporary, index=False))
    return table


def _read(name: str, source: Source, shape: tuple[int, ...]) -> tuple[np.ndarray | None, np.ndarray]:
    """Sample ids (None for a bare array) and values float32 [N, *shape] of one modality."""
    ids: np.ndarray | None
    if isinstance(source, str | Path):
        ids, values = read_features(Path(source))
    elif isinstance(source, pd.DataFrame):
        ids, values = _from_table(name, source)
    else:
        ids, values = None, _numbers(name, source)
    if values.ndim != len(shape) + 1 or values.shape[1:] != shape or len(values) == 0:
        axes = ", ".join(["N", *map(str, shape)])
        cure = f"Give [{axes}], with N > 0, extracted as for the dataset that the student was trained on."
        if len(shape) == 2 and values.ndim == 2:
            cure += " In a table, a column 'frame' numbers the frames of a sample."
        raise DatasetError(
            f"The features of '{name}' have shape {list(values.shape)}; the student needs [{axes}].", cure=cure
        )
    finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if not finite.all():
        rows = np.flatnonzero(~finite)
        raise DatasetError(
            f"The features of '{name}' are missing, NaN or infinite (as float32) in {len(rows)} samples: "
            f"{some(rows if ids is None else ids[rows])}.",
            cure="Fill them in or remove these samples.",
        )
    return ids, np.ascontiguousarray(values)


def _from_table(name: str, table: pd.DataFrame) -> tuple[np.ndarray | None, np.ndarray]:
    where = Path(f"the table of '{name}'")
    channels = table.drop(columns=["sample_id", "frame"], errors="ignore")
    if list(channels.columns) == ["values"] and channels["values"].dtype == object:
        try:
            values = _numbers(name, np.stack([np.asarray(value) for value in channels["values"]]))
        except ValueError as error:
            raise DatasetError(
                f"The lists in column 'values' of '{name}' differ in length.", cure="Give each sample as many numbers."
            ) from error
    else:
        values = _numbers(name, channels.to_numpy(na_value=np.nan) if len(channels.columns) else np.empty((0, 0)))
    if "sample_id" not in table:
        if "frame" in table:
            raise DatasetError(
                f"The table of '{name}' has a column 'frame' but none 'sample_id'.", cure="Name the sample of each row."
            )
        return None, values
    if table["sample_id"].isna().any():
        raise DatasetError(f"The table of '{name}' has rows without a sample_id.", cure="Name the sample of every row.")
    ids = table["sample_id"].astype(str).to_numpy(dtype=object)
    if "frame" in table:
        ids, order, count = order_frames(where, ids, frame_numbers(where, table["frame"]))
        return ids, values[order].reshape(len(ids), count, values.shape[1])
    repeated = pd.Index(ids)[pd.Index(ids).duplicated()].unique()
    if len(repeated):
        raise DatasetError(
            f"The table of '{name}' has {len(repeated)} sample_ids more than once: {some(repeated)}.",
            cure="Keep one row a sample, or number the rows of a sequence in a column 'frame'.",
        )
    return ids, values


def _numbers(name: str, source: Source) -> np.ndarray:
    try:
        values = np.asarray(source)
        # An object array may hold numbers beside a missing cell; text is refused.
        if values.dtype.kind not in "iufb" and not (values.dtype.kind == "O" and values.ndim > 1):
            raise ValueError(f"received {values.dtype}")
        with np.errstate(over="ignore"):
            return values.astype(np.float32, copy=False)
    except (TypeError, ValueError, RuntimeError) as error:
        # RuntimeError is torch's, for a tensor that needs gradients.
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DatasetError(
            f"The features of '{name}' are not an array of numbers ({reason}).",
            cure="Give a numeric array [N, d] or [N, T, d], or a table with sample_id and numeric columns.",
        ) from error


def _aligned(
    found: Mapping[str, tuple[np.ndarray | None, np.ndarray]],
) -> tuple[list[str], dict[str, np.ndarray]]:
    """The samples in the order of the first modality, and each modality's values in that order."""
    first = next(iter(found))
    bare = [name for name, (ids, _) in found.items() if ids is None]
    if bare and len(bare) < len(found):
        raise DatasetError(
            f"{some(bare)} has no sample_ids, but {some(name for name in found if name not in bare)} has.",
            cure="Give arrays for all modalities, in one order, or tables with a column sample_id for all.",
        )
    if bare:
        lengths = {name: len(values) for name, (_, values) in found.items()}
        if len(set(lengths.values())) > 1:
            raise DatasetError(
                f"The modalities have different numbers of samples: {lengths}.",
                cure="Give the same samples in the same order, or tables with a column sample_id.",
            )
        return [str(row) for row in range(lengths[first])], {name: values for name, (_, values) in found.items()}
    order = pd.Index(np.asarray(found[first][0]))
    faults = Faults()
    arrays = {}
    for name, (ids, values) in found.items():
        index = pd.Index(np.asarray(ids))
        for missing, where, whose in ((order.difference(index), name, first), (index.difference(order), first, name)):
            if len(missing):
                faults.add(
                    f"{len(missing)} samples of '{whose}' are missing in '{where}': {some(missing)}.",
                    "Give every sample in every modality.",
                )
        if not faults:
            arrays[name] = values[index.get_indexer(order)]
    faults.raise_if_any("The input")
    return [str(name) for name in order], arrays
