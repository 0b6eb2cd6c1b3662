"""optuna-dashboard on a run, which changes nothing in it; and TensorBoard's files made afterwards."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from optuna.samplers import RandomSampler

from pkdray.errors import ConfigError, RunError
from pkdray.files import checksum
from pkdray.search.dashboard import dashboard_server
from pkdray.search.events import write_events
from pkdray.search.run import Run
from pkdray.search.space import suggest
from pkdray.search.trial import CURVES
from pkdray.training.plan import Plan

pytest.importorskip("optuna_dashboard")


@pytest.fixture
def run(tmp_path: Path, study: Callable[..., Plan]) -> Run:
    """A ledger of a complete, a pruned and a failed trial, and one that is running."""
    made = Run.create(tmp_path / "runs" / "digits", study(), ["pkdray", "sweep", "digits"])
    ledger = made.ledger()
    for number in range(4):
        trial = ledger.ask(lambda number: RandomSampler(seed=number))
        suggest(made.config.search.space, trial, {})
        for epoch in (1, 2):
            ledger.report(number, epoch, 0.25 * epoch)
    curves = pd.DataFrame({"epoch": [1, 2, 3], "accuracy": [0.25, 0.5, 0.75], "finished": [False, False, True]})
    made.trial(0).mkdir(parents=True)
    curves.to_parquet(made.trial(0) / CURVES)
    ledger.complete(0, 0.75, {"method": "kl", "epochs": 3, "metrics": {"accuracy": 0.75}})
    ledger.prune(1)
    ledger.fail(2, "The training loss became nan in epoch 3.")
    return made


def get(url: str) -> object:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return json.load(answer)


def test_the_dashboard_shows_the_study_and_cannot_change_it(run: Run) -> None:
    before = checksum(run.path / "study.db")
    with dashboard_server(run.path, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            (study,) = get(f"{url}/api/studies")["study_summaries"]
            assert study["study_name"] == "pkdray"
            detail = get(f"{url}/api/studies/{study['study_id']}?after=0")
            assert [trial["state"] for trial in detail["trials"]] == ["Complete", "Pruned", "Fail", "Running"]
            page = urllib.request.urlopen(f"{url}/dashboard/", timeout=60).read()
            assert b"<html" in page.lower()
            for method, path in (("DELETE", f"/api/studies/{study['study_id']}"), ("POST", "/api/studies")):
                request = urllib.request.Request(url + path, data=b"{}", method=method)
                with pytest.raises(urllib.error.HTTPError, match="403"):
                    urllib.request.urlopen(request, timeout=60)
            with pytest.raises(RunError, match="is in use") as told:
                dashboard_server(run.path, "127.0.0.1", server.server_port)
            assert "--port" in str(told.value)
        finally:
            server.shutdown()
            thread.join()
    assert checksum(run.path / "study.db") == before
    assert not run.is_active()


def test_without_optuna_dashboard_it_is_said_how_to_get_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    with pytest.raises(ConfigError, match="not installed") as told:
        dashboard_server(run.path, "127.0.0.1", 0)
    assert 'pip install -e ".[dashboard]"' in str(told.value)


def test_the_files_for_tensorboard_are_made_once_of_the_trials_that_have_ended(run: Run) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    before = checksum(run.path / "study.db")
    assert write_events(run) == 3
    assert write_events(run) == 0, "they are there"
    folder = run.path / "tensorboard"
    assert sorted(path.name for path in folder.iterdir()) == ["0", "1", "2"]
    points = {}
    for number, name in ((0, "accuracy"), (1, "best"), (2, "best")):
        events = accumulator.EventAccumulator(str(folder / str(number)))
        events.Reload()
        points[number] = [(event.step, event.value) for event in events.Scalars(name)]
    assert points == {0: [(1, 0.25), (2, 0.5), (3, 0.75)], 1: [(1, 0.25), (2, 0.5)], 2: [(1, 0.25), (2, 0.5)]}
    shutil.rmtree(folder / "1")
    assert write_events(run) == 1
    assert checksum(run.path / "study.db") == before


def test_the_command_serves_until_ctrl_c_and_says_how_to_open_tensorboard(run: Run) -> None:
    with subprocess.Popen(
        # As a script has it that puts it in the background.
        [
            *("sh", "-c", 'trap "" INT; exec "$@"', "sh"),
            *(sys.executable, "-m", "pkdray", "dashboard", str(run.path), "--port", "0", "--json"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        alarm = threading.Timer(120, process.kill)
        alarm.start()
        assert process.stdout is not None
        document = ""
        while not document.endswith("}\n"):
            line = process.stdout.readline()
            assert line, "it ended before it said where it serves"
            document += line
        said = json.loads(document)
        assert said["tensorboard"].startswith("tensorboard --logdir ")
        assert get(f"{said['url']}api/studies")["study_summaries"][0]["study_name"] == "pkdray"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
        alarm.cancel()
    assert (process.returncode, "Traceback" in err) == (0, False), err
