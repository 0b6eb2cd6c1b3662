"""Following a sweep by its live.json alone."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pkdray.console import Console
from pkdray.errors import RunError
from pkdray.files import write_json
from pkdray.locks import note
from pkdray.search.live import LiveState
from pkdray.steps import watch


def snapshot(state: str, finished: int, **changes: Any) -> dict[str, Any]:
    live = LiveState("demo", metric="accuracy", mode="max", epochs=40)
    for number in range(finished, finished + 2):
        live.started(number, {"method.name": "pkdot", "method.alpha": 0.25}, method="pkdot", epochs=40)
        live.epoch(number, 7, 0.625, rung=4, node="n1", device="cpu")
    counts = {"planned": 9, "complete": finished, "pruned": 0, "failed": 0, "running": 2, "finished": finished}
    best = {"trial": 1, "value": 0.75, "method": "pkdot"}
    return {**live.snapshot(state), "counts": counts, "best": best, **changes}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "demo"
    folder.mkdir(parents=True)
    (folder / "run.yaml").write_text("name: demo\n")
    return folder


@pytest.fixture
def held(run: Path) -> Any:
    """Another process holds the run's lock, in the name of this one."""
    code = f"""
import fcntl, sys
with open({str(run / ".lock")!r}, "a+") as handle:
    fcntl.flock(handle, fcntl.LOCK_EX)
    handle.write({note(os.getpid(), platform.node())!r}); handle.flush()
    print("held", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def following(run: Path, console: Console, steps: list[Callable[[], None]]) -> None:
    remaining = iter(steps)
    watch("demo", run.parent, console, once=False, interval=1.0, pause=lambda _seconds: next(remaining)())


def test_it_follows_until_the_sweep_has_finished(run: Path, held: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def write(state: str, finished: int) -> None:
        write_json(run / "live.json", snapshot(state, finished))

    write("teaching", 0)
    following(run, Console(as_json=True), [lambda: write("running", 3), lambda: write("finished", 9)])
    said = capsys.readouterr()
    assert json.loads(said.out)["state"] == "finished"
    assert "Watching demo" in said.err


def test_an_interrupted_sweep_ends_it_with_how_to_go_on(run: Path) -> None:
    write_json(run / "live.json", snapshot("interrupted", 4))
    with pytest.raises(RunError) as told:
        following(run, Console(), [])
    assert "was interrupted with 5 of 9 trials to go" in told.value.what
    assert "pkdray resume" in str(told.value.cure)


def test_a_resume_that_has_said_nothing_yet_is_waited_for(run: Path, held: Any) -> None:
    write_json(run / "live.json", snapshot("interrupted", 4))
    following(run, Console(), [lambda: write_json(run / "live.json", snapshot("finished", 9))])
    assert json.loads((run / "live.json").read_text())["state"] == "finished"


def test_a_killed_sweep_ends_it_too(run: Path, held: Any) -> None:
    write_json(run / "live.json", snapshot("running", 4))

    def kill() -> None:
        held.kill()
        held.wait()

    with pytest.raises(RunError, match="is dead"):
        following(run, Console(), [kill])


def test_a_sweep_elsewhere_that_falls_silent_is_called_stale_and_still_followed(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long_ago = datetime(2026, 1, 1, tzinfo=UTC).isoformat()
    write_json(run / "live.json", snapshot("running", 4, host="elsewhere", updated=long_ago))
    following(run, Console(), [lambda: write_json(run / "live.json", snapshot("finished", 9))])
    assert "nothing was heard from elsewhere" in capsys.readouterr().err
    write_json(run / "live.json", snapshot("running", 4, host="elsewhere", updated=long_ago))
    watch("demo", run.parent, Console(as_json=True), once=True, interval=1.0)
    assert json.loads(capsys.readouterr().out)["stale"] is True


def test_once_shows_the_table_and_leaves(run: Path, held: Any, pkdray, capsys) -> None:
    write_json(run / "live.json", snapshot("running", 3))
    said = pkdray("watch", str(run), "--once")
    assert said.code == 0
    for part in ("3/9 trials", "accuracy 0.7500", "trial 1, pkdot", "alpha=0.25", "7/40", "n1 cpu"):
        assert part in said.out
    assert "Stale" not in said.out
    held.kill()
    held.wait()
    assert "Stale: the sweep's process" in pkdray("watch", "demo", "--runs-dir", str(run.parent), "--once").out


def test_a_run_that_was_never_swept_and_an_unknown_one_are_mistakes(run: Path, pkdray) -> None:
    said = pkdray("watch", str(run))
    assert (said.code, "no live.json" in said.err) == (2, True)
    said = pkdray("watch", "domo", "--runs-dir", str(run.parent))
    assert (said.code, "Runs in" in said.err) == (2, True)


def test_ctrl_c_ends_it_quietly_and_it_starts_without_the_heavy_libraries(run: Path, held: Any) -> None:
    write_json(run / "live.json", snapshot("running", 3))
    code = f"""
import sys
sys.argv = ["pkdray", "watch", {str(run)!r}, "--interval", "0.1"]
import atexit
atexit.register(lambda: print(sorted({{"torch", "ray", "optuna", "pandas"}} & set(sys.modules))))
from pkdray.__main__ import main
main()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        alarm = threading.Timer(60, process.kill)
        alarm.start()
        assert "Watching demo" in process.stderr.readline()
        assert "3/9 trials done" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
        alarm.cancel()
    assert (process.returncode, out.strip(), err) == (130, "[]", "")
