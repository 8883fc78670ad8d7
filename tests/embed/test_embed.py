"""Re-embedding: exactly what is new, once, whoever does it and whatever kills it."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.data.corpora import corpus_of
from xmae_dist.cli.main import main
from xmae_dist.core.errors import InputError, IntegrityError
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.embed import staging
from xmae_dist.embed.backlog import cohorts_to_look_at, manifest_folder, open_request
from xmae_dist.embed.encode import LoadedEncoder, encode_batch
from xmae_dist.embed.publish import _withdraw, publish
from xmae_dist.embed.request import Encoder, Request, read_encoder
from xmae_dist.model import bundle, presets
from xmae_dist.storage import uri
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.table import Table


@pytest.fixture
def bundle_url(tmp_path: Path) -> str:
    url = f"file://{tmp_path}/bundle"
    bundle.save(url, presets.build("tiny"), window_spec=WindowSpec().to_dict(), lineage={"origin": "test"})
    return url


def stage(request: Request, table_url: str) -> None:
    """Encode in this process what the pipeline's actors would."""
    loaded = LoadedEncoder.open(request.encoder)
    for batch in request.batches():
        staging.put_part(staging.staging_url(table_url, request), batch.key, encode_batch(batch, loaded))


def opened(corpus_url: str, encoder: Encoder, table_url: str, cohort: str = "bench") -> Request | None:
    return open_request(Corpus.open(corpus_url).snapshot(), cohort, encoder, table_url)


def must(request: Request | None) -> Request:
    assert request is not None
    return request


def rows_of(table_url: str) -> list[tuple[object, ...]]:
    """The multiset of rows, embeddings as bytes."""
    table = Table(table_url).read(columns=["subject_id", "recording_id", "start_s", "model_id", "embedding"])
    return sorted(
        (r["subject_id"], r["recording_id"], r["start_s"], r["model_id"], np.float32(r["embedding"]).tobytes())
        for r in table.to_pylist()
    )


def test_only_what_is_new_and_nothing_twice(store_url: str, bundle_url: str) -> None:
    corpus, table = f"{store_url}/corpus", f"{store_url}/embeddings"
    corpus_of(corpus, subjects=3, recordings=1)
    encoder = read_encoder(bundle_url)
    first = must(opened(corpus, encoder, table))
    stage(first, table)
    done = publish(first, table)
    assert done.version is not None and done.recordings == 3 and done.rows == len(Table(table).read()) > 9
    assert opened(corpus, encoder, table) is None

    extra = Corpus.open(corpus)
    with extra.begin_part("bench", "later") as part:
        ppg = part.channel("ppg", dtype=np.float32, rate_hz=125.0, unit="nu")  # a device without ECG
        wave = np.sin(2 * np.pi * 1.2 * np.arange(0, 65, 1 / 125)).astype(np.float32)
        row = ppg.add(wave, subject_id="new", recording_id="new-1", clock_id="new-1", start_time_ns=10**18)
        silent = ppg.add(np.zeros(4000, np.float32), subject_id="new", recording_id="new-2", clock_id="new-2")
    extra.commit_part([row, silent], "later")
    second = must(opened(corpus, encoder, table))
    assert [r.recording_id for r in second.missing] == ["new-1", "new-2"]
    assert second.generation == 2 and second.request_id != first.request_id
    stage(second, table)
    added = publish(second, table)
    assert added.rows > 0 and added.dropped, "the silent recording gives no windows and says why"
    assert opened(corpus, encoder, table) is None, "a recording without windows is not new for ever"

    new = Table(table).read(filters=[("recording_id", "=", "new-1")])
    assert new["start_time_ns"].to_pylist()[0] == 10**18 + int(new["start_s"][0].as_py() * 1e9)
    assert Table(table).history()[0]["request"] == second.request_id
    assert not uri.list_urls(uri.join(table, "_staging"), recursive=True)


