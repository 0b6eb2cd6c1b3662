"""Processes of their own that tests start, wait for, and hold still while they look."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from patience import until

T = TypeVar("T")


def own_environment(*, without: tuple[str, ...] = ("RAY_", "TUNE_")) -> dict[str, str]:
    """The environment of a command with a Ray of its own: nothing of the one around it, one thread a process.

    Its workers are as nice as the tests: by Ray's default (15) they would get next to nothing of a busy machine.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(without)}
    return {**kept, "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}


@contextmanager
def frozen(
    condition: Callable[[], T], process: subprocess.Popen[str], log: Path | None = None, *, pid: int | None = None
) -> Iterator[T]:
    """As `until`, but looked at only while the process stands still, as it does within the block.

    So what was seen is still true when the block kills the process, or does whatever else is to be done just then.

    Args:
        condition: what is truthy then. It waits for no lock: the process may stand still with it.
        process: must live until then.
        log: where it writes, if not into pipes.
        pid: of the process that is to stand still, if that is another one.
    """
    still = process.pid if pid is None else pid

    def seen() -> list[T]:
        _signal(still, signal.SIGSTOP)
        found = condition()
        if found:
            return [found]
        _signal(still, signal.SIGCONT)
        return []

    (found,) = until(seen, process, log)
    try:
        yield found
    finally:
        _signal(still, signal.SIGCONT)


def finished_trials(run: Path) -> int:
    """Finished rows of study.db, read from outside as a dashboard would; 0 also while somebody writes into it."""
    if (run / "run.yaml").exists():
        with (
            suppress(sqlite3.OperationalError),
            closing(sqlite3.connect(f"file:{run / 'study.db'}?mode=ro", uri=True, timeout=0)) as study,
        ):
            query = "SELECT count(*) FROM trials WHERE state IN ('COMPLETE', 'PRUNED', 'FAIL')"
            return int(study.execute(query).fetchone()[0])
    return 0


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
