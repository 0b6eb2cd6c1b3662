"""A real S3 server on the loopback interface, that lives as long as the tests which share it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

BUCKET = "pkdray-tests"


@dataclass(frozen=True)
class Server:
    """A running server with one bucket; the environment of this process and its children points to it."""

    endpoint: str
    bucket: str = BUCKET

    def uri(self, *names: str) -> str:
        return "/".join([f"s3://{self.bucket}", *names])

    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self) -> Any:
        """boto3's, which knows nothing of pkdray."""
        import boto3

        return boto3.client("s3")

    def names(self, prefix: str = "") -> list[str]:
        """The keys below a prefix, as boto3 lists them; those by which pyarrow marks folders are left out."""
        return [key for key in self._keys(prefix) if not key.endswith("/")]

    def _keys(self, prefix: str) -> list[str]:
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        return sorted(one["Key"] for page in pages for one in page.get("Contents", []))

    def empty(self) -> None:
        """Remove what earlier tests left; the bucket is there again after a test that made moto forget everything."""
        self.client().create_bucket(Bucket=self.bucket)
        for key in self._keys(""):
            self.client().delete_object(Bucket=self.bucket, Key=key)


@contextmanager
def serving() -> Iterator[Server]:
    """Start moto's server on a free port, make a bucket, and point the environment there."""
    from moto.server import ThreadedMotoServer

    # Else it prints a line for every request.
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    try:
        host, port = moto.get_host_and_port()
        server = Server(f"http://{host}:{port}")
        with pytest.MonkeyPatch.context() as patch:
            # Never the account that the developer happens to be logged in to.
            for name in [name for name in os.environ if name.startswith("AWS_")]:
                patch.delenv(name)
            for name, value in server.environment().items():
                patch.setenv(name, value)
            server.client().create_bucket(Bucket=server.bucket)
            yield server
    finally:
        moto.stop()
