"""Degraded windows: what each kind does to a pulse of known shape, and that it depends on the window alone."""

from __future__ import annotations

import numpy as np
import pytest

from xmae_dist.core.errors import UsageError
from xmae_dist.evaluate.encoders.degradation import Degradation, parse_degradation, parse_degradations

RATE_HZ, BAND_HZ = 100.0, (0.5, 8.0)
TIME_S = np.arange(1000) / RATE_HZ


def pulses(*rates_hz: float) -> np.ndarray:
    return np.stack([0.6 * np.sin(2 * np.pi * f * TIME_S) + 0.4 * np.sin(4 * np.pi * f * TIME_S) for f in rates_hz])


def share_in(x_L: np.ndarray, low_hz: float, high_hz: float) -> float:
    power, hz = np.abs(np.fft.rfft(x_L - x_L.mean())) ** 2, np.fft.rfftfreq(len(x_L), 1 / RATE_HZ)
    return float(power[(hz >= low_hz) & (hz <= high_hz)].sum() / power.sum())


def test_a_slower_rate_keeps_what_its_nyquist_allows_and_loses_the_rest() -> None:
    x_BL = np.sin(2 * np.pi * 1.5 * TIME_S)[None] + 0.5 * np.sin(2 * np.pi * 5.0 * TIME_S)[None]
    kept = parse_degradation("rate=25").apply(x_BL, RATE_HZ, BAND_HZ)[0]
    lost = parse_degradation("rate=6.25").apply(x_BL, RATE_HZ, BAND_HZ)[0]
    assert share_in(kept, 4.5, 5.5) == pytest.approx(0.2, abs=0.02)
    assert share_in(lost, 4.5, 5.5) < 0.01 and share_in(lost, 1.0, 2.0) > 0.97
    same = parse_degradation("rate=200").apply(x_BL, RATE_HZ, BAND_HZ)[0]
    np.testing.assert_allclose(same, x_BL[0] / np.abs(x_BL[0]).max(), atol=0.02)


def test_noise_has_the_power_asked_for_before_cleaning() -> None:
    x_BL = np.repeat(pulses(1.2), 200, axis=0) + np.arange(200)[:, None] * 1e-3
    clean_L = pulses(1.2)[0]
    noisy_BL = Degradation(kind="noise", level=0.0).apply(x_BL, RATE_HZ, BAND_HZ)
    # A projection onto the pulse gives the scale of each window; what remains is the cleaned noise.
    noisy_BL = noisy_BL - noisy_BL.mean(axis=1, keepdims=True)
    scale_B = noisy_BL @ clean_L / (clean_L @ clean_L)
    residual = (noisy_BL / scale_B[:, None] - clean_L).var() / clean_L.var()
    in_band = (8.0 - 0.5) / (RATE_HZ / 2)
    assert residual == pytest.approx(in_band, rel=0.15), "0 dB over 50 Hz leaves the share of the pass band"


def test_motion_fills_half_a_window_and_grows_with_its_level() -> None:
    x_BL = pulses(1.1, 1.3, 1.5, 1.7)
    changed = {}
    for level in (0.5, 2.0):
        spoilt_BL = Degradation(kind="motion", level=level).apply(x_BL, RATE_HZ, BAND_HZ)
        fit_B = [np.corrcoef(a, b)[0, 1] for a, b in zip(x_BL, spoilt_BL, strict=True)]
        changed[level] = float(np.mean(fit_B))
    assert 0.75 < changed[0.5] < 0.99 and changed[2.0] < changed[0.5] - 0.15


@pytest.mark.parametrize("name", ["rate=12.5", "noise=0", "motion=1"])
def test_the_same_window_is_spoilt_the_same_way_wherever_it_stands(name: str) -> None:
    x_BL = pulses(0.9, 1.2, 1.8)
    together = parse_degradation(name).apply(x_BL, RATE_HZ, BAND_HZ)
    assert together.dtype == np.float32 and np.abs(together).max() <= 1
    alone = parse_degradation(name).apply(x_BL[2:], RATE_HZ, BAND_HZ)
    np.testing.assert_array_equal(together[2:], alone)
    flat = parse_degradation(name).apply(np.zeros((1, 1000)), RATE_HZ, BAND_HZ)
    assert np.isfinite(flat).all() and not flat.any()


def test_words_of_the_command_line() -> None:
    found = parse_degradations(["rate=50,25", "noise", "rate=25"])
    assert [d.name for d in found] == ["rate=50", "rate=25", "noise=10", "noise=0", "noise=-10"]
    for word in ("speed", "rate=fast", "rate=0", "motion=-1"):
        with pytest.raises(UsageError, match="--degrade"):
            parse_degradations([word])
