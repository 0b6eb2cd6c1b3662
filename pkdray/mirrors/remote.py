"""What is on remote storage: single requests through pyarrow's file systems, and what their errors mean."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, NamedTuple

from pkdray.errors import StorageError
from pkdray.mirrors.paths import uri_of
from pkdray.mirrors.s3 import ATTEMPTS, CONNECT_SECONDS, s3_file_system

REQUEST_SECONDS = 60
"""How long one attempt waits for an answer: a server that restarts is survived. A wrong address is told within about 20
seconds."""
_BLOCK = 8 << 20
_SETTINGS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE")
_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


class Stamp(NamedTuple):
    """Which version of a remote file it is: bytes, and the server's whole seconds of its last change."""

    size: int
    seconds: int


@contextmanager
def told(uri: str, doing: str) -> Iterator[None]:
    """Turn what pyarrow says of a storage's refusal into an error that says what to do.

    Raises:
        StorageError: no such bucket, no credentials, refused, no connection.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        said = str(error)
        if uri.startswith("file:"):
            reason = os.strerror(error.errno).lower() if error.errno else "it fails"
            cure = "Check the folder and its permissions."
        else:
            reason, cure = _meaning(said)
        first = (said.splitlines() or ["no reason is told"])[0]
        raise StorageError(f"Cannot {doing} {uri}: {reason}.", cure=cure, details=[first]) from error


def _meaning(said: str) -> tuple[str, str]:
    """What a storage's words mean, and the cure."""
    has_keys = any(os.environ.get(name) for name in (_KEYS[0], "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE"))
    keys = (
        "Check the keys (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE), and what their owner may do with the "
        "bucket: list, get, put and delete objects."
        if has_keys
        else "No credentials are in the environment: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, "
        "or let the machine's role see the bucket."
    )
    if any(word in said for word in ("NO_SUCH_BUCKET", "NoSuchBucket", "Bucket not found")):
        return "there is no such bucket", "Check its name, or make it first; pkdray makes no buckets."
    if any(word in said for word in ("INVALID_ACCESS_KEY_ID", "InvalidAccessKeyId", "SIGNATURE_DOES_NOT_MATCH")):
        return "the storage does not know these credentials", keys
    if any(word in said for word in ("ACCESS_DENIED", "HTTP response code 403", "(HTTP status 403)", "Forbidden")):
        return "the storage refuses it", keys
    if any(word in said for word in ("NETWORK_CONNECTION", "curlCode", "REQUEST_TIMEOUT", "Timeout")):
        where = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        return (
            f"there is no connection to {where or 'it'}",
            "Check the network" + (" and AWS_ENDPOINT_URL." if where else ", and AWS_ENDPOINT_URL if it is not AWS."),
        )
    if "301" in said or "region" in said.lower():
        return "the bucket is in another region", "Set AWS_REGION to the bucket's own."
    return "the storage refuses it", "Its own words are above; the same command may be run again."


def _place(path: Path) -> tuple[Any, str, str]:
    """Pyarrow's file system of a mirror, the path in it, and the URI."""
    uri = uri_of(path)
    assert uri is not None, f"{path} is no mirror"
    scheme, _, rest = uri.partition("://")
    bucket = "" if scheme == "file" else rest.partition("/")[0]
    settings = tuple(os.environ.get(name, "") for name in (*_SETTINGS, *_KEYS))
    return _opened(scheme, bucket, settings), rest, uri


@lru_cache(maxsize=16)
def _opened(scheme: str, bucket: str, _settings: tuple[str, ...]) -> Any:
    """A file system, whose bucket is known to be there."""
    from pyarrow import fs

    if scheme == "file":
        return fs.LocalFileSystem()
    with told(f"{scheme}://{bucket}", "open"):
        system = s3_file_system(bucket, REQUEST_SECONDS) if scheme == "s3" else _gs()
        # A listing of a bucket that is not there is empty, as one of a folder is.
        if system.get_file_info(bucket).type == fs.FileType.NotFound:
            raise OSError("NO_SUCH_BUCKET")
    return system


def _gs() -> Any:
    from datetime import timedelta

    from pyarrow import fs

    return fs.GcsFileSystem(retry_time_limit=timedelta(seconds=CONNECT_SECONDS * ATTEMPTS))


def stat(path: Path) -> Stamp | None:
    """The version of a remote file; None where there is none.

    Raises:
        StorageError: the storage cannot be asked.
    """
    system, place, uri = _place(path)
    with told(uri, "look at"):
        return _stamp(system.get_file_info(place))


