"""Files that one process on a machine holds at a time; a lock dies with its process, however that ends."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pkdray.errors import StorageError
from pkdray.files import storage_errors

_SOMEBODY = "another process"
_MOMENT = 0.1
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class BusyError(Exception):
    """Somebody else holds it.

    Args:
        holder: who, as `note` says it of itself.
    """

    def __init__(self, holder: str) -> None:
        super().__init__(holder)
        self.holder = holder


def note(pid: int, host: str) -> str:
    """What a holder writes for others to read.

    Example:
        >>> note(17, "head")
        'process 17 on head'
    """
    return f"process {pid} on {host}"


def own_note() -> str:
    """The note of this process."""
    return note(os.getpid(), platform.node())


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file ``path`` in the block; it is made where it is missing, and stays.

    Raises:
        BusyError: another process holds it, or another block of this one.
        StorageError: it cannot be written, or its file system has no locks.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / ".lock"
        >>> with locked(path):
        ...     locked_by(path) == own_note()
        True
        >>> locked_by(path) is None
        True
    """
    with storage_errors(path):
        handle = path.open("a+", encoding="utf-8")
    with handle:
        if not any(_tries(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)):
            handle.seek(0)
            raise BusyError(handle.read().strip() or _SOMEBODY)
        with storage_errors(path):
            handle.truncate(0)
            handle.write(own_note())
            handle.flush()
        yield


def _tries(handle: IO[str], operation: int) -> Iterator[bool]:
    """Whether it was locked, a few times: whoever asks for the holder holds it for a moment."""
    for last in (False, False, True):
        yield lock(handle, operation)
        if not last:
            time.sleep(_MOMENT)


def locked_by(path: Path) -> str | None:
    """Who on this machine holds the lock file; None if nobody does, or there is none.

    Raises:
        StorageError: its file system has no locks.
    """
    try:
        with path.open("r", encoding="utf-8") as handle:
            if not lock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB):
                return _read(handle)
    except FileNotFoundError:
        pass
    return None


def _read(handle: IO[str]) -> str:
    """What the holder has written, who may be about to."""
    for _ in range(3):
        handle.seek(0)
        if said := handle.read().strip():
            return said
        time.sleep(_MOMENT)
    return _SOMEBODY


def lock(handle: IO[str], operation: int) -> bool:
    """``flock`` an open file; False where another holds it and the operation does not wait.

    Raises:
        StorageError: its file system has no locks.
    """
    try:
        fcntl.flock(handle, operation)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise StorageError(
            f"The file system of {handle.name} has no locks ({error.strerror}).",
            cure="Choose a folder on another one, or name this one by its URI (file:///folder): then the locks are "
            "with the mirrors on the machine's own disk (PKDRAY_MIRRORS says where).",
        ) from error
    return True
