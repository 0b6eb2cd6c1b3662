"""Is the storage there, from every node, and how fast? The one place of the doctor that touches it.

Sent to every node as it is, so of pkdray it imports only what is sent with it.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pkdray.mirrors.s3 import s3_file_system

SMALL = 1 << 10
LARGE = 16 << 20
_SECONDS = 20


def probe(root: str, name: str, expected: str | None = None) -> dict[str, Any]:
    """Write a small and a large file, read them back, and delete them.

    Args:
        root: a folder, or a URI that pyarrow knows: s3://bucket/prefix, gs://..., file:///...
        name: of the files, which nobody else may use at the same time.
        expected: of a file that another node wrote and that must be seen here.

    Returns:
        ``{"seconds_small", "write_mb_s", "read_mb_s", "sees", "error"}``; numbers are None after an error, ``sees``
        where nothing was expected.
    """
    said: dict[str, Any] = dict.fromkeys(("seconds_small", "write_mb_s", "read_mb_s", "sees", "error"))
    try:
        system, folder = _open(root)
        if expected is not None:
            said["sees"] = _exists(system, f"{folder}/{expected}")
        made = _make(system, folder)
        try:
            started = time.perf_counter()
            _round_trip(system, f"{folder}/{name}.small", os.urandom(SMALL))
            said["seconds_small"] = time.perf_counter() - started
            write, read = _round_trip(system, f"{folder}/{name}.large", os.urandom(LARGE))
            said["write_mb_s"], said["read_mb_s"] = LARGE / 1e6 / write, LARGE / 1e6 / read
        finally:
            _unmake(made)
    # pyarrow's errors (ArrowInvalid, ArrowNotImplementedError, ...) are those of Python as well.
    except (OSError, ValueError, NotImplementedError, RuntimeError) as error:
        said["error"] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return said


class Beacon:
    """A file that lies in the storage while the nodes look for it."""

    def __init__(self, root: str, name: str) -> None:
        self.name = f"{name}.beacon"
        self._system, folder = _open(root)
        self._path = f"{folder}/{self.name}"
        self._made = _make(self._system, folder)

    def __enter__(self) -> Beacon:
        with self._system.open_output_stream(self._path) as stream:
            stream.write(b"seen")
        return self

    def __exit__(self, *_: object) -> None:
        self._system.delete_file(self._path)
        _unmake(self._made)


def _open(root: str) -> tuple[Any, str]:
    from pyarrow import fs

    scheme, _, rest = root.partition("://")
    # Options in the URI are for pyarrow to read, which then waits for minutes where nothing answers.
    if scheme == "s3" and "?" not in rest:
        return s3_file_system(rest.partition("/")[0], _SECONDS), rest.rstrip("/")
    if "://" in root:
        system, folder = fs.FileSystem.from_uri(_limited(root))
        return system, folder.rstrip("/")
    return fs.LocalFileSystem(), str(Path(root).expanduser().absolute())


def _limited(uri: str) -> str:
    """Google's client would otherwise try again for a quarter of an hour; and pyarrow wants blanks and signs quoted.

    Example:
        >>> _limited("gs://bucket/runs"), _limited("s3://bucket/my runs")
        ('gs://bucket/runs?retry_limit_seconds=20', 's3://bucket/my%20runs')
    """
    scheme, _, rest = uri.partition("://")
    path, mark, options = rest.partition("?")
    uri = f"{scheme}://{quote(path, safe='/@:')}{mark}{options}"
    if not uri.startswith(("gs://", "gcs://")) or "retry_limit_seconds" in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}retry_limit_seconds={_SECONDS}"


def _exists(system: Any, path: str) -> bool:
    from pyarrow import fs

    return bool(system.get_file_info(path).type == fs.FileType.File)


def _make(system: Any, folder: str) -> list[Path]:
    """Make the folder of a local file system; returns what was not there, innermost first."""
    if system.type_name != "local":
        return []
    missing = [path for path in (Path(folder), *Path(folder).parents) if not path.exists()]
    Path(folder).mkdir(parents=True, exist_ok=True)
    return missing


def _unmake(made: list[Path]) -> None:
    for path in made:
        try:
            path.rmdir()
        except OSError:
            return


def _round_trip(system: Any, path: str, data: bytes) -> tuple[float, float]:
    """Seconds of writing and of reading."""
    started = time.perf_counter()
    try:
        with system.open_output_stream(path) as stream:
            stream.write(data)
        written = time.perf_counter()
        with system.open_input_stream(path) as stream:
            back = stream.read()
        read = time.perf_counter()
    finally:
        if _exists(system, path):
            system.delete_file(path)
    if back != data:
        raise OSError(f"{path} was read back otherwise than it was written")
    return written - started, read - written
