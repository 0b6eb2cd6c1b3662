"""What is gathered at the edge: this machine, storage, ports and tokens."""

from __future__ import annotations

import http.server
import importlib.metadata
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from command_line import Said

from pkdray.doctor import checks, facts, network, nodes, remote, storage
from pkdray.doctor.checks import NodeFacts
from pkdray.doctor.findings import Finding


def test_this_machine_is_described_as_the_checks_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    here = NodeFacts(**facts.gather())
    assert here.name == socket.gethostname()
    assert here.packages["ray"] == importlib.metadata.version("ray")
    assert here.threads == "3"
    assert here.torch_error is None
    assert here.shared_memory == os.statvfs("/dev/shm").f_frsize * os.statvfs("/dev/shm").f_blocks
    assert 0 < here.memory <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_a_torch_that_cannot_be_imported_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise OSError('libcudart.so.13: cannot open shared object file')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(facts, "_version", lambda name: "1.0")
    gathered = facts.gather()
    assert gathered["torch_error"] == "OSError: libcudart.so.13: cannot open shared object file"
    assert gathered["torch_gpus"] == []


def test_the_drivers_answers_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 580.95.05\necho 580.95.05\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    said = facts._driver()
    assert (said["driver"], said["driver_gpus"]) == ("580.95.05", 2)


@pytest.mark.parametrize("uri", [False, True])
def test_storage_is_tried_and_left_as_it_was(tmp_path: Path, uri: bool) -> None:
    folder = tmp_path / "not" / "there" / "yet"
    root = f"file://{folder}" if uri else str(folder)
    said = storage.probe(root, "mark")
    assert said["error"] is None
    assert min(said["write_mb_s"], said["read_mb_s"], said["seconds_small"]) > 0
    assert said["sees"] is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["my runs", "100%", "a%20b"])
