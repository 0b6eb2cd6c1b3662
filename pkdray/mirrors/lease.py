"""One holder at a time, over machines that share nothing but the storage: a file that its holder keeps writing.

Whether it still does is told by the storage's own times alone; the machines' clocks may differ.
"""

from __future__ import annotations

import _thread
import json
import logging
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pkdray.errors import StorageError
from pkdray.files import write_json
from pkdray.locks import BusyError
from pkdray.mirrors.paths import uri_of
from pkdray.mirrors.remote import delete, read, stat, write

logger = logging.getLogger(__name__)

LEASE_FILE = ".lease"
REFRESH_SECONDS, STALE_SECONDS = 5.0, 30
"""How often a holder writes its lease, and after how long without that it counts as dead."""
_LOOK_SECONDS, _SETTLE_SECONDS = 2.0, 1.0
"""How often a lease is looked at whose holder may be dead; and for how long others who wanted it in the same moment
may write theirs, after one's own."""


class Lease:
    """The lease of one remote folder: a run, a teacher pool.

    Args:
        folder: the mirror. Its lock on this machine must be held: a lease whose last holder was of this machine is
            taken at once.
        note: who wants it, for others to read.
        pause: sleeps; for tests.
    """

    def __init__(self, folder: Path, note: str, pause: Callable[[float], None] = time.sleep) -> None:
        self._path = folder / LEASE_FILE
        self._note, self._pause = note, pause
        self._token = uuid.uuid4().hex
        self._turn, self._over = threading.Lock(), False
        self.lost = False

    def take(self) -> None:
        """Take the lease; waits while it is not known whether its holder still lives, or who was first.

        Raises:
            BusyError: another machine holds it and lives.
            StorageError: the storage cannot be read or written.
        """
        found = _read(self._path)
        # Whoever held it on this machine is gone: its process's lock has been taken.
        again = found is not None and found["token"] == self._last()
        if found is not None and not again:
            self._outlast(found)
        self._write()
        if again:
            return
        # Storage has no locks: of those who found the lease free in the same moment, the last to write has it.
        self._pause(_SETTLE_SECONDS)
        found = _read(self._path)
        if found is not None and found["token"] != self._token:
            raise BusyError(found["holder"])

    def kept(self) -> bool:
        """Whether the lease in the storage is still this holder's.

        Where there is none, another who took this one for dead has been there, and is done.
        """
        found = _read(self._path)
        return found is not None and found["token"] == self._token

    def refresh(self) -> None:
        """Show that the holder lives, unless another has taken the lease meanwhile, who took this one for dead."""
        with self._turn:
            if self._over:
                return
            if self.kept():
                self._write()
            else:
                self.lost = True

    def keep(self) -> None:
        """Refresh it, from a thread beside the work that it is for; once it is lost, the work is interrupted."""
        if self.lost:
            return
        tried(self.refresh, "the lease")
        if self.lost:
            logger.error("Another machine has taken over %s; this one stops.", self._path.parent)
            _thread.interrupt_main()

    def give_back(self) -> None:
        """Let the next one have it at once."""
        with self._turn:
            # A refresh that is under way would write it once more.
            self._over = True
            if self.kept():
                delete(self._path)
                self._path.unlink(missing_ok=True)

    def _write(self) -> None:
        content = {"holder": self._note, "token": self._token}
        write_json(self._path, content)
        write(self._path, json.dumps(content).encode())

    def _last(self) -> str | None:
        """The token of this machine's last holder."""
        try:
            return str(json.loads(self._path.read_text(encoding="utf-8"))["token"])
        except (FileNotFoundError, ValueError, KeyError):
            return None

    def _outlast(self, found: dict[str, Any]) -> None:
        probe = self._path.with_name(f"{LEASE_FILE}-{self._token}")
        try:
            first = stat(self._path)
            while (last := stat(self._path)) is not None:
                if last != first:
                    raise BusyError(found["holder"])
                if write(probe, b"").seconds - last.seconds > STALE_SECONDS:
                    return
                self._pause(_LOOK_SECONDS)
        finally:
            delete(probe)


def tried(action: Callable[[], object], what: str) -> None:
    """Do something with a storage that is tried again later, or that others can do without; warn where it fails."""
    try:
        action()
    except (StorageError, OSError, sqlite3.Error) as error:
        logger.warning("%s could not be brought to the storage: %s", what, error)


def lease_holder(folder: Path) -> str | None:
    """Who holds a remote folder by its lease; None if nobody does, or the folder is not remote."""
    path = folder / LEASE_FILE
    if uri_of(folder) is None:
        return None
    found, version = _read(path), stat(path)
    # A reader may not be allowed to write, so it cannot ask the storage for its time.
    if found is None or version is None or time.time() - version.seconds > 2 * STALE_SECONDS:
        return None
    return str(found["holder"])


def _read(path: Path) -> dict[str, Any] | None:
    content = read(path)
    if content is None:
        return None
    try:
        found = json.loads(content)
        return {"holder": str(found["holder"]), "token": str(found["token"])}
    except (ValueError, KeyError, TypeError):
        return {"holder": "another process", "token": ""}