def test_what_others_leave_among_the_requests_is_passed_over(store_url: str, bundle_url: str) -> None:
    corpus, table = f"{store_url}/corpus", f"{store_url}/embeddings"
    corpus_of(corpus, subjects=2, recordings=1)
    encoder = read_encoder(bundle_url)
    first = must(opened(corpus, encoder, table))
    stage(first, table)
    publish(first, table)
    folder = manifest_folder(table, "bench", encoder)
    strays = (".DS_Store", "notes.txt", "1-copy of it.json", "1.json", "x-abc.json", "2-abc.json.tmp", "sub/2-a.json")
    for stray in strays:
        uri.write_bytes(uri.join(folder, stray), b"not ours")
    assert opened(corpus, encoder, table) is None
    Corpus.open(corpus).withdraw(["bench-s00"])
    assert must(opened(corpus, encoder, table)).generation == 2


def test_another_bundle_or_specification_is_another_request(tmp_path: Path, bundle_url: str) -> None:
    corpus, table = f"file://{tmp_path}/corpus", f"file://{tmp_path}/table"
    corpus_of(corpus, subjects=2, recordings=1)
    encoder = read_encoder(bundle_url)
    request = must(opened(corpus, encoder, table))
    stage(request, table)
    publish(request, table)
    wider = dataclasses.replace(encoder, spec=dataclasses.replace(encoder.spec, stride_s=5.0))
    other = dataclasses.replace(encoder, model_id="another")
    assert must(opened(corpus, wider, table)).generation == 1
    assert len(must(opened(corpus, other, table)).missing) == 2


def test_a_withdrawn_subject_leaves_the_table(tmp_path: Path, bundle_url: str) -> None:
    corpus, table = f"file://{tmp_path}/corpus", f"file://{tmp_path}/table"
    made = corpus_of(corpus, subjects=3, recordings=1)
    encoder = read_encoder(bundle_url)
    request = must(opened(corpus, encoder, table))
    stage(request, table)
    publish(request, table)
    before = rows_of(table)
    made.withdraw(["bench-s01"])
    again = must(opened(corpus, encoder, table))
    assert not again.missing and again.stale == ("bench-s01-r0",)
    assert publish(again, table).withdrawn == 1
    assert rows_of(table) == [row for row in before if row[0] != "bench-s01"]
    assert opened(corpus, encoder, table) is None


def test_who_is_withdrawn_while_a_job_lies_dead_leaves_the_table_too(tmp_path: Path, bundle_url: str) -> None:
    corpus, table = f"file://{tmp_path}/corpus", f"file://{tmp_path}/table"
    made = corpus_of(corpus, subjects=3, recordings=1)
    encoder = read_encoder(bundle_url)
    request = must(opened(corpus, encoder, table))
    stage(request, table)
    publish(request, table)
    made.withdraw(["bench-s01"])
    killed = must(opened(corpus, encoder, table))
    assert _withdraw(Table(table), killed) == 1  # and no further: killed before its commit
    made.withdraw(["bench-s02"])
    again = must(opened(corpus, encoder, table))
    assert again.generation == killed.generation
    assert publish(again, table).version is not None
    assert {row[0] for row in rows_of(table)} == {"bench-s00"}
    assert _withdraw(Table(table), killed) == 0, "a slower publisher of a generation removes nothing"


def test_a_cohort_that_was_withdrawn_whole_leaves_the_table(tmp_path: Path, bundle_url: str) -> None:
    corpus, table = f"file://{tmp_path}/corpus", f"file://{tmp_path}/table"
    corpus_of(corpus, subjects=1, recordings=1, cohort="ring")
    made = corpus_of(corpus, subjects=2, recordings=1)
    encoder = read_encoder(bundle_url)
    for cohort in ("bench", "ring"):
        request = must(opened(corpus, encoder, table, cohort))
        stage(request, table)
        publish(request, table)
    made.withdraw(["ring-s00"])
    snapshot = Corpus.open(corpus).snapshot()
    assert cohorts_to_look_at(snapshot, encoder, table) == ["bench", "ring"]
    assert publish(must(opened(corpus, encoder, table, "ring")), table).withdrawn == 1
    assert {row[0] for row in rows_of(table)} == {"bench-s00", "bench-s01"}
    assert opened(corpus, encoder, table, "ring") is None
    assert cohorts_to_look_at(snapshot, encoder, table) == ["bench"]


