"""Files that are either whole or absent: atomic writes, checksums and fingerprints."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from pkdray.errors import StorageError

_STORAGE_ERRNOS = {
    errno.ENOSPC: "no space is left on the device",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "permission is denied",
    errno.EPERM: "the operation is not permitted",
    errno.EROFS: "the file system is read-only",
    errno.EFBIG: "the file would be too large",
    errno.EIO: "the device reports an input/output error",
}


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write ``path`` into a ``StorageError`` that says what to do.

    Raises:
        StorageError: no space, quota, permission, read-only file system, I/O error.
    """
    try:
        yield
    except OSError as error:
        reason = _STORAGE_ERRNOS.get(error.errno or 0)
        if reason is None:
            raise
        raise StorageError(
            f"Cannot write {path}: {reason}.",
            cure="Free some space or choose another folder, then run the same command again; finished work is kept.",
        ) from error


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, flush it to the device, then rename it to ``path``.

    A reader, or a restart after a crash, sees the old file or the new one, never a part.

    Raises:
        StorageError: the folder cannot be written.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "answer.txt"
        >>> write_atomic(target, lambda temporary: temporary.write_text("42"))
        >>> target.read_text()
        '42'
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # The suffix stays last: several writers (pandas, onnx) choose the format by it.
        temporary = path.with_name(f".{path.stem}.tmp-{uuid.uuid4().hex[:12]}{path.suffix}")
        # Made here: some writers tell of a folder that cannot be written in words of their own.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        try:
            write(temporary)
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename inside ``folder`` durable; some network file systems do not offer it and do not need it."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        return
    finally:
        os.close(handle)


def remove_folder(folder: Path) -> None:
    """Remove a folder, as far as that can be done, that a process which is about to end may still make files in.

    It goes under another name first, so that there is no folder any more for what that process makes meanwhile.
    """
    gone = folder.with_name(f"{folder.name}.gone")
    with suppress(OSError):
        folder.rename(gone)
    for left in (folder, gone):
        shutil.rmtree(left, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically, UTF-8."""
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` to ``path`` atomically as indented JSON; NaN is refused because JSON has no such number."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_yaml(path: Path, value: Any, header: str = "") -> None:
    """Write ``value`` to ``path`` atomically as YAML, in the given key order, below an optional comment header."""
    comment = "".join(f"# {line}\n" for line in header.splitlines())
    write_text(path, comment + yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=120))


def checksum(path: Path) -> str:
    """SHA-256 of a file's bytes as ``sha256:<64 hex digits>``."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return f"sha256:{digest.hexdigest()}"


def fingerprint(value: Any) -> str:
    """First 16 hex digits of the SHA-256 of ``value`` as canonical JSON (sorted keys, no blanks).

    Two results with the same fingerprint were made from the same things.

    Example:
        >>> fingerprint({"b": 1, "a": [2]}) == fingerprint({"a": [2], "b": 1})
        True
        >>> len(fingerprint("x"))
        16
    """
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
