"""Kinds of devices: rate, resolution, analogue band, noise, contact and clock of each.

What these properties do to a signal is in `clocks`, `contact` and `frontend`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from xmae_dist.simulate.clocks import ClockPreset
from xmae_dist.simulate.vessels import Site

MISSING = -32768
"""Raw value of a sample that was not recorded."""


@dataclass(frozen=True, kw_only=True)
class ChannelPreset:
    """One channel of a device."""

    name: str
    """ecg or ppg (further ECG leads: ecg_v, ...)."""
    rate_hz: float
    bits: int = 12
    full_scale: float
    """Largest physical value that the converter represents; the smallest is its negative."""
    unit: str
    band_hz: tuple[float, float]
    """Analogue high-pass (first order) and low-pass (second order) corners."""
    noise: float
    """Standard deviation of white noise, in `unit` (ECG) or mean finger pulses (PPG)."""
    flutter: float = 0.0
    """PPG: standard deviation of the slow noise of tissue and small movements, in mean finger pulses."""
    mains: float = 0.0
    """Typical size of the mains hum, in the same unit."""
    lead_deg: float = 60.0
    """ECG: direction of the lead in the frontal plane."""
    placement_deg: float = 0.0
    """ECG: how far electrodes are misplaced from person to person."""
    site: Site = "finger"
    """PPG: where the sensor sits."""


@dataclass(frozen=True, kw_only=True)
class DevicePreset:
    """A kind of device."""

    name: str
    body_site: str
    channels: tuple[ChannelPreset, ...]
    clock: ClockPreset = field(default_factory=ClockPreset)
    restlessness: float = 0.02
    """Share of time in which the wearer moves."""
    motion_per_hour: float = 6.0
    """Artefact bursts per hour at rest; movement adds many."""
    motion_gain: float = 1.0
    gaps_per_hour: float = 0.5
    mains_hz: float = 50.0


_ECG = ChannelPreset(name="ecg", rate_hz=250.0, full_scale=5.0, unit="mV", band_hz=(0.5, 40.0), noise=0.012, mains=0.01)
_PPG = ChannelPreset(
    name="ppg", rate_hz=125.0, full_scale=8.0, unit="NU", band_hz=(0.15, 12.0), noise=0.012, flutter=0.02, mains=0.003
)
_WEARABLE_CLOCK = ClockPreset(max_offset_s=60.0, max_drift_ppm=100.0, change_probability=0.4)

DEVICES: dict[str, DevicePreset] = {
    device.name: device
    for device in (
        DevicePreset(
            name="bedside_monitor",
            body_site="finger",
            channels=(replace(_ECG, placement_deg=4.0), _PPG),
            clock=ClockPreset(max_offset_s=2.0, max_drift_ppm=15.0),
        ),
        DevicePreset(
            name="chest_patch",
            body_site="chest",
            channels=(
                replace(
                    _ECG,
                    rate_hz=256.0,
                    bits=16,
                    lead_deg=45.0,
                    placement_deg=9.0,
                    band_hz=(0.67, 45.0),
                    mains=0.002,
                ),
            ),
            clock=_WEARABLE_CLOCK,
            restlessness=0.06,
            motion_gain=0.6,
            gaps_per_hour=0.3,
        ),
        DevicePreset(
            name="smartwatch",
            body_site="wrist",
            channels=(
                replace(_PPG, rate_hz=64.0, site="wrist", bits=16, flutter=0.035, band_hz=(0.3, 8.0), mains=0.0),
            ),
            clock=_WEARABLE_CLOCK,
            restlessness=0.10,
            motion_per_hour=20.0,
            motion_gain=1.2,
            gaps_per_hour=1.0,
        ),
        DevicePreset(
            name="ring",
            body_site="finger_base",
            channels=(
                replace(_PPG, rate_hz=50.0, site="finger_base", bits=14, flutter=0.03, band_hz=(0.2, 8.0), mains=0.0),
            ),
            clock=_WEARABLE_CLOCK,
            restlessness=0.06,
            motion_per_hour=12.0,
            gaps_per_hour=0.8,
        ),
        DevicePreset(
            name="telemetry_unit",
            body_site="finger",
            channels=(
                replace(
                    _ECG,
                    rate_hz=500.0,
                    bits=14,
                    placement_deg=6.0,
                    band_hz=(0.05, 100.0),
                    noise=0.018,
                    mains=0.02,
                ),
                replace(_PPG, rate_hz=100.0),
            ),
            clock=ClockPreset(max_offset_s=5.0, max_drift_ppm=30.0),
            restlessness=0.05,
            motion_per_hour=10.0,
            gaps_per_hour=0.8,
            mains_hz=60.0,
        ),
    )
}


def at_rate(device: DevicePreset, rates_hz: dict[str, float]) -> DevicePreset:
    """The same device sampling its channels at other rates; its low-pass moves down where a rate asks for it.

    Raises KeyError for a channel that the device lacks.
    """
    by_name = {channel.name: channel for channel in device.channels}
    for name, rate_hz in rates_hz.items():
        channel = by_name[name]
        low, high = channel.band_hz
        by_name[name] = replace(channel, rate_hz=rate_hz, band_hz=(low, min(high, 0.4 * rate_hz)))
    return replace(device, channels=tuple(by_name.values()))


def with_clock(device: DevicePreset, clock: ClockPreset) -> DevicePreset:
    """The same device with another kind of clock."""
    return replace(device, clock=clock)
