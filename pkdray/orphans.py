"""CPUs and GPUs that a job which was killed still holds on a cluster.

Ray frees a job's placement groups when the job and the group's creator are dead. One that is registered a moment after
that, by a process that was just about to start a training, is held for ever (Ray 2.60): GCS does not look again, and
Ray Train's own cleaner does not know the group yet. The next sweep would wait for its place without end.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import NamedTuple

logger = logging.getLogger(__name__)

_REMOVED, _NOBODY = "REMOVED", "ff" * 4
LOOK_SECONDS = 20.0
"""How often a connected command looks for them."""


class Group(NamedTuple):
    """A placement group as the cluster's table has it. Ids are hexadecimal; ``creator`` is an actor, None a driver."""

    identity: str
    job: str
    creator: str | None
    detached: bool


def orphans(groups: Iterable[Group], dead_jobs: Iterable[str], lives: Callable[[str], bool]) -> list[str]:
    """The groups that Ray should have removed: not detached, of a dead job, and of a creator who is dead as well.

    Args:
        groups: those that are not removed.
        dead_jobs: ids of the jobs that have ended.
        lives: whether an actor is alive, or is to be.

    Example:
        >>> held = [Group("a1", "06", "fb", False), Group("b2", "07", "e4", False), Group("c3", "06", None, True)]
        >>> orphans(held, ["06"], lambda actor: False)
        ['a1']
    """
    dead = set(dead_jobs)
    return [
        group.identity
        for group in groups
        if not group.detached and group.job in dead and not (group.creator and lives(group.creator))
    ]


def free_orphans() -> list[str]:
    """Remove the orphans of the cluster that this process is connected to; returns their ids."""
    import ray
    from ray._private.state import jobs
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    dead = [job["JobID"] for job in jobs() if job["IsDead"]]
    found = orphans(_groups(), dead, _lives)
    for identity in found:
        logger.warning("The placement group %s of a job that is dead is removed.", identity)
        remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(identity))))
    return found


def _groups() -> list[Group]:
    from ray._private.state import state
    from ray.core.generated import gcs_pb2

    found = []
    for packed in state._connect_and_get_accessor().get_placement_group_table():
        row = gcs_pb2.PlacementGroupTableData.FromString(packed)
        if gcs_pb2.PlacementGroupTableData.PlacementGroupState.Name(row.state) == _REMOVED:
            continue
        creator = row.creator_actor_id.hex()
        found.append(
            Group(
                row.placement_group_id.hex(),
                row.creator_job_id.hex(),
                None if creator.startswith(_NOBODY) else creator,
                row.is_detached,
            )
        )
    return found


def _lives(actor: str) -> bool:
    from ray._private.state import actors

    # One that the cluster has forgotten is dead.
    return (actors(actor) or {}).get("State", "DEAD") != "DEAD"
