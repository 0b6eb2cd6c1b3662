"""A student taken home, and its answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pkdray import mirrors
from pkdray.console import Console
from pkdray.errors import (
    ConfigError,
)
from pkdray.steps.wording import head_of, named, next_steps


def export(name: str, runs_dir: Path, output: Path, console: Console, *, overwrite: bool) -> None:
    """The best student as one folder."""
    from pkdray.export import export_student
    from pkdray.export.card import recording_inputs
    from pkdray.search.run import find_run
    from pkdray.training.bundles import read_bundle

    run = find_run(name, runs_dir)
    with console.progress(f"Exporting the best student of {run.name} ..."):
        mirrors.pull(output)
        folder = export_student(run, output, overwrite=overwrite)
        mirrors.push(folder, gone=True)
    files = sorted(path.name for path in folder.iterdir())
    info, pipeline, _ = read_bundle(folder)
    place = mirrors.shown(folder)
    recording = recording_inputs(info, pipeline.recordings)
    asked = f"{recording} -o answers.csv --plot answers.png" if recording else "INPUT.csv -o answers.csv"
    console.result(
        {"student": place, "files": files},
        f"The student is in {place}: {', '.join(files)}",
        *next_steps(f"pkdray predict {place} {asked}"),
    )


def predict(
    student: Path,
    inputs: Sequence[str],
    output: Path,
    console: Console,
    *,
    step: float | None = None,
    plot: Path | None = None,
    device: str = "cpu",
) -> None:
    """A student's answers for new samples, or for a recording."""
    from pkdray.predict import predict_file, predict_recording_file

    mirrors.pull(student)
    found = recording_of(inputs)
    if found is not None:
        recording, biosignals = found
        with console.progress(f"Reading {recording} ...") as meter:
            table = predict_recording_file(
                student,
                recording,
                output,
                biosignals=biosignals,
                step_s=step,
                plot=plot,
                device=device,
                progress=lambda done, total: meter.show(f"{done}/{total} samples of {recording} answered"),
            )
        drawn = f" The time line is drawn in {plot}." if plot is not None else ""
    else:
        if step is not None or plot is not None:
            raise ConfigError("--step and --plot are for a recording.", cure="Leave them out, or give a video.")
        tables: Any
        if len(inputs) == 1 and ("=" not in inputs[0] or Path(inputs[0]).exists()):
            tables = Path(inputs[0])
        else:
            tables = {key: Path(value) for key, value in named(inputs, "INPUT").items()}
        table, drawn = predict_file(student, tables, output), ""
    console.result(
        {"output": str(output), "samples": len(table), **({"plot": str(plot)} if plot is not None else {})},
        f"{len(table)} answers are in {output}.{drawn}",
        *head_of(table),
    )


def recording_of(inputs: Sequence[str]) -> tuple[Path, Path | None] | None:
    """The recording among the inputs and its biosignals; None where they are tables of features.

    Raises:
        ConfigError: several recordings, or a recording beside something that is not its biosignals.

    Example:
        >>> recording_of(["talk.mp4", "biosignals=talk.csv"])
        (PosixPath('talk.mp4'), PosixPath('talk.csv'))
        >>> recording_of(["faces.csv"]), recording_of(["face=face.csv", "biosignals=talk.csv"])
        (None, None)
    """
    from pkdray.predict import FEATURES

    plain = [one for one in inputs if "=" not in one or Path(one).exists()]
    signals = [one.partition("=")[2] for one in inputs if one not in plain and one.startswith("biosignals=")]
    media = [one for one in plain if Path(one).suffix.lower() not in FEATURES]
    if not media:
        return None
    if len(media) > 1:
        raise ConfigError(f"There are {len(media)} recordings: {', '.join(media)}.", cure="Give one at a time.")
    others = [one for one in inputs if one != media[0] and one not in [f"biosignals={path}" for path in signals]]
    if others or len(signals) > 1:
        stranger = others[0] if others else f"biosignals={signals[1]}"
        raise ConfigError(
            f"{stranger} cannot go with the recording {media[0]}.",
            cure="A recording may have one other input: biosignals=SIGNALS.csv.",
        )
    return Path(media[0]), Path(signals[0]) if signals else None
