"""A folder on storage taken home."""

from __future__ import annotations

from pathlib import Path

from pkdray import mirrors
from pkdray.console import Console
from pkdray.errors import ConfigError


def fetch(uri: str, output: Path, console: Console) -> None:
    """Make a plain folder of a remote one.

    Raises:
        ConfigError: it is not named by a URI.
        StorageError: it does not exist, or ``output`` exists.
    """
    if not mirrors.is_uri(uri):
        raise ConfigError(f"{uri} is no URI.", cure="Write s3://bucket/folder, gs://bucket/folder or file:///folder.")
    source = mirrors.open_root(uri)
    with console.progress(f"Fetching {uri} ..."):
        names = mirrors.fetch(source, output)
    size = sum((output / name).stat().st_size for name in names)
    console.result(
        {"folder": str(output), "files": names, "bytes": size},
        f"{len(names)} file{'s' * (len(names) != 1)} of {size / 1e6:.1f} MB are in {output}.",
    )
