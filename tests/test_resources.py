"""What ``auto`` gets of which cluster, and how many trials fit."""

from __future__ import annotations

import pytest

from pkdray.config import ResourcesConfig
from pkdray.resources import GIB, Footprint, Node, node_of, resolve, trials_at_once, wording

LAPTOP = [Node(2)]
WORKSTATION = [Node(16, 1, 24 * GIB)]
P4D = [Node(96, 8, 40 * GIB)]
CLUSTER = [Node(16), *P4D, *P4D]
"""A head without a GPU beside two workers."""

SMALL = Footprint(parameters=200_000, nbytes=80_000_000)
IMAGES = Footprint(parameters=11_000_000, images=True, any_images=True)
TAUGHT_BY_IMAGES = Footprint(parameters=200_000, nbytes=80_000_000, any_images=True)


@pytest.mark.parametrize(
    ("nodes", "student", "expected"),
    [  # cpus and gpus of a trial, readers, gpus of a teacher's worker, trials at once
        ([], SMALL, (1, 0, 0, 0, 0)),
        (LAPTOP, SMALL, (1, 0, 0, 0, 2)),
        (LAPTOP, IMAGES, (1, 0, 0, 0, 2)),
        ([Node(16), Node(64)], SMALL, (1, 0, 0, 0, 80)),
        (WORKSTATION, SMALL, (4, 0.25, 0, 1, 4)),
        (WORKSTATION, IMAGES, (8, 1, 7, 1, 1)),
        (P4D, SMALL, (3, 0.25, 0, 1, 32)),
        (P4D, TAUGHT_BY_IMAGES, (3, 0.25, 2, 1, 32)),
        (P4D, IMAGES, (8, 1, 7, 1, 8)),
        (CLUSTER, SMALL, (3, 0.25, 0, 1, 64)),
        (CLUSTER, IMAGES, (8, 1, 7, 1, 16)),
        # The node with the fewest CPUs a GPU decides: 3 of them, so three students share one.
        ([*P4D, Node(0, 8, 80 * GIB)], SMALL, (3, 0.25, 0, 1, 32)),
        ([*P4D, Node(12, 4, 40 * GIB)], SMALL, (1, 1 / 3, 0, 1, 36)),
        ([Node(4, 8, 16 * GIB)], SMALL, (0.5, 1, 0, 1, 8)),
        ([Node(4, 8, 16 * GIB)], IMAGES, (0.5, 1, 0, 1, 8)),
        # Memory decides: of 8 GB that nobody told of, 6.9 are filled, and each takes 1 GiB and twice 1.6 GB.
        ([Node(16, 1)], Footprint(parameters=100_000_000), (8, 1, 0, 1, 1)),
        ([Node(16, 1)], Footprint(parameters=50_000_000), (8, 0.5, 0, 1, 2)),
        ([Node(16, 1, 40 * GIB)], Footprint(parameters=100_000_000), (4, 0.25, 0, 1, 4)),
        # What does not fit at all gets a GPU to itself.
        ([Node(16, 1, 4 * GIB)], Footprint(nbytes=50 * GIB), (8, 1, 0, 1, 1)),
    ],
)
def test_what_auto_is(nodes: list[Node], student: Footprint, expected: tuple[float, ...]) -> None:
    found = resolve(ResourcesConfig(), nodes, student)
    assert (
        found.cpus_per_trial,
        found.gpus_per_trial,
        found.readers,
        found.gpus_per_teacher_worker,
        trials_at_once(found, nodes),
    ) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [  # cpus and gpus of a trial, readers, gpus of a teacher's worker; on p4d, images
        ({"gpus_per_trial": 0}, (1, 0, 0, 1)),
        ({"gpus_per_trial": 0.5}, (6, 0.5, 5, 1)),
        ({"gpus_per_trial": 0.05}, (0.6, 0.05, 0, 1)),
        ({"gpus_per_trial": 2}, (8, 2, 7, 1)),
        ({"cpus_per_trial": 3}, (3, 1, 2, 1)),
        ({"readers": 0}, (8, 1, 0, 1)),
        ({"readers": 5, "gpus_per_teacher_worker": 0.5}, (8, 1, 5, 0.5)),
        ({"gpus_per_teacher_worker": 0}, (8, 1, 7, 0)),
    ],
)
def test_what_the_user_says_stays_and_the_rest_fits_it(asked: dict[str, float], expected: tuple[float, ...]) -> None:
    found = resolve(ResourcesConfig.model_validate(asked), P4D, IMAGES)
    assert (
        found.cpus_per_trial,
        found.gpus_per_trial,
        found.readers,
        found.gpus_per_teacher_worker,
    ) == pytest.approx(expected)


