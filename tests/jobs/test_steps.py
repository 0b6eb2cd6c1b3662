"""What the command line says of jobs, with a stand-in for the cluster."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import Said

from pkdray.errors import JobError
from pkdray.steps.jobs import verdict

Pkdray = Callable[..., Said]
STUDY = "dataset: {path: mfeat, prevalent: [fou]}\nsearch: {trials: 3, space: {method.alpha: {float: [0.1, 0.9]}}}\n"
JOB = "step: pipeline\nspace: studies/mine.yaml\nrun: a\nstorage: s3://bucket/runs\n"


class Stub:
    """A cluster that takes one job, prints two lines and ends as it is told to."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}
        self.package: set[str] = set()
        self.status, self.message = "SUCCEEDED", ""
        self.exit_code: int | None = 0
        self.url, self.pressed = "http://head:8265", False

    def submit(self, asked: dict[str, Any]) -> str:
        self.asked = asked
        package = asked["runtime_env"].get("working_dir")
        if package:
            with zipfile.ZipFile(package) as archive:
                self.package = set(archive.namelist())
        return str(asked["submission_id"])

    def about(self, job: str) -> dict[str, Any]:
        metadata = self.asked.get("metadata", {})
        return {
            "job": job, "name": metadata.get("name"), "step": metadata.get("pkdray"), "run": metadata.get("run"),
            "storage": metadata.get("storage"), "student": metadata.get("student"), "again": metadata.get("again"),
            "resume": metadata.get("resume"),
            "status": self.status, "message": self.message,
            "exit_code": self.exit_code, "stop_seconds": 60, "started": 100.0, "ended": 161.0,
        }  # fmt: skip

    def find(self, name: str) -> dict[str, Any]:
        return self.about(name)

    def all(self) -> list[dict[str, Any]]:
        return [self.about("whole-1")] if self.asked else []

    def logs(self, job: str) -> str:
        return "one\ntwo\n"

    def follow(self, job: str, write: Callable[[str], object]) -> dict[str, Any]:
        write("one\n")
        if self.pressed:
            raise KeyboardInterrupt
        write("two\n")
        return self.about(job)

    def stop(self, job: str) -> bool:
        self.status = "STOPPED"
        return True

    def wait(self, job: str, seconds: float) -> dict[str, Any]:
        return self.about(job)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Stub:
    stub = Stub()
    monkeypatch.setattr("pkdray.jobs.client.Jobs", lambda url: stub)
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "whole.yaml").write_text(JOB)
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "mine.yaml").write_text(STUDY)
    return stub


def test_a_job_is_submitted_followed_and_its_end_is_the_exit_code(pkdray: Pkdray, cluster: Stub) -> None:
    said = pkdray("submit", "jobs/whole.yaml", "--set", "trials=5")
    assert (said.code, said.out.splitlines()[:2]) == (0, ["one", "two"])
    assert "has succeeded after 1:01." in said.out
    assert cluster.package == {"studies/mine.yaml"}
    assert "pipeline studies/mine.yaml --name a --trials 5 --runs-dir s3://bucket/runs" in cluster.asked["entrypoint"]
    assert "with 1 file (0.0 MB)" in said.err
    cluster.status, cluster.exit_code = "FAILED", 2
    failed = pkdray("submit", "jobs/whole.yaml", "--set", "trials=5", "--address", "head:8265")
    assert failed.code == 1
    assert "pkdray submit jobs/whole.yaml --set trials=5 --address head:8265    # goes on where it was" in failed.out


def test_a_study_is_found_from_here_or_from_the_jobs_folder_or_ready(
    pkdray: Pkdray, cluster: Stub, tmp_path: Path
) -> None:
    (tmp_path / "jobs" / "beside.yaml").write_text(STUDY)
    for space, study in (
        ("studies/mine.yaml", "studies/mine.yaml"),
        ("beside.yaml", "studies/beside.yaml"),
        ("../studies/mine.yaml", "studies/mine.yaml"),
        ("mfeat_pkd", None),
    ):
        cluster.package = set()
        assert pkdray("submit", "jobs/whole.yaml", "--set", f"space={space}", "--no-wait").code == 0
        assert cluster.package == ({study} if study else set())
        assert f"pipeline {study or space} " in cluster.asked["entrypoint"]


