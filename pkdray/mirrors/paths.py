"""A URI and the path of its mirror: ``s3://bucket/runs`` is ``<home>/s3/bucket/runs``."""

from __future__ import annotations

import os
import shlex
from pathlib import Path, PosixPath
from urllib.parse import urlsplit

from pkdray.errors import StorageError

HOME = "PKDRAY_MIRRORS"
SCHEMES = ("s3", "gs", "file")
_LIKE = "Write it as s3://bucket/folder, gs://bucket/folder or file:///folder."


class MirrorPath(PosixPath):
    """A path below this machine's mirror home. It pickles as its URI: elsewhere it is that machine's own mirror."""

    def __reduce__(self) -> tuple[object, ...]:
        uri = uri_of(self)
        return (Path, (str(self),)) if uri is None else (open_root, (uri,))


def home() -> Path:
    """Where this machine keeps its mirrors: ``$PKDRAY_MIRRORS``, else ``~/.cache/pkdray/mirrors``."""
    return Path(os.environ.get(HOME) or "~/.cache/pkdray/mirrors").expanduser().resolve()


def is_uri(text: str | Path) -> bool:
    """Whether a text names a place by a URI.

    Example:
        >>> is_uri("s3://bucket/runs"), is_uri("runs/demo")
        (True, False)
    """
    return "://" in str(text)


def open_root(text: str | Path) -> Path:
    """The path that a user's text names: a URI's mirror, which need not exist yet, or the plain path itself.

    Raises:
        StorageError: a URI that pkdray cannot use, or that holds a password.

    Example:
        >>> open_root("runs/demo")
        PosixPath('runs/demo')
        >>> open_root("s3://bucket/runs").relative_to(home()).as_posix()
        's3/bucket/runs'
    """
    if not is_uri(text):
        path = Path(text)
        return MirrorPath(path.absolute()) if uri_of(path) is not None else path
    text = str(text)
    parts = urlsplit(text)
    if "@" in parts.netloc or (parts.scheme != "file" and ":" in parts.netloc):
        # Whatever stands before the @ may be a secret, which must not reach a screen or a log.
        bare = f"{parts.scheme}://...@{parts.netloc.rpartition('@')[2]}{parts.path}"
        raise StorageError(
            f"{bare} holds credentials, or a port.",
            cure="Give them by the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL) or a "
            "profile: a URI is written into run.yaml.",
        )
    if parts.scheme not in SCHEMES:
        raise StorageError(f"{text} is on no storage that pkdray knows: {parts.scheme}://.", cure=_LIKE)
    if parts.query or parts.fragment:
        raise StorageError(
            f"{text} has options behind its path.",
            cure="Give them by the environment: AWS_ENDPOINT_URL, AWS_REGION, AWS_PROFILE.",
        )
    names = [name for name in parts.path.split("/") if name not in ("", ".")]
    if ".." in names or bool(parts.netloc) == (parts.scheme == "file") or (parts.scheme == "file" and not names):
        raise StorageError(f"{text} names no folder.", cure=_LIKE)
    return MirrorPath(home(), parts.scheme, parts.netloc, *names)


def uri_of(path: Path) -> str | None:
    """The URI that a path mirrors, whatever its type; None for a plain path.

    Example:
        >>> uri_of(open_root("s3://bucket/runs") / "demo")
        's3://bucket/runs/demo'
        >>> uri_of(open_root("file:///data/runs")), uri_of(Path("runs"))
        ('file:///data/runs', None)
    """
    try:
        scheme, *names = path.absolute().relative_to(home()).parts
    except ValueError:
        return None
    if scheme not in SCHEMES or not names:
        return None
    return f"{scheme}://{'/' if scheme == 'file' else ''}{'/'.join(names)}"


def shown(path: Path) -> str:
    """A path as a person knows it: its URI where it is a mirror."""
    return uri_of(path) or str(path)


def typed(path: Path) -> str:
    """A path as a person would type it on a command line: as `shown`, quoted.

    Example:
        >>> typed(Path("runs/my run"))
        "'runs/my run'"
    """
    return shlex.quote(shown(path))
