"""Who is studied: simulated people of two kinds of devices, apart in train, val (learning rates) and test (probes).

The signals of a split are held as the store keeps them (float16): 4 kB a pair of windows, so 30,000 windows of 500
people are 120 MB. Shapes: M windows, L samples, K statistics.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from xmae_dist.cluster import fanout
from xmae_dist.data.store.materialise import StoreConfig, materialise
from xmae_dist.data.store.window_store import WindowStore
from xmae_dist.data.windows.split import SplitConfig
from xmae_dist.ingest.simulated import simulate_into
from xmae_dist.model.beat_heads import measured
from xmae_dist.simulate.cohorts import PRESETS, CohortSpec

SPLIT = SplitConfig(fractions=(0.48, 0.07, 0.45))
SEED = 17
"""Of the people: not those of the demo, nor of other studies."""
_FURTHER = SplitConfig(fractions=(0.0, 0.0, 1.0))
_FURTHER_SEED = 18
_CHECKED = 64
"""Windows whose kept targets are measured again before they are used."""


def cohorts(people: int, study: str = "study", seed: int = SEED) -> tuple[CohortSpec, ...]:
    """Half of them at bedside monitors, half on telemetry units, ten minutes each."""
    return tuple(
        dataclasses.replace(PRESETS[name], name=f"{study}_{name}", subjects=people // 2, seed=seed, minutes=10.0)
        for name in ("bedside", "telemetry")
    )


@dataclass(frozen=True)
class Windows:
    """Some windows: signals (M, L) as stored, and their rows of the store's table in the order of ids."""

    ppg_ML: Tensor
    ecg_ML: Tensor
    table: pa.Table

    def __len__(self) -> int:
        return len(self.table)

    def pair(self, rows: np.ndarray | slice) -> tuple[Tensor, Tensor]:
        """(ppg, ecg) of some windows, float32."""
        return self.ppg_ML[rows].float(), self.ecg_ML[rows].float()

    def evenly(self, count: int) -> Windows:
        """At most `count` of them, evenly spaced."""
        rows = np.unique(np.linspace(0, len(self) - 1, min(count, len(self))).astype(int))
        return Windows(self.ppg_ML[rows], self.ecg_ML[rows], self.table.take(rows))

    @property
    def subjects(self) -> np.ndarray:
        """Whose each window is, (M,)."""
        return np.array(self.table["subject_id"].to_pylist())


@dataclass(frozen=True)
class People:
    """The windows of the study's people, by what they are for."""

    store: WindowStore
    specs: tuple[CohortSpec, ...]
    probe_windows: int
    """Of each held-out recording, evenly spaced; the same for all arms."""
    out: Path

    @cached_property
    def train(self) -> Windows:
        return self._windows(self._table("train"))

    @cached_property
    def val(self) -> Windows:
        return self._windows(self._table("val"))

    @cached_property
    def probed(self) -> Windows:
        """What probes are fitted to and scored on, people apart."""
        table = self._table("test")
        recording_M = np.array(table["recording_id"].to_pylist())
        kept = [
            rows[np.unique(np.linspace(0, len(rows) - 1, min(self.probe_windows, len(rows))).astype(int))]
            for name in np.unique(recording_M)
            for rows in (np.flatnonzero(recording_M == name),)
        ]
        return self._windows(table.take(np.sort(np.concatenate(kept))))

    @cached_property
    def beat_targets(self) -> Tensor:
        """What the auxiliary heads learn of the training windows, (M, K): measured once, 3.5 ms of CPU a window.

        Kept beside the windows under the store's fingerprint, and found again while the detector gives the same for
        the first windows.
        """
        path = self.out / f"beats-{self.store.fingerprint}.npy"
        if path.exists():
            told_MK = torch.from_numpy(np.load(path))
            some = slice(0, _CHECKED)
            if torch.equal(told_MK[some].nan_to_num(), self._measured(some).nan_to_num()):
                return told_MK
        told_MK = self._measured(slice(None))
        partial = path.with_suffix(".partial.npy")
        np.save(partial, told_MK.numpy())
        partial.replace(path)
        return told_MK

    def _measured(self, rows: slice) -> Tensor:
        return measured(*self.train.pair(rows), self.store.spec.rate_hz)

    def _table(self, split: str) -> pa.Table:
        return self.store.meta(split).sort_by("window_id")

    def _windows(self, table: pa.Table) -> Windows:
        ecg_ML, ppg_ML = self.store.read(table["window_id"].to_numpy())
        assert ecg_ML is not None, "simulated recordings have both signals"
        return Windows(torch.from_numpy(ppg_ML), torch.from_numpy(ecg_ML), table)


def made(people: int, probe_windows: int, out: Path) -> People:
    """Simulated, ingested and cut below `out`, or found there."""
    return _made(cohorts(people), SPLIT, probe_windows, out / f"people-{people}")


def further(people: int, probe_windows: int, out: Path) -> People:
    """Others, of whom none is trained on: all are probed."""
    specs = cohorts(people, "further", _FURTHER_SEED)
    return _made(specs, _FURTHER, probe_windows, out / f"further-{people}")


def _made(specs: tuple[CohortSpec, ...], split: SplitConfig, probe_windows: int, folder: Path) -> People:
    for spec in specs:
        simulate_into(str(folder / "corpus"), spec)
    store = materialise(str(folder / "corpus"), str(folder / "windows"), StoreConfig(split=split))
    fanout.leave()  # what follows is one process
    return People(store, specs, probe_windows, folder)
