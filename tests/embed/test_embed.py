"""Re-embedding: exactly what is new, once, whoever does it and whatever kills it."""

from __future__ import annotations

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.data.corpora import corpus_of
from tests.embed.evaluations import evaluated, result_of, task_of
from tests.embed.jobs import Job, by_bundle, embed, opened
from xmae_dist.cli.main import main
from xmae_dist.core.errors import InputError, IntegrityError
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.embed import staging
from xmae_dist.embed.backlog import View
from xmae_dist.embed.encode import LoadedEncoder, encode_batch
from xmae_dist.embed.part import put_part
from xmae_dist.embed.pipeline import take_away_who_left
from xmae_dist.embed.request import Encoder, OvertakenError, read_encoder
from xmae_dist.embed.staging import Facts
from xmae_dist.model import bundle, presets
from xmae_dist.storage import uri
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.parquet import read_columns
from xmae_dist.storage.table import Table
from xmae_dist.testing.s3_server import S3Server


@pytest.fixture
def bundle_url(tmp_path: Path) -> str:
    url = f"file://{tmp_path}/bundle"
    bundle.save(url, presets.build("tiny"), window_spec=WindowSpec().to_dict(), lineage={"origin": "test"})
    return url


def job_of(corpus_url: str, encoder: Encoder, table_url: str, cohort: str = "bench") -> Job:
    """A job whose pieces are finished; it waits before its commit."""
    job = opened(corpus_url, table_url, encoder.lineage(cohort), encoder)
    assert job is not None
    job.finish(by_bundle(encoder))
    return job


def rows_of(table_url: str) -> list[tuple[object, ...]]:
    """The multiset of rows, embeddings as bytes."""
    table = Table(table_url).read(columns=["subject_id", "recording_id", "start_s", "model_id", "embedding"])
    return sorted(
        (r["subject_id"], r["recording_id"], r["start_s"], r["model_id"], np.float32(r["embedding"]).tobytes())
        for r in table.to_pylist()
    )


def people(table_url: str, model_id: str | None = None) -> set[object]:
    return {row[0] for row in rows_of(table_url) if model_id in (None, row[3])}


def test_only_what_is_new_and_nothing_twice(store_url: str, bundle_url: str) -> None:
    corpus, table = f"{store_url}/corpus", f"{store_url}/embeddings"
    corpus_of(corpus, subjects=3, recordings=1)
    encoder = read_encoder(bundle_url)
    first = job_of(corpus, encoder, table)
    done = first.publish()
    assert done.version is not None and done.recordings == 3 and done.rows == len(Table(table).read()) > 9
    assert View.of(corpus, table).behind(encoder) == []

    extra = Corpus.open(corpus)
    with extra.begin_part("bench", "later") as part:
        ppg = part.channel("ppg", dtype=np.float32, rate_hz=125.0, unit="nu")  # a device without ECG
        wave = np.sin(2 * np.pi * 1.2 * np.arange(0, 65, 1 / 125)).astype(np.float32)
        row = ppg.add(wave, subject_id="new", recording_id="new-1", clock_id="new-1", start_time_ns=10**18)
        silent = ppg.add(np.zeros(4000, np.float32), subject_id="new", recording_id="new-2", clock_id="new-2")
    extra.commit_part([row, silent], "later")
    second = job_of(corpus, encoder, table)
    (batch,) = second.request.difference.batches()
    assert batch.recordings["recording_id"].to_pylist() == ["new-1", "new-2"]
    assert second.request.generation == 2 and second.request.id != first.request.id
    added = second.publish()
    assert added.rows > 0 and added.dropped, "the silent recording gives no windows and says why"
    assert View.of(corpus, table).behind(encoder) == [], "a recording without windows is not new for ever"

    new = Table(table).read(filters=[("recording_id", "=", "new-1")])
    assert new["start_time_ns"].to_pylist()[0] == 10**18 + int(new["start_s"][0].as_py() * 1e9)
    newest = Table(table).history()[0]
    assert newest["request"] == second.request.id and json.loads(newest["lineage"])["recordings_embedded"] == 2
    assert not uri.list_urls(uri.join(table, "_staging"), recursive=True)


def test_another_bundle_or_specification_is_another_request(tmp_path: Path, bundle_url: str) -> None:
    corpus, table = f"file://{tmp_path}/corpus", f"file://{tmp_path}/table"
    corpus_of(corpus, subjects=2, recordings=1)
    encoder = read_encoder(bundle_url)
    job_of(corpus, encoder, table).publish()
    wider = dataclasses.replace(encoder, spec=dataclasses.replace(encoder.spec, stride_s=5.0))
    other = dataclasses.replace(encoder, model_id="another")
    for one in (wider, other):
        job = opened(corpus, table, one.lineage("bench"), one)
        assert job is not None and job.request.generation == 1 and job.request.difference.missing == 2


