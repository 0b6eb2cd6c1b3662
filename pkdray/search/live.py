"""Where a sweep stands right now: a pure state fed with what happens, and the small file that others follow."""

from __future__ import annotations

import bisect
import itertools
import json
import logging
import math
import os
import platform
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pkdray import mirrors
from pkdray.errors import RunError, StorageError
from pkdray.files import write_json
from pkdray.locks import note
from pkdray.repeating import repeating
from pkdray.search.folders import LIVE_FILE, holder, holder_here

if TYPE_CHECKING:
    from pkdray.search.ledger import Counts

logger = logging.getLogger(__name__)

FORMAT = 1
TEACHING, RUNNING, FINISHED, INTERRUPTED = "teaching", "running", "finished", "interrupted"
COMPLETE, PRUNED, FAILED, OPEN = "complete", "pruned", "failed", "open"
"""How a trial ended; an open one is kept for a resume."""

WINDOW = 60.0
"""Seconds over which throughput is measured."""
FEW = 8
"""So many events are always looked at, however long ago they were: epochs may take minutes."""
KEPT = 5
"""How many of the last finished trials are told."""
WRITE_SECONDS, BEAT_SECONDS = 1.0, 5.0
SILENT_SECONDS = 60.0
"""A sweep on another machine that has said nothing for so long may be dead."""


@dataclass
class _Trial:
    number: int
    method: str
    parameters: Mapping[str, Any]
    epochs: int
    epoch: int = 0
    value: float | None = None
    rung: int | None = None
    node: str | None = None
    device: str | None = None


@dataclass
class _Pace:
    """Moments at which something was done."""

    moments: list[float] = field(default_factory=list)

    def add(self, now: float) -> None:
        self.moments.append(now)
        if len(self.moments) > 20_000:
            del self.moments[:10_000]

    def rate(self, began: float, now: float) -> float | None:
        """How many a second: over the window, or over the last few where the window has fewer."""
        inside = len(self.moments) - bisect.bisect_right(self.moments, now - WINDOW)
        count = max(inside, min(FEW, len(self.moments)))
        if not count:
            return None
        before = self.moments[-count - 1] if len(self.moments) > count else began
        return count / (now - before) if now > before else None


