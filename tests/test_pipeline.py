"""The pipeline: what it refuses to continue, and that the same command, given again, changes nothing that is done."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import Said

from pkdray.console import Console
from pkdray.errors import FingerprintError, RunError
from pkdray.export.student import FILES
from pkdray.search.run import Run
from pkdray.steps.pipeline import begun
from pkdray.steps.studies import load_study

Pkdray = Callable[..., Said]


def begin(path: Path, *assignments: str, space: str = "mfeat_pkd") -> Run:
    _, plan = load_study(space, ["search.trials=5", *assignments])
    return begun(path, plan, Console())


def test_a_run_is_made_once_and_then_taken_up(tmp_path: Path) -> None:
    first = begin(tmp_path / "a")
    assert first.ledger().planned == 5
    made = (tmp_path / "a" / "run.yaml").read_bytes()
    assert begin(tmp_path / "a").path == first.path
    assert (tmp_path / "a" / "run.yaml").read_bytes() == made


def test_a_run_of_another_study_is_refused_field_by_field(tmp_path: Path) -> None:
    begin(tmp_path / "a")
    with pytest.raises(RunError, match=r"The run .*a was made from another study") as told:
        begin(tmp_path / "a", "training.epochs=9", "search.space.method.alpha={float: [0.1, 0.2]}")
    epochs, alpha = told.value.details
    assert epochs == "training.epochs: 60 in the run, 9 now"
    assert alpha.startswith("search.space.method.alpha: [{'float': [0.05, 0.95]")
    assert "Choose another --name" in str(told.value.cure)


def test_where_it_runs_is_no_part_of_a_study(tmp_path: Path) -> None:
    run = begin(tmp_path / "a")
    again = begin(tmp_path / "a", "resources.cpus_per_trial=2", "tracking.tensorboard=true", "name=renamed")
    assert again.path == run.path
    assert again.ledger().planned == 5


def test_a_run_of_another_dataset_is_refused(tmp_path: Path) -> None:
    run = begin(tmp_path / "a")
    file = run.path / "run.yaml"
    about = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump({**about, "dataset_fingerprint": "0" * 16}))
    with pytest.raises(FingerprintError, match="made with another dataset"):
        begin(tmp_path / "a")


def test_more_trials_are_planned_and_fewer_are_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begin(tmp_path / "a")
    assert begin(tmp_path / "a", "search.trials=8").ledger().planned == 8
    assert "8 trials are planned now, 3 more than before" in capsys.readouterr().err
    assert begin(tmp_path / "a", "search.trials=2").ledger().planned == 8
    assert "8 trials are planned already, which stay" in capsys.readouterr().err


def test_what_another_driver_planned_before_the_run_was_ours_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = Run.lock

    def later(run: Run) -> AbstractContextManager[None]:
        run.ledger().extend(11)
        return lock(run)

    begin(tmp_path / "a")
    monkeypatch.setattr(Run, "lock", later)
    assert begin(tmp_path / "a", "search.trials=8").ledger().planned == 11


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("test_opened.json", {"openings": [{"at": "2026-01-02", "request": {"trial": 0}}]}),
        ("evaluation.json", {"trial": 1, "test_opened": {"at": "2026-01-02", "times": 1}}),
    ],
)
def test_more_trials_after_the_test_split_was_opened_would_open_it_again(tmp_path: Path, name: str, said: Any) -> None:
    """Also where the evaluation was killed, or is an older pkdray's."""
    run = begin(tmp_path / "a")
    (run.path / name).write_text(json.dumps(said))
    with pytest.raises(RunError, match="7 trials are asked for, but a has been evaluated with 5"):
        begin(tmp_path / "a", "search.trials=7")
    assert begin(tmp_path / "a").ledger().planned == 5


SMALL = (
    *("--trials", "3", "--seeds", "2", "--set", "training.epochs=4", "--set", "search.asha=null"),
    *("--set", "teachers.training.epochs=4", "--set", "student.tnet.fit.epochs=3"),
)


def stamps(folder: Path) -> dict[Path, tuple[int, int]]:
    """Inode and time of every file that holds a result: one that is written anew has another inode."""
    fresh = {"live.json", ".lock", "study.db"}
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in fresh]
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.cluster
def test_the_same_command_given_again_keeps_what_is_done_and_mends_what_is_not(
    pkdray: Pkdray, local_ray: None, tmp_path: Path
) -> None:
    before = signal.getsignal(signal.SIGINT)
    first = pkdray("pipeline", "mfeat_pkd", "--name", "p", *SMALL, "--json")
    assert first.code == 0, first.err
    assert signal.getsignal(signal.SIGINT) == before, "Tune's handler would drop the next Ctrl-C"
    made: dict[str, Any] = json.loads(first.out)
    run, student = tmp_path / "runs" / "p", tmp_path / "runs" / "p" / "student"
    assert {path.name for path in student.iterdir()} == set(FILES)
    assert (run / "report.html").exists()
    assert "[2/5] Sweep: 0 of 3 trials are finished, 3 to go." in first.err
    assert "the test split was opened" in first.err
    kept = stamps(tmp_path / "runs")

    again = pkdray("pipeline", "mfeat_pkd", "--name", "p", *SMALL, "--json")
    assert again.code == 0, again.err
    assert json.loads(again.out) == made
    said = [line for line in again.err.splitlines() if line.startswith("[")]
    assert len(said) == 5
    for line, word in zip(said, ("is reused", "kept", "the test split stays closed", "kept", "kept"), strict=True):
        assert word in line
    assert stamps(tmp_path / "runs") == kept

    # Killed between the evaluation and the export, with half of an earlier export that was altered since.
    (student / "model.safetensors").write_bytes(b"altered")
    (run / "report.html").unlink()
    os.utime(run / "evaluation.json")
    mended = pkdray("pipeline", "mfeat_pkd", "--name", "p", *SMALL, "--json")
    assert mended.code == 0, mended.err
    assert "[5/5] Student: trial" in mended.err
    assert "is exported to" in mended.err
    assert (run / "report.html").exists()
    assert json.loads((student / "metrics.json").read_text())["test"] == made["evaluation"]["student"]["test"]
    assert json.loads(mended.out)["evaluation"]["test_opened"]["times"] == 1

    other = pkdray("pipeline", "mfeat_pkd", "--name", "p", *SMALL, "--seeds", "3")
    assert other.code == 2
    assert "The test split of p was opened on" in other.err
