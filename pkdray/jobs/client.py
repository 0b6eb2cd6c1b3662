"""Ray's Jobs API, with its answers as plain data and its failures as errors that say what to check."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pkdray.errors import JobError
from pkdray.jobs.address import TOKEN, VARIABLES, probe

ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
_POLL_SECONDS = 1.0
_LOST_SECONDS = 60.0
"""How long a connection that broke while a log is followed is tried anew."""


class Jobs:
    """The jobs of the cluster whose dashboard is at ``url``.

    Raises:
        JobError: no dashboard answers, or it refuses the token.
    """

    def __init__(self, url: str) -> None:
        probe(url, os.environ)
        self.url = url
        with _only(url), self._asked():
            from ray.job_submission import JobSubmissionClient

            # It tells of every package that it uploads, through loggers of its own.
            for name in ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
                logging.getLogger(name).setLevel(logging.ERROR)
            self._client = JobSubmissionClient(url)

    def submit(self, asked: Mapping[str, Any]) -> str:
        """Submit what `command.submission` made; returns the job's id."""
        with self._asked():
            return str(self._client.submit_job(**asked))

    def all(self) -> list[dict[str, Any]]:
        """Every submitted job, newest first."""
        with self._asked():
            jobs = [_plain(job) for job in self._client.list_jobs() if job.submission_id]
        return sorted(jobs, key=lambda job: job["started"] or 0, reverse=True)

    def find(self, name: str) -> dict[str, Any]:
        """A job by its id, or the newest by its name.

        Raises:
            JobError: there is none.
        """
        jobs = self.all()
        for key in ("job", "name"):
            for job in jobs:
                if job[key] == name:
                    return job
        raise JobError(
            f"The cluster at {self.url} has no job '{name}'.",
            cure=f"Its newest are {', '.join(job['job'] for job in jobs[:5])}; `pkdray jobs list` shows all."
            if jobs
            else "It has no jobs at all: a cluster that was started again has forgotten them.",
        )

    def about(self, job: str) -> dict[str, Any]:
        """How a job stands now."""
        with self._asked():
            return _plain(self._client.get_job_info(job))

    def logs(self, job: str) -> str:
        """All that a job has printed."""
        with self._asked():
            return str(self._client.get_job_logs(job))

    def stop(self, job: str) -> bool:
        """Ask a job to stop; False where it had ended."""
        with self._asked():
            return bool(self._client.stop_job(job))

    def follow(self, job: str, write: Callable[[str], object]) -> dict[str, Any]:
        """Hand on what a job prints, from its beginning, until it ends; returns how it stands then.

        A connection that breaks (a tunnel, a proxy that closes idle ones) is made anew, and nothing is said twice.
        """
        import aiohttp

        said, broken_since = 0, None
        while True:
            skip = said

            def hand_on(chunk: str) -> None:
                nonlocal said, skip, broken_since
                broken_since = None
                fresh = chunk[skip:]
                skip = max(0, skip - len(chunk))
                if fresh:
                    said += len(fresh)
                    write(fresh)

            lost: Exception | None = None
            try:
                asyncio.run(self._tail(job, hand_on))
            except (RuntimeError, OSError, aiohttp.ClientError) as error:
                lost = error
            try:
                about = self.about(job)
            except JobError as error:
                lost = lost or error
            else:
                if about["status"] in ENDED:
                    return about
            if lost is not None:
                broken_since = broken_since or time.monotonic()
                if time.monotonic() - broken_since > _LOST_SECONDS:
                    raise JobError(
                        f"The connection to {self.url} is lost; whether the job {job} goes on cannot be seen from "
                        "here.",
                        cure=f"Where the cluster lives, look again with: pkdray jobs logs {job} --follow --address "
                        f"{self.url}\n"
                        "A cluster whose head ended has lost its jobs: start it anew, and submit the job once more.",
                    ) from lost
            time.sleep(_POLL_SECONDS)

    def wait(self, job: str, seconds: float) -> dict[str, Any]:
        """How a job stands when it has ended, or after some seconds."""
        deadline = time.monotonic() + seconds
        while (about := self.about(job))["status"] not in ENDED and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        return about

    async def _tail(self, job: str, write: Callable[[str], object]) -> None:
        async for chunk in self._client.tail_job_logs(job):
            write(chunk)

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """Turn what Ray's client raises into errors that say what to check."""
        from ray.exceptions import AuthenticationError
        from requests import RequestException

        try:
            yield
        except AuthenticationError as error:
            absent = "Authentication required" in str(error)
            said = "no token was found here (HTTP 401)" if absent else "refuses the token (HTTP 403)"
            raise JobError(
                f"The cluster at {self.url} {'asks for a token, and ' if absent else ''}{said}.", cure=TOKEN
            ) from error
        except (RequestException, ConnectionError) as error:
            raise JobError(
                f"The cluster at {self.url} no longer answers ({type(error).__name__}).",
                cure="Check that its head runs, and the tunnel if there is one.",
            ) from error
        except RuntimeError as error:
            raise JobError(f"The cluster at {self.url} refused: {_reason(error)}", cure=_cure(str(error))) from error


def _plain(job: Any) -> dict[str, Any]:
    """A job as plain data; its runtime environment, which may hold values, is left out."""
    about, environment = job.metadata or {}, (job.runtime_env or {}).get("env_vars", {})
    return {
        "job": job.submission_id,
        "name": about.get("name"),
        "step": about.get("pkdray"),
        "run": about.get("run"),
        "storage": about.get("storage"),
        "student": about.get("student"),
        "again": about.get("again"),
        "resume": about.get("resume"),
        "status": str(job.status),
        "message": job.message,
        "exit_code": job.driver_exit_code,
        "stop_seconds": _seconds(environment.get("RAY_JOB_STOP_WAIT_TIME_S")),
        "started": job.start_time / 1000 if job.start_time else None,
        "ended": job.end_time / 1000 if job.end_time else None,
    }


def _seconds(text: str | None) -> int:
    """How long a job may take to stop; Ray's 3 where it says nothing, or what is no number, as another's job may."""
    return int(text) if text is not None and text.isdecimal() else 3


def _reason(error: Exception) -> str:
    """What the server says, without its traceback."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    last = re.sub(r"\.$", "", lines[-1]) if lines else type(error).__name__
    return f"{last}."


def _cure(said: str) -> str:
    if "status code 413" in said:
        return "What goes up is too large for it; leave `working_dir` out of the job."
    if "already exists" in said:
        return "Submit again: the id has the time in it, so the next one is another."
    return "The dashboard's log on the head says more: /tmp/ray/session_latest/logs/dashboard.log."


@contextmanager
def _only(url: str) -> Iterator[None]:
    """Ray's client lets its variables win over the address that it is given: set them aside."""
    before = {name: os.environ.pop(name, None) for name in VARIABLES}
    os.environ[VARIABLES[0]] = url
    try:
        yield
    finally:
        os.environ.pop(VARIABLES[0])
        os.environ.update({name: value for name, value in before.items() if value is not None})