def test_a_uri_means_the_folder_that_a_sweep_would_write_to(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with storage.Beacon(str(tmp_path / name), "mark") as beacon:
        said = storage.probe(f"file://{tmp_path / name}", "mark-0", beacon.name)
    assert (said["error"], said["sees"]) == (None, True)


def test_a_uri_with_credentials_is_tried_nowhere(pkdray: Any) -> None:
    said = pkdray("doctor", "--runs-dir", "s3://key:hush-hush@bucket/runs", "--address", "http://127.0.0.1:9")
    assert said.code == 2
    assert "holds credentials" in said.err
    assert "hush-hush" not in said.out + said.err


def test_a_node_sees_the_file_of_another_or_does_not(tmp_path: Path) -> None:
    shared, own = tmp_path / "shared", tmp_path / "own"
    with storage.Beacon(str(shared), "mark") as beacon:
        assert storage.probe(str(shared), "mark-0", beacon.name)["sees"] is True
        assert storage.probe(str(own), "mark-1", beacon.name)["sees"] is False
    assert list(tmp_path.iterdir()) == []


def test_storage_that_cannot_be_written_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    assert "file" in storage.probe(str(tmp_path / "file" / "runs"), "mark")["error"]
    assert "nowhere" in storage.probe("nowhere://bucket/runs", "mark")["error"]


@pytest.mark.slow
def test_a_bucket_is_tried_and_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server_module = pytest.importorskip("moto.server")
    import boto3

    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "dummy",
            "AWS_SECRET_ACCESS_KEY": "dummy",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        s3 = boto3.client("s3")
        s3.create_bucket(Bucket="my-runs")
        with storage.Beacon("s3://my-runs/a/runs", "mark") as beacon:
            said = storage.probe("s3://my-runs/a/runs", "mark-0", beacon.name)
            assert (said["error"], said["sees"]) == (None, True)
            assert said["write_mb_s"] > 0
            assert storage.probe("s3://my-runs/b", "mark-1", beacon.name)["sees"] is False
        left = [one["Key"] for one in s3.list_objects_v2(Bucket="my-runs").get("Contents", [])]
        assert [key for key in left if not key.endswith("/")] == []
        assert "no-such-bucket" in storage.probe("s3://no-such-bucket/runs", "mark")["error"]
    finally:
        server.stop()


def test_a_bucket_whose_packets_vanish_is_not_waited_for_for_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    from pyarrow import fs

    asked: dict[str, Any] = {}

    def refuse(**settings: Any) -> None:
        asked.update(settings)
        raise OSError("no packet came back")

    monkeypatch.setattr(fs, "S3FileSystem", refuse)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://10.255.255.1")
    said = storage.probe("s3://bucket/runs", "mark")
    assert said["error"] == "OSError: no packet came back"
    assert asked["endpoint_override"] == "http://10.255.255.1"
    assert asked["connect_timeout"] <= 5
    assert isinstance(asked["retry_strategy"], fs.AwsStandardS3RetryStrategy)


def test_google_is_not_waited_for_without_end() -> None:
    from pyarrow import fs

    assert storage._limited("gs://b/runs?project_id=p") == "gs://b/runs?project_id=p&retry_limit_seconds=20"
    assert storage._limited("gs://b/runs?retry_limit_seconds=3") == "gs://b/runs?retry_limit_seconds=3"
    # pyarrow knows the option, and would refuse one that it does not know.
    assert fs.FileSystem.from_uri(storage._limited("gs://anonymous@b/runs"))[1] == "b/runs"
    with pytest.raises(ValueError, match="retry_limit"):
        fs.FileSystem.from_uri("gs://anonymous@b/runs?retry_limit=20")


def test_nodes_are_asked_also_where_the_driver_cannot_write(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed:
        type_name = "s3"

        def open_output_stream(self, path: str) -> None:
            raise OSError("ACCESS_DENIED")

    monkeypatch.setattr(storage, "_open", lambda root: (Closed(), root))
    monkeypatch.setattr(nodes, "_everywhere", lambda work, arguments, nodes: (list(arguments), {}))
    asked, _ = nodes._probe([{}, {}], "s3://b/runs", "mark")
    assert asked == [("s3://b/runs", "mark-0", None), ("s3://b/runs", "mark-1", None)]


def test_storage_that_gives_back_something_else_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyarrow import fs

    class Forgetful:
        type_name = "local"
        inner = fs.LocalFileSystem()

        def open_input_stream(self, path: str) -> Any:
            Path(path).write_bytes(b"something else")
            return self.inner.open_input_stream(path)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

    monkeypatch.setattr(storage, "_open", lambda root: (Forgetful(), root))
    assert "read back otherwise" in storage.probe(str(tmp_path), "mark")["error"]


def test_a_port_answers_or_not() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert network.answers("GCS", address, needed=True).error is None
    with socket.socket() as silent:
        # Held and not listened on: a port that is given back may be another's the next moment.
        silent.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        assert "refused" in (network.answers("GCS", address, needed=True).error or "")
    assert "HOST:PORT" in (network.answers("GCS", "head", needed=True).error or "")


def test_the_token_is_where_ray_looks_for_it(tmp_path: Path) -> None:
    home, other = tmp_path / "home", tmp_path / "other"
    (home / ".ray").mkdir(parents=True)
    default = home / ".ray" / "auth_token"
    assert network.token_facts({}, home).source is None
    default.write_text("default\n")
    default.chmod(0o640)
    other.write_text("other\n")
    found = network.token_facts({"RAY_AUTH_MODE": "TOKEN"}, home)
    assert (found.mode, found.source, found.file_mode) == ("token", str(default), 0o640)
    assert network.the_token({}, home) == "default"
    assert network.the_token({"RAY_AUTH_TOKEN_PATH": str(other)}, home) == "other"
    both = {"RAY_AUTH_TOKEN_PATH": str(other), "RAY_AUTH_TOKEN": "set"}
    assert network.the_token(both, home) == "set"
    # A variable's token has no file that others could read.
    assert network.token_facts(both, home).file_mode is None
    other.write_text("")
    assert network.token_facts({"RAY_AUTH_TOKEN_PATH": str(other)}, home).source is None


class Dashboard(http.server.BaseHTTPRequestHandler):
    """Answers as Ray's does, with ``right`` as its token."""

    mode: ClassVar[str] = "token"

    def do_GET(self) -> None:
        if self.path == "/api/authentication_mode":
            self.answer(200, {"authentication_mode": self.mode})
        elif self.mode == "token" and self.headers.get("Authorization") != "Bearer right":
            self.answer(401 if "Authorization" not in self.headers else 403, {})
        else:
            self.answer(200, {"ray_version": "2.60.0"})

    def answer(self, code: int, said: dict[str, str]) -> None:
        self.send_response(code)
        self.end_headers()
        self.wfile.write(json.dumps(said).encode())

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def dashboard() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Dashboard) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("environment", "refused", "ray", "level"),
    [
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "right"}, False, "2.60.0", "ok"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "wrong"}, True, None, "fail"),
        ({"RAY_AUTH_MODE": "token"}, False, None, "fail"),
        ({"RAY_AUTH_TOKEN": "right"}, False, "2.60.0", "fail"),
    ],
)
def test_a_dashboard_says_whether_it_takes_the_token(
    dashboard: str, tmp_path: Path, environment: dict[str, str], refused: bool, ray: str | None, level: str
) -> None:
    said = network.ask_dashboard(dashboard, environment, tmp_path)
    assert said == {"error": None, "mode": "token", "refused": refused, "ray": ray}
    held = network.token_facts(environment, tmp_path, said["mode"])
    facts_ = checks.TokenFacts(held.mode, held.source, held.file_mode, held.cluster, refused)
    assert [one.level for one in checks.token(facts_)] == [level]


