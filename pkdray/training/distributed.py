"""Data-parallel workers under Ray Train: one function on each of them, its report and its answer back here."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pkdray import mirrors
from pkdray.errors import PkdrayError, RunError
from pkdray.files import remove_folder
from pkdray.training.loop import Report
from pkdray.training.parallel import Workers

_POLL_S = 0.2
_NAMESPACE = b"pkdray"
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
    TuneReportCallback and a report of the trial itself may overtake each other. Where ``report`` raises, as Tune has it
    do in a trial that is stopped, the workers end at their next report, and their resources are free again.

    Args:
        loop: a module's function, sent to the workers by name.
        settings: what it is called with.
        team: who runs it.
        storage: where Ray Train keeps its records while it runs; nothing of ours is read from there.
        name: of the records: those of an earlier run of the name are not continued, since loops keep their own state.
        report: called with what the first worker reports.

    Raises:
        PkdrayError: the loop raised it on a worker.
        RunError: workers died more often than ``max_failures``.
    """
    # Defaults that make a short training start in half the time (measured); a user's own settings win.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
    import ray.train
    from ray.train.torch import TorchTrainer
    from ray.util.queue import Queue
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # Train continues a run that has the same name and storage: start clean.
    release(storage, name)
    records = _Records(storage, name)
    if mirrors.uri_of(storage) is None:
        storage.mkdir(parents=True, exist_ok=True)
    # On this node: were it on another, that node's end would be a training's that ran elsewhere.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    messages = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
    needs = {"CPU": team.cpus} | ({"GPU": team.gpus} if team.gpus else {})
    trainer = TorchTrainer(
        _work,
        train_loop_config={
            "loop": loop,
            "settings": settings,
            "messages": messages,
            "records": records,
            "threads": max(1, int(team.cpus)),
        },
        scaling_config=ray.train.ScalingConfig(
            num_workers=team.workers, use_gpu=team.gpus > 0, resources_per_worker=needs
        ),
        run_config=ray.train.RunConfig(
            name=name,
            # Nodes that share no disk share this: Ray Train takes a URI itself.
            storage_path=mirrors.shown(storage),
            failure_config=ray.train.FailureConfig(max_failures=team.max_failures),
        ),
    )
    thread = ThreadPoolExecutor(1)
    training = thread.submit(trainer.fit)
    faults: list[PkdrayError] = []
    try:
        _listen(training, messages, report, faults)
        outcome = training.result().return_value
    except ray.train.TrainingFailedError as error:
        if faults:
            raise faults[0] from error
        raise RunError(f"The workers of {name} failed: {error}.", cure="Run with -v to see their logs.") from error
    except BaseException:
        # Whatever stops the one who waits stops the workers, who look for this at their next report.
        records.stop()
        raise
    finally:
        thread.shutdown(wait=False)
        if training.done():
            messages.shutdown(force=True)
            release(storage, name)
    if faults:
        raise faults[0]
    return outcome


def release(storage: Path, name: str) -> None:
    """Remove what a run of the name left behind: its records, and its hold on CPUs and GPUs.

    Ray frees the resources of workers whose trial was killed only with the whole job.
    """
    import ray
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    records = _Records(storage, name)
    group = records.group
    if group is not None:
        remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(group))))
    records.forget()
    mirrors.remove(storage / name)
    remove_folder(storage / name)


def release_all(storage: Path) -> None:
    """Remove what all runs left behind in ``storage``, and ``storage``."""
    for name in _Records.names(storage):
        release(storage, name)
    mirrors.remove(storage)
    remove_folder(storage)


@dataclass(frozen=True)
class _Records:
    """What a run keeps while it runs, seen by whoever waits and by the workers, on whatever node they are.

    Kept in the key-value store of the cluster, since nodes need not share a disk, and since it outlives the processes
    that write into it: who releases a run may never have seen those who started it.
    """

    storage: Path
    name: str

    @property
    def group(self) -> str | None:
        """The placement group that holds the workers' resources, in hexadecimal digits."""
        found = _store()._internal_kv_get(self._key("group"), namespace=_NAMESPACE)
        return found.decode() if found else None

    def hold(self, group: str) -> None:
        """Remember the placement group."""
        _store()._internal_kv_put(self._key("group"), group.encode(), namespace=_NAMESPACE)

    @property
    def stopped(self) -> bool:
        """Whether the workers are to end."""
        return bool(_store()._internal_kv_exists(self._key("stop"), namespace=_NAMESPACE))

    def stop(self) -> None:
        """Let the workers end at their next report."""
        _store()._internal_kv_put(self._key("stop"), b"", namespace=_NAMESPACE)

    def forget(self) -> None:
        """Remove all of it."""
        for what in ("group", "stop"):
            _store()._internal_kv_del(self._key(what), namespace=_NAMESPACE)

    @classmethod
    def names(cls, storage: Path) -> list[str]:
        """The names of the runs in ``storage`` whose placement groups are known."""
        prefix = cls(storage, "")._key("group")
        found = _store()._internal_kv_list(prefix, namespace=_NAMESPACE)
        return [key.removeprefix(prefix).decode() for key in found]

    def _key(self, what: str) -> bytes:
        return f"{what} {mirrors.shown(self.storage)} {self.name}".encode()


def _store() -> Any:
    """Ray's key-value store, which every node sees."""
    import ray
    from ray.experimental import internal_kv

    if not internal_kv._internal_kv_initialized():
        # Another Ray that this process had to do with was shut down.
        internal_kv._initialize_internal_kv(ray._private.worker.global_worker.gcs_client)
    return internal_kv


class _StoppedError(Exception):
    """Nobody waits for the answer any more."""


def _listen(training: Any, messages: Any, report: Report | None, faults: list[PkdrayError]) -> None:
    """Pass on what the workers say until they have ended."""
    from ray.util.queue import Empty

    while True:
        # Asked before the queue is: what a finished training said is in it.
        finished = training.done()
        try:
            message = messages.get(timeout=_POLL_S)
        except Empty:
            if finished:
                return
            continue
        if isinstance(message, PkdrayError):
            faults.append(message)
        elif report is not None:
            report(message)


def _work(config: dict[str, Any]) -> Any:
    """What Ray Train runs on each worker."""
    import ray.train
    from ray.train.torch import get_device
    from ray.util import get_current_placement_group

    context = ray.train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    messages, records = config["messages"], config["records"]
    torch.set_num_threads(config["threads"])
    device = str(get_device())
    workers = Workers(rank, size, _averaging(size, device))
    if rank == 0 and (group := get_current_placement_group()) is not None:
        records.hold(group.id.hex())
    if workers.agree(records.stopped):
        return None

    def report(entry: dict[str, float]) -> None:
        if rank == 0:
            messages.put(entry)
        if workers.agree(records.stopped):
            raise _StoppedError

    try:
        return config["loop"](config["settings"], workers, device, report)
    except _StoppedError:
        return None
    except PkdrayError as error:
        messages.put(error)
        if size == 1:
            return None
        # The others may wait for this worker in an exchange: as a failure it ends them too. What Ray then starts anew
        # ends at once.
        records.stop()
        raise


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
