"""Sweeps in processes of their own that are killed for good: nothing finished is lost, nothing is done twice."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from optuna.trial import FrozenTrial
from patience import PATIENCE_SECONDS, until
from processes import finished_trials, frozen, own_environment

from pkdray.config import Config
from pkdray.data.dataset import Dataset
from pkdray.errors import RunError
from pkdray.search.folders import LIVE_FILE
from pkdray.search.ledger import Ledger
from pkdray.search.run import POOLS, Run
from pkdray.search.trial import BEST, CURVES, RESULT

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.cluster]

TRIALS = 8


class Home:
    """A user's folder with a YAML, a dataset beside it, and ``pkdray`` run in it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def run(self) -> Path:
        return self.path / "runs" / "k"

    def environment(self) -> dict[str, str]:
        return {**own_environment(), "RAY_OVERRIDE_RESOURCES": '{"CPU": 2}'}

    def pkdray(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pkdray", *arguments],
            cwd=self.path,
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_SECONDS,
        )

    @contextmanager
    def started(self, *arguments: str, **settings: Any) -> Iterator[subprocess.Popen[str]]:
        process = subprocess.Popen(
            [sys.executable, "-m", "pkdray", *arguments],
            cwd=self.path,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            **settings,
        )
        try:
            yield process
        finally:
            process.kill()
            process.communicate()


@pytest.fixture
def home(tmp_path: Path, digits: Dataset, config: Callable[..., Config]) -> Home:
    shutil.copytree(digits.path, tmp_path / "data")
    study = config(
        {
            "dataset.path": "data",
            "training.epochs": 60,
            "training.patience": 60,
            "training.checkpoint_every": 5,
            "search.trials": TRIALS,
            "search.asha": {"grace_epochs": 10, "reduction_factor": 2},
            "search.space": {
                "training.learning_rate": {"float": [1e-4, 3e-2], "log": True},
                "method.name": {"choice": ["kl", "pkd"]},
                "method.alpha": {"float": [0.1, 0.9]},
            },
        }
    )
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(study.model_dump(mode="json", by_alias=True)))
    return Home(tmp_path)


def finished_rows(run: Path) -> dict[int, FrozenTrial]:
    return {trial.number: trial for trial in Ledger(run / "study.db").trials() if trial.state.is_finished()}


def stamps(run: Path, numbers: dict[int, FrozenTrial]) -> dict[Path, tuple[int, int]]:
    """Inode and time of every file of some trials: a file that is written anew has another inode."""
    files = [path for number in numbers for path in (run / "trials" / str(number)).iterdir()]
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def assert_whole(run: Path, trials: int) -> None:
    """Exactly the planned trials are finished, each once, with its files, and the best one is in ``best/``."""
    ledger = Ledger(run / "study.db")
    rows = ledger.trials()
    assert [trial.number for trial in rows] == list(range(trials))
    assert {trial.state.name for trial in rows} <= {"COMPLETE", "PRUNED"}
    assert ledger.planned == trials
    for trial in rows:
        folder = run / "trials" / str(trial.number)
        if trial.state.name == "COMPLETE":
            assert {RESULT, BEST, CURVES} <= {path.name for path in folder.iterdir()}
            assert json.loads((folder / RESULT).read_text())["value"] == trial.value
    best = ledger.best()
    assert best is not None
    assert json.loads((run / "best" / "metrics.json").read_text())["trial"] == best.number


