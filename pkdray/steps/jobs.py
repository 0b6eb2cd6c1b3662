"""Jobs on a cluster: submitted, followed, looked at, stopped."""

from __future__ import annotations

import os
import shlex
import signal
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pkdray.console import Console, duration
from pkdray.errors import ConfigError, InterruptedWorkError
from pkdray.mirrors import is_uri
from pkdray.steps.wording import next_steps

if TYPE_CHECKING:
    from pkdray.jobs.client import Jobs
    from pkdray.jobs.config import Job

TAIL_LINES = 15
REFUSED = 2
"""The exit code of a command that was refused, before it had made anything or in the middle (a full disk)."""
_NEVER_BEGAN = (
    "runtime_env setup failed",
    "Job supervisor actor could not be scheduled",
    "Job supervisor actor failed to start",
    "Failed to start supervisor",
)
"""How Ray begins to say that a job's command was never started; it has other words for one that was, and was lost."""
_STOP_SLACK = 15
"""Seconds that Ray takes beyond a job's own to note that it has stopped."""


def submit(name: str, assignments: Sequence[str], console: Console, *, address: str | None, wait: bool) -> bool:
    """Submit a job, and follow it to its end if asked to; False if it failed.

    Raises:
        ConfigError: the job, or the study that it names, has faults.
        JobError: the cluster cannot be reached, refuses the token or the job, or too much would go up.
        InterruptedWorkError: Ctrl-C while following; the job goes on.
    """
    from pkdray.jobs import check_size, dashboard_address, files_to_send, load_job, resuming, submission, write_package
    from pkdray.shipped import JOBS, find_yaml

    file = find_yaml(name, JOBS)
    job = load_job(file, assignments)
    study, sent = find_study(job, file)
    url = dashboard_address(address, os.environ)
    working_dir = Path(job.working_dir).expanduser() if job.working_dir is not None else None
    files = files_to_send(sent, working_dir, Path.cwd())
    size = check_size(files)
    jobs = _connected(url)
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "job.zip" if files else None
        if package is not None:
            write_package(files, package)
        asked = submission(job, study, package, datetime.now(UTC))
        asked["metadata"]["again"] = shlex.join(
            ["pkdray", "submit", name, *(word for one in assignments for word in ("--set", one))]
        )
        if job.step == "sweep":
            asked["metadata"]["resume"] = resuming(job)
        went_up = f"{len(files)} file{'s' * (len(files) != 1)} ({size / 1e6:.1f} MB)" if files else "no files"
        console.say(f"To {url}, with {went_up}: {asked['entrypoint'].removeprefix('exec ')}")
        identity = jobs.submit(asked)
    hints = [
        f"pkdray jobs logs {identity} --follow{_at(address)}",
        f"pkdray jobs stop {identity}{_at(address)}",
    ]
    if not wait:
        about = jobs.about(identity)
        console.result(about, f"The job is {identity}.", *next_steps(*hints))
        return True
    console.say(f"The job is {identity}; Ctrl-C leaves it running.")
    return _followed(jobs, identity, console, hints, address)


def find_study(job: Job, file: Path) -> tuple[str | None, Path | None]:
    """What the job's command line calls its study, and the file that goes up with it; a ready one needs none.

    A path counts from the folder that one is in, or from that of the job's YAML.

    Raises:
        ConfigError: there is no such study, it has faults, or its dataset is named by a relative path.
    """
    if job.space is None:
        return None, None
    from pkdray.config import load_config
    from pkdray.data.bundled import bundled_datasets
    from pkdray.jobs import study_name
    from pkdray.shipped import find_yaml

    own = [path for path in (Path(job.space).expanduser(), file.parent / job.space) if path.is_file()]
    data = load_config(own[0] if own else find_yaml(job.space), job.assignments).dataset.path
    if data not in bundled_datasets() and "://" not in data and not data.startswith(("/", "~/")):
        raise ConfigError(
            f"The dataset of {job.space} is at '{data}', which the cluster would look for in the job's temporary "
            "folder.",
            cure="Say where its nodes see it, as with --set set.dataset.path=/shared/data/mine, or a URI.",
        )
    return (study_name(own[0]), own[0]) if own else (job.space, None)


def list_jobs(console: Console, *, address: str | None) -> None:
    """The cluster's jobs, newest first."""
    jobs = _reached(address)
    found = jobs.all()
    if console.as_json:
        console.result(found)
    elif found:
        rows = [[one["job"], one["status"], one["step"], one["run"], _started(one), _took(one)] for one in found]
        console.table(f"Jobs of {jobs.url}", ["job", "status", "step", "run", "started", "took"], rows)
    else:
        console.result(None, f"{jobs.url} has no jobs.", *next_steps(f"pkdray submit pipeline{_at(address)}"))


def job_logs(name: str, console: Console, *, address: str | None, follow: bool) -> bool:
    """What a job has printed; False if it is followed and fails."""
    jobs = _reached(address)
    identity = jobs.find(name)["job"]
    if follow:
        return _followed(jobs, identity, console, [f"pkdray jobs stop {identity}{_at(address)}"], address)
    text = jobs.logs(identity)
    if console.as_json:
        console.result({"job": identity, "logs": text})
    else:
        console.hand_on(text)
    return True