def test_two_publishers_of_one_request_make_one_commit(store_url: str, bundle_url: str) -> None:
    corpus, table = f"{store_url}/corpus", f"{store_url}/embeddings"
    corpus_of(corpus, subjects=2, recordings=1)
    request = must(opened(corpus, read_encoder(bundle_url), table))
    stage(request, table)
    parts = staging.finished(staging.staging_url(table, request)).values()
    kept = {url: uri.read_bytes(url) for url in parts}

    def publish_once(_: int) -> int | None:
        return publish(request, table).version

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(publish_once, i) for i in range(4)]
    versions = [f.result() for f in futures]
    assert len([v for v in versions if v is not None]) == 1
    assert sum(e["operation"] == "WRITE" for e in Table(table).history()) == 1
    assert publish(request, table).version is None, "who comes when the staged parts are gone finds it done"
    for url, data in kept.items():  # a publisher that was paused all the while
        uri.write_bytes(url, data)
    assert publish(request, table).version is None
    assert opened(corpus, read_encoder(bundle_url), table) is None


def test_two_jobs_that_saw_different_snapshots_add_nothing_twice(tmp_path: Path, bundle_url: str) -> None:
    corpus, table = f"file://{tmp_path}/corpus", f"file://{tmp_path}/table"
    corpus_of(corpus, subjects=2, recordings=1)
    encoder = read_encoder(bundle_url)
    early = must(opened(corpus, encoder, table))
    stage(early, table)
    extra = Corpus.open(corpus)
    with extra.begin_part("bench", "later") as part:
        ppg = part.channel("ppg", dtype=np.float32, rate_hz=125.0, unit="nu")
        wave = np.sin(2 * np.pi * 1.1 * np.arange(0, 40, 1 / 125)).astype(np.float32)
        row = ppg.add(wave, subject_id="new", recording_id="new", clock_id="new")
    extra.commit_part([row], "later")
    late = must(opened(corpus, encoder, table))
    stage(late, table)
    assert publish(late, table).version is not None
    assert publish(early, table).version is None
    keys = [row[:3] for row in rows_of(table)]
    assert len(keys) == len(set(keys))
    assert opened(corpus, encoder, table) is None


def test_publish_refuses_what_is_not_whole(tmp_path: Path, bundle_url: str) -> None:
    corpus, table = f"file://{tmp_path}/corpus", f"file://{tmp_path}/table"
    corpus_of(corpus, subjects=2, recordings=1)
    request = must(opened(corpus, read_encoder(bundle_url), table))
    folder = staging.staging_url(table, request)
    with pytest.raises(IntegrityError, match="no part for"):
        publish(request, table)
    (batch,) = request.batches()
    rows = encode_batch(batch, LoadedEncoder.open(request.encoder))

    def refuses(part: pa.Table, why: str) -> None:
        url = staging.put_part(folder, batch.key, part.replace_schema_metadata(rows.schema.metadata))
        with pytest.raises(IntegrityError, match=why):
            publish(request, table)
        uri.delete(url)

    refuses(rows.slice(1), "disagree with its own counts")
    refuses(pa.concat_tables([rows.slice(0, 1), rows.slice(0, 1), rows.slice(2)]), "duplicate")
    values = np.array(rows["embedding"].combine_chunks().flatten().to_numpy())
    values[3] = np.nan
    bad = pa.FixedSizeListArray.from_arrays(pa.array(values), rows["embedding"].type.list_size)
    refuses(rows.set_column(6, rows.schema.field(6), bad), "not finite")
    url = staging.put_part(folder, batch.key, rows)
    uri.write_bytes(url, uri.read_bytes(url)[:-7] + b"damaged")
    with pytest.raises(IntegrityError, match="staged part"):
        publish(request, table)
    assert not Table(table).exists()


