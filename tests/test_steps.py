"""Steps: what is refused before hours are waited for."""

from __future__ import annotations

from pathlib import Path

import pytest

from pkdray.console import Console
from pkdray.errors import ConfigError
from pkdray.resources import GIB, Node
from pkdray.steps.studies import check_room, load_study, placed
from pkdray.training.pools import Pool

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("local_ray")]


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def test_what_a_local_ray_has_no_room_for_is_refused_field_by_field(tmp_path: Path) -> None:
    assignments = ["resources.cpus_per_trial=1.5", "resources.workers_per_trial=2", "resources.gpus_per_trial=0.5"]
    _, plan = load_study("mfeat_pkd", [*assignments, "resources.workers_per_teacher=3"])
    with pytest.raises(ConfigError) as told:
        check_room(plan, tmp_path, None)
    assert told.value.details == (
        "resources.workers_per_teacher: 3 workers with 1 CPU each, but there are 2",
        "resources.cpus_per_trial: 2 workers with 1.5 CPU each, but there are 2",
        "resources.gpus_per_trial: 2 workers with 0.5 GPU each, but there are 0",
    )
    assert "--set resources.cpus_per_trial=1" in str(told.value)


def test_what_is_there_or_not_needed_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, plan = load_study("mfeat_pkd", ["resources.cpus_per_trial=9", "resources.workers_per_teacher=9"])
    # A cluster may grow, and a finished pool needs no teacher's worker.
    check_room(plan, tmp_path, "head:6379")
    monkeypatch.setattr(Pool, "finished", True)
    check_room(plan, tmp_path, None, trials=False)
    with pytest.raises(ConfigError, match="cpus_per_trial: 1 worker with 9 CPU"):
        check_room(plan, tmp_path, None)
    _, plan = load_study("mfeat_pkd", ["resources.cpus_per_trial=2"])
    check_room(plan, tmp_path, None)


def test_a_machine_without_gpus_changes_nothing_and_one_with_them_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset, plan = load_study("mfeat_pkd", [])
    assert placed(plan, dataset, tmp_path, "head:6379", Console()) == plan
    assert capsys.readouterr().err == ""
    gpus = [Node(16), Node(96, 8, 40 * GIB)]
    monkeypatch.setattr("pkdray.resources.cluster_nodes", lambda: gpus)
    found = placed(plan, dataset, tmp_path, "head:6379", Console())
    assert capsys.readouterr().err == "Resources: 4 trials a GPU, 3 CPUs each.\n"
    assert (found.resources.gpus_per_trial, found.resources.gpus_per_teacher_worker) == (0.25, 1)
    assert found.config == plan.config, "run.yaml keeps auto"
    assert found.pool_fingerprint == plan.pool_fingerprint
    # What a local Ray does not have is refused, whoever decided on it.
    with pytest.raises(ConfigError, match=r"gpus_per_trial: 1 worker with 0\.25 GPU each, but there are 0"):
        placed(plan, dataset, tmp_path, None, Console())
