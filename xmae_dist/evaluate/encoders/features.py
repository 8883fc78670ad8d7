"""Rate and pulse-morphology features of a PPG window: the control that any learned encoder must beat.

Per window of B: statistics of pulse-to-pulse intervals, of pulse heights and widths, the mean pulse on 16 points, the
power of the first harmonics of the pulse rate, and moments of the signal and its slope. Pulse feet come from
`signals.beats`; the features are the usual ones of PPG morphology (Elgendi 2012; Charlton et al. 2022).
"""

import numpy as np
from numpy.typing import NDArray

from xmae_dist.signals.beats import pulse_feet

TEMPLATE_POINTS = 16
N_HARMONICS = 4
Floats = NDArray[np.float64]


def pulse_features(ppg_BL: NDArray[np.floating], rate_hz: float) -> NDArray[np.float32]:
    """(B, F) finite features; where no pulse is found the pulse features are 0 and an indicator is 1."""
    spectral = _spectral(np.asarray(ppg_BL, float), rate_hz)
    moments = _moments(np.asarray(ppg_BL, float))
    pulses = np.stack([_pulses(ppg_L, rate_hz) for ppg_L in np.asarray(ppg_BL, float)])
    return np.nan_to_num(np.concatenate([pulses, spectral, moments], axis=1)).astype(np.float32)


def _pulses(ppg_L: Floats, rate_hz: float) -> Floats:
    foot_s = pulse_feet(ppg_L, rate_hz)
    if len(foot_s) < 3:
        return np.r_[1.0, np.zeros(12 + TEMPLATE_POINTS)]
    interval_s = np.diff(foot_s)
    time_s = np.arange(len(ppg_L)) / rate_hz
    phase = np.linspace(0.0, 1.0, 64, endpoint=False)
    at_s = foot_s[:-1, None] + phase * interval_s[:, None]
    pulse_PT = np.interp(at_s, time_s, ppg_L)
    height_P = pulse_PT.max(axis=1) - pulse_PT[:, 0]
    mean_T = np.median((pulse_PT - pulse_PT[:, :1]) / np.maximum(height_P, 1e-6)[:, None], axis=0)
    peak = float(phase[mean_T.argmax()])
    widths = [float(np.mean(mean_T > level)) for level in (0.25, 0.5, 0.75)]
    period_s = float(np.median(interval_s))
    change_s = np.diff(interval_s) if len(interval_s) > 1 else np.zeros(1)
    return np.r_[
        0.0,
        60.0 / period_s,
        interval_s.std(),
        np.sqrt(np.mean(change_s**2)),
        np.abs(change_s).max() / period_s,
        height_P.mean(),
        height_P.std() / max(height_P.mean(), 1e-6),
        peak,
        peak * period_s,
        widths,
        mean_T.mean(),
        mean_T.reshape(TEMPLATE_POINTS, -1).mean(axis=1),
    ]


def _spectral(ppg_BL: Floats, rate_hz: float) -> Floats:
    length = ppg_BL.shape[1]
    window_L = np.hanning(length)
    power_BK = np.abs(np.fft.rfft((ppg_BL - ppg_BL.mean(axis=1, keepdims=True)) * window_L, 4 * length)) ** 2
    hz_K = np.fft.rfftfreq(4 * length, 1 / rate_hz)
    pulse_band = (hz_K >= 0.6) & (hz_K <= 3.5)
    fundamental_B = hz_K[pulse_band][power_BK[:, pulse_band].argmax(axis=1)]
    total_B = np.maximum(power_BK[:, (hz_K > 0.1) & (hz_K < 10)].sum(axis=1), 1e-12)
    shares = [
        np.sum(power_BK * (np.abs(hz_K - h * fundamental_B[:, None]) < 0.2), axis=1) / total_B
        for h in range(1, N_HARMONICS + 1)
    ]
    density_BK = power_BK[:, pulse_band] / np.maximum(power_BK[:, pulse_band].sum(axis=1, keepdims=True), 1e-12)
    entropy_B = -np.sum(density_BK * np.log(density_BK + 1e-12), axis=1)
    slow_B = power_BK[:, (hz_K > 0.1) & (hz_K < 0.5)].sum(axis=1) / total_B
    return np.stack([60 * fundamental_B, *shares, entropy_B, slow_B], axis=1)


def _moments(ppg_BL: Floats) -> Floats:
    slope_BL = np.diff(ppg_BL, axis=1)
    columns = [ppg_BL.mean(axis=1), ppg_BL.std(axis=1)]
    for x_BL in (ppg_BL, slope_BL):
        z_BL = (x_BL - x_BL.mean(axis=1, keepdims=True)) / np.maximum(x_BL.std(axis=1, keepdims=True), 1e-9)
        columns += [np.mean(z_BL**3, axis=1), np.mean(z_BL**4, axis=1)]
    columns.append(slope_BL.std(axis=1))
    return np.stack(columns, axis=1)
