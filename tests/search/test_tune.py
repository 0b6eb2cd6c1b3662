"""The ledger's two voices inside Ray Tune, asked without a cluster."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, TrialState, create_trial
from ray.tune.result import HOSTNAME, TIME_TOTAL_S
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from pkdray.config import AshaConfig, Config
from pkdray.search.ledger import Ledger, reason, summary
from pkdray.search.reports import ENTRY, EPOCH, FAILED, HALT, PROCESS_DIED, SUMMARY, VALUE, outcome
from pkdray.search.tune import LedgerASHA, LedgerSearcher, make_scheduler
from pkdray.training.metrics import METRICS

STOP, CONTINUE = TrialScheduler.STOP, TrialScheduler.CONTINUE
ASHA = AshaConfig(grace_epochs=2, reduction_factor=2)
EPOCHS = 16


def tune_trial(number: int) -> Any:
    return SimpleNamespace(trial_id=f"tune-{number}", config={"number": number})


def entry(epoch: int, value: float, **special: Any) -> dict[str, Any]:
    return {EPOCH: epoch, VALUE: value, SUMMARY: "", FAILED: "", **special}


def asha(trials: list[FrozenTrial] | None = None, mode: str = "max", config: AshaConfig = ASHA) -> LedgerASHA:
    return LedgerASHA(config, epochs=EPOCHS, mode=mode, trials=trials or [])


class Live:
    """Shows a scheduler what Tune would show it, and the ledger what the searcher would."""

    def __init__(self, ledger: Ledger, scheduler: LedgerASHA) -> None:
        self.ledger, self.scheduler = ledger, scheduler

    def run(self, number: int, curve: list[float], end: str = "complete") -> list[str]:
        """One trial's epochs; returns the decisions."""
        trial = tune_trial(number)
        assert self.ledger.ask(lambda _number: RandomSampler(seed=0)).number == number
        self.scheduler.on_trial_add(None, trial)
        decisions = []
        for epoch in range(1, len(curve) + (end != "complete")):
            result = entry(epoch, curve[epoch - 1])
            decisions.append(self.scheduler.on_trial_result(None, trial, result))
            self.ledger.report(number, epoch, curve[epoch - 1])
            if decisions[-1] == STOP:
                self.scheduler.on_trial_complete(None, trial, result)
                self.ledger.prune(number)
                return decisions
        last = entry(len(curve), curve[-1], **{SUMMARY: "{}"})
        if end == "complete":
            assert self.scheduler.on_trial_result(None, trial, last) == CONTINUE
            self.scheduler.on_trial_complete(None, trial, last)
            self.ledger.complete(number, curve[-1], {"epochs": len(curve)})
        else:
            failed = entry(0, float("-inf"), **{FAILED: "nan"})
            assert self.scheduler.on_trial_result(None, trial, failed) == CONTINUE
            self.scheduler.on_trial_complete(None, trial, failed)
            self.ledger.fail(number, "nan")
        return decisions


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger.create(tmp_path / "study.db", mode="max", planned=9)


@pytest.fixture
def searcher(ledger: Ledger, config: Callable[..., Config]) -> LedgerSearcher:
    return LedgerSearcher(ledger, config(), METRICS["accuracy"])


def past(number: int, curve: dict[int, float], state: str, value: float | None = None) -> FrozenTrial:
    trial = create_trial(
        state=TrialState[state],
        value=value,
        intermediate_values=curve,
        user_attrs={"summary": {"epochs": max(curve) + 1}} if state == "COMPLETE" else {},
    )
    trial.number = number
    return trial


# The scheduler


def good(level: float, epochs: int = EPOCHS) -> list[float]:
    return [level + 0.01 * epoch for epoch in range(epochs)]


def test_a_weak_trial_is_stopped_at_the_first_rung_and_a_strong_one_is_not(ledger: Ledger) -> None:
    live = Live(ledger, asha())
    assert set(live.run(0, good(0.5))) == {CONTINUE}
    assert live.run(1, good(0.3)) == [CONTINUE, STOP]
    assert set(live.run(2, good(0.6))) == {CONTINUE}


CURVES = [
    (good(0.50), "complete"),
    (good(0.30), "complete"),
    (good(0.55, 4), "complete"),  # ended by itself exactly on a rung
    (good(0.70, 3), "fail"),
    (good(0.40), "complete"),
]
NEWCOMERS = [good(level) for level in (0.45, 0.505, 0.52, 0.545, 0.56, 0.2)]