def test_a_dashboard_that_is_not_there_is_told(
    pkdray: Callable[..., Said], dashboard: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/nonexistent")
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    said = pkdray("doctor", "--address", dashboard, "--json")
    assert said.code == 1
    assert [one["check"] for one in json.loads(said.out)["findings"] if one["level"] == "fail"] == ["token"]
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        of_dashboard = pkdray("doctor", "--address", f"http://{address}")
        said = pkdray("doctor", "--address", address)
    assert of_dashboard.code == 1
    assert f"dashboard does not answer at http://{address}" in of_dashboard.out
    assert said.code == 1
    assert f"GCS does not answer at {address}" in said.out
    assert "ray start --head" in said.out


def test_a_jobs_findings_are_found_among_its_other_lines() -> None:
    one = Finding("python", "fail", "3.12.1 {", "Install the same.", ("worker-1", "worker-2"))
    text = json.dumps({"address": "auto", "counts": {"ok": 1}, "findings": [one.as_dict()]}, indent=2)
    log = f"2026 INFO {{\nnot json\nLooking at every node of auto ...\n{text}\nbye {{}}\n"
    said = remote.document(log)
    assert said is not None
    assert remote.findings_of(said) == [one]
    assert remote.document("Traceback\n{\n}\n") is None


def test_alone_it_examines_this_machine_and_starts_no_ray(
    pkdray: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray.init", lambda **_: pytest.fail("it started Ray"))
    monkeypatch.setattr(facts, "_ASK_TORCH", 'print(\'{"cuda": null, "gpus": []}\')')
    said = pkdray("doctor", "--runs-dir", "runs", "--holds", str(10**15), "--json")
    found = {one["check"]: one for one in json.loads(said.out)["findings"]}
    # No machine holds a petabyte, which is a fail, so the exit code is 1.
    assert said.code == 1
    assert "1e+03 TB" in found["object store"]["found"]
    assert found["storage"]["level"] in ("ok", "warn")
    assert list(tmp_path.iterdir()) == []
    said = pkdray("doctor", "--address", "http://127.0.0.1:1", "--runs-dir", "runs")
    assert said.code == 2
    assert "absolute path on the cluster" in said.err
    said = pkdray("doctor", "no_such_space")
    assert said.code == 2
    assert "no file no_such_space" in said.err
