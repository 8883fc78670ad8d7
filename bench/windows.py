"""How fast windows are cut, against real time, and where the time goes: `python bench/windows.py [--json FILE]`.

One process, one thread. ECG and PPG of one clock at several pairs of rates, an hour each, go through `cut`: gap
filling, resampling, cleaning, beats, quality, scaling. Each stage is also timed alone on the same signals.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable

import numpy as np

from xmae_dist.data.clocks.signal import Signal
from xmae_dist.data.windows.cutting import cut
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.signals.beats import pulse_feet, r_peaks
from xmae_dist.signals.defects import fill_gaps, flat_mask, saturated_mask
from xmae_dist.signals.filter import bandpass
from xmae_dist.signals.quality import beat_correlation
from xmae_dist.signals.resample import resample

RATES_HZ = ((250.0, 125.0), (125.0, 25.0), (256.0, 64.0), (500.0, 100.0), (1000.0, 1000.0))


def main() -> int:
    """Print the tables and write them where --json says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", metavar="FILE", help="write the figures here as well")
    parser.add_argument("--minutes", type=float, default=60.0, help="length of each recording")
    parser.add_argument("--repeats", type=int, default=3, help="the best of this many is reported")
    arguments = parser.parse_args()
    rows = [measure(ecg_hz, ppg_hz, arguments.minutes, arguments.repeats) for ecg_hz, ppg_hz in RATES_HZ]
    print(f"{'ECG Hz':>7s} {'PPG Hz':>7s} {'kept':>6s} {'of':>5s} {'windows/s':>10s} {'x real time':>12s}")
    for row in rows:
        print(
            f"{row['ecg_hz']:7.0f} {row['ppg_hz']:7.0f} {row['kept']:6.0f} {row['candidates']:5.0f} "
            f"{row['windows_per_s']:10,.0f} {row['times_real_time']:12,.0f}"
        )
    shares = stages(arguments.minutes, arguments.repeats)
    print("\nstage alone, 250 Hz ECG and 125 Hz PPG: ms per hour of recording")
    for name, ms in shares.items():
        print(f"  {name:12s} {ms:8.1f}")
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory {peak_mib:.0f} MiB")
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump({"rows": rows, "stage_ms_per_hour": shares, "peak_memory_mib": peak_mib}, file, indent=1)
    return 0


def pair(ecg_hz: float, ppg_hz: float, minutes: float) -> tuple[Signal, Signal]:
    """ECG and PPG of one heart at the rates asked for."""
    beat_s = np.cumsum(60 / (70 + 10 * np.sin(np.arange(minutes * 80) / 40)))
    beat_s = beat_s[beat_s < minutes * 60]
    return (
        Signal(values_T=_bumps(beat_s, 0.02, ecg_hz, minutes, 0.02), rate_hz=ecg_hz),
        Signal(values_T=_bumps(beat_s + 0.3, 0.1, ppg_hz, minutes, 0.01), rate_hz=ppg_hz),
    )


def _bumps(at_s: np.ndarray, width_s: float, rate_hz: float, minutes: float, noise: float) -> np.ndarray:
    t = np.arange(round(minutes * 60 * rate_hz)) / rate_hz
    nearest = at_s[np.clip(np.searchsorted(at_s, t - 0.4), 0, at_s.size - 1)]
    clean = np.exp(-0.5 * ((t - nearest) / width_s) ** 2)
    return (clean + np.random.default_rng(0).normal(0, noise, t.size)).astype(np.float32)


def measure(ecg_hz: float, ppg_hz: float, minutes: float, repeats: int) -> dict[str, float]:
    """Cut one recording; the best time of several."""
    ecg, ppg = pair(ecg_hz, ppg_hz, minutes)
    spec = WindowSpec()
    batch, dropped = cut(ecg, ppg, spec)
    took_s = _best(lambda: cut(ecg, ppg, spec), repeats)
    candidates = len(batch) + sum(dropped.values())
    return {
        "ecg_hz": ecg_hz,
        "ppg_hz": ppg_hz,
        "kept": len(batch),
        "candidates": candidates,
        "seconds": took_s,
        "windows_per_s": candidates / took_s,
        "times_real_time": minutes * 60 / took_s,
    }


def stages(minutes: float, repeats: int) -> dict[str, float]:
    """Milliseconds of each stage for both signals of an hour."""
    ecg, ppg = pair(250.0, 125.0, minutes)
    grid = [resample(s.values_T, s.rate_hz, 100.0) for s in (ecg, ppg)]
    clean = [bandpass(x, 100.0, band) for x, band in zip(grid, ((0.5, 40.0), (0.5, 8.0)), strict=True)]
    marks = [r_peaks(clean[0], 100.0), pulse_feet(clean[1], 100.0)]
    work: dict[str, Callable[[], object]] = {
        "gaps": lambda: [fill_gaps(s.values_T) for s in (ecg, ppg)],
        "flat, rails": lambda: [(flat_mask(s.values_T, 1.0), saturated_mask(s.values_T, 1.0)) for s in (ecg, ppg)],
        "resample": lambda: [resample(s.values_T, s.rate_hz, 100.0) for s in (ecg, ppg)],
        "band-pass": lambda: [bandpass(x, 100.0, (0.5, 40.0)) for x in grid],
        "beats": lambda: (r_peaks(clean[0], 100.0), pulse_feet(clean[1], 100.0)),
        "quality": lambda: [beat_correlation(x, 100.0, beat) for x, beat in zip(clean, marks, strict=True)],
    }
    return {name: 1e3 * _best(run, repeats) * 60 / minutes for name, run in work.items()}


def _best(run: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    raise SystemExit(main())
