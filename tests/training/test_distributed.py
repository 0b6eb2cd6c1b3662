"""A function on several workers under Ray Train: its reports, its faults, and what it leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from patience import until
from ray.util import placement_group_table

from pkdray.errors import StorageError
from pkdray.training.distributed import Team, run_on_workers

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("local_ray")]

PAIR = Team(2, max_failures=1)


@pytest.fixture
def wait_until_free() -> Callable[[], bool]:
    """Fails if what a team takes in the test is not given back; others may still hold what is theirs."""
    before = held()
    return lambda: until(lambda: not held() - before)


def held() -> set[str]:
    """The placement groups of this Ray."""
    return {group for group, about in placement_group_table().items() if about["state"] != "REMOVED"}


def test_reports_arrive_in_order_and_the_first_worker_answers(
    tmp_path: Path, wait_until_free: Callable[[], bool]
) -> None:
    def loop(settings: dict[str, Any], workers: Any, _device: str, report: Any) -> str:
        for epoch in range(5):
            report({"epoch": float(epoch)})
        return f"{settings['greeting']} from {workers.rank} of {workers.size}"

    seen: list[dict[str, float]] = []
    said = run_on_workers(loop, {"greeting": "hello"}, PAIR, tmp_path, "talk", seen.append)
    assert said == "hello from 0 of 2"
    assert [entry["epoch"] for entry in seen] == [0, 1, 2, 3, 4]
    assert list(tmp_path.iterdir()) == []
    wait_until_free()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_fault_of_one_worker_ends_all_of_them(tmp_path: Path, rank: int, wait_until_free: Callable[[], bool]) -> None:
    def loop(settings: dict[str, Any], workers: Any, _device: str, _report: Any) -> None:
        torch.distributed.barrier()
        if workers.rank == settings["rank"]:
            raise StorageError("The disk is full.", cure="Free some space.")
        # The others wait for one that will not come.
        torch.distributed.barrier()

    with pytest.raises(StorageError, match=r"The disk is full\."):
        run_on_workers(loop, {"rank": rank}, PAIR, tmp_path, "fault")
    assert list(tmp_path.iterdir()) == []
    wait_until_free()