def test_a_sweep_killed_amid_its_trials_is_resumed_to_exactly_the_planned_trials(home: Home, pools: Path) -> None:
    shutil.copytree(pools, home.path / "runs" / POOLS)
    with (
        home.started("sweep", "space.yaml", "--name", "k") as process,
        frozen(lambda: finished_trials(home.run) >= 3, process),
    ):
        with pytest.raises(RunError, match=f"in use by process {process.pid} "), Run(home.run).lock():
            pass
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert not Run(home.run).is_active()
    before = finished_rows(home.run)
    kept = stamps(home.run, before)
    left = {trial.number: trial for trial in Ledger(home.run / "study.db").trials() if trial.number not in before}
    assert 3 <= len(before) < TRIALS, "it was killed amid its trials"

    resumed = home.pkdray("resume", "k", "--json")
    assert resumed.returncode == 0, resumed.stderr
    about = json.loads(resumed.stdout)
    assert (about["state"], about["finished"], about["planned"]) == ("finished", TRIALS, TRIALS)
    assert f"k: {len(before)} of {TRIALS} trials are finished" in resumed.stderr
    assert_whole(home.run, TRIALS)
    after = finished_rows(home.run)
    for number, trial in before.items():
        assert after[number].datetime_complete == trial.datetime_complete
        assert (after[number].state, after[number].value) == (trial.state, trial.value)
        assert after[number].params == trial.params
    assert stamps(home.run, before) == kept
    for number, trial in left.items():
        # The youngest row may have been killed between two of its draws: those that were written stay.
        assert trial.params.items() <= after[number].params.items(), "what was proposed is what is finished"
    assert list(Path("/tmp").glob(f"pkdray-{process.pid}-*")) == [], "the killed process's folders are removed too"


@contextmanager
def terminal() -> Iterator[tuple[int, dict[str, Any]]]:
    """A terminal to press Ctrl-C on, and what makes it a process's own."""
    keyboard, screen = os.openpty()
    try:
        yield keyboard, {"stdin": screen, "preexec_fn": lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)}
    finally:
        os.close(keyboard)
        os.close(screen)


CTRL_C = b"\x03"


def test_ctrl_c_stops_a_sweep_at_once_and_says_how_to_go_on(home: Home, pools: Path) -> None:
    shutil.copytree(pools, home.path / "runs" / POOLS)
    with terminal() as (keyboard, own), home.started("sweep", "space.yaml", "--name", "k", **own) as process:
        with frozen(lambda: finished_trials(home.run) >= 1, process):
            os.write(keyboard, CTRL_C)
        _, said = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert "Continue it with: pkdray resume runs/k" in said
    assert list(Path("/tmp").glob(f"pkdray-{process.pid}-*")) == []
    ledger = Ledger(home.run / "study.db")
    counts = ledger.counts()
    assert counts.running == 0
    assert 1 <= counts.finished < TRIALS
    assert f"The sweep stopped with {counts.open} of {TRIALS} trials to go" in said
    before = finished_rows(home.run)
    kept = stamps(home.run, before)

    resumed = home.pkdray("resume", "runs/k")
    assert resumed.returncode == 0, resumed.stderr
    assert f"{TRIALS} of {TRIALS} trials finished" in resumed.stdout
    assert_whole(home.run, TRIALS)
    assert stamps(home.run, before) == kept


def test_a_start_that_is_interrupted_and_then_killed_before_any_trial_is_resumed(home: Home) -> None:
    # One teacher to train, and trials that are over soon: it is about what happens before them.
    few = ("--trials", "2", "--set", "teachers.pool=[{name: joint}]", "--set", "training.epochs=11")
    with (
        terminal() as (keyboard, own),
        home.started("sweep", "space.yaml", "--name", "k", *few, **own) as process,
    ):
        # Before, there is nothing yet to go on with.
        until((home.run / LIVE_FILE).exists, process)
        os.write(keyboard, CTRL_C)
        _, said = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert "pkdray resume runs/k" in said

    with home.started("resume", "k") as process:
        until(lambda: any((home.path / "runs" / POOLS).glob("*/.train/joint")), process)
        assert not finished_rows(home.run), "its teachers are being trained"
        process.send_signal(signal.SIGKILL)
        process.wait()

    resumed = home.pkdray("resume", "k")
    assert resumed.returncode == 0, resumed.stderr
    assert re.search(r"Teachers: .*joint 0\.\d+.* on validation", resumed.stderr)
    assert_whole(home.run, 2)
    (pool,) = (home.path / "runs" / POOLS).iterdir()
    assert not (pool / ".train").exists()
