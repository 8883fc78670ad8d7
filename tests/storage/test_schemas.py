"""The files in storage/ say what the classes do."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jsonschema
import pytest

from xmae_dist.storage import index, schema, uri
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.index import IndexRow
from xmae_dist.testing.conformance_storage import write_part

STORAGE = Path(__file__).resolve().parents[2] / "storage"


def test_schema_files_do_not_drift() -> None:
    written = {path.name: path.read_text(encoding="utf-8") for path in (STORAGE / "schemas").iterdir()}
    expected = {name: schema.text(document) for name, document in schema.documents().items()}
    assert written == expected, "run: python -m xmae_dist.storage.schema storage/schemas"


def test_a_real_corpus_satisfies_the_schemas(tmp_path: Path) -> None:
    corpus = Corpus.create(str(tmp_path))
    rows = write_part(corpus, "p0", ["s0"])
    corpus.commit_part(rows, "run 1")
    documents = schema.documents()
    for name, document in (
        ("corpus.json", json.loads((tmp_path / "corpus.json").read_text())),
        ("part.json", json.loads((tmp_path / "signals/patch/p0/part.json").read_text())),
        (
            "channel-attributes.json",
            json.loads((tmp_path / rows[0].array_path / "zarr.json").read_text())["attributes"],
        ),
        ("index-row.json", json.loads(json.dumps(dataclasses.asdict(rows[0])))),
    ):
        jsonschema.validate(document, documents[name])


def test_rows_survive_arrow() -> None:
    row = IndexRow(
        subject_id="s",
        recording_id="r",
        cohort="c",
        part="p",
        channel="ecg",
        array_path="signals/c/p/ecg",
        offset=3,
        length=100,
        rate_hz=62.4725,
        unit="mV",
        start_time_ns=None,
        clock_id="k",
        gaps=((0, 5), (7, 9)),
        digest="00",
        labels={"age": 41.0, "height": float("inf")},
        label_text={"rhythm": "sinus µ"},
    )
    assert list(index.from_arrow(index.to_arrow([row]))) == [row]


@pytest.mark.parametrize("name", ["reader.json", "runs.json", "bucket-policy.json", "janitor.json"])
def test_policies_grant_no_more_than_said(name: str) -> None:
    actions = {
        action
        for statement in json.loads((STORAGE / "policies" / name).read_text())["Statement"]
        for action in statement["Action"]
    }
    writes = {"s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload", "s3:DeleteObject"}
    allowed = {
        "reader.json": {"s3:ListBucket", "s3:GetObject"},
        "janitor.json": writes | {"s3:GetBucketVersioning"},
    }.get(name, writes)
    assert actions == allowed


def test_profiles_hold_no_keys() -> None:
    for path in (STORAGE / "profiles").glob("*.env"):
        if path.name != "embedded.env":
            assert "\nAWS_SECRET_ACCESS_KEY=" not in path.read_text()
    assert uri.SCHEMES == ("file", "s3", "gs")