def test_a_new_label_embeds_nothing_and_is_noted(tmp_path: Path, bundle_url: str) -> None:
    corpus, table = f"file://{tmp_path}/corpus", f"file://{tmp_path}/table"
    made = corpus_of(corpus, subjects=2, recordings=1)
    encoder = read_encoder(bundle_url)
    job_of(corpus, encoder, table).publish()
    before = rows_of(table)
    relabelled(made)
    assert View.of(corpus, table).behind(encoder) == ["bench"]
    assert opened(corpus, table, encoder.lineage("bench"), encoder) is None
    assert View.of(corpus, table).behind(encoder) == [], "the next look ends at once"
    assert rows_of(table) == before


def relabelled(corpus: Corpus) -> None:
    """Another age for everybody, as `xmae ingest --labels` would give."""
    position = corpus.index.read().schema.get_field_index("labels")

    def aged(rows: pa.Table) -> pa.Table:
        labels = pa.array([[("age", 99.0)]] * len(rows), rows.schema.field("labels").type)
        return rows.set_column(position, rows.schema.field("labels"), labels)

    corpus.index.rewrite([("cohort", "=", "bench")], aged)


def test_a_withdrawn_subject_leaves_the_table_under_every_model(tmp_path: Path, bundle_url: str) -> None:
    corpus, table = f"file://{tmp_path}/corpus", f"file://{tmp_path}/table"
    made = corpus_of(corpus, subjects=3, recordings=1)
    encoder = read_encoder(bundle_url)
    job_of(corpus, encoder, table).publish()
    old = dataclasses.replace(encoder, model_id="old")
    embed(corpus, table, "bench", old, by_bundle(encoder_named(encoder, "old")))
    before = rows_of(table)
    made.withdraw(["bench-s01"])
    again = job_of(corpus, encoder, table)
    assert again.request.difference.missing == 0 and again.request.difference.gone == 1
    assert again.publish().withdrawn == 1
    (lineage,) = View.of(corpus, table).with_people_who_left(encoder)
    assert lineage == old.lineage("bench")
    done = take_away_who_left(corpus, lineage, table)
    assert done is not None and done.withdrawn == 1 and done.rows == 0
    assert rows_of(table) == [row for row in before if row[0] != "bench-s01"]
    view = View.of(corpus, table)
    assert view.behind(encoder) == [] and list(view.with_people_who_left(encoder)) == []
    assert view.behind(old) == ["bench"], "taking away does not say that the rest was looked at"
    assert opened(corpus, table, old.lineage("bench"), old) is None
    assert View.of(corpus, table).behind(old) == []


def encoder_named(encoder: Encoder, model_id: str) -> Encoder:
    return dataclasses.replace(encoder, model_id=model_id)


def test_a_withdrawal_rewrites_only_the_files_that_hold_the_person(tmp_path: Path, bundle_url: str) -> None:
    corpus, table = f"file://{tmp_path}/corpus", f"file://{tmp_path}/table"
    made = corpus_of(corpus, subjects=2, recordings=1)
    encoder = read_encoder(bundle_url)
    job_of(corpus, encoder, table).publish()
    with made.begin_part("bench", "later") as part:
        ppg = part.channel("ppg", dtype=np.float32, rate_hz=125.0, unit="nu")
        wave = np.sin(2 * np.pi * 1.2 * np.arange(0, 65, 1 / 125)).astype(np.float32)
        rows = [ppg.add(wave, subject_id=name, recording_id=name, clock_id=name) for name in ("z1", "z2")]
    made.commit_part(rows, "later")
    job_of(corpus, encoder, table).publish()
    first, second = sorted(files_of(table))
    made.withdraw(["z1"])
    job_of(corpus, encoder, table).publish()
    now = files_of(table)
    assert len({first, second} & now) == 1 and len(now) == 2
    made.withdraw(["z2"])
    job_of(corpus, encoder, table).publish()
    assert len(files_of(table)) == 1, "a file of which nothing is left is not written again"
    assert people(table) == {"bench-s00", "bench-s01"}


def files_of(table_url: str) -> set[str]:
    newest = Table(table_url).newest()
    assert newest is not None
    return set(newest.files({})["path"].to_pylist())


