"""Turns what storage clients raise into one StorageError that names the URL, what happened and the fix.

The text is ours, chosen by the kind of failure: clients' own messages can hold request headers and key ids.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from xmae_dist.core.errors import StorageError

# What clients raise, by the module that defines it. None is imported for that: together they take a second.
_RAISED = (
    ("aiohttp", "ClientError"),
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
)


def client_errors() -> tuple[type[Exception], ...]:
    """What the storage clients that this process has imported raise; to be asked where something was raised."""
    found = (getattr(sys.modules.get(module), name, None) for module, name in _RAISED)
    return (OSError, *(kind for kind in found if kind is not None))


@dataclass(frozen=True, kw_only=True)
class _Diagnosis:
    signs: tuple[str, ...]
    value: str
    expected: str
    fix: str
    gs_fix: str | None = None
    """The same by Google's means, for gs:// URLs."""


NOTHING_THERE = "nothing there"
_MOST_SKEW_S = 15 * 60.0
_CREDENTIALS_FIX = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN), or AWS_PROFILE, "
    "to a key that this store knows"
)

_GS_CREDENTIALS_FIX = (
    "`gcloud auth application-default login`, or GOOGLE_APPLICATION_CREDENTIALS with the key file of a service "
    "account, or run as a service account of the machine"
)

# The first diagnosis with a sign in the error's type names or text is taken: order matters.
_DIAGNOSES = (
    _Diagnosis(
        signs=(
            "NoSuchBucket",
            "bucket does not exist",
            "InvalidBucketName",
            "Invalid bucket name",
            "NoSuchUpload",
        ),
        value="no such bucket",
        expected="an existing bucket",
        fix="check the bucket's spelling, AWS_REGION and AWS_ENDPOINT_URL, or create it",
    ),
    _Diagnosis(
        signs=(
            "NoCredentialsError",
            "PartialCredentialsError",
            "CredentialRetrievalError",
            "Unable to locate credentials",
            "no credentials",
            "ProfileNotFound",
            "not find credentials",
            "DefaultCredentialsError",
            "Anonymous caller",
        ),
        value="no credentials",
        expected="credentials where the store's own tools find them (environment, profile or role)",
        fix=_CREDENTIALS_FIX,
        gs_fix=_GS_CREDENTIALS_FIX,
    ),
    _Diagnosis(
        signs=(
            "InvalidAccessKeyId",
            "SignatureDoesNotMatch",
            "InvalidClientTokenId",
            "ExpiredToken",
            "InvalidToken",
            "Access Key Id you provided",
            "signature we calculated",
            "security token",
            "AuthFailure",
            "InvalidSignatureException",
            "RefreshError",
            "Invalid Credentials",
        ),
        value="credentials refused",
        expected="a key that this store knows",
        fix=_CREDENTIALS_FIX,
        gs_fix=_GS_CREDENTIALS_FIX,
    ),
    _Diagnosis(
        signs=("RequestTimeTooSkewed", "RequestExpired"),
        value="request refused for its time",
        expected="a clock within 15 minutes of the store's",
        fix="set the clock of this machine (NTP); permissions are not the cause",
    ),
    _Diagnosis(
        signs=("Invalid endpoint",),
        value="an endpoint that is no URL",
        expected="http://host:port or https://host",
        fix="write the scheme in AWS_ENDPOINT_URL, or in endpoint_url of the profile",
    ),
    _Diagnosis(
        signs=("kms:", "KMS.", "KmsException"),
        value="access to the bucket's encryption key denied",
        expected="permission to use the KMS key",
        fix="allow kms:Decrypt on the key, and to write kms:GenerateDataKey (storage/policies/README.md)",
    ),
    _Diagnosis(
        signs=("AccessDenied", "Access Denied", "PermissionError", "Forbidden", "Permission denied"),
        value="access denied",
        expected="permission to list, read and write below this URL",
        fix="use credentials (or file permissions) with the rights of storage/policies/bucket-policy.json",
        gs_fix="give the account roles/storage.objectUser on the bucket",
    ),
    _Diagnosis(
        signs=(
            "EndpointConnectionError",
            "ConnectTimeoutError",
            "Connection refused",
            "ConnectionRefused",
            "error sending request",
            "connect error",
            "tcp connect",
            "ConnectionError",
            "ReadTimeoutError",
            "FSTimeoutError",
            "Could not connect",
            "dns error",
            "ConnectionClosedError",
            "EndpointResolutionError",
            "InvalidEndpoint",
            "HTTPClientError",
            "TimeoutError",
            "SSLError",
        ),
        value="no answer from the endpoint",
        expected="a reachable object store",
        fix="check AWS_ENDPOINT_URL and the network, and that the server runs",
        gs_fix="check the network and, where it is set, STORAGE_EMULATOR_HOST",
    ),
    _Diagnosis(
        signs=(
            "ClientPayloadError",
            "ContentLengthError",
            "IncompleteRead",
            "ServerDisconnected",
            "response body error",
        ),
        value="answers that end too early, after retries",
        expected="complete answers",
        fix="check the network and any proxy between here and the store, then run this again",
    ),
    _Diagnosis(
        signs=("SlowDown", "ServiceUnavailable", "503 Service", "InternalError", "500 Internal"),
        value="the store failed to serve the request, after retries",
        expected="a healthy store",
        fix="try again later, with fewer requests at once",
    ),
    _Diagnosis(
        signs=("NoSuchKey", "FileNotFoundError", "TableNotFoundError"),
        value=NOTHING_THERE,
        expected="an existing object",
        fix="check the path after the bucket",
    ),
    _Diagnosis(
        signs=("NotADirectoryError",),
        value="a file is in the way",
        expected="a folder",
        fix="choose another path",
    ),
    _Diagnosis(signs=("IsADirectoryError",), value="a folder", expected="a file", fix="check the path"),
    _Diagnosis(
        signs=("No space left", "Disk quota"),
        value="no space left on the device",
        expected="free space",
        fix="free some space or choose another path",
    ),
)


