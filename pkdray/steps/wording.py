"""Arguments and lines that several steps share."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pkdray import mirrors
from pkdray.errors import (
    ConfigError,
)


def named(values: Sequence[str], option: str) -> dict[str, str]:
    """``NAME=VALUE`` arguments as a dict.

    Raises:
        ConfigError: one is of another form, or a name comes twice.
    """
    result: dict[str, str] = {}
    for value in values:
        name, equals, rest = value.partition("=")
        if not equals or not name or not rest:
            raise ConfigError(
                f"{option} {value!r} is not of the form NAME=PATH.", cure="Write for example face=face.csv."
            )
        if name in result:
            raise ConfigError(f"{option} names '{name}' twice.", cure="Give each modality once.")
        result[name] = rest
    return result


def next_steps(*commands: str) -> list[str]:
    """The commands to type next, as lines."""
    return ["", "Next:", *(f"  {command}" for command in commands)]


def command_line() -> list[str]:
    """The command line that this process was started with, for the record.

    Example:
        >>> isinstance(command_line(), list)
        True
    """
    program, *arguments = sys.argv
    if Path(program).name in ("pkdray", "__main__.py"):
        return ["pkdray", *arguments]
    return list(sys.orig_argv)


def short_path(path: Path) -> str:
    """A path as a person would type it here: its URI, or relative where it lies below the working folder; quoted."""
    uri = mirrors.uri_of(path)
    if uri is not None:
        return shlex.quote(uri)
    relative = os.path.relpath(path)
    return shlex.quote(str(path) if relative.startswith("..") else relative)


def head_of(table: Any) -> list[str]:
    """A table's first rows as lines; nothing of an empty one."""
    return ["", *str(table.head(5).to_string(index=False)).splitlines()] if len(table) else []


def lines_of(value: Any, indent: str = "") -> list[str]:
    """Nested plain data as indented lines."""
    lines = []
    for key, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            lines += [f"{indent}{key}:", *lines_of(inner, indent + "  ")]
        elif inner not in (None, "", [], {}):
            text = ", ".join(map(str, inner)) if isinstance(inner, list | tuple) else inner
            lines.append(f"{indent}{key}: {text}")
    return lines