def test_nothing_is_submitted_while_the_job_or_its_study_has_faults(
    pkdray: Pkdray, cluster: Stub, tmp_path: Path
) -> None:
    unknown = pkdray("submit", "jobs/whole.yaml", "--set", "space=mfeat_dmeo")
    assert (unknown.code, "mfeat_demo" in unknown.err) == (2, True)
    bad = pkdray("submit", "jobs/whole.yaml", "--set", "set.training.epoch=3")
    assert (bad.code, "did you mean 'epochs'?" in bad.err) == (2, True)
    nowhere = pkdray("submit", "no_such_job")
    assert (nowhere.code, "Ready to use: evaluate, export, pipeline" in nowhere.err) == (2, True)
    assert cluster.asked == {}


def test_a_dataset_that_only_this_folder_has_is_refused_before_the_job_looks_for_it(
    pkdray: Pkdray, cluster: Stub
) -> None:
    refused = pkdray("submit", "jobs/whole.yaml", "--set", "set.dataset.path=data/mine")
    assert refused.code == 2
    assert "is at 'data/mine', which the cluster would look for in the job's temporary folder" in refused.err
    assert cluster.asked == {}
    for place in ("/shared/mine", "~/mine", "s3://bucket/mine"):
        assert pkdray("submit", "jobs/whole.yaml", "--no-wait", "--set", f"set.dataset.path={place}").code == 0


def test_ctrl_c_leaves_the_job_running_and_says_how_to_look_and_stop(pkdray: Pkdray, cluster: Stub) -> None:
    cluster.pressed = True
    said = pkdray("submit", "jobs/whole.yaml")
    identity = cluster.asked["submission_id"]
    assert said.code == 130
    assert f"The job {identity} goes on without us." in said.err
    assert f"pkdray jobs logs {identity} --follow" in said.err
    assert f"pkdray jobs stop {identity}" in said.err


def test_with_json_standard_output_is_one_document(pkdray: Pkdray, cluster: Stub) -> None:
    waited = pkdray("submit", "jobs/whole.yaml", "--json")
    assert json.loads(waited.out)["status"] == "SUCCEEDED"
    assert "one\ntwo\n" in waited.err
    assert json.loads(pkdray("submit", "jobs/whole.yaml", "--json", "--no-wait").out)["step"] == "pipeline"
    assert json.loads(pkdray("jobs", "list", "--json").out)[0]["job"] == "whole-1"
    assert json.loads(pkdray("jobs", "logs", "x", "--json").out) == {"job": "x", "logs": "one\ntwo\n"}


def test_jobs_are_listed_looked_at_and_stopped(pkdray: Pkdray, cluster: Stub) -> None:
    assert "http://head:8265 has no jobs." in pkdray("jobs", "list").out
    pkdray("submit", "jobs/whole.yaml", "--no-wait")
    assert "whole-1" in pkdray("jobs", "list").out
    assert pkdray("jobs", "logs", "whole-1").out == "one\ntwo\n"
    assert "pkdray fetch s3://bucket/runs/a/student -o student" in pkdray("jobs", "status", "whole-1").out
    stopped = pkdray("jobs", "stop", "whole-1")
    assert "The job whole-1 was stopped after 1:01." in stopped.out
    assert "pkdray submit jobs/whole.yaml    # goes on where it was" in stopped.out
    assert "Its last lines:\n  one\n  two" in pkdray("jobs", "status", "whole-1").out


