"""Trainings over candidates, seeds and folds, in parallel on Ray: as many at once as there is room for."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pkdray import mirrors
from pkdray.data.dataset import Dataset, open_dataset
from pkdray.embeddings import SharedArrays
from pkdray.errors import PkdrayError, RunError
from pkdray.evaluate.trainings import score_one, train_one
from pkdray.search.room import Room
from pkdray.search.run import Run
from pkdray.search.sweep import TRAIN, study_arrays, study_arrays_on_disk, team_of
from pkdray.search.trial import BEST
from pkdray.training.distributed import release_all, run_on_workers
from pkdray.training.inputs import split_arrays
from pkdray.training.loop import Report
from pkdray.training.parallel import Workers
from pkdray.training.plan import Plan, make_plan
from pkdray.training.pools import Pool
from pkdray.training.students import student_identity
from pkdray.training.workers import freeze

FOLDER = "evaluation"
"""In a run's folder: one folder a training."""

_LOOK_S = 5.0
"""How long a node that joins may wait to be used."""

OnProgress = Callable[[int, int], None]
"""Called with how many are done, of how many."""


class Job(NamedTuple):
    """One training: a configuration (JSON of its overrides), on a fold, with a seed."""

    overrides: str
    fold: int | None
    seed: int

    @classmethod
    def of(cls, overrides: Mapping[str, Any], fold: int | None, seed: int) -> Job:
        """The training of a configuration."""
        return cls(json.dumps(dict(overrides), sort_keys=True), fold, seed)


@dataclass(frozen=True)
class _Fold:
    """What the trainings of a fold share."""

    plan: Plan
    pool: Pool


class Trainer:
    """Trains and scores jobs of a run, fold after fold; needs a connected Ray.

    Args:
        run: whose ``evaluation/`` folder keeps the trainings.
        plan: of the run.
        dataset: its dataset.
        pools: the finished teacher pool of a fold's plan, trained now if need be.
    """

    def __init__(self, run: Run, plan: Plan, dataset: Dataset, pools: Callable[[Plan], Pool]) -> None:
        self._folder = run.path.resolve() / FOLDER
        self._storage = run.path.resolve() / TRAIN
        self._plan = plan
        self._dataset = dataset
        self._pools = pools
        self._folds: dict[int | None, _Fold] = {}

    def plan(self, fold: int | None) -> Plan:
        """The run's plan on a fold."""
        section = self._plan.config.dataset
        if fold == section.fold:
            return self._plan
        moved = self._plan.config.model_copy(update={"dataset": section.model_copy(update={"fold": fold})})
        return replace(make_plan(moved, self._dataset), resources=self._plan.resources)

    def pool(self, fold: int | None) -> Pool:
        """The teachers of a fold."""
        return self._fold(fold).pool

    def train(
        self, jobs: Iterable[Job], on_progress: OnProgress | None = None, *, weights: bool = False
    ) -> dict[Job, dict[str, Any]]:
        """Train every job that is not trained yet; with ``weights`` also those that have lost theirs unscored.

        Raises:
            PkdrayError: a training could not be done; those that are finished are kept.
        """
        return self._all(jobs, partial(_train, weights=weights), self._search_arrays, on_progress, nested=True)

    def score(self, jobs: Iterable[Job], on_progress: OnProgress | None = None) -> dict[Job, dict[str, float | None]]:
        """Score trained jobs on the test split of their fold.

        Raises:
            PkdrayError: a student could not be scored; those that were are kept.
        """
        return self._all(jobs, _score, self._test_arrays, on_progress, nested=False)

    def _all(
        self,
        jobs: Iterable[Job],
        work: Callable[..., Any],
        arrays: Callable[[_Fold], SharedArrays],
        on_progress: OnProgress | None,
        *,
        nested: bool,
    ) -> dict[Job, Any]:
        import ray

        resources = self._plan.resources
        # Who only waits for workers takes nothing, or they would wait for it.
        waits = resources.workers_per_trial > 1 and nested
        task = ray.remote(
            num_cpus=0 if waits else resources.cpus_per_trial,
            num_gpus=0 if waits else resources.gpus_per_trial,
            max_retries=resources.max_failures,
        )(_work)
        # One in reserve for each at work, so that nobody idles while the driver looks away; none that only waits.
        workers = resources.workers_per_trial if waits else 1
        room = Room(replace(resources, workers_per_trial=workers, concurrent_trials=None))
        reserve = 1 if waits else 2
        # A fold's jobs stand together, so that few folds' arrays are held at a time.
        waiting = deque(sorted(dict.fromkeys(jobs), key=lambda job: -1 if job.fold is None else job.fold))
        total = len(waiting)
        shared: dict[int | None, tuple[Any, SharedArrays]] = {}
        running: dict[Any, Job] = {}
        done: dict[Job, Any] = {}
        faults: list[PkdrayError] = []
        try:
            while waiting or running:
                while waiting and len(running) < room() * reserve:
                    job = waiting.popleft()
                    fold = self._fold(job.fold)
                    if job.fold not in shared:
                        shared[job.fold] = (ray.put(fold.plan), arrays(fold))
                    running[task.remote(work, *shared[job.fold], job, self._place(fold, job))] = job
                ready, _ = ray.wait(list(running), num_returns=1, timeout=_LOOK_S)
                for reference in ready:
                    job = running.pop(reference)
                    try:
                        outcome = ray.get(reference)
                    except ray.exceptions.RayError as error:
                        outcome = _lost(error)
                    if isinstance(outcome, PkdrayError):
                        faults.append(outcome)
                        waiting.clear()
                    else:
                        done[job] = outcome
                still = {job.fold for job in [*waiting, *running.values()]}
                shared = {fold: held for fold, held in shared.items() if fold in still}
                if on_progress:
                    on_progress(total - len(waiting) - len(running), total)
        finally:
            for reference in running:
                ray.cancel(reference, force=not waits)
            release_all(self._storage)
        if faults:
            raise faults[0]
        return done

    def _fold(self, fold: int | None) -> _Fold:
        if fold not in self._folds:
            plan = self.plan(fold)
            pool = self._pools(plan)
            resources = plan.resources
            cpus, gpus = resources.cpus_per_trial, resources.gpus_per_trial
            freeze(
                plan, self._dataset, plan.config.student, plan.prevalent, pool.frozen.resolve(), cpus=cpus, gpus=gpus
            )
            self._folds[fold] = _Fold(plan, pool)
        return self._folds[fold]

    def _place(self, fold: _Fold, job: Job) -> _Place:
        identity = student_identity(fold.plan, fold.plan.trial_config(json.loads(job.overrides)), job.seed)
        return _Place(
            self._folder / identity, fold.pool.tnets.resolve(), fold.pool.frozen.resolve(), self._storage, identity
        )

    def _search_arrays(self, fold: _Fold) -> SharedArrays:
        arrays = study_arrays(fold.plan, self._dataset, fold.pool)
        return SharedArrays.put(arrays, partial(study_arrays_on_disk, fold.plan, fold.pool))

    def _test_arrays(self, fold: _Fold) -> SharedArrays:
        return SharedArrays.put(_test_arrays(fold.plan, self._dataset), partial(_test_arrays, fold.plan))


