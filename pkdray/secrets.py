"""Secrets of a job: known by name alone, found in the environment of its process, blanked in what it prints."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from pkdray.errors import JobError

SECRETS = "PKDRAY_SECRETS"
"""The variable that tells a job the names of its secrets."""
BLANK = "***"
_SHORTEST = 4
"""Characters of the shortest value that is blanked: 1 or yes is no secret, and stands everywhere."""


def secret_values(environment: Mapping[str, str]) -> list[str]:
    """The values of the secrets named in ``PKDRAY_SECRETS``.

    Raises:
        JobError: some are not in the environment; says which.

    Example:
        >>> secret_values({"PKDRAY_SECRETS": "WANDB_API_KEY", "WANDB_API_KEY": "4f5e6d"})
        ['4f5e6d']
        >>> secret_values({})
        []
    """
    names = [name for name in environment.get(SECRETS, "").split(",") if name]
    missing = [name for name in names if not environment.get(name)]
    if missing:
        which = "secret is" if len(missing) == 1 else "secrets are"
        raise JobError(
            f"The job's {which} not in the environment of its driver: {', '.join(missing)}.",
            cure="Set them where the cluster's processes are started (a Kubernetes secretKeyRef, the environment of "
            "`ray start`), or take them out of the job's `secrets`.",
        )
    return [environment[name] for name in names]


def blanked(text: str, values: Iterable[str]) -> str:
    """``text`` with every secret value, as it is or quoted for an address, as ``***``.

    Example:
        >>> blanked("GET http://me:pa%2Fss@host said pa/ss", ["pa/ss"])
        'GET http://me:***@host said ***'
    """
    forms = {form for value in values for form in (value, quote(value, safe=""), *value.split("\n"))}
    # A value may hold another: the longest goes first.
    for form in sorted(forms, key=len, reverse=True):
        if len(form) >= _SHORTEST:
            text = text.replace(form, BLANK)
    return text


class Blanking:
    """A text stream that blanks secrets in what goes through it; in all else it is the stream."""

    def __init__(self, stream: Any, values: Iterable[str]) -> None:
        self._stream = stream
        self._values = tuple(values)

    def write(self, text: str) -> int:
        """Write ``text`` blanked; tells its own length, as whoever wrote it expects."""
        self._stream.write(blanked(text, self._values))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each blanked."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def guard(environment: Mapping[str, str]) -> None:
    """In a job with secrets: see that they are there, and blank their values in what this process prints.

    Raises:
        JobError: some are not there.
    """
    values = secret_values(environment)
    if values:
        out: Any = Blanking(sys.stdout, values)
        err: Any = Blanking(sys.stderr, values)
        sys.stdout, sys.stderr = out, err
