"""A run's folder: what was decided once (run.yaml), the ledger, the trials, and the lock that keeps it single."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from pkdray import mirrors
from pkdray.config import Config, build_config
from pkdray.data.dataset import Dataset, open_dataset
from pkdray.errors import FingerprintError, PkdrayError, RunError
from pkdray.files import storage_errors, write_yaml
from pkdray.locks import BusyError, locked
from pkdray.search.folders import (
    JOURNALS,
    LOCK_FILE,
    POOLS,
    RUN_FILE,
    STUDY_FILE,
    VERSION_FILE,
    fetch_run,
    find_folder,
    holder,
    run_folders,
)
from pkdray.search.holding import held
from pkdray.search.ledger import Ledger
from pkdray.search.samplers import make_sampler
from pkdray.search.space import flatten, grid, grid_size
from pkdray.training.plan import Plan, make_plan
from pkdray.training.pools import Pool

_LEFTOVERS = (STUDY_FILE, LOCK_FILE, VERSION_FILE, mirrors.LEASE_FILE, *JOURNALS)
_VERSIONS = ("pkdray", "torch", "ray", "optuna", "POT", "numpy")


class Run:
    """One sweep on disk.

    ``<run>/run.yaml`` (resolved config, versions, fingerprints) · ``study.db`` (the ledger) · ``trials/<number>/`` ·
    ``trials.parquet`` · ``best/`` · ``evaluation.json``. run.yaml is written last: a folder without one is no run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            data = yaml.safe_load((path / RUN_FILE).read_text(encoding="utf-8"))
            self.config: Config = build_config(data["config"], source=str(path / RUN_FILE))
            self.about: dict[str, Any] = {key: value for key, value in data.items() if key != "config"}
        except FileNotFoundError as error:
            raise RunError(
                f"There is no run at {mirrors.shown(path)}.", cure="`pkdray runs` lists the runs."
            ) from error
        except (OSError, yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError) as error:
            raise RunError(f"{path / RUN_FILE} is damaged ({type(error).__name__}).", cure="Sweep anew.") from error

    @classmethod
    def check_free(cls, path: Path, plan: Plan) -> None:
        """Refuse a folder that is not free for a new run.

        Raises:
            RunError: the folder holds a run, or something else.
            FingerprintError: it holds a run of another dataset.
        """
        fetch_run(path)
        if (path / RUN_FILE).exists():
            cls(path).check_dataset(plan)
            raise RunError(
                f"The run {mirrors.shown(path)} exists.",
                cure=f"`pkdray resume {mirrors.typed(path)}` continues it; or choose another --name.",
            )
        # What is left here of a remote run that was removed goes, with its trials.
        mirrors.pull(path)
        foreign = (
            [entry.name for entry in path.iterdir() if entry.name not in _LEFTOVERS and not _unfinished(entry)]
            if path.is_dir()
            else []
        )
        if foreign:
            raise RunError(
                f"{mirrors.shown(path)} is not empty and is no run (it holds {foreign[0]}).",
                cure="Choose another --name.",
            )

    @classmethod
    def create(cls, path: Path, plan: Plan, command: Sequence[str] = ()) -> Run:
        """Make the folder, the ledger with its planned trials, and run.yaml.

        Args:
            path: of the run.
            plan: what is to be searched.
            command: the command line that makes the run, for the record.

        Raises:
            RunError: the folder holds a run, or something else, or another process is making one there.
            FingerprintError: it holds a run of another dataset.
            StorageError: it cannot be written.
        """
        cls.check_free(path, plan)
        with storage_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            # Another process may have made it a moment ago.
            cls.check_free(path, plan)
            return cls._create(path, plan, command)

    @classmethod
    def _create(cls, path: Path, plan: Plan, command: Sequence[str]) -> Run:
        with storage_errors(path):
            # A start that was killed before run.yaml leaves a ledger in which nothing has happened yet.
            for name in (*JOURNALS, VERSION_FILE, STUDY_FILE):
                (path / name).unlink(missing_ok=True)
            for entry in filter(_unfinished, path.iterdir()):
                entry.unlink(missing_ok=True)
        search = plan.config.search
        planned, points = search.trials, []
        if search.sampler == "grid":
            fixed = fixed_values(plan.config)
            size = grid_size(search.space, fixed)
            planned = min(planned, size)
            points = [point for point, _ in zip(grid(search.space, fixed), range(planned), strict=False)]
        Ledger.create(path / STUDY_FILE, mode=plan.metric.mode, planned=planned, points=points)
        write_yaml(
            path / RUN_FILE,
            {
                "name": path.name,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "command": list(command),
                "dataset": plan.info.name,
                "dataset_path": plan.dataset_path,
                "dataset_fingerprint": plan.dataset_fingerprint,
                "pool": plan.pool_fingerprint,
                "seed": plan.config.seed,
                "versions": {name: _version(name) for name in _VERSIONS},
                "python": platform.python_version(),
                "config": plan.config.model_dump(mode="json", by_alias=True),
            },
            header="A run of pkdray. The config is resolved: every default is written out.",
        )
        return cls(path)

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def runs_dir(self) -> Path:
        """The folder that holds this run, its siblings, and their teacher pools."""
        return self.path.parent

    @property
    def best(self) -> Path:
        """The folder of the best student."""
        return self.path / "best"

    def trial(self, number: int) -> Path:
        """The folder of one trial."""
        return self.path / "trials" / str(number)

    def ledger(self) -> Ledger:
        """The run's study, as it is now."""
        return Ledger(self.path / STUDY_FILE)

    def dataset(self) -> Dataset:
        """The dataset that the run was made with.

        Raises:
            FingerprintError: what lies at its path now is another one.
            DatasetError: it is missing or damaged.
        """
        # Where it lay, so that a resume may be typed in another folder; or by its name, if pkdray itself has moved.
        place = str(self.about.get("dataset_path"))
        dataset = open_dataset(place if mirrors.is_uri(place) or Path(place).is_dir() else self.config.dataset.path)
        made = self.about["dataset_fingerprint"]
        if dataset.fingerprint != made:
            raise FingerprintError(
                f"The run {self.name} was made with the dataset {made}, but {dataset.path} is now "
                f"{dataset.fingerprint}.",
                cure="Put the old dataset back, or start a new run with this one.",
            )
        return dataset

    def check_dataset(self, plan: Plan) -> None:
        """Refuse to take this run for one of a plan that was made with other data.

        Raises:
            FingerprintError: the run was made with another dataset.
        """
        made = self.about["dataset_fingerprint"]
        if made != plan.dataset_fingerprint:
            raise FingerprintError(
                f"The run {mirrors.shown(self.path)} was made with another dataset ({made}, not "
                f"{plan.dataset_fingerprint}).",
                cure="Choose another --name.",
            )

    def plan(self, dataset: Dataset) -> Plan:
        """The run's plan; its config is resolved, so this only checks it once more."""
        return make_plan(self.config, dataset)

    def pool(self, plan: Plan) -> Pool:
        """The teacher pool of the run's plan."""
        return Pool.at(self.runs_dir / POOLS, plan)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run: no second process may sweep it. The lock dies with its process, however that ends.

        A remote run is held by a lease as well, and is brought to its storage while the block runs and at its end.

        Raises:
            RunError: another process holds it, on this machine or another.
            StorageError: its storage cannot be written.
        """
        with ExitStack() as stack:
            stack.enter_context(_locked(self.path))
            stack.enter_context(held(self.path))
            yield

    def is_active(self) -> bool:
        """Whether some process is sweeping the run now."""
        return holder(self.path) is not None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / LOCK_FILE))
        except BusyError as error:
            raise RunError(
                f"The run {folder.name} is in use by {error.holder}.", cure="Wait for it, or stop it with Ctrl-C."
            ) from error
        yield


def find_run(name_or_path: str, runs_dir: Path) -> Run:
    """A run by its path, or by its name below ``runs_dir``.

    Raises:
        RunError: there is none; the message lists those there are.
    """
    return Run(find_folder(name_or_path, runs_dir))


def list_runs(runs_dir: Path) -> list[Run]:
    """The runs in a folder, oldest first; damaged ones are left out."""
    runs = []
    for folder in run_folders(runs_dir):
        try:
            runs.append(Run(folder))
        except PkdrayError:
            continue
    return sorted(runs, key=lambda run: (str(run.about.get("created")), run.name))


def new_run_path(runs_dir: Path, name: str) -> Path:
    """``<runs_dir>/<name>``, with -2, -3 ... behind it where that exists."""
    path, count = runs_dir / name, 1
    while mirrors.have(path / RUN_FILE):
        count += 1
        path = runs_dir / f"{name}-{count}"
    return path


def fixed_values(config: Config) -> dict[str, Any]:
    """The un-searched config as dotted path -> value, which conditions of the space may name."""
    return flatten(config.model_dump(mode="json", by_alias=True, exclude={"search"}))


def sampler_for(config: Config) -> Any:
    """Trial number -> Optuna sampler, as the config asks for."""
    search = config.search
    return lambda number: make_sampler(
        search.sampler, seed=config.seed, number=number, startup_trials=search.startup_trials
    )


def _unfinished(entry: Path) -> bool:
    """Whether a file is the temporary one of an atomic write of run.yaml that was killed."""
    return entry.name.startswith(f".{Path(RUN_FILE).stem}.tmp-")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