def test_rungs_filled_from_the_ledger_decide_as_those_that_saw_the_trials_live(ledger: Ledger) -> None:
    live = Live(ledger, asha())
    for number, (curve, end) in enumerate(CURVES):
        live.run(number, curve, end)
    resumed = asha(ledger.trials())
    assert rungs(resumed) == rungs(live.scheduler)
    decided = []
    for scheduler in (live.scheduler, resumed):
        told = []
        for number, curve in enumerate(NEWCOMERS, start=100):
            trial = tune_trial(number)
            scheduler.on_trial_add(None, trial)
            told.append([scheduler.on_trial_result(None, trial, entry(e, v)) for e, v in enumerate(curve, start=1)])
        decided.append(told)
    assert decided[0] == decided[1]
    assert {STOP, CONTINUE} <= {decision for told in decided[1] for decision in told}
    empty = asha()
    empty.on_trial_add(None, tune_trial(100))
    lenient = [empty.on_trial_result(None, tune_trial(100), entry(e, v)) for e, v in enumerate(NEWCOMERS[5], start=1)]
    assert STOP not in lenient, "with empty rungs the worst of them would have gone through unseen"
    assert STOP in decided[1][5]


def test_less_is_better_works_the_other_way_round() -> None:
    scheduler = asha([past(0, {1: 0.5, 2: 0.4, 3: 0.3}, "COMPLETE", 0.2)], mode="min")
    for number, value, decision in ((1, 0.5, STOP), (2, 0.3, CONTINUE)):
        scheduler.on_trial_add(None, tune_trial(number))
        assert scheduler.on_trial_result(None, tune_trial(number), entry(2, value)) == decision


def test_a_continued_trial_finds_itself_in_its_rungs_and_is_not_judged_twice() -> None:
    others = [past(number, {1: 0.8, 2: 0.8, 3: 0.8, 4: 0.8}, "PRUNED", 0.8) for number in range(3)]
    continued = past(3, {1: 0.85, 2: 0.85, 3: 0.2}, "WAITING")
    scheduler = asha([*others, continued])
    trial = tune_trial(3)
    scheduler.on_trial_add(None, trial)
    assert 0.85 in rungs(scheduler)[2], "it counts as the rival that it was"
    # It repeats epoch 3 from its checkpoint of epoch 2, and may then be judged at the rung that it had not reached.
    assert scheduler.on_trial_result(None, trial, entry(3, 0.2)) == CONTINUE
    assert scheduler.on_trial_result(None, trial, entry(4, 0.2)) == STOP


def test_a_new_trial_does_not_inherit_the_rungs_of_another() -> None:
    scheduler = asha([past(0, {1: 0.8, 2: 0.8, 3: 0.8}, "COMPLETE", 0.8)])
    scheduler.on_trial_add(None, tune_trial(1))
    assert scheduler.on_trial_result(None, tune_trial(1), entry(2, 0.1)) == STOP


@pytest.mark.parametrize("special", [{FAILED: "diverged"}, {HALT: "disk full"}])
def test_a_failed_trials_last_report_enters_no_rung(special: dict[str, str]) -> None:
    scheduler = asha([past(0, {1: 0.5, 2: 0.5}, "PRUNED", 0.5)])
    before = rungs(scheduler)
    trial = tune_trial(1)
    scheduler.on_trial_add(None, trial)
    # A high epoch would enter every rung, and as the worst value it would let everyone through.
    last = entry(EPOCHS, float("-inf"), **special)
    assert scheduler.on_trial_result(None, trial, last) == CONTINUE
    scheduler.on_trial_complete(None, trial, last)
    assert rungs(scheduler) == before


def test_a_finished_trial_is_past_judging() -> None:
    """Stopped on its last report, it would be pruned although its files are written."""
    scheduler = asha([past(0, {1: 0.9, 2: 0.9, 3: 0.9}, "PRUNED", 0.9)])
    trial = tune_trial(1)
    scheduler.on_trial_add(None, trial)
    done = {**outcome({"epochs": 2, "value": 0.1}), "done": True}
    assert scheduler.on_trial_result(None, trial, done) == CONTINUE
    scheduler.on_trial_complete(None, trial, done)
    assert 0.1 in rungs(scheduler)[2]


def test_the_last_epoch_stops_nobody() -> None:
    scheduler = asha()
    scheduler.on_trial_add(None, tune_trial(0))
    assert scheduler.on_trial_result(None, tune_trial(0), entry(EPOCHS, 0.5)) == CONTINUE


