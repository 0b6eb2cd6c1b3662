"""Honest evaluation: the best student over several seeds beside its bounds, on a test split that is opened once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from pkdray.data.dataset import Dataset
from pkdray.embeddings import Arrays, SharedArrays
from pkdray.errors import RunError
from pkdray.files import fingerprint, write_json
from pkdray.search.results import load_student, trial_overrides, write_best, write_predictions
from pkdray.search.run import Run
from pkdray.search.sweep import TRAIN, study_arrays, team_of
from pkdray.training.distributed import release_all, run_on_workers
from pkdray.training.frozen import with_steps
from pkdray.training.inputs import labelled_rows, split_arrays, student_rows
from pkdray.training.loop import Report
from pkdray.training.metrics import evaluate as evaluate_metrics
from pkdray.training.parallel import Workers
from pkdray.training.plan import Plan
from pkdray.training.pools import Pool
from pkdray.training.students import scores, train_student

EVALUATION = "evaluation.json"
CONFIDENCE = 0.95
Scores = dict[str, dict[str, float]]
"""``{"validation": {metric: value}, "test": {metric: value}}`` of one training."""


def evaluate_run(
    run: Run, plan: Plan, dataset: Dataset, pool: Pool, *, seeds: int = 5, reopen: bool = False
) -> dict[str, Any]:
    """Retrain the best trial's student over several seeds beside its bounds, and score all of them on the test split.

    * lower bound: a student of the prevalent modalities and the labels alone, without T-Net, with the same budget;
      its training settings are the study's or the best trial's, whichever do better on validation
    * upper bound: the first teacher, which sees every modality

    Needs a connected Ray. The outcome is kept in ``evaluation.json`` and returned again for the same trial and seeds.

    Args:
        run: the run.
        plan: its plan.
        dataset: its dataset.
        pool: its teacher pool.
        seeds: how many trainings of the student and of the lower bound.
        reopen: open the test split once more, for another trial or more seeds; how often is recorded.

    Raises:
        RunError: no trial is complete, or the test split was opened before and ``reopen`` is not given.
    """
    best = run.ledger().best()
    if best is None:
        raise RunError(f"No trial of {run.name} is complete.", cure=f"Continue it: pkdray resume {run.path}")
    before = read_evaluation(run)
    if before is not None:
        if before["trial"] == best.number and len(before["seeds"]) == seeds:
            return before
        if not reopen:
            raise RunError(
                f"The test split of {run.name} was opened on {before['test_opened']['at']} for trial {before['trial']} "
                f"and {len(before['seeds'])} seeds; now trial {best.number} and {seeds} seeds are asked for.",
                cure="A test split that is opened again is no longer unseen. Do it with --reopen if you must; "
                "the number of openings is recorded and shown.",
            )
    overrides = trial_overrides(run, run.ledger(), best.number)
    bare = {"method.name": "supervised", "student.tnet.training": "none"}
    candidates = {
        "student": overrides,
        "lower bound, study's training": bare,
        "lower bound, best trial's training": {
            **bare,
            **{path: value for path, value in overrides.items() if path.startswith("training.")},
        },
    }
    chosen = [plan.config.seed + index for index in range(seeds)]
    storage = run.path.resolve() / TRAIN
    try:
        outcomes = _retrain_all(plan, dataset, pool, candidates, chosen, storage)
    finally:
        release_all(storage)
    metric = plan.metric
    bounds = sorted(
        (name for name in candidates if name.startswith("lower bound")),
        key=lambda name: np.mean([outcome["validation"][metric.name] for outcome in outcomes[name]]),
        reverse=metric.mode == "max",
    )
    evaluation: dict[str, Any] = {
        "trial": best.number,
        "metric": metric.name,
        "mode": metric.mode,
        "seeds": chosen,
        "test_opened": {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "times": 1 + (before["test_opened"]["times"] if before else 0),
        },
        "student": {"validation": None, "test": None},
        "methods": {
            "lower_bound": {"what": _lower_what(plan, bounds[0]), **_described(outcomes[bounds[0]], metric.name)},
            "student": {"what": _student_what(plan, overrides), **_described(outcomes["student"], metric.name)},
            "teacher": {"what": _teacher_what(plan), **_described([_teacher(plan, dataset, pool)], metric.name)},
        },
    }
    evaluation["comparison"] = compare(
        evaluation["methods"]["lower_bound"]["values"], evaluation["methods"]["student"]["values"], metric.mode
    )
    # An interrupted sweep has no best/ yet, or an older trial's.
    write_best(run, plan, dataset, best.number)
    evaluation["student"] = _exported(run, plan, dataset, best.number)
    write_json(run.path / EVALUATION, evaluation)
    return evaluation


def read_evaluation(run: Run) -> dict[str, Any] | None:
    """What `evaluate_run` found; None before it ran.

    Raises:
        RunError: the file is damaged.
    """
    try:
        found: dict[str, Any] = json.loads((run.path / EVALUATION).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise RunError(
            f"{run.path / EVALUATION} is damaged.",
            cure="Restore it. Deleting it would forget that the test split was opened.",
        ) from error
    return found


def compare(lower: Sequence[float], student: Sequence[float], mode: str) -> dict[str, Any]:
    """Did the student beat its lower bound? Paired over seeds.

    Args:
        lower: the bound's test scores, one a seed.
        student: the student's, same seeds.
        mode: ``max`` or ``min``.

    Returns:
        ``difference`` (mean, positive is better), ``interval`` (95 %), ``p_value`` (paired t-test, two-sided), and
        ``verdict``: ``helped``, ``hurt`` or ``not enough evidence``. With fewer than two seeds, or where all
        differences are the same, there is no test and the numbers are None.

    Example:
        >>> compare([0.70, 0.72, 0.71], [0.76, 0.77, 0.78], "max")["verdict"]
        'helped'
    """
    gain = (np.asarray(student) - np.asarray(lower)) * (1 if mode == "max" else -1)
    result: dict[str, Any] = {
        "difference": float(gain.mean()),
        "interval": None,
        "p_value": None,
        "test": "paired t-test",
        "verdict": "not enough evidence",
    }
    if len(gain) < 2 or np.ptp(gain) == 0:
        return result
    test = stats.ttest_1samp(gain, 0.0)
    interval = test.confidence_interval(CONFIDENCE)
    result |= {"interval": [float(interval.low), float(interval.high)], "p_value": float(test.pvalue)}
    if test.pvalue < 1 - CONFIDENCE:
        result["verdict"] = "helped" if gain.mean() > 0 else "hurt"
    return result


def _retrain_all(
    plan: Plan,
    dataset: Dataset,
    pool: Pool,
    candidates: Mapping[str, dict[str, Any]],
    seeds: Sequence[int],
    storage: Path,
) -> dict[str, list[Scores]]:
    import ray

    arrays = study_arrays(plan, dataset, pool)
    arrays |= split_arrays(plan, dataset, plan.prevalent, ["test"])
    shared = SharedArrays.put(arrays)
    resources = plan.config.resources
    # Who only waits for workers takes nothing, or they would wait for it.
    alone = resources.workers_per_trial == 1
    retrain = ray.remote(
        num_cpus=resources.cpus_per_trial if alone else 0,
        num_gpus=resources.gpus_per_trial if alone else 0,
        max_retries=resources.max_failures,
    )(_retrain)
    plan_reference = ray.put(plan)
    pending = {
        name: [
            retrain.remote(plan_reference, overrides, shared, seed, storage, pool.frozen.resolve()) for seed in seeds
        ]
        for name, overrides in candidates.items()
    }
    return {name: ray.get(references) for name, references in pending.items()}


def _retrain(
    plan: Plan, overrides: dict[str, Any], shared: SharedArrays, seed: int, storage: Path, frozen: Path
) -> Scores:
    resources = plan.config.resources
    if resources.workers_per_trial > 1:
        settings = {"plan": plan, "overrides": overrides, "shared": shared, "seed": seed, "frozen": frozen}
        name = f"evaluate-{fingerprint(overrides)}-{seed}"
        found: Scores = run_on_workers(_retrain_worker, settings, team_of(plan), storage, name)
        return found
    torch.set_num_threads(max(1, int(resources.cpus_per_trial)))
    device = "cuda" if resources.gpus_per_trial else "cpu"
    return retrain(plan, overrides, shared.get(), seed, device=device, frozen=frozen)


def _retrain_worker(settings: dict[str, Any], workers: Workers, device: str, _report: Report) -> Scores:
    return retrain(
        settings["plan"],
        settings["overrides"],
        settings["shared"].get(),
        settings["seed"],
        device=device,
        frozen=settings["frozen"],
        workers=workers,
    )


def retrain(
    plan: Plan,
    overrides: dict[str, Any],
    arrays: Mapping[str, Arrays],
    seed: int,
    device: str = "cpu",
    frozen: Path | None = None,
    workers: Workers | None = None,
) -> Scores:
    """Train one configuration with one seed; the epoch is chosen on validation, then both splits are scored."""
    config = plan.trial_config(overrides)
    arrays = with_steps(plan, config.student, arrays, frozen, device)
    fitted = train_student(plan, config, arrays, seed=seed, device=device, workers=workers)
    rows = {
        name: student_rows(arrays[split], plan.prevalent, [], privileged=False, device=device)
        for name, split in (("validation", "val"), ("test", "test"))
    }
    return {name: scores(fitted.model, split, plan, workers) for name, split in rows.items()}


def _exported(run: Run, plan: Plan, dataset: Dataset, number: int) -> Scores:
    """The very student that is exported, not a retrained one; its test predictions are kept beside it."""
    config = plan.trial_config(trial_overrides(run, run.ledger(), number))
    student, _ = load_student(run, plan, config, number)
    frozen = run.pool(plan).frozen
    write_predictions(run.best, plan, dataset, student, "test", config, frozen)
    pictured = split_arrays(plan, dataset, plan.prevalent, ["val", "test"])
    arrays = with_steps(plan, config.student, pictured, frozen)
    return {
        name: scores(student, student_rows(arrays[split], plan.prevalent, [], privileged=False), plan)
        for name, split in (("validation", "val"), ("test", "test"))
    }


def _teacher(plan: Plan, dataset: Dataset, pool: Pool) -> Scores:
    result = {}
    for name, split in (("validation", "val"), ("test", "test")):
        rows = dataset.rows(split, plan.config.dataset.fold)
        said = pool.load_embeddings(plan, dataset.samples["sample_id"].iloc[rows].tolist())[plan.first_teacher]
        target, labelled = labelled_rows(plan.info, torch.as_tensor(dataset.targets()[rows]))
        result[name] = evaluate_metrics(labelled(torch.as_tensor(said.prediction), 1), target, plan.info.task)
    return result


def _described(outcomes: Sequence[Scores], metric: str) -> dict[str, Any]:
    """Mean, standard deviation (ddof 1) and 95 % t interval of the test metric, with the values themselves."""
    values = [outcome["test"][metric] for outcome in outcomes]
    several = len(values) > 1
    interval = None
    if several and np.ptp(values) > 0:
        low, high = stats.t.interval(CONFIDENCE, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
        interval = [float(low), float(high)]
    return {
        "values": values,
        "mean": float(np.mean(values)),
        "std": float(np.std(values, ddof=1)) if several else None,
        "interval": interval,
        "validation": [outcome["validation"][metric] for outcome in outcomes],
        "test_metrics": [outcome["test"] for outcome in outcomes],
    }


def _lower_what(plan: Plan, chosen: str) -> str:
    return f"{', '.join(plan.prevalent)} and labels alone, no T-Net ({chosen.removeprefix('lower bound, ')})"


def _student_what(plan: Plan, overrides: Mapping[str, Any]) -> str:
    config = plan.trial_config(dict(overrides))
    tnet = config.student.tnet.training
    return f"{', '.join(plan.prevalent)}, {config.method.name}" + (f", {tnet} T-Net" if tnet != "none" else "")


def _teacher_what(plan: Plan) -> str:
    return f"teacher {plan.first_teacher} on {', '.join(plan.pool[plan.first_teacher].modalities)}"
