"""Which files a job takes along: the study, pkdray's code where one works on it, or a folder without its ballast."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from pkdray.errors import JobError

LIMIT = 100 * 1024**2
"""Bytes: Ray's dashboard takes no more, and would say so after the upload."""
STUDIES = "studies"
"""Where the study lies in what goes up."""
CODE = ("pkdray", "search_spaces", "jobs")
"""The parts of a checkout of pkdray that run."""
_CACHES = {"__pycache__", "node_modules", "build", "dist"}
_BALLAST = {"data", "runs", "pools", "weights", "demo", "student", "venv", "env"}
_MARKERS = {"pyvenv.cfg", "dataset.yaml", "run.yaml", "pool.yaml", "study.db", "preprocessing.yaml"}
"""Files by which a virtual environment, a dataset, a run, a pool and a student are known under any name."""
_KEYS = {".pem", ".key", ".pyc", ".pyo"}


def is_checkout(folder: Path) -> bool:
    """Whether ``folder`` is a checkout of pkdray, whose code is to run in the job."""
    return (folder / "pkdray" / "__main__.py").is_file() and (folder / "pyproject.toml").is_file()


def files_to_send(study: Path | None, working_dir: Path | None, here: Path) -> dict[str, Path]:
    """Name in the job's folder -> file, for everything that goes up.

    Args:
        study: the study's YAML; None where the cluster has it, as one of the ready ones.
        working_dir: a folder that the job asks for; it goes up without data, runs, students, weights, virtual
            environments, caches, and whatever begins with a dot.
        here: the folder that the job is submitted in. pkdray's code goes up where it, or ``working_dir`` if there is
            one, is a checkout.

    Raises:
        JobError: ``working_dir`` is no folder.
    """
    found: dict[str, Path] = {}
    if working_dir is not None:
        if not working_dir.is_dir():
            raise JobError(f"working_dir {working_dir} is no folder.", cure="Name one that exists, or leave it out.")
        found |= dict(_walk(working_dir, working_dir, top=True))
    root = working_dir or here
    if is_checkout(root):
        for part in CODE:
            if (root / part).is_dir():
                found |= dict(_walk(root / part, root, top=False))
    if study is not None:
        found[study_name(study)] = study
    return found


def study_name(study: Path) -> str:
    """Where a study lies in the job's folder.

    Example:
        >>> study_name(Path("/home/me/pain.yaml"))
        'studies/pain.yaml'
    """
    return f"{STUDIES}/{study.name}"


def _walk(folder: Path, root: Path, *, top: bool) -> Iterator[tuple[str, Path]]:
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            path = Path(entry.path)
            # Links may lead out of the folder, into data that nobody meant to send.
            if entry.is_symlink() or entry.name.startswith("."):
                continue
            if entry.is_file():
                if path.suffix not in _KEYS:
                    yield path.relative_to(root).as_posix(), path
            elif entry.is_dir() and not _is_ballast(path, top=top):
                yield from _walk(path, root, top=top)


def _is_ballast(folder: Path, *, top: bool) -> bool:
    if folder.name in _CACHES or folder.name.endswith(".egg-info"):
        return True
    # Inside of pkdray's own code `data` is a package, and datasets are samples that belong to it.
    return top and (folder.name in _BALLAST or any((folder / marker).exists() for marker in _MARKERS))


def check_size(files: Mapping[str, Path], limit: int = LIMIT) -> int:
    """The bytes that go up.

    Raises:
        JobError: they are more than Ray takes; names the folders that hold most.
    """
    sizes = {name: path.stat().st_size for name, path in files.items()}
    total = sum(sizes.values())
    if total < limit:
        return total
    folders: dict[str, int] = {}
    for name, size in sizes.items():
        parts = PurePosixPath(name).parts
        place = f"{'/'.join(parts[: min(2, len(parts) - 1)])}/" if len(parts) > 1 else name
        folders[place] = folders.get(place, 0) + size
    biggest = sorted(folders.items(), key=lambda item: -item[1])[:5]
    raise JobError(
        f"{total / 2**20:.0f} MiB would go up with the job, and Ray takes less than {limit / 2**20:.0f} MiB. The "
        "biggest parts are:",
        details=[f"{place} {size / 2**20:.1f} MiB" for place, size in biggest],
        cure="Keep data where the cluster's nodes see them, and leave `working_dir` out of the job, or point it at a "
        "smaller folder: the study goes up without it.",
    )


def write_package(files: Mapping[str, Path], dest: Path) -> None:
    """Zip the files; the same files make the same bytes, so that Ray keeps one copy of them."""
    with zipfile.ZipFile(dest, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            about = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            about.external_attr = 0o644 << 16
            about.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(about, files[name].read_bytes())
