"""Following a log over a connection that breaks, and what Ray's client raises told as what to check."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import AuthenticationError
from requests import ConnectionError as Refused

from pkdray.errors import JobError
from pkdray.jobs import client
from pkdray.jobs.client import Jobs

LOG = "one\ntwo\nthree\nfour\n"


def details(status: str, **more: Any) -> SimpleNamespace:
    about = {
        "submission_id": "j-1", "metadata": {"name": "j", "pkdray": "teach"}, "status": status, "message": None,
        "runtime_env": {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "7", "HUSH": "hush-hush"}}, "driver_exit_code": None,
        "start_time": 2000, "end_time": None,
    }  # fmt: skip
    return SimpleNamespace(**{**about, **more})


class Broken:
    """Ray's client whose connection breaks now and then; a log that is asked for again begins at its beginning."""

    def __init__(self, *tails: tuple[list[str], Exception | None], statuses: list[str]) -> None:
        self.tails, self.statuses = list(tails), list(statuses)

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        chunks, error = self.tails.pop(0)
        for chunk in chunks:
            yield chunk
        if error is not None:
            raise error

    def get_job_info(self, job: str) -> Any:
        return details(self.statuses.pop(0))


def jobs(stub: Any, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    monkeypatch.setattr(client.time, "sleep", lambda _: None)
    made = Jobs.__new__(Jobs)
    made.url, made._client = "http://head:8265", stub
    return made


def test_a_log_is_told_once_however_often_its_connection_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    stub = Broken(
        (["one\n", "tw"], RuntimeError("WebSocket connection closed unexpectedly")),
        ([], OSError("refused")),
        (["one\ntwo\nth"], None),
        ([LOG], None),
        statuses=["RUNNING", "RUNNING", "RUNNING", "SUCCEEDED"],
    )
    said: list[str] = []
    about = jobs(stub, monkeypatch).follow("j-1", said.append)
    assert "".join(said) == LOG
    assert (about["status"], about["stop_seconds"], about["started"]) == ("SUCCEEDED", 7, 2.0)
    other = details("FAILED", runtime_env={"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "half a minute"}})
    stub = SimpleNamespace(get_job_info=lambda _: other)
    assert jobs(stub, monkeypatch).about("j-1")["stop_seconds"] == 3, "another tool's job"
    assert "hush-hush" not in repr(about), "what Ray keeps of the environment is not handed on"


def test_a_connection_that_stays_lost_ends_with_how_to_look_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 25))
    monkeypatch.setattr(client.time, "monotonic", lambda: next(clock))
    gone = (["one\n"], RuntimeError("closed"))
    stub = Broken(gone, *[([], OSError("refused"))] * 8, statuses=[])

    def refused(job: str) -> Any:
        raise Refused("refused")

    monkeypatch.setattr(stub, "get_job_info", refused)
    with pytest.raises(JobError, match="whether the job j-1 goes on cannot be seen from here") as told:
        jobs(stub, monkeypatch).follow("j-1", lambda _: None)
    assert "pkdray jobs logs j-1 --follow" in str(told.value)


@pytest.mark.parametrize(
    ("error", "what", "cure"),
    [
        (AuthenticationError("Authentication required: x"), "asks for a token, and no token", "RAY_AUTH_TOKEN"),
        (AuthenticationError("Authentication failed: x"), "refuses the token (HTTP 403)", "RAY_AUTH_TOKEN"),
        (Refused("x"), "no longer answers", "tunnel"),
        (RuntimeError("Request failed with status code 413: too large."), "status code 413", "working_dir"),
        (RuntimeError("Request failed with status code 500: Traceback\n  x\nsubmission_id j already exists.\n"),
         "submission_id j already exists.", "the next one is another"),
        (RuntimeError("Request failed with status code 500: who knows."), "who knows.", "dashboard.log"),
    ],
)  # fmt: skip
def test_what_ray_raises_says_what_to_check(
    error: Exception, what: str, cure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: Any) -> str:
        raise error

    with pytest.raises(JobError) as told:
        jobs(SimpleNamespace(submit_job=refuse), monkeypatch).submit({"submission_id": "j"})
    assert what in told.value.what
    assert cure in str(told.value.cure)
    assert "Traceback" not in str(told.value)


def test_a_job_is_found_by_its_id_or_as_the_newest_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    old = details("FAILED", submission_id="j-1", start_time=1000)
    new = details("RUNNING", submission_id="j-2", start_time=5000)
    driver = details("RUNNING", submission_id=None)
    found = jobs(SimpleNamespace(list_jobs=lambda: [old, driver, new]), monkeypatch)
    assert [found.find(name)["job"] for name in ("j-1", "j-2", "j")] == ["j-1", "j-2", "j-2"]
    with pytest.raises(JobError, match="has no job 'k'") as told:
        found.find("k")
    assert "Its newest are j-2, j-1;" in str(told.value)
