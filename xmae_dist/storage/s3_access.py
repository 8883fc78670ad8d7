"""How S3 is reached, resolved once for both clients: what s3fs's own session finds is handed to delta-rs.

delta-rs has a credential chain of its own, which knows no profile, no endpoint of one, and another default region:
left to it, the two clients would speak to two stores, or one of them to nobody. So region, endpoint and credentials are
those of the botocore session that s3fs uses, asked at each use: keys of a role are renewed there before they expire.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.asyn import sync

from xmae_dist.core.errors import StorageError

# Endpoints that follow from the region alone; any other was chosen, and is handed on as it is.
_AWS_ENDPOINT = re.compile(r"https://s3(\.[a-z0-9-]+)?\.amazonaws\.com(\.cn)?")
_DEFAULT_REGION = "us-east-1"


@dataclass(frozen=True, kw_only=True)
class S3Access:
    """What a client needs to reach one bucket now. `endpoint_url` is None where it follows from the region."""

    region: str
    endpoint_url: str | None
    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(repr=False)


def s3_access(fs: AbstractFileSystem, bucket: str, regions: dict[str, str]) -> S3Access:
    """The access of `fs` (an S3FileSystem) to a bucket, with keys that are valid now.

    `regions` keeps what was asked of the store: bucket -> region. Raises what botocore raises, NoCredentialsError where
    its chain has no keys.
    """
    return sync(fs.loop, _access, fs, bucket, regions)


def new_session() -> Any:
    """A session for all file systems of one environment: keys of a role are asked for once.

    Raises ImportError where the client is not installed.
    """
    from aiobotocore.session import AioSession

    return AioSession()


def region_options() -> dict[str, str]:
    """Options of a client for what the AWS tools read and botocore does not: AWS_REGION."""
    region = os.environ.get("AWS_REGION", "")
    return {"region_name": region} if region else {}


async def _access(fs: Any, bucket: str, regions: dict[str, str]) -> S3Access:
    from botocore.exceptions import NoCredentialsError

    client = await fs.set_session()
    credentials = await fs.session.get_credentials()
    if credentials is None:
        raise NoCredentialsError
    keys = await credentials.get_frozen_credentials()
    _check_token(keys.token)
    endpoint_url, region = client.meta.endpoint_url, client.meta.region_name
    is_aws = bool(_AWS_ENDPOINT.fullmatch(endpoint_url))
    is_chosen = "region_name" in fs.client_kwargs or fs.session.get_config_variable("region")
    if is_aws or not is_chosen:  # s3fs follows AWS to the bucket's own region, whatever is configured
        if bucket not in regions:
            regions[bucket] = await _region_of(client, bucket) or region
        region = regions[bucket]
    return S3Access(
        region=_DEFAULT_REGION if region in (None, "aws-global") else region,
        endpoint_url=None if is_aws else endpoint_url,
        access_key_id=keys.access_key,
        secret_access_key=keys.secret_key,
        session_token=keys.token,
    )


def _check_token(token: str | None) -> None:
    """delta-rs sends the environment's token with any keys that have none, and cannot be told not to."""
    if os.environ.get("AWS_SESSION_TOKEN") and not token:
        raise StorageError(
            "AWS_SESSION_TOKEN",
            value="a session token for keys that do not use one",
            expected="the token of the keys that are used, or none",
            fix="unset AWS_SESSION_TOKEN: it does not belong to these keys (they come from a profile)",
        )


async def _region_of(client: Any, bucket: str) -> str | None:
    """The region that the store names for a bucket, None where it names none."""
    from botocore.exceptions import ClientError

    try:
        answer = await client.head_bucket(Bucket=bucket)
    except ClientError as error:  # told all the same, also to those who may not look inside
        answer = error.response
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return headers.get("x-amz-bucket-region")
