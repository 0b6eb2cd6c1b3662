"""A real cluster of two nodes with a dashboard and a token: from its network, and from behind a tunnel."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE_SECONDS, until
from ports import free_ports

TOKEN = "a-token-of-the-tests-0123456789abcdef"
RAY = Path(sys.executable).with_name("ray")


@dataclass(frozen=True)
class Running:
    """A cluster, and the environment of those who may use it."""

    gcs: str
    dashboard: str
    environment: dict[str, str]

    def doctor(self, *arguments: str, **changed: str) -> tuple[int, list[dict[str, Any]]]:
        """The exit code and the findings."""
        environment = {**self.environment, **changed}
        ran = subprocess.run(
            [sys.executable, "-m", "pkdray", "doctor", "--json", *arguments],
            env={name: value for name, value in environment.items() if value},
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        assert ran.stdout, ran.stderr
        assert TOKEN not in ran.stdout + ran.stderr
        return ran.returncode, json.loads(ran.stdout)["findings"]


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    """Two nodes on this machine, of one CPU each; their processes end with the tests."""
    # Short: Ray puts sockets below it, whose paths may have 107 characters.
    home = Path(tempfile.mkdtemp(prefix="pkdray-doctor-", dir="/tmp"))
    (home / ".ray").mkdir()
    token = home / ".ray" / "auth_token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    checkout = Path(__file__).parents[2]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "HOME": str(home),
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(checkout),
        # The job of the doctor is `python -m pkdray`.
        "PATH": f"{RAY.parent}{os.pathsep}{os.environ['PATH']}",
    }
    # Ray's own choice for the agents' port is the same for every Ray of a machine.
    gcs, web, *agents = free_ports(4)
    common = ["--block", "--num-cpus=1", "--object-store-memory=100000000", "--node-ip-address=127.0.0.1"]
    started = []

    def start(*arguments: str) -> None:
        port = f"--dashboard-agent-listen-port={agents[len(started)]}"
        log = (home / f"log-{len(started)}").open("wb")
        started.append(
            subprocess.Popen(
                [str(RAY), "start", *common, port, *arguments],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        )

    try:
        start("--head", f"--port={gcs}", f"--dashboard-port={web}", f"--temp-dir={home}/h", "--include-dashboard=true")
        until(lambda: answers(gcs) and answers(web))
        start(f"--address=127.0.0.1:{gcs}")
        until(lambda: "Ray runtime started" in (home / "log-1").read_text())
        yield Running(f"127.0.0.1:{gcs}", f"http://127.0.0.1:{web}", environment)
    finally:
        for process in reversed(started):
            process.send_signal(signal.SIGTERM)
        for process in started:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(home, ignore_errors=True)


def answers(port: int) -> bool:
    """Whether somebody listens."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def by_check(findings: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The findings by check; of several the worst."""
    order = ("ok", "warn", "fail")
    return {one["check"]: one for one in sorted(findings, key=lambda one: order.index(one["level"]))}


def storage_works(findings: list[dict[str, Any]]) -> bool:
    """Whether both nodes can use it; how fast it is, each by itself, is the machine's affair."""
    found = [one for one in findings if one["check"] == "storage"]
    return sum(len(one["nodes"]) for one in found) == 2 and {one["level"] for one in found} <= {"ok", "warn"}


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.cluster
def test_every_node_is_examined(running: Running, tmp_path: Path) -> None:
    code, findings = running.doctor("mfeat_demo", "--address", running.gcs, "--runs-dir", str(tmp_path / "runs"))
    found = by_check(findings)
    assert code == 0, [one for one in findings if one["level"] == "fail"]
    assert found["nodes"]["found"] == "2 answered"
    for check in ("python", "torch", "gpus", "cuda", "object store"):
        assert (len(found[check]["nodes"]), found[check]["level"]) == (2, "ok"), check
    assert storage_works(findings), findings
    assert found["object store"]["found"].startswith("100 MB, of which the study's arrays take 6.04 MB (6%)")
    gcs, dashboard = [one["found"] for one in findings if one["check"] == "ports"]
    # Ray calls this machine by the address that others know it by.
    assert gcs.startswith("GCS answers at ")
    assert gcs.endswith(running.gcs.rpartition(":")[2])
    assert dashboard == f"dashboard answers at {running.dashboard}"
    assert "token authentication, with the token of" in found["token"]["found"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.cluster
def test_behind_a_tunnel_a_job_looks_from_inside(running: Running, tmp_path: Path) -> None:
    asked = ["--address", running.dashboard, "--runs-dir", str(tmp_path / "runs"), "--holds", "95000000"]
    code, findings = running.doctor(*asked)
    found = by_check(findings)
    assert found["jobs"]["level"] == "ok", findings
    # 95 % of the object store.
    assert (code, found["object store"]["level"]) == (0, "warn"), findings
    assert len(found["object store"]["nodes"]) == 2
    assert storage_works(findings), findings


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.cluster
def test_without_the_token_it_says_so(running: Running) -> None:
    code, findings = running.doctor("--address", running.dashboard, RAY_AUTH_MODE="")
    assert (code, by_check(findings)["token"]["cure"]) == (1, "export RAY_AUTH_MODE=token")
    code, findings = running.doctor("--address", running.dashboard, RAY_AUTH_TOKEN="another-0123456789abcdef0123456789")
    assert code == 1
    assert "refuses the token of RAY_AUTH_TOKEN" in by_check(findings)["token"]["found"]
    code, findings = running.doctor("--address", running.gcs, RAY_AUTH_MODE="")
    found = by_check(findings)
    assert (code, found["connection"]["level"]) == (1, "fail")
    assert found["token"]["cure"] == "If the cluster asks for one: export RAY_AUTH_MODE=token"
