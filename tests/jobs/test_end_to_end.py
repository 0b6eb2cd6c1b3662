"""Jobs on a real cluster: a Ray head with dashboard and token auth on loopback, runs on an S3 server, a kill, a second
try, the student fetched, a stop."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from patience import PATIENCE_SECONDS, until
from ports import free_ports
from processes import finished_trials, frozen, own_environment
from s3 import Server

import pkdray
from pkdray.data.dataset import open_dataset
from pkdray.search.folders import holder
from pkdray.search.ledger import Ledger
from pkdray.training.bundles import read_bundle

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.cluster]

ROOT = Path(pkdray.__file__).parent.parent
TRIALS = 12
STUDY: dict[str, Any] = {
    "seed": 3,
    "dataset": {"path": "mfeat", "prevalent": ["fou"], "privileged": ["mor", "zer"]},
    "teachers": {
        "pool": [{"name": "joint"}],
        "encoder": {"hidden": [13]},
        "embedding": 11,
        "training": {"epochs": 4, "batch_size": 97, "learning_rate": 0.01},
        "adapters": {"enabled": False},
    },
    "student": {"encoder": {"hidden": [12]}, "tnet": {"training": "none"}},
    "method": {"name": "pkd"},
    "training": {"epochs": 30, "patience": 30, "batch_size": 97, "checkpoint_every": 5},
    "search": {
        "trials": TRIALS,
        "asha": None,
        "space": {"training.learning_rate": {"float": [1e-3, 3e-2], "log": True}},
    },
}


def in_session(leader: int) -> list[int]:
    """The living processes of a session, so that no other cluster's are touched."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if os.getsid(int(entry.name)) == leader:
                found.append(int(entry.name))
    return found