def _test_arrays(plan: Plan, dataset: Dataset | None = None) -> dict[str, Any]:
    dataset = dataset or open_dataset(plan.dataset_path, verify=False)
    return split_arrays(plan, dataset, plan.prevalent, ["test"])


class _Place(NamedTuple):
    """Where a training finds and leaves files."""

    folder: Path
    tnets: Path
    frozen: Path
    storage: Path
    name: str


def _work(work: Callable[..., Any], plan: Plan, shared: SharedArrays, job: Job, place: _Place) -> Any:
    """What Ray runs: the outcome, or the error that the user can mend."""
    try:
        return work(plan, shared, job, place)
    except PkdrayError as error:
        return error


def _lost(error: Exception) -> RunError:
    """What Ray says of a process that died too often, or of an exception that nobody foresaw."""
    cause = getattr(error, "cause", None) or error
    said = (str(cause).strip() or "no reason is told").splitlines()[0]
    lost = RunError(
        f"A training of the evaluation failed ({type(cause).__name__}: {said}).",
        cure="What is trained is kept: run the same command again. --debug shows more.",
    )
    lost.__cause__ = error
    return lost


def _train(plan: Plan, shared: SharedArrays, job: Job, place: _Place, *, weights: bool) -> dict[str, Any]:
    if plan.resources.workers_per_trial == 1:
        return _train_here(plan, shared, job, place, _device(plan), Workers(), weights)
    settings = {"plan": plan, "shared": shared, "job": job, "place": place, "weights": weights}
    found: dict[str, Any] = run_on_workers(
        _train_worker, settings, team_of(plan), place.storage, f"{FOLDER}-{place.name}"
    )
    return found


def _train_worker(settings: dict[str, Any], workers: Workers, device: str, _report: Report) -> dict[str, Any]:
    return _train_here(
        settings["plan"],
        settings["shared"],
        settings["job"],
        settings["place"],
        device,
        workers,
        settings["weights"],
    )


def _train_here(
    plan: Plan, shared: SharedArrays, job: Job, place: _Place, device: str, workers: Workers, weights: bool
) -> dict[str, Any]:
    return train_one(
        plan,
        json.loads(job.overrides),
        shared.get(),
        job.seed,
        place.folder,
        tnets=place.tnets,
        frozen=place.frozen,
        device=device,
        workers=workers,
        weights=weights,
    )


def _score(plan: Plan, shared: SharedArrays, job: Job, place: _Place) -> dict[str, float | None]:
    overrides = json.loads(job.overrides)
    return score_one(plan, overrides, shared.get(), job.seed, place.folder, frozen=place.frozen, device=_device(plan))


def _device(plan: Plan) -> str:
    torch.set_num_threads(max(1, int(plan.resources.cpus_per_trial)))
    return "cuda" if plan.resources.gpus_per_trial else "cpu"


def forget(run: Run) -> None:
    """Remove the weights of trainings that were not chosen: a few hundred of them would fill a disk."""
    mirrors.forget(run.path / FOLDER, f"*/{BEST}")
