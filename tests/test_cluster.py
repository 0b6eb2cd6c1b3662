"""Where it runs: whose Ray it is, what it leaves behind, and what is said when none answers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pkdray.cluster import connected
from pkdray.errors import RunError


@pytest.fixture
def inits(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What ``ray.init`` is called with; nothing is started."""
    import ray

    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: calls.append({"shutdown": True}))
    monkeypatch.setattr(ray, "init", lambda **settings: calls.append(settings))
    monkeypatch.setattr("pkdray.cluster.free_orphans", lambda: calls.append({"freed": True}))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return calls


def test_a_local_ray_has_a_folder_of_its_own_that_goes_with_it(inits: list[dict[str, Any]]) -> None:
    with connected():
        folder = Path(inits[0]["_temp_dir"])
        assert folder.is_dir()
        assert str(os.getpid()) in folder.name
        assert len(str(folder)) < 40, "Ray puts sockets below it, whose paths may have 107 characters"
        assert "address" not in inits[0]
        assert inits[0]["include_dashboard"] is False
    assert not folder.exists()
    assert inits[-1] == {"shutdown": True}


def test_the_folder_goes_when_the_work_fails(inits: list[dict[str, Any]]) -> None:
    with pytest.raises(ZeroDivisionError), connected():
        1 / 0  # noqa: B018
    assert not Path(inits[0]["_temp_dir"]).exists()
    assert inits[-1] == {"shutdown": True}


def test_the_named_cluster_is_used_before_that_of_the_environment(
    inits: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "ray-head:6379")
    with connected("10.0.0.7:6379"):
        pass
    with connected():
        pass
    assert [call["address"] for call in inits if "address" in call] == ["10.0.0.7:6379", "ray-head:6379"]


def test_what_killed_jobs_hold_is_freed_on_a_cluster_which_others_use_too(inits: list[dict[str, Any]]) -> None:
    with connected("10.0.0.7:6379"):
        assert {"freed": True} in inits
    inits.clear()
    with connected():
        assert {"freed": True} not in inits


def test_a_connected_process_stays_as_it_is(inits: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    with connected("10.0.0.7:6379"):
        pass
    assert inits == []


@pytest.mark.parametrize("kind", [ConnectionError, ValueError, RuntimeError])
def test_a_cluster_that_does_not_answer_is_named(
    inits: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    def init(**_: Any) -> None:
        raise kind("Could not reach the GCS.\nA page of Ray's advice.")

    monkeypatch.setattr("ray.init", init)
    with (
        pytest.raises(RunError, match=r"No Ray cluster answers at 10\.0\.0\.7:6379") as caught,
        connected("10.0.0.7:6379"),
    ):
        pass
    assert "RAY_AUTH_MODE=token" in str(caught.value)
    assert "page of Ray's advice" not in str(caught.value)


def test_folders_of_killed_drivers_are_removed_and_those_of_living_ones_kept(inits: list[dict[str, Any]]) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = Path(f"/tmp/pkdray-{dead.pid}-abandoned")
    alive = Path(f"/tmp/pkdray-{os.getpid()}-inuse")
    for folder in (left, alive):
        (folder / "session").mkdir(parents=True)
    try:
        with connected():
            assert not left.exists()
            assert alive.exists()
    finally:
        (alive / "session").rmdir()
        alive.rmdir()


def test_what_the_user_has_set_wins(inits: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AIR_NEW_OUTPUT", "1")
    monkeypatch.delenv("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", raising=False)
    with connected():
        assert os.environ["RAY_AIR_NEW_OUTPUT"] == "1"
        assert os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] == "1"