@dataclass(frozen=True)
class Cluster:
    """A running head, and the command line in a shell that knows its address and token."""

    address: str
    environment: dict[str, str]
    folder: Path
    storage: Server

    def run(self, name: str) -> Path:
        """A run's mirror on the machine of the driver, which is this one."""
        return self.folder / "mirrors" / "s3" / self.storage.bucket / "runs" / name

    def call(self, *arguments: str, **variables: str | None) -> subprocess.CompletedProcess[str]:
        kept = {**self.environment, **variables}
        return subprocess.run(
            [sys.executable, "-m", "pkdray", *arguments],
            cwd=ROOT,
            env={name: value for name, value in kept.items() if value is not None},
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_SECONDS,
        )

    @contextlib.contextmanager
    def started(self, log: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        with log.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "pkdray", *arguments],
                cwd=ROOT,
                env=self.environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                text=True,
            )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def answers(address: str, token: str) -> bool:
    asked = urllib.request.Request(f"{address}/api/version", headers={"Authorization": f"Bearer {token}"})
    with contextlib.suppress(OSError), urllib.request.urlopen(asked, timeout=2):
        return True
    return False


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, _s3: Server) -> Iterator[Cluster]:
    folder, token = tmp_path_factory.mktemp("cluster"), secrets.token_hex(16)
    # Short: Ray puts sockets below it, whose paths may have 107 characters.
    temporary = Path(tempfile.mkdtemp(prefix="pkdray-head-", dir="/tmp"))
    names = ("--port", "--dashboard-port", "--ray-client-server-port", "--dashboard-agent-listen-port")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    plain = own_environment(without=("RAY_", "TUNE_", "PKDRAY_"))
    plain |= {**_s3.environment(), "PKDRAY_MIRRORS": str(folder / "mirrors")}
    plain |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_USAGE_STATS_ENABLED": "0"}
    with (folder / "head.log").open("w") as log:
        head = subprocess.Popen(
            [
                *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus", "2"),
                *("--dashboard-host", "127.0.0.1", "--temp-dir", str(temporary), "--disable-usage-stats"),
                *("--object-store-memory", "200000000"),
                *(word for name, port in ports.items() for word in (name, str(port))),
            ],
            cwd=folder,
            # The cluster's own environment is where its secrets are.
            env={**plain, "HUSH": "hush-hush-hush"},
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{ports['--dashboard-port']}"
    try:
        until(lambda: answers(address, token), head, folder / "head.log")
        yield Cluster(address, {**plain, "RAY_API_SERVER_ADDRESS": address}, folder, _s3)
    finally:
        for process in in_session(head.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        head.wait()
        shutil.rmtree(temporary, ignore_errors=True)


@pytest.fixture(scope="module")
def job(cluster: Cluster) -> Path:
    """The pipeline job on a small study beside it, in a folder outside of the checkout."""
    (cluster.folder / "small.yaml").write_text(yaml.safe_dump(STUDY))
    file = cluster.folder / "whole.yaml"
    about = {
        "step": "pipeline",
        "space": "small.yaml",
        "run": "digits",
        "storage": cluster.storage.uri("runs"),
        "seeds": 2,
        "python": sys.executable,
        "secrets": ["HUSH"],
    }
    file.write_text(yaml.safe_dump(about))
    return file


def test_a_pipeline_whose_driver_is_killed_is_submitted_again_and_ends_whole(cluster: Cluster, job: Path) -> None:
    run, log = cluster.run("digits"), cluster.folder / "first.log"
    with cluster.started(log, "submit", str(job)) as process:
        driver = int(until(lambda: holder(run), process, log).split()[1])
        with frozen(lambda: finished_trials(run) >= 2, process, log, pid=driver):
            os.kill(driver, signal.SIGKILL)
        assert process.wait(timeout=PATIENCE_SECONDS) == 1, "the exit code of --wait is the job's failure"
    before = {trial.number: trial for trial in Ledger(run / "study.db").trials() if trial.state.is_finished()}
    assert 2 <= len(before) < TRIALS, "it was killed amid its trials"
    first = log.read_text()
    assert "[1/5] Teachers: joint 0." in first
    assert f"[2/5] Sweep: 0 of {TRIALS} trials are finished, {TRIALS} to go." in first
    assert "failed after" in first
    assert "its driver was killed (SIGKILL)" in first

    status = cluster.call("jobs", "status", "whole")
    assert status.returncode == 0, status.stderr
    assert "its driver was killed (SIGKILL): by hand, for want of memory, or with its node." in status.stdout
    assert "Its last lines:" in status.stdout
    assert f"pkdray submit {job}    # goes on where it was" in status.stdout
    about = json.loads(cluster.call("jobs", "status", "whole", "--json").stdout)
    assert (about["status"], about["exit_code"], about["run"]) == ("FAILED", -9, "digits")

    again = cluster.call("submit", str(job))
    assert again.returncode == 0, again.stdout + again.stderr
    assert "[1/5] Teachers: the pool mfeat-" in again.stdout
    assert "is reused." in again.stdout
    assert f"[2/5] Sweep: {len(before)} of {TRIALS} trials are finished, {TRIALS - len(before)} to go." in again.stdout
    assert "[3/5] Evaluation: 2 seeds a method: the test split was opened." in again.stdout
    assert "has succeeded after" in again.stdout
    assert f"pkdray fetch {cluster.storage.uri('runs')}/digits -o digits    # report.html" in again.stdout
    rows = Ledger(run / "study.db").trials()
    assert [trial.number for trial in rows] == list(range(TRIALS)), "every trial exactly once"
    assert {trial.state.name for trial in rows} == {"COMPLETE"}
    for number, trial in before.items():
        assert (rows[number].datetime_complete, rows[number].value) == (trial.datetime_complete, trial.value)
    assert {"runs/digits/report.html", "runs/digits/student/model.onnx"} <= set(cluster.storage.names("runs/digits"))
    newest, older = json.loads(cluster.call("jobs", "list", "--json").stdout)[:2]
    assert (newest["status"], older["status"]) == ("SUCCEEDED", "FAILED")
    assert newest["job"] != older["job"]
    assert "hush-hush" not in cluster.call("jobs", "logs", newest["job"]).stdout

    uri, home = f"{cluster.storage.uri('runs')}/digits/student", cluster.folder / "taken home"
    assert f"pkdray fetch {uri} -o student" in cluster.call("jobs", "status", newest["job"]).stdout
    fetched = cluster.call("fetch", uri, "-o", str(home), PKDRAY_MIRRORS=str(cluster.folder / "of another machine"))
    assert fetched.returncode == 0, fetched.stderr
    cluster.storage.empty()
    shutil.rmtree(cluster.folder / "mirrors")
    student = pkdray.load_student(home)
    digits = open_dataset("mfeat")
    rows_of_test = digits.rows("test")
    answered = student.predict_array(digits.features("fou")[rows_of_test]).argmax(axis=1)
    _, _, metrics = read_bundle(home)
    right = np.mean(answered == digits.targets()[rows_of_test])
    assert right == pytest.approx(metrics["test"]["accuracy"])


def test_a_job_without_its_secret_ends_at_once_and_says_which(cluster: Cluster, job: Path) -> None:
    ended = cluster.call("submit", str(job), "--set", "secrets=[HUSH, NOT_THERE]", "--set", "name=hushed")
    assert ended.returncode == 1, ended.stderr
    assert "The job's secret is not in the environment of its driver: NOT_THERE." in ended.stdout
    assert "its last lines say what to mend" in ended.stdout


def test_a_job_that_is_stopped_saves_and_says_so(cluster: Cluster, job: Path) -> None:
    changed = (
        "name=long",
        "run=long",
        "set.teachers.training.epochs=1000000",
        "set.teachers.training.patience=1000000",
    )
    sent = cluster.call(
        "submit", str(job), "--no-wait", "--json", *(word for one in changed for word in ("--set", one))
    )
    identity = json.loads(sent.stdout)["job"]
    until(lambda: "training joint" in cluster.call("jobs", "logs", identity).stdout)
    stopped = cluster.call("jobs", "stop", identity)
    assert stopped.returncode == 0, stopped.stderr
    assert f"The job {identity} was stopped" in stopped.stdout
    assert "goes on where it was" in stopped.stdout
    assert "Go on with the same command." in cluster.call("jobs", "logs", identity).stdout
    assert holder(cluster.run("long")) is None


def test_what_a_cluster_refuses_is_told_apart(cluster: Cluster) -> None:
    unasked = cluster.call("jobs", "list", RAY_AUTH_MODE=None)
    wrong = cluster.call("jobs", "list", RAY_AUTH_TOKEN="wrong-wrong-wrong")
    unknown = cluster.call("jobs", "logs", "no-such-job")
    assert [said.returncode for said in (unasked, wrong, unknown)] == [2, 2, 2]
    assert "asks for a token (HTTP 401), and RAY_AUTH_MODE is not set." in unasked.stderr
    assert "refuses the token (HTTP 403)." in wrong.stderr
    assert "wrong-wrong-wrong" not in wrong.stdout + wrong.stderr
    assert f"The cluster at {cluster.address} has no job 'no-such-job'." in unknown.stderr