def test_a_sweep_without_asha_stops_nobody(config: Callable[..., Config]) -> None:
    assert isinstance(make_scheduler(config({"search.asha": None}), mode="max", trials=[]), FIFOScheduler)


def test_asha_reaches_to_the_longest_training_that_the_space_may_propose(config: Callable[..., Config]) -> None:
    space = {"training.epochs": {"int": [3, 40]}}
    searched = make_scheduler(config({"search.space": space}), mode="max", trials=[])
    assert isinstance(searched, LedgerASHA)
    assert max(rungs(searched)) == 32
    shorter = make_scheduler(config({"training.epochs": 1, "search.space": {}}), mode="max", trials=[])
    assert isinstance(shorter, LedgerASHA), "a grace beyond the training is cut to it"


def rungs(scheduler: LedgerASHA) -> dict[int, list[float]]:
    """Epoch of each rung -> the values in it."""
    (bracket,) = scheduler._brackets
    return {int(epoch): sorted(abs(value) for value in recorded.values()) for epoch, recorded in bracket._rungs}


# The searcher


def test_the_searcher_hands_out_rows_as_numbers_and_proposals(searcher: LedgerSearcher, ledger: Ledger) -> None:
    first, second = searcher.suggest("a"), searcher.suggest("b")
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert (first["number"], second["number"]) == (0, 1)
    assert '"method.name"' in first["overrides"]
    assert first["overrides"] != second["overrides"]
    assert ledger.counts().running == 2


def test_a_trials_course_is_written_down_as_it_happens(searcher: LedgerSearcher, ledger: Ledger) -> None:
    for name in ("complete", "pruned", "failed", "died"):
        searcher.suggest(name)
        for epoch in (1, 2):
            searcher.on_trial_result(name, entry(epoch, 0.1 * epoch))
    # As Tune does it: the last report of a trial that returned is shown as a result and again as its end.
    done = outcome({"value": 0.7, "epochs": 3, "method": "kl", "metrics": {"accuracy": 0.7}})
    searcher.on_trial_result("complete", done)
    searcher.on_trial_complete("complete", done)
    searcher.on_trial_complete("pruned", entry(3, 0.25))
    failed = entry(0, float("-inf"), **{FAILED: "The training loss became nan in epoch 3."})
    searcher.on_trial_result("failed", failed)
    searcher.on_trial_complete("failed", failed)
    searcher.on_trial_complete("died", error=True)

    complete, pruned, failed_row, died = Ledger(ledger.path).trials()
    assert (complete.state.name, complete.value) == ("COMPLETE", 0.7)
    assert complete.intermediate_values == {1: 0.1, 2: 0.2}
    assert summary(complete) == {"epochs": 3, "method": "kl", "metrics": {"accuracy": 0.7}}
    assert (pruned.state.name, pruned.value) == ("PRUNED", 0.25)
    assert pruned.intermediate_values == {1: 0.1, 2: 0.2, 3: 0.25}
    assert (failed_row.state.name, reason(failed_row)) == ("FAIL", "The training loss became nan in epoch 3.")
    assert failed_row.intermediate_values == {1: 0.1, 2: 0.2}, "the -inf of a failure is no measurement"
    assert (died.state.name, reason(died)) == ("FAIL", PROCESS_DIED)
    assert searcher.halted is None


def test_where_a_trial_ran_and_for_how_long_is_written_down_however_it_ends(
    searcher: LedgerSearcher, ledger: Ledger
) -> None:
    place = json.dumps({"epoch": 1, "node": "n7", "device": "NVIDIA T4"})
    told = {ENTRY: place, TIME_TOTAL_S: 1.25, HOSTNAME: "n7"}
    for name in ("pruned", "failed", "died", "stillborn", "unheard"):
        searcher.suggest(name)
    for name in ("pruned", "failed", "died"):
        searcher.on_trial_result(name, entry(1, 0.1, **told))
    searcher.on_trial_complete("pruned", entry(2, 0.25, **{**told, TIME_TOTAL_S: 2.5}))
    # What a failure reports names no device; one before the first epoch, only the process's own node.
    lost = entry(0, float("-inf"), **{FAILED: "nan", TIME_TOTAL_S: 3.0, HOSTNAME: "n7"})
    searcher.on_trial_result("failed", lost)
    searcher.on_trial_complete("failed", lost)
    searcher.on_trial_complete("died", error=True)
    searcher.on_trial_complete("stillborn", {**lost, HOSTNAME: "n8", TIME_TOTAL_S: 0.5})
    searcher.on_trial_complete("unheard", error=True)
    rows = [summary(trial) for trial in Ledger(ledger.path).trials()]
    assert rows == [
        {"node": "n7", "device": "NVIDIA T4", "seconds": 2.5},
        {"node": "n7", "device": "NVIDIA T4", "seconds": 3.0},
        {"node": "n7", "device": "NVIDIA T4", "seconds": 1.25},
        {"node": "n8", "seconds": 0.5},
        {},
    ]
    assert searcher._whereabouts == {}


