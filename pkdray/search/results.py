"""What a sweep leaves beside its ledger: trials.parquet, and the best student in ``best/``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from pkdray import mirrors
from pkdray.config import Config
from pkdray.data.dataset import Dataset
from pkdray.embeddings import Rows
from pkdray.errors import CheckpointError, RunError
from pkdray.files import checksum, write_atomic, write_json
from pkdray.models.networks import Student
from pkdray.search.ledger import Ledger, reason, retry_of, summary
from pkdray.search.run import Run, fixed_values
from pkdray.search.space import suggest
from pkdray.search.trial import BEST
from pkdray.training.answers import answers_table
from pkdray.training.bundles import METRICS, Architecture, StudentInfo, read_info, write_bundle
from pkdray.training.checkpoints import load_tensors, load_trained
from pkdray.training.frozen import with_steps
from pkdray.training.inputs import fit_standardizers, present, split_arrays
from pkdray.training.plan import Plan
from pkdray.training.pretrained import without_folders
from pkdray.training.students import fresh_student, predict_rows, privileged_width, uses_tnet

PREDICTIONS = "predictions.{split}.parquet"
BEST_OF_SEARCH = "best_of_search"
"""In metrics.json: which trial was the best when ``best/`` was written."""


def write_results(run: Run, plan: Plan, dataset: Dataset, ledger: Ledger) -> None:
    """Write trials.parquet, and ``best/`` if a trial is complete."""
    table = trials_table(ledger)
    write_atomic(run.path / "trials.parquet", lambda temporary: table.to_parquet(temporary, index=False))
    best = ledger.best()
    if best is not None and not _chosen_beside(run.best, best.number):
        write_best(run, plan, dataset, best.number, ledger)


def trials_table(ledger: Ledger) -> pd.DataFrame:
    """One row a trial: number, state, value, method, epochs, seconds, node, device, reason, retry_of, parameters.

    ``node``, ``device`` and ``seconds`` of pruned and failed trials are those of their last report.
    """
    rows = []
    for trial in ledger.trials():
        said = summary(trial)
        rows.append(
            {
                "number": trial.number,
                "state": trial.state.name.lower(),
                "value": trial.value,
                "best_epoch": said.get("epoch"),
                "epochs": said.get("epochs") or max(trial.intermediate_values, default=None),
                "seconds": said.get("seconds"),
                "node": said.get("node"),
                "device": said.get("device"),
                "started": trial.datetime_start,
                "finished": trial.datetime_complete,
                "reason": reason(trial),
                "retry_of": retry_of(trial),
                **{f"parameter.{name}": value for name, value in trial.params.items()},
            }
        )
    table = pd.DataFrame(rows)
    # A categorical parameter may mix numbers, strings and lists; Parquet columns may not.
    for name in table.columns:
        if not name.startswith("parameter.") or table[name].dtype != object:
            continue
        if not all(_absent(value) or isinstance(value, str) for value in table[name]):
            table[name] = [None if _absent(value) else json.dumps(value) for value in table[name]]
    return table


def _absent(value: Any) -> bool:
    return value is None or value != value


def trial_overrides(run: Run, ledger: Ledger, number: int) -> dict[str, Any]:
    """The values that a trial drew, by dotted path, read back from the ledger."""
    return suggest(run.config.search.space, ledger.trials()[number], fixed_values(run.config))


def write_best(run: Run, plan: Plan, dataset: Dataset, number: int, ledger: Ledger | None = None) -> None:
    """Make ``best/`` the student of a trial: a bundle, with its predictions on validation.

    The folder is built aside and swapped in, so that ``best/`` is never a mixture of two trials.
    """
    ledger = ledger or run.ledger()
    leader = ledger.best()
    if _is_student_of(run.best, number):
        _chosen_when(run.best, leader.number if leader is not None else None)
        return
    config = plan.trial_config(trial_overrides(run, ledger, number))
    student, meta = load_student(run, plan, config, number)
    build = run.path / ".best"
    shutil.rmtree(build, ignore_errors=True)
    metrics = {
        "trial": number,
        BEST_OF_SEARCH: leader.number if leader is not None else None,
        "validation": {
            key: value
            for key, value in meta["best"].items()
            if not key.startswith("train/") and key not in ("epoch", "best")
        },
    }
    standardizers = fit_standardizers(plan, dataset, plan.prevalent)
    info = student_info(run, plan, config, number)
    write_bundle(build, student, info, standardizers, metrics, plan.info.recordings)
    write_predictions(build, plan, dataset, student, "val", config, run.pool(plan).frozen)
    shutil.rmtree(run.best, ignore_errors=True)
    # Or what this one lacks, as answers on the test split, would come back from there.
    mirrors.remove(run.best)
    build.rename(run.best)


def _chosen_when(folder: Path, best: int | None) -> None:
    """Note in the student's metrics.json which trial is the search's best by now."""
    try:
        said = json.loads((folder / METRICS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        # `_chosen_beside` takes a student whose file says nothing for one that nobody chose.
        return
    if said.get(BEST_OF_SEARCH) != best:
        write_json(folder / METRICS, {**said, BEST_OF_SEARCH: best})


def _chosen_beside(folder: Path, best: int) -> bool:
    """Whether somebody (`evaluate --top`) chose the student in ``best/`` when this very trial was the search's best.

    A resume that finds no better trial must not take it, and its answers on the test split, away.
    """
    try:
        said = json.loads((folder / METRICS).read_text(encoding="utf-8"))
        return said[BEST_OF_SEARCH] == best and _is_student_of(folder, said["trial"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _is_student_of(folder: Path, number: int) -> bool:
    """Whether a folder is a trial's student, and whole: a driver that was killed may have brought half of it away."""
    try:
        info = read_info(folder)
    except CheckpointError:
        return False
    return (
        info.made_from.get("trial") == number
        and all((folder / name).is_file() and checksum(folder / name) == said for name, said in info.checksums.items())
        and (folder / PREDICTIONS.format(split="val")).is_file()
    )


