"""VitalDB: operations as `.vital` files, the format of Vital Recorder, read by its published specification.

A gzip stream: a header, then packets of (type, length, body); type 0 describes a track, type 1 holds a record of it.
All numbers are little-endian; texts have their length before them.
Format: https://vitaldb.net/docs (Vital File Format)
"""

from __future__ import annotations

import csv
import gzip
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from xmae_dist.core.errors import InputError
from xmae_dist.ingest.datasets.tables import demographics
from xmae_dist.ingest.formats.source import HeldRecording, Origin, Raw, SourceChannel, missing_value

# Waveforms worth keeping, by the end of `device/name`, in the order in which the first of a kind is taken.
_WAVES = {"PLETH": ("ppg", "nu"), "ECG_II": ("ecg", "mV"), "ECG_V5": ("ecg_v5", "mV"), "ART": ("abp", "mmHg")}
_FORMATS = {1: "<f4", 2: "<f8", 3: "<i1", 4: "<u1", 5: "<i2", 6: "<u2", 7: "<i4", 8: "<u4"}
_KEPT_AS = {"<f4": "float32", "<f8": "float32", "<i1": "int16", "<u1": "int16", "<i2": "int16", "<u4": "float32"}
_WAVE, _TRACK, _RECORD = 1, 0, 1
_CLINICAL = {"preop_htn": "hypertension", "preop_dm": "diabetes", "preop_hb": "haemoglobin_g_dl",
             "preop_cr": "creatinine_mg_dl", "preop_k": "potassium_mmol_l"}  # fmt: skip


@dataclass(kw_only=True)
class _Track:
    """A track as its packet describes it, and its records: (time in s, samples)."""

    name: str
    dtype: str
    rate_hz: float
    gain: float
    offset: float
    records: list[tuple[float, np.ndarray]] = field(default_factory=list)


def vitaldb(path: Path, name: str) -> Iterator[HeldRecording]:
    """One operation: its wave tracks on one time axis, with holes where nothing was recorded.

    The person and clinical labels come from `clinical_data.csv` (columns caseid, subjectid, …) where it is there.
    """
    chosen = _chosen(_tracks(path))
    if "ppg" not in chosen:
        raise InputError(f"file {path.name}", value="no PLETH waveform", expected="one")
    start_s = min(track.records[0][0] for track in chosen.values())
    channels, signals = [], {}
    for corpus_name, track in chosen.items():
        dtype = _KEPT_AS.get(track.dtype, "int32")
        integer = track.dtype not in ("<f4", "<f8")
        unit = next(unit for known, unit in _WAVES.values() if known == corpus_name)
        channels.append(
            SourceChannel(
                key=track.name,
                source_name=track.name,
                name=corpus_name,
                rate_hz=track.rate_hz,
                dtype=dtype,
                unit=unit,
                scale=track.gain if integer else 1.0,
                offset=track.offset if integer else 0.0,
            )
        )
        signals[track.name] = _laid_out(track, start_s, dtype)
    subject, labels = _clinical(path)
    origin = Origin(
        recording_id=name, subject_id=subject, start_time_ns=round(start_s * 1e9), labels=labels,
    )  # fmt: skip
    yield HeldRecording(origin, tuple(channels), signals)


def _chosen(tracks: list[_Track]) -> dict[str, _Track]:
    """Corpus name -> track: the first that ends in each known name and holds samples."""
    found: dict[str, _Track] = {}
    for ending, (corpus_name, _) in _WAVES.items():
        fitting = [t for t in tracks if t.records and re.search(rf"(^|/){ending}$", t.name)]
        if fitting:
            found[corpus_name] = fitting[0]
            fitting[0].records.sort(key=lambda record: record[0])
    return found


def _laid_out(track: _Track, start_s: float, dtype: str) -> Raw:
    last_s, last = track.records[-1]
    length = round((last_s - start_s) * track.rate_hz) + len(last)
    raw = np.full(length, missing_value(dtype), dtype)
    for at_s, samples in track.records:
        first = round((at_s - start_s) * track.rate_hz)
        raw[first : first + len(samples)] = samples[: length - first].astype(dtype)
    return raw


def _tracks(path: Path) -> list[_Track]:
    try:
        with gzip.open(path, "rb") as file:
            return _parsed(file.read(), path)
    except (OSError, EOFError, zlib.error, struct.error, UnicodeDecodeError) as error:
        raise InputError(
            f"file {path.name}", value=f"unreadable ({error})", expected="a .vital file", fix="download it again"
        ) from error


def _parsed(data: bytes, path: Path) -> list[_Track]:
    if data[:4] != b"VITA":
        raise InputError(f"file {path.name}", value=f"begins with {data[:4]!r}", expected="b'VITA'")
    (header_length,) = struct.unpack_from("<H", data, 8)
    at = 10 + header_length
    tracks: dict[int, _Track | None] = {}
    devices: dict[int, str] = {}
    while at + 5 <= len(data):
        kind, length = struct.unpack_from("<bI", data, at)
        body = data[at + 5 : at + 5 + length]
        if len(body) < length:
            raise InputError(f"file {path.name}", value="ends within a packet (truncated)", fix="download it again")
        at += 5 + length
        if kind == 9:
            (device,) = struct.unpack_from("<I", body)
            type_name, place = _text(body, 4)
            devices[device] = (_text(body, place)[0] or type_name) if place < len(body) else type_name
        elif kind == _TRACK:
            number, track = _described(body, devices)
            tracks[number] = track
        elif kind == _RECORD:
            _recorded(body, tracks)
    return [track for track in tracks.values() if track is not None]


def _described(body: bytes, devices: dict[int, str]) -> tuple[int, _Track | None]:
    """Number and description of a track; None for one that is no waveform."""
    number, kind, number_format = struct.unpack_from("<HBB", body)
    name, at = _text(body, 4)
    _, at = _text(body, at)
    _, _, _, rate_hz, gain, offset = struct.unpack_from("<ffIfdd", body, at)
    if kind != _WAVE or number_format not in _FORMATS or not rate_hz > 0:
        return number, None
    after = at + 33  # 32 bytes of numbers and one of the kind of monitor
    device = devices.get(struct.unpack_from("<I", body, after)[0], "") if after + 4 <= len(body) else ""
    full = f"{device}/{name}" if device else name
    return number, _Track(name=full, dtype=_FORMATS[number_format], rate_hz=rate_hz, gain=gain, offset=offset)


def _recorded(body: bytes, tracks: dict[int, _Track | None]) -> None:
    info_length, at_s, number = struct.unpack_from("<HdH", body)
    track = tracks.get(number)
    if track is None:
        return
    (count,) = struct.unpack_from("<I", body, 2 + info_length)
    samples = np.frombuffer(body, track.dtype, count, 2 + info_length + 4)
    track.records.append((at_s, samples))


def _text(body: bytes, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<I", body, at)
    return body[at + 4 : at + 4 + length].decode("utf-8"), at + 4 + length


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
