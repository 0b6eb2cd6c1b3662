"""A job to what Ray is asked: the command line is one that pkdray takes, and no secret's value is in any of it."""

from __future__ import annotations

import shlex
import subprocess
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import typer.main

from pkdray.cli import app
from pkdray.config import parse_assignments
from pkdray.jobs import (
    FIELDS,
    arguments,
    build_job,
    entrypoint,
    environment,
    job_id,
    load_job,
    resuming,
    submission,
)
from pkdray.shipped import JOBS, find_yaml

VALUES: dict[str, Any] = {
    "space": "mfeat_pkd",
    "run": "digits",
    "set": {"training.epochs": 4, "method.teachers": ["joint", "fac"], "search.asha": None, "dataset.path": "my data"},
    "trials": 5,
    "retry_failed": True,
    "seeds": 3,
    "folds": [0, 2],
    "top": 2,
    "against": ["kl", "pkd"],
    "output": "/shared/the student",
}


def made(step: str, **fields: Any) -> Any:
    mine = {key: value for key, value in VALUES.items() if key in FIELDS[step]}
    return build_job({"name": "j", "step": step, "storage": "s3://bucket/runs", **mine, **fields})


def parsed(line: list[str]) -> dict[str, Any]:
    """What the command of that name makes of the rest, as the command line itself parses it."""
    command: Any = typer.main.get_command(app)
    return command.commands[line[0]].make_context(line[0], line[1:]).params


@pytest.mark.parametrize("step", FIELDS)
def test_the_command_line_is_one_that_the_step_takes(step: str) -> None:
    job = made(step)
    study = "studies/mine.yaml" if job.space else None
    given = parsed(arguments(job, study))
    expected: dict[str, Any] = {
        "space": study,
        "trials": 5,
        "retry_failed": True,
        "seeds": 3,
        "folds": "0,2",
        "top": 2,
        "against": ["kl,pkd"],
        "output": Path("/shared/the student"),
    }
    for field in FIELDS[step]:
        if field in expected:
            assert given[field] == expected[field], field
    assert given.get("name", given.get("run")) == (None if step == "teach" else "digits")
    if "set" in FIELDS[step]:
        assert parse_assignments(given["assignments"]) == VALUES["set"]


def test_a_text_that_yaml_would_read_otherwise_keeps_its_kind() -> None:
    texts = {"a": "null", "b": "1e-3", "c": "[x", "d": "plain", "e": "true", "f": "1_000", "g": "a: b"}
    line = arguments(made("teach", set=texts))
    assert parse_assignments(line[index + 1] for index, word in enumerate(line) if word == "--set") == texts


def test_an_export_goes_into_its_run_and_may_be_repeated() -> None:
    job = build_job({"name": "j", "step": "export", "run": "digits", "storage": "s3://bucket/runs/"})
    line = arguments(job)
    assert line[line.index("--output") + 1] == "s3://bucket/runs/digits/student"
    assert "--overwrite" in line


def test_the_shell_of_the_cluster_expands_its_own_home_and_nothing_else() -> None:
    job = made("teach", storage="~/my runs", set={"dataset.path": "$HOME/`id`"})
    line = entrypoint(job, "mfeat_pkd").replace("exec python", "printf '%s\\n'")
    said = subprocess.run(["sh", "-c", line], env={"HOME": "/there"}, capture_output=True, text=True, check=True)
    assert said.stdout.splitlines() == [
        "-m", "pkdray", "teach", "mfeat_pkd", "--set", "dataset.path=$HOME/`id`", "--runs-dir", "/there/my runs",
    ]  # fmt: skip


def test_the_command_is_exec_so_that_signals_and_exit_codes_are_its_own() -> None:
    assert shlex.split(entrypoint(made("resume", python="/opt/venv/bin/python")))[:4] == [
        "exec", "/opt/venv/bin/python", "-m", "pkdray",
    ]  # fmt: skip


def test_secrets_go_by_name_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "hush-hush")
    job = made("pipeline", secrets=["WANDB_API_KEY", "HF_TOKEN"], env={"OMP_NUM_THREADS": "1"})
    asked = submission(job, "mfeat_pkd", None, datetime.now(UTC))
    assert "hush-hush" not in repr(asked)
    variables = asked["runtime_env"]["env_vars"]
    assert variables["PKDRAY_SECRETS"] == "WANDB_API_KEY,HF_TOKEN"
    assert {"WANDB_API_KEY", "HF_TOKEN"}.isdisjoint(variables)
    assert variables["OMP_NUM_THREADS"] == "1"


def test_a_sweep_is_resumed_in_the_surroundings_that_it_had() -> None:
    surroundings = {
        "working_dir": "my code", "python": "/opt/venv/bin/python", "stop_seconds": 90,
        "resources": {"entrypoint_cpus": 2}, "env": {"LEVEL": "2", "NOTE": "it's ~/mine", "EMPTY": ""},
        "secrets": ["WANDB_API_KEY"],
    }  # fmt: skip
    swept = made("sweep", storage="~/my runs", **surroundings)
    typed = shlex.split(resuming(swept))
    assert typed[:3] == ["pkdray", "submit", "resume"]
    resumed = load_job(find_yaml("resume", JOBS), typed[4::2])
    assert (resumed.run, resumed.storage) == ("digits", "~/my runs")
    assert {field: getattr(resumed, field) for field in surroundings} == {
        field: getattr(swept, field) for field in surroundings
    }
    assert environment(resumed) == environment(swept)


def test_a_stop_lets_the_job_save() -> None:
    variables = environment(made("sweep", stop_seconds=90))
    assert (variables["RAY_JOB_STOP_SIGNAL"], variables["RAY_JOB_STOP_WAIT_TIME_S"]) == ("SIGINT", "90")


def test_what_is_asked_of_ray(tmp_path: Path) -> None:
    resources = {"entrypoint_cpus": 2, "entrypoint_memory": 4_000_000_000}
    now = datetime(2026, 3, 5, 23, 59, 58, 61_000, tzinfo=timezone(timedelta(hours=2)))
    asked = submission(made("evaluate", resources=resources), None, tmp_path / "job.zip", now)
    assert asked["submission_id"] == "j-20260305-215958-061"
    assert asked["runtime_env"]["working_dir"] == str(tmp_path / "job.zip")
    assert (asked["entrypoint_num_cpus"], asked["entrypoint_num_gpus"]) == (2, None)
    assert asked["entrypoint_memory"] == 4_000_000_000
    assert asked["metadata"] == {"pkdray": "evaluate", "name": "j", "run": "digits", "storage": "s3://bucket/runs"}
    assert "working_dir" not in submission(made("evaluate"), None, None, now)["runtime_env"]


def test_two_submissions_a_millisecond_apart_have_ids_of_their_own() -> None:
    now = datetime(2026, 3, 5, tzinfo=UTC)
    assert job_id("j", now) != job_id("j", now + timedelta(milliseconds=1))
