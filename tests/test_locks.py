"""A lock file has one holder, who is told to others, and frees it by dying."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pkdray.errors import StorageError
from pkdray.locks import BusyError, locked, locked_by, note, own_note

HOLD = """
import sys, time
from pathlib import Path
from pkdray.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_lock_of_another_process_is_refused_with_its_name_and_had_when_that_was_killed(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    path.write_text("process 99999999 on a machine with a long name that held it before")
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        expected = own_note().replace(str(os.getpid()), str(other.pid))
        with pytest.raises(BusyError) as refused, locked(path):
            pytest.fail("two hold it")
        assert (refused.value.holder, locked_by(path)) == (expected, expected)
        other.send_signal(signal.SIGKILL)
    assert locked_by(path) is None
    with locked(path):
        assert locked_by(path) == own_note()


def test_whoever_only_asks_for_the_holder_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / ".lock"
    path.write_text(note(4_000_000, "a machine of long ago"))
    with path.open() as reader:
        fcntl.flock(reader, fcntl.LOCK_SH | fcntl.LOCK_NB)
        monkeypatch.setattr(time, "sleep", lambda _seconds: fcntl.flock(reader, fcntl.LOCK_UN))
        with locked(path):
            assert locked_by(path) == own_note()


def test_a_holder_that_has_not_written_its_name_yet_is_one_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with path.open("a+") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert locked_by(path) == "another process"
        with pytest.raises(BusyError, match="another process"), locked(path):
            pytest.fail("two hold it")


def test_a_process_cannot_hold_it_twice_and_asking_who_holds_it_makes_no_file(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    assert locked_by(path) is None
    assert not path.exists()
    with locked(path), pytest.raises(BusyError), locked(path):
        pytest.fail("held twice")


def test_a_file_system_without_locks_is_told_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(StorageError, match=r"file system of .*\.lock has no locks") as told, locked(tmp_path / ".lock"):
        pytest.fail("held without a lock")
    assert "file:///" in str(told.value.cure)
