"""The ledger's two voices inside Ray Tune: a searcher that hands out its rows, a scheduler that remembers its rungs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

from optuna.trial import FrozenTrial, TrialState
from ray.tune import Callback
from ray.tune.result import HOSTNAME, TIME_TOTAL_S
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from pkdray.config import AshaConfig, Config
from pkdray.errors import StorageError
from pkdray.search.ledger import Ledger, proposal
from pkdray.search.ledger import summary as ledger_summary
from pkdray.search.reports import ENTRY, EPOCH, FAILED, HALT, PROCESS_DIED, SUMMARY, VALUE, has_ended
from pkdray.search.run import fixed_values, sampler_for
from pkdray.search.space import longest_training, suggest
from pkdray.training.metrics import Metric


class LedgerSearcher(Searcher):
    """Hands out the ledger's waiting rows, then new ones, and writes down what becomes of each.

    A row is told before Tune goes on, so whatever Tune considers finished is in the study. Tune's own snapshots of a
    searcher are not used.
    """

    def __init__(
        self, ledger: Ledger, config: Config, metric: Metric, limit: Callable[[], float] = lambda: math.inf
    ) -> None:
        """``limit`` says how many trials may be started and not ended; it is asked before each."""
        super().__init__(metric=VALUE, mode=metric.mode)
        self._limit = limit
        self._ledger = ledger
        self._config = config
        self._fixed = fixed_values(config)
        self._numbers: dict[str, int] = {}
        self._whereabouts: dict[str, dict[str, Any]] = {}
        self.halted: str | None = None

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next row's number and proposed values; None for not now; none any more once the sweep halts."""
        if self.halted is not None:
            return Searcher.FINISHED
        if len(self._numbers) >= self._limit():
            return None
        try:
            trial = self._ledger.ask(sampler_for(self._config))
            with self._ledger.writing():
                overrides = suggest(self._config.search.space, trial, self._fixed)
        except StorageError as error:
            self.halted = str(error)
            return Searcher.FINISHED
        self._numbers[trial_id] = trial.number
        # One string: Tune takes dotted keys and nested values apart.
        return {
            "number": trial.number,
            "overrides": json.dumps(overrides, sort_keys=True),
            "proposal": json.dumps(proposal(trial), sort_keys=True),
        }

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Write down an intermediate value; where that cannot be done, no further trial starts."""
        self._whereabouts[trial_id] = whereabouts(result, self._whereabouts.get(trial_id, {}))
        if has_ended(result):
            return
        try:
            self._ledger.report(self._numbers[trial_id], int(result[EPOCH]), float(result[VALUE]))
        except StorageError as error:
            self.halted = str(error)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Write down the end: complete, pruned, or failed with its reason. A halted trial stays open for a resume."""
        number = self._numbers.pop(trial_id)
        where = whereabouts(result or {}, self._whereabouts.pop(trial_id, {}))
        if result is not None and result.get(HALT):
            self.halted = result[HALT]
            return
        try:
            self._tell(number, result, error, where)
        except StorageError as failure:
            self.halted = str(failure)

    def _tell(self, number: int, result: dict[str, Any] | None, error: bool, where: Mapping[str, Any]) -> None:
        if error or result is None:
            self._ledger.fail(number, PROCESS_DIED, where)
        elif result.get(FAILED):
            self._ledger.fail(number, result[FAILED], where)
        elif result.get(SUMMARY):
            summary = json.loads(result[SUMMARY])
            self._ledger.complete(number, summary.pop("value"), summary)
        else:
            # The scheduler stopped it on this very result, which on_trial_result was therefore not shown.
            self._ledger.report(number, int(result[EPOCH]), float(result[VALUE]))
            self._ledger.prune(number, where)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: study.db is the state."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: study.db is the state."""


