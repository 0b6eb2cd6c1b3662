"""The facts of every node of a connected cluster, gathered on the nodes themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from pkdray.doctor import facts, storage
from pkdray.doctor.checks import NodeFacts
from pkdray.mirrors import s3

_SECONDS = 240.0
_SENT = (facts, storage, s3)


def cluster_facts(root: str | None, mark: str) -> tuple[list[NodeFacts], dict[str, str]]:
    """What every living node has; needs a connected Ray.

    Args:
        root: the runs dir to try from every node; None tries none.
        mark: names this examination's files in it.

    Returns:
        The nodes that answered, the head first, and what became of the others: name -> what went wrong.
    """
    import ray

    nodes = sorted((node for node in ray.nodes() if node["Alive"]), key=lambda node: not _is_head(node))
    gathered, silent = _everywhere(facts.gather, [()] * len(nodes), nodes)
    found = {
        node["NodeID"]: {
            **gathered[node["NodeID"]],
            "name": gathered[node["NodeID"]]["name"],
            "ray_gpus": node["Resources"].get("GPU", 0.0),
            "store": int(node["Resources"].get("object_store_memory", 0)),
        }
        for node in nodes
        if node["NodeID"] in gathered
    }
    alive = [node for node in nodes if node["NodeID"] in found]
    if root is not None and alive:
        probed, mute = _probe(alive, root, mark)
        silent |= mute
        for key in list(found):
            if key in probed:
                found[key]["storage"] = probed[key]
            else:
                del found[key]
    names = _distinct([(str(found[key]["name"]), key) for key in found])
    return [NodeFacts(**{**about, "name": names[key]}) for key, about in found.items()], silent


def _is_head(node: Mapping[str, Any]) -> bool:
    return any(name.startswith("node:__internal_head__") for name in node["Resources"])


def _distinct(named: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Names by node; of those that share a host's name, with the beginning of the node's number.

    Example:
        >>> _distinct([("a", "123456789"), ("b", "7"), ("a", "2222222222")])
        {'123456789': 'a-123456', '7': 'b', '2222222222': 'a-222222'}
    """
    hosts = [host for host, _ in named]
    return {key: host if hosts.count(host) == 1 else f"{host}-{key[:6]}" for host, key in named}


def _probe(nodes: Sequence[Mapping[str, Any]], root: str, mark: str) -> tuple[dict[str, Any], dict[str, str]]:
    with ExitStack() as stack:
        try:
            expected = stack.enter_context(storage.Beacon(root, mark)).name
        except (OSError, ValueError, NotImplementedError, RuntimeError):
            # The driver cannot write there; every node says what it finds itself.
            expected = None
        arguments = [(root, f"{mark}-{index}", expected) for index in range(len(nodes))]
        return _everywhere(storage.probe, arguments, nodes)


def _everywhere(
    work: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], nodes: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Call a function once on each node: results by node, and what became of the nodes that gave none."""
    import ray
    from ray import cloudpickle
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # By value, so that a node without pkdray, or with another one, answers too.
    for module in _SENT:
        cloudpickle.register_pickle_by_value(module)
    try:
        # No CPU is asked for: a busy node answers, and so does a head on which nothing may be trained.
        task = ray.remote(num_cpus=0, max_retries=0)(work)
        references = {
            task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                *one
            ): node
            for node, one in zip(nodes, arguments, strict=True)
        }
    finally:
        for module in _SENT:
            cloudpickle.unregister_pickle_by_value(module)
    ready, late = ray.wait(list(references), num_returns=len(references), timeout=_SECONDS)
    said: dict[str, Any] = {}
    silent = {references[one]["NodeManagerAddress"]: f"no answer within {_SECONDS:.0f} s" for one in late}
    for one in ready:
        try:
            said[references[one]["NodeID"]] = ray.get(one)
        except ray.exceptions.RayError as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            silent[references[one]["NodeManagerAddress"]] = lines[-1]
    return said, silent
