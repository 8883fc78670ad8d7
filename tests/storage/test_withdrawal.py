"""`xmae withdraw` and `xmae vacuum`: what they say, what they change, and that they change nothing unasked."""

from __future__ import annotations

import json

import boto3
import pyarrow as pa
import pytest

from xmae_dist.cli.main import main
from xmae_dist.storage import uri
from xmae_dist.storage.corpus import ALIGNMENTS_SCHEMA, Corpus
from xmae_dist.testing.conformance_storage import write_part
from xmae_dist.testing.s3_server import S3Server


@pytest.fixture
def corpus(store_url: str) -> Corpus:
    corpus = Corpus.create(store_url)
    corpus.commit_part(write_part(corpus, "p0", ["s0", "s1"], seconds=30), "run 1")
    rows = [
        {"pair": f"{n:016x}", "subject_id": subject, "source_cohort": "watch", "target_cohort": "patch"}
        | {"accepted": True, "reason": "", "estimate": "{}"}
        for n, subject in enumerate(["s0", "s1", "s1"])
    ]
    corpus.alignments.append(pa.Table.from_pylist(rows, schema=ALIGNMENTS_SCHEMA))
    return corpus


def _all_bytes(corpus: Corpus) -> dict[str, int]:
    return {one.url: one.bytes for one in uri.list_details(corpus.url)}


def test_a_withdrawn_subject_is_gone_with_its_estimates(corpus: Corpus, capsys: pytest.CaptureFixture[str]) -> None:
    before = _all_bytes(corpus)
    assert main(["withdraw", corpus.url, "--subject", "s1"]) == 0
    assert main(["vacuum", corpus.url, "--grace-hours", "0"]) == 0
    said = capsys.readouterr().out
    assert "s1: 1 recording(s), 0.01 h, of patch would be withdrawn" in said
    assert "nothing was changed" in said
    assert _all_bytes(corpus) == before

    assert main(["withdraw", corpus.url, "--subject", "s1", "--reason", "asked", "--apply"]) == 0
    assert corpus.snapshot().subjects().to_pylist() == ["s0"]
    assert corpus.index.history(1)[0]["xmae_reason"] == "asked"
    capsys.readouterr()
    assert main(["vacuum", corpus.url, "--grace-hours", "0", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert (planned["applied"], planned["compacted"], planned["estimates"]) == (False, ["patch/p0"], 2)
    assert main(["vacuum", corpus.url, "--grace-hours", "0", "--apply"]) == 0
    said = capsys.readouterr().out
    assert "patch/p0: copied without withdrawn samples" in said
    assert "estimates of clocks of withdrawn subjects: 2 deleted" in said
    assert corpus.alignments.read()["subject_id"].to_pylist() == ["s0"]
    assert not uri.exists(uri.join(corpus.url, "signals/patch/p0/ecg/zarr.json"))
    # Not a file is left that holds the estimates of who is gone.
    left = [one.url for one in uri.list_details(uri.join(corpus.url, "alignments")) if one.url.endswith(".parquet")]
    assert len(left) == 1
    assert main(["vacuum", corpus.url, "--grace-hours", "0"]) == 0
    assert "nothing to remove" in capsys.readouterr().out


def test_bad_questions_are_told(corpus: Corpus, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["withdraw", corpus.url, "--subject", "s0", "s9", "--apply"]) == 2
    assert "got s9" in capsys.readouterr().err
    assert corpus.snapshot().subjects().to_pylist() == ["s0", "s1"]
    assert main(["vacuum", corpus.url, "--grace-hours", "-1"]) == 2
    assert "--grace-hours" in capsys.readouterr().err


def test_a_bucket_that_keeps_old_versions_is_told(s3: S3Server, capsys: pytest.CaptureFixture[str]) -> None:
    url = s3.bucket_url()
    corpus = Corpus.create(f"{url}/corpus")
    corpus.commit_part(write_part(corpus, "p0", ["s0", "s1"], seconds=1), "run 1")
    corpus.withdraw(["s1"])
    assert main(["vacuum", corpus.url]) == 0
    assert "old versions" not in capsys.readouterr().out
    client = boto3.client("s3", endpoint_url=s3.endpoint_url, region_name="us-east-1")
    client.put_bucket_versioning(Bucket=url.removeprefix("s3://"), VersioningConfiguration={"Status": "Enabled"})
    assert main(["vacuum", corpus.url, "--apply"]) == 0
    assert "the bucket keeps old versions" in capsys.readouterr().out
    assert main(["vacuum", corpus.url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["old_versions"] is True


def test_the_names_of_readmitted_people_go_with_the_vacuum(store_url: str) -> None:
    corpus = Corpus.create(store_url)
    corpus.commit_part(write_part(corpus, "p0", ["s0", "s1"], seconds=1), "run 1")
    corpus.withdraw(["s1"])
    corpus.readmit(["s1"])
    main(["vacuum", corpus.url, "--grace-hours", "0", "--apply"])
    left = [one.url for one in uri.list_details(uri.join(corpus.url, "withdrawn")) if one.url.endswith(".parquet")]
    assert left == []
