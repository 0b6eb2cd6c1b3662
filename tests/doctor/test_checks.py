"""Every check: what is fine, what is not, and whether the cure fits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pkdray.doctor import checks
from pkdray.doctor.checks import NodeFacts, Port, TokenFacts
from pkdray.doctor.findings import Finding, failed, merged, where

GPU_NODE = NodeFacts(
    name="worker-1",
    python="3.11.9",
    packages={"pkdray": "0.1.0", "torch": "2.11.0+cu130", "ray": "2.60.0", "optuna": "5.0.0"},
    extras=["wandb"],
    torch_cuda="13.0",
    torch_gpus=["A100"] * 8,
    torch_error=None,
    driver="580.95.05",
    driver_cuda="13.0",
    driver_gpus=8,
    shared_memory=550_000_000_000,
    memory=1_100_000_000_000,
    disk=[200_000_000_000, 150_000_000_000],
    open_files=65536,
    threads="1",
    ray_gpus=8.0,
    store=100_000_000_000,
)
LAPTOP = replace(
    GPU_NODE,
    name="laptop",
    packages={**GPU_NODE.packages, "torch": "2.11.0+cpu"},
    torch_cuda=None,
    torch_gpus=[],
    driver=None,
    driver_cuda=None,
    driver_gpus=0,
    memory=16_000_000_000,
    shared_memory=8_000_000_000,
    ray_gpus=None,
    store=None,
)


def test_a_machine_in_order_has_nothing_to_mend() -> None:
    found = [*checks.node_findings(GPU_NODE, LAPTOP, 20_000_000_000), *checks.node_findings(LAPTOP, LAPTOP, 1000)]
    assert {one.level for one in found} == {"ok"}
    assert [one for one in found if one.cure] == []
    # The check's name is what a person looks for in the table.
    assert {"python", "torch", "ray", "gpus", "cuda", "object store", "shared memory", "disk"} <= {
        one.check for one in found
    }


@pytest.mark.parametrize(
    ("changed", "check", "level", "said", "cure"),
    [
        ({"python": "3.12.1"}, "python", "fail", "3.12.1, but 3.11.9 on laptop", "requirements.lock"),
        ({"packages": {"optuna": "4.5.0"}}, "optuna", "fail", "4.5.0, but 5.0.0 on laptop", "requirements.lock"),
        ({"packages": {"torch": "2.10.0+cu130"}}, "torch", "fail", "2.10.0+cu130, but", "requirements.lock"),
        ({"packages": {"pkdray": None}}, "pkdray", "fail", "not installed", "requirements.lock"),
        ({"ray_gpus": 9.0}, "gpus", "fail", "Ray deals out 9, torch can use 8", "--num-gpus=8"),
        ({"ray_gpus": 4.0}, "gpus", "warn", "4 of 8", "CUDA_VISIBLE_DEVICES"),
        ({"torch_error": "OSError: libcudart"}, "gpus", "fail", "libcudart", "requirements.lock"),
        ({"torch_error": "OSError: libcudart"}, "cuda", "fail", "libcudart", "requirements.lock"),
        ({"driver_cuda": "12.8", "torch_gpus": [], "ray_gpus": 0.0}, "cuda", "fail", "needs CUDA 13.0", "newer driver"),
        ({"torch_cuda": None, "torch_gpus": [], "ray_gpus": 0.0}, "cuda", "fail", "without CUDA", "requirements.lock"),
        ({"torch_gpus": [], "ray_gpus": 0.0}, "cuda", "fail", "sees none", "torch.cuda.init"),
        (
            {"store": 30_000_000_000},
            "object store",
            "warn",
            "30 GB, of which the study's arrays take 20 GB (67%)",
            "40000",
        ),
        ({"store": 19_000_000_000}, "object store", "fail", "(105%)", "--object-store-memory=40000000000"),
        ({"shared_memory": 64 << 20}, "shared memory", "warn", "as Docker gives", "--shm-size"),
        ({"shared_memory": 90_000_000_000}, "shared memory", "warn", "90 GB, the object store 100 GB", "sizeLimit"),
        ({"disk": [100_000_000_000, 9_000_000_000]}, "disk", "warn", "9 GB of 100 GB", "--temp-dir"),
        ({"disk": [100_000_000_000, 4_000_000_000]}, "disk", "fail", "4 GB of 100 GB", "--temp-dir"),
        ({"disk": [2_000_000_000_000, 80_000_000_000]}, "disk", "warn", "over 95% full", "--temp-dir"),
        ({"open_files": 1024}, "open files", "warn", "1024", "ulimit -n 65536"),
        ({"threads": None}, "threads", "warn", "not set", "OMP_NUM_THREADS=1"),
        ({"threads": "48"}, "threads", "warn", "OMP_NUM_THREADS=48", "OMP_NUM_THREADS=1"),
    ],
)
def test_what_is_wrong_is_said_with_its_value_and_a_cure(
    changed: dict[str, Any], check: str, level: str, said: str, cure: str
) -> None:
    if "packages" in changed:
        changed = {"packages": {**GPU_NODE.packages, **changed["packages"]}}
    found = checks.node_findings(replace(GPU_NODE, **changed), LAPTOP, 20_000_000_000)
    (wrong,) = [one for one in found if one.check == check]
    assert (wrong.level, wrong.nodes) == (level, ("worker-1",))
    assert said in wrong.found
    assert cure in (wrong.cure or "")
    # One cause is told once, and not as several (a torch that cannot be asked is told of both).
    others = {one.check for one in found if one.level == "fail"} - {check}
    assert others <= {"gpus", "cuda"}


def test_an_older_driver_of_the_same_major_version_will_do() -> None:
    assert checks.cuda(replace(GPU_NODE, torch_cuda="13.4", driver_cuda="13.0")).level == "ok"
    assert checks.cuda(replace(GPU_NODE, torch_cuda="9.2", driver_cuda="13.0")).level == "ok"
    # As numbers, not as text: "9" comes after "13" in the alphabet.
    assert checks.cuda(replace(GPU_NODE, torch_cuda="13.0", driver_cuda="9.2")).level == "fail"


def test_without_ray_the_store_is_what_ray_would_take() -> None:
    # 30 % of 16 GB, less than /dev/shm has.
    assert "about 4.8 GB" in checks.object_store(LAPTOP, None).found
    assert "about 1.9 GB" in checks.object_store(replace(LAPTOP, shared_memory=2_000_000_000), None).found
    assert "about 200 GB" in checks.object_store(replace(GPU_NODE, store=None), None).found
    assert checks.object_store(LAPTOP, 4_900_000_000).level == "fail"
    assert checks.object_store(LAPTOP, 2_900_000_000).level == "warn"
    assert checks.object_store(LAPTOP, 2_800_000_000).level == "ok"


FINE = {"seconds_small": 0.02, "write_mb_s": 120.0, "read_mb_s": 300.0, "sees": True, "error": None}


@pytest.mark.parametrize(
    ("root", "changed", "level", "said", "cure"),
    [
        ("/runs", {"error": "PermissionError: no"}, "fail", "/runs: PermissionError", "who may write"),
        ("s3://b/runs", {"error": "OSError: 403"}, "fail", "s3://b/runs: OSError: 403", "instance profile"),
        ("/runs", {"sees": False}, "fail", "not the same folder", "s3://BUCKET/runs"),
        ("/runs", {"write_mb_s": 9.0}, "warn", "writes 9 MB/s", "region or rack"),
        ("/runs", {"seconds_small": 1.5}, "warn", "1500 ms", "region or rack"),
    ],
)
def test_storage_that_is_not_there_not_shared_or_slow(
    root: str, changed: dict[str, Any], level: str, said: str, cure: str
) -> None:
    bad = replace(GPU_NODE, storage={**FINE, **changed})
    good = replace(GPU_NODE, name="worker-2", storage=FINE)
    wrong, right = checks.storage([bad, good], root)
    assert (wrong.level, wrong.nodes, right.level, right.nodes) == (level, ("worker-1",), "ok", ("worker-2",))
    assert said in wrong.found
    assert cure in (wrong.cure or "")


def test_nodes_whose_storage_is_fine_are_one_line_with_the_slowest() -> None:
    slower = replace(GPU_NODE, name="worker-2", storage={**FINE, "write_mb_s": 80.0, "seconds_small": 0.5})
    (found,) = checks.storage([replace(GPU_NODE, storage=FINE), slower], "/runs")
    assert found.found == "/runs: writes 80 MB/s, reads back 300 MB/s, a small file takes 500 ms"
    assert found.nodes == ("worker-1", "worker-2")


def test_a_port_that_is_needed_fails_and_another_warns() -> None:
    assert checks.port(Port("GCS", "head:6379", None, needed=True)).level == "ok"
    shut = checks.port(Port("GCS", "head:6379", "Connection refused", needed=True))
    assert (shut.level, "firewall" in (shut.cure or "")) == ("fail", True)
    quiet = checks.port(Port("dashboard", "head:8265", "timed out", needed=False))
    assert (quiet.level, "tunnel" in (quiet.cure or "")) == ("warn", True)


@pytest.mark.parametrize(
    ("facts", "level", "said", "cure"),
    [
        (TokenFacts(None, None), "ok", "not asked for", ""),
        (TokenFacts("token", "/t", 0o600), "ok", "token of /t", ""),
        (TokenFacts("token", "RAY_AUTH_TOKEN", None, "token"), "ok", "token of RAY_AUTH_TOKEN", ""),
        (TokenFacts(None, "/t", 0o600, "token"), "fail", "RAY_AUTH_MODE is not set", "export RAY_AUTH_MODE=token"),
        (TokenFacts("disabled", "/t", 0o600, "token"), "fail", "RAY_AUTH_MODE is disabled", "RAY_AUTH_MODE=token"),
        (TokenFacts("token", None, None, "token"), "fail", "there is none here", "auth_token"),
        (TokenFacts("token", None), "fail", "there is none here", "get-auth-token --generate"),
        (TokenFacts("token", "/t", 0o600, "token", refused=True), "fail", "refuses the token of /t", "on its head"),
        (TokenFacts(None, None, None, "disabled"), "warn", "asks for no token", "RAY_AUTH_MODE=token"),
    ],
)
def test_who_asks_for_a_token_and_who_has_it(facts: TokenFacts, level: str, said: str, cure: str) -> None:
    (found,) = checks.token(facts)
    assert found.level == level
    assert said in found.found
    assert cure in (found.cure or "")


def test_a_token_that_others_can_read_is_told_beside_the_rest() -> None:
    fine, readable = checks.token(TokenFacts("token", "/t", 0o644, "token"))
    assert (fine.level, readable.level, readable.cure) == ("ok", "warn", "chmod 600 /t")
    assert "644" in readable.found
    assert len(checks.token(TokenFacts("token", "/t", 0o400, "token"))) == 1


def test_what_nodes_share_is_one_line() -> None:
    def say(name: str, found: str) -> Finding:
        return Finding("python", "ok", found, nodes=(name,))

    together = merged([say("a", "3.11.9"), say("b", "3.12.1"), say("c", "3.11.9"), say("a", "3.11.9")])
    assert [(one.found, one.nodes) for one in together] == [("3.11.9", ("a", "c")), ("3.12.1", ("b",))]
    assert where(("a", "c", "d")) == "a and 2 more"
    assert not failed(together)
    assert failed([*together, Finding("x", "fail", "y")])


@pytest.mark.parametrize("say", [checks.gpus, checks.cuda])
def test_gpus_are_named(say: Callable[[NodeFacts], Finding]) -> None:
    assert ("8 x A100" in say(GPU_NODE).found) == (say is checks.gpus)
    assert say(LAPTOP).level == "ok"
