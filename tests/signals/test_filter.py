from __future__ import annotations

import numpy as np
import pytest
import scipy

from tests.signals.synthetic import beat_times, ppg_at
from xmae_dist.signals.filter import bandpass


@pytest.mark.parametrize(("band_hz", "inside_hz"), [((0.5, 40.0), 10.0), ((0.5, 8.0), 2.0)])
def test_a_tone_in_the_band_keeps_size_and_phase(band_hz: tuple[float, float], inside_hz: float) -> None:
    t = np.arange(6000) / 100
    x = np.sin(2 * np.pi * inside_hz * t)
    y = bandpass(x + 5.0 + 0.3 * t, 100.0, band_hz)
    inner = slice(1000, -1000)
    assert np.dot(x[inner], y[inner]) / np.dot(x[inner], x[inner]) == pytest.approx(1.0, abs=0.02)
    quadrature = np.cos(2 * np.pi * inside_hz * t)
    assert abs(np.dot(quadrature[inner], y[inner]) / np.dot(x[inner], x[inner])) < 1e-3


def test_a_symmetric_pulse_stays_where_it_was() -> None:
    t = np.arange(3000) / 100
    x = np.exp(-0.5 * ((t - 15.0) / 0.06) ** 2)
    assert np.argmax(bandpass(x, 100.0, (0.5, 8.0))) == 1500


def test_an_upper_corner_beyond_nyquist_is_left_out() -> None:
    t = np.arange(3000) / 25
    x = ppg_at(t, beat_times(120.0))
    assert np.isfinite(bandpass(x, 25.0, (0.5, 40.0))).all()


@pytest.mark.parametrize("samples", [0, 1, 2, 5, 50])
def test_short_signals_do_not_fail(samples: int) -> None:
    y = bandpass(np.ones(samples), 100.0, (0.5, 40.0))
    assert y.size == samples
    assert np.isfinite(y).all()


@pytest.mark.parametrize("shape", [(2,), (9,), (299,), (300,), (301,), (5000,), (3, 700), (2, 3, 250)])
@pytest.mark.parametrize(("rate_hz", "band_hz"), [(100.0, (0.5, 8.0)), (25.0, (0.5, 40.0)), (125.0, (5.0, 22.0))])
def test_the_same_bits_as_scipy(shape: tuple[int, ...], rate_hz: float, band_hz: tuple[float, float]) -> None:
    x = np.random.default_rng(sum(shape)).normal(size=shape) + 7.0
    whole = band_hz[1] < 0.49 * rate_hz
    corners, kind = (band_hz, "bandpass") if whole else (band_hz[0], "highpass")
    sections = scipy.signal.butter(2, corners, btype=kind, fs=rate_hz, output="sos")
    pad = min(int(1.5 * rate_hz / band_hz[0]), shape[-1] - 1)
    expected = scipy.signal.sosfiltfilt(sections, x, axis=-1, padlen=pad)
    assert np.array_equal(bandpass(x, rate_hz, band_hz), expected)
