"""deploy/aws_setup.py against a simulated AWS: what it makes, once and again."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

moto = pytest.importorskip("moto")

TOP = Path(__file__).parents[2]


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The script, in front of an AWS in memory."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "dummy")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    found = importlib.util.spec_from_file_location("aws_setup", TOP / "deploy" / "aws_setup.py")
    assert found
    assert found.loader
    script = importlib.util.module_from_spec(found)
    with moto.mock_aws():
        found.loader.exec_module(script)
        yield script


def profile(name: str) -> list[str]:
    import boto3

    about = boto3.client("iam").get_instance_profile(InstanceProfileName=name)["InstanceProfile"]
    return [role["RoleName"] for role in about["Roles"]]


def allowed(name: str) -> dict[str, Any]:
    """Resource -> actions of a role."""
    import boto3

    policy = boto3.client("iam").get_role_policy(RoleName=name, PolicyName="pkdray")["PolicyDocument"]
    policy = json.loads(policy) if isinstance(policy, str) else policy
    result: dict[str, Any] = {}
    for one in policy["Statement"]:
        actions = [one["Action"]] if isinstance(one["Action"], str) else one["Action"]
        result.setdefault(one["Resource"], []).extend(actions)
    return result


@pytest.mark.parametrize("region", ["us-west-2", "us-east-1"])
def test_the_bucket_and_the_roles_of_cluster_yaml_are_there(aws: ModuleType, region: str) -> None:
    import boto3

    for _ in range(2):
        assert aws.main(["my-runs", "--region", region]) == 0
    s3 = boto3.client("s3", region_name=region)
    assert [one["Name"] for one in s3.list_buckets()["Buckets"]] == ["my-runs"]
    assert all(s3.get_public_access_block(Bucket="my-runs")["PublicAccessBlockConfiguration"].values())
    types = yaml.safe_load((TOP / "cluster.yaml").read_text())["available_node_types"]
    for kind in types.values():
        name = kind["node_config"]["IamInstanceProfile"]["Name"]
        assert profile(name) == [name]
    head, worker = allowed("pkdray-head"), allowed("pkdray-worker")
    # A worker may use the bucket and nothing else.
    assert set(worker) == {"arn:aws:s3:::my-runs", "arn:aws:s3:::my-runs/*"}
    assert {"s3:GetObject", "s3:PutObject", "s3:DeleteObject"} <= set(worker["arn:aws:s3:::my-runs/*"])
    assert worker.items() <= head.items()
    # The head starts workers, and may give them their role alone.
    (passed,) = [resource for resource, actions in head.items() if "iam:PassRole" in actions]
    assert passed.endswith(":role/pkdray-worker")
    assert "ec2:*" in head["*"]
    # The image is named by a parameter, which whoever starts a node looks up.
    image = types["a100"]["node_config"]["ImageId"]
    assert image.startswith("resolve:ssm:/aws/service/")
    assert head["arn:aws:ssm:*::parameter/aws/service/*"] == ["ssm:GetParameters"]


def test_the_roles_go_and_the_bucket_stays(aws: ModuleType) -> None:
    import boto3

    aws.main(["my-runs"])
    for _ in range(2):
        assert aws.main(["my-runs", "--delete-roles"]) == 0
    assert boto3.client("iam").list_roles()["Roles"] == []
    assert boto3.client("iam").list_instance_profiles()["InstanceProfiles"] == []
    assert [one["Name"] for one in boto3.client("s3").list_buckets()["Buckets"]] == ["my-runs"]


def test_what_aws_refuses_is_told(aws: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert aws.main(["ab"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("AWS refused: ")
    assert "aws sts get-caller-identity" in said