def test_bad_input_is_named(tmp_path: Path, bundle_url: str) -> None:
    corpus, table = f"file://{tmp_path}/corpus", f"file://{tmp_path}/table"
    made = corpus_of(corpus, subjects=2, recordings=1)
    with made.begin_part("chest", "part") as part:
        ecg = part.channel("ecg", dtype=np.float32, rate_hz=250.0, unit="mV")
        row = ecg.add(np.zeros(5000, np.float32), subject_id="x", recording_id="x", clock_id="x")
    made.commit_part([row], "chest")
    encoder = read_encoder(bundle_url)
    with pytest.raises(InputError, match="no recording with a 'ppg' channel"):
        opened(corpus, encoder, table, "chest")
    with pytest.raises(InputError, match="nowhere"):
        opened(corpus, encoder, table, "nowhere")


def test_the_commands_through_ray(
    ray_local: None, store_url: str, bundle_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, table = f"{store_url}/corpus", f"{store_url}/embeddings"
    corpus_of(corpus, subjects=3, recordings=1)
    common = ["--corpus", corpus, "--bundle", bundle_url, "--table", table]
    assert main(["embed", *common, "--cohort", "bench"]) == 0
    assert "committed as version" in capsys.readouterr().out
    corpus_of(corpus, subjects=2, recordings=1, cohort="ring")
    assert main(["reembed", *common]) == 0
    said = capsys.readouterr().out
    assert "bench: nothing new" in said and "ring: " in said
    before = Table(table).version()
    assert main(["reembed", *common]) == 0
    assert "nothing new: the table is up to date" in capsys.readouterr().out
    assert Table(table).version() == before
    assert main(["embed", *common, "--cohort", "no-such"]) == 2


KILLED = """
import os, sys
from xmae_dist.embed import request, staging
request.BATCH_HOURS = 0.01
if sys.argv[4] == "die":
    real, made = staging.put_part, []
    def put_part(*args):
        made.append(real(*args))
        if len(made) == 2:
            os.kill(os.getpid(), 9)
    staging.put_part = put_part
from xmae_dist.embed import encode, publish, backlog
from xmae_dist.storage.corpus import Corpus
encoder = request.read_encoder(sys.argv[2])
asked = backlog.open_request(Corpus.open(sys.argv[1]).snapshot(), "bench", encoder, sys.argv[3])
folder = staging.staging_url(sys.argv[3], asked)
left = staging.unfinished(asked.batches(), folder)
print("encoding", len(left), "of", len(asked.batches()))
loaded = encode.LoadedEncoder.open(encoder)
for batch in left:
    staging.put_part(folder, batch.key, encode.encode_batch(batch, loaded))
publish.publish(asked, sys.argv[3])
"""


def test_killed_in_the_middle_then_the_same_rows(tmp_path: Path, bundle_url: str) -> None:
    corpus = f"file://{tmp_path}/corpus"
    corpus_of(corpus, subjects=4, recordings=1)

    def job(table: str, how: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", KILLED, corpus, bundle_url, f"file://{tmp_path}/{table}", how]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})

    assert job("whole", "live").returncode == 0
    assert job("killed", "die").returncode == -signal.SIGKILL
    assert not Table(f"file://{tmp_path}/killed").exists()
    again = job("killed", "live")
    assert again.returncode == 0, again.stderr
    assert "encoding 2 of 4" in again.stdout, "finished batches are not encoded again"
    assert rows_of(f"file://{tmp_path}/killed") == rows_of(f"file://{tmp_path}/whole")