def test_cpus_asked_for_bound_how_many_share_a_gpu() -> None:
    assert resolve(ResourcesConfig(cpus_per_trial=6), P4D, SMALL).gpus_per_trial == 0.5
    assert resolve(ResourcesConfig(cpus_per_trial=20), P4D, SMALL).gpus_per_trial == 1


def test_data_parallel_workers_have_a_gpu_each() -> None:
    found = resolve(ResourcesConfig(workers_per_trial=4), P4D, SMALL)
    assert (found.gpus_per_trial, found.cpus_per_trial) == (1, 8)
    assert trials_at_once(found, CLUSTER) == 4


@pytest.mark.parametrize("nodes", [LAPTOP, WORKSTATION, P4D, CLUSTER, [Node(1, 1)], [Node(3, 2)], [Node(2, 4)]])
@pytest.mark.parametrize("student", [SMALL, IMAGES, TAUGHT_BY_IMAGES])
def test_auto_never_asks_for_what_no_node_has_and_leaves_no_gpu_idle(nodes: list[Node], student: Footprint) -> None:
    found = resolve(ResourcesConfig(), nodes, student)
    assert trials_at_once(found, nodes) >= max(1, sum(int(node.gpus) for node in nodes))


@pytest.mark.parametrize(
    ("cpus", "gpus", "workers", "nodes", "expected"),
    [
        (1, 0, 1, [Node(2), Node(3)], 5),
        (2, 0, 1, [Node(3), Node(3), Node(3)], 3),
        (2, 0, 2, [Node(3), Node(3), Node(3)], 1),
        (2, 0, 4, [Node(3), Node(3), Node(3)], 0),
        (1, 1 / 3, 1, [Node(96, 8)], 24),
        (0.1, 0, 1, [Node(0.3)], 3),
        (5, 0.25, 1, [Node(16, 1), Node(64)], 3),
        (1, 1, 2, [], 0),
    ],
)
def test_a_worker_stands_on_one_node(cpus: float, gpus: float, workers: int, nodes: list[Node], expected: int) -> None:
    asked = ResourcesConfig(cpus_per_trial=cpus, gpus_per_trial=gpus, workers_per_trial=workers)
    assert trials_at_once(resolve(asked), nodes) == expected


def test_an_accelerator_that_nobody_knows_has_unknown_memory() -> None:
    assert node_of({"CPU": 4.0, "GPU": 1.0, "accelerator_type:Z9": 1.0}) == Node(4, 1, None)
    assert node_of({"memory": 1e9, "node:10.0.0.3": 1.0}) == Node(0, 0, None)
    assert node_of({"CPU": 4.0, "GPU": 1.0, "accelerator_type:T4": 1.0}).gpu_bytes == 16 * GIB


@pytest.mark.parametrize(
    ("asked", "nodes", "said"),
    [
        ({}, LAPTOP, "1 CPU a trial"),
        ({"gpus_per_trial": 0.4}, WORKSTATION, "0.4 GPUs and 6 CPUs a trial"),
        ({"workers_per_trial": 3}, WORKSTATION, "a GPU and 8 CPUs for each of 3 workers a trial"),
    ],
)
def test_it_is_said_in_words(asked: dict[str, float], nodes: list[Node], said: str) -> None:
    assert wording(resolve(ResourcesConfig.model_validate(asked), nodes, SMALL)) == said
