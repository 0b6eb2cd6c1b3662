"""What a call of the command line said."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Said:
    """The exit code, and what went to either stream."""

    code: int
    out: str
    err: str
