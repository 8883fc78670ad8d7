"""The store's reading side, on stores written without Ray (each part by a plain call)."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.corpora import corpus_of
from xmae_dist.cli.main import main
from xmae_dist.core.errors import InputError, IntegrityError, StorageError
from xmae_dist.core.fingerprint import canonical_json
from xmae_dist.data.store import materialise, part, planning
from xmae_dist.data.store.materialise import StoreConfig
from xmae_dist.data.store.part_index import commit_index
from xmae_dist.data.store.window_store import WindowStore
from xmae_dist.data.windows.spans import windows_of_recording
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.data.windows.split import SplitConfig
from xmae_dist.storage import uri
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.snapshot import Snapshot
from xmae_dist.testing.window_store import spelt_ids, write_window_store

CONFIG = StoreConfig(spec=WindowSpec(stride_s=5.0), split=SplitConfig(fractions=(0.5, 0.25, 0.25)), chunk_windows=8)


def plain_store(corpus: Corpus, url: str, config: StoreConfig = CONFIG) -> WindowStore:
    """What `materialise` does, one part after another in this process."""
    snapshot = materialise._chosen(corpus.snapshot(), config)
    with tempfile.TemporaryDirectory() as folder:
        making = materialise.Making(corpus, snapshot, config, url, folder)
        document = making.document()
        url = f"{url}/{document['fingerprint']}"
        uri.write_bytes(f"{url}/store.json", canonical_json(document))
        commit_index(url, document["fingerprint"], [part.write_part(plan) for plan in making.plans(url)])
    return WindowStore.open(url)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> WindowStore:
    folder = tmp_path_factory.mktemp("windows")
    corpus_of(f"{folder}/c", subjects=6, cohort="band")
    corpus = corpus_of(f"{folder}/c", subjects=4, cohort="watch")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(planning, "_MIN_PART_WINDOWS", 30)  # several parts even here
        return plain_store(corpus, f"{folder}/w")


def _snapshot(store: WindowStore) -> Snapshot:
    return Corpus.open(store.url.rsplit("/", 2)[0] + "/c").snapshot()


def test_windows_of_a_snapshot_with_withdrawn_subjects_are_refused_unless_allowed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = corpus_of(f"{tmp_path}/c", subjects=3)
    stored = plain_store(corpus, f"{tmp_path}/w")
    version = corpus.snapshot().version
    corpus.withdraw(["bench-s00"])
    with pytest.raises(InputError, match=r"withdrawn since.*--allow-withdrawn"):
        materialise.materialise(corpus.url, f"{tmp_path}/w", CONFIG, version=version)
    found = materialise.materialise(corpus.url, f"{tmp_path}/w", CONFIG, version=version, allow_withdrawn=True)
    assert (found.url, found.n_windows) == (stored.url, stored.n_windows)
    command = ["windows", "--corpus", corpus.url, "--out", f"{tmp_path}/other", "--snapshot", str(version)]
    assert main(command) == 2 and "--allow-withdrawn" in capsys.readouterr().err
    assert main([*command, "--allow-withdrawn", "--on-the-fly"]) == 2
    assert main([*command, "--allow-withdrawn"]) == 0


def test_ids_are_contiguous_and_ordered_by_split_cohort_part(store: WindowStore) -> None:
    segments = [(split, s) for split in ("train", "val", "test") for s in store.segments(split)]
    assert len(segments) > 4
    expected = 0
    for _, segment in segments:
        assert segment.first_id == expected
        expected += segment.n
    assert expected == store.n_windows == sum(store.counts().values())
    for split in ("train", "val", "test"):
        keys = [(s.cohort, s.part) for s in store.segments(split)]
        assert keys == sorted(keys)


def test_windows_are_those_of_the_recordings(store: WindowStore) -> None:
    snapshot = _snapshot(store)
    meta = {
        (row["recording_id"], row["start_s"]): row
        for split in ("train", "val", "test")
        for row in store.meta(split).to_pylist()
    }
    for recording in snapshot.recordings():
        batch, _ = windows_of_recording(snapshot, recording, store.spec)
        rows = [meta[recording.recording_id, start] for start in batch.start_s_B]
        ecg_BL, ppg_BL = store.read(np.array([row["window_id"] for row in rows]))
        assert np.array_equal(ecg_BL, batch.ecg_BL.astype(np.float16))
        assert np.array_equal(ppg_BL, batch.ppg_BL.astype(np.float16))
        assert rows[0]["subject_id"] == recording.subject_id
        assert rows[0]["cohort"] == recording.cohort
        assert dict(rows[0]["labels"]) == recording.labels
        assert dict(rows[0]["label_text"]) == recording.label_text
        assert rows[0]["quality_ppg"] == pytest.approx(batch.quality_ppg_B[0])
        assert rows[0]["heart_rate_bpm"] == pytest.approx(batch.heart_rate_bpm_B[0])


def test_a_subject_is_in_one_split(store: WindowStore) -> None:
    seen = [
        set(store.meta(split, columns=["subject_id"])["subject_id"].to_pylist()) for split in ("train", "val", "test")
    ]
    assert all(seen)
    assert len(set.union(*seen)) == sum(map(len, seen))


def test_any_order_and_repeats_can_be_read(store: WindowStore) -> None:
    ids = np.random.default_rng(0).integers(0, store.n_windows, 200)
    ecg_BL, ppg_BL = pickle.loads(pickle.dumps(store)).read(ids)
    all_ecg, all_ppg = store.read(np.arange(store.n_windows))
    assert np.array_equal(ecg_BL, all_ecg[ids])
    assert np.array_equal(ppg_BL, all_ppg[ids])
    assert store.meta(ids, columns=["window_id"])["window_id"].to_pylist() == ids.tolist()
    assert store.read(np.zeros(0, np.int64))[1].shape == (0, 1000)
    assert store.meta(np.zeros(0, np.int64)).num_rows == 0


def test_bad_questions_are_answered_clearly(store: WindowStore, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="window ids"):
        store.read(np.array([store.n_windows]))
    with pytest.raises(InputError, match="split: got 'training'"):
        store.segments("training")
    with pytest.raises(StorageError, match="no complete window store"):
        WindowStore.open(f"{tmp_path}/nothing")


def test_a_flipped_bit_is_named_and_never_returned(tmp_path: Path) -> None:
    store = plain_store(corpus_of(f"{tmp_path}/c", subjects=2), f"{tmp_path}/w")
    shard = next(Path(store.url.removeprefix("file://")).glob("parts/*/*/*/ppg/c/0/0/0"))
    data = bytearray(shard.read_bytes())
    data[-100] ^= 1
    shard.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"part p000000, array ppg, chunk \d+"):
        store.read(np.arange(store.n_windows))


def test_a_store_of_the_source_alone(tmp_path: Path) -> None:
    config = StoreConfig(spec=WindowSpec().source_only(), split=CONFIG.split)
    store = plain_store(corpus_of(f"{tmp_path}/c", subjects=2), f"{tmp_path}/w", config)
    ecg_BL, ppg_BL = store.read(np.arange(3))
    assert ecg_BL is None
    assert ppg_BL.shape == (3, 1000)


def test_what_was_dropped_is_kept_with_the_store(tmp_path: Path) -> None:
    corpus = corpus_of(f"{tmp_path}/c", subjects=3)
    config = StoreConfig(spec=WindowSpec(min_quality=0.9999), split=SplitConfig(fractions=(1.0, 0.0, 0.0)))
    store = plain_store(corpus, f"{tmp_path}/w", config)
    dropped = store.dropped()["bench", "train"]
    assert store.n_windows + sum(dropped.values()) == 3 * 2 * 6
    assert set(dropped) <= {"ecg_low_quality", "ppg_low_quality"}


class Asked:
    """What a store on far objects would be asked for, noted where local files are read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ranges: list[str] = []
        self.others: list[str] = []
        read_ranges = uri.read_ranges

        def ranges(url: str, starts: Sequence[int], stops: Sequence[int]) -> list[bytes]:
            self.ranges += [url] * len(starts)
            return read_ranges(url, starts, stops)

        monkeypatch.setattr(uri, "read_ranges", ranges)
        for name in ("read_bytes", "exists", "size"):
            monkeypatch.setattr(uri, name, self._noted(getattr(uri, name)))

    def _noted(self, work: Callable[[str], Any]) -> Callable[[str], Any]:
        def noted(url: str) -> Any:
            self.others.append(url)
            return work(url)

        return noted


