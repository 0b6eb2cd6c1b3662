"""Samples made on a Ray cluster: Ray Data's ``map_batches`` over a pool of actors that hold the face detector.

What travels is small: recordings go to the actors in runs, each of one sequence or of several short ones, in order of
time; every finished sample is written to the import's work folder by the actor that made it, exactly as one process
does; its id comes back. So the import goes on after a kill as it always does, and the dataset is the same.

A worker that dies (no memory, a node that is gone) is started again by Ray, and its run with it; finished samples of
the run are not made again. A sample that was being made at ``MAX_DEATHS`` deaths is left out as their likely cause.
"""

from __future__ import annotations

import logging
import math
import platform
import uuid
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from pkdray.data.faults import some
from pkdray.data.importers.build import Outcome, Work
from pkdray.data.importers.extract import Sources
from pkdray.data.importers.recordings import Recording
from pkdray.errors import DatasetError, PkdrayError, RunError, StorageError
from pkdray.files import remove_folder, storage_errors

MAX_DEATHS = 3
"""Workers that may die while they make a sample before it is left out."""

_RUN = 16
"""Samples of short sequences that travel together: one message a sample would cost more than some samples do."""
_RUNS_EACH = 4
"""Runs a worker, at the least: with fewer, most workers would wait for the last one."""
_FOLDER = "workers"
_MARKER = "marker"
_DONE, _FAILED, _STOP = "done", "failed", "stop"


@dataclass(frozen=True)
class Pool:
    """Makes samples with several actors of the Ray that this process is connected to; a ``build.Maker``.

    Args:
        workers: actors, each with one CPU; at least 1.
        device: where they look for faces: ``cpu`` or ``cuda``. GPUs are shared out evenly.

    Raises:
        RunError: an argument is out of its domain.

    Example:
        >>> with connected(address):  # doctest: +SKIP
        ...     run_import(plan, maker=Pool(workers=8, device="cuda"))
    """

    workers: int
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise RunError(f"workers is {self.workers}.", cure="Choose at least 1.")
        if self.device not in ("cpu", "cuda"):
            raise RunError(
                f"The device of the workers is '{self.device}'.", cure="Choose cpu or cuda: Ray decides which GPU."
            )

    def __call__(self, work: Work, todo: Sequence[Recording]) -> Generator[Outcome, None, None]:
        """Make samples, in no order.

        Args:
            work: the import's, whose folder exists.
            todo: what to make, as ``in_order`` sorts it.

        Yields:
            The outcome of each, once.

        Raises:
            RunError: the cluster has too few CPUs or no GPU, or its workers keep dying.
            StorageError: a worker sees another disk than this process, or cannot write.
            DatasetError: the device cannot be used.
        """
        if not todo:
            return
        import ray
        import ray.data

        resources = shares(self.workers, self.device, ray.cluster_resources())
        here = work.travelling()
        marker = _marked(here)
        context = ray.data.DataContext.get_current().copy()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        # Every sample's outcome is a block of its own, and so is told when it is made and not when its run ends.
        context.target_max_block_size = 1
        logger = logging.getLogger("ray.data")
        level = logger.level
        # What stops an import is said once, by an error of ours.
        logger.setLevel(logging.CRITICAL)
        try:
            with ray.data.DataContext.current(context):
                rows = [{"run": ray.cloudpickle.dumps(_run_of(here, run))} for run in runs(todo, self.workers)]
                outcomes = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
                    _Worker,
                    fn_constructor_args=(here, marker, self.device),
                    batch_size=1,
                    # One run at a time: an actor has one detector, and goes through one file at a time.
                    compute=ray.data.ActorPoolStrategy(
                        size=self.workers, max_tasks_in_flight_per_actor=2, max_concurrent_calls_per_actor=1
                    ),
                    **resources,
                )
                yield from _told(outcomes.iter_batches(batch_size=None, prefetch_batches=0), todo)
        except ray.exceptions.RayError as error:
            raise RunError(
                f"The workers were lost: {_first_line(error)}.",
                cure="What is finished is kept: run the same command again, or with --workers 1.",
            ) from error
        finally:
            logger.setLevel(level)
            remove_folder(here.plan.partial / _FOLDER)


def shares(workers: int, device: str, cluster: dict[str, float]) -> dict[str, float]:
    """What each worker asks Ray for.

    Args:
        workers: how many.
        device: ``cpu`` or ``cuda``.
        cluster: ``ray.cluster_resources()``.

    Raises:
        RunError: the cluster does not have it: Ray would wait for it without end.

    Example:
        >>> shares(3, "cuda", {"CPU": 8.0, "GPU": 2.0})
        {'num_cpus': 1.0, 'num_gpus': 0.5}
    """
    cpus, gpus = cluster.get("CPU", 0.0), cluster.get("GPU", 0.0)
    if cpus < workers:
        raise RunError(
            f"{workers} workers need {workers} CPUs; the cluster has {cpus:g}.",
            cure=f"Choose --workers {max(1, int(cpus))}, or add nodes to the cluster.",
        )
    if device == "cpu":
        return {"num_cpus": 1.0}
    if not gpus:
        raise RunError("The device is cuda; the cluster has no GPU.", cure="Choose cpu, or add a node with a GPU.")
    # Whole workers a GPU: of shares such as 2/3 none would fit beside another.
    return {"num_cpus": 1.0, "num_gpus": 1 / math.ceil(workers / gpus)}


