"""Both clients reach S3 with one access: the same keys, region and endpoint, wherever the AWS chain has them from."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from xmae_dist.core.errors import StorageError
from xmae_dist.storage import uri
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.table import Table
from xmae_dist.testing.conformance_storage import TableConformance, write_part
from xmae_dist.testing.flaky_s3 import FlakyS3, Rule, Signature, flaky_s3
from xmae_dist.testing.metadata_service import MetadataService, metadata_service
from xmae_dist.testing.s3_server import S3Server

OURS, THEIRS = "aiobotocore", "object_store"


@pytest.fixture
def bucket(s3: S3Server) -> str:
    """Made before the environment is emptied."""
    return s3.bucket_url()


@pytest.fixture
def store(s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FlakyS3]:
    """A server that tells how it was spoken to, and an environment in which nothing says how to reach it."""
    for name in (*s3.environment(), "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    with flaky_s3(s3.endpoint_url) as proxy:
        yield proxy


def used(url: str, store: FlakyS3) -> set[Signature]:
    """Makes both clients write and read, and returns how they signed."""
    corpus = Corpus.create(f"{url}/corpus")
    assert corpus.commit_part(write_part(corpus, "p0", ["s0"], seconds=1), "run 1") is not None
    assert Corpus.open(corpus.url).snapshot().subjects().to_pylist() == ["s0"]
    signed = store.signatures()
    assert {one.client for one in signed} == {OURS, THEIRS}, signed
    return signed


def only(signed: set[Signature]) -> tuple[str, str, str]:
    """The one (key, region, token) of all requests."""
    ways = {(one.key, one.region, one.token) for one in signed}
    assert len(ways) == 1, ways
    return next(iter(ways))


def test_keys_of_the_environment(bucket: str, store: FlakyS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint_url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ENVKEY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "env-token")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-3")
    assert only(used(bucket, store)) == ("ENVKEY", "eu-west-3", "env-token")


def test_keys_of_a_profile_with_the_endpoint_in_the_environment(
    bucket: str, store: FlakyS3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "credentials").write_text("[lab]\naws_access_key_id = LABKEY\naws_secret_access_key = secret\n")
    monkeypatch.setenv("AWS_PROFILE", "lab")
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint_url)
    assert only(used(bucket, store)) == ("LABKEY", "us-east-1", "")


@pytest.mark.parametrize("where", ["profile", "services"])
def test_endpoint_and_region_of_a_profile(
    bucket: str, store: FlakyS3, where: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "credentials").write_text("[lab]\naws_access_key_id = LABKEY\naws_secret_access_key = secret\n")
    endpoint = f"endpoint_url = {store.endpoint_url}\n"
    config = "[profile lab]\nregion = eu-central-1\n"
    if where == "profile":
        config += endpoint
    else:
        config += f"services = local\n[services local]\ns3 =\n  {endpoint}"
    (tmp_path / "config").write_text(config)
    monkeypatch.setenv("AWS_PROFILE", "lab")
    assert only(used(bucket, store)) == ("LABKEY", "eu-central-1", "")


def test_a_region_that_nobody_configured_is_that_of_the_bucket(
    s3: S3Server, store: FlakyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint_url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ENVKEY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    signed = used(s3.bucket_url(region="ap-south-1"), store)
    assert {one.region for one in signed if one.client == THEIRS} == {"ap-south-1"}


@pytest.fixture
def role(store: FlakyS3, monkeypatch: pytest.MonkeyPatch) -> Iterator[MetadataService]:
    with metadata_service() as service:
        monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", service.endpoint_url)
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint_url)
        yield service


def test_keys_of_a_role(bucket: str, store: FlakyS3, role: MetadataService) -> None:
    assert only(used(bucket, store)) == ("ROLEKEY0001", "us-east-1", "token-of-ROLEKEY0001")
    assert role.issued == ["ROLEKEY0001"]


def test_keys_of_a_role_are_renewed_for_both_clients_before_they_expire(
    bucket: str, store: FlakyS3, role: MetadataService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", role.container_url)
    role.lifetime_s = 300.0  # within the time in which botocore renews
    corpus = Corpus.create(f"{bucket}/corpus")
    corpus.commit_part(write_part(corpus, "p0", ["s0"], seconds=1), "run 1")
    old = role.issued[-1]
    role.lifetime_s = 3600.0
    uri.exists(corpus.url)  # renews
    new = role.issued[-1]
    assert new != old
    store.follow(Rule(kind="expired", key=old))
    assert corpus.commit_part(write_part(corpus, "p1", ["s1"], seconds=1), "run 2") is not None
    assert only(store.signatures())[0] == new
    assert store.did()["expired"] == 0


def test_the_region_of_the_aws_tools_is_that_of_both(
    bucket: str, store: FlakyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint_url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ENVKEY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_REGION", "sa-east-1")
    assert only(used(bucket, store))[1] == "sa-east-1"


def test_the_instance_metadata_service_is_not_asked_behind_the_back_of_botocore(
    bucket: str, store: FlakyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No keys anywhere: told at once, by us, not after delta-rs has waited for an address that nobody has."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint_url)
    with pytest.raises(StorageError, match="no credentials"):
        Table(f"{bucket}/t").read()
    assert store.signatures() == set()


def test_a_token_of_the_environment_is_not_mixed_with_the_keys_of_a_profile(
    bucket: str, store: FlakyS3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "credentials").write_text("[lab]\naws_access_key_id = LABKEY\naws_secret_access_key = secret\n")
    monkeypatch.setenv("AWS_PROFILE", "lab")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "left-over")
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint_url)
    with pytest.raises(StorageError, match="unset AWS_SESSION_TOKEN"):
        Table(f"{bucket}/t").append(TableConformance.rows)
    assert {one.token for one in store.signatures()} <= {""}
    monkeypatch.delenv("AWS_SESSION_TOKEN")
    assert only(used(bucket, store)) == ("LABKEY", "us-east-1", "")


def test_many_threads_get_one_session(bucket: str, store: FlakyS3, role: MetadataService) -> None:
    url = bucket
    Table(f"{url}/t").append(TableConformance.rows)
    threads = [threading.Thread(target=lambda: Table(f"{url}/t").read()) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert role.issued == ["ROLEKEY0001"]


@pytest.mark.parametrize("where", ["environment", "profile"])
def test_an_endpoint_without_a_scheme_is_told(
    bucket: str, store: FlakyS3, where: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ENVKEY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    if where == "environment":
        monkeypatch.setenv("AWS_ENDPOINT_URL", "localhost:9000")
    else:
        (tmp_path / "config").write_text("[default]\nendpoint_url = localhost:9000\n")
    for use in (Corpus.open, uri.read_bytes, lambda url: Table(url).read(), lambda url: uri.write_bytes(url, b"x")):
        with pytest.raises(StorageError, match="write the scheme in AWS_ENDPOINT_URL"):
            use("s3://bucket/corpus")


def test_a_clock_that_is_off_is_told_as_such(bucket: str, store: FlakyS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint_url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ENVKEY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    url = bucket
    Table(f"{url}/t").append(TableConformance.rows)
    store.follow(Rule(kind="skewed"))
    for use in (Corpus.open, uri.read_bytes, uri.list_urls, lambda url: Table(url).read()):
        with pytest.raises(StorageError, match="set the clock of this machine"):
            use(f"{url}/t")


def test_a_key_of_the_bucket_that_may_not_be_used_is_named(
    bucket: str, store: FlakyS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint_url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ENVKEY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    store.follow(Rule(kind="no key", methods=("PUT",)))
    with pytest.raises(StorageError, match=r"allow kms:Decrypt.*kms:GenerateDataKey"):
        uri.write_bytes(f"{bucket}/x", b"x")
