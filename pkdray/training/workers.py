"""A whole pool on Ray: several teachers at once, each on as many data-parallel workers as asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pkdray.config import StudentConfig, TeachersConfig
from pkdray.data.dataset import Dataset, open_dataset
from pkdray.errors import PkdrayError, RunError
from pkdray.training.distributed import Team, release_all, run_on_workers
from pkdray.training.embed import embed_pool
from pkdray.training.frozen import missing_steps, with_steps
from pkdray.training.inputs import input_name, split_arrays
from pkdray.training.loop import Report
from pkdray.training.parallel import Workers
from pkdray.training.plan import Plan
from pkdray.training.pools import GO_ON, Pool
from pkdray.training.teachers import load_teacher, train_adapters, train_teacher

OnTeacher = Callable[[str, dict[str, float]], None]
"""Called with a teacher's name and its validation metrics when it is trained."""

OnWait = Callable[[str | None], None]
"""Called with who has the pool that is waited for, again and again, and with None when the training begins here."""

_STORAGE = ".train"
"""Where Ray Train keeps its own records while a teacher trains; nothing of ours is read from there."""


def teach(
    plan: Plan,
    dataset: Dataset,
    pools_dir: Path,
    on_teacher: OnTeacher | None = None,
    on_wait: OnWait | None = None,
) -> Pool:
    """Train what the plan's pool lacks, align the adapters, write the embeddings; returns the finished pool.

    Needs a connected Ray. A finished pool of the same fingerprint is verified and reused; an unfinished one is
    continued: trained teachers are kept, a teacher in training goes on from its last checkpoint. One that another
    process is training is waited for.

    Raises:
        PkdrayError: a teacher diverged, a folder cannot be written, the pool is damaged.
    """
    # Ray's processes may run in another folder than this one.
    pool = Pool.at(pools_dir.resolve(), plan)
    if not pool.finished:
        on_wait = on_wait or (lambda _holder: None)
        with pool.trained_alone(on_wait) as check:
            # Whoever was waited for has finished it, or left it for this one to go on with.
            pool.fetch()
            if not pool.finished:
                on_wait(None)
                _teach(plan, dataset, pool, on_teacher or (lambda _name, _metrics: None), check)
                return pool
    pool.verify(plan)
    return pool


def _teach(plan: Plan, dataset: Dataset, pool: Pool, on_teacher: OnTeacher, check: Callable[[], None]) -> None:
    gpus = plan.resources.gpus_per_teacher_worker
    freeze(plan, dataset, plan.config.teachers, plan.taught, pool.frozen, cpus=1, gpus=gpus)
    members = [member.name for member in plan.pool.values() if member.adapter_of is None]
    metrics = _train_all(plan, members, pool, on_teacher)
    release_all(pool.path / _STORAGE)
    check()
    pool.discard_tnets()
    metrics |= _recycle_and_embed(plan, dataset, pool)
    pool.fetch()
    check()
    pool.write(plan, metrics)


def _recycle_and_embed(plan: Plan, dataset: Dataset, pool: Pool) -> dict[str, dict[str, float]]:
    """Align the adapters and write the embeddings: here, or where there is a GPU if teachers train on one."""
    gpus = plan.resources.gpus_per_teacher_worker
    if not gpus:
        return _frozen_teachers(plan, dataset, pool, "cpu")
    import ray

    outcome = ray.get(ray.remote(num_gpus=gpus)(_frozen_teachers_or_fault).remote(plan, dataset, pool))
    if isinstance(outcome, PkdrayError):
        raise outcome
    metrics: dict[str, dict[str, float]] = outcome
    return metrics


def _frozen_teachers_or_fault(plan: Plan, dataset: Dataset, pool: Pool) -> dict[str, dict[str, float]] | PkdrayError:
    try:
        return _frozen_teachers(plan, dataset, pool, "cuda")
    except PkdrayError as error:
        return error


def _frozen_teachers(plan: Plan, dataset: Dataset, pool: Pool, device: str) -> dict[str, dict[str, float]]:
    # Teachers were trained elsewhere, where no disk is shared; and so may be who reads the embeddings.
    pool.fetch()
    recycles = any(member.adapter_of for member in plan.pool.values())
    metrics = _align_adapters(plan, dataset, pool, device) if recycles else {}
    embed_pool(plan, dataset, pool, device)
    pool.share()
    return metrics