def test_a_cohort_that_was_withdrawn_whole_leaves_the_table(tmp_path: Path, bundle_url: str) -> None:
    corpus, table = f"file://{tmp_path}/corpus", f"file://{tmp_path}/table"
    corpus_of(corpus, subjects=1, recordings=1, cohort="ring")
    made = corpus_of(corpus, subjects=2, recordings=1)
    encoder = read_encoder(bundle_url)
    for cohort in ("bench", "ring"):
        job_of(corpus, encoder, table, cohort).publish()
    made.withdraw(["ring-s00"])
    assert View.of(corpus, table).behind(encoder) == ["ring"]
    assert job_of(corpus, encoder, table, "ring").publish().withdrawn == 1
    assert people(table) == {"bench-s00", "bench-s01"}
    assert View.of(corpus, table).behind(encoder) == []


def test_two_publishers_of_one_request_make_one_commit(store_url: str, bundle_url: str) -> None:
    corpus, table = f"{store_url}/corpus", f"{store_url}/embeddings"
    corpus_of(corpus, subjects=2, recordings=1)
    encoder = read_encoder(bundle_url)
    job = job_of(corpus, encoder, table)
    kept = {one.url: uri.read_bytes(one.url) for one in uri.list_details(job.work.place.folder)}

    def publish_once(_: int) -> int | None:
        return job.publish().version

    with ThreadPoolExecutor(4) as pool:
        versions = [future.result() for future in [pool.submit(publish_once, i) for i in range(4)]]
    assert len([v for v in versions if v is not None]) == 1
    assert sum(e["operation"] == "WRITE" for e in Table(table).history()) == 1
    assert job.publish().version is None, "who comes when the staged facts are gone finds it done"
    for url, data in kept.items():  # a publisher that was paused all the while
        uri.write_bytes(url, data)
    assert job.publish().version is None
    assert View.of(corpus, table).behind(encoder) == []


def test_two_jobs_that_saw_different_snapshots_add_nothing_twice(tmp_path: Path, bundle_url: str) -> None:
    corpus, table = f"file://{tmp_path}/corpus", f"file://{tmp_path}/table"
    corpus_of(corpus, subjects=2, recordings=1)
    encoder = read_encoder(bundle_url)
    early = job_of(corpus, encoder, table)
    extra = Corpus.open(corpus)
    with extra.begin_part("bench", "later") as part:
        ppg = part.channel("ppg", dtype=np.float32, rate_hz=125.0, unit="nu")
        wave = np.sin(2 * np.pi * 1.1 * np.arange(0, 40, 1 / 125)).astype(np.float32)
        row = ppg.add(wave, subject_id="new", recording_id="new", clock_id="new")
    extra.commit_part([row], "later")
    late = job_of(corpus, encoder, table)
    assert late.publish().version is not None
    assert early.publish().version is None
    keys = [row[:3] for row in rows_of(table)]
    assert len(keys) == len(set(keys))
    assert View.of(corpus, table).behind(encoder) == []


def test_files_that_others_rearranged_are_looked_at_again(tmp_path: Path, bundle_url: str) -> None:
    corpus, table = f"file://{tmp_path}/corpus", f"file://{tmp_path}/table"
    made = corpus_of(corpus, subjects=2, recordings=1)
    encoder = read_encoder(bundle_url)
    job_of(corpus, encoder, table).publish()
    made.withdraw(["bench-s01"])
    late = job_of(corpus, encoder, table)
    Table(table).rewrite([("cohort", "=", "bench")], lambda rows: rows)
    before = rows_of(table)
    with pytest.raises(OvertakenError):
        late.publish()
    assert rows_of(table) == before
    assert job_of(corpus, encoder, table).publish().withdrawn == 1
    assert people(table) == {"bench-s00"}


