"""Between a mirror and its storage: pull and push, whole files, several at once."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from pkdray.errors import StorageError
from pkdray.files import storage_errors, write_atomic
from pkdray.locks import lock
from pkdray.mirrors.paths import home, shown, uri_of
from pkdray.mirrors.remote import Stamp, delete, download, exists, hidden, listing, stat, upload

THREADS = 8
_SECOND = 10**9


def pull(folder: Path, *, skip: tuple[str, ...] = (), exact: bool = False) -> None:
    """Bring a mirrored folder to what is on its storage; a plain one stays as it is.

    Files that were changed here since they were last the same as the remote ones are kept, unless those are newer.

    Args:
        folder: the mirror; nothing happens where neither it nor the remote folder exists.
        skip: names directly below it that are left out.
        exact: unpushed work gives way too.

    Raises:
        StorageError: the storage cannot be read, or the mirror cannot be written.
    """
    if uri_of(folder) is None:
        return
    with alone(folder):
        there, here = listing(folder, skip), _files(folder, skip)
        wanted = [name for name, stamp in there.items() if _outdated(here.get(name), stamp, exact)]
        _each(wanted, lambda name: _get(folder / name, folder / name, there[name]))
        for name in here.keys() - there.keys():
            if exact or _synced(here[name]):
                _unlink(folder / name, folder)


def pull_file(path: Path, *, exact: bool = False) -> None:
    """Bring one mirrored file to what is on its storage, as `pull` does a folder.

    Raises:
        StorageError: the storage cannot be read, or the mirror cannot be written.
    """
    if uri_of(path) is None:
        return
    with alone(path.parent):
        there, here = stat(path), _status(path)
        if there is not None and _outdated(here, there, exact):
            _get(path, path, there)
        elif there is None and here is not None and (exact or _synced(here)):
            path.unlink(missing_ok=True)


def have(path: Path) -> bool:
    """Whether a file that never changes is here, or can be brought here now.

    Raises:
        StorageError: the storage cannot be read, or the mirror cannot be written.
    """
    if not path.exists():
        pull_file(path)
    return path.exists()


def push(folder: Path, *, skip: tuple[str, ...] = (), gone: bool = False) -> None:
    """Bring what was written in a mirrored folder to its storage; of a plain one nothing is to be brought.

    The youngest file goes last: whoever writes a folder writes last what declares it finished.

    Args:
        folder: the mirror.
        skip: names directly below it that are left out.
        gone: also remove remote files that are no longer here.

    Raises:
        StorageError: the storage cannot be written.
    """
    if uri_of(folder) is None:
        return
    with alone(folder):
        there, here = listing(folder, skip), _files(folder, skip)
        # A synced file that differs is older than what somebody else has brought since.
        unsent = [name for name, status in here.items() if name not in there or not _synced(status)]
        unsent.sort(key=lambda name: here[name].st_mtime_ns)
        _each(unsent[:-1], lambda name: _put(folder / name))
        _each(unsent[-1:], lambda name: _put(folder / name))
        if gone:
            _each(there.keys() - here.keys(), lambda name: delete(folder / name))


def push_file(path: Path) -> None:
    """Bring one mirrored file to its storage, or its absence.

    Raises:
        StorageError: the storage cannot be written.
    """
    if uri_of(path) is None:
        return
    with alone(path.parent):
        if path.exists():
            _put(path)
        else:
            delete(path)


def push_as(source: Path, path: Path) -> Stamp:
    """Bring a local file to the storage as what ``path`` mirrors, which stays as it is here; returns its version.

    Raises:
        StorageError: the storage cannot be written.
    """

    def send() -> Stamp:
        with source.open("rb") as stream:
            return upload(stream, path)

    # In a thread, where no Ctrl-C falls: it would leave nothing in the place of what was there before.
    with ThreadPoolExecutor(1) as thread:
        # The thread is there before it has work: one that a Ctrl-C meets while it starts would not be waited for.
        thread.submit(int).result()
        return thread.submit(send).result()


def fetch(source: Path, dest: Path) -> list[str]:
    """Make a plain folder of a remote one; it appears whole or not at all. Returns the names of its files.

    Raises:
        StorageError: there is no such folder, or ``dest`` exists or cannot be written.
    """
    if dest.exists() and (not dest.is_dir() or any(dest.iterdir())):
        raise StorageError(f"{dest} exists and is not empty.", cure="Name a new folder.")
    there = listing(source)
    if not there:
        what = "is a file" if exists(source) else "does not exist"
        raise StorageError(f"{shown(source)} {what}: there is no folder to fetch.", cure="Check the URI.")
    build = dest.parent / f".{dest.name}.tmp-{os.getpid()}"
    try:
        _each(there, lambda name: _get(source / name, build / name, there[name]))
        with storage_errors(dest):
            build.replace(dest)
    finally:
        shutil.rmtree(build, ignore_errors=True)
    return sorted(there)


def forget(folder: Path, pattern: str) -> None:
    """Remove the files below a folder that match a pattern such as ``*/best.safetensors``: here, and on its storage.

    Raises:
        StorageError: the storage cannot be written.
    """
    for path in folder.glob(pattern):
        path.unlink(missing_ok=True)
    if uri_of(folder) is not None:
        _each((name for name in listing(folder) if fnmatch(name, pattern)), lambda name: delete(folder / name))


class Seldom:
    """Does something not more often than every so many seconds, and for no more than a tenth of the time.

    Args:
        seconds: at least, from one end to the next beginning.
        clock: seconds, monotonic.

    Example:
        >>> now = [0.0]
        >>> seldom = Seldom(30, clock=lambda: now[0])
        >>> done = []
        >>> for now[0] in (1, 29, 31, 45, 62):
        ...     seldom(lambda: done.append(now[0]))
        >>> done
        [31, 62]
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._next = clock() + seconds

    def __call__(self, action: Callable[[], object]) -> None:
        """Do it, unless it was done a moment ago."""
        started = self._clock()
        if started < self._next:
            return
        try:
            action()
        finally:
            ended = self._clock()
            self._next = ended + max(self._seconds, 9 * (ended - started))


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other processes and threads of this machine from moving the same folder's files meanwhile."""
    locks = home() / ".locks"
    name = hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:32]
    with storage_errors(locks):
        locks.mkdir(parents=True, exist_ok=True)
        handle = (locks / name).open("a")
    with handle:
        lock(handle, fcntl.LOCK_EX)
        yield


