"""Facts to findings: pure functions, one a check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pkdray.doctor.findings import Finding

GB = 1e9
STORE_SHARE = 0.3
STORE_MOST = int(200e9)
"""What Ray takes for its object store if nothing is said: this share of the memory, and at most so much."""

STORE_FULL = 0.6
"""From here on the object store has little room left for what trials send to and fro."""

DOCKER_SHARED_MEMORY = 64 << 20
OPEN_FILES = 8192
FREE_DISK = 10 * GB
SPILL_FULL = 0.95
"""Ray stops writing to a disk that is fuller."""

SLOW_MB_S = 10.0
SLOW_SECONDS = 1.0

_LOCK = "Install the same everywhere: pip install -r requirements.lock, then pip install --no-deps pkdray."


@dataclass(frozen=True)
class NodeFacts:
    """What `facts.gather` says of a node, and what Ray says of it.

    Args:
        disk: [total, free] bytes of /tmp, where Ray spills to.
        ray_gpus: None where no Ray was asked.
        store: bytes of its object store; None where no Ray was asked.
    """

    name: str
    python: str
    packages: Mapping[str, str | None]
    extras: Sequence[str]
    torch_cuda: str | None
    torch_gpus: Sequence[str]
    torch_error: str | None
    driver: str | None
    driver_cuda: str | None
    driver_gpus: int
    shared_memory: int
    memory: int
    disk: Sequence[int]
    open_files: int | None
    threads: str | None
    ray_gpus: float | None = None
    store: int | None = None
    storage: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TokenFacts:
    """Where the token of Ray's token authentication is, as this process sees it.

    Args:
        mode: RAY_AUTH_MODE here; None where it is not set.
        source: the variable or the file that has the token; None where there is none.
        file_mode: the permissions of the file; None where the token is not in one.
        cluster: the mode that the cluster has; None where none was asked.
        refused: the cluster did not take the token.
    """

    mode: str | None
    source: str | None
    file_mode: int | None = None
    cluster: str | None = None
    refused: bool = False


@dataclass(frozen=True)
class Port:
    """A port of the cluster, and what came of connecting to it."""

    name: str
    address: str
    error: str | None
    needed: bool


def node_findings(node: NodeFacts, here: NodeFacts, needed: int | None) -> list[Finding]:
    """Everything that one node's facts say.

    Args:
        node: which may be ``here`` itself.
        here: the machine on which the doctor runs, and steps begin.
        needed: bytes that the object store has to hold, if they are known.
    """
    return [
        *versions(node, here),
        gpus(node),
        cuda(node),
        object_store(node, needed),
        shared_memory(node),
        disk(node),
        open_files(node),
        threads(node),
    ]


def versions(node: NodeFacts, here: NodeFacts) -> list[Finding]:
    """Python and the packages that have to be the same on all nodes."""
    found = {"python": node.python, **node.packages}
    expected = {"python": here.python, **here.packages}
    findings = []
    for name, version in found.items():
        if version is None:
            findings.append(Finding(name, "fail", "not installed", _LOCK, (node.name,)))
        elif not _same(name, version, expected.get(name)):
            said = f"{version}, but {expected.get(name)} on {here.name}, where steps begin"
            findings.append(Finding(name, "fail", said, _LOCK, (node.name,)))
        else:
            findings.append(Finding(name, "ok", version, nodes=(node.name,)))
    return findings


def gpus(node: NodeFacts) -> Finding:
    """The GPUs that Ray deals out against those that torch can use."""
    where = (node.name,)
    usable = len(node.torch_gpus)
    if node.torch_error is not None:
        return Finding("gpus", "fail", f"torch cannot be asked: {node.torch_error}", _LOCK, where)
    if node.ray_gpus is None:
        return Finding("gpus", "ok", _named(node.torch_gpus), nodes=where)
    if node.ray_gpus > usable:
        return Finding(
            "gpus",
            "fail",
            f"Ray deals out {node.ray_gpus:g}, torch can use {usable}",
            f"Start Ray there with --num-gpus={usable}; if there should be more, see the finding on cuda.",
            where,
        )
    if node.ray_gpus < usable:
        return Finding(
            "gpus",
            "warn",
            f"Ray deals out {node.ray_gpus:g} of {usable}",
            f"Start Ray there with --num-gpus={usable}, and without a CUDA_VISIBLE_DEVICES that hides some.",
            where,
        )
    return Finding("gpus", "ok", _named(node.torch_gpus), nodes=where)


def cuda(node: NodeFacts) -> Finding:
    """The CUDA that torch was built with against the one that the driver can run."""
    where = (node.name,)
    if node.torch_error is not None:
        return Finding("cuda", "fail", f"torch cannot be asked: {node.torch_error}", _LOCK, where)
    if not node.driver_gpus:
        if node.torch_cuda is None:
            return Finding("cuda", "ok", "no GPU, and a torch without CUDA: trains on the CPU", nodes=where)
        return Finding("cuda", "ok", f"no GPU: torch's CUDA {node.torch_cuda} trains on the CPU", nodes=where)
    has = f"driver {node.driver}" + (f" (CUDA {node.driver_cuda})" if node.driver_cuda else "")
    if node.torch_cuda is None:
        return Finding("cuda", "fail", f"{has}, but torch was built without CUDA", _LOCK, where)
    # Within a major version an older driver runs what a newer CUDA built.
    if node.driver_cuda and _number(node.driver_cuda)[0] < _number(node.torch_cuda)[0]:
        return Finding(
            "cuda",
            "fail",
            f"torch needs CUDA {node.torch_cuda}, {has} is too old for it",
            f"Install a newer driver (an image with CUDA {_number(node.torch_cuda)[0]}), or a torch built for CUDA "
            f"{_number(node.driver_cuda)[0]}.",
            where,
        )
    if not node.torch_gpus:
        return Finding(
            "cuda",
            "fail",
            f"{has} has {node.driver_gpus} GPUs, torch with CUDA {node.torch_cuda} sees none",
            'Run python -c "import torch; torch.cuda.init()" there: its error says why.',
            where,
        )
    return Finding("cuda", "ok", f"torch with CUDA {node.torch_cuda}, {has}", nodes=where)


def object_store(node: NodeFacts, needed: int | None) -> Finding:
    """The object store against the arrays that every node holds once."""
    where = (node.name,)
    if node.store is None:
        store = min(STORE_SHARE * node.memory, 0.95 * node.shared_memory, STORE_MOST)
        text = f"about {size(store)}, if Ray starts here without --object-store-memory"
    else:
        store = node.store
        text = size(store)
    if needed is None:
        return Finding("object store", "ok", f"{text}; name a SPACE to see what it has to hold", None, where)
    share = needed / store if store else float("inf")
    said = f"{text}, of which the study's arrays take {size(needed)} ({share:.0%})"
    if share <= STORE_FULL:
        return Finding("object store", "ok", said, None, where)
    cure = (
        f"Start Ray on every node with --object-store-memory={2 * needed} or more (and /dev/shm as large), or use "
        "fewer teachers or a narrower teachers.embedding."
    )
    return Finding("object store", "fail" if share > 1 else "warn", said, cure, where)


def shared_memory(node: NodeFacts) -> Finding:
    """/dev/shm, in which the object store lives."""
    where = (node.name,)
    text = f"/dev/shm has {size(node.shared_memory)}"
    if node.shared_memory <= DOCKER_SHARED_MEMORY:
        return Finding(
            "shared memory",
            "warn",
            f"{text}, as Docker gives a container: the object store goes to disk, which is slow",
            "docker run --shm-size=16g; on Kubernetes mount an emptyDir of medium Memory at /dev/shm.",
            where,
        )
    if node.store is not None and node.store > node.shared_memory:
        return Finding(
            "shared memory",
            "warn",
            f"{text}, the object store {size(node.store)}: it goes to disk, which is slow",
            "Make /dev/shm larger (--shm-size, or the emptyDir's sizeLimit), or --object-store-memory smaller.",
            where,
        )
    return Finding("shared memory", "ok", text, nodes=where)


def disk(node: NodeFacts) -> Finding:
    """The disk that Ray spills to, which it refuses to fill."""
    total, free = node.disk
    text = f"/tmp has {size(free)} of {size(total)} free"
    cure = "Free some space, or start Ray with --temp-dir on a larger disk."
    full = 1 - free / total if total else 1.0
    if full < SPILL_FULL and free >= FREE_DISK:
        return Finding("disk", "ok", text, nodes=(node.name,))
    if full >= SPILL_FULL:
        text += f"; Ray spills nothing to a disk that is over {SPILL_FULL:.0%} full"
    # Of a large disk that is nearly full much is left for what a study writes itself.
    return Finding("disk", "fail" if full >= SPILL_FULL and free < FREE_DISK else "warn", text, cure, (node.name,))


def open_files(node: NodeFacts) -> Finding:
    """How many files a process may have open; every worker of Ray has sockets to every other."""
    if node.open_files is None:
        return Finding("open files", "ok", "no limit is known", nodes=(node.name,))
    # RLIM_INFINITY is -1 on Linux.
    if 0 <= node.open_files < OPEN_FILES:
        return Finding(
            "open files",
            "warn",
            f"at most {node.open_files} a process",
            "Before `ray start`: ulimit -n 65536.",
            (node.name,),
        )
    said = "no limit" if node.open_files < 0 else f"at most {node.open_files} a process"
    return Finding("open files", "ok", said, nodes=(node.name,))


def threads(node: NodeFacts) -> Finding:
    """OMP_NUM_THREADS: trials run side by side, so each has one thread unless it was given more CPUs."""
    if node.threads == "1":
        return Finding("threads", "ok", "OMP_NUM_THREADS=1", nodes=(node.name,))
    said = "OMP_NUM_THREADS is not set" if node.threads is None else f"OMP_NUM_THREADS={node.threads}"
    cure = "export OMP_NUM_THREADS=1 before `ray start` and before pkdray: same results everywhere, and no crowding."
    return Finding("threads", "warn", said, cure, (node.name,))


def storage(nodes: Sequence[NodeFacts], root: str) -> list[Finding]:
    """The runs dir as the nodes see it.

    Args:
        nodes: with what `storage.probe` said there; several of them have to see what the others write.
        root: a folder or a URI.
    """
    findings, fine = [], []
    for node in nodes:
        where, said = (node.name,), node.storage
        if said["error"] is not None:
            cure = (
                "Check the bucket's name and region, and that the node may use it: an instance profile, a service "
                "account, or keys in the environment that Ray was started with."
                if "://" in root
                else "Check that the folder exists there, that it is mounted, and who may write to it."
            )
            findings.append(Finding("storage", "fail", f"{root}: {said['error']}", cure, where))
        elif said["sees"] is False:
            cure = "Give a folder that all nodes mount (NFS, EFS, FSx, Lustre), or a URI: --runs-dir s3://BUCKET/runs."
            text = f"{root} is not the same folder as where steps begin"
            findings.append(Finding("storage", "fail", text, cure, where))
        elif said["write_mb_s"] < SLOW_MB_S or said["seconds_small"] > SLOW_SECONDS:
            cure = "Trials write checkpoints there: use storage in the nodes' own region or rack, or fewer checkpoints."
            findings.append(Finding("storage", "warn", f"{root}: {_speed([said])}", cure, where))
        else:
            fine.append(node)
    if fine:
        text = f"{root}: {_speed([node.storage for node in fine])}"
        findings.append(Finding("storage", "ok", text, nodes=tuple(node.name for node in fine)))
    return findings


def port(facts: Port) -> Finding:
    """Whether something answers."""
    if facts.error is None:
        return Finding("ports", "ok", f"{facts.name} answers at {facts.address}")
    cure = {
        "dashboard": "Jobs need it: `ray start --head --dashboard-host 127.0.0.1` there, and a tunnel from here "
        "(ray dashboard cluster.yaml, ssh -L 8265:127.0.0.1:8265, kubectl port-forward).",
        "GCS": "Check that `ray start --head` runs there, that its port is this one (6379 unless --port says "
        "otherwise), and that no firewall is between.",
    }[facts.name]
    level = "fail" if facts.needed else "warn"
    return Finding("ports", level, f"{facts.name} does not answer at {facts.address}: {facts.error}", cure)  # type: ignore[arg-type]


def token(facts: TokenFacts) -> list[Finding]:
    """Ray's token authentication: who asks for a token, and who has it."""
    findings: list[Finding] = []
    asked = facts.cluster == "token" or (facts.cluster is None and facts.mode == "token")
    if facts.cluster == "token" and facts.mode != "token":
        findings.append(
            Finding(
                "token",
                "fail",
                f"the cluster asks for a token, and RAY_AUTH_MODE is {facts.mode or 'not set'} here",
                "export RAY_AUTH_MODE=token",
            )
        )
    elif asked and facts.source is None:
        findings.append(
            Finding(
                "token",
                "fail",
                "a token is asked for, and there is none here",
                "Copy the cluster's ~/.ray/auth_token to here (chmod 600), or set RAY_AUTH_TOKEN_PATH. For a new one "
                "make one: ray get-auth-token --generate.",
            )
        )
    elif facts.refused:
        findings.append(
            Finding(
                "token",
                "fail",
                f"the cluster refuses the token of {facts.source}",
                "Take the cluster's own: it is the one in ~/.ray/auth_token on its head.",
            )
        )
    elif facts.cluster not in (None, "token"):
        findings.append(
            Finding(
                "token",
                "warn",
                "the cluster asks for no token: whoever reaches its ports can run programs on it",
                "Start it with RAY_AUTH_MODE=token (docs/cluster.md), or keep its ports closed to all others.",
            )
        )
    elif asked:
        findings.append(Finding("token", "ok", f"token authentication, with the token of {facts.source}"))
    else:
        findings.append(Finding("token", "ok", "token authentication is not asked for here"))
    if facts.file_mode is not None and facts.file_mode & 0o077:
        findings.append(
            Finding(
                "token",
                "warn",
                f"{facts.source} can be read by others (mode {facts.file_mode:03o})",
                f"chmod 600 {facts.source}",
            )
        )
    return findings


