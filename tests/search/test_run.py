"""A run's folder: made once, found by name, held by one process, and true to its dataset."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from pkdray.config import build_config
from pkdray.data.dataset import open_dataset
from pkdray.errors import DatasetError, FingerprintError, PkdrayError, RunError
from pkdray.search.run import Run, find_run, list_runs, new_run_path, sampler_for
from pkdray.training.plan import Plan, make_plan
from pkdray.training.students import student_identity

Study = Callable[..., Plan]

HOLDER = """
import subprocess, sys
from pathlib import Path
from pkdray.search.run import Run

with Run(Path(sys.argv[1])).lock():
    # A child that outlives its parent, as Ray's processes outlive a killed driver.
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_elsewhere(run: Run) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the run's lock until it ends."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(run.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield holder
    finally:
        holder.kill()
        holder.wait()
        for stream in (holder.stdin, holder.stdout):
            assert stream is not None
            stream.close()


def test_a_run_says_what_it_was_made_from_and_reads_back_as_the_same_study(tmp_path: Path, study: Study) -> None:
    plan = study()
    made = Run.create(tmp_path / "first", plan)
    run = Run(tmp_path / "first")
    assert run.name == "first"
    assert run.config == made.config == plan.config
    assert run.about["dataset_fingerprint"] == plan.dataset_fingerprint
    assert run.about["pool"] == plan.pool_fingerprint
    assert run.about["seed"] == 3
    assert {"pkdray", "torch", "ray", "optuna"} <= run.about["versions"].keys()
    assert run.ledger().planned == 7
    assert run.dataset().fingerprint == plan.dataset_fingerprint
    assert run.plan(run.dataset()) == plan, "a resumed run does what the first start meant"


def test_an_existing_run_is_not_made_again(tmp_path: Path, study: Study) -> None:
    run = Run.create(tmp_path / "first", study())
    ledger = run.ledger()
    ledger.complete(ledger.ask(sampler_for(run.config)).number, 0.5, {})
    with pytest.raises(RunError, match=r"first exists") as caught:
        Run.create(tmp_path / "first", study({"search.trials": 3}))
    assert f"pkdray resume {tmp_path / 'first'}" in str(caught.value)
    assert run.ledger().counts().complete == 1
    assert run.ledger().planned == 7


def test_an_existing_run_of_other_data_is_refused_with_both_fingerprints(
    tmp_path: Path, study: Study, small_dataset, plan
) -> None:
    Run.create(tmp_path / "first", study())
    other = plan(small_dataset())
    with pytest.raises(FingerprintError) as caught:
        Run.create(tmp_path / "first", other)
    assert study().dataset_fingerprint in str(caught.value)
    assert other.dataset_fingerprint in str(caught.value)


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path, study: Study) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    with pytest.raises(RunError, match=r"not empty and is no run \(it holds chapter\.tex\)"):
        Run.create(tmp_path / "thesis", study())
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter.tex"]


def test_a_start_that_was_killed_before_run_yaml_can_be_made_again(tmp_path: Path, study: Study) -> None:
    run = Run.create(tmp_path / "first", study())
    ledger = run.ledger()
    ledger.complete(ledger.ask(sampler_for(run.config)).number, 0.5, {})
    # What SIGKILL may leave behind: the ledger, its journal, half of run.yaml, a lock that nobody holds.
    (run.path / "run.yaml").rename(run.path / ".run.tmp-a1b2c3.yaml")
    (run.path / "study.db-journal").write_bytes(b"half a transaction")
    (run.path / ".lock").touch()
    with pytest.raises(RunError, match="There is no run"):
        Run(run.path)
    again = Run.create(tmp_path / "first", study({"search.trials": 4}))
    assert again.ledger().counts().finished == 0
    assert again.ledger().planned == 4
    assert sorted(path.name for path in run.path.iterdir()) == [".lock", "run.yaml", "study.db"]


def test_a_grid_plans_no_more_trials_than_it_has_points(tmp_path: Path, study: Study) -> None:
    space = {"method.name": {"choice": ["kl", "pkd"]}, "training.epochs": {"int": [2, 4]}}
    grid = {"search.sampler": "grid", "search.space": space}
    whole = Run.create(tmp_path / "whole", study({**grid, "search.trials": 50})).ledger()
    assert whole.planned == whole.counts().open == 6
    part = Run.create(tmp_path / "part", study({**grid, "search.trials": 4})).ledger()
    assert part.planned == part.counts().open == len(part.trials()) == 4


def test_a_second_process_cannot_hold_a_run_and_the_lock_dies_with_its_holder(tmp_path: Path, study: Study) -> None:
    run = Run.create(tmp_path / "first", study())
    assert not run.is_active()
    with held_elsewhere(run) as holder:
        assert run.is_active()
        with pytest.raises(RunError, match=f"in use by process {holder.pid} ") as caught, run.lock():
            pass
        assert "Ctrl-C" in str(caught.value)
        holder.kill()
        holder.wait()
        assert not run.is_active()
        with run.lock():
            assert (run.path / ".lock").read_text().startswith(f"process {os.getpid()} ")
            assert run.is_active()
    assert not run.is_active()


