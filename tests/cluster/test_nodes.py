"""Several nodes, some of which die: nothing finished is lost, nothing is done twice, arrays travel once a node."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from nodes import SAID, Nodes, ended
from optuna.trial import FrozenTrial
from patience import until
from processes import finished_trials, frozen

from pkdray.search.ledger import Ledger
from pkdray.search.trial import BEST, CURVES, RESULT

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.cluster]

TRIAL = "ImplicitFunc"
"""The class of Tune's actors that run a function."""
CONTROLLER, WORKER = "TrainController", "RayTrainWorker"
"""The classes of Train's controllers, one a training, and of its workers."""


def rows(run: Path) -> list[FrozenTrial]:
    return Ledger(run / "study.db").trials() if (run / "run.yaml").exists() else []


def finished(run: Path) -> dict[int, FrozenTrial]:
    return {trial.number: trial for trial in rows(run) if trial.state.is_finished()}


def stamps(run: Path, numbers: dict[int, FrozenTrial]) -> dict[Path, tuple[int, int]]:
    """Inode and time of every file of some trials: a file that is written anew has another inode."""
    files = [path for number in numbers for path in (run / "trials" / str(number)).iterdir()]
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def assert_whole(run: Path, trials: int, before: dict[int, FrozenTrial], kept: dict[Path, tuple[int, int]]) -> None:
    """Exactly the planned trials are complete, each once with its files; those of ``before`` were not touched."""
    ledger = Ledger(run / "study.db")
    assert [(trial.number, trial.state.name) for trial in ledger.trials()] == [(n, "COMPLETE") for n in range(trials)]
    for trial in ledger.trials():
        folder = run / "trials" / str(trial.number)
        assert {RESULT, BEST, CURVES} <= {path.name for path in folder.iterdir()}
        assert json.loads((folder / RESULT).read_text())["value"] == trial.value
    assert {trial.datetime_complete for trial in before.values()} <= {t.datetime_complete for t in ledger.trials()}
    assert stamps(run, before) == kept
    best = ledger.best()
    assert best is not None
    assert json.loads((run / "best" / "metrics.json").read_text())["trial"] == best.number


def test_a_sweep_on_four_nodes_of_which_one_is_killed_ends_with_every_trial_accounted_for(
    four: Nodes, home: Callable[..., Path]
) -> None:
    # So many that there is work left when the new node's first process is there.
    trials = 48
    folder = home({"search.trials": trials})
    run = folder / "runs" / "k"
    with four.pkdray(folder, "sweep", "space.yaml", "--name", "k") as process:
        until(lambda: finished_trials(run), process, folder / SAID)
        before = finished(run)
        kept = stamps(run, before)
        with frozen(lambda: len(places := four.places(TRIAL)) == 4 and places, process, folder / SAID) as places:
            victim = next(node for node in four.further if four.id_of(node) in places)
            lost = four.id_of(victim)
            four.kill(victim)
            joined = four.add()
            four.further.append(joined)
        said = ended(process, folder)
    assert f"{trials} of {trials} trials finished" in said
    assert 1 <= len(before) < trials, "it was killed amid its trials"
    assert_whole(run, trials, before, kept)
    seen = four.places(TRIAL, alive=False)
    assert lost in seen
    assert four.id_of(joined) in seen, "the node that joined was used"


def test_arrays_travel_once_a_node_and_what_is_lost_is_read_from_disk_once_a_process(four: Nodes) -> None:
    found = four.program("arrays")
    assert len(found["after"]) == 4
    for node, used in found["after"].items():
        grown = used - found["before"].get(node, 0)
        assert found["bytes"] <= grown < 1.1 * found["bytes"], "one copy, for the driver and two processes, or for two"
    total = 1_500_000 * 1_499_999 / 2
    assert [(value, writeable, read) for _, value, writeable, read in found["mapped"]] == [(total, False, 0)] * 8
    assert [(value, writeable, read) for _, value, writeable, read in found["restored"]] == [(total, False, 1)] * 8
    assert len({node for node, *_ in found["restored"]}) == 4


