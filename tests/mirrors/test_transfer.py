"""Folders on storage and their mirrors, on a file system and on a real S3 server."""

from __future__ import annotations

import copy
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import IO

import pytest
from patience import PATIENCE_SECONDS
from s3 import Server

from pkdray import mirrors
from pkdray.errors import StorageError

Move = Callable[[str], None]


@pytest.fixture(params=["s3", "file"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URI of an empty folder, on each kind of storage; mirrors lie in a folder of the test's own."""
    server: Server = request.getfixturevalue("s3_server")
    return server.uri("folder") if request.param == "s3" else f"file://{tmp_path}/storage"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def texts(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_plain_path_stays_what_it_is_and_nothing_moves(tmp_path: Path) -> None:
    path = mirrors.open_root(str(tmp_path / "runs"))
    assert type(path) is type(Path())
    assert (mirrors.uri_of(path), mirrors.shown(path)) == (None, str(path))
    write(path / "a", "1")
    for move in (mirrors.pull, mirrors.push, mirrors.remove):
        move(path)
    mirrors.pull_file(path / "a")
    mirrors.push_file(path / "gone")
    assert texts(path) == {"a": "1"}
    assert (mirrors.exists(path / "a"), mirrors.exists(path / "b")) == (True, False)


@pytest.mark.parametrize(
    ("uri", "same"),
    [
        ("s3://bucket/runs/", "s3://bucket/runs"),
        ("s3://bucket", "s3://bucket"),
        ("gs://bucket/a//b/./c", "gs://bucket/a/b/c"),
        ("file:///data/my runs", "file:///data/my runs"),
    ],
)
def test_a_uri_and_its_path_name_each_other(uri: str, same: str) -> None:
    path = mirrors.open_root(uri)
    assert mirrors.uri_of(path) == same
    assert mirrors.uri_of(path / "demo") == f"{same}/demo"
    assert mirrors.uri_of(Path(str(path))) == same, "whatever its type"
    assert mirrors.open_root(str(path)) == path
    assert isinstance(mirrors.open_root(str(path)), mirrors.MirrorPath)
    assert isinstance((path / "a").resolve().parent, mirrors.MirrorPath)


def test_a_path_sent_to_another_machine_is_that_machines_own_mirror(machine: Move, tmp_path: Path) -> None:
    rebuild, arguments = (mirrors.open_root("s3://bucket/runs") / "demo").__reduce__()
    machine("b")
    assert rebuild(*arguments) == tmp_path / "machine-b" / "s3" / "bucket" / "runs" / "demo"
    assert copy.copy(mirrors.MirrorPath("/elsewhere")) == Path("/elsewhere")


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("s3://key:s3cret@bucket/runs", "credentials"),
        ("s3://bucket:9000/runs", "credentials, or a port"),
        ("s3://bucket/runs?endpoint_override=localhost", "options behind its path"),
        ("ftp://host/runs", "no storage that pkdray knows: ftp://"),
        ("s3:///runs", "names no folder"),
        ("file://runs", "names no folder"),
        ("s3://bucket/../other", "names no folder"),
    ],
)
def test_a_uri_that_cannot_be_used_is_refused_with_a_cure_and_without_its_secret(uri: str, said: str) -> None:
    with pytest.raises(StorageError) as refused:
        mirrors.open_root(uri)
    assert said in refused.value.what
    assert refused.value.cure
    assert "s3cret" not in str(refused.value)


def test_what_one_machine_pushes_another_pulls_and_only_what_changed(root: str, machine: Move) -> None:
    here = mirrors.open_root(root)
    for name in ("a", "deep/er/b", "c"):
        write(here / name, name * 3)
    write(here / ".lock", "mine")
    mirrors.push(here)
    before = {name: (here / name).stat().st_mtime_ns for name in ("a", "c")}
    machine("b")
    there = mirrors.open_root(root)
    mirrors.pull(there)
    assert texts(there) == {"a": "aaa", "deep/er/b": "deep/er/b" * 3, "c": "ccc"}
    inode = (there / "a").stat().st_ino
    write(there / "c", "changed")
    (there / "deep/er/b").unlink()
    mirrors.push(there, gone=True)
    mirrors.pull(there)
    assert (there / "a").stat().st_ino == inode, "what has not changed does not travel"
    machine("a")
    assert (here / "a").stat().st_mtime_ns == before["a"]
    mirrors.pull(here)
    assert texts(here) == {"a": "aaa", "c": "changed", ".lock": "mine"}
    assert not (here / "deep").exists(), "storage has no empty folders"


def test_unpushed_work_is_kept_unless_what_is_remote_is_newer_or_asked_for(root: str, machine: Move) -> None:
    here = mirrors.open_root(root)
    write(here / "checkpoint", "epoch 3")
    mirrors.push(here)
    write(here / "checkpoint", "epoch 5")
    os.utime(here / "checkpoint", ns=(0, time.time_ns() + 10**10 + 7))
    write(here / "new", "unpushed")
    mirrors.pull(here)
    assert texts(here) == {"checkpoint": "epoch 5", "new": "unpushed"}
    os.utime(here / "checkpoint", ns=(0, 10**18 + 7))
    mirrors.pull(here)
    assert texts(here) == {"checkpoint": "epoch 3", "new": "unpushed"}, "another machine has gone on with it since"
    mirrors.pull(here, exact=True)
    assert texts(here) == {"checkpoint": "epoch 3"}


def test_names_directly_below_can_be_left_out(root: str, machine: Move) -> None:
    here = mirrors.open_root(root)
    for name in ("run.yaml", "study.db", "best/model", "trials/0/result", "trials/1/result"):
        write(here / name, name)
    mirrors.push(here, skip=("study.db",))
    machine("b")
    there = mirrors.open_root(root)
    mirrors.pull(there, skip=("trials",))
    assert sorted(texts(there)) == ["best/model", "run.yaml"]
    assert mirrors.folders(there) == ["best", "trials"]
    assert sorted(mirrors.listing(there / "trials")) == ["0/result", "1/result"]
    mirrors.forget(there / "trials", "*/result")
    assert mirrors.listing(there / "trials") == {}


def test_single_files_come_go_and_are_looked_for(root: str, machine: Move) -> None:
    path = mirrors.open_root(root) / "steps" / "frozen.npy"
    assert (mirrors.have(path), mirrors.exists(path), mirrors.stat(path), mirrors.read(path)) == (
        False,
        False,
        None,
        None,
    )
    write(path, "steps")
    mirrors.push_file(path)
    assert mirrors.exists(path)
    assert mirrors.exists(path.parent)
    stamp = mirrors.stat(path)
    assert stamp is not None
    assert (stamp.size, mirrors.read(path)) == (5, b"steps")
    machine("b")
    there = mirrors.open_root(root) / "steps" / "frozen.npy"
    assert mirrors.have(there)
    assert there.read_text() == "steps"
    there.unlink()
    mirrors.push_file(there)
    assert not mirrors.exists(there)
    machine("a")
    mirrors.pull_file(path)
    assert not path.exists(), "it was the storage's, and is gone there"


def test_a_file_that_is_replaced_while_it_travels_is_sent_again(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    here = mirrors.open_root(root)
    write(here / "last", "epoch 1")
    real = mirrors.transfer.upload

    def slow(source: object, path: Path) -> mirrors.Stamp:
        stamp = real(source, path)  # type: ignore[arg-type]
        (here / "aside").write_text("epoch 2")
        (here / "aside").replace(here / "last")
        return stamp

    monkeypatch.setattr(mirrors.transfer, "upload", slow)
    mirrors.push(here)
    assert mirrors.read(here / "last") == b"epoch 1"
    monkeypatch.setattr(mirrors.transfer, "upload", real)
    mirrors.push(here)
    assert mirrors.read(here / "last") == b"epoch 2"


def test_a_folder_is_fetched_whole_into_a_new_folder(root: str, tmp_path: Path) -> None:
    here = mirrors.open_root(root)
    for name in ("config.yaml", "deep/model"):
        write(here / name, name)
    mirrors.push(here)
    assert mirrors.fetch(here, tmp_path / "student") == ["config.yaml", "deep/model"]
    assert texts(tmp_path / "student") == {"config.yaml": "config.yaml", "deep/model": "deep/model"}
    with pytest.raises(StorageError, match="is not empty"):
        mirrors.fetch(here, tmp_path / "student")
    with pytest.raises(StorageError, match="no folder to fetch"):
        mirrors.fetch(here / "none", tmp_path / "other")
    assert not (tmp_path / "other").exists()


PULL = """
import sys
from pkdray import mirrors
mirrors.pull(mirrors.open_root(sys.argv[1]))
"""


def test_two_processes_of_a_machine_do_not_pull_the_same_file_twice(s3_server: Server, machine: Move) -> None:
    here = mirrors.open_root(s3_server.uri("data"))
    write(here / "big", "x" * 3_000_000)
    mirrors.push(here)
    machine("b")
    there = mirrors.open_root(s3_server.uri("data"))
    with mirrors.alone(there):
        started = [subprocess.Popen([sys.executable, "-c", PULL, s3_server.uri("data")]) for _ in range(2)]
        threading.Event().wait(0.5)
        assert not there.exists(), "both wait"
    assert [process.wait(PATIENCE_SECONDS) for process in started] == [0, 0]
    assert (there / "big").stat().st_size == 3_000_000


def test_a_bucket_that_is_not_there_is_told(s3_server: Server) -> None:
    for ask in (mirrors.pull, mirrors.exists, mirrors.push):
        with pytest.raises(StorageError, match="s3://no-such-bucket: there is no such bucket") as refused:
            ask(mirrors.open_root("s3://no-such-bucket/runs"))
        assert "Check its name" in str(refused.value)


def test_a_storage_that_does_not_answer_is_told_soon(monkeypatch: pytest.MonkeyPatch, s3_server: Server) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        with pytest.raises(StorageError, match=f"there is no connection to {endpoint}") as refused:
            mirrors.pull(mirrors.open_root(s3_server.uri("runs")))
    assert "AWS_ENDPOINT_URL" in str(refused.value.cure)


class Refuses(BaseHTTPRequestHandler):
    def _refuse(self) -> None:
        self.send_response(403)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD = do_PUT = _refuse  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.mark.parametrize("keys", [True, False])
def test_a_refusal_is_told_with_what_to_check(keys: bool, monkeypatch: pytest.MonkeyPatch, s3_server: Server) -> None:
    server = HTTPServer(("127.0.0.1", 0), Refuses)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    if not keys:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    try:
        with pytest.raises(StorageError, match="the storage refuses it") as refused:
            mirrors.pull(mirrors.open_root(s3_server.uri("runs")))
    finally:
        server.shutdown()
        server.server_close()
    cure = str(refused.value.cure)
    assert cure.startswith("Check the keys" if keys else "No credentials are in the environment")


def test_a_folder_of_a_file_system_that_cannot_be_written_is_told(tmp_path: Path, machine: Move) -> None:
    write(tmp_path / "storage", "a file")
    here = mirrors.open_root(f"file://{tmp_path}/storage/runs")
    write(here / "a", "1")
    with pytest.raises(StorageError, match=r"Cannot write file:///.*/a: ") as refused:
        mirrors.push(here)
    assert "permissions" in str(refused.value.cure)


class Refusing:
    """A bucket whose server fails at the end of a file, as S3 does where it is asked to slow down."""

    type_name = "s3"

    def __init__(self) -> None:
        self.names = {"bucket/study.db"}

    def open_output_stream(self, name: str) -> Refusing:
        return self

    def write(self, content: bytes) -> None: ...

    def close(self) -> None:
        raise OSError("SLOW_DOWN")

    def delete_file(self, name: str) -> None:
        self.names.remove(name)


def test_a_write_that_the_storage_refuses_leaves_what_was_there(machine: Move, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = Refusing()
    monkeypatch.setattr(
        "pkdray.mirrors.remote._place", lambda _path: (bucket, "bucket/study.db", "s3://bucket/study.db")
    )
    with pytest.raises(StorageError, match="Cannot write s3://bucket/study"):
        mirrors.write(mirrors.open_root("s3://bucket/study.db"), b"new")
    assert bucket.names == {"bucket/study.db"}


def test_ctrl_c_while_a_file_is_replaced_leaves_a_whole_one(
    root: str, machine: Move, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = mirrors.open_root(f"{root}/study.db")
    mirrors.write(path, b"before")
    monkeypatch.setattr("pkdray.mirrors.remote._BLOCK", 2)
    send = mirrors.transfer.upload

    class Interrupted:
        def __init__(self, source: IO[bytes]) -> None:
            self.source, self.blocks = source, 0

        def read(self, size: int) -> bytes:
            self.blocks += 1
            if self.blocks == 2:
                signal.raise_signal(signal.SIGINT)
            return self.source.read(size)

    monkeypatch.setattr(mirrors.transfer, "upload", lambda source, to: send(Interrupted(source), to))
    with pytest.raises(KeyboardInterrupt):
        mirrors.push_as(write(tmp_path / "copy.db", "after all"), path)
    assert mirrors.read(path) == b"after all"


@pytest.mark.parametrize("how", [StorageError("The network is down."), KeyboardInterrupt()])
def test_what_stops_one_file_stops_those_that_wait(
    root: str, machine: Move, monkeypatch: pytest.MonkeyPatch, how: BaseException
) -> None:
    folder = mirrors.open_root(root)
    for index in range(600):
        # The oldest goes first.
        os.utime(write(folder / str(index), "1"), ns=(0, 10**18 + 1 + index))
    begun, seen = [], threading.Event()

    class Threads(ThreadPoolExecutor):
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            # The files that are under way end when nobody waits for all of them any more.
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            seen.set()
            super().shutdown(wait=wait)

    def put(path: Path) -> None:
        begun.append(path)
        if path.name == "0":
            raise how
        seen.wait()

    monkeypatch.setattr(mirrors.transfer, "ThreadPoolExecutor", Threads)
    monkeypatch.setattr(mirrors.transfer, "_put", put)
    with pytest.raises(type(how)):
        mirrors.push(folder)
    assert len(begun) <= 1 + mirrors.transfer.THREADS
