"""Clocks, rates, resolution, gaps and noise of simulated devices."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from examples import QUIET, around, physical, recording
from hypothesis import given, settings
from hypothesis import strategies as st

from xmae_dist.simulate.clocks import ClockPreset, DeviceClock
from xmae_dist.simulate.cohorts import PRESETS, simulate_subject
from xmae_dist.simulate.devices import DEVICES, MISSING, at_rate, with_clock
from xmae_dist.simulate.traits import Prevalence

WRONG = ClockPreset(max_offset_s=60.0, max_drift_ppm=100.0, change_probability=1.0)


@settings(max_examples=50, deadline=None)
@given(
    st.floats(0, 10),
    st.floats(-60, 60),
    st.floats(-200, 200),
    st.floats(20, 3000),
    st.floats(-200, 200),
    st.integers(0, 99),
)
def test_clock_inverts(start: float, offset: float, drift: float, change: float, after: float, seed: int) -> None:
    clock = DeviceClock(start_s=start, offset_s=offset, drift_ppm=drift, change_s=change, drift_after_ppm=after)
    true_s = np.random.default_rng(seed).uniform(-30.0, 3600.0, 200)
    assert np.allclose(clock.true_s(clock.device_s(true_s)), true_s, atol=1e-8)


def test_a_fast_clock_counts_more_seconds_after_the_change() -> None:
    clock = DeviceClock(start_s=5.0, offset_s=-3.0, drift_ppm=100.0, change_s=1805.0, drift_after_ppm=-50.0)
    assert float(clock.device_s(5.0)) == 0.0
    assert float(clock.device_s(1805.0)) == pytest.approx(1800.0 * 1.0001)
    assert float(clock.device_s(3605.0)) == pytest.approx(3600.0 + 0.18 - 0.09)
    assert float(clock.wall_s(5.0)) == 2.0


def test_one_heart_on_two_clocks() -> None:
    """R peaks measured in two patches differ as their clocks say, to a few milliseconds, all hour long."""
    patch = with_clock(DEVICES["chest_patch"], WRONG)
    other = replace(at_rate(patch, {"ecg": 500.0}), name="second_patch")
    spec = replace(QUIET, devices=(patch, other), minutes=60.0, subjects=3, prevalence=Prevalence(af=0.0, ectopy=0.0))
    one, two = simulate_subject(spec, 0)
    assert one.clock_id != two.clock_id and one.truth.clock.drift_ppm != two.truth.clock.drift_ppm
    for found in (one, two):
        ecg = found.channels["ecg"]
        values = physical(ecg)
        beats = around(values, ecg.rate_hz, found.truth.r_device_s, 0.03, 0.03)
        top = np.argmax(np.abs(beats - np.median(values)), axis=1) / ecg.rate_hz - 0.03
        chain = found.labels["ecg_chain_delay_ms"] / 1000.0
        for part in np.array_split(top, 6):
            assert np.median(part) == pytest.approx(chain, abs=0.006)
    _, in_one, in_two = np.intersect1d(one.truth.r_true_s, two.truth.r_true_s, return_indices=True)
    mapped = two.truth.clock.device_s(one.truth.clock.true_s(one.truth.r_device_s[in_one]))
    assert np.allclose(mapped, two.truth.r_device_s[in_two], atol=1e-6)
    # Without their clocks the two devices would drift apart by many samples.
    apart = two.truth.r_device_s[in_two] - one.truth.r_device_s[in_one]
    assert np.ptp(apart) > 0.05


def test_start_time_is_the_truth_plus_the_offset() -> None:
    spec = replace(PRESETS["patch_watch"], minutes=1.0, recordings_per_subject=2)
    found = simulate_subject(spec, 0)
    assert len(found) == 4 and len({each.recording_id for each in found}) == 4
    for each in found[:2]:
        clock = each.truth.clock
        expected = 1_735_689_600_000_000_000 + round((clock.start_s + clock.offset_s) * 1e9)
        assert abs(each.start_time_ns - expected) <= 1
        assert abs(clock.offset_s) <= 60.0 and each.labels["clock_offset_s"] == clock.offset_s


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_channels_have_their_stated_length_type_and_range(name: str) -> None:
    spec = replace(PRESETS[name], minutes=2.0)
    for found, device in zip(simulate_subject(spec, 0), spec.devices, strict=True):
        for preset in device.channels:
            channel = found.channels[preset.name]
            assert channel.raw.dtype == np.int16 and channel.raw.shape == (round(120.0 * preset.rate_hz),)
            top = 2 ** (preset.bits - 1) - 1
            assert np.abs(channel.raw[channel.raw != MISSING].astype(int)).max() <= top
            assert channel.scale * top == pytest.approx(preset.full_scale)
            assert np.count_nonzero(np.abs(channel.raw) >= top) < 0.2 * channel.raw.size


@pytest.mark.parametrize("rate_hz", [25.0, 64.0, 500.0])
def test_any_rate(rate_hz: float) -> None:
    ring = at_rate(DEVICES["ring"], {"ppg": rate_hz})
    found = simulate_subject(replace(QUIET, devices=(ring,), minutes=1.0), 0)[0]
    assert found.channels["ppg"].raw.size == 60 * rate_hz
    assert ring.channels[0].band_hz[1] <= 0.4 * rate_hz
    with pytest.raises(KeyError, match="ecg"):
        at_rate(ring, {"ecg": 100.0})


def test_gaps_are_where_samples_are_missing() -> None:
    spec = replace(QUIET, gap_scale=30.0, minutes=20.0)
    found = recording(spec, 0)
    for channel in found.channels.values():
        missing = np.zeros(channel.raw.size, dtype=bool)
        for start, stop in channel.gaps:
            assert 0 <= start < stop <= channel.raw.size
            missing[start:stop] = True
        assert missing.any() and np.array_equal(missing, channel.raw == MISSING)
        starts = [start for start, _ in channel.gaps]
        assert starts == sorted(starts)
    shares = [np.mean(channel.raw == MISSING) for channel in found.channels.values()]
    assert found.labels["missing_fraction"] == pytest.approx(max(shares))


def test_motion_disturbs_the_pulse_where_it_is_stated_and_only_there() -> None:
    moving = replace(PRESETS["patch_watch"], minutes=10.0, motion_scale=4.0, gap_scale=0.0)
    ratios = []
    for index in range(5):
        watch = simulate_subject(moving, index)[1]
        ppg = watch.channels["ppg"]
        time = np.arange(ppg.raw.size) / ppg.rate_hz
        shaken = np.zeros(time.size, dtype=bool)
        for start, length, _ in watch.truth.motion:
            shaken |= (time >= start) & (time <= start + length)
        assert 0.01 < shaken.mean() < 0.95
        ratios.append(np.std(physical(ppg)[shaken]) / np.std(physical(ppg)[~shaken]))
    assert np.median(ratios) > 2.0


def test_mains_hum_stands_out_of_its_band() -> None:
    humming = replace(DEVICES["telemetry_unit"], channels=(replace(DEVICES["telemetry_unit"].channels[0], mains=0.2),))
    found = simulate_subject(replace(QUIET, devices=(humming,), minutes=1.0), 0)[0]
    ecg = found.channels["ecg"]
    spectrum = np.abs(np.fft.rfft(physical(ecg)))
    frequency = np.fft.rfftfreq(ecg.raw.size, 1.0 / ecg.rate_hz)
    hum = spectrum[np.abs(frequency - 60.0) < 0.1].max()
    assert hum > 10.0 * np.median(spectrum[(np.abs(frequency - 60.0) > 1.0) & (np.abs(frequency - 60.0) < 5.0)])
