"""WFDB records written for tests, with known content."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import wfdb
from numpy.typing import NDArray

RATE_HZ = 100


def pulse(n: int, phase: float) -> NDArray[np.float64]:
    """A signal (n,) that is neither flat nor the same for two phases."""
    t = np.arange(n) / RATE_HZ
    return np.sin(2 * np.pi * 1.2 * t + phase) + 0.1 * np.sin(2 * np.pi * 7 * t)


def write_record(
    folder: Path,
    name: str,
    signals: dict[str, NDArray[np.float64]],
    *,
    gain: float = 1000.0,
    fmt: str = "16",
) -> Path:
    """Writes a WFDB record (`<name>.hea` and `<name>.dat`); NaN is a missing sample. Returns the header's path."""
    folder.mkdir(parents=True, exist_ok=True)
    stacked = np.stack(list(signals.values()), axis=1)
    wfdb.wrsamp(
        name,
        fs=RATE_HZ,
        units=["mV"] * len(signals),
        sig_name=list(signals),
        p_signal=stacked,
        fmt=[fmt] * len(signals),
        adc_gain=[gain] * len(signals),
        baseline=[0] * len(signals),
        write_dir=str(folder),
    )
    return folder / f"{name}.hea"
