from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from tests.signals.synthetic import beat_times, ecg_at, ppg_at
from xmae_dist.signals.beats import in_windows, pulse_feet, quantile_rows, r_peaks, rate_bpm
from xmae_dist.signals.defects import fill_gaps
from xmae_dist.signals.filter import bandpass
from xmae_dist.signals.resample import resample


def _matched(found_s: np.ndarray, true_s: np.ndarray, tolerance_s: float) -> float:
    """Share of the true beats with a found one within the tolerance."""
    nearest = np.abs(found_s[None, :] - true_s[:, None]).min(axis=1)
    return float((nearest < tolerance_s).mean())


@pytest.mark.parametrize("bpm", [40.0, 72.0, 120.0, 170.0])
@pytest.mark.parametrize("polarity", [1.0, -1.0])
def test_r_peaks_are_found_in_place(bpm: float, polarity: float) -> None:
    t, true_s = np.arange(6000) / 100, beat_times(60.0, bpm)
    noisy = polarity * ecg_at(t, true_s) + np.random.default_rng(1).normal(0, 0.03, t.size)
    found = r_peaks(bandpass(noisy, 100.0, (0.5, 40.0)), 100.0)
    inner = true_s[(true_s > 1) & (true_s < 59)]
    assert _matched(found, inner, 0.012) == 1.0
    assert found.size <= true_s.size + 1


@pytest.mark.parametrize("bpm", [40.0, 72.0, 120.0, 170.0])
def test_one_foot_for_each_pulse(bpm: float) -> None:
    t, true_s = np.arange(6000) / 100, beat_times(60.0, bpm)
    found = pulse_feet(bandpass(ppg_at(t, true_s), 100.0, (0.5, 8.0)), 100.0)
    assert abs(found.size - true_s.size) <= 1
    lag = found[1:-1] - true_s[np.searchsorted(true_s, found[1:-1]) - 1]
    assert np.ptp(lag) < 0.06


@pytest.mark.parametrize("x", [np.zeros(3000), np.zeros(0), np.zeros(50), np.full(3000, 4.0)])
def test_nothing_in_nothing_found(x: np.ndarray) -> None:
    assert r_peaks(x, 100.0).size == 0
    assert pulse_feet(x, 100.0).size == 0


def test_windows_gather_what_falls_into_them() -> None:
    rows = in_windows(np.array([0.5, 1.5, 2.5]), np.array([1.0, 2.0, 3.0]), np.array([0.0, 1.0, 9.0]), 2.0)
    assert np.array_equal(rows, [[1.0, 2.0], [2.0, 3.0], [np.nan, np.nan]], equal_nan=True)


def test_row_quantiles_agree_with_nanquantile() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 9))
    rows[np.random.default_rng(1).uniform(size=rows.shape) < 0.3] = np.nan
    rows[:, 0] = 1.0
    for q in (0.0, 0.15, 0.5, 0.75, 1.0):
        assert np.allclose(quantile_rows(rows, q), np.nanquantile(rows, q, axis=1))


def test_rate_of_windows() -> None:
    r_s = np.arange(0.3, 60, 0.75)
    starts = np.arange(0.0, 50.0, 10.0)
    assert np.allclose(rate_bpm(r_s, starts, 10.0), 80.0)
    assert np.isnan(rate_bpm(np.zeros(0), starts, 10.0)).all()


@pytest.mark.recordings
def test_rates_agree_with_the_manifest_of_the_real_recordings(recordings_dir: Path) -> None:
    wfdb = pytest.importorskip("wfdb")
    folder = recordings_dir / "challenge2015"
    with open(folder / "manifest.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["quality"] == "good"][::4]
    heart, pulse = [], []
    for row in rows:
        record = wfdb.rdrecord(str(folder / row["record"]))
        ecg, ppg = (record.p_signal[:, record.sig_name.index(name)] for name in (row["ecg_used"], "PLETH"))
        for x, band, find, name, errors in (
            (ecg, (0.5, 40.0), r_peaks, "ecg_hr_bpm", heart),
            (ppg, (0.5, 8.0), pulse_feet, "ppg_pr_bpm", pulse),
        ):
            clean = bandpass(resample(fill_gaps(x)[0], record.fs, 100.0), 100.0, band)
            errors.append(abs(60 / np.median(np.diff(find(clean, 100.0))) - float(row[name])))
    assert np.mean(np.array(heart) < 2.0) >= 0.95
    assert np.mean(np.array(pulse) < 2.0) >= 0.95