def test_a_chunk_is_one_ranged_read_and_nothing_else_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = WindowSpec(window_s=0.1, stride_s=0.1)
    made = write_window_store(
        f"{tmp_path}/w", {"a": [40] * 20, "b": [33] * 5}, chunk_windows=8, shard_windows=16, spec=spec
    )
    handed_on = pickle.loads(pickle.dumps(WindowStore.open(made.url).ready()))
    asked = Asked(monkeypatch)
    lone = np.arange(0, made.n_windows, 41)  # each in a chunk of its own
    ecg_BL, ppg_BL = handed_on.read(lone)
    assert np.array_equal(spelt_ids(ppg_BL), lone) and np.array_equal(spelt_ids(ecg_BL), lone)
    assert len(asked.ranges) == 2 * lone.size and asked.others == []
    assert handed_on.meta(lone, ["subject_id"]).num_rows == lone.size
    assert len(asked.ranges) == 3 * lone.size and asked.others == [], "a part's subjects are one read more"


def test_of_a_person_the_parts_that_hold_it_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = WindowSpec(window_s=0.1, stride_s=0.1)
    made = write_window_store(f"{tmp_path}/w", {"a": [40] * 20}, chunk_windows=8, windows_per_subject=20, spec=spec)
    asked = Asked(monkeypatch)
    split, ids = made.windows_of("a-p000007-0001")  # type: ignore[misc]
    assert split == "train" and ids.tolist() == list(range(300, 320))
    assert len(asked.ranges) == 1 and asked.others == []
    assert made.windows_of("a-p000007-9999") is None
