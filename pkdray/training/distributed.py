"""Data-parallel workers under Ray Train: one function on each of them, its report and its answer back here."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pkdray.errors import PkdrayError, RunError
from pkdray.training.loop import Report
from pkdray.training.parallel import Workers

_POLL_S = 0.2
Loop = Callable[[dict[str, Any], Workers, str, Report], Any]
"""(settings, this worker's place, torch's name of its device, report) -> answer; every worker runs it."""


@dataclass(frozen=True)
class Team:
    """How many workers, and what each of them takes.

    Args:
        workers: how many.
        cpus: of each.
        gpus: of each; 0 trains on CPUs.
        max_failures: restarts after a worker or its node died.
    """

    workers: int
    cpus: float = 1.0
    gpus: float = 0.0
    max_failures: int = 0


def run_on_workers(
    loop: Loop, settings: dict[str, Any], team: Team, storage: Path, name: str, report: Report | None = None
) -> Any:
    """Run ``loop`` on every worker of a team; returns the first worker's answer.

    Needs a connected Ray. What the first worker reports arrives at ``report`` in this thread, in order: Ray's own
    TuneReportCallback and a report of the trial itself may overtake each other.

    Args:
        loop: a module's function, sent to the workers by name.
        settings: what it is called with.
        team: who runs it.
        storage: where Ray Train keeps its records while it runs; nothing of ours is read from there.
        name: of the records: those of an earlier run of the name are not continued, since loops keep their own state.
        report: called with what the first worker reports.

    Raises:
        PkdrayError: the loop raised it.
        RunError: workers died more often than ``max_failures``.
    """
    # Defaults that make a short training start in half the time (measured); a user's own settings win.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
    import ray.train
    from ray.train.torch import TorchTrainer
    from ray.util.queue import Queue

    # Train continues a run that has the same name and storage: start clean.
    shutil.rmtree(storage / name, ignore_errors=True)
    reports = Queue(actor_options={"num_cpus": 0}) if report else None
    needs = {"CPU": team.cpus} | ({"GPU": team.gpus} if team.gpus else {})
    trainer = TorchTrainer(
        _work,
        train_loop_config={"loop": loop, "settings": settings, "reports": reports, "threads": max(1, int(team.cpus))},
        scaling_config=ray.train.ScalingConfig(
            num_workers=team.workers, use_gpu=team.gpus > 0, resources_per_worker=needs
        ),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=str(storage),
            failure_config=ray.train.FailureConfig(max_failures=team.max_failures),
        ),
    )
    try:
        outcome = _fit(trainer, reports, report)
    except ray.train.TrainingFailedError as error:
        raise RunError(f"The workers of {name} failed: {error}.", cure="Run with -v to see their logs.") from error
    finally:
        if reports is not None:
            reports.shutdown(force=True)
        shutil.rmtree(storage / name, ignore_errors=True)
    if isinstance(outcome, PkdrayError):
        raise outcome
    return outcome


def _fit(trainer: Any, reports: Any, report: Report | None) -> Any:
    if reports is None or report is None:
        return trainer.fit().return_value
    from ray.util.queue import Empty

    with ThreadPoolExecutor(1) as thread:
        training = thread.submit(trainer.fit)
        while True:
            # Asked before the queue is: what a finished training reported is in it.
            finished = training.done()
            try:
                report(reports.get(timeout=_POLL_S))
            except Empty:
                if finished:
                    break
        return training.result().return_value


def _work(config: dict[str, Any]) -> Any:
    """What Ray Train runs on each worker; a fault that the user can mend is returned, to keep its wording."""
    import ray.train
    from ray.train.torch import get_device

    context = ray.train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(config["threads"])
    device = str(get_device())
    reports = config["reports"]

    def report(entry: dict[str, float]) -> None:
        if rank == 0 and reports is not None:
            reports.put(entry)

    try:
        return config["loop"](config["settings"], Workers(rank, size, _averaging(size, device)), device, report)
    except PkdrayError as error:
        return error


def _averaging(size: int, device: str) -> Callable[[nn.Module], nn.Module]:
    from ray.train.torch import prepare_model

    if size == 1:
        return lambda model: model

    def wrap(model: nn.Module) -> nn.Module:
        # Statistics of the whole batch, as of a worker alone; PyTorch has them for GPUs only.
        if torch.device(device).type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return prepare_model(model, move_to_device=False)

    return wrap
