"""cluster.yaml and deploy/gcp.yaml: what Ray's schema allows, what EC2 takes, and files that exist."""

from __future__ import annotations

import copy
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

# Ray's command line brings in Ray Serve, whose settings pydantic complains about.
pytestmark = pytest.mark.filterwarnings("ignore:Using extra keyword arguments")

TOP = Path(__file__).parents[2]
AWS, GCP = TOP / "cluster.yaml", TOP / "deploy" / "gcp.yaml"
BOTH = pytest.mark.parametrize("path", [AWS, GCP], ids=lambda path: path.name)
PYTHON = "3.11"

Config = dict[str, Any]


def read(path: Path) -> Config:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def check(config: Config) -> Config:
    """What `ray up` does to a file before it asks the cloud."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


@BOTH
def test_ray_takes_it(path: Path) -> None:
    prepared = check(read(path))
    head, worker = prepared["available_node_types"]["head"], prepared["available_node_types"]["a100"]
    assert prepared["head_node_type"] == "head"
    # Nothing is trained on the head, and `auto` sees a GPU when a step starts.
    assert head["resources"] == {"CPU": 0}
    assert worker["resources"]["GPU"] == 8
    assert 1 <= worker["min_workers"] <= worker["max_workers"] <= prepared["max_workers"]
    # A list of ours replaces Ray's, which would install a nightly wheel.
    assert "ray-wheels" not in str(prepared["setup_commands"] + prepared["head_setup_commands"])


def unknown_key(config: Config) -> None:
    config["max_worker"] = 4


def text_for_a_number(config: Config) -> None:
    config["idle_timeout_minutes"] = "ten"


def no_such_head(config: Config) -> None:
    config["head_node_type"] = "haed"


def more_than_the_most(config: Config) -> None:
    config["available_node_types"]["a100"]["min_workers"] = 9


def unknown_key_of_a_node_type(config: Config) -> None:
    config["available_node_types"]["a100"]["workers"] = 1


@BOTH
@pytest.mark.parametrize(
    "spoil", [unknown_key, text_for_a_number, no_such_head, more_than_the_most, unknown_key_of_a_node_type]
)
def test_ray_refuses_mistakes(path: Path, spoil: Callable[[Config], None]) -> None:
    import jsonschema

    config = read(path)
    spoil(config)
    with pytest.raises((jsonschema.ValidationError, ValueError)):
        check(config)


@BOTH
def test_what_goes_up_is_there_and_enough(path: Path) -> None:
    mounts = read(path)["file_mounts"]
    local = {source for source in mounts.values() if not source.startswith("~")}
    assert [source for source in local if not (TOP / source).exists()] == []
    # An editable install needs each folder that pyproject.toml puts a package in, and the files that it names.
    project = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))
    folders = {folder.partition("/")[0] for folder in project["tool"]["setuptools"]["package-dir"].values()}
    needed = folders | {"pyproject.toml", "requirements.lock", project["project"]["readme"]}
    needed |= set(project["project"]["license-files"])
    assert needed <= local
    assert {mounts[f"~/pkdray/{name}"] for name in needed} == needed
    # Ray reads every file of a folder to see whether it has changed: data, runs and environments stay here.
    assert local & {".", ".venv", "runs", "demo", ".git"} == set()
    assert mounts["~/.ray/auth_token"] == "~/.ray/auth_token"


@BOTH
def test_ray_is_started_with_options_that_it_has(path: Path) -> None:
    from ray.scripts.scripts import cli

    config = read(path)
    known = {option for parameter in cli.commands["start"].params for option in parameter.opts}
    for name in ("head_start_ray_commands", "worker_start_ray_commands"):
        line = config[name][-1]
        asked = {word.partition("=")[0] for word in shlex.split(line.partition("ray start")[2]) if word[:2] == "--"}
        assert asked - known == set()
        assert {"RAY_AUTH_MODE=token", "OMP_NUM_THREADS=1"} <= set(line.replace(";", " ").split())
        assert "--object-store-memory" in asked
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]
    assert CliRunner().invoke(cli, ["start", "--no-such-option"]).exit_code == 2


def run_instances(node_config: Config) -> list[str]:
    """What EC2 would say against a node's fields: botocore's report, and unknown instance types."""
    import botocore.session
    from botocore.validate import ParamValidator

    session = botocore.session.get_session()
    session.set_credentials("dummy", "dummy")
    shape = session.create_client("ec2", region_name="us-west-2").meta.service_model.operation_model("RunInstances")
    # SubnetIds is Ray's own; these are the fields that Ray fills in.
    asked = {"MinCount": 1, "MaxCount": 1, **{key: value for key, value in node_config.items() if key != "SubnetIds"}}
    report = ParamValidator().validate(asked, shape.input_shape)
    faults = [report.generate_report()] if report.has_errors() else []
    kinds = {
        "InstanceType": shape.input_shape.members["InstanceType"].enum,
        "MarketType": shape.input_shape.members["InstanceMarketOptions"].members["MarketType"].enum,
    }
    flat = {**asked, **asked.get("InstanceMarketOptions", {})}
    return faults + [f"{key}: {flat[key]}" for key, enum in kinds.items() if key in flat and flat[key] not in enum]


def test_ec2_takes_the_nodes() -> None:
    pytest.importorskip("boto3")
    config = read(AWS)
    for kind in config["available_node_types"].values():
        assert run_instances(kind["node_config"]) == []
        assert set(kind["node_config"]["IamInstanceProfile"]) == {"Name"}
    types = config["available_node_types"]
    assert types["a100"]["node_config"]["InstanceType"] == "p4d.24xlarge"
    assert not types["head"]["node_config"]["InstanceType"].startswith(("p", "g"))


def test_the_spot_option_is_right_once_its_comment_sign_goes() -> None:
    pytest.importorskip("boto3")
    text = AWS.read_text(encoding="utf-8")
    assert text.count("# InstanceMarketOptions:") == 1
    config = yaml.safe_load(text.replace("# InstanceMarketOptions:", "InstanceMarketOptions:"))
    check(config)
    spot = config["available_node_types"]["a100"]["node_config"]
    assert spot["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert run_instances(spot) == []


def test_the_shared_folder_is_right_once_its_comment_signs_go() -> None:
    text = re.sub(r"^  # (- >-|  (?:sudo|fs-))", r"  \1", AWS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    commands = check(yaml.safe_load(text))["setup_commands"]
    (mount,) = [line for line in commands if "efs" in line]
    assert "mountpoint -q /mnt/efs ||" in mount
    subprocess.run(["bash", "-n", "-c", mount], check=True)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"InstanceType": "p4d.24xlagre"}, "p4d.24xlagre"),
        ({"ImageID": "ami-1"}, "ImageID"),
        ({"IamInstanceProfile": "pkdray-worker"}, "IamInstanceProfile"),
        ({"BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": "200"}}]}, "VolumeSize"),
        ({"InstanceMarketOptions": {"MarketType": "spott"}}, "spott"),
    ],
)
def test_mistakes_in_a_node_are_noticed(changed: Config, said: str) -> None:
    pytest.importorskip("boto3")
    node = {**read(AWS)["available_node_types"]["a100"]["node_config"], **changed}
    assert said in "".join(run_instances(node))


def test_google_takes_the_nodes() -> None:
    config = read(GCP)
    text = GCP.read_text(encoding="utf-8")
    assert text.count("MY-PROJECT") == 3, "two to fill in, and the comment that says so"
    for kind in config["available_node_types"].values():
        node = kind["node_config"]
        (boot,) = node["disks"]
        assert boot["boot"] is True
        assert boot["initializeParams"]["sourceImage"].startswith("projects/deeplearning-platform-release/")
        (account,) = node["serviceAccounts"]
        assert account["email"] == "ray-autoscaler-sa-v1@MY-PROJECT.iam.gserviceaccount.com"
    a100 = config["available_node_types"]["a100"]["node_config"]
    assert (a100["machineType"], a100["scheduling"]["onHostMaintenance"]) == ("a2-highgpu-8g", "TERMINATE")
    # The account that Ray makes for the head is the one that the workers get here.
    from ray.autoscaler import _private

    source = (Path(_private.__file__).parent / "gcp" / "config.py").read_text(encoding="utf-8")
    assert 'DEFAULT_SERVICE_ACCOUNT_ID = RAY + "-sa-" + VERSION' in source
    assert '"roles/storage.objectAdmin"' in source


def test_the_nodes_python_is_that_of_the_lock() -> None:
    lock = (TOP / "requirements.lock").read_text(encoding="utf-8")
    assert f"Python {PYTHON}" in lock.splitlines()[0]
    assert f"venv --python {PYTHON}" in (TOP / "deploy" / "setup_node.sh").read_text(encoding="utf-8")
    assert sys.version_info[:2] == tuple(map(int, PYTHON.split(".")))
