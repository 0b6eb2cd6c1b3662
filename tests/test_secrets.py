"""Secrets of a job: missing ones are named, the values of those that are there are blanked in what is printed."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from patience import PATIENCE_SECONDS

from pkdray.errors import JobError
from pkdray.secrets import Blanking, blanked, secret_values


def test_missing_secrets_are_all_named_and_empty_ones_are_missing() -> None:
    environment = {"PKDRAY_SECRETS": "ONE,TWO,THREE", "ONE": "1234", "TWO": ""}
    with pytest.raises(
        JobError, match=r"The job's secrets are not in the environment of its driver: TWO, THREE\."
    ) as e:
        secret_values({**environment})
    assert "1234" not in str(e.value)
    assert "secretKeyRef" in str(e.value.cure)


def test_a_value_that_holds_another_leaves_nothing_behind() -> None:
    assert blanked("a longer-secret and secret", ["secret", "longer-secret"]) == "a *** and ***"


def test_every_line_of_a_secret_is_blanked_and_short_values_are_none() -> None:
    assert blanked("key: first line\n  last line; 1 of 1 yes", ["first line\nlast line", "1", "yes"]) == (
        "key: ***\n  ***; 1 of 1 yes"
    )


def test_a_stream_that_blanks_is_in_all_else_the_stream() -> None:
    under = io.StringIO()
    stream = Blanking(under, ["hush-hush"])
    assert stream.write("say hush-hush\n") == len("say hush-hush\n")
    stream.writelines(["a\n", "hush-hush\n"])
    print("hush-hush", file=stream)  # type: ignore[call-overload]
    assert under.getvalue() == "say ***\na\n***\n***\n"
    assert stream.isatty() is False


def run(tmp_path: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    import pkdray

    environment = {"PYTHONPATH": str(Path(pkdray.__file__).parent.parent), "PATH": "/usr/bin:/bin", **variables}
    return subprocess.run(
        [sys.executable, "-m", "pkdray", *arguments],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )


def test_the_command_line_blanks_what_it_prints_on_either_stream_and_in_tracebacks(tmp_path: Path) -> None:
    secret = {"PKDRAY_SECRETS": "HUSH", "HUSH": "hush-hush"}
    said = run(tmp_path, "show", "hush-hush", "--json", **secret)
    assert said.returncode == 2
    assert "There is no run '***'" in said.stderr
    assert "There is no run '***'" in said.stdout
    traced = run(tmp_path, "--debug", "show", "hush-hush", **secret)
    assert "Traceback" in traced.stderr
    assert "hush-hush" not in said.stderr + said.stdout + traced.stderr
    usage = run(tmp_path, "hush-hush", **secret)
    assert usage.returncode == 2
    assert "hush-hush" not in usage.stderr
    assert "hush-hush" in run(tmp_path, "show", "hush-hush", HUSH="hush-hush").stderr, "it is told without secrets"


def test_a_job_without_its_secrets_does_nothing(tmp_path: Path) -> None:
    said = run(tmp_path, "data", "list", PKDRAY_SECRETS="HUSH")
    assert said.returncode == 2
    assert said.stderr.startswith("Error: The job's secret is not in the environment of its driver: HUSH.\n")
    assert said.stdout == ""
