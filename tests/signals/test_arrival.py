"""The delay from an R peak to its own pulse, on devices that show the pulse at once or whole beats late."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.signals.synthetic import beat_times, ecg_at, ppg_at
from xmae_dist.data.clocks.signal import Signal
from xmae_dist.data.windows.cutting import cut
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.signals.arrival import arrival_s, own_pulse_s
from xmae_dist.signals.beats import pulse_feet, r_peaks
from xmae_dist.signals.defects import fill_gaps
from xmae_dist.signals.filter import bandpass
from xmae_dist.signals.resample import resample

STARTS = np.arange(0.0, 280.0, 10.0)


def breathing(seed: int = 0, rr_s: float = 0.8, depth_s: float = 0.04) -> np.ndarray:
    """R peaks of five minutes of a heart that follows the breath."""
    beat = np.arange(int(300 / rr_s))
    rng = np.random.default_rng(seed)
    intervals = rr_s + depth_s * np.sin(2 * np.pi * beat / 5.3) + rng.normal(0, 0.005, beat.size)
    return 0.4 + np.cumsum(intervals)


@pytest.mark.parametrize("delay_s", [0.25, 0.5, 0.78, 1.05, 1.3, 1.95])
@pytest.mark.parametrize("rr_s", [0.6, 0.8, 1.0])
def test_the_pulse_is_found_however_late_a_device_shows_it(delay_s: float, rr_s: float) -> None:
    r_s = breathing(rr_s=rr_s)
    rng = np.random.default_rng(1)
    foot_s = r_s + delay_s + rng.normal(0, 0.008, r_s.size)
    foot_s = np.sort(np.delete(foot_s, rng.choice(foot_s.size, 8, replace=False)))
    r_s = np.delete(r_s, rng.choice(r_s.size, 8, replace=False))
    typical_s = own_pulse_s(r_s, foot_s)
    assert typical_s is not None and abs(typical_s - delay_s) < 0.005
    found_B, spread_B = arrival_s(r_s, foot_s, STARTS, 10.0, typical_s=typical_s)
    assert np.abs(np.nanmedian(found_B) - delay_s) < 0.005 and np.nanmax(np.abs(found_B - delay_s)) < 0.03
    assert np.nanmedian(spread_B) < 0.02 and np.isfinite(found_B).mean() > 0.95


def test_a_metronome_and_a_few_beats_tell_nothing() -> None:
    even_s = 0.3 + 0.75 * np.arange(300) + np.random.default_rng(0).normal(0, 0.001, 300)
    assert own_pulse_s(even_s, even_s + 0.3 + np.random.default_rng(1).normal(0, 0.008, 300)) is None
    assert own_pulse_s(breathing()[:20], breathing()[:20] + 0.3) is None
    assert own_pulse_s(np.zeros(0), breathing()) is None


def test_delays_in_windows() -> None:
    r_s = np.arange(0.3, 60, 0.75)
    starts = np.arange(0.0, 50.0, 10.0)
    delay, spread = arrival_s(r_s, r_s + 0.31, starts, 10.0)
    assert np.allclose(delay, 0.31)
    assert np.allclose(spread, 0.0)
    late, spread = arrival_s(r_s, r_s + 1.06, starts[1:], 10.0, typical_s=1.0)
    assert np.allclose(late, 1.06) and np.allclose(spread, 0.0)
    assert np.isnan(arrival_s(r_s, np.zeros(0), starts, 10.0)[0]).all()


def test_the_label_of_a_late_monitor_is_later_by_what_it_is_late() -> None:
    time_s = np.arange(0, 300, 1 / 250)
    beat_s = breathing()
    ecg = Signal(values_T=ecg_at(time_s, beat_s).astype(np.float32), rate_hz=250.0)

    def label_s(late_s: float) -> float:
        ppg = Signal(values_T=ppg_at(time_s, beat_s, 0.25 + late_s).astype(np.float32), rate_hz=250.0)
        batch, _ = cut(ecg, ppg, WindowSpec())
        assert len(batch) > 25 and np.isfinite(batch.pulse_arrival_s_B).all()
        return float(np.median(batch.pulse_arrival_s_B))

    at_once_s = label_s(0.0)
    assert 0.1 < at_once_s < 0.4
    for late_s in (0.3, 0.6, 0.9, 1.4):
        assert abs(label_s(late_s) - at_once_s - late_s) < 0.01


def test_a_heart_as_regular_as_a_clock_has_no_label() -> None:
    time_s = np.arange(0, 120, 1 / 250)
    beat_s = beat_times(120.0, 80.0, jitter_s=0.0)
    signals = (
        Signal(values_T=x.astype(np.float32), rate_hz=250.0) for x in (ecg_at(time_s, beat_s), ppg_at(time_s, beat_s))
    )
    batch, _ = cut(*signals, WindowSpec())
    assert len(batch) and np.isnan(batch.pulse_arrival_s_B).all() and np.isnan(batch.pulse_arrival_iqr_s_B).all()


@pytest.mark.recordings
@pytest.mark.parametrize(
    ("name", "beats_late", "low_s", "high_s"),
    [
        ("v643l", 0, 0.45, 0.62),
        ("v647l", 0, 0.45, 0.62),
        ("v325l", 1, 1.0, 1.2),
        ("v557l", 1, 1.0, 1.2),
        ("v573l", 1, 1.0, 1.2),
        ("v381l", 2, 1.0, 1.2),
    ],
)
def test_two_kinds_of_real_monitors(
    recordings_dir: Path, name: str, beats_late: int, low_s: float, high_s: float
) -> None:
    """By heart rate the same monitor is none, one or two beats late; what it adds is the same."""
    wfdb = pytest.importorskip("wfdb")
    record = wfdb.rdrecord(str(recordings_dir / "challenge2015" / name))
    found = []
    for wanted, band_hz, find in (("II", (0.5, 40.0), r_peaks), ("PLETH", (0.5, 8.0), pulse_feet)):
        filled_T, _ = fill_gaps(record.p_signal[:, record.sig_name.index(wanted)].astype(np.float32))
        found.append(find(bandpass(resample(filled_T, record.fs, 100.0), 100.0, band_hz), 100.0))
    typical_s = own_pulse_s(*found)
    assert typical_s is not None and low_s < typical_s < high_s
    assert low_s < np.nanmedian(arrival_s(*found, STARTS, 10.0, typical_s=typical_s)[0]) < high_s
    assert np.floor(typical_s / np.median(np.diff(found[0]))) == beats_late
    assert beats_late == 0 or np.nanmedian(arrival_s(*found, STARTS, 10.0)[0]) < low_s, "what was taken before"
