"""The windows of the study: patients of the Challenge 2015, phones with a reference, simulated people with two devices.

Everything is ingested and cut by the package's own commands, below `out`, and found again there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from bench.embedding_study.people import People, Windows
from bench.welltory import MAPPING as WELLTORY
from xmae_dist.cluster import fanout
from xmae_dist.data.store.materialise import StoreConfig, materialise
from xmae_dist.data.store.window_store import WindowStore
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.data.windows.split import SPLITS, SplitConfig
from xmae_dist.ingest.formats.mapping import parse_mapping
from xmae_dist.ingest.run import IngestRequest, Manifest, ingest
from xmae_dist.ingest.simulated import simulate_into
from xmae_dist.simulate.cohorts import PRESETS

SPLIT = SplitConfig(fractions=(0.55, 0.05, 0.4))
"""Of 109 patients: some 60 to learn from, 44 whom nobody trained on."""
BUTPPG = WELLTORY.with_name("butppg.toml")
WORN = dataclasses.replace(PRESETS["patch_watch"], name="study_worn", subjects=240, minutes=10.0, seed=19)
"""Chest patch and watch, each on a clock of its own."""
_STRIDE_S = 5.0
_FEWEST_BEATS = 6
"""That a strap must show in a window: so many intervals' changes have a mean."""


def patients(recordings: Path, out: Path, probe_windows: int) -> People:
    """ECG from PPG: every patient with both, windows half overlapping."""
    return _of_patients(recordings, out, WindowSpec(stride_s=_STRIDE_S), probe_windows)


def pressure(recordings: Path, out: Path) -> People:
    """ECG and arterial pressure, of the patients who have a pressure line; the pressure takes the place of the PPG."""
    return _of_patients(recordings, out, WindowSpec(stride_s=_STRIDE_S, source="abp", require=("ecg", "abp")), 30)


def wrist(out: Path) -> People:
    """The chest's ECG and the wrist's PPG of simulated people, two clocks made one by their beats."""
    corpus = str(out / "worn" / "corpus")
    simulate_into(corpus, WORN)
    spec = WindowSpec(arrival_prior_s=0.25)
    store = materialise(corpus, str(out / "worn" / "windows"), StoreConfig(spec=spec, split=SPLIT))
    fanout.leave()
    return People(store, (WORN,), 30, out / "worn")


@dataclasses.dataclass(frozen=True)
class Phone:
    """Windows of a phone's camera with a reference in their `labels`; for probes alone."""

    name: str
    windows: Windows
    store: str
    """Fingerprint of the window store."""


def butppg(folder: Path, out: Path) -> Phone:
    """A window a recording; the reference is the data set's own heart rate, `hr_bpm`."""
    store = _of_phone("butppg", BUTPPG, folder, out, stride_s=10.0)
    return _phone("butppg", store, lambda row: dict(row["labels"]))


def welltory(folder: Path, out: Path) -> Phone:
    """Windows half overlapping; heart rate and RMSSD of the chest strap's intervals meanwhile.

    The strap's zero lies within a second of the camera's: a window is long beside that.
    """
    store = _of_phone("welltory", WELLTORY, folder, out, stride_s=_STRIDE_S)

    def strap(row: dict[str, object]) -> dict[str, float]:
        file = folder / str(row["recording_id"]).removesuffix("PPG") / "RR.txt"
        return strap_labels(np.loadtxt(file, ndmin=1).ravel() / 1e3, float(str(row["start_s"])), store.spec.window_s)

    return _phone("welltory", store, strap)


def strap_labels(rr_s: np.ndarray, start_s: float, window_s: float) -> dict[str, float]:
    """`strap_bpm` and `strap_rmssd_ms` of the intervals (s, from the strap's zero) inside a window; {} with too few."""
    ends_s = np.cumsum(rr_s)
    inside_s = rr_s[(ends_s - rr_s >= start_s) & (ends_s <= start_s + window_s)]
    if len(inside_s) < _FEWEST_BEATS:
        return {}
    return {
        "strap_bpm": 60.0 / float(inside_s.mean()),
        "strap_rmssd_ms": 1e3 * float(np.sqrt(np.mean(np.diff(inside_s) ** 2))),
    }


def _of_patients(recordings: Path, out: Path, spec: WindowSpec, probe_windows: int) -> People:
    folder = out / "challenge2015"
    request = IngestRequest(
        inputs=(str(recordings),),
        corpus_url=str(folder / "corpus"),
        cohort="challenge2015",
        manifest=Manifest(url=str(recordings / "manifest.csv"), subject_column="patient_proxy"),
    )
    ingest(request)
    store = materialise(request.corpus_url, str(folder / "windows"), StoreConfig(spec=spec, split=SPLIT))
    fanout.leave()  # what follows is one process
    return People(store, (), probe_windows, folder)


def _of_phone(name: str, mapping: Path, folder: Path, out: Path, *, stride_s: float) -> WindowStore:
    corpus = str(out / name / "corpus")
    read = parse_mapping(mapping.read_text(), mapping.name)
    ingest(IngestRequest(inputs=(str(folder),), corpus_url=corpus, cohort=name, mapping=read))
    spec = WindowSpec(require=("ppg",), stride_s=stride_s)
    store = materialise(corpus, str(out / name / "windows"), StoreConfig(spec=spec))
    fanout.leave()
    return store


def _phone(name: str, store: WindowStore, label: Callable[[dict[str, object]], dict[str, float]]) -> Phone:
    """All windows of a store in the order of their ids, with these labels in place of their own."""
    table = pa.concat_tables([store.meta(split) for split in SPLITS]).sort_by("window_id")
    labels = [list(label(row).items()) for row in table.to_pylist()]
    place = table.schema.get_field_index("labels")
    table = table.set_column(place, "labels", pa.array(labels, pa.map_(pa.string(), pa.float64())))
    _, ppg_ML = store.read(table["window_id"].to_numpy())
    return Phone(name, Windows(torch.from_numpy(ppg_ML), torch.empty(0), table), store.fingerprint)
