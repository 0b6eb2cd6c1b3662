"""Several Ray nodes on one machine, and programs that run on them in processes of their own.

Run as a program, with RAY_ADDRESS set, it is one of those: ``python nodes.py arrays FOLDER`` prints what it measured.
"""

from __future__ import annotations

import faulthandler
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from patience import PATIENCE_SECONDS, until
from processes import own_environment

SAID = "said.txt"
STORE_BYTES = 100 << 20
HEALTH = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 1000, "health_check_failure_threshold": 8}
"""A node that is gone is missed after some 10 s instead of half a minute."""


class Nodes:
    """A head and further nodes of one CPU each; this process is not connected to them."""

    def __init__(self, further: int) -> None:
        from ray.cluster_utils import Cluster

        # Short: Ray puts sockets below it, whose paths may have 107 characters.
        self._folder = tempfile.mkdtemp(prefix=f"pkdray-{os.getpid()}-nodes-", dir="/tmp")
        self._cluster = Cluster()
        self.head = self.add(temp_dir=self._folder, include_dashboard=False, _system_config=HEALTH)
        self.further = [self.add() for _ in range(further)]

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def add(self, **settings: Any) -> Any:
        import ray._private.utils as utils

        # Nobody else on this machine is to find this cluster, nor is what others asked for to count here.
        told, utils.write_ray_address = utils.write_ray_address, lambda *_, **__: None
        overridden = os.environ.pop("RAY_OVERRIDE_RESOURCES", None)
        try:
            return self._cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES, **settings)
        finally:
            utils.write_ray_address = told
            if overridden is not None:
                os.environ["RAY_OVERRIDE_RESOURCES"] = overridden

    def id_of(self, node: Any) -> str:
        sockets = {row["ObjectStoreSocketName"]: row["NodeID"] for row in self._cluster.global_state.node_table()}
        return str(sockets[node.plasma_store_socket_name])

    def kill(self, node: Any) -> None:
        """What a pulled plug does: no process of the node says goodbye."""
        raylet = node.all_processes["raylet"][0].process
        os.kill(raylet.pid, signal.SIGKILL)
        raylet.wait()
        self._cluster.remove_node(node, allow_graceful=False)
        if node in self.further:
            self.further.remove(node)

    def lose(self, node: Any) -> None:
        """Kill a node, and wait until the cluster knows."""
        lost = self.id_of(node)
        self.kill(node)
        table = self._cluster.global_state.node_table
        until(lambda: not any(row["Alive"] for row in table() if row["NodeID"] == lost))

    def kill_head(self) -> None:
        for processes in self.head.all_processes.values():
            for info in processes:
                os.kill(info.process.pid, signal.SIGKILL)
                info.process.wait()

    def actors(self, named: str, *, alive: bool = True) -> list[dict[str, Any]]:
        rows = self._cluster.global_state.actor_table(None).values()
        return [row for row in rows if named in row["ActorClassName"] and (row["State"] == "ALIVE" or not alive)]

    def places(self, named: str, *, alive: bool = True) -> set[str]:
        """The nodes on which actors of a class are, or were."""
        return {row["Address"]["NodeID"] for row in self.actors(named, alive=alive)}

    def close(self) -> None:
        self._cluster.shutdown()
        shutil.rmtree(self._folder, ignore_errors=True)

    @contextmanager
    def pkdray(self, folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """The command line at work on these nodes; what it says goes to a file in the folder."""
        with (folder / SAID).open("w+") as said:
            process = subprocess.Popen(
                [sys.executable, "-m", "pkdray", *arguments, "--address", self.address],
                cwd=folder,
                env=own_environment(),
                stdout=said,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
            try:
                yield process
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def program(self, *arguments: str) -> Any:
        """What this file, run as a program on these nodes, prints."""
        done = subprocess.run(
            [sys.executable, __file__, *arguments],
            env={**own_environment(), "RAY_ADDRESS": self.address},
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_SECONDS,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])


def ended(process: subprocess.Popen[str], folder: Path) -> str:
    """What it said in all, once it has ended well."""
    code = process.wait(PATIENCE_SECONDS)
    said = (folder / SAID).read_text()
    assert code == 0, said[-3000:]
    return said


def _values(rows: int) -> dict[str, dict[str, np.ndarray]]:
    """12 MB of numbers that every process knows."""
    return {"train": {"target": np.arange(rows, dtype=np.float64)}, "val": {"target": np.arange(5.0)}}


def _look(shared: Any, gate: Any) -> tuple[str, float, bool, int]:
    """Where this is, what it read, whether it may write, and how often it read from disk. Nobody leaves early."""
    import ray

    from pkdray import embeddings

    values = shared.get()["train"]["target"]
    shared.get()
    ray.get(gate.wait.remote())
    return (
        ray.get_runtime_context().get_node_id(),
        float(values.sum()),
        bool(values.flags.writeable),
        len(embeddings._RESTORED),
    )


class _Gate:
    """Opens when so many stand before it."""

    def __init__(self, many: int) -> None:
        import asyncio

        self.missing, self.open = many, asyncio.Event()

    async def wait(self) -> None:
        self.missing -= 1
        if self.missing <= 0:
            self.open.set()
        await self.open.wait()


def _lose(owner: Any, held: dict[str, int]) -> None:
    """End the owner of arrays, and wait until no node's store holds more than ``held``: they are gone.

    Nobody reads them meanwhile: a copy that is on its way to another node when the owner's node frees them is freed
    by nobody (Ray 2.60), and stays readable there.
    """
    import ray

    def more() -> bool:
        return any(used > held[node] for node, used in _store_bytes().items())

    assert more(), "the arrays are in a store"
    ray.kill(owner)
    while more():
        time.sleep(0.1)


class _Owner:
    """Whose end is that of what it put."""

    def put(self) -> Any:
        from pkdray.embeddings import SharedArrays

        return SharedArrays.put(_values(1_500_000), partial(_values, 1_500_000))


def _store_bytes() -> dict[str, int]:
    import ray
    from ray._private.internal_api import node_stats

    return {
        node["NodeID"]: int(
            node_stats(node["NodeManagerAddress"], node["NodeManagerPort"]).store_stats.object_store_bytes_used
        )
        for node in ray.nodes()
        if node["Alive"]
    }


def _on_every_node(shared: Any) -> list[tuple[str, float, bool, int]]:
    """What several processes a node see."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    gate = ray.remote(_Gate).options(num_cpus=0).remote(2 * len(nodes))
    look = ray.remote(num_cpus=0)(_look)
    return ray.get(
        [
            look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(shared, gate)
            for node in nodes
            for _ in range(2)
        ]
    )


def arrays() -> dict[str, Any]:
    """Bytes in each node's store before and after processes of every node mapped 12 MB; then the same, lost."""
    import ray

    from pkdray.embeddings import SharedArrays

    ray.init(logging_level="ERROR", log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": _path()}})
    before = _store_bytes()
    kept = SharedArrays.put(_values(1_500_000))
    mapped = _on_every_node(kept)
    after = _store_bytes()
    owner = ray.remote(_Owner).options(num_cpus=0).remote()
    lost = ray.get(owner.put.remote())
    _lose(owner, held=after)
    restored = _on_every_node(lost)
    return {"before": before, "after": after, "mapped": mapped, "restored": restored, "bytes": kept.nbytes()}


def _path() -> str:
    return os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])


if __name__ == "__main__":
    import nodes as itself  # By its name, so that Ray's processes find what is sent to them.

    # Where it stands, if it never ends.
    faulthandler.dump_traceback_later(PATIENCE_SECONDS - 50, exit=True)
    sys.stdout.write(json.dumps(itself.arrays()))
