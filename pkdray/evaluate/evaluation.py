"""The evaluation of a run: everything is chosen on validation, then the test split is opened, once, and on record."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pkdray import mirrors
from pkdray.data.dataset import Dataset
from pkdray.errors import ConfigError, RunError
from pkdray.evaluate.candidates import Candidate, Contender, best_students, check_methods, lower_bound, other_method
from pkdray.evaluate.cures import until_complete
from pkdray.evaluate.on_ray import Job, Trainer, forget
from pkdray.evaluate.opening import EVALUATION, keep_earlier, read_json, record_opening, refuse_second_opening
from pkdray.evaluate.rows import compare_all, method_row, teacher_row
from pkdray.evaluate.statistics import CONFIDENCE
from pkdray.evaluate.subgroups import subgroups
from pkdray.evaluate.trainings import finite
from pkdray.evaluate.wording import notes, sentence
from pkdray.files import write_json
from pkdray.search.results import load_student, trial_overrides, write_best, write_predictions
from pkdray.search.run import Run
from pkdray.training.frozen import with_steps
from pkdray.training.inputs import split_arrays, student_rows
from pkdray.training.plan import Plan
from pkdray.training.pools import Pool
from pkdray.training.students import scores

FORMAT = 3
"""Of evaluation.json. In format 2 the interval of a difference was the bootstrap's; older ones had no request."""
SEEDS = 10
"""Enough for Wilcoxon's test to stand Holm's correction for a dozen comparisons."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is, and of how much."""


@dataclass(frozen=True)
class Request:
    """What is asked of an evaluation.

    Args:
        seeds: trainings a configuration and fold; the first seed is the study's.
        folds: of the dataset; ``(None,)`` is its split column. None: all folds where the run was searched on one of
            them, else the split column.
        top: of how many of the best trials validation chooses the student, and of how many of its own each method of
            ``against`` that was searched.
        against: other methods to be compared.
        reopen: open the test split though it was opened for another request; how often is recorded.
        unfinished: evaluate though planned trials are still to be run.
    """

    seeds: int = SEEDS
    folds: Sequence[int | None] | None = None
    top: int = 1
    against: Sequence[str] = ()
    reopen: bool = False
    unfinished: bool = False