def job_status(name: str, console: Console, *, address: str | None) -> None:
    """How a job stands, why it ended, and what to type next."""
    jobs = _reached(address)
    about = jobs.find(name)
    _show(about, console, jobs, address)


def stop_job(name: str, console: Console, *, address: str | None) -> None:
    """Stop a job as Ctrl-C does, and wait until it has."""
    jobs = _reached(address)
    about = jobs.find(name)
    if jobs.stop(about["job"]):
        seconds = about["stop_seconds"]
        with console.progress(f"Stopping {about['job']}; it has {seconds} s to save ..."):
            about = jobs.wait(about["job"], seconds + _STOP_SLACK)
    _show(about, console, jobs, address, tail=False)


def _reached(address: str | None) -> Jobs:
    from pkdray.jobs import dashboard_address

    return _connected(dashboard_address(address, os.environ))


def _connected(url: str) -> Jobs:
    from pkdray.jobs.client import Jobs

    return Jobs(url)


def _followed(jobs: Jobs, identity: str, console: Console, hints: Sequence[str], address: str | None) -> bool:
    try:
        about = jobs.follow(identity, console.hand_on)
    except KeyboardInterrupt as error:
        raise InterruptedWorkError(
            f"The job {identity} goes on without us.",
            cure="Look again, or stop it, with:" + "".join(f"\n  {hint}" for hint in hints),
        ) from error
    _show(about, console, jobs, address, tail=False)
    return bool(about["status"] == "SUCCEEDED")


def _show(about: Mapping[str, Any], console: Console, jobs: Jobs, address: str | None, *, tail: bool = True) -> None:
    failed = about["status"] in ("FAILED", "STOPPED")
    said = jobs.logs(about["job"]).splitlines()[-TAIL_LINES:] if tail and failed and not console.as_json else []
    console.result(
        {**about, "verdict": verdict(about)},
        verdict(about),
        *(["", "Its last lines:", *(f"  {line}" for line in said)] if said else []),
        *next_steps(*_next(about, address)),
    )


def verdict(about: Mapping[str, Any]) -> str:
    """How a job stands, in one sentence.

    Example:
        >>> verdict({"job": "j-1", "status": "FAILED", "exit_code": -9, "message": "", "started": 10.0, "ended": 82.0})
        'The job j-1 failed after 1:12: its driver was killed (SIGKILL): by hand, for want of memory, or with its node.'
    """
    job, status, code = about["job"], about["status"], about["exit_code"]
    after = f" after {_took(about)}" if about["started"] and about["ended"] else ""
    if status == "SUCCEEDED":
        return f"The job {job} has succeeded{after}."
    if status == "STOPPED":
        return f"The job {job} was stopped{after}."
    if status != "FAILED":
        waits = ": it waits for room, or for its environment" if status == "PENDING" else f" for {_took(about)}"
        return f"The job {job} is {status.lower()}{waits}."
    if code is None:
        lines = [line.strip() for line in (about["message"] or "").splitlines() if line.strip()]
        lost = "it never came to run pkdray" if _never_began(about) else "Ray has lost its driver"
        why = f"{lost} ({lines[0] if lines else 'Ray does not say why'})"
    elif code < 0:
        causes = ": by hand, for want of memory, or with its node" if code == -signal.SIGKILL else ""
        why = f"its driver was killed ({signal.Signals(-code).name}){causes}"
    elif code == REFUSED:
        why = "its last lines say what to mend"
    else:
        why = f"exit code {code}; its last lines say more"
    return f"The job {job} failed{after}: {why}."


def _next(about: Mapping[str, Any], address: str | None) -> list[str]:
    """What to type after looking at a job."""
    from pkdray.jobs.command import quoted

    job, at = about["job"], _at(address)
    run, storage, student = (quoted(about[name]) if about[name] else None for name in ("run", "storage", "student"))
    if about["status"] == "SUCCEEDED":
        if student and is_uri(about["student"]):
            return [f"pkdray fetch {student} -o student"]
        return [f"pkdray show {run} --runs-dir {storage}"] if run and storage else [f"pkdray jobs logs {job}{at}"]
    if about["status"] not in ("FAILED", "STOPPED"):
        return [f"pkdray jobs logs {job} --follow{at}", f"pkdray jobs stop {job}{at}"]
    again, resume = (f"{about[name]}{at}" if about[name] else None for name in ("again", "resume"))
    steps = [f"{again}    # goes on where it was"] if again else []
    if again and _never_began(about):
        steps = [again]
    elif again and resume:
        # A run that exists is not begun anew.
        steps = [f"{resume}    # goes on where it was"]
        if about["exit_code"] == REFUSED:
            steps.append(f"{again}    # if it was refused before it began a run")
    return [f"pkdray jobs logs {job}{at}", *steps]


def _never_began(about: Mapping[str, Any]) -> bool:
    return about["exit_code"] is None and str(about["message"] or "").startswith(_NEVER_BEGAN)


def _at(address: str | None) -> str:
    return f" --address {shlex.quote(address)}" if address else ""


def _started(about: Mapping[str, Any]) -> str | None:
    return f"{datetime.fromtimestamp(about['started']):%Y-%m-%d %H:%M:%S}" if about["started"] else None


def _took(about: Mapping[str, Any]) -> str | None:
    return duration((about["ended"] or time.time()) - about["started"]) if about["started"] else None
