"""Make what cluster.yaml needs on AWS, once: a private bucket, and the roles of the head and of the workers.

Usage: python deploy/aws_setup.py BUCKET [--region us-west-2]

Run again it only puts right what differs. It uses the credentials that `ray up` will use, and needs boto3 and the right
to make buckets and IAM roles. `--delete-roles` takes the roles away again; the bucket, with its runs, stays.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

HEAD, WORKER = "pkdray-head", "pkdray-worker"
POLICY = "pkdray"


def bucket_statements(bucket: str) -> list[dict[str, Any]]:
    """What both roles may do: list, read, write and delete in this bucket, and nothing in any other."""
    return [
        {"Effect": "Allow", "Action": ["s3:ListBucket", "s3:GetBucketLocation"], "Resource": f"arn:aws:s3:::{bucket}"},
        {
            "Effect": "Allow",
            "Action": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"],
            "Resource": f"arn:aws:s3:::{bucket}/*",
        },
    ]


def head_statements(worker_role: str) -> list[dict[str, Any]]:
    """What the autoscaler on the head needs besides: machines, the image's name, and the workers' role to give them."""
    return [
        {"Effect": "Allow", "Action": "ec2:*", "Resource": "*"},
        {"Effect": "Allow", "Action": "ssm:GetParameters", "Resource": "arn:aws:ssm:*::parameter/aws/service/*"},
        {"Effect": "Allow", "Action": "iam:PassRole", "Resource": worker_role},
        # Ray asks whether the profiles of its configuration exist.
        {"Effect": "Allow", "Action": "iam:GetInstanceProfile", "Resource": "*"},
    ]


def make_bucket(name: str, region: str) -> None:
    """A bucket of one's own in the region, closed to the public."""
    s3 = boto3.client("s3", region_name=region)
    # us-east-1 is the one region that may not be named.
    where = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    _unless(lambda: s3.create_bucket(Bucket=name, **where), "BucketAlreadyOwnedByYou")
    s3.put_public_access_block(
        Bucket=name,
        PublicAccessBlockConfiguration=dict.fromkeys(
            ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True
        ),
    )


def make_role(name: str, statements: list[dict[str, Any]]) -> str:
    """A role that machines may take, in an instance profile of the same name; returns the role's ARN."""
    iam = boto3.client("iam")
    trust = {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
    _unless(lambda: iam.create_role(RoleName=name, AssumeRolePolicyDocument=_document([trust])), "EntityAlreadyExists")
    iam.put_role_policy(RoleName=name, PolicyName=POLICY, PolicyDocument=_document(statements))
    _unless(lambda: iam.create_instance_profile(InstanceProfileName=name), "EntityAlreadyExists")
    profile = iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]
    if name not in [role["RoleName"] for role in profile["Roles"]]:
        iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
    return str(iam.get_role(RoleName=name)["Role"]["Arn"])


def delete_role(name: str) -> None:
    """Take a role and its instance profile away; what is not there is passed over."""
    iam = boto3.client("iam")
    for step in (
        lambda: iam.remove_role_from_instance_profile(InstanceProfileName=name, RoleName=name),
        lambda: iam.delete_instance_profile(InstanceProfileName=name),
        lambda: iam.delete_role_policy(RoleName=name, PolicyName=POLICY),
        lambda: iam.delete_role(RoleName=name),
    ):
        _unless(step, "NoSuchEntity")


def _document(statements: list[dict[str, Any]]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


def _unless(call: Callable[[], object], code: str) -> None:
    try:
        call()
    except ClientError as error:
        if error.response["Error"]["Code"] != code:
            raise


def main(arguments: list[str] | None = None) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description="Make the bucket and the roles that cluster.yaml names.")
    parser.add_argument("bucket")
    parser.add_argument("--region", default="us-west-2", help="that of cluster.yaml")
    parser.add_argument("--delete-roles", action="store_true", help="take the roles away; the bucket stays")
    asked = parser.parse_args(arguments)
    try:
        if asked.delete_roles:
            delete_role(HEAD)
            delete_role(WORKER)
            print(
                f"Deleted the roles {HEAD} and {WORKER}. The bucket {asked.bucket} and what is in it are still there."
            )
            return 0
        make_bucket(asked.bucket, asked.region)
        worker = make_role(WORKER, bucket_statements(asked.bucket))
        make_role(HEAD, bucket_statements(asked.bucket) + head_statements(worker))
    except (ClientError, BotoCoreError) as error:
        print(f"AWS refused: {error}", file=sys.stderr)
        print("Check `aws sts get-caller-identity`, its rights, and that the bucket's name is free.", file=sys.stderr)
        return 1
    print(f"s3://{asked.bucket} and the roles {HEAD} and {WORKER} are there. Next: ray up cluster.yaml")
    return 0


if __name__ == "__main__":
    sys.exit(main())