def test_what_is_to_be_typed_next_is_quoted_for_a_shell(pkdray: Pkdray, cluster: Stub) -> None:
    pkdray("submit", "jobs/whole.yaml", "--no-wait", "--set", "storage=s3://bucket/my runs")
    assert "pkdray fetch 's3://bucket/my runs/a/student' -o student" in pkdray("jobs", "status", "whole-1").out
    pkdray("submit", "sweep", "--no-wait", "--set", "storage=~/my runs")
    cluster.status = "STOPPED"
    said = pkdray("jobs", "status", "sweep")
    assert "pkdray submit resume --set run=digits-sweep --set 'storage=~/my runs'" in said.out, (
        "the home of the cluster's user"
    )
    cluster.exit_code, cluster.status = 2, "FAILED"
    said = pkdray("jobs", "status", "sweep")
    assert "pkdray submit resume --set run=digits-sweep --set 'storage=~/my runs'    # goes on where it was" in said.out
    assert "pkdray submit sweep --set 'storage=~/my runs'    # if it was refused before it began a run" in said.out


def test_a_killed_sweep_is_resumed_and_not_begun_again(pkdray: Pkdray, cluster: Stub) -> None:
    pkdray("submit", "sweep", "--no-wait")
    cluster.status, cluster.exit_code = "FAILED", -9
    said = pkdray("jobs", "status", "sweep")
    assert "pkdray submit resume --set run=digits-sweep --set 'storage=~/pkdray-runs'    # goes on" in said.out
    pkdray("submit", "sweep", "--no-wait", "--set", "env.LEVEL='2'", "--set", "secrets=[MLFLOW_TRACKING_TOKEN]")
    said = pkdray("jobs", "status", "sweep")
    assert """--set 'env.LEVEL="2"' --set 'secrets=["MLFLOW_TRACKING_TOKEN"]'    # goes on""" in said.out


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("runtime_env setup failed: no such file", "pkdray submit sweep\n"),
        ("Job supervisor actor died: its node is dead.", "pkdray submit resume --set run=digits-sweep"),
    ],
)
def test_what_to_type_after_a_sweep_whose_driver_gave_no_exit_code(
    pkdray: Pkdray, cluster: Stub, message: str, expected: str
) -> None:
    pkdray("submit", "sweep", "--no-wait")
    cluster.status, cluster.exit_code, cluster.message = "FAILED", None, message
    said = pkdray("jobs", "status", "sweep").out
    assert expected in said
    assert ("resume" in said) == ("resume" in expected), "there is no run that could be resumed"


@pytest.mark.parametrize(
    ("code", "message", "part"),
    [
        (-9, "", "killed (SIGKILL): by hand, for want of memory, or with its node"),
        (-15, "", "killed (SIGTERM)."),
        (2, "", "its last lines say what to mend"),
        (1, "", "exit code 1; its last lines say more"),
        (None, "runtime_env setup failed: no such file\nTraceback", "(runtime_env setup failed: no such file)"),
        (None, "runtime_env setup failed: no such file\nTraceback", "it never came to run pkdray"),
        (None, "Job supervisor actor could not be scheduled: no such resource", "it never came to run pkdray"),
        (None, "Job supervisor actor died: its node is dead.", "Ray has lost its driver (Job supervisor actor died: "),
        (None, None, "(Ray does not say why)"),
    ],
)
def test_why_a_job_failed(code: int | None, message: str | None, part: str) -> None:
    about = {"job": "j", "status": "FAILED", "exit_code": code, "message": message, "started": None, "ended": None}
    assert part in verdict(about)


def test_too_large_a_folder_is_refused_before_the_cluster_is_asked(
    pkdray: Pkdray, cluster: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "big.bin").open("wb") as file:
        file.truncate(101 * 1024**2)

    def asked(url: str) -> None:
        raise JobError("It was asked.")

    monkeypatch.setattr("pkdray.jobs.client.Jobs", asked)
    said = pkdray("submit", "jobs/whole.yaml", "--set", "working_dir=.")
    assert said.code == 2
    assert "101 MiB would go up with the job" in said.err
    assert "big.bin 101.0 MiB" in said.err