def load_student(run: Run, plan: Plan, config: Config, number: int) -> tuple[Student, dict[str, Any]]:
    """A complete trial's student with the weights of its best epoch, and what was saved with them.

    Raises:
        RunError: the trial's weights are missing or damaged.
        CheckpointError: so is the file of a frozen backbone's weights, which the trial's own lack.
    """
    path = run.trial(number) / BEST
    student = fresh_student(plan, config)
    mirrors.pull_file(path)
    if not path.exists():
        raise RunError(f"Trial {number} of {run.name} has lost its weights ({path}).", cure="Restore the file.")
    tensors, meta = load_tensors(path)
    load_trained(student, tensors, path)
    return student.eval(), meta


def student_info(run: Run, plan: Plan, config: Config, number: int) -> StudentInfo:
    """What the student's config.yaml says of a trial's student."""
    return StudentInfo(
        task=plan.info.task,
        targets=list(plan.info.targets),
        classes=list(plan.info.classes),
        architecture=Architecture(
            student=without_folders(config.student),
            fusion=config.student.fusion or config.teachers.fusion,
            embedding=config.teachers.embedding,
            shapes={name: list(shape) for name, shape in plan.shapes(plan.prevalent).items()},
            outputs=plan.task.outputs,
            per_frame=plan.task.per_frame,
            tnet_outputs=privileged_width(plan) if uses_tnet(plan, config) else 0,
        ),
        made_from={
            "run": run.name,
            "trial": number,
            "dataset": plan.info.name,
            "dataset_fingerprint": plan.dataset_fingerprint,
            "pool_fingerprint": plan.pool_fingerprint,
            "privileged": plan.privileged,
            "seed": config.seed,
            "method": config.method.model_dump(mode="json"),
            "training": config.training.model_dump(mode="json"),
            "versions": run.about.get("versions", {}),
            "metric": plan.metric.name,
        },
    )


def write_predictions(
    folder: Path,
    plan: Plan,
    dataset: Dataset,
    student: Student,
    split: str,
    config: Config | None = None,
    frozen: Path | None = None,
) -> torch.Tensor:
    """Write the student's predictions of a split, as ``pkdray predict`` writes them; returns the raw predictions.

    With its ``config`` and the folder ``frozen`` a frozen backbone does not go through the split once more.
    """
    section = (config or plan.config).student
    arrays = with_steps(plan, section, split_arrays(plan, dataset, plan.prevalent, [split]), frozen)[split]
    rows = Rows({name: arrays[name] for name in present(arrays, plan.prevalent)})
    prediction = predict_rows(student, rows, plan.prevalent)
    values = prediction.softmax(dim=-1) if plan.info.task == "classification" else prediction
    sample_ids = dataset.samples["sample_id"].iloc[dataset.rows(split, plan.config.dataset.fold)].tolist()
    table = answers_table(sample_ids, values.numpy(), plan.info.task, list(plan.info.classes), list(plan.info.targets))
    write_atomic(folder / PREDICTIONS.format(split=split), lambda temporary: table.to_parquet(temporary, index=False))
    return prediction