def test_publish_refuses_what_is_not_whole(tmp_path: Path, bundle_url: str) -> None:
    corpus, table = f"file://{tmp_path}/corpus", f"file://{tmp_path}/table"
    corpus_of(corpus, subjects=2, recordings=1)
    encoder = read_encoder(bundle_url)
    job = opened(corpus, table, encoder.lineage("bench"), encoder)
    assert job is not None
    with pytest.raises(IntegrityError, match="no result of 1 batches"):
        job.publish()
    (task,), place = job.work.encode, job.work.place
    made = encode_batch(staging.read_work(task.work_url), corpus, LoadedEncoder.open(encoder))
    rows = made.rows

    def put(part: pa.Table) -> Facts:
        add = put_part(table, part, place.partition, request=place.request, key=task.key)
        return Facts(key=task.key, add=add, windows=made.windows)

    staging.put_facts(place.folder, put(rows.slice(1)))
    with pytest.raises(IntegrityError, match="equal counts"):
        job.publish()
    uri.delete(uri.join(place.folder, "done"), recursive=True)
    with pytest.raises(IntegrityError, match="duplicate"):
        put(pa.concat_tables([rows.slice(0, 1), rows.slice(0, 1), rows.slice(2)]))
    values = [list(one) for one in rows["embedding"].to_pylist()]
    values[3][1] = float("nan")
    bad = rows.set_column(6, rows.schema.field(6), pa.array(values, rows.schema.field(6).type))
    with pytest.raises(IntegrityError, match="not finite"):
        put(bad)
    facts = put(rows)
    staging.put_facts(place.folder, facts)
    assert facts.add is not None
    url = facts.add.url(table)
    whole = uri.read_bytes(url)
    for damaged in (None, whole[:-7]):
        uri.delete(url)
        if damaged is not None:
            uri.write_bytes(url, damaged)
        with pytest.raises(IntegrityError, match="bytes"):
            job.publish()
    assert not Table(table).exists()
    uri.write_bytes(url, whole)
    assert job.publish().version is not None


def test_bad_input_is_named(tmp_path: Path, bundle_url: str) -> None:
    corpus, table = f"file://{tmp_path}/corpus", f"file://{tmp_path}/table"
    made = corpus_of(corpus, subjects=2, recordings=1)
    with made.begin_part("chest", "part") as part:
        ecg = part.channel("ecg", dtype=np.float32, rate_hz=250.0, unit="mV")
        row = ecg.add(np.zeros(5000, np.float32), subject_id="x", recording_id="x", clock_id="x")
    made.commit_part([row], "chest")
    encoder = read_encoder(bundle_url)
    with pytest.raises(InputError, match="no recording with a 'ppg' channel"):
        job_of(corpus, encoder, table, "chest")
    with pytest.raises(InputError, match="nowhere"):
        job_of(corpus, encoder, table, "nowhere")


def test_the_commands_through_ray(
    ray_local: None, s3: S3Server, bundle_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store_url = s3.bucket_url()
    corpus, table = f"{store_url}/corpus", f"{store_url}/embeddings"
    corpus_of(corpus, subjects=3, recordings=1)
    common = ["--corpus", corpus, "--bundle", bundle_url, "--table", table]
    assert main(["embed", *common, "--cohort", "bench"]) == 0
    assert "committed as version" in capsys.readouterr().out
    corpus_of(corpus, subjects=2, recordings=1, cohort="ring")
    assert main(["reembed", *common]) == 0
    said = capsys.readouterr().out
    assert "bench: nothing new" in said and "ring: " in said
    assert said.splitlines()[-1].startswith("status=ok ") and "cohorts=2 embedded=1 held=0" in said
    before = Table(table).version()
    model_id = read_encoder(bundle_url).model_id
    evaluation = evaluated(f"{store_url}/evaluation", result_of(model_id, task_of("af"), signal=1.0))
    promotion = ["--as", "champion", "--table", table, "--evaluation", evaluation]
    assert main(["promote", bundle_url, *promotion]) == 0
    tick = ["reembed", "--corpus", corpus, "--table", table, "--model", "champion"]
    assert main([*tick, "--report", f"{store_url}/pages"]) == 0
    assert "nothing new: the table is up to date" in capsys.readouterr().out
    assert Table(table).version() == before
    (page,) = uri.list_urls(f"{store_url}/pages")
    assert b"status=ok" in uri.read_bytes(page) and b"data:image/png" in uri.read_bytes(page)
    looked = ["--table", table, "--model", "champion", "--cohort", "ring", "--recording", "ring-s00-r0"]
    assert main(["neighbours", *looked, "--start-s", "0", "--k", "3"]) == 0
    assert len(capsys.readouterr().out.split("─\n")[1].splitlines()) == 3
    pool = ["pool", "--table", table, "--model", "champion", "--by", "recording", "--out", f"{store_url}/pooled"]
    assert main(pool) == 0 and "ring.parquet: 2 recordings of" in capsys.readouterr().out
    assert read_columns(f"{store_url}/pooled/ring.parquet")["recording_id"].to_pylist() == [
        "ring-s00-r0",
        "ring-s01-r0",
    ]
    assert main(["embed", *common, "--cohort", "no-such"]) == 2
