"""One interface for all trackers, and the threads that keep a slow or absent one from holding up a sweep."""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

from pkdray.config import TrackingConfig
from pkdray.files import fingerprint

logger = logging.getLogger(__name__)

ROOM = 20_000
"""So many events may wait for a tracker; one that is further behind is given up."""
PATIENCE = 30.0
"""Seconds that a sweep waits at its end for its trackers to catch up."""


@dataclass(frozen=True)
class Study:
    """What is tracked.

    Args:
        run: the run's name.
        folder: the run's own.
        created: when the run was made; with the name it tells one run from another in a tracker.
        metric: what trials are judged by.
        mode: ``max`` or ``min``.
        about: further facts worth a tag: dataset, fingerprints, seed.
    """

    run: str
    folder: Path
    created: str
    metric: str
    mode: str
    about: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The same for every session of a run, and another for another run of that name."""
        return fingerprint({"run": self.run, "created": self.created})


class Tracker(Protocol):
    """What a tracker can be told. It may raise whatever it likes: it is then given up, and the sweep goes on.

    Making one is the start of a sweep, or of its resume. Every call comes from one and the same thread.
    """

    def start(self, number: int, parameters: Mapping[str, Any]) -> None:
        """A trial starts, or goes on from an earlier session."""

    def epoch(self, number: int, epoch: int, values: Mapping[str, float]) -> None:
        """A trial has done an epoch."""

    def end(self, number: int, fate: str, values: Mapping[str, float], reason: str | None) -> None:
        """A trial is complete, pruned, failed (and why), or open: kept for a resume."""

    def close(self, state: str, best: Mapping[str, Any] | None) -> None:
        """The sweep is finished or interrupted; ``best`` has its best trial and value."""


class Trackers:
    """Hands what happens to every tracker, each in a thread of its own.

    Args:
        makers: what a tracker is called -> what makes it, in its thread.
        known: number of a trial -> its last epoch that an earlier session told of; those are not told again.
        warn: told once of a tracker that is given up.
        patience: seconds that `close` waits at most.
    """

    def __init__(
        self,
        makers: Mapping[str, Callable[[], Tracker]],
        known: Mapping[int, int] | None = None,
        *,
        warn: Callable[[str], None] = logger.warning,
        patience: float = PATIENCE,
    ) -> None:
        self._lines = [_Line(name, make, warn) for name, make in makers.items()]
        self._known = dict(known or {})
        self._told: dict[int, int] = {}
        self._patience = patience

    def __bool__(self) -> bool:
        """Whether anybody listens."""
        return bool(self._lines)

    def start(self, number: int, parameters: Mapping[str, Any]) -> None:
        """A trial starts; started again after its process died, it is the same trial to its tracker."""
        if number not in self._told:
            self._told[number] = self._known.get(number, 0)
            self._tell("start", number, dict(parameters))

    def epoch(self, number: int, epoch: int, values: Mapping[str, float]) -> None:
        """A trial has done an epoch; one that was told of is not told again."""
        if epoch > self._told.get(number, 0):
            self._told[number] = epoch
            self._tell("epoch", number, epoch, dict(values))

    def end(self, number: int, fate: str, values: Mapping[str, float], reason: str | None = None) -> None:
        """A trial has ended."""
        if self._told.pop(number, None) is not None:
            self._tell("end", number, fate, dict(values), reason)

    def close(self, state: str, best: Mapping[str, Any] | None) -> None:
        """The sweep ends: trials still running are open, and the trackers get a moment to catch up."""
        for number in list(self._told):
            self.end(number, "open", {})
        self._tell("close", state, best)
        deadline = time.monotonic() + self._patience
        for line in self._lines:
            line.join(max(0.0, deadline - time.monotonic()))

    def _tell(self, what: str, *arguments: Any) -> None:
        for line in self._lines:
            line.tell(what, arguments)


class _Line:
    """A tracker, the thread it lives in, and what still waits for it."""

    def __init__(self, name: str, make: Callable[[], Tracker], warn: Callable[[str], None]) -> None:
        self._name, self._make, self._warn = name, make, warn
        self._waiting: queue.Queue[tuple[str, tuple[Any, ...]]] = queue.Queue(ROOM)
        self._given_up = False
        self._thread = threading.Thread(target=self._work, name=f"pkdray-{name}", daemon=True)
        self._thread.start()

    def tell(self, what: str, arguments: tuple[Any, ...]) -> None:
        if self._given_up:
            return
        try:
            self._waiting.put_nowait((what, arguments))
        except queue.Full:
            self._give_up(f"it is {ROOM} events behind")

    def join(self, seconds: float) -> None:
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._give_up("it does not keep up with the sweep's end")

    def _work(self) -> None:
        try:
            tracker = self._make()
            what = ""
            while what != "close" and not self._given_up:
                what, arguments = self._waiting.get()
                getattr(tracker, what)(*arguments)
        except Exception as error:
            # The edge of somebody else's library and server: whatever it raises is no reason to lose a sweep.
            logger.debug("%s failed", self._name, exc_info=True)
            said = str(error).strip() or type(error).__name__
            self._give_up(said.splitlines()[0][:200])

    def _give_up(self, why: str) -> None:
        if not self._given_up:
            self._given_up = True
            self._warn(f"{self._name} is told nothing more of this sweep, which goes on: {why}")


def numbers(entry: Mapping[Any, Any]) -> dict[str, float]:
    """What of an epoch's entry is a curve: its finite numbers, but the epoch itself.

    Example:
        >>> numbers({"epoch": 3, "train/loss": 0.5, "accuracy": float("nan"), "node": "n1", "finished": False})
        {'train/loss': 0.5}
    """
    return {
        str(name): float(value)
        for name, value in entry.items()
        if name not in ("epoch", "finished")
        and isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
    }


def open_trackers(
    config: TrackingConfig, study: Study, known: Mapping[int, int], *, patience: float = PATIENCE
) -> Trackers:
    """The trackers that a study asks for; their libraries are imported in their threads."""
    makers: dict[str, Callable[[], Tracker]] = {}
    if config.tensorboard:
        makers["TensorBoard"] = partial(_tensorboard, study)
    if config.mlflow:
        makers["MLflow"] = partial(_mlflow, study, config.mlflow.uri, config.mlflow.experiment)
    if config.wandb:
        makers["Weights & Biases"] = partial(
            _wandb, study, config.wandb.project, config.wandb.entity, config.wandb.mode
        )
    return Trackers(makers, known, patience=patience)


def _tensorboard(study: Study) -> Tracker:
    from pkdray.tracking.tensorboard import TensorBoardTracker

    return TensorBoardTracker(study)


def _mlflow(study: Study, uri: str, experiment: str) -> Tracker:
    from pkdray.tracking.mlflow import MlflowTracker

    return MlflowTracker(study, uri, experiment)


def _wandb(study: Study, project: str, entity: str | None, mode: Literal["online", "offline"]) -> Tracker:
    from pkdray.tracking.wandb import WandbTracker

    return WandbTracker(study, project, entity, mode)
