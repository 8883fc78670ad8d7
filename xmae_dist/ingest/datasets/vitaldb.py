"""VitalDB: operations as `.vital` files, of which the waveforms that matter here are taken, with clinical labels."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from xmae_dist.core.errors import InputError
from xmae_dist.ingest.datasets.tables import demographics
from xmae_dist.ingest.formats.source import HeldRecording, Origin, SourceChannel
from xmae_dist.ingest.formats.vital import Track, laid_out, tracks_of

# Waveforms worth keeping, by the end of `device/name`, in the order in which the first of a kind is taken.
_WAVES = {"PLETH": ("ppg", "nu"), "ECG_II": ("ecg", "mV"), "ECG_V5": ("ecg_v5", "mV"), "ART": ("abp", "mmHg")}
_CLINICAL = {"preop_htn": "hypertension", "preop_dm": "diabetes", "preop_hb": "haemoglobin_g_dl",
             "preop_cr": "creatinine_mg_dl", "preop_k": "potassium_mmol_l"}  # fmt: skip


def vitaldb(path: Path, name: str) -> Iterator[HeldRecording]:
    """One operation: its wave tracks on one time axis, with holes where nothing was recorded.

    The person and clinical labels come from `clinical_data.csv` (columns caseid, subjectid, …) where it is there.
    """
    chosen = _chosen(tracks_of(path))
    if "ppg" not in chosen:
        raise InputError(f"file {path.name}", value="no PLETH waveform", expected="one")
    start_s = min(track.records[0][0] for track in chosen.values())
    channels, signals = [], {}
    for corpus_name, track in chosen.items():
        unit = next(unit for known, unit in _WAVES.values() if known == corpus_name)
        channels.append(
            SourceChannel(
                key=track.name,
                source_name=track.name,
                name=corpus_name,
                rate_hz=track.rate_hz,
                dtype=track.kept_as,
                unit=unit,
                scale=track.gain if track.integer else 1.0,
                offset=track.offset if track.integer else 0.0,
            )
        )
        signals[track.name] = laid_out(track, start_s)
    subject, labels = _clinical(path)
    origin = Origin(
        recording_id=name, subject_id=subject, start_time_ns=round(start_s * 1e9), labels=labels,
    )  # fmt: skip
    yield HeldRecording(origin, tuple(channels), signals)


def _chosen(tracks: list[Track]) -> dict[str, Track]:
    """Corpus name -> track: the first that ends in each known name and holds samples."""
    found: dict[str, Track] = {}
    for ending, (corpus_name, _) in _WAVES.items():
        fitting = [t for t in tracks if t.records and re.search(rf"(^|/){ending}$", t.name)]
        if fitting:
            found[corpus_name] = fitting[0]
    return found


def _clinical(path: Path) -> tuple[str, dict[str, float]]:
    """Subject and labels of the case that the file's name numbers; each case its own person without the table."""
    case = path.stem.lstrip("0") or "0"
    folder = path.parent.parent if path.parent.name == "vital_files" else path.parent
    if not (folder / "clinical_data.csv").is_file():
        return f"case-{case}", {}
    with (folder / "clinical_data.csv").open(newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.DictReader(file) if (row.get("caseid") or "").strip() == case]
    if not rows:
        raise InputError(f"file {path.name}", value=f"case {case} not in clinical_data.csv", expected="a row for it")
    row = {name: cell or "" for name, cell in rows[0].items()}
    labels = demographics(row)
    for column, label in _CLINICAL.items():
        if re.fullmatch(r"-?\d+(\.\d+)?", row.get(column, "").strip()):
            labels[label] = float(row[column])
    return row["subjectid"].strip(), labels
