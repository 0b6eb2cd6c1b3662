"""From files to files: answers as a table, and as a picture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from pkdray.errors import PkdrayError
from pkdray.files import write_atomic
from pkdray.predict.student import load_student
from pkdray.predict.timeline import Progress

SUFFIXES = (".parquet", ".csv")
PLOT_SUFFIXES = (".png", ".svg", ".pdf")
FEATURES = (".csv", ".parquet", ".npz", ".npy")
"""Suffixes of files that hold features; a file with another one is a recording."""


def predict_file(
    student_dir: str | Path, inputs: Mapping[str, str | Path] | str | Path, output: str | Path
) -> pd.DataFrame:
    """Predict from files to a file.

    Args:
        student_dir: a folder made by ``pkdray export``.
        inputs: a file of features (CSV, Parquet, npz, npy) by modality; the file itself for a student of one modality.
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
    _check_outputs({output: SUFFIXES}, sources.values() if isinstance(sources, dict) else [sources])
    table = load_student(student_dir).predict(sources)
    _write_table(output, table)
    return table


def predict_recording_file(
    student_dir: str | Path,
    recording: str | Path,
    output: str | Path,
    *,
    biosignals: str | Path | None = None,
    step_s: float | None = None,
    plot: str | Path | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Predict from a raw recording to a file, and draw the time line.

    Args:
        student_dir: a folder made by ``pkdray export``.
        recording: a video, or a sound for a student that sees voices alone.
        output: ``.parquet`` or ``.csv``, written whole or not at all; replaced if it exists.
        biosignals: as for `LoadedStudent.predict_recording`, like ``step_s``, ``device`` and ``progress``.
        step_s: seconds from one sample's start to the next.
        plot: ``.png``, ``.svg`` or ``.pdf``; None for no picture.
        device: where faces are looked for.
        progress: told after every sample.

    Returns:
        The table that was written: see `LoadedStudent.predict_recording`.

    Raises:
        PkdrayError: ``output`` or ``plot`` has another suffix, is a folder or is one of the inputs.
        CheckpointError: ``student_dir`` is no student, or is damaged.
        DatasetError: the recording cannot be answered.
        StorageError: ``output`` or ``plot`` cannot be written.
    """
    recording, output = Path(recording).expanduser(), Path(output).expanduser()
    signals = None if biosignals is None else Path(biosignals).expanduser()
    picture = None if plot is None else Path(plot).expanduser()
    outputs = {output: SUFFIXES} | ({picture: PLOT_SUFFIXES} if picture is not None else {})
    _check_outputs(outputs, [recording] if signals is None else [recording, signals])
    student = load_student(student_dir)
    table = student.predict_recording(recording, biosignals=signals, step_s=step_s, device=device, progress=progress)
    _write_table(output, table)
    if picture is not None:
        from pkdray.predict.plot import write_plot

        write_plot(picture, table, student.classes, student.targets, title=f"{student.name} · {recording.name}")
    return table


def _check_outputs(outputs: Mapping[Path, Iterable[str]], inputs: Iterable[Path]) -> None:
    """Said at once: a student that has answered for an hour should not be lost to a typo."""
    taken = [path.resolve() for path in inputs]
    for output, suffixes in outputs.items():
        if output.suffix not in suffixes:
            *most, last = suffixes
            raise PkdrayError(
                f"The output {output} has the suffix '{output.suffix}'.",
                cure=f"End it with {', '.join(most)} or {last}.",
            )
        if output.is_dir():
            raise PkdrayError(f"The output {output} is a folder.", cure="Name a file in it.")
        if output.resolve() in taken:
            raise PkdrayError(f"The output {output} is also an input, which would be lost.", cure="Name another file.")


def _write_table(output: Path, table: pd.DataFrame) -> None:
    if output.suffix == ".csv":
        write_atomic(output, lambda temporary: table.to_csv(temporary, index=False))
    else:
        write_atomic(output, lambda temporary: table.to_parquet(temporary, index=False))
