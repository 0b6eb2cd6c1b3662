"""A remote run while this process sweeps it: its lease is kept, and what changes here goes to its storage."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from pkdray import mirrors
from pkdray.errors import RunError
from pkdray.locks import BusyError, own_note
from pkdray.repeating import repeating
from pkdray.search.folders import (
    LEDGER,
    LIVE_FILE,
    RUN_FILE,
    STUDY_FILE,
    TRAININGS,
    bring,
    keep_version,
    known_version,
)

LIVE_SECONDS, LEDGER_SECONDS = 3.0, 10.0
"""How often live.json and the ledger go to the storage at most, where they have changed."""
_TICK = 0.25
_SNAPSHOT = ".snapshot-"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a remote run in the block: bring it here first, keep its storage up to date, and leave all there at the end.

    Needs the run's lock on this machine. Of a run in a plain folder nothing is to be done.

    Raises:
        RunError: another machine holds it, or took it for abandoned meanwhile.
        StorageError: its storage cannot be read, or not be written at the end.
    """
    if mirrors.uri_of(folder) is None:
        yield
        return
    lease = mirrors.Lease(folder, own_note())
    try:
        lease.take()
    except BusyError as error:
        raise RunError(
            f"The run {mirrors.shown(folder)} is being swept by {error.holder}.",
            cure="Wait for it, or stop it there with Ctrl-C.",
        ) from error
    outgoing = _Outgoing(folder, lease)
    try:
        # From the first moment: a run with much to bring may take longer than a lease lasts.
        with repeating(lease.keep, mirrors.REFRESH_SECONDS, "pkdray-lease"):
            _begin(folder, outgoing)
            try:
                with repeating(outgoing.some, 1.0, "pkdray-storage"):
                    yield
            except BaseException as error:
                mirrors.tried(lease.refresh, "the lease")
                if lease.lost:
                    raise _taken_over(folder) from error
                # What stopped the sweep, as Ctrl-C, is what is to be told, whatever the storage says.
                mirrors.tried(outgoing.all, "what is finished")
                raise
            lease.refresh()
            if lease.lost:
                raise _taken_over(folder)
            outgoing.all()
    finally:
        if not lease.lost:
            mirrors.tried(lease.give_back, "the lease")


def _begin(folder: Path, outgoing: _Outgoing) -> None:
    before = (folder / RUN_FILE).read_bytes()
    with mirrors.alone(folder / STUDY_FILE):
        bring(folder)
    if (folder / RUN_FILE).read_bytes() != before:
        raise RunError(
            f"Another machine made the run {mirrors.shown(folder)} a moment ago.", cure="Choose another --name."
        )
    for left in folder.glob(f"{_SNAPSHOT}*"):
        # By a driver that was killed while it pushed.
        shutil.rmtree(left, ignore_errors=True)
    outgoing.all()


def _taken_over(folder: Path) -> RunError:
    return RunError(
        f"Another machine took over the run {mirrors.shown(folder)}: for too long nothing was heard from this one.",
        cure="Its trials go on there; `pkdray watch` shows them.",
    )


class _Outgoing:
    """What the driver writes, on its way to the storage; trials and trainings bring their own folders there."""

    def __init__(self, folder: Path, lease: mirrors.Lease) -> None:
        self._folder, self._lease = folder, lease
        self._live, self._ledger = mirrors.Seldom(LIVE_SECONDS), mirrors.Seldom(LEDGER_SECONDS)
        self._turn = threading.Lock()
        self._sent: tuple[int, int] | None = None

    def all(self) -> None:
        """Everything that has changed."""
        self._push_ledger()
        mirrors.push(self._folder, skip=(*TRAININGS, *LEDGER))

    def some(self) -> None:
        """What others follow: where the sweep stands, and which trials are finished."""
        self._live(lambda: mirrors.tried(lambda: mirrors.push_file(self._folder / LIVE_FILE), LIVE_FILE))
        self._ledger(lambda: mirrors.tried(self._push_ledger, "the ledger"))

    def _push_ledger(self) -> None:
        # One after the other, or an older copy might be the last to arrive.
        with self._turn:
            status = (self._folder / STUDY_FILE).stat()
            now = (status.st_mtime_ns, status.st_size)
            # Asked each time: a machine that slept wakes up in any line, and must not undo what another did meanwhile.
            if now == self._sent or not self._lease.kept():
                return
            with tempfile.TemporaryDirectory(prefix=_SNAPSHOT, dir=self._folder) as aside:
                snapshot = Path(aside) / STUDY_FILE
                copy_ledger(self._folder / STUDY_FILE, snapshot)
                keep_version(self._folder, self._pushed(snapshot))
            self._sent = now

    def _pushed(self, snapshot: Path) -> mirrors.Stamp:
        """Push the copy such that nobody takes it for the one before, of the same size in the same second."""
        before = known_version(self._folder)
        version = mirrors.push_as(snapshot, self._folder / STUDY_FILE)
        while before is not None and version.seconds <= before.seconds:
            time.sleep(_TICK)
            version = mirrors.push_as(snapshot, self._folder / STUDY_FILE)
        return version


def copy_ledger(study: Path, copy: Path) -> None:
    """Copy a study by SQLite's own means: consistent whatever a sweep writes meanwhile, which the file's bytes are not.

    Raises:
        sqlite3.Error: it cannot be read, or the copy not be written.
    """
    with closing(sqlite3.connect(study, timeout=60)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