def extras(here: NodeFacts) -> Finding:
    """Packages that only some commands need."""
    return Finding("extras", "ok", ", ".join(here.extras) or "none installed", nodes=(here.name,))


def size(count: float) -> str:
    """Bytes as a person reads them.

    Example:
        >>> size(20e9), size(6_040_000), size(64 << 20), size(512)
        ('20 GB', '6.04 MB', '67.1 MB', '512 B')
    """
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count:.0f} B"


def _speed(probes: Sequence[Mapping[str, Any]]) -> str:
    """What the slowest of some nodes measured."""
    write, read = (min(probe[key] for probe in probes) for key in ("write_mb_s", "read_mb_s"))
    small = max(probe["seconds_small"] for probe in probes)
    return f"writes {write:.0f} MB/s, reads back {read:.0f} MB/s, a small file takes {1000 * small:.0f} ms"


def _same(name: str, version: str, expected: str | None) -> bool:
    # A torch for the CPU (2.11.0+cpu) and one with CUDA (2.11.0+cu130) understand each other.
    return version.partition("+")[0] == (expected or "").partition("+")[0] if name == "torch" else version == expected


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _named(names: Sequence[str]) -> str:
    """GPUs by kind.

    Example:
        >>> _named(["A100", "A100"]), _named([])
        ('2 x A100', 'none')
    """
    kinds = dict.fromkeys(names)
    return ", ".join(f"{list(names).count(kind)} x {kind}" for kind in kinds) or "none"
