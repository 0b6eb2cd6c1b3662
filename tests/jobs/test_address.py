"""Where the dashboard is, and what is said when it does not answer, asks for a token, or is something else."""

from __future__ import annotations

import http.server
import json
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from pkdray.errors import JobError
from pkdray.jobs import dashboard_address
from pkdray.jobs.address import probe

Serve = Callable[[int, bytes], str]


@pytest.fixture
def asked() -> list[str]:
    """What the servers of `serve` were asked for."""
    return []


@pytest.fixture
def serve(asked: list[str]) -> Iterator[Serve]:
    """Starts a server on loopback that gives one answer to everything; returns its URL."""
    servers: list[http.server.HTTPServer] = []

    def start(code: int, body: bytes) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                self.send_response(code)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_the_option_wins_over_rays_variables_in_their_order() -> None:
    both = {"RAY_API_SERVER_ADDRESS": "http://one:1", "RAY_ADDRESS": "http://two:2"}
    assert dashboard_address("http://mine:8265/", both) == "http://mine:8265"
    assert dashboard_address(None, both) == "http://one:1"
    assert dashboard_address(None, {"RAY_ADDRESS": "http://two:2"}) == "http://two:2"
    assert dashboard_address(None, {}) == "http://127.0.0.1:8265"


@pytest.mark.parametrize("address", ["ray://head:10001", "s3://bucket", "http://", ""])
def test_what_is_no_address_of_a_dashboard_is_refused(address: str) -> None:
    with pytest.raises(JobError, match=r"--address is .*, which is no address of a dashboard") as told:
        dashboard_address(address, {})
    assert "http://HEAD:8265" in str(told.value)


def test_a_password_in_the_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(JobError, match="RAY_ADDRESS holds a user or a password") as told:
        dashboard_address(None, {"RAY_ADDRESS": "http://me:hush@head:8265"})
    assert "hush" not in str(told.value)


def test_a_dashboard_that_answers_is_taken_after_one_question(serve: Serve, asked: list[str]) -> None:
    url = serve(200, json.dumps({"ray_version": "2.60.0"}).encode())
    probe(url, {})
    assert asked == ["/api/version"]
    with pytest.raises(JobError, match="no version of Ray"):
        probe(serve(200, b"{}"), {})


@pytest.mark.parametrize("code", [401, 403])
def test_a_token_that_is_asked_for_and_not_switched_on_is_said(serve: Serve, code: int) -> None:
    url = serve(code, b"Unauthorized")
    for environment, said in (({}, "not set"), ({"RAY_AUTH_MODE": "disabled"}, "disabled")):
        with pytest.raises(JobError, match=rf"asks for a token \(HTTP {code}\), and RAY_AUTH_MODE is {said}") as told:
            probe(url, environment)
        assert "Set RAY_AUTH_MODE=token" in str(told.value)
    probe(url, {"RAY_AUTH_MODE": "token"})


@pytest.mark.parametrize(("code", "body"), [(404, b"no"), (200, b"<html>a proxy</html>"), (200, b"[]"), (200, b"{}")])
def test_something_else_than_ray_is_told_with_the_ports_that_are_mistaken_for_it(
    serve: Serve, code: int, body: bytes
) -> None:
    url = serve(code, body)
    with pytest.raises(JobError, match=f"What answers at {url} is no Ray dashboard") as told:
        probe(url, {})
    assert "6379 is the cluster's own" in str(told.value)


def test_a_server_that_speaks_no_http_is_no_dashboard() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def grpc() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\n\n")

        threading.Thread(target=grpc, daemon=True).start()
        with pytest.raises(JobError, match="is no Ray dashboard"):
            probe(f"http://127.0.0.1:{server.getsockname()[1]}", {})


def test_nobody_there_is_told_with_the_tunnel_to_open() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        with pytest.raises(
            JobError, match=rf"No Ray dashboard answers at http://127.0.0.1:{port} \(Connection refused\)"
        ) as e:
            probe(f"http://127.0.0.1:{port}", {})
    assert "ssh -L 8265:127.0.0.1:8265" in str(e.value)


def test_silence_is_not_waited_for_long() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(JobError, match=r"No Ray dashboard answers at .* \(timed out\)"):
            probe(url, {}, seconds=0.2)