def _stamp(info: Any) -> Stamp | None:
    from pyarrow import fs

    return Stamp(info.size, info.mtime_ns // 10**9) if info.type == fs.FileType.File else None


def exists(path: Path) -> bool:
    """Whether a file or folder is there: on the storage where the path is a mirror.

    Raises:
        StorageError: the storage cannot be asked.
    """
    if uri_of(path) is None:
        return path.exists()
    from pyarrow import fs

    system, place, uri = _place(path)
    with told(uri, "look at"):
        return bool(system.get_file_info(place).type != fs.FileType.NotFound)


def listing(path: Path, skip: tuple[str, ...] = ()) -> dict[str, Stamp]:
    """The files below a remote folder, by their paths in it; those with a hidden name are left out.

    Args:
        path: the mirror of the folder, which need not exist.
        skip: names directly below it that are left out.

    Raises:
        StorageError: the storage cannot be asked.
    """
    system, place, uri = _place(path)
    with told(uri, "list"):
        # One request a thousand files: folders are only gone through one by one where some are left out.
        if not skip:
            return _below(system, place, place)
        top = _below(system, place, place, recursive=False)
        found = {name: stamp for name, stamp in top.items() if name not in skip}
        for folder in folders(path):
            if folder not in skip:
                found |= _below(system, f"{place}/{folder}", place)
        return found


def _below(system: Any, folder: str, base: str, *, recursive: bool = True) -> dict[str, Stamp]:
    from pyarrow import fs

    found = {}
    for info in system.get_file_info(fs.FileSelector(folder, recursive=recursive, allow_not_found=True)):
        name = info.path[len(base) :].strip("/")
        stamp = _stamp(info)
        if stamp is not None and not hidden(name):
            found[name] = stamp
    return found


def folders(path: Path) -> list[str]:
    """The names of the folders directly below a remote one; hidden ones are left out.

    Raises:
        StorageError: the storage cannot be asked.
    """
    from pyarrow import fs

    system, place, uri = _place(path)
    with told(uri, "list"):
        infos = system.get_file_info(fs.FileSelector(place, allow_not_found=True))
    return sorted(info.base_name for info in infos if info.type == fs.FileType.Directory and not hidden(info.base_name))


def hidden(name: str) -> bool:
    """Whether a file stays on its machine: its name, or that of a folder around it, begins with a dot."""
    return name.startswith(".") or "/." in name


def read(path: Path) -> bytes | None:
    """A small remote file whole; None where there is none.

    Raises:
        StorageError: it cannot be read.
    """
    system, place, uri = _place(path)
    try:
        with told(uri, "read"), system.open_input_stream(place) as stream:
            return bytes(stream.read())
    except FileNotFoundError:
        return None


def write(path: Path, content: bytes) -> Stamp:
    """Write a small remote file whole; returns its version.

    Raises:
        StorageError: it cannot be written.
    """
    return _written(path, lambda stream: stream.write(content))


def upload(source: IO[bytes], path: Path) -> Stamp:
    """Write an open local file to the storage, whole or not at all; returns its version.

    Raises:
        StorageError: it cannot be written.
    """

    def send(stream: Any) -> None:
        while block := source.read(_BLOCK):
            stream.write(block)

    return _written(path, send)


def _written(path: Path, send: Callable[[Any], object]) -> Stamp:
    system, place, uri = _place(path)
    with told(uri, "write"):
        # Objects appear whole; on a file system the last step has to be a rename.
        target = place if system.type_name != "local" else _aside(place)
        if target != place:
            system.create_dir(place.rpartition("/")[0], recursive=True)
        try:
            _fill(system, target, send)
        except BaseException:
            if target != place:
                with suppress(FileNotFoundError):
                    system.delete_file(target)
            raise
        if target != place:
            system.move(target, place)
        stamp = _stamp(system.get_file_info(place))
    assert stamp is not None, f"{uri} was written a moment ago"
    return stamp


def _fill(system: Any, target: str, send: Callable[[Any], object]) -> None:
    stream = system.open_output_stream(target)
    try:
        send(stream)
    except BaseException:
        # Closing publishes the part that was written. Where it is the storage that fails, closing fails too, publishes
        # nothing, and the file that was there before stays.
        stream.close()
        system.delete_file(target)
        raise
    stream.close()


def _aside(place: str) -> str:
    folder, _, name = place.rpartition("/")
    return f"{folder}/.{name}.tmp-{uuid.uuid4().hex}"


def download(path: Path, target: IO[bytes]) -> None:
    """Read a remote file into an open local one.

    Raises:
        StorageError: it cannot be read.
        FileNotFoundError: it is gone.
    """
    system, place, uri = _place(path)
    with told(uri, "read"):
        stream = system.open_input_stream(place)
    with stream:
        while True:
            with told(uri, "read"):
                block = stream.read(_BLOCK)
            if not block:
                return
            target.write(block)


def delete(path: Path) -> None:
    """Remove a remote file, if it is there.

    Raises:
        StorageError: it cannot be removed.
    """
    system, place, uri = _place(path)
    with told(uri, "remove"):
        try:
            system.delete_file(place)
        except FileNotFoundError:
            return


def remove(path: Path) -> None:
    """Remove a remote folder with all that is in it, if it is there; the mirror itself is the caller's.

    Raises:
        StorageError: it cannot be removed.
    """
    if uri_of(path) is None:
        return
    system, place, uri = _place(path)
    with told(uri, "remove"):
        try:
            system.delete_dir(place)
        except FileNotFoundError:
            return
