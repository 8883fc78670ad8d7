"""Alignment from the signals themselves: simulated patch and watch or ring, through detectors, against the truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from xmae_dist.signals.align import AlignSpec, align
from xmae_dist.signals.beats import pulse_feet, r_peaks
from xmae_dist.signals.defects import fill_gaps
from xmae_dist.signals.filter import bandpass
from xmae_dist.signals.resample import resample
from xmae_dist.simulate.cohorts import PRESETS, CohortSpec, SimulatedRecording, simulate_subject
from xmae_dist.simulate.devices import MISSING

# Two clocks of the simulator that are each wrong by up to 60 s, and devices switched on within seconds.
WIDE = AlignSpec(max_offset_s=130.0)


def _cohort(name: str, ecg_hz: float, ppg_hz: float) -> CohortSpec:
    """The preset for an hour, its devices at other rates."""
    spec = PRESETS[name]
    devices = tuple(
        replace(device, channels=tuple(replace(c, rate_hz=rate_hz) for c in device.channels))
        for device, rate_hz in zip(spec.devices, (ecg_hz, ppg_hz), strict=True)
    )
    return replace(spec, minutes=60.0, devices=devices)


def _beats(recording: SimulatedRecording, channel: str, epoch_ns: int) -> np.ndarray:
    """Beat times on the wall clock of the device, seconds since `epoch_ns`."""
    found = recording.channels[channel]
    physical = np.where(found.raw == MISSING, np.nan, found.raw * found.scale)
    grid = resample(fill_gaps(physical)[0], found.rate_hz, 100.0)
    if channel == "ecg":
        at_s = r_peaks(bandpass(grid, 100.0, (0.5, 40.0)), 100.0)
    else:
        at_s = pulse_feet(bandpass(grid, 100.0, (0.5, 8.0)), 100.0)
    return at_s + (recording.start_time_ns - epoch_ns) / 1e9


@pytest.mark.parametrize(
    ("preset", "ecg_hz", "ppg_hz", "index"),
    [
        ("patch_watch", 250.0, 25.0, 0),
        pytest.param("patch_watch", 500.0, 64.0, 2, marks=pytest.mark.slow),
        pytest.param("patch_ring", 128.0, 500.0, 1, marks=pytest.mark.slow),
        pytest.param("patch_ring", 256.0, 50.0, 3, marks=pytest.mark.slow),
    ],
)
def test_clocks_are_found_again_from_signals(preset: str, ecg_hz: float, ppg_hz: float, index: int) -> None:
    patch, other = simulate_subject(_cohort(preset, ecg_hz, ppg_hz), index)
    found = align(_beats(patch, "ecg", patch.start_time_ns), _beats(other, "ppg", patch.start_time_ns), WIDE)
    assert found.accepted, found
    true_s = np.linspace(20.0, 3580.0, 200)
    other_s = other.truth.clock.device_s(true_s) + (other.start_time_ns - patch.start_time_ns) / 1e9
    error_s = found.to_reference(other_s) - patch.truth.clock.device_s(true_s)
    assert np.abs(error_s - np.median(error_s)).max() < 0.025  # at any time of the hour
    arrival_s = np.median(other.truth.arrival_true_s - other.truth.r_true_s)
    # The constant holds what front end and foot detector add to the arrival time: tens of milliseconds.
    assert np.median(error_s) == pytest.approx(found.arrival_prior_s - arrival_s, abs=0.05)