class LiveState:
    """What is running, how fast, and for how long still. It reads no clock but the one given and touches no file.

    Args:
        run: the run's name.
        metric: what trials are judged by.
        mode: ``max`` or ``min``.
        epochs: of a trial that nobody stops.
        lengths: epochs of the trials that ended before this session, so that a resumed sweep knows at once how long a
            trial lasts on average, the pruned ones among them.
        resources: what a trial takes.
        clock: seconds, monotonic.

    Example:
        >>> now = [0.0]
        >>> state = LiveState("demo", metric="accuracy", mode="max", epochs=10, clock=lambda: now[0])
        >>> state.started(0, {"method.name": "kl"}, method="kl", epochs=10)
        >>> for epoch in (1, 2):
        ...     now[0] += 0.5
        ...     state.epoch(0, epoch, value=0.25 * epoch)
        >>> said = state.snapshot()
        >>> said["epochs_per_second"], said["running"][0]["epoch"], said["running"][0]["value"]
        (2.0, 2, 0.5)
    """

    def __init__(
        self,
        run: str,
        *,
        metric: str,
        mode: str,
        epochs: int,
        lengths: Iterable[int] = (),
        resources: Mapping[str, float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._about = {"run": run, "metric": metric, "mode": mode, "resources": resources}
        self._epochs = epochs
        self._lengths = sorted(length for length in lengths if length)
        self._clock = clock
        self._created = clock()
        self._began: float | None = None
        self._running: dict[int, _Trial] = {}
        self._finished: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._epoch_pace, self._trial_pace = _Pace(), _Pace()
        self._counts: dict[str, int] = dict.fromkeys(
            ("planned", "complete", "pruned", "failed", "running", "finished"), 0
        )
        self._best: dict[str, Any] | None = None
        self._rungs: dict[int, int] | None = None

    def stand(self, counts: Counts, best: tuple[int, float, str | None] | None) -> None:
        """Take over what the ledger says: the counts, and number, value and method of the best complete trial."""
        self._counts = counts_of(counts)
        self._best = None if best is None else dict(zip(("trial", "value", "method"), best, strict=True))

    def climb(self, reached: Mapping[int, int]) -> None:
        """Take over how many trials have reached each of ASHA's rungs (epoch -> trials)."""
        self._rungs = dict(sorted(reached.items()))

    def started(self, number: int, parameters: Mapping[str, Any], *, method: str, epochs: int) -> None:
        """A trial starts, or starts again after its process died."""
        if self._began is None:
            self._began = self._clock()
        self._running[number] = _Trial(number, method, dict(parameters), epochs)

    def epoch(
        self,
        number: int,
        epoch: int,
        value: float,
        *,
        rung: int | None = None,
        node: str | None = None,
        device: str | None = None,
    ) -> None:
        """A trial has done an epoch; ``value`` is the best so far, ``rung`` the highest that it has passed."""
        trial = self._running[number]
        trial.epoch, trial.value, trial.rung, trial.node, trial.device = epoch, finite(value), rung, node, device
        self._epoch_pace.add(self._clock())

    def ended(
        self, number: int, fate: str, *, epochs: int = 0, value: float | None = None, reason: str | None = None
    ) -> None:
        """A trial has ended: ``complete``, ``pruned``, ``failed``, or ``open`` where a resume continues it."""
        trial = self._running.pop(number, None)
        # Tune tells of the death of a process that could not even be made, whose start it has not told.
        if trial is None or fate == OPEN:
            return
        length = epochs or trial.epoch
        if length > trial.epoch and trial.epoch:
            # A trial does not report its last epoch: its end is the report.
            self._epoch_pace.add(self._clock())
        if length:
            bisect.insort(self._lengths, length)
        self._trial_pace.add(self._clock())
        self._finished.appendleft(
            {
                "trial": number,
                "method": trial.method,
                "parameters": trial.parameters,
                "fate": fate,
                "epochs": length,
                "value": finite(value if value is not None else trial.value),
                "reason": reason,
            }
        )

    def snapshot(self, state: str = RUNNING) -> dict[str, Any]:
        """The whole state as plain data (docs/live.md has the fields)."""
        now = self._clock()
        began = self._created if self._began is None else self._began
        epochs, trials = self._epoch_pace.rate(began, now), self._trial_pace.rate(began, now)
        # Those of the ledger include a trial that Tune has asked for and not started yet.
        running = sorted(self._running.values(), key=lambda trial: trial.number)
        over = state in (FINISHED, INTERRUPTED)
        return {
            "format": FORMAT,
            **self._about,
            "state": state,
            "updated": datetime.now(UTC).isoformat(timespec="seconds"),
            "host": platform.node(),
            "pid": os.getpid(),
            "counts": {**self._counts, "running": 0 if over else len(running)},
            "best": self._best,
            "rung": max((trial.rung for trial in running if trial.rung), default=None),
            "rungs": None if self._rungs is None else [{"epoch": e, "trials": n} for e, n in self._rungs.items()],
            "epochs_per_second": _rounded(epochs),
            "trials_per_minute": _rounded(None if trials is None else 60 * trials),
            "seconds": round(now - self._created, 1),
            "seconds_left": None if over else _rounded(self.seconds_left(epochs), 1),
            "running": [] if over else [{"trial": trial.number, **_row(trial)} for trial in running],
            "finished": list(self._finished),
        }

    def seconds_left(self, epochs_per_second: float | None) -> float | None:
        """A guess: the epochs still expected at the present pace; None before the first epoch.

        A trial not yet started is expected to last as long as those that ended did on average, stopped ones included; a
        running one as long as those that came further than it has. At the end few run, and the slowest decides.
        """
        if not epochs_per_second:
            return None
        # Sums from each length to the longest: a thousand running trials are compared with ten thousand ended ones.
        sums = list(itertools.accumulate(reversed(self._lengths), initial=0))[::-1]
        rest = [self._epochs_left(trial, sums) for trial in self._running.values()]
        average = sum(self._lengths) / len(self._lengths) if self._lengths else self._epochs
        waiting = max(0, self._counts["planned"] - self._counts["finished"] - len(rest))
        together = (sum(rest) + waiting * average) / epochs_per_second
        slowest = max(rest, default=0.0) * len(rest) / epochs_per_second
        return max(together, slowest)

    def _epochs_left(self, trial: _Trial, sums: list[int]) -> float:
        shorter = bisect.bisect_right(self._lengths, trial.epoch)
        further = len(self._lengths) - shorter
        expected = sums[shorter] / further if further else trial.epochs
        return max(0.0, min(expected, trial.epochs) - trial.epoch)


def _row(trial: _Trial) -> dict[str, Any]:
    names = ("method", "parameters", "epoch", "epochs", "value", "rung", "node", "device")
    return {name: getattr(trial, name) for name in names}


def _rounded(value: float | None, digits: int = 3) -> float | None:
    return None if value is None else round(value, digits)


def finite(value: float | None) -> float | None:
    """The number, or None for what JSON has no word for."""
    return value if value is not None and math.isfinite(value) else None


def counts_of(counts: Counts) -> dict[str, int]:
    """The ledger's counts as plain data."""
    names = ("planned", "complete", "pruned", "failed", "running", "finished")
    return {name: getattr(counts, name) for name in names}


class LiveFile:
    """``live.json`` of a run, written whole and at most about once a second.

    A state is worth no sweep: where the file cannot be written, the sweep goes on without it.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = folder / LIVE_FILE
        self._clock = clock
        self._last = -math.inf
        self._warned = False

    def offer(self, make: Callable[[], Mapping[str, Any]]) -> None:
        """Write what ``make`` returns, unless something was written a moment ago."""
        if self._clock() - self._last >= WRITE_SECONDS:
            self.write(make())

    def write(self, snapshot: Mapping[str, Any]) -> None:
        """Write the state now."""
        self._last = self._clock()
        try:
            write_json(self._path, snapshot)
        except (StorageError, OSError) as error:
            if not self._warned:
                logger.warning("%s cannot be written (%s); the sweep goes on without it.", self._path, error)
            self._warned = True


@contextmanager
def beating(beat: Callable[[], None], seconds: float = BEAT_SECONDS) -> Iterator[None]:
    """Call ``beat`` now and every few seconds within the block, from a thread: for steps that only wait."""
    beat()
    with repeating(beat, seconds, "pkdray-live"):
        yield


def read_live(folder: Path) -> dict[str, Any] | None:
    """What a run's live.json says; None where there is none.

    Raises:
        RunError: it is damaged, or of another pkdray.
    """
    path = folder / LIVE_FILE
    if holder_here(folder) is None:
        mirrors.pull_file(path)
    try:
        live = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise RunError(f"{path} is damaged.", cure="A resume writes it anew.") from error
    if not isinstance(live, dict) or live.get("format") != FORMAT:
        raise RunError(f"{path} was written by another version of pkdray.", cure="Watch it with that version.")
    return live


def is_dead(folder: Path, live: Mapping[str, Any]) -> bool:
    """Whether a sweep that calls itself alive is not: nobody holds its run in its name any more.

    Of a run in a plain folder only the sweep's own machine can say so; a remote one has a lease.
    """
    if live["state"] not in (TEACHING, RUNNING):
        return False
    if live["host"] != platform.node() and mirrors.uri_of(folder) is None:
        return False
    return holder(folder) != note(live["pid"], live["host"])


def silence(live: Mapping[str, Any], now: datetime | None = None) -> float | None:
    """For how many seconds a sweep on another machine has said nothing, where that is suspiciously long."""
    if live["state"] not in (TEACHING, RUNNING):
        return None
    age = ((now or datetime.now(UTC)) - datetime.fromisoformat(live["updated"])).total_seconds()
    return age if age > SILENT_SECONDS else None
