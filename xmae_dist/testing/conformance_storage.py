"""What every store must do for a corpus: one suite that `file://`, `s3://` and any other store pass alike.

A test module subclasses `StorageConformance` and offers the fixture `store_url`: a fresh, empty location.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import zarr
from zarr.storage import FsspecStore, LocalStore

from xmae_dist.core.errors import InputError, IntegrityError, StorageError
from xmae_dist.core.fingerprint import sha256_hex
from xmae_dist.storage import sweep, uri
from xmae_dist.storage.corpus import Corpus, Snapshot
from xmae_dist.storage.index import IndexRow
from xmae_dist.storage.snapshot import array_reader
from xmae_dist.storage.table import Table
from xmae_dist.storage.verify import verify
from xmae_dist.storage.zarr_store import (
    ChannelReader,
    ChannelWriter,
    WindowArrayReader,
    WindowArrayWriter,
)

NO_GRACE_S = -60.0  # for stores whose clock is ahead of ours


def open_with_zarr(url: str) -> zarr.Array:
    """The array as zarr-python itself reads it, without any code of ours below."""
    if uri.is_local(url):
        return zarr.open_array(LocalStore(uri.local_path(url), read_only=True), mode="r")
    import fsspec

    scheme, _, path = uri.normalise(url).partition("://")
    fs = fsspec.filesystem(scheme, asynchronous=True, skip_instance_cache=True)
    return zarr.open_array(FsspecStore(fs, path=path, read_only=True), mode="r")


def raw_signal(seed: int, n: int) -> np.ndarray:
    """A reproducible int16 signal (n,) without the missing-sample sentinel."""
    return np.random.default_rng(seed).integers(-3000, 3000, n).astype(np.int16)


def write_part(
    corpus: Corpus, part_id: str, subjects: list[str], *, cohort: str = "patch", seconds: int = 8
) -> list[IndexRow]:
    """A closed part with an ECG at 250 Hz and a PPG at 125 Hz for each subject, and its uncommitted rows."""
    rows = []
    with corpus.begin_part(cohort, part_id) as part:
        for i, subject in enumerate(subjects):
            for channel, rate_hz in (("ecg", 250), ("ppg", 125)):
                array = part.channel(channel, dtype="int16", rate_hz=rate_hz, unit="mV", scale=0.005)
                rows.append(
                    array.add(
                        raw_signal(1000 * i + rate_hz, rate_hz * seconds),
                        subject_id=subject,
                        recording_id=f"{part_id}-{subject}",
                        clock_id="patch",
                        labels={"age": 30.0 + i},
                    )
                )
    return rows


def content(snapshot: Snapshot) -> dict[tuple[str, str, str], str]:
    """(subject, recording, channel) → digest of the bytes as they are read back."""
    return {
        (row.subject_id, row.recording_id, row.channel): sha256_hex(
            ChannelReader(uri.join(snapshot.url, row.array_path)).read_raw(row.offset, row.offset + row.length)
        )
        for row in snapshot.rows()
    }


class ObjectConformance:
    """Objects by URL."""

    def test_an_object_reads_back_and_goes(self, store_url: str) -> None:
        url = uri.join(store_url, "a", "b")
        assert not uri.exists(url)
        uri.write_bytes(url, b"one")
        uri.write_bytes(url, b"two")
        assert uri.read_bytes(url) == b"two"
        assert uri.list_urls(uri.join(store_url, "a")) == [url]
        assert [(one.url, one.bytes) for one in uri.list_details(store_url)] == [(url, 3)]
        uri.delete(url)
        uri.delete(url)
        assert not uri.exists(url)

    def test_nothing_is_listed_where_nothing_is(self, store_url: str) -> None:
        assert uri.list_urls(uri.join(store_url, "none")) == []
        assert uri.list_details(uri.join(store_url, "none")) == []

    def test_reading_what_is_not_there_names_it(self, store_url: str) -> None:
        with pytest.raises(StorageError, match=r"none/x.*nothing there"):
            uri.read_bytes(uri.join(store_url, "none/x"))

    def test_of_many_writers_one_creates_an_object(self, store_url: str) -> None:
        url = uri.join(store_url, "claim")
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(lambda i: uri.create_exclusively(url, str(i).encode()), range(8)))
        assert sum(won) == 1
        assert uri.read_bytes(url) == str(won.index(True)).encode()

    def test_conditional_put_is_there(self, store_url: str) -> None:
        uri.probe_conditional_put(store_url)
        assert uri.list_urls(store_url) == []

    def test_a_tree_travels_there_and_back(self, store_url: str, tmp_path: Path) -> None:
        source = tmp_path / "tree"
        (source / "deep").mkdir(parents=True)
        (source / "a.txt").write_bytes(b"a")
        (source / "deep" / "b.bin").write_bytes(bytes(range(256)))
        uri.upload_tree(source, uri.join(store_url, "tree"))
        uri.download_tree(uri.join(store_url, "tree"), tmp_path / "back")
        assert (tmp_path / "back" / "deep" / "b.bin").read_bytes() == bytes(range(256))
        assert (tmp_path / "back" / "a.txt").read_bytes() == b"a"


class ArrayConformance:
    """Signals and windows."""

    def written(self, store_url: str) -> tuple[str, np.ndarray]:
        """An array of 3 shards of 4 chunks, and what it holds."""
        url = uri.join(store_url, "signals/c/p0/ecg")
        raw = raw_signal(1, 9_500)
        writer = ChannelWriter(
            url, dtype="int16", rate_hz=250, unit="mV", scale=0.005, chunk_samples=1000, shard_samples=4000
        )
        assert [writer.append(raw[a:b]) for a, b in ((0, 1), (1, 2500), (2500, 9500))] == [0, 1, 2500]
        assert writer.close().objects == 3
        return url, raw

    def test_signals_read_back_as_zarr_reads_them(self, store_url: str) -> None:
        url, raw = self.written(store_url)
        reader = ChannelReader(url)
        assert np.array_equal(reader.read_raw(0, reader.length), raw)
        assert np.array_equal(reader.read_raw(3999, 4001), raw[3999:4001])
        assert np.array_equal(open_with_zarr(url)[:], raw)
        np.testing.assert_allclose(reader.read(0, 100), raw[:100] * 0.005, rtol=1e-6)

    def test_missing_samples_are_nan(self, store_url: str) -> None:
        url = uri.join(store_url, "a/ecg")
        writer = ChannelWriter(url, dtype="int16", rate_hz=100, unit="mV", scale=2.0, offset=1.0)
        writer.append(np.array([5, -32768, 7], np.int16))
        writer.close()
        np.testing.assert_array_equal(ChannelReader(url).read(0, 3), np.array([11, np.nan, 15], np.float32))

    def test_an_array_that_was_not_closed_does_not_exist(self, store_url: str) -> None:
        url = uri.join(store_url, "a/ecg")
        writer = ChannelWriter(url, dtype="int16", rate_hz=1, unit="mV", chunk_samples=10, shard_samples=10)
        writer.append(raw_signal(0, 100))
        writer.abandon()
        with pytest.raises(StorageError):
            ChannelReader(url)

    def test_windows_are_gathered(self, store_url: str) -> None:
        url = uri.join(store_url, "w")
        rng = np.random.default_rng(0)
        windows = rng.normal(size=(101, 2, 50)).astype(np.float16)
        writer = WindowArrayWriter(url, channels=2, length=50, chunk_windows=8, shard_windows=32)
        writer.append(windows[:50].astype(np.float32))
        writer.append(windows[50:])
        assert writer.close().objects == 4
        reader, ids = WindowArrayReader(url), rng.integers(0, 101, 300)
        assert np.array_equal(reader.gather(ids), windows[ids])
        assert np.array_equal(reader.read(7, 95), windows[7:95])
        assert np.array_equal(open_with_zarr(url)[:], windows)
        with pytest.raises(IndexError):
            reader.gather(np.array([101]))

    @pytest.mark.parametrize(
        ("damage", "told"),
        [
            (lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:], "chunk 7"),  # the last chunk of shard 1
            (lambda data: bytes([data[0] ^ 1]) + data[1:], "chunk 4"),  # the index: found by the first chunk read
            (lambda data: data[: len(data) - 50], "chunk 7"),
            (lambda data: data[:10], "chunk 4"),
            (lambda data: b"", "chunk 4"),
            (None, "chunk 4"),
        ],
        ids=["bit", "index bit", "cut", "cut in index", "empty", "object gone"],
    )
    def test_damage_is_named(self, store_url: str, damage: Callable[[bytes], bytes] | None, told: str) -> None:
        url, raw = self.written(store_url)
        shard = uri.join(url, "c/1")
        if damage is None:
            uri.delete(shard)
        else:
            uri.write_bytes(shard, damage(uri.read_bytes(shard)))
        reader = ChannelReader(url)
        assert np.array_equal(reader.read_raw(0, 4000), raw[:4000])  # what is whole stays readable
        with pytest.raises(IntegrityError, match=f"part p0, array ecg, {told}:"):
            reader.read_raw(0, 9500)


class TableConformance:
    """Delta tables: all or nothing, once."""

    rows = pa.table({"name": ["a", "b"], "value": [1, 2]})

    def test_an_append_is_read_back_by_version(self, store_url: str) -> None:
        table = Table(uri.join(store_url, "t"))
        assert not table.exists()
        first = table.append(self.rows, metadata={"why": "test"})
        second = table.append(self.rows)
        assert table.version() == second
        assert table.read(first).num_rows == 2
        assert table.read().num_rows == 4
        assert table.read(columns=["value"], filters=[("name", "=", "a")]).to_pydict() == {"value": [1, 1]}
        assert table.history()[1]["why"] == "test"

    def test_a_transaction_commits_once(self, store_url: str) -> None:
        table = Table(uri.join(store_url, "t"))
        version = table.append(self.rows, txn=("job", 1))
        assert version is not None
        assert table.append(self.rows, txn=("job", 1)) is None
        assert (table.version(), table.transaction_version("job")) == (version, 1)
        assert table.append(self.rows, txn=("job", 2)) == version + 1
        assert table.append(self.rows, txn=("job", 1)) is None

    def test_of_many_writers_of_a_transaction_one_commits(self, store_url: str) -> None:
        table = Table(uri.join(store_url, "t"))
        with ThreadPoolExecutor(4) as pool:
            versions = list(pool.map(lambda _: table.append(self.rows, txn=("job", 7)), range(4)))
        assert sum(version is not None for version in versions) == 1
        assert table.read().num_rows == 2

    def test_many_writers_lose_nothing(self, store_url: str) -> None:
        table = Table(uri.join(store_url, "t"))
        with ThreadPoolExecutor(4) as pool:
            versions = list(pool.map(lambda i: table.append(self.rows, txn=(f"job {i}", 1)), range(8)))
        assert len(set(versions)) == 8 and None not in versions
        assert table.read().num_rows == 16
        assert [commit["version"] for commit in table.history()] == [8, 7, 6, 5, 4, 3, 2, 1, 0]

    def test_a_rewrite_sees_what_came_between(self, store_url: str) -> None:
        table = Table(uri.join(store_url, "t"))
        table.append(self.rows)
        calls: list[int] = []

        def raised(current: pa.Table) -> pa.Table:
            if not calls:
                table.delete("value = 1")  # another writer, after we have read
            calls.append(current.num_rows)
            return pa.table({"name": current["name"], "value": [10 * v for v in current["value"].to_pylist()]})

        table.rewrite([("name", "in", ["a", "b"])], raised)
        assert calls == [2, 1]
        assert table.read().to_pydict() == {"name": ["b"], "value": [20]}


class CorpusConformance:
    """Parts, snapshots, withdrawal, vacuum."""

    def test_a_part_is_visible_by_its_commit(self, store_url: str) -> None:
        corpus = Corpus.create(store_url)
        rows = write_part(corpus, "p0", ["s0", "s1"])
        assert corpus.snapshot().cohorts() == []
        version = corpus.commit_part(rows, "run 1")
        snapshot = Corpus.open(store_url).snapshot()
        assert snapshot.version == version
        assert content(snapshot) == {(r.subject_id, r.recording_id, r.channel): r.digest for r in rows}
        recording = list(snapshot.recordings())[1]
        assert (recording.subject_id, recording.labels, recording.duration_s) == ("s1", {"age": 31.0}, 8.0)
        assert recording.read("ppg", 1.0, 3.0).shape == (250,)
        assert list(verify(snapshot)) == []

    def test_a_retry_changes_nothing(self, store_url: str) -> None:
        corpus = Corpus.create(store_url)
        version = corpus.commit_part(write_part(corpus, "p0", ["s0"]), "run 1")
        before = corpus.snapshot().fingerprint
        again = write_part(corpus, "p0", ["s0"])
        assert again[0].part == "p0.2"
        assert corpus.commit_part(again, "run 1") is None
        assert (corpus.snapshot().version, corpus.snapshot().fingerprint) == (version, before)
        assert corpus.committed("run 1") and not corpus.committed("run 2")

    def test_of_racing_ingests_one_commits(self, store_url: str) -> None:
        corpus = Corpus.create(store_url)

        def ingest(_: int) -> int | None:
            return corpus.commit_part(write_part(corpus, "p0", ["s0"], seconds=1), "run 1")

        with ThreadPoolExecutor(4) as pool:
            versions = list(pool.map(ingest, range(4)))
        assert sum(version is not None for version in versions) == 1
        assert len({row.part for row in corpus.snapshot().rows()}) == 1
        assert len(list(corpus.snapshot().recordings())) == 1

    def test_ingests_of_different_parts_do_not_contend(self, store_url: str) -> None:
        corpus = Corpus.create(store_url)

        def ingest(i: int) -> int | None:
            return corpus.commit_part(write_part(corpus, f"p{i}", [f"s{i}"], seconds=1), f"run {i}")

        with ThreadPoolExecutor(4) as pool:
            versions = list(pool.map(ingest, range(6)))
        assert None not in versions
        assert corpus.snapshot().subjects().to_pylist() == [f"s{i}" for i in range(6)]

    def test_a_recording_comes_once(self, store_url: str) -> None:
        corpus = Corpus.create(store_url)
        corpus.commit_part(write_part(corpus, "p0", ["s0"]), "run 1")
        with pytest.raises(InputError, match="already in the corpus, such as 'p0-s0'"):
            corpus.commit_part(write_part(corpus, "p0", ["s0"]), "run 2")

    def test_rows_of_open_arrays_are_refused(self, store_url: str) -> None:
        corpus = Corpus.create(store_url)
        part = corpus.begin_part("patch", "p0")
        array = part.channel("ecg", dtype="int16", rate_hz=250, unit="mV")
        row = array.add(raw_signal(0, 500), subject_id="s", recording_id="r", clock_id="c")
        with pytest.raises(InputError, match="not closed"):
            corpus.commit_part([row], "run 1")
        part.close()
        assert corpus.commit_part([row], "run 1") is not None

    def test_many_recordings_are_few_objects(self, store_url: str) -> None:
        corpus = Corpus.create(store_url)
        corpus.commit_part(write_part(corpus, "p0", [f"s{i}" for i in range(100)], seconds=2), "run 1")
        signals = uri.list_details(uri.join(store_url, "signals"))
        assert len(signals) == 5  # the claim, and metadata and one shard for each of two arrays

    def test_old_snapshots_refuse_withdrawn_subjects(self, store_url: str) -> None:
        corpus = Corpus.create(store_url)
        old = corpus.commit_part(write_part(corpus, "p0", ["s0", "s1", "s2"]), "run 1")
        kept = corpus.commit_part(write_part(corpus, "p1", ["s3"]), "run 2")
        assert corpus.snapshot(old).subjects().to_pylist() == ["s0", "s1", "s2"]  # older, and nothing was withdrawn
        assert corpus.withdraw(["s1", "unknown"]) == (kept or 0) + 1
        assert corpus.withdraw(["s1"]) is None
        assert corpus.snapshot().subjects().to_pylist() == ["s0", "s2", "s3"]
        with pytest.raises(InputError, match="withdrawn since"):
            corpus.snapshot(old)
        assert "s1" in corpus.snapshot(old, allow_withdrawn=True).subjects().to_pylist()

    def test_vacuum_removes_withdrawn_bytes_and_nothing_else(self, store_url: str) -> None:
        corpus = Corpus.create(store_url)
        corpus.commit_part(write_part(corpus, "p0", ["s0", "s1", "s2"]), "run 1")
        corpus.withdraw(["s1"])
        before = corpus.snapshot()
        held, fingerprint = content(before), before.fingerprint
        assert sweep.vacuum(corpus, dry_run=True).compacted == ("patch/p0",)
        assert sweep.vacuum(corpus).compacted == ("patch/p0",)
        assert content(before) == held  # within the grace period old readers go on
        report = sweep.vacuum(corpus, grace_s=NO_GRACE_S)
        assert [orphan.part for orphan in report.removed] == ["p0"]
        after = corpus.snapshot()
        assert (content(after), after.fingerprint) == (held, fingerprint)
        assert sum(ChannelReader(uri.join(store_url, row.array_path)).length for row in after.rows()) == sum(
            2 * row.length for row in after.rows()
        )
        assert list(verify(after)) == []
        assert sweep.vacuum(corpus, grace_s=NO_GRACE_S).removed == ()

    def test_young_orphans_are_left_alone(self, store_url: str) -> None:
        corpus = Corpus.create(store_url)
        rows = write_part(corpus, "p0", ["s0"])  # its writer may commit at any moment
        assert sweep.orphans(corpus) == []
        assert sweep.vacuum(corpus).removed == ()
        assert corpus.commit_part(rows, "run 1") is not None
        corpus.begin_part("patch", "p9").abandon()
        assert [orphan.part for orphan in sweep.orphans(corpus, grace_s=NO_GRACE_S)] == ["p9"]
        assert list(verify(corpus.snapshot())) == []

    def test_verify_names_damage_and_exchange(self, store_url: str) -> None:
        corpus = Corpus.create(store_url)
        corpus.commit_part(write_part(corpus, "p0", ["s0", "s1"]), "run 1")
        corpus.commit_part(write_part(corpus, "p1", ["s2", "s3"], seconds=9), "run 2")
        shard = uri.join(store_url, "signals/patch/p0/ecg/c/0")
        data = uri.read_bytes(shard)
        uri.write_bytes(shard, data[:-1] + bytes([data[-1] ^ 255]))
        uri.delete(uri.join(store_url, "signals/patch/p0/ppg/zarr.json"))
        other = ChannelWriter(uri.join(store_url, "signals/patch/p1/ppg"), dtype="int16", rate_hz=125, unit="mV")
        other.append(raw_signal(99, 2 * 9 * 125))  # valid chunks, but not those that were committed
        other.close()
        array_reader.cache_clear()
        found = sorted((one.kind, one.part, one.array, one.chunk, one.recordings) for one in verify(corpus.snapshot()))
        assert found == [
            ("chunk", "p0", "ecg", 0, ("p0-s0", "p0-s1")),
            ("digest", "p1", "ppg", None, ("p1-s2",)),
            ("digest", "p1", "ppg", None, ("p1-s3",)),
            ("missing", "p0", "ppg", None, ("p0-s0", "p0-s1")),
        ]

    def test_a_fingerprint_is_of_the_content(self, store_url: str) -> None:
        one, other = (Corpus.create(uri.join(store_url, name)) for name in ("one", "other"))
        for i in (0, 1):
            one.commit_part(write_part(one, f"p{i}", [f"s{i}"]), f"run {i}")
        for i in (1, 0):
            other.commit_part(write_part(other, f"p{i}", [f"s{i}"]), f"try {i}")
        assert one.snapshot().fingerprint == other.snapshot().fingerprint
        other.withdraw(["s0"])
        assert one.snapshot().fingerprint != other.snapshot().fingerprint

    def test_a_corpus_is_made_once(self, store_url: str) -> None:
        with ThreadPoolExecutor(4) as pool:
            ids = {corpus.id for corpus in pool.map(lambda _: Corpus.open_or_create(store_url), range(4))}
        assert len(ids) == 1
        with pytest.raises(StorageError, match="a corpus already"):
            Corpus.create(store_url)
        document = json.loads(uri.read_bytes(uri.join(store_url, "corpus.json")))
        assert document["format"] == Corpus.open(store_url).format == "xmae-corpus/v2"


class StorageConformance(ObjectConformance, ArrayConformance, TableConformance, CorpusConformance):
    """The whole suite."""
