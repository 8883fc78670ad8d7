"""The surface ECG of a sequence of beats.

Each beat is a sum of Gaussian waves around its R peak, as in the dynamical model of McSharry et al. 2003 unrolled
in time, with three things of our own: waves are dipoles in the frontal plane, so one heart looks different from
each lead; the QT interval follows the heart rate by Fridericia's formula with the memory that QT has in people;
ectopic beats have their own dipole and width. Fibrillation replaces P waves by f waves (Stridh and Sornmo 2001).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from xmae_dist.simulate.autonomic import Floats
from xmae_dist.simulate.rhythm import ATRIAL, FIBRILLATION, VENTRICULAR, Beats, Spans
from xmae_dist.simulate.traits import Electrical

QT_MEMORY_BEATS = 25.0
Signal = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Wave:
    """One Gaussian wave in every beat. Arrays (N,): centre relative to the R peak (s), height (mV), width sigma (s)."""

    centre_s: Floats
    height_mv: Floats
    sigma_s: Floats


def waves(electrical: Electrical, beats: Beats, lead_deg: float, breath: Floats) -> list[Wave]:
    """The waves of all beats as a lead at `lead_deg` in the frontal plane (lead II: 60) sees them.

    `breath` (N,) is the respiration at each beat: it turns the heart's axis a few degrees.
    """
    n = beats.r_time_s.size
    one = np.ones(n)
    ventricular = beats.kind == VENTRICULAR
    turn = 4.0 * breath
    axis = np.where(ventricular, electrical.ectopic_axis_deg, electrical.axis_deg + turn)
    size = electrical.r_mv * np.where(ventricular, electrical.ectopic_scale, 1.0)
    wide = electrical.qrs_scale * np.where(ventricular, 2.6, 1.0)
    r = size * _projection(axis, lead_deg)
    q = -electrical.q_ratio * electrical.r_mv * _projection(axis - 30.0, lead_deg) * ~ventricular
    s = -np.where(ventricular, 0.45, electrical.s_ratio) * size * _projection(axis + 25.0, lead_deg)
    return [
        *_p_waves(electrical, beats, lead_deg),
        Wave(centre_s=-0.026 * wide, height_mv=q, sigma_s=0.0085 * wide),
        Wave(centre_s=0.0 * one, height_mv=r, sigma_s=0.0105 * wide),
        Wave(centre_s=0.028 * wide, height_mv=s, sigma_s=0.0095 * wide),
        *_t_waves(electrical, beats, lead_deg, r),
    ]


def render_ecg(waves_of_beats: list[Wave], r_device_s: Floats, n_samples: int, rate_hz: float) -> Signal:
    """ECG in mV (n_samples,) on a device's grid; `r_device_s` (N,) are R peaks in seconds of the device's clock."""
    signal = np.zeros(n_samples, dtype=np.float32)
    for wave in waves_of_beats:
        _add_gaussians(signal, rate_hz, r_device_s + wave.centre_s, wave.height_mv, wave.sigma_s)
    return signal


def fibrillatory_waves(
    rng: np.random.Generator, electrical: Electrical, fibrillation: Spans, n_samples: int, rate_hz: float
) -> Signal:
    """Saw-toothed f waves in mV (n_samples,), 4 to 9 Hz, wandering, inside the spans (device seconds)."""
    signal = np.zeros(n_samples, dtype=np.float32)
    for start_s, stop_s in fibrillation:
        start, stop = (int(np.clip(edge * rate_hz, 0, n_samples)) for edge in (start_s, stop_s))
        if stop <= start:
            continue
        knots = max(int((stop - start) / rate_hz * 2.0), 4)
        position = np.linspace(0.0, knots - 1.0, stop - start, dtype=np.float32)
        frequency = electrical.fibrillation_hz + lfilter([0.25], [1.0, -0.75], 0.9 * rng.standard_normal(knots))
        phase_knots = np.cumsum(frequency) * (stop - start) / rate_hz / knots
        phase = (2.0 * np.pi) * (np.interp(position, np.arange(knots), phase_knots) % 1.0)
        size = np.interp(position, np.arange(knots), np.maximum(1.0 + 0.35 * rng.standard_normal(knots), 0.1))
        phase = phase.astype(np.float32)
        saw = np.sin(phase) + 0.45 * np.sin(2.0 * phase) + 0.2 * np.sin(3.0 * phase)
        signal[start:stop] = (electrical.fibrillation_mv * size).astype(np.float32) * saw
    return signal


def _projection(axis_deg: Floats | float, lead_deg: float) -> Floats:
    return np.cos(np.deg2rad(np.asarray(axis_deg) - lead_deg))


def _p_waves(electrical: Electrical, beats: Beats, lead_deg: float) -> list[Wave]:
    atrial = beats.kind == ATRIAL
    present = ~((beats.kind == VENTRICULAR) | (beats.kind == FIBRILLATION))
    height = electrical.p_mv * float(_projection(55.0, lead_deg)) * present
    # An ectopic atrial focus sits elsewhere: lower, often inverted, and nearer to the QRS.
    height = height * np.where(atrial, -0.5, 1.0)
    delay = electrical.pr_s * np.clip(beats.rr_before_s / 0.9, 0.75, 1.1) ** 0.25 * np.where(atrial, 0.8, 1.0)
    centre = -(delay - 0.012)
    # Right then left atrium: two overlapping halves.
    sigma = np.full(centre.size, 0.0165)
    return [
        Wave(centre_s=centre - 0.012, height_mv=0.62 * height, sigma_s=sigma),
        Wave(centre_s=centre + 0.014, height_mv=0.62 * height, sigma_s=sigma * 1.1),
    ]


def _t_waves(electrical: Electrical, beats: Beats, lead_deg: float, r_mv: Floats) -> list[Wave]:
    rr = np.clip(beats.rr_before_s, 0.3, 2.0)
    forget = 1.0 / QT_MEMORY_BEATS
    adapted, _ = lfilter([forget], [1.0, forget - 1.0], rr, zi=[(1.0 - forget) * rr[:30].mean()])
    qt = electrical.qtc_s * np.cbrt(0.75 * adapted + 0.25 * rr)
    ventricular = beats.kind == VENTRICULAR
    height = np.where(
        ventricular,
        -0.38 * r_mv,  # repolarisation of an ectopic beat opposes its QRS
        electrical.t_mv * _projection(electrical.t_axis_deg, lead_deg),
    )
    peak = qt * np.where(ventricular, 1.06, 1.0) - 0.04 - 0.085 * np.sqrt(qt / 0.4)
    sigma = 0.040 * np.sqrt(qt / 0.4)
    # Slow rise, fast fall.
    return [
        Wave(centre_s=peak - 0.045, height_mv=0.42 * height, sigma_s=1.25 * sigma),
        Wave(centre_s=peak, height_mv=0.75 * height, sigma_s=0.85 * sigma),
    ]


def _add_gaussians(signal: Signal, rate_hz: float, centre_s: Floats, height: Floats, sigma_s: Floats) -> None:
    """Add one Gaussian per beat to `signal`, in place, each over 4 sigma of the widest."""
    for wide in np.unique(np.round(np.log2(sigma_s / sigma_s.min()))):
        group = np.flatnonzero((np.round(np.log2(sigma_s / sigma_s.min())) == wide) & (height != 0.0))
        if group.size:
            _add_similar(signal, rate_hz, centre_s[group], height[group], sigma_s[group])


def _add_similar(signal: Signal, rate_hz: float, centre_s: Floats, height: Floats, sigma_s: Floats) -> None:
    half = int(np.ceil(4.0 * sigma_s.max() * rate_hz))
    centre = centre_s * rate_hz
    first = np.floor(centre).astype(np.int64) - half
    inside = (first + 2 * half + 1 > 0) & (first < signal.size)
    centre, first, height, sigma_s = centre[inside], first[inside], height[inside], sigma_s[inside]
    lag = (first - centre)[:, None].astype(np.float32) + np.arange(2 * half + 2, dtype=np.float32)
    lag *= (np.float32(np.sqrt(0.5)) / (sigma_s * rate_hz)).astype(np.float32)[:, None]
    np.square(lag, out=lag)
    np.negative(lag, out=lag)
    values = np.exp(lag, out=lag)
    values *= height.astype(np.float32)[:, None]
    scatter_add(signal, first, values)


def scatter_add(signal: Signal, first: NDArray[np.int64], values: NDArray[np.float32]) -> None:
    """Add rows of `values` (N, K) to `signal` (L,) from the sample `first` (N,) on, in place; parts outside are cut.

    Rows are laid into layers in which none overlaps the next, so that each layer is one vectorised addition.
    """
    n, width = values.shape
    padded = np.zeros(signal.size + 2 * width, dtype=np.float32)
    start = np.clip(first + width, 0, signal.size + width)
    ahead = int(np.max(np.searchsorted(start, start + width) - np.arange(n))) if n else 1
    offsets = np.arange(width)
    for layer in range(ahead):
        rows = slice(layer, None, ahead)
        padded[start[rows, None] + offsets] += values[rows]
    signal += padded[width:-width]
