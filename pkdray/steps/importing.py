"""Recordings or tables to a dataset, and what is in one."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pkdray.console import Console, duration
from pkdray.errors import (
    ConfigError,
    DatasetError,
    InterruptedImportError,
)
from pkdray.interrupts import noticed
from pkdray.steps.wording import lines_of, named, next_steps, short_path

if TYPE_CHECKING:
    from pkdray.data.importers.build import ImportProgress, Maker, Outcome, Work
    from pkdray.data.importers.recordings import Recording


def import_features(
    dest: Path, console: Console, *, modality: Sequence[str], labels: Path, name: str, task: str, **options: Any
) -> None:
    """Tables to a dataset."""
    from pkdray.data.importers.features import import_features as importer

    kinds: dict[str, Literal["classification", "regression"]] = {
        "classification": "classification",
        "regression": "regression",
    }
    if task not in kinds:
        raise ConfigError(f"--task is '{task}'.", cure="Choose classification or regression.")
    tables = {key: Path(value) for key, value in named(modality, "--modality").items()}
    importer(dest, name=name, task=kinds[task], labels=labels, modalities=tables, **options)
    inspect(str(dest), console)


def import_recordings(
    name: str,
    src: Path,
    dest: Path,
    console: Console,
    *,
    modalities: Sequence[str],
    scanning: Mapping[str, Any],
    making: Mapping[str, Any],
    protocol: str | None,
    seed: int,
    limit: int | None,
    dry_run: bool,
    device: str,
    workers: int = 1,
    address: str | None = None,
    delay: str = "0",
) -> None:
    """Recordings of one of the licensed sets to a dataset.

    Raises:
        InterruptedImportError: Ctrl-C stopped it; says how to go on.
    """
    from pkdray.data.importers import build
    from pkdray.data.importers.protocols import PROTOCOLS
    from pkdray.data.inspect import describe

    protocol = protocol or next(iter(PROTOCOLS[name]))
    build.check_destination_free(dest)
    with console.progress(f"Scanning {src} ..."):
        scan, chosen = build.scan_for(name, src, modalities, **scanning)
    notes, said = "", []
    if delay == "auto":
        from pkdray.data.importers.delays import estimate_lines, estimate_note, without_estimated_delay

        scan, estimate = without_estimated_delay(scan, src, protocol=protocol, seed=seed)
        notes, said = estimate_note(estimate), estimate_lines(estimate)
    elif shift := seconds(delay, "--delay"):
        scan, notes = build.without_delay(scan, shift), f"A delay of {shift:g} s was taken out of the labels."
    if limit is not None:
        scan = scan.limited(limit)
    options = build.media_options(scan, chosen, part=str(scanning.get("part", "")), **making)
    try:
        report = scan.report(protocol, seed=seed)
        plan = build.make_plan(dest, scan, options, protocol=protocol, seed=seed, notes=notes)
    except DatasetError as error:
        if limit is None:
            raise
        cure = f"{error.cure} Perhaps the limit of {limit} samples is too low: choose a higher one."
        raise DatasetError(error.what, cure=cure, details=error.details) from error
    shapes = {key: list(modality.shape) for key, modality in plan.info.modalities.items()}
    lines = [
        *report.lines,
        *said,
        f"To make: {len(plan.scan.recordings)} samples of "
        + ", ".join(f"{key} {shape}" for key, shape in shapes.items())
        + (f", {plan.scan.unlabelled} of their frames without a label" if plan.scan.unlabelled else "")
        + f", with up to {plan.bytes / 1e9:.2f} GB of disk meanwhile.",
    ]
    about = {
        "set": name,
        "protocol": protocol,
        "counts": dict(report.counts),
        "findings": [vars(finding) for finding in plan.scan.findings],
        "modalities": shapes,
        "to_make": len(plan.scan.recordings),
        "unlabelled": plan.scan.unlabelled,
        "bytes": plan.bytes,
    }
    if dry_run:
        console.result(about, *lines)
        return
    for line in lines:
        console.say(line)
    try:
        with noticed() as check, console.progress("Importing ...") as meter:
            made = build.run_import(
                plan,
                lambda progress: meter.show(import_line(progress)),
                device=device,
                check=check,
                maker=_over_ray(workers, device, address) if workers > 1 or address else None,
            )
    except KeyboardInterrupt:
        raise InterruptedImportError(
            f"The import stopped; what is finished is in {short_path(plan.partial)}.",
            cure="Go on with the same command.",
        ) from None
    described = describe(made.dataset)
    if made.leftover:
        console.say(f"{short_path(dest)} was finished before; what was left of {short_path(plan.partial)} is removed.")
    console.result(
        {**about, "dataset": described, "report": str(made.report), "made": made.counts, "failures": made.failures},
        *build.failure_lines(made.failures),
        *lines_of(dict(made.counts)),
        f"What became of each sample is in {short_path(made.report)}.",
        "",
        *lines_of(described),
        *next_steps(f"pkdray data inspect {short_path(dest)}"),
    )


def _over_ray(workers: int, device: str, address: str | None) -> Maker:
    """Samples made by actors; Ray runs only while they work."""
    from pkdray.data.importers.distributed import Pool

    pool = Pool(workers, device)

    def make(work: Work, todo: Sequence[Recording]) -> Generator[Outcome, None, None]:
        if not todo:
            return
        from pkdray.cluster import connected

        # Ray's core warns of what Ray Data's own actors do; read when it starts.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        with connected(address):
            yield from pool(work, todo)

    return make


def seconds(value: str, option: str) -> float:
    """An option's number of seconds.

    Raises:
        ConfigError: it is none, or not 0 or more.
    """
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise ConfigError(f"{option} is '{value}'.", cure="Give seconds, 0 or more, or auto.")
    return number


def import_line(progress: ImportProgress) -> str:
    """An import's progress as one line.

    Example:
        >>> from types import SimpleNamespace as Some
        >>> import_line(Some(done=7, kept=2, failed=1, total=40, seconds=61.0, seconds_left=305.0))
        '7/40 samples (2 from before), 1 left out · 1:01 elapsed, about 5:05 left'
    """
    before = f" ({progress.kept} from before)" if progress.kept else ""
    failed = f", {progress.failed} left out" if progress.failed else ""
    left = f", about {duration(progress.seconds_left)} left" if progress.seconds_left else ""
    return f"{progress.done}/{progress.total} samples{before}{failed} · {duration(progress.seconds)} elapsed{left}"


def inspect(name_or_path: str, console: Console) -> None:
    """What is in a dataset."""
    from pkdray.data.dataset import open_dataset
    from pkdray.data.inspect import describe

    about = describe(open_dataset(name_or_path))
    console.result(about, *lines_of(about))


def list_datasets(console: Console) -> None:
    """The bundled datasets."""
    from pkdray.data.bundled import bundled_datasets

    found = {name: str(path) for name, path in bundled_datasets().items()}
    console.table("Bundled datasets", ["name", "folder"], list(found.items()))
    if console.as_json:
        console.result(found)