def freeze(
    plan: Plan,
    dataset: Dataset,
    section: TeachersConfig | StudentConfig,
    modalities: list[str],
    folder: Path,
    *,
    cpus: float,
    gpus: float,
) -> None:
    """Compute the missing steps of a section's frozen backbones, in a task with what a training gets.

    Needs a connected Ray if any are missing.

    Raises:
        CheckpointError: the file of weights is missing, damaged or of another network.
        StorageError: the folder cannot be written.
    """
    missing = missing_steps(plan, dataset, section, modalities, folder)
    if not missing:
        return
    import ray

    task = ray.remote(num_cpus=cpus, num_gpus=gpus)(_freeze)
    threads, device = max(1, int(cpus)), "cuda" if gpus else "cpu"
    outcome = ray.get(task.remote(plan, section, missing, folder, threads, device))
    if isinstance(outcome, PkdrayError):
        raise outcome


def _freeze(
    plan: Plan,
    section: TeachersConfig | StudentConfig,
    modalities: list[str],
    folder: Path,
    threads: int,
    device: str,
) -> PkdrayError | None:
    torch.set_num_threads(threads)
    try:
        dataset = open_dataset(plan.dataset_path, verify=False)
        images = {input_name(name): dataset.features(name) for name in modalities}
        with_steps(plan, section, {"all": images}, folder, device)
    except PkdrayError as error:
        return error
    return None


def _align_adapters(plan: Plan, dataset: Dataset, pool: Pool, device: str) -> dict[str, dict[str, float]]:
    first = plan.pool[plan.first_teacher]
    teacher = load_teacher(plan, first, pool.teacher(first.name))
    pictures = split_arrays(plan, dataset, first.modalities)
    arrays = with_steps(plan, plan.config.teachers, pictures, pool.frozen, device)
    scores = train_adapters(plan, teacher, arrays, pool.adapters(first.name), device=device)
    return {
        name: {
            key.removeprefix(f"{member.modalities[0]}/"): value
            for key, value in scores.items()
            if key.startswith(f"{member.modalities[0]}/")
        }
        for name, member in plan.pool.items()
        if member.adapter_of
    }


def _train_all(plan: Plan, names: list[str], pool: Pool, on_teacher: OnTeacher) -> dict[str, dict[str, float]]:
    import ray

    # The launching task only waits for Train's controller; were it to hold a CPU, as many launchers as CPUs would
    # leave none for the workers they wait for.
    # Where its node dies, another goes on from the teacher's last checkpoint.
    launch = ray.remote(num_cpus=0, max_retries=plan.resources.max_failures)(_launch)
    pending = {launch.remote(plan, name, pool): name for name in names}
    metrics: dict[str, dict[str, float]] = {}
    while pending:
        ready, _ = ray.wait(list(pending))
        for reference in ready:
            name = pending.pop(reference)
            try:
                outcome = ray.get(reference)
            except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError) as error:
                raise RunError(
                    f"The teacher {name} lost its process or its node more than "
                    f"{plan.resources.max_failures} times ({type(error).__name__}).",
                    cure=GO_ON,
                ) from error
            if isinstance(outcome, PkdrayError):
                raise outcome
            metrics[name] = {key: value for key, value in outcome.items() if "/" not in key and key != "epoch"}
            on_teacher(name, metrics[name])
    return metrics


def _launch(plan: Plan, name: str, pool: Pool) -> dict[str, float] | PkdrayError:
    """Train one teacher; a fault that the user can mend is returned, not raised, to keep its wording."""
    resources = plan.resources
    team = Team(
        resources.workers_per_teacher, gpus=resources.gpus_per_teacher_worker, max_failures=resources.max_failures
    )
    settings = {"plan": plan, "name": name, "folder": pool.teacher(name), "frozen": pool.frozen}
    try:
        best: dict[str, float] = run_on_workers(_train_worker, settings, team, pool.path / _STORAGE, name)
    except PkdrayError as error:
        return error
    return best


def _train_worker(settings: dict[str, Any], workers: Workers, device: str, _report: Report) -> dict[str, float]:
    """What every worker of a teacher runs."""
    plan: Plan = settings["plan"]
    member = plan.pool[settings["name"]]
    # Its driver has verified every file of it.
    dataset = open_dataset(plan.dataset_path, verify=False)
    pictures = split_arrays(plan, dataset, member.modalities)
    arrays = with_steps(plan, plan.config.teachers, pictures, settings["frozen"], device)
    return train_teacher(plan, member, arrays, settings["folder"], device=device, workers=workers)
