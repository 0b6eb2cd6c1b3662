"""From a run's best trial to a folder that a user takes home."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pkdray.data.dataset import Dataset, open_dataset
from pkdray.diagnostics import negative_transfer
from pkdray.diagnostics.cost_table import architecture_latency
from pkdray.errors import CheckpointError, DatasetError, PkdrayError, RunError, StorageError
from pkdray.evaluate import evaluation_of, student_trial, until_complete
from pkdray.export.card import model_card
from pkdray.export.graphs import ONNX, TORCH, write_graphs
from pkdray.files import storage_errors, sync_folder, write_json, write_text
from pkdray.search.results import write_best
from pkdray.search.run import Run
from pkdray.training.bundles import CONFIG, METRICS, MODEL, PREPROCESSING, read_bundle, read_info, write_info

CARD = "README.md"
FILES = (MODEL, CONFIG, PREPROCESSING, METRICS, CARD, ONNX, TORCH)


def export_student(run: Run, dest: Path, *, overwrite: bool = False) -> Path:
    """Make ``dest`` the best student of a run: weights, config, preprocessing, metrics, model card, ONNX, torch.export.

    The folder needs neither the run nor the dataset, and appears whole or not at all. A sweep that is still going on,
    or was killed, has not written its best student yet; it is then written first, which needs the dataset.

    Args:
        run: the run; one trial at least must be complete.
        dest: the folder to make; may exist if it is empty.
        overwrite: replace an earlier export at ``dest``.

    Returns:
        ``dest``.

    Raises:
        RunError: no trial is complete, ``dest`` holds something, or ``overwrite`` would delete what no export made.
        CheckpointError: the run's best student is damaged.
        PkdrayError: the network cannot be exported, or a graph answers otherwise than the student does.
        StorageError: the folder cannot be written.
    """
    _check_destination(run, dest, overwrite=overwrite)
    _bring_up_to_date(run)
    with _building(dest) as build:
        for name in (MODEL, CONFIG, PREPROCESSING, METRICS):
            shutil.copyfile(run.best / name, build / name)
        info, pipeline, metrics = read_bundle(build)
        evaluation, trial, dataset = evaluation_of(run), info.made_from.get("trial"), _opened_dataset(run)
        test = (
            (evaluation.get("student") or {}).get("test") if evaluation and evaluation.get("trial") == trial else None
        )
        if test:
            metrics |= {"test": test}
            write_json(build / METRICS, metrics)
        about = {"task": info.task, "targets": info.targets, "classes": info.classes, "made_from": info.made_from}
        write_graphs(build, pipeline, info.architecture.shapes, about)
        card = model_card(
            dest.resolve().name,
            info,
            metrics,
            images=pipeline.images,
            recordings=pipeline.recordings,
            run=run,
            dataset=dataset,
            evaluation=evaluation,
            transfer=_transfer(run, dataset, trial) if dataset is not None and trial is not None else None,
            latency_ms=architecture_latency(info.architecture),
        )
        write_text(build / CARD, card)
        write_info(build, info, (MODEL, PREPROCESSING, ONNX, TORCH))
    return dest


def _check_destination(run: Run, dest: Path, *, overwrite: bool) -> None:
    target = dest.resolve()
    if target.is_relative_to(run.best.resolve()) or run.path.resolve().is_relative_to(target):
        raise RunError(f"{dest} belongs to the run {run.name}.", cure="Choose a folder outside the run.")
    if Path.cwd().resolve().is_relative_to(target):
        raise RunError(f"{dest} is the folder that you are in.", cure="Name a new folder, such as ./student.")
    if not target.exists():
        return
    if not target.is_dir():
        raise RunError(f"{dest} is a file.", cure="Choose another folder.")
    present = sorted(entry.name for entry in target.iterdir())
    if not present:
        return
    try:
        read_info(target)
    except CheckpointError as error:
        raise RunError(
            f"{dest} is not empty and is no student (it holds {present[0]}).", cure="Choose another folder."
        ) from error
    if not overwrite:
        raise RunError(
            f"{dest} holds a student already.", cure="Replace it with --overwrite, or choose another folder."
        )
    foreign = [name for name in present if name not in FILES]
    if foreign:
        raise RunError(
            f"{dest} holds {', '.join(foreign)} beside the student, which would be lost.",
            cure="Move it elsewhere, or choose another folder.",
        )


def _bring_up_to_date(run: Run) -> None:
    ledger = run.ledger()
    best = ledger.best()
    if best is None:
        counts = ledger.counts()
        raise RunError(
            f"No trial of {run.name} is complete ({counts.finished} of {counts.planned} are finished, "
            f"{counts.failed} of them failed).",
            cure=f"Continue it: {until_complete(run)}",
        )
    chosen = student_trial(run)
    if chosen is not None and _trial_of_best(run) != chosen:
        with run.lock():
            dataset = run.dataset()
            write_best(run, run.plan(dataset), dataset, chosen)


def _trial_of_best(run: Run) -> Any:
    try:
        return json.loads((run.best / METRICS).read_text(encoding="utf-8"))["trial"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{run.best / METRICS} is damaged ({type(error).__name__}).",
            cure=f"Delete the folder {run.best} and export again; it is made anew from the trial.",
        ) from error


def _opened_dataset(run: Run) -> Dataset | None:
    """The run's dataset if it still lies somewhere; the card can do without."""
    for path in (run.config.dataset.path, run.about.get("dataset_path")):
        with contextlib.suppress(DatasetError, OSError):
            dataset = open_dataset(str(path), verify=False)
            if dataset.fingerprint == run.about["dataset_fingerprint"]:
                return dataset
    return None


def _transfer(run: Run, dataset: Dataset, trial: int) -> str | None:
    """Who taught the student, in one sentence; the card can do without where the teachers' pool is gone."""
    with contextlib.suppress(PkdrayError):
        plan = run.plan(dataset)
        found = negative_transfer(run, plan, dataset, run.pool(plan), trial)
        return found.sentence if found is not None else None
    return None


@contextlib.contextmanager
def _building(dest: Path) -> Iterator[Path]:
    """A folder that becomes ``dest`` when the block ends well, and otherwise vanishes."""
    target = dest.resolve()
    with storage_errors(dest):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.tmp-", dir=target.parent))
        try:
            # mkdtemp's folder is private to its maker; the ones inside get the permissions of any new folder.
            build, old = temporary / "new", temporary / "old"
            build.mkdir()
            yield build
            sync_folder(build)
            try:
                if target.exists():
                    target.rename(old)
                build.rename(target)
            except OSError as error:
                if old.exists() and not target.exists():
                    old.rename(target)
                raise StorageError(
                    f"{dest} cannot be put in place: {error.strerror}.", cure="Choose a folder that does not exist yet."
                ) from error
            sync_folder(target.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
