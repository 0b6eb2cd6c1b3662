"""A job to the command line that the cluster runs, and to the environment that it runs it in."""

from __future__ import annotations

import json
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pkdray.config import parse_assignments
from pkdray.errors import ConfigError
from pkdray.jobs.config import Job
from pkdray.secrets import SECRETS

STUDENT = "student"
"""The folder of a run that its student goes to where the job names no other."""
_SURROUNDINGS = ("working_dir", "python", "stop_seconds", "resources", "env", "secrets")
"""The fields of what a job runs in."""


def arguments(job: Job, study: str | None = None) -> list[str]:
    """What follows ``pkdray`` on the job's command line.

    Args:
        job: the job.
        study: the study as the cluster finds it: a ready one's name, or a path in the job's folder.

    Example:
        >>> from pkdray.jobs.config import build_job
        >>> job = {"name": "j", "step": "resume", "run": "mine", "storage": "s3://bucket/runs", "trials": 40}
        >>> arguments(build_job(job))
        ['resume', 'mine', '--trials', '40', '--runs-dir', 's3://bucket/runs']
    """
    line: list[str] = [job.step]
    if study is not None:
        line.append(study)
    if job.run is not None:
        line += ["--name", job.run] if study is not None else [job.run]
    for name, value in (("trials", job.trials), ("seeds", job.seeds), ("top", job.top)):
        if value is not None:
            line += [f"--{name}", str(value)]
    if job.folds is not None:
        line += ["--folds", ",".join(map(str, job.folds)) if isinstance(job.folds, list) else str(job.folds)]
    if job.against:
        line += ["--against", ",".join(job.against)]
    if job.retry_failed:
        line.append("--retry-failed")
    for path, value in job.assignments.items():
        line += ["--set", f"{path}={value if _plain(value) else json.dumps(value)}"]
    # Here the text of `storage` becomes the folder of the runs, whatever kinds of place that may be.
    line += ["--runs-dir", job.storage]
    if job.step == "export":
        # A job is submitted again after a failure, so an export that is there already is no fault.
        line += ["--output", str(student_of(job)), "--overwrite"]
    elif job.output is not None:
        line += ["--output", job.output]
    return line


def student_of(job: Job) -> str | None:
    """Where the job leaves a student; None where it leaves none."""
    if job.step not in ("export", "pipeline"):
        return None
    return job.output or f"{job.storage.rstrip('/')}/{job.run}/{STUDENT}"


def entrypoint(job: Job, study: str | None = None) -> str:
    """The shell command of the job; ``~/`` is the home of the cluster's user, not of ours.

    Example:
        >>> from pkdray.jobs.config import build_job
        >>> job = {"name": "j", "step": "teach", "space": "mfeat_pkd", "storage": "~/my runs"}
        >>> entrypoint(build_job(job), "mfeat_pkd")
        "exec python -m pkdray teach mfeat_pkd --runs-dir ~/'my runs'"
    """
    # exec: a stop's signal and a kill's exit code are those of pkdray, with no shell between.
    return " ".join(["exec", *map(quoted, [job.python, "-m", "pkdray", *arguments(job, study)])])


def environment(job: Job) -> dict[str, str]:
    """The variables that the job's processes get from Ray, which shows and keeps them: secrets by name alone."""
    defaults = {
        "RAY_JOB_STOP_SIGNAL": "SIGINT",
        "RAY_JOB_STOP_WAIT_TIME_S": str(job.stop_seconds),
    }
    named = {SECRETS: ",".join(job.secrets)} if job.secrets else {}
    return {**defaults, **job.env, **named}


def submission(job: Job, study: str | None, package: Path | None, now: datetime) -> dict[str, Any]:
    """What is asked of ``JobSubmissionClient.submit_job``.

    Args:
        job: the job.
        study: the study as the cluster finds it.
        package: a zip file of what goes up; None where nothing does.
        now: the time that goes into the id, which no other job of the cluster may have or ever have had.
    """
    about = {"pkdray": job.step, "name": job.name, "run": job.run, "storage": job.storage, "student": student_of(job)}
    resources = job.resources
    return {
        "entrypoint": entrypoint(job, study),
        "submission_id": job_id(job.name, now),
        "runtime_env": {
            "env_vars": environment(job),
            **({"working_dir": str(package)} if package is not None else {}),
        },
        "metadata": {key: value for key, value in about.items() if value is not None},
        "entrypoint_num_cpus": resources.entrypoint_cpus or None,
        "entrypoint_num_gpus": resources.entrypoint_gpus or None,
        "entrypoint_memory": resources.entrypoint_memory or None,
    }


def resuming(job: Job) -> str:
    """What to type to go on with a sweep that was killed: the ready job ``resume``, in the surroundings of the sweep's.

    Example:
        >>> from pkdray.jobs.config import build_job
        >>> job = {"name": "j", "step": "sweep", "space": "mfeat_pkd", "run": "mine", "storage": "s3://bucket/runs"}
        >>> resuming(build_job({**job, "python": "/opt/bin/python"}))
        'pkdray submit resume --set run=mine --set storage=s3://bucket/runs --set python=/opt/bin/python'
    """
    said = job.model_dump(exclude_defaults=True)
    values: dict[str, Any] = {}
    for field in ("run", "storage", *_SURROUNDINGS):
        value = said.get(field)
        values |= {f"{field}.{name}": one for name, one in value.items()} if isinstance(value, dict) else {field: value}
    words = [
        f"{name}={value if _plain(value) else json.dumps(value)}" for name, value in values.items() if value is not None
    ]
    # Quoted as a whole: bash would make `~` behind an equals sign the home of this machine's user.
    return " ".join(["pkdray submit resume", *(f"--set {shlex.quote(word)}" for word in words)])


def job_id(name: str, now: datetime) -> str:
    """The name and the time in UTC, to the millisecond: Ray answers an id that it has seen with HTTP 500.

    Example:
        >>> job_id("pipeline", datetime(2026, 11, 21, 16, 14, 50, 7000, tzinfo=UTC))
        'pipeline-20261121-161450-007'
    """
    at = now.astimezone(UTC)
    return f"{name}-{at:%Y%m%d-%H%M%S}-{at.microsecond // 1000:03d}"


def _plain(value: Any) -> bool:
    """Whether ``--set`` reads a text as itself, so that it needs no quotes."""
    if not isinstance(value, str):
        return False
    try:
        return parse_assignments([f"field={value}"]) == {"field": value}
    except ConfigError:
        return False


def quoted(word: str) -> str:
    """A word for a shell, which still makes ``~/`` the home of its user.

    Example:
        >>> quoted("~/my runs"), quoted("s3://bucket/my runs")
        ("~/'my runs'", "'s3://bucket/my runs'")
    """
    return f"~/{shlex.quote(word[2:])}" if word.startswith("~/") else shlex.quote(word)
