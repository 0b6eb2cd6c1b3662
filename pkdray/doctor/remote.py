"""The doctor behind a tunnel: where only the dashboard can be reached, a job examines the cluster from inside."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable
from typing import Any

from pkdray.doctor.findings import Finding

_SECONDS = 600.0
_CURE = (
    "Check that the tunnel still stands; if the cluster has just started, try again in a minute. A head that never has "
    "an agent shares its machine with another Ray: `ray start --head --dashboard-agent-listen-port` with a free port."
)


def examine_by_job(
    address: str, root: str | None, needed: int | None, pause: Callable[[float], None] = time.sleep
) -> list[Finding]:
    """What ``pkdray doctor`` says on the cluster's head.

    Args:
        address: of the dashboard, http.
        root: the runs dir as the cluster knows it; None tries none.
        needed: bytes that a study puts into the object store, if one is named.
        pause: waits so many seconds.
    """
    from ray.job_submission import JobStatus, JobSubmissionClient

    try:
        client = JobSubmissionClient(address)
        job = client.submit_job(entrypoint=command(root, needed))
        deadline = time.monotonic() + _SECONDS
        while not (status := client.get_job_status(job)).is_terminal() and time.monotonic() < deadline:
            pause(0.5)
        if not status.is_terminal():
            client.stop_job(job)
        log = client.get_job_logs(job)
    except (ConnectionError, RuntimeError, OSError) as error:
        return [Finding("jobs", "fail", f"no job could be run: {str(error).splitlines()[0]}", _CURE)]
    said = document(log)
    if said is not None:
        return [Finding("jobs", "ok", f"the job {job} looked at the cluster from its head"), *findings_of(said)]
    if status not in (JobStatus.FAILED, JobStatus.SUCCEEDED):
        cure = "See in the dashboard what keeps the head busy, then try again."
        return [Finding("jobs", "fail", f"the job {job} did not end within {_SECONDS:.0f} s", cure)]
    last = (log.strip().splitlines() or ["it said nothing"])[-1]
    cure = f"pkdray has to be installed on the head, in the Python that Ray runs in: ray job logs {job}"
    return [Finding("jobs", "fail", f"the job {job} gave no findings: {last}", cure)]


def command(root: str | None, needed: int | None) -> str:
    """The job's command line.

    Example:
        >>> command("s3://a bucket/runs", None)
        "python -m pkdray doctor --address auto --json --runs-dir 's3://a bucket/runs'"
    """
    options = [*(["--runs-dir", root] if root else []), *(["--holds", str(needed)] if needed is not None else [])]
    return shlex.join(["python", "-m", "pkdray", "doctor", "--address", "auto", "--json", *options])


def document(log: str) -> dict[str, Any] | None:
    """The JSON document of the doctor among the other lines of a log; None where there is none.

    Example:
        >>> document(chr(10).join(["a warning", "{", '"findings": []', "}", "more"]))
        {'findings': []}
    """
    decoder = json.JSONDecoder()
    start = 0
    while (start := log.find("{\n", start)) >= 0:
        try:
            found = decoder.raw_decode(log, start)[0]
        except ValueError:
            found = None
        if isinstance(found, dict) and "findings" in found:
            return found
        start += 1
    return None


def findings_of(said: dict[str, Any]) -> list[Finding]:
    """The findings of a document that `Finding.as_dict` made."""
    return [Finding(**{**one, "nodes": tuple(one["nodes"])}) for one in said["findings"]]
