"""How long a test waits for what has to happen: minutes, as the machine may be cold and shared."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

PATIENCE_SECONDS = 480
"""Less than pytest's own limit, so that whoever waits says for what."""

T = TypeVar("T")


def until(condition: Callable[[], T], process: subprocess.Popen[str] | None = None, log: Path | None = None) -> T:
    """Poll until something has happened in the other process, and return what.

    Args:
        condition: what is truthy then.
        process: must live until then.
        log: where it writes, if not into pipes.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := condition()):
        if process is not None and process.poll() is not None:
            raise AssertionError(f"it ended with {process.returncode} first: {_said(process, log)[-3000:]}")
        assert time.monotonic() < deadline, f"it never came to that: {log.read_text()[-3000:] if log else ''}"
        time.sleep(0.05)
    return found


def _said(process: subprocess.Popen[str], log: Path | None) -> str:
    return log.read_text() if log is not None else "".join(part or "" for part in process.communicate())
