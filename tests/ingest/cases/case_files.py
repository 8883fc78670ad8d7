"""Small files of the kinds that people have, made here, and how they are read back without our code."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xmae_dist.ingest.formats.mapping import parse_mapping
from xmae_dist.ingest.formats.source import SourceRecording
from xmae_dist.ingest.formats.table import ColumnsRecording

CHANNELS = '[[channels]]\nname = "ecg"\ncolumn = "ecg"\nunit = "mV"\n[[channels]]\nname = "ppg"\ncolumn = "ppg"\n'


def beats(n: int, rate_hz: float) -> NDArray[np.float64]:
    """(n,) something like an ECG in mV, no two stretches of it alike."""
    t = np.arange(n) / rate_hz
    spike = np.exp(-((((t * 1.2) % 1.0) - 0.3) ** 2) / 0.0004)
    return np.round(spike + 0.05 * np.sin(2 * np.pi * 0.37 * t) + 0.01 * np.random.default_rng(3).normal(size=n), 5)


def mapping_text(rate_hz: float, time_format: str = "milliseconds", *, top: str = "", time: str = "") -> str:
    """A mapping of a file with the columns ts, ecg and ppg."""
    return (
        f'layout = "columns"\nfiles = "*.csv"\nrate_hz = {rate_hz}\n{top}\n'
        f'[time]\ncolumn = "ts"\nformat = "{time_format}"\n{time}\n{CHANNELS}'
    )


def write_table(path: Path, times: Sequence[object], ecg: NDArray[np.float64], delimiter: str = ",") -> Path:
    """A table with the columns ts, ecg and ppg (half the ECG)."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file, delimiter=delimiter)
        rows.writerow(["ts", "ecg", "ppg"])
        rows.writerows([time, f"{value:.5f}", f"{value / 2:.6f}"] for time, value in zip(times, ecg, strict=True))
    return path


def read_table(path: Path, text: str) -> ColumnsRecording:
    """The recording of a file under a mapping."""
    return ColumnsRecording(path, path.stem, parse_mapping(text, "map.toml"))


def samples(recording: SourceRecording) -> dict[str, NDArray[np.float32]]:
    """Channel name -> all raw samples."""
    blocks = list(recording.blocks())
    return {str(one.name): np.concatenate([block[one.key] for block in blocks]) for one in recording.channels}


def column(path: Path, name: str, delimiter: str = ",", lines_above: int = 0) -> NDArray[np.float64]:
    """A column of a CSV file by Python's own reader."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        for _ in range(lines_above):
            next(file)
        return np.array([float(row[name]) for row in csv.DictReader(file, delimiter=delimiter)])
