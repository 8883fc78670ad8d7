"""The corpora of the study, as windows in memory: subjects apart, in train, val (learning rates) and test (figures)."""

from __future__ import annotations

import dataclasses
import fcntl
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from xmae_dist.data.store.materialise import StoreConfig, materialise
from xmae_dist.data.store.window_store import WindowStore
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.data.windows.split import SplitConfig
from xmae_dist.ingest.run import IngestRequest, Manifest, ingest
from xmae_dist.ingest.simulated import simulate_into
from xmae_dist.simulate.cohorts import PRESETS

SPLIT = SplitConfig(fractions=(0.7, 0.1, 0.2))
SIMULATED = dataclasses.replace(PRESETS["bedside"], subjects=120)
TEST_WINDOWS = 256


@dataclass(frozen=True)
class Pairs:
    """M windows of both signals, float32, and whose they are."""

    ppg_ML: Tensor
    ecg_ML: Tensor
    subject_M: np.ndarray

    def some(self, count: int) -> Pairs:
        """At most `count` windows, evenly spaced."""
        total = len(self.subject_M)
        rows = np.unique(np.linspace(0, total - 1, min(count, total)).astype(int))
        return Pairs(self.ppg_ML[rows], self.ecg_ML[rows], self.subject_M[rows])


@dataclass(frozen=True)
class Dataset:
    """A window store and the suite of tasks that its labels answer."""

    name: str
    store: WindowStore

    def split(self, *names: str) -> Pairs:
        """All windows of some splits."""
        return self._pairs(self._windows(names))

    @cached_property
    def train(self) -> Pairs:
        """What every model is trained on."""
        return self.split("train")

    @cached_property
    def test(self) -> Pairs:
        """What errors are measured on."""
        return self.split("test").some(TEST_WINDOWS)

    @cached_property
    def probe_table(self) -> pa.Table:
        """Windows of the held-out subjects (val and test) that do not overlap; they were never trained on."""
        table = self._windows(("val", "test"))
        spec = self.store.spec
        return table.take(np.arange(0, len(table), round(spec.window_s / spec.stride_s)))

    @cached_property
    def probes(self) -> Pairs:
        """The signals of `probe_table`."""
        return self._pairs(self.probe_table)

    def _windows(self, splits: tuple[str, ...]) -> pa.Table:
        """In the order of their ids."""
        return pa.concat_tables(self.store.meta(split) for split in splits).sort_by("window_id")

    def _pairs(self, table: pa.Table) -> Pairs:
        ecg_ML, ppg_ML = self.store.read(table["window_id"].to_numpy())
        if ecg_ML is None:
            raise ValueError("the study needs windows of both signals")
        signals = (torch.from_numpy(x.astype(np.float32)) for x in (ppg_ML, ecg_ML))
        return Pairs(*signals, np.array(table["subject_id"].to_pylist()))


def challenge2015(recordings: Path, out: Path) -> Dataset:
    """Real bedside recordings, windows half overlapping; made below `out` where they are not there yet."""
    corpus = str(out / "challenge2015")
    request = IngestRequest(
        inputs=(str(recordings),),
        corpus_url=corpus,
        cohort="challenge2015",
        manifest=Manifest(url=str(recordings / "manifest.csv"), subject_column="patient_proxy"),
    )
    with _alone(out):
        ingest(request)
        store = materialise(corpus, str(out / "windows"), StoreConfig(spec=WindowSpec(stride_s=5.0), split=SPLIT))
    return Dataset("challenge2015", store)


def simulated(out: Path) -> Dataset:
    """120 simulated people at a bedside monitor, 10 minutes each."""
    corpus = str(out / "simulated")
    with _alone(out):
        simulate_into(corpus, SIMULATED)
        store = materialise(corpus, str(out / "windows"), StoreConfig(split=SPLIT))
    return Dataset("simulated", store)


class _alone:  # noqa: N801 - reads as a function
    """Two processes of the study make a corpus once: the second waits and finds it."""

    def __init__(self, out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self._path = out / "corpora.lock"

    def __enter__(self) -> None:
        self._file = self._path.open("w")
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        self._file.close()
