"""How many trials may run at once: asked of the cluster again and again, because nodes join and die."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from pkdray.resources import Node, Resources, cluster_nodes, trials_at_once, wording

logger = logging.getLogger(__name__)
_SECONDS = 1.0


class Room:
    """Called, says how many trials may be at work now.

    That is ``concurrent_trials``, else what the nodes hold by now, and one at least: a trial without room waits in
    Ray's own queue, where an autoscaler sees what it needs.

    Data-parallel workers get their CPUs and GPUs all together or not at all, and the trial that waits for them holds
    none, so trials that compete take turns and never block one another.

    Args:
        resources: what a trial takes.
        nodes: those that are alive.
        clock: seconds, monotonic; nodes are asked for once a second at most.
    """

    def __init__(
        self,
        resources: Resources,
        nodes: Callable[[], Sequence[Node]] = cluster_nodes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._resources, self._nodes, self._clock = resources, nodes, clock
        self._asked = float("-inf")
        self._fitting = 1

    def __call__(self) -> int:
        """How many."""
        now = self._clock()
        if now - self._asked >= _SECONDS:
            self._asked = now
            self._look()
        return self._resources.concurrent_trials or max(1, self._fitting)

    def _look(self) -> None:
        nodes = self._nodes()
        before, self._fitting = self._fitting, trials_at_once(self._resources, nodes)
        if before and not self._fitting:
            logger.warning(
                "No trial fits: it takes %s, and %d node%s with %g CPUs and %g GPUs in all are there. It waits until "
                "there is more.",
                wording(self._resources), len(nodes), "" if len(nodes) == 1 else "s",
                sum(node.cpus for node in nodes), sum(node.gpus for node in nodes),
            )  # fmt: skip
        elif self._fitting and not before:
            logger.warning("There is room again: %d at once.", self._fitting)
