"""What trials and teachers take of a cluster: what the config leaves to ``auto``, and how much fits at once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pkdray.config import AUTO, ResourcesConfig

GIB = 1 << 30
MOST_STUDENTS_A_GPU = 4
MOST_CPUS = 8
"""What a worker takes at most where ``auto`` decides: itself, and seven readers of images."""

_GPU_SHARE, _CONTEXT, _STATES, _SLACK = 0.8, GIB, 16, 2
"""The part of a GPU's memory that students fill; what a process takes of it before it does anything; bytes a parameter
(weight, gradient and Adam's two moments); and how much of all that batches and the allocator may add."""

_GPU_GIB = {
    "T4": 16, "P4": 8, "K80": 12, "P100": 16, "V100": 16, "A10G": 24, "L4": 24, "L40S": 48, "A100": 40,
    "A100-40G": 40, "A100-80G": 80, "H100": 80, "H20": 96, "H200": 141, "B200": 180,
}  # fmt: skip
_UNKNOWN_GIB = 8
_ACCELERATOR = "accelerator_type:"


@dataclass(frozen=True)
class Node:
    """A machine of the cluster. ``gpu_bytes`` is the memory of each of its GPUs, None where nobody says."""

    cpus: float
    gpus: float = 0.0
    gpu_bytes: int | None = None


@dataclass(frozen=True)
class Footprint:
    """What a student needs.

    Args:
        parameters: of the student.
        nbytes: of the arrays that a trial holds on its device.
        images: whether the student looks at images, which are read from disk and fill a GPU.
        any_images: whether anybody does, the teachers too.
    """

    parameters: int = 0
    nbytes: int = 0
    images: bool = False
    any_images: bool = False


@dataclass(frozen=True)
class Resources:
    """`ResourcesConfig` with a number for every ``auto``."""

    cpus_per_trial: float
    gpus_per_trial: float
    workers_per_trial: int
    concurrent_trials: int | None
    readers: int
    workers_per_teacher: int
    gpus_per_teacher_worker: float
    max_failures: int


def resolve(asked: ResourcesConfig, nodes: Iterable[Node] = (), student: Footprint | None = None) -> Resources:
    """Decide what is ``auto``; what the user says stays.

    Without a GPU a trial takes one CPU and no reader. Else nodes without one, such as a head, do not count, nor do
    those that lend no CPU, on which no trial has room; and the GPUs are those of the node that has the fewest CPUs for
    each of them:

    * a student on features shares its GPU with as many others as its memory and its CPUs allow, at most
      `MOST_STUDENTS_A_GPU`; data-parallel workers, which cannot share one, and students on images have it to
      themselves;
    * a worker gets its share of the GPU's CPUs, at most `MOST_CPUS`;
    * where anybody reads images, each CPU but one is a reader;
    * a teacher's worker has a GPU to itself.

    Example:
        >>> nodes = [Node(cpus=16), Node(cpus=96, gpus=8, gpu_bytes=40 * GIB)]
        >>> found = resolve(ResourcesConfig(), nodes, Footprint(parameters=100_000, nbytes=50_000_000))
        >>> found.gpus_per_trial, found.cpus_per_trial, found.readers
        (0.25, 3.0, 0)
    """
    student = student or Footprint()
    equipped = [node for node in nodes if node.gpus >= 1 and node.cpus > 0]
    gpus = asked.gpus_per_trial
    if gpus == AUTO:
        gpus = _share_of_a_gpu(asked, equipped, student) if equipped else 0.0
    cpus = asked.cpus_per_trial
    if cpus == AUTO:
        cpus = _whole(min(MOST_CPUS, _cpus_a_gpu(equipped) * gpus)) if equipped and gpus else 1.0
    readers: int = 0
    if asked.readers != AUTO:
        readers = asked.readers
    elif student.any_images and equipped and gpus:
        readers = max(0, int(cpus) - 1)
    teacher = asked.gpus_per_teacher_worker
    if teacher == AUTO:
        teacher = 1.0 if equipped else 0.0
    return Resources(
        cpus_per_trial=cpus,
        gpus_per_trial=gpus,
        workers_per_trial=asked.workers_per_trial,
        concurrent_trials=asked.concurrent_trials,
        readers=readers,
        workers_per_teacher=asked.workers_per_teacher,
        gpus_per_teacher_worker=teacher,
        max_failures=asked.max_failures,
    )


def _share_of_a_gpu(asked: ResourcesConfig, nodes: Sequence[Node], student: Footprint) -> float:
    if student.images or asked.workers_per_trial > 1:
        return 1.0
    each = 1.0 if asked.cpus_per_trial == AUTO else asked.cpus_per_trial
    room = min(node.gpu_bytes or _UNKNOWN_GIB * GIB for node in nodes) * _GPU_SHARE
    takes = _CONTEXT + _SLACK * (_STATES * student.parameters + student.nbytes)
    return 1 / max(1, min(MOST_STUDENTS_A_GPU, int(room / takes), int(_cpus_a_gpu(nodes) / each)))


def _cpus_a_gpu(nodes: Iterable[Node]) -> float:
    return min(node.cpus / node.gpus for node in nodes)


def _whole(cpus: float) -> float:
    """Whole CPUs; a fraction where there is less than one, which Ray counts in ten-thousandths."""
    return float(math.floor(cpus)) if cpus >= 1 else max(1, math.floor(cpus * 10_000)) / 10_000


def wording(resources: Resources) -> str:
    """What a trial gets, for a person.

    Example:
        >>> wording(resolve(ResourcesConfig(), [Node(cpus=96, gpus=8, gpu_bytes=40 * GIB)]))
        '4 trials a GPU, 3 CPUs each'
        >>> wording(resolve(ResourcesConfig(), [Node(cpus=16, gpus=1)], Footprint(images=True, any_images=True)))
        'a GPU and 8 CPUs a trial, 7 of them for readers of images'
        >>> wording(resolve(ResourcesConfig(workers_per_trial=2), [Node(cpus=8)]))
        '1 CPU for each of 2 workers a trial'
    """
    cpus = f"{resources.cpus_per_trial:g} CPU{'' if resources.cpus_per_trial == 1 else 's'}"
    workers = resources.workers_per_trial
    whom = "a trial" if workers == 1 else f"for each of {workers} workers a trial"
    gpus = resources.gpus_per_trial
    if 0 < gpus < 1 and workers == 1 and (1 / gpus).is_integer():
        said = f"{1 / gpus:g} trials a GPU, {cpus} each"
    elif gpus:
        said = f"{'a GPU' if gpus == 1 else f'{gpus:g} GPUs'} and {cpus} {whom}"
    else:
        said = f"{cpus} {whom}"
    readers = resources.readers
    return said + (f", {readers} of them for readers of images" if readers else "")


def trials_at_once(resources: Resources, nodes: Iterable[Node]) -> int:
    """How many trials fit at once; a trial's workers may stand on several nodes, a worker on one.

    Example:
        >>> pairs = resolve(ResourcesConfig(workers_per_trial=2, cpus_per_trial=2))
        >>> trials_at_once(pairs, [Node(cpus=3), Node(cpus=3), Node(cpus=3)])
        1
    """
    cpus, gpus = resources.cpus_per_trial, resources.gpus_per_trial
    # A hair more than there is, or three thirds of a GPU would not fit on it.
    workers = sum(
        min(int(has / each + 1e-6) for has, each in ((node.cpus, cpus), (node.gpus, gpus)) if each) for node in nodes
    )
    return workers // resources.workers_per_trial


def cluster_nodes() -> list[Node]:
    """The nodes that are alive; needs a connected Ray."""
    import ray

    return [node_of(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def node_of(resources: dict[str, float]) -> Node:
    """A node as Ray lists its resources.

    Example:
        >>> node_of({"CPU": 96.0, "GPU": 8.0, "accelerator_type:A100": 1.0, "memory": 1e12})
        Node(cpus=96.0, gpus=8.0, gpu_bytes=42949672960)
    """
    kinds = [name.removeprefix(_ACCELERATOR) for name in resources if name.startswith(_ACCELERATOR)]
    known = [_GPU_GIB[kind] * GIB for kind in kinds if kind in _GPU_GIB]
    return Node(resources.get("CPU", 0.0), resources.get("GPU", 0.0), min(known, default=None))
