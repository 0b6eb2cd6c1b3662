"""How many trials may be at work, while nodes come and go."""

from __future__ import annotations

import pytest

from pkdray.config import ResourcesConfig
from pkdray.resources import Node, resolve
from pkdray.search.room import Room


class Cluster:
    """Nodes and a clock that a test sets."""

    def __init__(self, *nodes: Node) -> None:
        self.nodes, self.now, self.asked = list(nodes), 100.0, 0

    def room(self, **asked: float) -> Room:
        return Room(resolve(ResourcesConfig.model_validate(asked)), self.look, lambda: self.now)

    def look(self) -> list[Node]:
        self.asked += 1
        return self.nodes


def test_nodes_that_join_and_die_count_within_a_second() -> None:
    cluster = Cluster(Node(3), Node(2))
    room = cluster.room(workers_per_trial=2)
    assert room() == 2
    cluster.nodes.append(Node(1))
    assert room() == 2
    assert cluster.asked == 1, "the cluster is not asked for every trial of a second"
    cluster.now += 1
    assert room() == 3
    cluster.nodes = [Node(2)]
    cluster.now += 1
    assert room() == 1


def test_where_nothing_fits_one_waits_and_that_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    cluster = Cluster(Node(4), Node(4))
    room = cluster.room(cpus_per_trial=8, gpus_per_trial=1)
    for _ in range(3):
        assert room() == 1
        cluster.now += 5
    (told,) = caplog.messages
    assert told == (
        "No trial fits: it takes a GPU and 8 CPUs a trial, and 2 nodes with 8 CPUs and 0 GPUs in all are there. It "
        "waits until there is more."
    )
    cluster.nodes.append(Node(96, 8))
    cluster.now += 5
    assert room() == 8
    assert caplog.messages[1:] == ["There is room again: 8 at once."]


def test_what_the_user_allows_is_allowed_whatever_is_there() -> None:
    assert Cluster(Node(2)).room(concurrent_trials=5)() == 5
    assert Cluster(Node(64)).room(concurrent_trials=1)() == 1
