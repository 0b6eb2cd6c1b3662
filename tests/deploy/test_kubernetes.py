"""The image and the KubeRay files: the fields that Ray needs, and nothing that contradicts the lock."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

# Ray's command line brings in Ray Serve, whose settings pydantic complains about.
pytestmark = pytest.mark.filterwarnings("ignore:Using extra keyword arguments")

DEPLOY = Path(__file__).parents[2] / "deploy"
TOP = DEPLOY.parent
KINDS = {"raycluster.yaml": "RayCluster", "rayjob.yaml": "RayJob"}
FILES = pytest.mark.parametrize("name", sorted(KINDS))


def cluster_of(name: str) -> dict[str, Any]:
    about = yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))
    assert (about["apiVersion"], about["kind"]) == ("ray.io/v1", KINDS[name])
    assert re.fullmatch(r"[a-z0-9-]{1,47}", about["metadata"]["name"])
    spec = about["spec"]
    return spec["rayClusterSpec"] if KINDS[name] == "RayJob" else spec


def pods_of(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Pod templates by group, with the arguments of their `ray start` beside them."""
    workers = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    return {"head": spec["headGroupSpec"], **workers}


@FILES
def test_ray_runs_in_it(name: str) -> None:
    spec = cluster_of(name)
    lock = (TOP / "requirements.lock").read_text(encoding="utf-8")
    assert f"\nray=={spec['rayVersion']}\n" in lock
    # The operator then makes the token, and gives it to every container.
    assert spec["authOptions"] == {"mode": "token"}
    from ray.scripts.scripts import cli

    known = {option for parameter in cli.commands["start"].params for option in parameter.opts}
    for group in pods_of(spec).values():
        assert {f"--{option}" for option in group["rayStartParams"]} <= known
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    (head,) = spec["headGroupSpec"]["template"]["spec"]["containers"]
    assert {port["name"]: port["containerPort"] for port in head["ports"]} == {"gcs-server": 6379, "dashboard": 8265}
    (workers,) = spec["workerGroupSpecs"]
    assert 1 <= workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]


@FILES
def test_the_object_store_has_room_in_shared_memory(name: str) -> None:
    sizes = {"Gi": 2**30, "G": 10**9}
    for group in pods_of(cluster_of(name)).values():
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        (mount,) = container["volumeMounts"]
        (volume,) = pod["volumes"]
        assert mount == {"name": volume["name"], "mountPath": "/dev/shm"}
        assert volume["emptyDir"]["medium"] == "Memory"

        def count(text: str) -> int:
            number, unit = re.fullmatch(r"(\d+)(\w+)", text).groups()  # type: ignore[union-attr]
            return int(number) * sizes[unit]

        room = count(volume["emptyDir"]["sizeLimit"])
        # What is in shared memory counts as the pod's memory.
        assert int(group["rayStartParams"]["object-store-memory"]) < 0.95 * room
        assert room < 0.6 * count(container["resources"]["limits"]["memory"])
        assert container["resources"]["limits"] == container["resources"]["requests"]


@FILES
def test_workers_have_gpus_and_the_head_trains_nothing(name: str) -> None:
    groups = pods_of(cluster_of(name))
    assert groups["head"]["rayStartParams"]["num-cpus"] == "0"
    worker = groups["a100"]["template"]["spec"]
    assert worker["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in worker["tolerations"]
    assert "nvidia.com/gpu" not in groups["head"]["template"]["spec"]["containers"][0]["resources"]["limits"]


@FILES
def test_no_secret_stands_in_the_file(name: str) -> None:
    for group in pods_of(cluster_of(name)).values():
        (container,) = group["template"]["spec"]["containers"]
        assert container["image"] == "REGISTRY/pkdray:0.1.0"
        variables = {one["name"]: one for one in container["env"]}
        assert variables["OMP_NUM_THREADS"]["value"] == "1"
        for secret in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            assert "value" not in variables[secret]
            reference = variables[secret]["valueFrom"]["secretKeyRef"]
            assert reference == {"name": "pkdray-storage", "key": secret, "optional": True}


def test_the_job_is_a_command_that_exists() -> None:
    about = yaml.safe_load((DEPLOY / "rayjob.yaml").read_text(encoding="utf-8"))["spec"]
    python, dash, package, command, space, *options = shlex.split(about["entrypoint"])
    assert (python, dash, package, command) == ("python", "-m", "pkdray", "pipeline")
    from pkdray.shipped import shipped

    assert space in shipped()
    assert options == ["--name", "demo", "--runs-dir", "s3://BUCKET/runs"]
    assert yaml.safe_load(about["runtimeEnvYAML"])["env_vars"]["RAY_JOB_STOP_SIGNAL"] == "SIGINT"
    assert about["shutdownAfterJobFinishes"] is True
    assert about["backoffLimit"] >= 1


def test_the_pipeline_takes_what_these_files_give_it() -> None:
    import typer.main

    from pkdray.cli import app

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    if "pipeline" not in commands:
        pytest.skip("there is no pipeline yet")
    known = {option for parameter in commands["pipeline"].params for option in parameter.opts}
    assert {"--name", "--runs-dir", "--address", "--seeds"} <= known


def test_the_image_is_made_of_the_lock() -> None:
    lines = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    (base,) = [line.split()[1] for line in lines if line.startswith("FROM")]
    lock = (TOP / "requirements.lock").read_text(encoding="utf-8")
    version = re.search(r"Python (\d+\.\d+)", lock)
    assert version
    assert base.startswith(f"python:{version[1]}-slim")
    copied = {word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]}
    assert [name for name in copied if not (TOP / name).exists()] == []
    project = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))
    folders = {folder.partition("/")[0] for folder in project["tool"]["setuptools"]["package-dir"].values()}
    assert folders | {"requirements.lock", "pyproject.toml", project["project"]["readme"]} <= copied
    # What is copied is not ignored, and what is ignored is everything else.
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert {line[1:] for line in ignored if line.startswith("!")} == copied
    assert "*" in ignored
    assert any(line.startswith("USER ray") for line in lines)
