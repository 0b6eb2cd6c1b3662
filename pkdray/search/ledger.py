"""The ledger: an Optuna study in ``study.db`` that knows of every trial, exactly once.

Ray Tune's own restore loses or repeats work after a kill, so it is not used. A trial is a row from the moment it is
asked for; it is finished when its row is told, and not before. Whatever a killed sweep left RUNNING is put back to
WAITING under the same number and with the same parameters, and the next sweep asks for it first.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import DatabaseError

from pkdray.errors import RunError, StorageError
from pkdray.files import storage_errors
from pkdray.search.held import HeldStorage

STUDY = "pkdray"
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
_PLANNED, _RETRY_OF, _REASON, _SUMMARY = "planned", "retry_of", "reason", "summary"

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class Counts:
    """How the planned trials stand. ``open`` are those neither finished nor running."""

    planned: int
    complete: int
    pruned: int
    failed: int
    running: int

    @property
    def finished(self) -> int:
        """Trials that will not be run again."""
        return self.complete + self.pruned + self.failed

    @property
    def open(self) -> int:
        """Trials still to be started."""
        return max(0, self.planned - self.finished - self.running)


class Ledger:
    """The study of one run, as it is when it is opened and as it is changed through this object.

    It is read once. Who writes to it holds the run's lock, so nobody else does; who only looks opens it anew to see
    what a sweep has done since.

    Args:
        path: of ``study.db``; opened, or created with `create`.

    Raises:
        RunError: the file is missing or is no study.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise RunError(f"There is no ledger {path}.", cure="The run is incomplete: sweep anew under another name.")
        self.path = path
        with _reading(path):
            self._storage = HeldStorage(_storage(path), STUDY)
            self._study = optuna.load_study(study_name=STUDY, storage=self._storage)

    @classmethod
    def create(cls, path: Path, *, mode: str, planned: int, points: Iterable[Mapping[str, Any]] = ()) -> Ledger:
        """Create the study.

        Args:
            path: of ``study.db``; must not exist.
            mode: ``max`` or ``min``.
            planned: how many trials the sweep is to finish.
            points: parameters that are tried first, in order (a grid).

        Raises:
            StorageError: the folder cannot be written.
        """
        direction = StudyDirection.MAXIMIZE if mode == "max" else StudyDirection.MINIMIZE
        with storage_errors(path), _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            study = optuna.create_study(storage=_storage(path), study_name=STUDY, direction=direction)
            study.set_user_attr(_PLANNED, planned)
            for point in points:
                study.enqueue_trial(dict(point))
        return cls(path)

    @property
    def planned(self) -> int:
        """How many trials the sweep is to finish."""
        with _reading(self.path):
            return int(self._study.user_attrs[_PLANNED])

    def extend(self, planned: int) -> None:
        """Plan for more trials.

        Raises:
            RunError: fewer than are planned already.
        """
        if planned < self.planned:
            raise RunError(
                f"{planned} trials are asked for, but {self.planned} are planned already.",
                cure=f"--trials is the new total: ask for more than {self.planned}.",
            )
        with self.writing():
            self._study.set_user_attr(_PLANNED, planned)

    def trials(self) -> list[FrozenTrial]:
        """Every row, by number."""
        with _reading(self.path):
            return self._study.get_trials(deepcopy=False)

    def counts(self) -> Counts:
        """How the planned trials stand; a failed trial whose retry exists is no longer counted."""
        trials = self.trials()
        retried = {trial.user_attrs[_RETRY_OF] for trial in trials if _RETRY_OF in trial.user_attrs}
        states = [trial.state for trial in trials if trial.number not in retried]
        return Counts(
            planned=self.planned,
            complete=states.count(TrialState.COMPLETE),
            pruned=states.count(TrialState.PRUNED),
            failed=states.count(TrialState.FAIL),
            running=states.count(TrialState.RUNNING),
        )

    def best(self) -> FrozenTrial | None:
        """The best complete trial; None while there is none. Pruned trials do not count: they have no final weights."""
        complete = [trial for trial in self.trials() if trial.state == TrialState.COMPLETE and trial.value is not None]
        if not complete:
            return None
        sign = -1 if self._study.direction == StudyDirection.MAXIMIZE else 1
        return min(complete, key=lambda trial: (sign * (trial.value or 0.0), trial.number))

    def release(self) -> int:
        """Put every RUNNING row back to WAITING; returns how many. Only the holder of the run's lock may do this."""
        running = [trial for trial in self.trials() if trial.state == TrialState.RUNNING]
        with self.writing():
            for trial in running:
                self._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)
        return len(running)

    def ask(self, make_sampler: Any) -> Trial:
        """The next trial: the oldest waiting row, else a new one.

        Args:
            make_sampler: trial number -> Optuna sampler. Each trial gets a fresh one seeded by its number, so that a
                resumed sweep goes on proposing instead of repeating the first draws.
        """
        with warnings.catch_warnings(), self.writing():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            trial = self._study.ask()
        # Nothing is drawn before the first suggestion, so the sampler may come after the number is known.
        self._study.sampler = make_sampler(trial.number)
        return trial

    def report(self, number: int, step: int, value: float) -> None:
        """Record an intermediate value; one for the same step replaces it, since a continued trial repeats a few."""
        with self.writing():
            self._storage.set_trial_intermediate_value(self._id(number), step, value)

    def complete(self, number: int, value: float, summary: Mapping[str, Any]) -> None:
        """The trial ran to its end."""
        with self.writing():
            self._summarise(number, summary)
            self._study.tell(number, value)

    def prune(self, number: int, summary: Mapping[str, Any] | None = None) -> None:
        """The scheduler stopped the trial; its value is the last that was reported."""
        with self.writing():
            self._summarise(number, summary)
            self._study.tell(number, state=TrialState.PRUNED)

    def fail(self, number: int, reason: str, summary: Mapping[str, Any] | None = None) -> None:
        """The trial cannot be finished, and why."""
        with self.writing():
            self._summarise(number, summary)
            self._storage.set_trial_user_attr(self._id(number), _REASON, reason)
            self._study.tell(number, state=TrialState.FAIL)

    def retry_failed(self) -> int:
        """Plan every failed trial again with its parameters, each once; returns how many. The failed rows stay."""
        trials = self.trials()
        retried = {trial.user_attrs[_RETRY_OF] for trial in trials if _RETRY_OF in trial.user_attrs}
        failed = [trial for trial in trials if trial.state == TrialState.FAIL and trial.number not in retried]
        with self.writing():
            for trial in failed:
                self._study.enqueue_trial(trial.params, user_attrs={_RETRY_OF: trial.number})
        return len(failed)

    def expect(self, number: int, proposal: Mapping[str, Any]) -> None:
        """Have a trial proposed as `proposal` said, of which an older copy of the study knows less or nothing.

        Rows that are missing below it are planned as well, each to be proposed by the sampler.
        """
        with self.writing():
            for _ in range(number + 1 - len(self.trials())):
                self._study.enqueue_trial({})
            # What Optuna's own enqueue_trial writes; that always makes a new row.
            self._storage.set_trial_system_attr(self._id(number), "fixed_params", dict(proposal["parameters"]))
            if proposal["retry_of"] is not None:
                self._storage.set_trial_user_attr(self._id(number), _RETRY_OF, proposal["retry_of"])

    def _summarise(self, number: int, summary: Mapping[str, Any] | None) -> None:
        if summary is not None:
            self._storage.set_trial_user_attr(self._id(number), _SUMMARY, dict(summary))

    def _id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study._study_id, number)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Around whatever writes to the study, the suggestions of an asked trial included.

        Raises:
            StorageError: SQLite cannot write (disk full, read-only, locked for a minute).
        """
        with _writing(self.path):
            yield


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except (DatabaseError, StorageInternalError) as error:
        # Optuna wraps what SQLite said: say that.
        cause = error if isinstance(error, DatabaseError) else error.__cause__
        said = getattr(cause, "orig", None) or cause or error
        raise StorageError(f"Cannot write {path}: {said}.", cure="Free some space on its disk.") from error


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    # ValueError: damaged text or JSON inside a whole database; RuntimeError: a schema of another Optuna.
    except (DatabaseError, StorageInternalError, KeyError, ValueError, RuntimeError) as error:
        raise RunError(
            f"{path} is not a readable study ({type(error).__name__}).",
            cure="Restore it from a backup, or sweep anew under another name.",
        ) from error


def reason(trial: FrozenTrial) -> str | None:
    """Why a trial failed; None for the others."""
    return trial.user_attrs.get(_REASON)


def summary(trial: FrozenTrial) -> dict[str, Any]:
    """What is known of a trial that ended: ``node``, ``device``, ``seconds``; of a complete one all that it reported.

    A key may be missing: a trial whose process died before its first epoch told nothing.
    """
    return trial.user_attrs.get(_SUMMARY, {})


def proposal(trial: Trial) -> dict[str, Any]:
    """What a started trial is, for `Ledger.expect`: its ``parameters``, and ``retry_of``, the failed one it repeats."""
    return {"parameters": trial.params, "retry_of": trial.user_attrs.get(_RETRY_OF)}


def retry_of(trial: FrozenTrial) -> int | None:
    """The number of the failed trial that this one repeats."""
    return trial.user_attrs.get(_RETRY_OF)


def _storage(path: Path) -> RDBStorage:
    # A minute of patience with the lock: a dashboard may be reading the same file.
    return RDBStorage(f"sqlite:///{path.resolve()}", engine_kwargs={"connect_args": {"timeout": 60}})
