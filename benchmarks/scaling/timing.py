"""How long something took: by the wall, and of this process's CPU, which other work on the machine leaves alone."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class Cost(NamedTuple):
    """Seconds."""

    wall: float
    cpu: float


def timed(work: Callable[[], T]) -> tuple[T, Cost]:
    """What the work returns, and what it cost, its threads included."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, Cost(time.perf_counter() - wall, time.process_time() - cpu)


def middle(costs: list[Cost]) -> Cost:
    """The medians."""
    return Cost(median(cost.wall for cost in costs), median(cost.cpu for cost in costs))


def load() -> float:
    """How many processes want to run, over the last minute."""
    return round(os.getloadavg()[0], 1)


def row(what: str, cost: Cost, **facts: Any) -> dict[str, Any]:
    """A line of a table."""
    return {"what": what, **facts, "cpu_seconds": round(cost.cpu, 6), "wall_seconds": round(cost.wall, 6)}
