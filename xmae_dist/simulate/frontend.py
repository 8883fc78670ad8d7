"""The electronics between electrode or photodiode and file: mains hum, analogue band, converter."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, sosfilt, sosfilt_zi

from xmae_dist.simulate.devices import ChannelPreset
from xmae_dist.simulate.heart import Signal


def add_mains(rng: np.random.Generator, signal: Signal, rate_hz: float, mains_hz: float, size: float) -> None:
    """Add hum in place, folded to where the sampler without a steep filter would put it."""
    if size <= 0.0:
        return
    level = size * rng.lognormal(-0.3, 0.8)
    period = int(round(rate_hz * 2.0))
    turn = 2.0 * np.pi * (mains_hz * np.arange(period) / rate_hz + rng.random())
    # Two seconds hold whole numbers of mains periods at all our rates, so one stretch repeats.
    signal += np.resize((level * np.sin(turn)).astype(np.float32), signal.size)


def analogue(signal: Signal, rate_hz: float, band_hz: tuple[float, float]) -> Signal:
    """The input stage: causal first-order high-pass and second-order low-pass."""
    low, high = band_hz
    sections = [butter(1, low, btype="highpass", fs=rate_hz, output="sos")]
    if high < 0.49 * rate_hz:
        sections.append(butter(2, high, btype="lowpass", fs=rate_hz, output="sos"))
    sos = np.concatenate(sections)
    state = sosfilt_zi(sos) * signal[: int(rate_hz)].mean()
    filtered, _ = sosfilt(sos.astype(np.float32), signal, zi=state.astype(np.float32))
    return filtered.astype(np.float32, copy=False)


def group_delay_s(band_hz: tuple[float, float], rate_hz: float) -> float:
    """Delay that the low-pass gives a slow signal: sqrt(2) / (2 pi f)."""
    return float(np.sqrt(2.0) / (2.0 * np.pi * band_hz[1])) if band_hz[1] < 0.49 * rate_hz else 0.0


def digitise(signal: Signal, channel: ChannelPreset) -> tuple[NDArray[np.int16], float]:
    """Raw values (L,) as the converter gives them, clipped at its rails, and the size of one step."""
    top = 2 ** (channel.bits - 1) - 1
    scale = channel.full_scale / top
    raw = np.multiply(signal, np.float32(1.0 / scale))
    np.rint(raw, out=raw)
    np.clip(raw, -top, top, out=raw)
    return raw.astype(np.int16), scale
