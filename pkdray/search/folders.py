"""Where runs lie and who holds one, told without the libraries that a sweep needs."""

from __future__ import annotations

import fcntl
from pathlib import Path

from pkdray.errors import RunError

RUN_FILE, LOCK_FILE = "run.yaml", ".lock"


def find_folder(name_or_path: str, runs_dir: Path) -> Path:
    """The folder of a run, by its path or by its name below ``runs_dir``.

    Raises:
        RunError: there is none; the message lists those there are.
    """
    for path in (runs_dir / name_or_path, Path(name_or_path)):
        if (path / RUN_FILE).is_file():
            return path
    names = sorted(file.parent.name for file in runs_dir.glob(f"*/{RUN_FILE}"))
    raise RunError(
        f"There is no run '{name_or_path}', neither in {runs_dir} nor as a path.",
        cure=f"Runs in {runs_dir}: {', '.join(names)}." if names else f"No runs are in {runs_dir} yet; try --runs-dir.",
    )


def holder_note(pid: int, host: str) -> str:
    """What the holder of a run's lock writes into it."""
    return f"process {pid} on {host}"


def holder(folder: Path) -> str | None:
    """Who holds the run's lock now, as `holder_note` says it; None if nobody does."""
    try:
        with (folder / LOCK_FILE).open("r", encoding="utf-8") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return handle.read().strip()
    except FileNotFoundError:
        pass
    return None