def _each(names: Iterable[str], work: Callable[[str], object]) -> None:
    with ThreadPoolExecutor(THREADS) as threads:
        try:
            for done in [threads.submit(work, name) for name in names]:
                done.result()
        except (StorageError, KeyboardInterrupt):
            # Thousands may be waiting, each for as long as a storage is waited for that does not answer.
            threads.shutdown(wait=False, cancel_futures=True)
            raise


def _files(folder: Path, skip: tuple[str, ...]) -> dict[str, os.stat_result]:
    found = {}
    for base, inner, names in os.walk(folder):
        here = Path(base)
        inner[:] = [name for name in inner if not hidden(name) and not (here == folder and name in skip)]
        for name in names:
            status = _status(here / name)
            if status is None or hidden(name) or (here == folder and name in skip):
                continue
            found[str((here / name).relative_to(folder))] = status
    return found


def _unlink(path: Path, top: Path) -> None:
    """Remove a file, and the folders below ``top`` that it leaves empty: storage knows no empty folders."""
    path.unlink(missing_ok=True)
    for folder in path.parents:
        if folder == top or any(folder.iterdir()):
            return
        folder.rmdir()


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _synced(status: os.stat_result) -> bool:
    """Whether a file is as it was when it was pulled or pushed: its time is then that of the remote one.

    That has whole seconds. What is written here has the system's nanoseconds, so one in a thousand million is mistaken.
    """
    return status.st_mtime_ns % _SECOND == 0


def _outdated(here: os.stat_result | None, there: Stamp, exact: bool) -> bool:
    if here is None:
        return True
    if (here.st_size, here.st_mtime_ns) == (there.size, there.seconds * _SECOND):
        return False
    return exact or _synced(here) or there.seconds * _SECOND > here.st_mtime_ns


def _get(source: Path, dest: Path, stamp: Stamp) -> None:
    def write(temporary: Path) -> None:
        with temporary.open("wb") as target:
            download(source, target)
            size = target.tell()
        if size == stamp.size:
            os.utime(temporary, ns=(stamp.seconds * _SECOND, stamp.seconds * _SECOND))
        # Else another one has come between looking and reading: whole, but of unknown time, it counts as changed.

    try:
        write_atomic(dest, write)
    except FileNotFoundError:
        # Removed between the listing and now.
        dest.unlink(missing_ok=True)


def _put(path: Path) -> None:
    try:
        source = path.open("rb")
    except FileNotFoundError:
        return
    with source:
        stamp = upload(source, path)
        # Of the file that was read, which need not be the one of that name any more.
        os.utime(source.fileno(), ns=(stamp.seconds * _SECOND, stamp.seconds * _SECOND))
