"""The same loop under Ray Train: several teachers at once, each on as many data-parallel workers as asked for."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pkdray.config import ResourcesConfig, StudentConfig, TeachersConfig
from pkdray.data.dataset import Dataset, open_dataset
from pkdray.errors import PkdrayError, RunError
from pkdray.training.embed import embed_pool
from pkdray.training.frozen import missing_steps, with_steps
from pkdray.training.inputs import input_name, split_arrays
from pkdray.training.loop import Workers
from pkdray.training.plan import Plan
from pkdray.training.pools import Pool
from pkdray.training.teachers import load_teacher, train_adapters, train_teacher

OnTeacher = Callable[[str, dict[str, float]], None]
"""Called with a teacher's name and its validation metrics when it is trained."""

_STORAGE = ".train"
"""Where Ray Train keeps its own records while a teacher trains; nothing of ours is read from there."""


def teach(plan: Plan, dataset: Dataset, pools_dir: Path, on_teacher: OnTeacher | None = None) -> Pool:
    """Train what the plan's pool lacks, align the adapters, write the embeddings; returns the finished pool.

    Needs a connected Ray. A finished pool of the same fingerprint is verified and reused; an unfinished one is
    continued: trained teachers are kept, a teacher in training goes on from its last checkpoint.

    Raises:
        PkdrayError: a teacher diverged, a folder cannot be written, the pool is damaged.
    """
    # Ray's processes may run in another folder than this one.
    pool = Pool.at(pools_dir.resolve(), plan)
    if pool.finished:
        pool.verify(plan)
        return pool
    gpus = plan.config.resources.gpus_per_teacher_worker
    freeze(plan, dataset, plan.config.teachers, plan.taught, pool.frozen, cpus=1, gpus=gpus)
    members = [member.name for member in plan.pool.values() if member.adapter_of is None]
    metrics = _train_all(plan, members, pool, on_teacher or (lambda _name, _metrics: None))
    if any(member.adapter_of for member in plan.pool.values()):
        metrics |= _align_adapters(plan, dataset, pool)
    shutil.rmtree(pool.path / _STORAGE, ignore_errors=True)
    pool.discard_tnets()
    embed_pool(plan, dataset, pool)
    pool.write(plan, metrics)
    return pool


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


def _align_adapters(plan: Plan, dataset: Dataset, pool: Pool) -> dict[str, dict[str, float]]:
    first = plan.pool[plan.first_teacher]
    teacher = load_teacher(plan, first, pool.teacher(first.name))
    arrays = with_steps(plan, plan.config.teachers, split_arrays(plan, dataset, first.modalities), pool.frozen)
    scores = train_adapters(plan, teacher, arrays, pool.adapters(first.name))
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
    launch = ray.remote(num_cpus=0, max_retries=0)(_launch)
    pending = {launch.remote(plan, name, pool): name for name in names}
    metrics: dict[str, dict[str, float]] = {}
    while pending:
        ready, _ = ray.wait(list(pending))
        for reference in ready:
            name = pending.pop(reference)
            outcome = ray.get(reference)
            if isinstance(outcome, PkdrayError):
                raise outcome
            metrics[name] = {key: value for key, value in outcome.items() if "/" not in key and key != "epoch"}
            on_teacher(name, metrics[name])
    return metrics


def _launch(plan: Plan, name: str, pool: Pool) -> dict[str, float] | PkdrayError:
    """Run one teacher's TorchTrainer; a fault that the user can mend is returned, not raised, to keep its wording."""
    # Defaults that make a short training start in half the time (measured); a user's own settings win.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
    import ray.train
    from ray.train.torch import TorchTrainer

    resources = plan.config.resources
    storage = pool.path / _STORAGE
    # Train continues a run that has the same name and storage, which is what our own checkpoints are for: start clean.
    shutil.rmtree(storage / name, ignore_errors=True)
    trainer = TorchTrainer(
        _train_worker,
        train_loop_config={"plan": plan, "name": name, "folder": pool.teacher(name), "frozen": pool.frozen},
        scaling_config=ray.train.ScalingConfig(
            num_workers=resources.workers_per_teacher,
            use_gpu=resources.gpus_per_teacher_worker > 0,
            resources_per_worker=_worker_resources(resources),
        ),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=str(storage),
            failure_config=ray.train.FailureConfig(max_failures=resources.max_failures),
        ),
    )
    try:
        outcome = trainer.fit().return_value
    except ray.train.TrainingFailedError as error:
        return RunError(f"Teacher {name} could not be trained: {error}.", cure="Run with -v to see the workers' logs.")
    finally:
        shutil.rmtree(storage / name, ignore_errors=True)
    return outcome


def _worker_resources(resources: ResourcesConfig) -> dict[str, float]:
    wanted = {"CPU": 1.0}
    if resources.gpus_per_teacher_worker:
        wanted["GPU"] = resources.gpus_per_teacher_worker
    return wanted


def _train_worker(settings: dict[str, Any]) -> dict[str, float] | PkdrayError:
    """What every worker of a teacher's TorchTrainer runs."""
    import ray.train
    from ray.train.torch import get_device, prepare_model

    plan: Plan = settings["plan"]
    member = plan.pool[settings["name"]]
    context = ray.train.get_context()
    size = context.get_world_size()
    torch.set_num_threads(1)
    wrap = (lambda model: prepare_model(model, move_to_device=False)) if size > 1 else (lambda model: model)
    try:
        dataset = open_dataset(plan.dataset_path)
        return train_teacher(
            plan,
            member,
            with_steps(plan, plan.config.teachers, split_arrays(plan, dataset, member.modalities), settings["frozen"]),
            settings["folder"],
            device=str(get_device()),
            workers=Workers(context.get_world_rank(), size, wrap),
        )
    except PkdrayError as error:
        return error