def test_a_full_disk_in_a_trial_halts_the_sweep_and_leaves_its_row_open(
    searcher: LedgerSearcher, ledger: Ledger
) -> None:
    searcher.suggest("a")
    searcher.suggest("b")
    searcher.on_trial_result("a", entry(1, 0.5))
    halt = entry(0, float("-inf"), **{HALT: "Cannot write last.safetensors: no space is left on the device."})
    searcher.on_trial_result("a", halt)
    searcher.on_trial_complete("a", halt)
    assert searcher.halted is not None
    assert "no space" in searcher.halted
    assert searcher.suggest("c") == Searcher.FINISHED
    searcher.on_trial_complete("b", outcome({"value": 0.6, "epochs": 2}))
    reopened = Ledger(ledger.path)
    assert [trial.state.name for trial in reopened.trials()] == ["RUNNING", "COMPLETE"]
    assert reopened.release() == 1
    assert reopened.counts().open == 8


@pytest.fixture
def read_only(ledger: Ledger) -> Callable[[bool], None]:
    """Switches the ledger's file between read-only and writable."""
    state = {"read_only": False}

    @sqlalchemy.event.listens_for(ledger._storage.engine, "connect")
    def _limit(connection: Any, _record: Any) -> None:
        connection.execute(f"PRAGMA query_only = {'ON' if state['read_only'] else 'OFF'}")

    def switch(value: bool) -> None:
        state["read_only"] = value
        ledger._storage.engine.dispose()

    return switch


@pytest.mark.parametrize("moment", ["ask", "draw", "report", "end"])
def test_a_ledger_that_cannot_be_written_halts_the_sweep_at_any_moment_and_loses_no_row(
    searcher: LedgerSearcher, ledger: Ledger, read_only, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    searcher.suggest("a")
    if moment == "draw":
        ask = ledger.ask

        def asked(make_sampler: Any) -> Any:
            trial = ask(make_sampler)
            read_only(True)
            return trial

        monkeypatch.setattr(ledger, "ask", asked)
        assert searcher.suggest("b") == Searcher.FINISHED
    else:
        read_only(True)
    if moment == "ask":
        assert searcher.suggest("b") == Searcher.FINISHED
    elif moment == "report":
        searcher.on_trial_result("a", entry(1, 0.5))
    elif moment == "end":
        searcher.on_trial_complete("a", outcome({"value": 0.9, "epochs": 2}))
    assert searcher.halted is not None
    assert "readonly" in searcher.halted
    assert searcher.suggest("c") == Searcher.FINISHED

    read_only(False)
    ledger.release()
    assert ledger.counts().open == 9
    resumed = LedgerSearcher(Ledger(ledger.path), searcher._config, METRICS["accuracy"]).suggest("a")
    assert isinstance(resumed, dict)
    assert resumed["number"] == 0


def test_no_more_trials_are_out_than_there_is_room_for_and_the_room_is_asked_each_time(
    ledger: Ledger, config: Callable[..., Config]
) -> None:
    room = [2]
    searcher = LedgerSearcher(ledger, config(), METRICS["accuracy"], lambda: room[0])
    assert searcher.suggest("a")
    assert searcher.suggest("b")
    assert searcher.suggest("c") is None, "not now, which is not never"
    assert [trial.number for trial in ledger.trials()] == [0, 1], "and no row is made of it"
    room[0] = 3
    assert searcher.suggest("c")
    searcher.on_trial_complete("a", entry(1, 0.5, **{FAILED: "why"}))
    assert searcher.suggest("d")
    room[0] = 1
    searcher.on_trial_complete("b", entry(1, 0.5, **{FAILED: "why"}))
    assert searcher.suggest("e") is None
