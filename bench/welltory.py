"""Heart rate of camera PPG with irregular frame times against a chest strap: `python bench/welltory.py FOLDER`.

FOLDER holds `subject_01/PPG.csv` and `subject_01/RR.txt`, … (docs/mappings/welltory.toml). Recordings are ingested and
windowed by the ordinary commands; the rate of a window is its strongest frequency, or that of its pulse feet, the
reference that of the RR intervals in the same ten seconds. The strap's zero lies within a second of the camera's: a
window is long beside that.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa

from xmae_dist.data.store.materialise import StoreConfig, materialise
from xmae_dist.data.store.window_store import WindowStore
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.data.windows.split import SPLITS
from xmae_dist.ingest.formats.mapping import parse_mapping
from xmae_dist.ingest.run import IngestRequest, ingest
from xmae_dist.signals.beats import pulse_feet, rate_bpm

MAPPING = Path(__file__).resolve().parents[1] / "docs" / "mappings" / "welltory.toml"
# The strap must show so many beats for a rate.
_FEWEST_BEATS = 4


def main() -> int:
    """Print the figures and write them where --json says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of the recordings")
    parser.add_argument("--json", metavar="FILE", help="write the figures here as well")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="xmae-welltory-") as place:
        figures = study(arguments.folder, f"file://{place}")
    for name, value in figures.items():
        print(f"{name:44s} {value}")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(figures, indent=1), encoding="utf-8")
    return 0


def study(folder: Path, place: str) -> dict[str, object]:
    """All figures of the recordings below `folder`; corpus and windows are made below `place`."""
    mapping = parse_mapping(MAPPING.read_text(), MAPPING.name)
    report = ingest(
        IngestRequest(inputs=(str(folder),), corpus_url=f"{place}/corpus", cohort="welltory", mapping=mapping)
    )
    spec = WindowSpec(require=("ppg",), stride_s=5.0)
    store = materialise(f"{place}/corpus", f"{place}/windows", StoreConfig(spec=spec))
    dropped = sum(sum(reasons.values()) for reasons in store.dropped().values())
    pairs = _rates(store, folder)
    error_bpm = np.abs(pairs["camera"] - pairs["strap"])
    by_person = [float(np.median(error_bpm[pairs["recording"] == one])) for one in np.unique(pairs["recording"])]
    return {
        "recordings kept / rejected": f"{report.kept.count} / {report.rejected.count}",
        "windows kept / dropped": f"{store.n_windows} / {dropped}",
        "windows with a rate": len(error_bpm),
        "recordings with a window": len(by_person),
        "median absolute error (bpm)": round(float(np.median(error_bpm)), 2),
        "mean absolute error (bpm)": round(float(np.mean(error_bpm)), 2),
        "windows within 5 bpm": f"{np.mean(error_bpm <= 5):.1%}",
        "windows within 5 bpm by pulse feet": f"{np.mean(np.abs(pairs['feet'] - pairs['strap']) <= 5):.1%}",
        "correlation of the rates": round(float(np.corrcoef(pairs["camera"], pairs["strap"])[0, 1]), 3),
        "median error of the worst recording (bpm)": round(max(by_person), 2),
    }


def _rates(store: WindowStore, folder: Path) -> dict[str, np.ndarray]:
    """Per window: its recording, its strongest frequency (bpm), and that of the strap's intervals meanwhile."""
    meta = pa.concat_tables([store.meta(split, ["window_id", "recording_id", "start_s"]) for split in SPLITS])
    _, ppg_BL = store.read(meta["window_id"].to_numpy())
    found: dict[str, list[object]] = {"recording": [], "camera": [], "feet": [], "strap": []}
    for row, ppg_L in zip(meta.to_pylist(), ppg_BL.astype(np.float64), strict=True):
        rr_s = np.loadtxt(folder / row["recording_id"].removesuffix("PPG") / "RR.txt", ndmin=1).ravel() / 1e3
        ends_s = np.cumsum(rr_s)
        inside = (ends_s - rr_s >= row["start_s"]) & (ends_s <= row["start_s"] + store.spec.window_s)
        if inside.sum() < _FEWEST_BEATS:
            continue
        found["recording"].append(row["recording_id"])
        found["camera"].append(_spectral_bpm(ppg_L, store.spec.rate_hz))
        feet_s = pulse_feet(ppg_L, store.spec.rate_hz)
        found["feet"].append(rate_bpm(feet_s, np.zeros(1), store.spec.window_s)[0])
        found["strap"].append(60 / float(np.mean(rr_s[inside])))
    return {name: np.array(values) for name, values in found.items()}


def _spectral_bpm(ppg_L: np.ndarray, rate_hz: float) -> float:
    """The strongest frequency between 40 and 180 per minute."""
    n = 16 * len(ppg_L)
    power = np.abs(np.fft.rfft((ppg_L - ppg_L.mean()) * np.hanning(len(ppg_L)), n)) ** 2
    at_hz = np.fft.rfftfreq(n, 1 / rate_hz)
    band = (at_hz > 40 / 60) & (at_hz < 180 / 60)
    return float(60 * at_hz[band][np.argmax(power[band])])


if __name__ == "__main__":
    sys.exit(main())
