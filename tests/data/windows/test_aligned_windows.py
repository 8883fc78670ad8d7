"""Windows whose target and source had clocks of their own: cut with the estimated clocks, against planted truth."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from tests.data.conftest import WATCH, WORN
from xmae_dist.core.errors import ConfigError
from xmae_dist.data.clocks.alignment import estimate
from xmae_dist.data.store.materialise import NoWindowsError, StoreConfig, materialise
from xmae_dist.data.store.window_store import WindowStore
from xmae_dist.data.windows.source import pairs_among, window_sources
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.data.windows.split import SplitConfig
from xmae_dist.evaluate.labels import MEASURED, Labelled, label_values
from xmae_dist.evaluate.tasks import Task
from xmae_dist.simulate.cohorts import simulate_subject
from xmae_dist.simulate.recordings import SimulatedRecording
from xmae_dist.storage.corpus import Corpus

SPEC = WindowSpec(arrival_prior_s=0.25, min_quality=0.3)
SPLIT = SplitConfig(fractions=(1.0, 0.0, 0.0))
Truths = dict[str, tuple[SimulatedRecording, SimulatedRecording]]


@pytest.fixture(scope="module")
def corpus(ray_local: None, worn_url: str) -> Corpus:
    return Corpus.open(worn_url)


@pytest.fixture(scope="module")
def store(corpus: Corpus) -> WindowStore:
    return materialise(corpus.url, f"{corpus.url}/windows", StoreConfig(spec=SPEC, split=SPLIT))


@pytest.fixture(scope="module")
def truth() -> Truths:
    """(patch, watch) by the watch's recording."""
    worn = (simulate_subject(WORN, index) for index in range(WORN.subjects))
    return {watch.recording_id: (patch, watch) for patch, watch in worn}


def test_windows_of_two_devices_show_the_same_moment(store: WindowStore, truth: Truths) -> None:
    """Planted offset and drift: the middle of a window was seen by both devices at one true time, but for a constant.

    The constant is what makes the subject's usual arrival time the declared one, as the detector sees it.
    """
    assert store.n_windows > 150
    kept = pa.concat_tables(store.sources() or ())
    assert sum(kept["kept"].to_pylist()) == store.n_windows
    assert all("af" in dict(labels) for labels in kept["labels"].to_pylist())
    meta = store.meta("train").to_pandas()
    assert set(meta["cohort"]) == {WATCH}
    assert not meta["arrival_time_absolute"].any()
    for recording_id, rows in meta.groupby("recording_id"):
        patch, watch = truth[recording_id]
        assert set(rows["target_recording_id"]) == {patch.recording_id}
        apart_s = watch.truth.clock.true_s(rows["start_s"] + 5.0) - patch.truth.clock.true_s(
            rows["target_start_s"] + 5.0
        )
        assert np.abs(apart_s - np.median(apart_s)).max() < 0.025
        assert abs(rows["pulse_arrival_s"].median() - SPEC.arrival_prior_s) < 0.025
        usual_s = np.median(watch.truth.arrival_true_s - watch.truth.r_true_s)
        assert abs(np.median(apart_s) - (usual_s - SPEC.arrival_prior_s)) < 0.06  # feet as detected, not as planted
        by_wall_s = np.abs(watch.truth.clock.offset_s - patch.truth.clock.offset_s)
        assert by_wall_s > 1.0  # or there was nothing to find


def test_what_is_not_trusted_is_counted_by_reason_and_not_used(corpus: Corpus, store: WindowStore) -> None:
    reasons = store.dropped()[WATCH, "train"]
    assert not [name for name in reasons if name.startswith("align_")]
    recordings = list(corpus.snapshot().recordings())
    watches = [r for r in recordings if r.cohort == WATCH]
    patches = [r for r in recordings if r.cohort != WATCH]
    # The patch of another subject, said to be one's own: a mistake of labels that alignment must find.
    swapped = [
        dataclasses.replace(patch, subject_id=watch.subject_id)
        for patch, watch in zip(patches[1:] + patches[:1], watches, strict=True)
    ]
    pairs = pairs_among([*swapped, *watches], SPEC)
    found = [estimate(pair) for pair in pairs]
    sources = window_sources([*swapped, *watches], pairs, found)
    assert len(sources) == len(watches)
    for source, one in zip(sources, found, strict=True):
        spans, unusable = source.spans(SPEC)
        assert spans == []
        assert set(unusable) == {f"align_{one.found.reason}"}
        assert sum(unusable.values()) > 100


def test_without_a_prior_nothing_is_paired_and_old_names_hold(corpus: Corpus) -> None:
    assert "arrival_prior_s" not in WindowSpec().to_dict()
    assert WindowSpec.from_dict(SPEC.to_dict()) == SPEC
    assert SPEC.source_only() == WindowSpec(min_quality=0.3).source_only()
    with pytest.raises(NoWindowsError, match=r"no_ecg \d+, no_ppg|no_ppg [\d,]+, no_ecg") as caught:
        materialise(corpus.url, f"{corpus.url}/windows", StoreConfig(split=SPLIT))
    assert "--require ppg" in str(caught.value)
    with pytest.raises(ConfigError, match="arrival_prior_s"):
        WindowSpec(require=("ppg",), arrival_prior_s=0.25)


def test_an_arrival_time_that_is_a_prior_is_no_label(store: WindowStore) -> None:
    task = Task(name="t", title="t", label="pulse_arrival_s", kind="regression")
    table = store.meta("train")

    def values(windows: pa.Table) -> np.ndarray:
        column = Labelled(windows).find(task.label, MEASURED)
        assert column is not None
        return label_values(task, column, windows["start_s"].to_numpy())

    assert np.isnan(values(table)).all()
    absolute = pa.array([True] * table.num_rows)
    own = table.set_column(table.column_names.index("arrival_time_absolute"), "arrival_time_absolute", absolute)
    assert np.isfinite(values(own)).any()


def test_the_same_windows_are_cut_when_they_are_read(corpus: Corpus, store: WindowStore) -> None:
    """A store that keeps no signals has the same ids, rows and bytes, aligned windows too."""
    config = StoreConfig(spec=SPEC, split=SPLIT, on_the_fly=True)
    lazy = materialise(corpus.url, f"{corpus.url}/windows", config)
    assert lazy.segments("train") == store.segments("train")
    assert lazy.meta("train").equals(store.meta("train"))
    ids = np.random.default_rng(0).permutation(store.n_windows)[:60]
    for one, other in zip(lazy.read(ids), store.read(ids), strict=True):
        assert one.tobytes() == other.tobytes()
