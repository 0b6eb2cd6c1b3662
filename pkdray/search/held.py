"""A study that is read once: every change goes to the database first, every question is answered from memory.

Optuna's own cache asks the database about each unfinished trial whenever it is asked anything, since another process
may have changed it. With 800 trials at once that is 800 rows and all their intermediate values for every proposal and
twice for every look at how the sweep stands (docs/scaling.md). But the holder of a run's lock is the only writer of its
study, so what it has read or written stays true; and who only looks wants the rows of one moment.
"""

# ruff: noqa: ARG002 - Optuna asks by the id of a study, and here is only one.

from __future__ import annotations

import copy
from collections.abc import Container, Sequence
from datetime import datetime
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Engine

from pkdray.search.rows import read_trials


class HeldStorage(BaseStorage):
    """An `optuna.storages.RDBStorage` whose trials are remembered; what Optuna says of `BaseStorage` holds.

    A change that the database refuses is not remembered. Rows are replaced, never changed in place, so that who has
    been given one keeps it as it was.

    Args:
        disk: the database. What others write into it from now on is not seen.
        study: the name of the one study that this is of.

    Raises:
        KeyError: there is no such study.
    """

    def __init__(self, disk: RDBStorage, study: str) -> None:
        self._disk = disk
        self._name = study
        self._study_id = study_id = disk.get_study_id_from_name(study)
        self._directions = disk.get_study_directions(study_id)
        self._user_attrs = disk.get_study_user_attrs(study_id)
        self._system_attrs = disk.get_study_system_attrs(study_id)
        self._trials: dict[int, FrozenTrial] = {}
        """By id, in order: a study's ids ascend with its numbers."""
        self._ids: dict[int, int] = {}
        """By number."""
        self._waiting: set[int] = set()
        for trial in read_trials(disk.engine, study_id):
            self._remember(trial)

    @property
    def engine(self) -> Engine:
        """SQLAlchemy's, of the database."""
        return self._disk.engine

    # The study

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """Not here: the storage is of one study."""
        raise NotImplementedError("A held storage is of one study.")

    def delete_study(self, study_id: int) -> None:
        """Not here either."""
        raise NotImplementedError("A held storage is of one study.")

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """Write one, then remember it."""
        self._disk.set_study_user_attr(study_id, key, value)
        self._user_attrs = {**self._user_attrs, key: value}

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """Write one, then remember it."""
        self._disk.set_study_system_attr(study_id, key, value)
        self._system_attrs = {**self._system_attrs, key: value}

    def get_study_id_from_name(self, study_name: str) -> int:
        """The study's id."""
        if study_name != self._name:
            raise KeyError(study_name)
        return self._study_id

    def get_study_name_from_id(self, study_id: int) -> str:
        """The study's name."""
        return self._name

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """Which way is better."""
        return self._directions

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """What the ledger keeps beside the trials."""
        return self._user_attrs

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """What a sampler keeps beside the trials."""
        return self._system_attrs

    def get_all_studies(self) -> list[Any]:
        """Asked by nobody who has this study already."""
        return self._disk.get_all_studies()

    # Its trials, written

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """A new row; read back, since the database gives its number and its start."""
        trial_id = self._disk.create_new_trial(study_id, template_trial)
        self._remember(self._disk.get_trial(trial_id))
        return trial_id

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """Write one drawn value."""
        self._disk.set_trial_param(trial_id, param_name, param_value_internal, distribution)
        trial = copy.copy(self._trials[trial_id])
        trial.params = {**trial.params, param_name: distribution.to_external_repr(param_value_internal)}
        trial.distributions = {**trial.distributions, param_name: distribution}
        self._remember(trial)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Write how the trial stands."""
        if not self._disk.set_trial_state_values(trial_id, state, values):
            return False
        trial = copy.copy(self._trials[trial_id])
        trial.state = state
        if values is not None:
            trial.values = list(values)
        # As the database does it, some microseconds apart: nobody compares the two.
        if state == TrialState.RUNNING:
            trial.datetime_start = datetime.now()
        if state.is_finished():
            trial.datetime_complete = datetime.now()
        self._remember(trial)
        return True

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """Write an epoch's value."""
        self._disk.set_trial_intermediate_value(trial_id, step, intermediate_value)
        trial = copy.copy(self._trials[trial_id])
        trial.intermediate_values = {**trial.intermediate_values, step: intermediate_value}
        self._remember(trial)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Write what the ledger says of a trial."""
        self._disk.set_trial_user_attr(trial_id, key, value)
        trial = copy.copy(self._trials[trial_id])
        trial.user_attrs = {**trial.user_attrs, key: value}
        self._remember(trial)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Write what a sampler says of a trial."""
        self._disk.set_trial_system_attr(trial_id, key, value)
        trial = copy.copy(self._trials[trial_id])
        trial.system_attrs = {**trial.system_attrs, key: value}
        self._remember(trial)

    # Its trials, read

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """One row, from memory."""
        return self._trials[trial_id]

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        """The id of a number, from memory."""
        return self._ids[trial_number]

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Rows by number, from memory."""
        if states == (TrialState.WAITING,):
            # Asked before every proposal, and as good as always there are none.
            trials = [self._trials[trial_id] for trial_id in sorted(self._waiting)]
        elif states is None:
            trials = list(self._trials.values())
        else:
            trials = [trial for trial in self._trials.values() if trial.state in states]
        return copy.deepcopy(trials) if deepcopy else trials

    def _remember(self, trial: FrozenTrial) -> None:
        self._trials[trial._trial_id] = trial
        self._ids[trial.number] = trial._trial_id
        if trial.state == TrialState.WAITING:
            self._waiting.add(trial._trial_id)
        else:
            self._waiting.discard(trial._trial_id)
