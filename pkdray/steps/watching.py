"""A run seen from another terminal: its live table, and optuna-dashboard and TensorBoard on it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pkdray import mirrors
from pkdray.console import Console, duration, live_line
from pkdray.errors import RunError
from pkdray.search.folders import find_folder, holder
from pkdray.search.live import FINISHED, INTERRUPTED, is_dead, read_live, silence
from pkdray.steps.wording import short_path


def watch(
    name: str,
    runs_dir: Path,
    console: Console,
    *,
    once: bool,
    interval: float,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Follow a sweep until it has finished, or show where it stands and leave.

    Raises:
        RunError: it was never begun, or it ended with trials still to go.
    """
    folder = find_folder(name, runs_dir)
    if once:
        live = _read(folder)
        note = _note(folder, live)
        if not console.as_json:
            console.show_live(live, note)
        console.result({**live, "stale": bool(note)})
        return
    with console.progress(f"Watching {folder.name} ...") as meter:
        while True:
            live = _read(folder)
            meter.live(live, _note(folder, live))
            if live["state"] == FINISHED or is_dead(folder, live):
                break
            # A resume holds the run before it has anything new to say.
            if live["state"] == INTERRUPTED and holder(folder) is None:
                break
            pause(interval)
    if live["state"] != FINISHED:
        open_trials = live["counts"]["planned"] - live["counts"]["finished"]
        raise RunError(
            f"The sweep {folder.name} {_end(live)} with {open_trials} of {live['counts']['planned']} trials to go.",
            cure=f"Continue it with: pkdray resume {short_path(folder)}",
        )
    console.result(live, f"Sweep {folder.name}: {live_line(live)}")


def _end(live: Mapping[str, Any]) -> str:
    return "was interrupted" if live["state"] == INTERRUPTED else f"is dead (process {live['pid']} is gone)"


def _read(folder: Path) -> dict[str, Any]:
    live = read_live(folder)
    if live is None:
        raise RunError(
            f"The run {folder.name} has no live.json: no sweep has begun there, or one of an older pkdray.",
            cure=f"`pkdray show {short_path(folder)}` shows what is finished.",
        )
    return live


def _note(folder: Path, live: Mapping[str, Any]) -> str:
    """What to think of a state that nobody keeps fresh any more."""
    if is_dead(folder, live):
        return f"Stale: the sweep's process {live['pid']} is gone. Continue with: pkdray resume {short_path(folder)}"
    quiet = silence(live)
    if quiet is None:
        return ""
    return f"Stale: nothing was heard from {live['host']} for {duration(quiet)}; the sweep may be dead."


def dashboard(name: str, runs_dir: Path, console: Console, *, host: str, port: int, serve: bool) -> None:
    """optuna-dashboard on a run's study, and what to type for TensorBoard.

    Raises:
        ConfigError: optuna-dashboard is not installed.
        RunError: the port is taken, or the study cannot be read.
    """
    from pkdray.search.run import find_run

    folder = find_folder(name, runs_dir)
    server = None
    if serve:
        from pkdray.search.dashboard import dashboard_server

        server = dashboard_server(folder, host, port)
    from pkdray.errors import StorageError
    from pkdray.search.events import write_events
    from pkdray.tracking.tensorboard import TENSORBOARD

    # Those that are there need not be made again.
    mirrors.pull(folder / TENSORBOARD)
    try:
        write_events(find_run(str(folder), runs_dir))
    except StorageError as error:
        console.say(f"TensorBoard lacks the trials that have no event files yet: {error.what}")
    # TensorBoard reads this machine's files, of a remote run those of its mirror.
    events = folder / TENSORBOARD
    logs = f"tensorboard --logdir {short_path(events) if mirrors.uri_of(events) is None else events}"
    lines = [f"TensorBoard: {logs}"]
    url = None
    if server is not None:
        url = f"http://{server.server_name if host not in ('127.0.0.1', '::1') else host}:{server.server_port}/"
        lines.insert(0, f"optuna-dashboard, read-only, on {folder.name}: {url} (Ctrl-C ends it)")
    console.result({"url": url, "tensorboard": logs}, *lines)
    if server is not None:
        with server:
            server.serve_forever()
