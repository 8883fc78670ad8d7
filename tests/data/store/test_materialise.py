"""The Ray Data job: same bytes however many tasks, made once, visible at once, on files and on S3."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.corpora import corpus_of
from tests.data.store.test_window_store import CONFIG
from xmae_dist.core.errors import InputError, IntegrityError, StorageError
from xmae_dist.data.store import planning
from xmae_dist.data.store.materialise import StoreConfig, materialise
from xmae_dist.data.store.window_store import WindowStore
from xmae_dist.data.windows.split import SplitConfig
from xmae_dist.storage import uri
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.table import Table


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "_MIN_PART_WINDOWS", 30)


def _parts(store: WindowStore) -> dict[str, bytes]:
    urls = uri.list_urls(f"{store.url}/parts", recursive=True)
    return {url.removeprefix(store.url): uri.read_bytes(url) for url in urls}


def test_the_store_is_the_same_bytes_for_one_task_and_four(ray_local: None, tmp_path: Path) -> None:
    corpus_of(f"{tmp_path}/c")
    one = materialise(f"{tmp_path}/c", f"{tmp_path}/one", CONFIG, tasks=1)
    four = materialise(f"{tmp_path}/c", f"{tmp_path}/four", CONFIG, tasks=4)
    assert one.n_windows > 100
    assert len(one.segments("train")) > 1
    assert _parts(one) == _parts(four)
    assert one.fingerprint == four.fingerprint
    for split in ("train", "val", "test"):
        assert one.segments(split) == four.segments(split)


def test_the_same_request_finds_the_store(ray_local: None, store_url: str) -> None:
    corpus_of(f"{store_url}/c", subjects=3, recordings=1)
    first = materialise(f"{store_url}/c", f"{store_url}/w", CONFIG)
    again = materialise(f"{store_url}/c", f"{store_url}/w", CONFIG)
    assert again.url == first.url
    assert Table(f"{first.url}/index").version() == 1
    corpus_of(f"{store_url}/c", subjects=1, recordings=1, cohort="new")
    grown = materialise(f"{store_url}/c", f"{store_url}/w", CONFIG)
    assert grown.url != first.url
    assert {cohort for cohort, _ in grown.counts()} == {"bench", "new"}
    one_cohort = StoreConfig(spec=CONFIG.spec, split=CONFIG.split, chunk_windows=8, cohorts=("new",))
    alone = materialise(f"{store_url}/c", f"{store_url}/w", one_cohort)
    assert {cohort for cohort, _ in alone.counts()} == {"new"}
    corpus_of(f"{store_url}/c", subjects=1, recordings=1, cohort="newer")
    assert materialise(f"{store_url}/c", f"{store_url}/w", one_cohort).url == alone.url


def test_a_crashed_job_is_invisible_and_is_finished_by_the_next(ray_local: None, tmp_path: Path) -> None:
    corpus_of(f"{tmp_path}/c")
    whole = materialise(f"{tmp_path}/c", f"{tmp_path}/whole", CONFIG)
    torn = materialise(f"{tmp_path}/c", f"{tmp_path}/torn", CONFIG)
    folder = Path(torn.url.removeprefix("file://"))
    # As a kill between the making of the index table and its commit would leave it, one part half-written.
    (folder / "index/_delta_log/00000000000000000001.json").unlink()
    halves = sorted(folder.glob("parts/*/*/*"))
    (halves[0] / "meta.parquet").unlink()
    (halves[0] / "ppg/zarr.json").unlink()
    untouched = (halves[1] / "ppg/c/0/0/0").stat().st_mtime_ns
    with pytest.raises(StorageError, match="no complete window store"):
        WindowStore.open(torn.url)
    mended = materialise(f"{tmp_path}/c", f"{tmp_path}/torn", CONFIG)
    assert _parts(mended) == _parts(whole)
    assert (halves[1] / "ppg/c/0/0/0").stat().st_mtime_ns == untouched
    assert [s.n for s in mended.segments("train")] == [s.n for s in whole.segments("train")]


def test_a_damaged_recording_stops_the_job_by_name(ray_local: None, tmp_path: Path) -> None:
    corpus_of(f"{tmp_path}/c", subjects=2)
    shard = next(tmp_path.glob("c/signals/*/*/ppg/c/0"))
    data = bytearray(shard.read_bytes())
    data[-100] ^= 1
    shard.write_bytes(data)
    with pytest.raises(IntegrityError, match="part part, array ppg, chunk"):
        materialise(f"{tmp_path}/c", f"{tmp_path}/w", CONFIG)


def test_an_empty_corpus_and_an_unknown_cohort_are_named(tmp_path: Path) -> None:
    Corpus.create(f"{tmp_path}/c")
    with pytest.raises(InputError, match="no recordings"):
        materialise(f"{tmp_path}/c", f"{tmp_path}/w")
    with pytest.raises(InputError, match="cohort: got 'watch'"):
        materialise(f"{tmp_path}/c", f"{tmp_path}/w", StoreConfig(cohorts=("watch",)))


def test_listed_subjects_are_held_out(ray_local: None, tmp_path: Path) -> None:
    corpus_of(f"{tmp_path}/c", subjects=3, recordings=1)
    split = SplitConfig(fractions=(1.0, 0.0, 0.0), test_subjects=("bench-s01",))
    store = materialise(f"{tmp_path}/c", f"{tmp_path}/w", StoreConfig(split=split))
    assert set(store.meta("test", columns=["subject_id"])["subject_id"].to_pylist()) == {"bench-s01"}
    assert store.segments("val") == []