def runs(todo: Sequence[Recording], workers: int) -> list[list[Recording]]:
    """What a worker makes without a break: sequences whole and short ones together, if that leaves enough for all.

    Args:
        todo: as ``in_order`` sorts it.
        workers: how many share it.

    Example:
        >>> from types import SimpleNamespace as Some
        >>> [len(run) for run in runs([Some(sequence_id=name) for name in "aaaabcd" * 2], workers=1)]
        [4, 3, 4, 3]
    """
    longest = max(1, math.ceil(len(todo) / (workers * _RUNS_EACH)))
    cut: list[list[Recording]] = []
    for _, group in groupby(todo, key=lambda one: one.sequence_id):
        members = list(group)
        pieces = [members[start : start + longest] for start in range(0, len(members), longest)]
        if cut and len(cut[-1]) + len(pieces[0]) <= min(longest, _RUN):
            cut[-1].extend(pieces.pop(0))
        cut.extend(pieces)
    return cut


def _marked(work: Work) -> str:
    """Put a mark into the work folder by which workers know it; returns the mark."""
    folder = work.plan.partial / _FOLDER
    mark = uuid.uuid4().hex
    with storage_errors(folder):
        # Deaths that an earlier attempt counted may have had another cause.
        remove_folder(folder)
        folder.mkdir()
        (folder / _MARKER).write_text(mark, encoding="ascii")
    return mark


@dataclass(frozen=True, eq=False)
class _Run:
    """What a worker makes without a break, and the files of its first sample that the driver sees."""

    recordings: list[Recording]
    seen: list[Path]


def _run_of(work: Work, run: Sequence[Recording]) -> _Run:
    recordings = [replace(one, sources={name: path.absolute() for name, path in one.sources.items()}) for one in run]
    return _Run(recordings, [path for path in recordings[0].sources.values() if work.size(path) >= 0])


def _told(batches: Any, todo: Sequence[Recording]) -> Iterator[Outcome]:
    """The outcomes that workers send; those that stop the import are raised."""
    waiting = {one.sample_id for one in todo}
    for batch in batches:
        for kind, name, what, cure in zip(*(batch[key].tolist() for key in _KEYS), strict=True):
            if kind == _STOP:
                raise {"StorageError": StorageError, "DatasetError": DatasetError}[name](what, cure=cure or None)
            if name in waiting:
                waiting.remove(name)
                yield name, None if kind == _DONE else DatasetError(what, cure=cure or None)
    if waiting:
        raise RunError(
            f"The workers ended without {len(waiting)} samples: {some(sorted(waiting))}.",
            cure="What is finished is kept: run the same command again.",
        )


_KEYS = ("kind", "name", "what", "cure")


def _row(kind: str, name: str, what: str = "", cure: str | None = None) -> dict[str, list[str]]:
    return {"kind": [kind], "name": [name], "what": [what], "cure": [cure or ""]}


class _Worker:
    """One actor: goes through runs, with a detector and open files that last from one to the next."""

    def __init__(self, work: Work, mark: str, device: str) -> None:
        self._work = work
        self._mark = mark
        self._device = device
        self._sources: Sources | None = None
        self._folder = work.plan.partial / _FOLDER

    def __call__(self, batch: Any) -> Iterator[dict[str, list[str]]]:
        import ray

        for content in batch["run"]:
            run: _Run = ray.cloudpickle.loads(content)
            try:
                sources = self._ready(run)
                for one in run.recordings:
                    yield self._made(one, sources)
            except PkdrayError as error:
                # Told and not raised, to keep its wording.
                kind = "StorageError" if isinstance(error, StorageError) else "DatasetError"
                yield _row(_STOP, kind, error.what, error.cure)
                return

    def _ready(self, run: _Run) -> Sources:
        """What stays open; made with the first run.

        Raises:
            StorageError: this node does not see what the driver sees.
            DatasetError: the device cannot be used.
        """
        if self._sources is None:
            try:
                mark = (self._folder / _MARKER).read_text(encoding="ascii")
            except (OSError, UnicodeDecodeError):
                mark = ""
            hidden = [path for path in run.seen if not path.exists()]
            if mark != self._mark or hidden:
                raise StorageError(
                    f"The node {platform.node()} does not see {hidden[0] if hidden else self._work.plan.partial}.",
                    cure="SRC and DEST have to lie on storage that every node of the cluster sees under the same path; "
                    "else import on one machine, without --address.",
                )
            self._sources = Sources(self._work.plan.options, self._device)
        return self._sources

    def _made(self, one: Recording, sources: Sources) -> dict[str, list[str]]:
        name = one.sample_id
        # Ray runs a run again from its start where its worker died.
        if self._work.has(one):
            return _row(_DONE, name)
        attempts = self._folder / self._work.path(name).name
        with storage_errors(attempts):
            with attempts.open("ab") as file:
                file.write(b".")
            deaths = attempts.stat().st_size - 1
        if deaths >= MAX_DEATHS:
            return _row(
                _FAILED,
                name,
                f"Its worker died {deaths} times while it made {name}.",
                "Look at its recording, and at the memory of the nodes.",
            )
        try:
            self._work.make(one, sources)
        except DatasetError as error:
            row = _row(_FAILED, name, str(error))
        else:
            row = _row(_DONE, name)
        attempts.unlink(missing_ok=True)
        return row


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")
