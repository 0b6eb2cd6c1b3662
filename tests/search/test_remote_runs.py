"""Runs on remote storage: one driver at a time, nothing finished is lost with a machine, no disk is shared by nodes."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from optuna.distributions import FloatDistribution
from optuna.samplers import RandomSampler
from optuna.trial import Trial
from patience import PATIENCE_SECONDS, until
from processes import frozen, own_environment
from s3 import Server

from pkdray import mirrors
from pkdray.config import Config
from pkdray.data.dataset import Dataset
from pkdray.errors import RunError
from pkdray.mirrors import LEASE_FILE, lease_holder
from pkdray.search import holding
from pkdray.search.adopting import PROPOSAL, adopt, take_up, write_proposal
from pkdray.search.folders import STUDY_FILE, fetch_run, find_folder, holder, run_folders
from pkdray.search.ledger import Ledger, proposal
from pkdray.search.results import write_best
from pkdray.search.run import POOLS, Run, fixed_values, new_run_path, sampler_for
from pkdray.search.space import suggest
from pkdray.search.trial import BEST, CURVES, RESULT, run_trial
from pkdray.training.bundles import MODEL, read_bundle
from pkdray.training.folders import Checkpoints
from pkdray.training.loop import LAST
from pkdray.training.plan import Plan

Move = Callable[[str], None]
TRIALS = 8


@pytest.fixture
def place(s3_server: Server, machine: Move) -> Callable[[], Path]:
    """The folder of the run on the machine that is looked from."""
    return lambda: mirrors.open_root(s3_server.uri("runs", "k"))


# --- a run's folder ---


@pytest.fixture
def made(place: Callable[[], Path], study: Callable[..., Plan]) -> Run:
    """A new run on machine a, held once, so that it is in the storage."""
    run = Run.create(place(), study({"search.trials": 4}), ["pkdray", "sweep"])
    with run.lock():
        assert holder(run.path)
    assert holder(run.path) is None
    return run


def started(ledger: Ledger) -> Trial:
    trial = ledger.ask(lambda _number: RandomSampler())
    trial.suggest_float("training.learning_rate", 1e-4, 3e-2, log=True)
    return trial


def told(ledger: Ledger, value: float) -> int:
    trial = started(ledger)
    ledger.complete(trial.number, value, {"epochs": 3})
    return trial.number


def test_what_a_killed_driver_left_of_a_push_goes(made: Run) -> None:
    left = made.path / ".snapshot-x1y2"
    left.mkdir()
    (left / STUDY_FILE).write_bytes(b"half a copy")
    with made.lock():
        assert not left.exists()
    assert made.ledger().planned == 4


def test_a_run_is_found_from_another_machine(made: Run, machine: Move, s3_server: Server, tmp_path: Path) -> None:
    told(made.ledger(), 0.5)
    with made.lock():
        pass
    machine("b")
    runs = mirrors.open_root(s3_server.uri("runs"))
    assert find_folder("k", runs) == find_folder(s3_server.uri("runs", "k"), tmp_path) == runs / "k"
    assert [folder.name for folder in run_folders(runs)] == ["k"]
    assert Run(runs / "k").config == made.config
    assert Run(runs / "k").ledger().counts().complete == 1
    assert new_run_path(runs, "k").name == "k-2"
    with pytest.raises(RunError, match=f"The run {s3_server.uri('runs', 'k')} exists"):
        Run.check_free(runs / "k", made.plan(made.dataset()))
    with pytest.raises(RunError, match="There is no run 'nope'") as missing:
        find_folder("nope", runs)
    assert f"Runs in {s3_server.uri('runs')}: k." in str(missing.value)
    names = set(s3_server.names("runs/"))
    assert names == {"runs/k/run.yaml", "runs/k/study.db"}, "locks, leases and journals stay where they are"


def test_the_ledger_that_is_further_on_is_the_one_that_counts(made: Run, machine: Move, place: Any) -> None:
    # Told, and killed before it was pushed: only this machine knows.
    told(made.ledger(), 0.5)
    fetch_run(made.path)
    assert made.ledger().counts().complete == 1, "the storage's copy is an older state of this very ledger"
    machine("b")
    fetch_run(place())
    there = Run(place())
    with there.lock():
        told(there.ledger(), 0.7)
    machine("a")
    (made.path / f"{STUDY_FILE}-journal").write_bytes(b"left by a killed process")
    fetch_run(made.path)
    best = made.ledger().best()
    assert best is not None
    assert best.value == 0.7, "another machine has gone on with it"
    assert not (made.path / f"{STUDY_FILE}-journal").exists()


def test_what_the_driver_writes_reaches_the_storage_while_it_works(
    made: Run, machine: Move, place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "LIVE_SECONDS", 0.0)
    monkeypatch.setattr(holding, "LEDGER_SECONDS", 0.0)
    copy = made.path.parent / "copy.db"

    def finished() -> int:
        copy.write_bytes(mirrors.read(made.path / STUDY_FILE) or b"")
        with closing(sqlite3.connect(copy)) as study:
            assert study.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            return int(study.execute("SELECT count(*) FROM trials WHERE state = 'COMPLETE'").fetchone()[0])

    with made.lock():
        ledger = made.ledger()
        for count in (1, 2):
            told(ledger, 0.5)
            until(lambda count=count: finished() == count)  # type: ignore[misc]
        (made.path / "live.json").write_text("{}")
        until(lambda: mirrors.exists(made.path / "live.json"))
        (made.path / "best").mkdir()
        (made.path / "best" / "metrics.json").write_text("{}")
        fetch_run(made.path)
        assert made.ledger().counts().complete == 2, "nobody on this machine overwrites it meanwhile"
    machine("b")
    fetch_run(place())
    assert (place() / "best" / "metrics.json").read_text() == "{}"


def test_a_driver_whose_run_was_taken_over_stops_and_leaves_the_storage_alone(
    made: Run, machine: Move, place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirrors, "REFRESH_SECONDS", 0.1)
    content = json.dumps({"holder": "process 2 on b", "token": "other"}).encode()

    def lose() -> None:
        with made.lock():
            told(made.ledger(), 0.9)
            # Again and again, as a holder does: a refresh may be under way, between its look and its write.
            until(lambda: not mirrors.write(made.path / LEASE_FILE, content))

    with pytest.raises(RunError, match="Another machine took over the run s3://"):
        lose()
    assert mirrors.read(made.path / LEASE_FILE) == content
    machine("b")
    fetch_run(place())
    assert Run(place()).ledger().counts().complete == 0


@pytest.mark.parametrize("how", ["it ends", "it fails"])
def test_a_driver_that_slept_undoes_nothing_of_what_another_did(
    made: Run, machine: Move, place: Any, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """It wakes up at the end of its sweep, before it has looked at its lease again."""
    monkeypatch.setattr(mirrors, "REFRESH_SECONDS", 3600.0)
    driver = made.lock()
    driver.__enter__()
    told(made.ledger(), 0.9)
    machine("b")
    mirrors.delete(place() / LEASE_FILE)
    fetch_run(place())
    with Run(place()).lock():
        told(Run(place()).ledger(), 0.7)
    machine("a")
    with pytest.raises(RunError, match="Another machine took over the run s3://"):
        driver.__exit__(*((KeyError, KeyError(), None) if how == "it fails" else (None, None, None)))
    machine("b")
    fetch_run(place())
    best = Run(place()).ledger().best()
    assert best is not None
    assert best.value == 0.7


def test_what_stops_a_sweep_is_told_after_a_last_push(made: Run, machine: Move, place: Any) -> None:
    def interrupted() -> None:
        with made.lock():
            told(made.ledger(), 0.5)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    machine("b")
    fetch_run(place())
    assert Run(place()).ledger().counts().complete == 1
    assert lease_holder(place()) is None


def test_commands_take_uris(made: Run, machine: Move, pkdray: Any, s3_server: Server, digits: Dataset) -> None:
    machine("b")
    uri = s3_server.uri("runs")
    (row,) = json.loads(pkdray("runs", "--runs-dir", uri, "--json").out)
    assert (row["run"], row["state"], row["planned"]) == ("k", "interrupted", 4)
    for named in (("k", "--runs-dir", uri), (f"{uri}/k",)):
        shown = pkdray("show", *named)
        assert shown.code == 0, shown.err
        assert f"pkdray resume {uri}/k" in shown.out, "as a person would type it"
    missing = pkdray("show", f"{uri}/nope")
    assert missing.code == 2
    assert f"Runs in {uri}: k." in missing.err
    assert pkdray("watch", f"{uri}/k", "--once").code == 2, "no sweep has begun there"

    upload(s3_server, digits.path, "data/digits")
    inspected = json.loads(pkdray("data", "inspect", s3_server.uri("data", "digits"), "--json").out)
    assert inspected["path"] == s3_server.uri("data", "digits")
    assert inspected["fingerprint"] == digits.fingerprint

    fetched = json.loads(pkdray("fetch", f"{uri}/k", "-o", "here", "--json").out)
    assert fetched["files"] == ["run.yaml", "study.db"]
    assert (Path("here") / "run.yaml").read_text() == (made.path / "run.yaml").read_text()
    assert pkdray("fetch", "plain/folder", "-o", "there").code == 2
    secret = pkdray("runs", "--runs-dir", "s3://key:s3cret@bucket/runs")
    assert secret.code == 2
    assert "s3cret" not in secret.out + secret.err


# --- trials whose results are there, and whose rows are not ---


def kept_now(parameters: dict[str, Any]) -> dict[str, Any]:
    return {"parameters": parameters, "retry_of": None}


@pytest.mark.parametrize("wrapped", [kept_now, dict], ids=["now", "before retries were kept"])
def test_results_that_the_ledger_does_not_know_are_proposed_again_as_they_were(
    made: Run, wrapped: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    ledger = made.ledger()
    told(ledger, 0.5)
    for number, rate in ((0, 1e-3), (2, 2e-3), (3, 3e-3)):
        folder = made.trial(number)
        write_proposal(folder, wrapped({"training.learning_rate": rate}))
        if number != 3:
            (folder / RESULT).write_text("{}")
        mirrors.push(folder)
    assert adopt(made.path, ledger) == [2]
    space = FloatDistribution(1e-4, 3e-2, log=True)
    drawn = {}
    for _ in range(3):
        trial = ledger.ask(lambda number: RandomSampler(seed=number))
        drawn[trial.number] = trial.suggest_float("training.learning_rate", space.low, space.high, log=True)
    assert sorted(drawn) == [1, 2, 3]
    assert drawn[2] == 2e-3
    assert drawn[3] != 3e-3, "one that was not finished is proposed anew"
    assert ledger.trials()[0].params["training.learning_rate"] != 1e-3, "what is finished stays"


def test_a_retried_trial_that_is_proposed_again_stays_a_retry(made: Run, tmp_path: Path) -> None:
    ledger = made.ledger()
    ledger.fail(started(ledger).number, "out of memory")
    shutil.copy(ledger.path, tmp_path / "older.db")
    assert ledger.retry_failed() == 1
    trial = started(ledger)
    write_proposal(made.trial(trial.number), proposal(trial))
    (made.trial(trial.number) / RESULT).write_text("{}")
    mirrors.push(made.trial(trial.number))

    older = Ledger(tmp_path / "older.db")
    assert adopt(made.path, older) == [1]
    again = started(older)
    assert (again.number, again.params) == (1, trial.params)
    older.complete(again.number, 0.5, {"epochs": 3})
    counts = older.counts()
    assert (counts.failed, counts.complete, counts.open) == (0, 1, 3), (
        "the failed trial was repeated, and counts no more"
    )


def test_a_proposal_is_kept_with_remote_trials_alone(tmp_path: Path, place: Callable[[], Path]) -> None:
    write_proposal(tmp_path / "0", {"a": 1})
    assert not (tmp_path / "0").exists()
    write_proposal(place() / "0", {"a": 1})
    assert json.loads((place() / "0" / PROPOSAL).read_text()) == {"a": 1}
    assert json.loads(mirrors.read(place() / "0" / PROPOSAL) or b"") == {"a": 1}, "its workers may be on another node"


def test_a_run_is_taken_up_with_all_that_a_killed_driver_left(made: Run) -> None:
    ledger = made.ledger()
    trial = started(ledger)
    write_proposal(made.trial(1), kept_now({"training.learning_rate": 2e-3}))
    (made.trial(1) / RESULT).write_text("{}")
    mirrors.push(made.trial(1))
    take_up(made.path, ledger)
    assert [row.state.name for row in ledger.trials()] == ["WAITING", "WAITING"]
    assert started(ledger).params == trial.params
    assert started(ledger).params == {"training.learning_rate": 2e-3}


# --- the best student ---


def test_best_is_never_a_mixture_wherever_it_is_looked_at(
    made: Run, place: Any, machine: Move, study: Any, digits: Dataset, pools: Path
) -> None:
    from pkdray.search.sweep import study_arrays
    from pkdray.training.pools import Pool

    plan = study({"training.epochs": 2})
    arrays = study_arrays(plan, digits, Pool.at(pools, plan))

    def better(value: float) -> None:
        with made.lock():
            ledger = made.ledger()
            trial = ledger.ask(sampler_for(made.config))
            overrides = suggest(made.config.search.space, trial, fixed_values(made.config))
            ledger.complete(trial.number, value, run_trial(plan, overrides, arrays, made.trial(trial.number)))
            write_best(made, plan, digits, trial.number)
            if trial.number == 0:
                (made.best / "predictions.test.parquet").write_text("an evaluation's, of trial 0")

    better(0.5)
    better(0.7)
    names = {path.name for path in made.best.iterdir()}
    fetch_run(made.path)
    assert {path.name for path in made.best.iterdir()} == names
    machine("b")
    fetch_run(place())
    there = Run(place())
    assert {path.name for path in there.best.iterdir()} == names
    assert read_bundle(there.best)[0].made_from["trial"] == 1
    # A driver that was killed while it brought it away.
    mirrors.delete(there.best / MODEL)
    fetch_run(there.path)
    assert not (there.best / MODEL).exists()
    with there.lock():
        write_best(there, plan, digits, 1)
    assert read_bundle(there.best)[0].made_from["trial"] == 1


# --- a trial that goes on elsewhere ---


class KilledError(Exception):
    """The node of a trial is lost."""


def test_a_trial_goes_on_from_its_checkpoint_on_another_machine(
    place: Any, machine: Move, study: Any, digits: Dataset, pools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pkdray.search.sweep import study_arrays
    from pkdray.training.pools import Pool

    plan = study()
    arrays = study_arrays(plan, digits, Pool.at(pools, plan))
    whole = run_trial(plan, {}, arrays, tmp_path / "whole")
    # Every checkpoint is brought away, however long that takes.
    monkeypatch.setattr(mirrors, "Seldom", lambda _seconds: lambda action: action())
    epochs: list[int] = []

    def until_epoch_5(entry: dict[str, Any]) -> None:
        if entry["epoch"] == 5:
            raise KilledError

    with pytest.raises(KilledError):
        run_trial(plan, {}, arrays, place() / "trials" / "0", report=until_epoch_5)
    machine("b")
    folder = place() / "trials" / "0"
    found = run_trial(plan, {}, arrays, folder, report=lambda entry: epochs.append(int(entry["epoch"])))
    assert epochs == [5, 6, 7, 8], "from the checkpoint of epoch 4"
    assert {**found, "seconds": 0} == {**whole, "seconds": 0}
    assert sorted(mirrors.listing(folder)) == [BEST, "config.yaml", CURVES, RESULT], "and no checkpoint any more"
    machine("c")
    again = run_trial(plan, {}, arrays, place() / "trials" / "0", report=lambda _: pytest.fail("it is trained again"))
    assert again == found


def test_a_checkpoint_that_cannot_be_brought_away_does_not_end_its_training(
    place: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pkdray.training.folders.CHECKPOINT_SECONDS", 0.0)
    path = mirrors.open_root("s3://no-such-bucket/runs") / LAST
    path.parent.mkdir(parents=True)
    path.write_text("checkpoint")
    Checkpoints().saved(path)
    assert "stays on its node for now" in caplog.text


# --- whole sweeps ---


class Machine:
    """A machine with mirrors of its own, on which ``pkdray`` is run."""

    def __init__(self, home: Path, name: str, **environment: str) -> None:
        self.home, self.mirrors = home, home / f"machine-{name}"
        self._environment = environment

    def environment(self) -> dict[str, str]:
        own = {"RAY_OVERRIDE_RESOURCES": '{"CPU": 2}', "PKDRAY_MIRRORS": str(self.mirrors)}
        return {**own_environment(), **own, **self._environment}

    def started(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "pkdray", *arguments],
            cwd=self.home,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def pkdray(self, *arguments: str) -> str:
        process = self.started(*arguments)
        try:
            out, err = process.communicate(timeout=PATIENCE_SECONDS)
        finally:
            process.kill()
        assert process.returncode == 0, f"{arguments}: {out[-2000:]}{err[-4000:]}"
        return out


def upload(server: Server, folder: Path, prefix: str) -> None:
    """As a user does it with any tool."""
    for path in folder.rglob("*"):
        if path.is_file():
            server.client().upload_file(str(path), server.bucket, f"{prefix}/{path.relative_to(folder)}")


def space_file(folder: Path, config: Config) -> None:
    (folder / "space.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json", by_alias=True)))


def pushed_finished(server: Server, copy: Path) -> set[int]:
    """The trials that are finished in the storage's copy of the ledger."""
    if "runs/k/study.db" not in server.names("runs/k/study.db"):
        return set()
    server.client().download_file(server.bucket, "runs/k/study.db", str(copy))
    with closing(sqlite3.connect(copy)) as study:
        rows = study.execute("SELECT number FROM trials WHERE state IN ('COMPLETE', 'PRUNED', 'FAIL')").fetchall()
    return {int(number) for (number,) in rows}