def whereabouts(result: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Where a trial runs and for how long it has, as its reports tell it.

    Args:
        result: a report; a failure's names no device, and where its process died there is none (``{}``).
        before: what the reports before it told.

    Returns:
        ``node`` (host name), ``device``, ``seconds`` (of its process, up to this report); what nobody told is missing.

    Example:
        >>> told = whereabouts({"entry": '{"node": "n1", "device": "cpu"}', "time_total_s": 2.5}, {})
        >>> whereabouts({"hostname": "head", "time_total_s": 3.25}, told)
        {'node': 'n1', 'device': 'cpu', 'seconds': 3.25}
    """
    entry = json.loads(result.get(ENTRY) or "{}")
    found = {
        # Tune's name of the process's own node: that of a trial which failed before its first epoch.
        "node": entry.get("node") or before.get("node") or result.get(HOSTNAME),
        "device": entry.get("device") or before.get("device"),
        "seconds": round(float(result[TIME_TOTAL_S]), 3) if TIME_TOTAL_S in result else before.get("seconds"),
    }
    return {key: value for key, value in found.items() if value is not None}


class LedgerASHA(AsyncHyperBandScheduler):
    """ASHA over epochs whose rungs are filled from the ledger, so that a resumed sweep is as strict as it was.

    Tune's scheduler starts with empty rungs and would let the first trials after a resume through unseen.
    """

    def __init__(self, asha: AshaConfig, *, epochs: int, mode: str, trials: list[FrozenTrial]) -> None:
        super().__init__(
            time_attr=EPOCH,
            metric=VALUE,
            mode=mode,
            max_t=epochs,
            grace_period=min(asha.grace_epochs, epochs),
            reduction_factor=asha.reduction_factor,
            # A trial at its last epoch ends by itself, with its files written; the scheduler must not cut it off.
            stop_last_trials=False,
        )
        self._values = {trial.number: _curve(trial) for trial in trials}
        for trial in trials:
            if trial.state.is_finished():
                past = SimpleNamespace(trial_id=f"ledger-{trial.number}")
                super().on_trial_add(None, past)
                self._replay(past, trial.number)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Let a continued trial find itself in the rungs it has passed."""
        super().on_trial_add(tune_controller, trial)
        self._replay(trial, trial.config["number"])

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Judge a running trial; an ended one is past judging."""
        if has_ended(result):
            return TrialScheduler.CONTINUE
        return super().on_trial_result(tune_controller, trial, result)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Enter the final value into the rungs; that of a failed trial says nothing."""
        if result.get(FAILED) or result.get(HALT):
            self.on_trial_remove(tune_controller, trial)
        else:
            super().on_trial_complete(tune_controller, trial, result)

    def passed(self, trial_id: str, *, stopped: bool = False) -> int:
        """The epoch of the highest rung that a trial has passed, 0 for none; one ``stopped`` fell at its last."""
        rungs = sorted(epoch for epoch, recorded in self._rungs() if trial_id in recorded)
        return max(rungs[:-1] if stopped else rungs, default=0)

    def reached(self) -> dict[int, int]:
        """Epoch of each rung -> how many trials came to it."""
        return {epoch: len(recorded) for epoch, recorded in self._rungs()}

    def _rungs(self) -> list[tuple[int, dict[str, float]]]:
        return [(int(epoch), recorded) for bracket in self._brackets for epoch, recorded in bracket._rungs]

    def _replay(self, trial: Any, number: int) -> None:
        """Enter a trial's values as Tune's brackets do, without judging it, which takes a quantile of all others."""
        rungs = self._trial_info[trial.trial_id]._rungs
        for epoch, value in self._values.get(number, {}).items():
            # The highest first: a value counts at the highest rung that it has come to, and the first one there stays.
            reached = next((recorded for milestone, recorded in rungs if epoch >= milestone), None)
            if reached is not None:
                reached.setdefault(trial.trial_id, self._metric_op * value)


def _curve(trial: FrozenTrial) -> dict[int, float]:
    """What the scheduler was shown of a trial, by epoch: a complete one showed its final value at its end."""
    values = dict(trial.intermediate_values)
    if trial.state == TrialState.COMPLETE and trial.value is not None and "epochs" in ledger_summary(trial):
        values[ledger_summary(trial)["epochs"]] = trial.value
    return dict(sorted(values.items()))


def make_scheduler(config: Config, *, mode: str, trials: list[FrozenTrial]) -> TrialScheduler:
    """ASHA as configured, or none."""
    if config.search.asha is None:
        return FIFOScheduler()
    return LedgerASHA(config.search.asha, epochs=longest_training(config), mode=mode, trials=trials)


class Listener(Protocol):
    """Who is told what happens to the trials, by their numbers in the ledger."""

    def started(self, number: int, overrides: dict[str, Any]) -> None:
        """A trial starts, or starts again after its process died."""

    def reported(self, number: int, result: Mapping[str, Any], rung: int | None) -> None:
        """A trial has done an epoch; ``rung`` is ASHA's highest that it has passed."""

    def ended(self, number: int, result: Mapping[str, Any] | None) -> None:
        """A trial has ended with its last report; None where its process died."""

    def tick(self) -> None:
        """Another step of Tune's loop is done."""


class SweepCallback(Callback):
    """Tells a listener what Tune does."""

    def __init__(self, listener: Listener, scheduler: TrialScheduler) -> None:
        self._listener = listener
        self._scheduler = scheduler

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks into records of its own, which nobody reads; threads cannot be pickled."""
        return {}

    def on_trial_start(self, *_: Any, trial: Any, **__: Any) -> None:
        """Called when a trial has its actor."""
        self._listener.started(trial.config["number"], json.loads(trial.config["overrides"]))

    def on_trial_result(self, *_: Any, trial: Any, result: dict[str, Any], **__: Any) -> None:
        """Called after searcher and scheduler; a trial's last word is told as its end."""
        if not has_ended(result):
            asha = isinstance(self._scheduler, LedgerASHA)
            rung = self._scheduler.passed(trial.trial_id, stopped=bool(result.get("done"))) if asha else None
            self._listener.reported(trial.config["number"], result, rung)

    def on_trial_complete(self, *_: Any, trial: Any, **__: Any) -> None:
        """Called when a trial returned, or was stopped."""
        self._listener.ended(trial.config["number"], trial.last_result)

    def on_trial_error(self, *_: Any, trial: Any, **__: Any) -> None:
        """Called when a trial's process died for good."""
        self._listener.ended(trial.config["number"], None)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Called after each step of Tune's loop."""
        self._listener.tick()