def evaluate_run(
    run: Run,
    plan: Plan,
    dataset: Dataset,
    pools: Callable[[Plan], Pool],
    request: Request | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Retrain the best students over seeds and folds beside their bounds, and score the chosen ones on the test split.

    * the student: the best of the ``top`` trials by the mean of their retrainings on validation
    * lower bound: prevalent modalities and labels alone, with the same budget and a learning rate of its own
    * the methods asked for: each the best of its own ``top`` trials, chosen likewise, or its defaults with a learning
      rate of its own
    * upper bound: the first teacher of each fold, which sees every modality

    Needs a connected Ray. What is trained is kept in ``<run>/evaluation/``, so that the same call goes on where it was
    stopped. ``test_opened.json`` is written before the first score; ``evaluation.json`` is the outcome, which the same
    request gets again without any training.

    Args:
        run: the run.
        plan: its plan.
        dataset: its dataset.
        pools: the finished teacher pool of a fold's plan, trained now if need be.
        request: how many seeds, which folds, which methods.
        on_progress: told of every training that ends.

    Raises:
        ConfigError: an unknown method or fold.
        RunError: trials are still to be run, none is complete, the test split was opened before for something else, or
            every training of a method diverged.
    """
    started = time.monotonic()
    request = request or Request()
    ledger = run.ledger()
    best = ledger.best()
    if best is None:
        raise RunError(f"No trial of {run.name} is complete.", cure=f"Continue it: {until_complete(run)}")
    counts = ledger.counts()
    if counts.finished < counts.planned and not request.unfinished:
        raise RunError(
            f"{run.name} has {counts.finished} of {counts.planned} trials: the best may be still to come, and the test "
            "split is opened once.",
            cure=f"pkdray resume {mirrors.typed(run.path)}; or evaluate what is there with --unfinished.",
        )
    against = check_methods(request.against, plan)
    folds = _folds(request.folds, plan, dataset)
    seeds = [plan.config.seed + index for index in range(request.seeds)]
    students = best_students(run, plan, ledger, request.top)
    rows = {
        "lower_bound": lower_bound(plan, students.candidates[0].overrides),
        "student": students,
        **{name: other_method(run, plan, ledger, name, request.top) for name in against},
    }
    asked = {
        "trial": best.number,
        "seeds": seeds,
        "folds": folds,
        "top": request.top,
        "against": against,
        # A sweep that goes on may change these and leave the best trial.
        "trials": _trials(list(rows.values())),
    }
    before = read_evaluation(run)
    if before is not None and before["request"] == asked:
        return before
    refuse_second_opening(run, asked, request.reopen)

    trainer = Trainer(run, plan, dataset, pools)

    def told(what: str) -> Callable[[int, int], None]:
        return lambda done, total: on_progress(what, done, total) if on_progress else None

    metric = plan.metric
    places = [(fold, seed) for fold in folds for seed in seeds]
    finalists = {
        key: _finalists(row, trainer, plan, seeds[0], told("tuning learning rates")) for key, row in rows.items()
    }
    jobs = [
        Job.of(one.overrides, fold, seed) for several in finalists.values() for one in several for fold, seed in places
    ]
    trained = trainer.train(list(dict.fromkeys(jobs)), told("training"))

    def on_validation(one: Candidate) -> list[float]:
        found = [trained[Job.of(one.overrides, fold, seed)] for fold, seed in places]
        return [entry["validation"][metric.name] for entry in found if "validation" in entry]

    found = {key: [on_validation(one) for one in several] for key, several in finalists.items()}
    chosen = {key: finalists[key][choose(values, metric.mode)] for key, values in found.items()}
    student = chosen["student"]
    same = [name for name in against if chosen[name].overrides == student.overrides]
    methods = {key: one for key, one in chosen.items() if key not in same}

    for key, one in methods.items():
        if not on_validation(one):
            why = trained[Job.of(one.overrides, *places[0])]["failed"]
            raise RunError(
                f"Every training of {key.replace('_', ' ')} diverged: {why} The test split has not been opened for it.",
                cure="Lower training.learning_rate in the study, or set training.gradient_clip.",
            )

    jobs = [
        job
        for one in methods.values()
        for job in (Job.of(one.overrides, fold, seed) for fold, seed in places)
        if "validation" in trained[job]
    ]
    # An earlier evaluation has removed the weights of those whom it did not choose.
    trainer.train(jobs, told("training"), weights=True)
    times = record_opening(run, asked)
    tested = trainer.score(jobs, told("scoring on the test split"))
    about: dict[str, Any] = {}
    for key, one in methods.items():
        pairs = []
        for fold, seed in places:
            job = Job.of(one.overrides, fold, seed)
            said = {name: value for name, value in trained[job].items() if name != "identity"}
            pairs.append({"fold": fold, "seed": seed, **said, "test": tested.get(job)})
        about[key] = method_row(key.replace("_", " "), one, plan, pairs, rows[key])
    about["teacher"] = teacher_row(dataset, {fold: (trainer.plan(fold), trainer.pool(fold)) for fold in folds})
    comparisons = compare_all(
        about, against=[name for name in methods if name in against], mode=metric.mode, folds=len(folds)
    )
    for comparison in comparisons:
        comparison["sentence"] = sentence(comparison, about, metric.name, folds=len(folds))
    # An interrupted sweep has no best/ yet, or another trial's.
    assert student.trial is not None, "students are trials"
    write_best(run, plan, dataset, student.trial)
    exported, groups = _exported(run, plan, dataset, student.trial, tested=plan.config.dataset.fold in folds)
    evaluation = {
        "format": FORMAT,
        "run": run.name,
        "dataset": plan.info.name,
        "trial": student.trial,
        "request": asked,
        "metric": metric.name,
        "mode": metric.mode,
        "confidence": CONFIDENCE,
        "seeds": seeds,
        "folds": folds,
        "test_opened": times,
        "candidates": [
            {
                "trial": one.trial,
                "rank": index + 1,
                "search": one.score,
                "validation": float(np.mean(found["student"][index])) if found["student"][index] else None,
                "chosen": one is student,
            }
            for index, one in enumerate(students.candidates)
        ],
        "methods": about,
        "comparisons": comparisons,
        "notes": notes(
            plan,
            dataset,
            about,
            folds=folds,
            same=same,
            times=times["times"],
            top=request.top,
            finalists={key: len(row.candidates) for key, row in rows.items() if row.candidates[0].trial is not None},
            searched={key: row.searched for key, row in rows.items() if row.searched is not None},
        ),
        "student": exported,
        "subgroups": groups,
        "seconds": round(time.monotonic() - started, 1),
    }
    earlier = read_json(run.path / EVALUATION)
    if earlier is not None and earlier.get("request") != asked:
        keep_earlier(run, earlier)
    write_json(run.path / EVALUATION, evaluation)
    forget(run)
    return evaluation


def read_evaluation(run: Run) -> dict[str, Any] | None:
    """What `evaluate_run` found; None before it ran, or where an older pkdray wrote something else.

    Raises:
        RunError: the file is damaged.
    """
    found = read_json(run.path / EVALUATION)
    return found if found is not None and found.get("format") == FORMAT else None


def evaluation_of(run: Run) -> dict[str, Any] | None:
    """What `read_evaluation` finds, and nothing (``{}``) where an older pkdray wrote another format.

    Raises:
        RunError: the file is damaged.
    """
    found = read_evaluation(run)
    if found is not None:
        return found
    return {} if (run.path / EVALUATION).exists() else None


def student_trial(run: Run) -> int | None:
    """The trial whose student is to be taken home: the evaluation's choice, else the best of the search.

    An evaluation that a later sweep has overtaken chooses no more. None while no trial is complete.
    """
    best = run.ledger().best()
    evaluation = read_evaluation(run)
    if best is not None and evaluation is not None and evaluation["request"]["trial"] == best.number:
        return int(evaluation["trial"])
    return best.number if best else None


def against_bound(evaluation: Mapping[str, Any], method: str = "student") -> dict[str, Any] | None:
    """The comparison of a method with the lower bound; None where they share no finished training.

    Example:
        >>> against_bound({"comparisons": [{"method": "kl", "against": "lower_bound", "difference": 0.1}]})
    """
    for comparison in evaluation["comparisons"]:
        if (comparison["method"], comparison["against"]) == (method, "lower_bound"):
            return dict(comparison)
    return None


def _folds(asked: Sequence[int | None] | None, plan: Plan, dataset: Dataset) -> list[int | None]:
    own = plan.config.dataset.fold
    if asked is None:
        return [None] if own is None else list(range(dataset.folds))
    wrong = [fold for fold in asked if fold is not None and not 0 <= fold < dataset.folds]
    if wrong:
        has = f"folds 0 to {dataset.folds - 1}" if dataset.folds else "no folds"
        raise ConfigError(
            f"--folds names {', '.join(map(str, wrong))}, but {plan.info.name} has {has}.",
            cure="Choose among these, or leave --folds out.",
        )
    return list(dict.fromkeys(asked))


def _trials(rows: Sequence[Contender]) -> list[int]:
    """The trials that are compared, each once."""
    numbers = [one.trial for row in rows for one in row.candidates if one.trial is not None]
    return list(dict.fromkeys(numbers))


def _finalists(
    row: Contender, trainer: Trainer, plan: Plan, seed: int, on_progress: Callable[[int, int], None]
) -> Sequence[Candidate]:
    """Who is trained with every seed: the trials; of learning rates the best with one seed, as the search judged its.

    That seed's score is on the run's own validation split.
    """
    if not row.tuned:
        return row.candidates
    own = plan.config.dataset.fold
    jobs = [Job.of(one.overrides, own, seed) for one in row.candidates]
    trained = trainer.train(jobs, on_progress)
    found = [
        (trained[job]["validation"][plan.metric.name], one)
        for job, one in zip(jobs, row.candidates, strict=True)
        if "validation" in trained[job]
    ]
    if not found:
        raise RunError(
            f"Every training of {row.label} diverged: {trained[jobs[0]]['failed']}",
            cure="Lower training.learning_rate in the study, or set training.gradient_clip.",
        )
    sign = -1 if plan.metric.mode == "max" else 1
    return [min(found, key=lambda pair: sign * pair[0])[1]]


def choose(found: Sequence[Sequence[float]], mode: str) -> int:
    """Which candidate is the best by its validation scores: the mean, of those with the fewest diverged trainings.

    A candidate that diverges nine times of ten is not to be chosen for its one lucky training.

    Example:
        >>> choose([[0.7, 0.8], [0.9], [0.8, 0.8]], "max")
        2
    """
    most = max(len(values) for values in found)
    sign = -1 if mode == "max" else 1
    whole = [index for index, values in enumerate(found) if len(values) == most]
    return min(whole, key=lambda index: (sign * float(np.mean(found[index])) if most else 0.0, index))


def _exported(
    run: Run, plan: Plan, dataset: Dataset, number: int, *, tested: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The scores of the very student that is exported, not a retrained one, and its subgroups.

    Its test predictions are kept. Where its own test split is none of those asked for it is not opened: ``test`` is
    None, and there are no subgroups. Subjects of other folds are no test for it, since it was trained on some of them.
    """
    config = plan.trial_config(trial_overrides(run, run.ledger(), number))
    student, _ = load_student(run, plan, config, number)
    frozen = run.pool(plan).frozen
    splits = ["val", "test"] if tested else ["val"]
    arrays = with_steps(plan, config.student, split_arrays(plan, dataset, plan.prevalent, splits), frozen)
    said: dict[str, Any] = {
        split: finite(scores(student, student_rows(arrays[split], plan.prevalent, [], privileged=False), plan))
        for split in splits
    }
    exported = {"validation": said["val"], "test": said.get("test")}
    if not tested:
        return exported, {}
    prediction = write_predictions(run.best, plan, dataset, student, "test", config, frozen)
    return exported, subgroups(plan, dataset, prediction)
