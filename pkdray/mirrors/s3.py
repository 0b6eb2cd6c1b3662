"""S3's file system, with timeouts; it imports nothing of pkdray, so that `pkdray doctor` may send it to any node."""

from __future__ import annotations

import os
from typing import Any

CONNECT_SECONDS, ATTEMPTS = 5, 3
"""How long one attempt waits for a connection, and how many there are."""


def s3_file_system(bucket: str, request_seconds: float) -> Any:
    """Pyarrow's S3FileSystem, by the variables that AWS's own tools read.

    AWS_ENDPOINT_URL is read by pyarrow's ``from_uri`` too, which knows no timeouts: a wrong address hangs for minutes.

    Args:
        bucket: whose region is asked for where no variable says it, and no endpoint is named.
        request_seconds: how long one attempt waits for an answer.

    Raises:
        OSError: the bucket's region is not told.
    """
    from pyarrow import fs

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if region is None:
        region = "us-east-1" if endpoint else fs.resolve_s3_region(bucket)
    return fs.S3FileSystem(
        region=region,
        endpoint_override=endpoint or None,
        connect_timeout=CONNECT_SECONDS,
        request_timeout=request_seconds,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
        # A small file is then one request, and there for others as one.
        allow_delayed_open=True,
    )