def test_a_sweep_whose_driver_and_head_were_killed_is_resumed_on_another_cluster_and_evaluated_though_a_node_dies(
    four: Nodes, home: Callable[..., Path]
) -> None:
    folder = home({"search.trials": 5})
    run = folder / "runs" / "k"
    first = Nodes(further=0)
    try:
        with first.pkdray(folder, "sweep", "space.yaml", "--name", "k") as process:
            with frozen(lambda: finished_trials(run) >= 2, process, folder / SAID):
                os.killpg(process.pid, signal.SIGKILL)
            first.kill_head()
            process.wait()
    finally:
        first.close()
    before = finished(run)
    kept = stamps(run, before)
    assert 2 <= len(before) < 5, "it was killed amid its trials"
    with four.pkdray(folder, "resume", "k") as process:
        said = ended(process, folder)
    assert f"k: {len(before)} of 5 trials are finished" in said
    assert_whole(run, 5, before, kept)

    evaluation = run / "evaluation"
    with four.pkdray(folder, "evaluate", "k", "--seeds", "3") as process:
        # The student and its lower bound, three times each: by then every node trains one.
        with frozen(lambda: len(list(evaluation.glob("*"))) >= 4, process, folder / SAID):
            trained = {path: path.stat().st_mtime_ns for path in evaluation.glob("*/trained.json")}
            four.kill(four.further[0])
        ended(process, folder)
    assert len(trained) < 6, "it was killed amid its trainings"
    assert {path: path.stat().st_mtime_ns for path in trained} == trained
    said = json.loads((run / "evaluation.json").read_text())
    assert len(said["seeds"]) == 3
    assert len(list(evaluation.glob("*/tested.json"))) == 6
    four.further.append(four.add())


def test_a_teacher_that_loses_a_node_is_trained_to_its_end(four: Nodes, home: Callable[..., Path]) -> None:
    # So many epochs that there are some left when a node has been chosen.
    longer = {"epochs": 600, "checkpoint_every": 5, "patience": 600}
    asked = {f"teachers.training.{name}": value for name, value in longer.items()}
    folder = home({**asked, "resources.workers_per_teacher": 2}, pool=False)
    with four.pkdray(folder, "teach", "space.yaml") as process:
        until(lambda: list(folder.glob("runs/pools/*/joint/last*")), process, folder / SAID)
        # One CPU a node, so its two workers are on two of them.
        places = until(lambda: len(places := four.places(WORKER)) == 2 and places, process, folder / SAID)
        four.kill(next(node for node in four.further if four.id_of(node) in places))
        said = ended(process, folder)
    assert "joint" in said
    assert len(list(folder.glob("runs/pools/*/pool.yaml"))) == 1
    until(lambda: not four.places(WORKER))
    four.further.append(four.add())


def test_trials_on_two_workers_take_turns_where_one_fits_and_use_a_node_that_joins(
    four: Nodes, home: Callable[..., Path]
) -> None:
    four.lose(four.further[0])
    folder = home({"resources.workers_per_trial": 2, "search.trials": 4, "training.epochs": 12})
    run = folder / "runs" / "k"
    with four.pkdray(folder, "sweep", "space.yaml", "--name", "k") as process:
        until(lambda: len(four.actors(WORKER)) == 2, process, folder / SAID)
        assert [trial.state.name for trial in rows(run)].count("RUNNING") <= 1, "a second has no room"
        # No trial passes while the node starts.
        with frozen(lambda: True, process, folder / SAID):
            four.further.append(four.add())
        until(lambda: len(four.actors(WORKER)) == 4, process, folder / SAID)
        ended(process, folder)
    assert_whole(run, 4, {}, {})


def test_trials_that_are_started_though_their_workers_do_not_fit_take_turns_also_after_a_killed_sweep(
    four: Nodes, home: Callable[..., Path]
) -> None:
    """Each would hold one of three CPUs and wait for ever, did a trial not get both of its workers or none."""
    four.lose(four.further[0])
    asked = {"workers_per_trial": 2, "concurrent_trials": 2}
    folder = home({f"resources.{key}": value for key, value in asked.items()} | {"search.trials": 3})
    with four.pkdray(folder, "sweep", "space.yaml", "--name", "killed", "--set", "training.epochs=12") as process:
        # The moment at which Ray lets what the second was about to take be held for ever.
        until(lambda: four.actors(WORKER) and len(four.actors(CONTROLLER)) == 2, process, folder / SAID)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    run = folder / "runs" / "k"
    with four.pkdray(folder, "sweep", "space.yaml", "--name", "k", "--set", "training.epochs=12") as process:
        until(lambda: [trial.state.name for trial in rows(run)][:2] == ["RUNNING"] * 2, process, folder / SAID)
        ended(process, folder)
    assert_whole(run, 3, {}, {})
    four.further.append(four.add())