@contextlib.contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """What a storage client raises inside becomes a StorageError about `url`; our own errors pass
    unchanged.
    """
    try:
        yield
    except client_errors() as error:
        raise explain(url, error) from error
    except ValueError as error:
        if "Invalid endpoint" not in str(error):
            raise
        raise explain(url, error) from error


def explain(url: str, error: BaseException) -> StorageError:
    """The StorageError for a client's `error`."""
    said = "\n".join(f"{type(link).__name__} {link}" for link in _chain(error))
    if any(map(_clock_is_off, _chain(error))):
        said += "\nRequestTimeTooSkewed"
    for diagnosis in _DIAGNOSES:
        if any(sign in said for sign in diagnosis.signs):
            fix = diagnosis.gs_fix if diagnosis.gs_fix and str(url).startswith("gs://") else diagnosis.fix
            return StorageError(_named(url), value=diagnosis.value, expected=diagnosis.expected, fix=fix)
    return StorageError(
        _named(url),
        value=f"{type(error).__name__} ({_without_secrets(str(error))})",
        expected="a working store",
        fix="see the cause with XMAE_TRACEBACK=1",
    )


def _named(url: str) -> str:
    endpoint = None
    if str(url).startswith("s3://"):
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    elif str(url).startswith("gs://"):
        endpoint = os.environ.get("STORAGE_EMULATOR_HOST")
    place = f" (endpoint {_without_secrets(endpoint)})" if endpoint else ""
    return f"{_without_secrets(str(url))}{place}"


def _clock_is_off(error: BaseException) -> bool:
    """Whether an answer was given at another time than ours: a refusal without a body (of a HEAD) does not say why."""
    answer = getattr(error, "response", None)
    if not isinstance(answer, dict):
        return False
    metadata = answer.get("ResponseMetadata", {})
    if metadata.get("HTTPStatusCode") != 403:
        return False
    try:
        told = parsedate_to_datetime(metadata.get("HTTPHeaders", {}).get("date", ""))
    except ValueError:
        return False
    return abs(told.timestamp() - time.time()) > _MOST_SKEW_S


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _without_secrets(text: str) -> str:
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    text = re.sub(r"//[^/@\s]+@", "//", text.replace("\n", " "))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        if secret := os.environ.get(name):
            text = text.replace(secret, "***")
    return re.sub(r"\s+", " ", text)[:200]