def test_a_step_that_fails_under_the_lock_keeps_its_own_words_and_frees_the_run(tmp_path: Path, study: Study) -> None:
    run = Run.create(tmp_path / "first", study())
    with pytest.raises(PermissionError, match=r"a file of the user's"), run.lock():
        raise PermissionError(13, "a file of the user's")
    assert not run.is_active()


def test_a_run_is_found_by_name_and_by_path(tmp_path: Path, study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    Run.create(tmp_path / "runs" / "first", study())
    assert find_run("first", tmp_path / "runs").path == tmp_path / "runs" / "first"
    assert find_run(str(tmp_path / "runs" / "first"), tmp_path / "elsewhere").name == "first"
    monkeypatch.chdir(tmp_path)
    assert find_run("runs/first", Path("runs")).name == "first"


def test_an_unknown_run_is_answered_with_the_known_ones(tmp_path: Path, study: Study) -> None:
    with pytest.raises(RunError, match="No runs are in"):
        find_run("thrid", tmp_path)
    for name in ("first", "second"):
        Run.create(tmp_path / name, study())
    with pytest.raises(RunError) as caught:
        find_run("thrid", tmp_path)
    assert "'thrid'" in caught.value.what
    assert caught.value.cure is not None
    assert "first, second" in caught.value.cure


DAMAGES = {
    "empty": b"",
    "not YAML": b"name: [",
    "a list": b"- a list",
    "no config": b"name: x",
    "a config of another version": b"config: {name: x, datset: {}}",
    "no text": b"\xff\xfe\x00",
}


def test_a_damaged_run_yaml_is_named_and_hides_no_other_run(tmp_path: Path, study: Study) -> None:
    Run.create(tmp_path / "whole", study())
    broken = Run.create(tmp_path / "broken", study()).path / "run.yaml"
    for damage, content in DAMAGES.items():
        broken.write_bytes(content)
        with pytest.raises(PkdrayError) as caught:
            Run(broken.parent)
        assert str(broken) in str(caught.value), damage
        assert [run.name for run in list_runs(tmp_path)] == ["whole"], damage


def test_a_new_runs_name_is_counted_up(tmp_path: Path, study: Study) -> None:
    for name in ("digits", "digits-2", "digits-3"):
        path = new_run_path(tmp_path, "digits")
        assert path.name == name
        Run.create(path, study())


def test_a_run_whose_dataset_changed_is_refused(tmp_path: Path, digits, config) -> None:
    shutil.copytree(digits.path, tmp_path / "data")
    plan = make_plan(config({"dataset.path": str(tmp_path / "data")}), open_dataset(tmp_path / "data"))
    run = Run.create(tmp_path / "run", plan)
    assert run.dataset().fingerprint == digits.fingerprint
    info = tmp_path / "data" / "dataset.yaml"
    said = yaml.safe_load(info.read_text())
    info.write_text(yaml.safe_dump({**said, "notes": "labels corrected", "fingerprint": ""}))
    with pytest.raises(DatasetError):
        run.dataset()


def test_a_run_whose_dataset_was_replaced_names_both_fingerprints(tmp_path: Path, small_dataset, plan) -> None:
    old, new = small_dataset(seed=0), small_dataset(seed=1)
    run = Run.create(tmp_path / "run", plan(old, {"dataset.path": str(old.path)}))
    shutil.rmtree(old.path)
    shutil.copytree(new.path, old.path)
    with pytest.raises(FingerprintError) as caught:
        run.dataset()
    assert old.fingerprint in str(caught.value)
    assert new.fingerprint in str(caught.value)


def test_run_yaml_can_be_given_to_another_sweep(tmp_path: Path, study: Study) -> None:
    run = Run.create(tmp_path / "first", study())
    said = yaml.safe_load((run.path / "run.yaml").read_text())
    assert build_config(said["config"]) == run.config


def test_a_run_finds_its_dataset_from_another_folder(
    tmp_path: Path, digits, config, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(digits.path, tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    run = Run.create(tmp_path / "run", make_plan(config({"dataset.path": "data"}), open_dataset("data")))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert Run(run.path).dataset().fingerprint == digits.fingerprint


def test_who_is_told_of_a_sweep_changes_no_identity_and_a_record_without_that_still_opens(
    tmp_path: Path, study: Study
) -> None:
    quiet = study()
    told = study({"tracking.tensorboard": True, "tracking.mlflow": {"uri": "sqlite:///m.db"}})
    assert told.pool_fingerprint == quiet.pool_fingerprint
    assert student_identity(told, told.config, 3) == student_identity(quiet, quiet.config, 3)
    run = Run.create(tmp_path / "old", quiet, ["pkdray", "sweep", "digits", "--trials", "7"])
    assert run.about["command"] == ["pkdray", "sweep", "digits", "--trials", "7"]
    # As runs of earlier versions were written.
    path = run.path / "run.yaml"
    data = yaml.safe_load(path.read_text())
    del data["command"], data["config"]["tracking"]
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    old = Run(run.path)
    assert old.config == run.config
    assert old.plan(old.dataset()).pool_fingerprint == quiet.pool_fingerprint
