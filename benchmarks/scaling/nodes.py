"""Several nodes on one machine: what one more costs the driver, and what a study takes of its object store."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from benchmarks.scaling.driver import talk
from pkdray.embeddings import SharedArrays

Row = dict[str, Any]
TEACHERS, WIDTH, OUTPUTS, PREVALENT, PRIVILEGED = 3, 256, 8, 1024, 1024


def measure(folder: Path, nodes: list[int], samples: int, trials: int) -> Iterator[Row]:
    """A cluster of each size: a sweep of trials that train nothing, and a study's arrays mapped on every node."""
    for count in nodes:
        home = tempfile.mkdtemp(prefix="pkdray-scaling-", dir="/tmp")
        cluster = Cluster()
        try:
            for index in range(count):
                first = {"include_dashboard": False, "temp_dir": home} if index == 0 else {}
                cluster.add_node(num_cpus=1, object_store_memory=256 << 20, **first)
            ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
            talk(folder / f"warm-{count}", SharedArrays.put({}), count, 1, count)
            yield talk(folder / f"nodes-{count}", SharedArrays.put({}), trials, 1, count)
            yield from store(samples)
        finally:
            ray.shutdown()
            cluster.shutdown()
            shutil.rmtree(home, ignore_errors=True)


def store(samples: int) -> Iterator[Row]:
    """What each node's store holds more once a process there has mapped the study's arrays."""
    before = held()
    shared = SharedArrays.put(study_of(samples))
    for node in before:
        pinned = NodeAffinitySchedulingStrategy(node, soft=False)
        for _ in range(2):
            ray.get(ray.remote(num_cpus=0)(_map).options(scheduling_strategy=pinned).remote(shared))
    after = held()
    for index, node in enumerate(before):
        yield {
            "what": "object store",
            "nodes": len(before),
            "node": index,
            "samples": samples,
            "formula_bytes": samples * bytes_a_sample(),
            "nbytes": shared.nbytes(),
            "held_bytes": after[node] - before[node],
        }


def study_of(samples: int) -> dict[str, dict[str, np.ndarray]]:
    """Arrays of the shapes that a sweep shares: input, target, and what each teacher says of every sample."""
    arrays: dict[str, np.ndarray] = {
        "input": np.ones((samples, PREVALENT), np.float32),
        "target": np.ones(samples, np.int64),
    }
    for teacher in range(TEACHERS):
        arrays[f"{teacher}/embedding"] = np.ones((samples, WIDTH), np.float32)
        arrays[f"{teacher}/prediction"] = np.ones((samples, OUTPUTS), np.float32)
        arrays[f"{teacher}/loss"] = np.ones(samples, np.float32)
        arrays[f"{teacher}/gamma"] = np.ones(samples, np.float32)
    arrays["privileged"] = np.ones((samples, PRIVILEGED), np.float32)
    return {"train": arrays}


def bytes_a_sample() -> int:
    """Of one step: 4 (inputs + teachers x (embedding + outputs + 2) + privileged) + 8 for a class."""
    return 4 * (PREVALENT + TEACHERS * (WIDTH + OUTPUTS + 2) + PRIVILEGED) + 8


def _map(shared: SharedArrays) -> int:
    return sum(len(array) for array in shared.get()["train"].values())


def held() -> dict[str, int]:
    """Bytes in each living node's object store, by its id."""
    from ray._private.internal_api import node_stats

    return {
        node["NodeID"]: node_stats(
            node["NodeManagerAddress"], node["NodeManagerPort"], include_memory_info=False
        ).store_stats.object_store_bytes_used
        for node in ray.nodes()
        if node["Alive"]
    }