def results(server: Server) -> set[int]:
    return {int(key.split("/")[3]) for key in server.names("runs/k/trials/") if key.endswith(RESULT)}


def trainings(server: Server) -> dict[int, int]:
    """Trial -> how often a result of it was ever written: the bucket keeps every version."""
    found: dict[int, int] = {}
    for page in server.client().get_paginator("list_object_versions").paginate(Bucket=server.bucket):
        for version in page.get("Versions", []):
            if version["Key"].startswith("runs/k/trials/") and version["Key"].endswith(f"/{RESULT}"):
                number = int(version["Key"].split("/")[3])
                found[number] = found.get(number, 0) + 1
    return found


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.cluster
def test_a_driver_killed_on_one_machine_is_resumed_on_another(
    s3_server: Server, tmp_path: Path, config: Callable[..., Config], pools: Path
) -> None:
    s3_server.client().put_bucket_versioning(Bucket=s3_server.bucket, VersioningConfiguration={"Status": "Enabled"})
    upload(s3_server, pools, f"runs/{POOLS}")
    long = {"training.epochs": 100, "training.patience": 100, "training.checkpoint_every": 5}
    space_file(tmp_path, config({**long, "search.trials": TRIALS, "search.asha": None}))
    uri = s3_server.uri("runs")
    first = Machine(tmp_path, "a").started("sweep", "space.yaml", "--runs-dir", uri, "--name", "k")
    copy = tmp_path / "copy.db"

    def ahead() -> set[int]:
        return results(s3_server) - pushed_finished(s3_server, copy)

    try:
        # Some trials are finished whose rows have not reached the storage yet.
        with frozen(lambda: len(results(s3_server)) >= 3 and bool(ahead()), first):
            first.kill()
    finally:
        first.kill()
    assert first.wait() == -signal.SIGKILL
    first.communicate()
    known, there = pushed_finished(s3_server, copy), results(s3_server)
    assert there - known, "results that the ledger does not know of"
    assert len(there) < TRIALS

    # Only the storage is left.
    shutil.rmtree(tmp_path / "machine-a")
    second = Machine(tmp_path, "b")
    watched = json.loads(second.pkdray("watch", f"{uri}/k", "--once", "--json"))
    assert watched["state"] == "running"
    assert watched["counts"]["planned"] == TRIALS
    resumed = json.loads(second.pkdray("resume", f"{uri}/k", "--json"))
    assert (resumed["state"], resumed["finished"], resumed["failed"]) == ("finished", TRIALS, 0)

    assert trainings(s3_server) == dict.fromkeys(range(TRIALS), 1), "every trial was trained exactly once"
    ledger = Ledger(second.mirrors / "s3" / s3_server.bucket / "runs" / "k" / STUDY_FILE)
    assert [trial.number for trial in ledger.trials()] == list(range(TRIALS))
    for trial in ledger.trials():
        body = s3_server.client().get_object(Bucket=s3_server.bucket, Key=f"runs/k/trials/{trial.number}/{RESULT}")
        assert json.loads(body["Body"].read())["value"] == trial.value
    assert pushed_finished(s3_server, copy) == set(range(TRIALS))
    shown = json.loads(Machine(tmp_path, "c").pkdray("show", "k", "--runs-dir", uri, "--json"))
    assert (shown["state"], shown["best"]) == ("finished", resumed["best"])


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.cluster
def test_nodes_that_share_no_disk_teach_sweep_and_evaluate(
    s3_server: Server, tmp_path: Path, config: Callable[..., Config], digits: Dataset
) -> None:
    from ray.cluster_utils import Cluster

    upload(s3_server, digits.path, "data/digits")
    space_file(
        tmp_path,
        config(
            {
                "dataset.path": s3_server.uri("data", "digits"),
                "search.trials": 4,
                "search.asha": None,
                "resources.workers_per_teacher": 2,
                "teachers.pool": [{"name": "joint"}],
                "search.space": {"training.learning_rate": {"float": [1e-4, 3e-2], "log": True}},
                "method": {"name": "pkd"},
            }
        ),
    )
    uri = s3_server.uri("runs")
    # The head computes nothing, so that what is trained is trained where the driver sees no file of it.
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    homes = {}
    try:
        for name in ("b", "c"):
            homes[name] = Machine(tmp_path, name).mirrors
            cluster.add_node(num_cpus=1, env_vars={**s3_server.environment(), "PKDRAY_MIRRORS": str(homes[name])})
        driver = Machine(tmp_path, "a", RAY_ADDRESS=cluster.address)
        swept = json.loads(driver.pkdray("sweep", "space.yaml", "--runs-dir", uri, "--name", "k", "--json"))
        assert (swept["state"], swept["complete"]) == ("finished", 4)
        evaluation = json.loads(driver.pkdray("evaluate", f"{uri}/k", "--seeds", "1", "--json"))
        assert evaluation["methods"]["student"]["mean"] is not None
        pair = ("--set", "resources.workers_per_trial=2", "--trials", "1")
        both = json.loads(driver.pkdray("sweep", "space.yaml", "--runs-dir", uri, "--name", "pair", *pair, "--json"))
        assert (both["state"], both["complete"]) == ("finished", 1)
    finally:
        cluster.shutdown()
    run = Path("s3") / s3_server.bucket / "runs" / "k" / "trials"
    where = {name: {path.name for path in (home / run).glob("*")} for name, home in homes.items()}
    assert where["b"] | where["c"] == {"0", "1", "2", "3"}
    assert where["b"], "both nodes have trained"
    assert where["c"]
    assert not where["b"] & where["c"]
    assert results(s3_server) == {0, 1, 2, 3}
    assert [name for name in s3_server.names("runs/") if "/.train/" in name] == []
    assert [name for name in s3_server.names("runs/k/evaluation/") if name.endswith((BEST, LAST))] == []
    exported = Machine(tmp_path, "d").pkdray("export", f"{uri}/k", "-o", s3_server.uri("students", "k"))
    assert s3_server.uri("students", "k") in exported
    Machine(tmp_path, "e").pkdray("fetch", s3_server.uri("students", "k"), "-o", "student")
    assert (tmp_path / "student" / "model.onnx").stat().st_size > 0
