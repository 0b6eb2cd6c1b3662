"""Where runs lie and who holds one, told without the libraries that a sweep needs."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pkdray import mirrors
from pkdray.errors import RunError
from pkdray.files import write_json
from pkdray.locks import locked_by

RUN_FILE, LOCK_FILE, STUDY_FILE, LIVE_FILE = "run.yaml", ".lock", "study.db", "live.json"
POOLS = "pools"
"""The folder beside the runs in which they share teacher pools."""
JOURNALS = tuple(f"{STUDY_FILE}-{kind}" for kind in ("journal", "wal", "shm"))
VERSION_FILE = ".study.json"
"""Which version of a remote ledger the one here is, or goes on from."""
LEDGER = (STUDY_FILE, *JOURNALS)
TRAININGS = ("trials", "evaluation")
"""Folders of a run whose files those bring to a remote storage who make them."""
EVENTS = "tensorboard"
"""Beside these it may hold thousands of files, which are brought here when they are looked at."""


def find_folder(name_or_path: str, runs_dir: Path) -> Path:
    """The folder of a run, by its path or by its name below ``runs_dir``.

    Raises:
        RunError: there is none; the message lists those there are.
    """
    named = mirrors.open_root(name_or_path)
    for path in (named,) if mirrors.is_uri(name_or_path) else (runs_dir / name_or_path, named):
        fetch_run(path)
        if (path / RUN_FILE).is_file():
            return path
    by_uri = mirrors.is_uri(name_or_path)
    looked = named.parent if by_uri else runs_dir
    names, place = sorted(folder.name for folder in run_folders(looked)), mirrors.shown(looked)
    where = "" if by_uri else f", neither in {place} nor as a path"
    raise RunError(
        f"There is no run '{name_or_path}'{where}.",
        cure=f"Runs in {place}: {', '.join(names)}." if names else f"No runs are in {place} yet; try --runs-dir.",
    )


def run_folders(runs_dir: Path) -> list[Path]:
    """The folders of the runs in a folder, brought here where that is on remote storage."""
    if mirrors.uri_of(runs_dir) is not None:
        with ThreadPoolExecutor() as threads:
            list(threads.map(fetch_run, [runs_dir / name for name in mirrors.folders(runs_dir) if name != POOLS]))
    return [file.parent for file in runs_dir.glob(f"*/{RUN_FILE}")]


def fetch_run(folder: Path) -> None:
    """Bring a remote run here, but for what it keeps apart; one that this machine sweeps is here already."""
    if mirrors.uri_of(folder) is None:
        return
    with mirrors.alone(folder / STUDY_FILE):
        if holder_here(folder) is None:
            bring(folder)


def bring(folder: Path) -> None:
    """Bring a remote run here; the caller sees to it that nobody on this machine writes into it."""
    mirrors.pull(folder, skip=(*TRAININGS, EVENTS, *LEDGER))
    # Without a run.yaml there it is no run yet, and a ledger there is one that nothing has happened in.
    if mirrors.stat(folder / RUN_FILE) is not None:
        mirrors.pull_file(folder / RUN_FILE, exact=True)
        _bring_ledger(folder)


def _bring_ledger(folder: Path) -> None:
    """Take the remote ledger where another machine has gone on with it; the one here is never behind its own copy."""
    ledger, there = folder / STUDY_FILE, mirrors.stat(folder / STUDY_FILE)
    if there is None or (ledger.exists() and there == known_version(folder)):
        return
    for name in (*JOURNALS, VERSION_FILE):
        # A journal that a killed sweep left would be played into the ledger that comes.
        (folder / name).unlink(missing_ok=True)
    mirrors.pull_file(ledger, exact=True)
    keep_version(folder, there)


def known_version(folder: Path) -> mirrors.Stamp | None:
    """The version of the remote ledger that the one here was pulled from, or was last pushed as."""
    try:
        return mirrors.Stamp(*json.loads((folder / VERSION_FILE).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def keep_version(folder: Path, version: mirrors.Stamp) -> None:
    """Remember which version of the remote ledger the one here is."""
    write_json(folder / VERSION_FILE, list(version))


def holder(folder: Path) -> str | None:
    """Who holds the run now, on this machine or by its lease, as `locks.note` says it; None if nobody does."""
    return holder_here(folder) or mirrors.lease_holder(folder)


def holder_here(folder: Path) -> str | None:
    """Who on this machine holds the run's lock."""
    return locked_by(folder / LOCK_FILE)
