from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmae_dist.signals.resample import ratio, resample


@pytest.mark.parametrize(
    "rate_hz", [25.0, 30.0, 62.4725, 64.0, 100.0, 125.0, 128.0, 250.0, 360.0, 499.5, 500.0, 1000.0]
)
@pytest.mark.parametrize("offset_s", [0.0, 0.0013, 0.5])
def test_a_tone_lands_where_it_belongs(rate_hz: float, offset_s: float) -> None:
    tone_hz = 0.35 * min(rate_hz, 100.0)
    x = np.sin(2 * np.pi * tone_hz * np.arange(round(30 * rate_hz)) / rate_hz) + 3.0
    y = resample(x, rate_hz, 100.0, offset_s=offset_s)
    expected = np.sin(2 * np.pi * tone_hz * (offset_s + np.arange(y.size) / 100)) + 3.0
    inner = slice(250, -250)
    assert np.abs(y - expected)[inner].max() < 1e-3


@settings(max_examples=40, deadline=None)
@given(rate_hz=st.floats(25, 1000), offset_s=st.floats(0, 2))
def test_a_constant_stays_and_the_grid_ends_with_the_input(rate_hz: float, offset_s: float) -> None:
    x = np.full(round(5 * rate_hz), 7.25)
    y = resample(x, rate_hz, 100.0, offset_s=offset_s)
    assert np.allclose(y, 7.25, atol=1e-9)
    last_s = (x.size - 1) / rate_hz
    assert offset_s + (y.size - 1) / 100 <= last_s + 1e-6 < offset_s + y.size / 100 + 1e-5


@pytest.mark.parametrize("tone_hz", [62.0, 70.0, 130.0, 430.0])
def test_what_would_alias_is_gone(tone_hz: float) -> None:
    x = np.sin(2 * np.pi * tone_hz * np.arange(10_000) / 1000)
    assert np.abs(resample(x, 1000.0, 100.0))[50:-50].max() < 1e-3


def test_a_grid_wider_than_the_input_holds_the_edges() -> None:
    y = resample(np.array([1.0, 1.0, 1.0, 2.0, 2.0, 2.0]), 100.0, 100.0, offset_s=-0.5, n_out=200)
    assert y.size == 200
    assert y[0] == pytest.approx(1.0, abs=1e-6)
    assert y[-1] == pytest.approx(2.0, abs=1e-6)


def test_time_does_not_run_away_over_an_hour() -> None:
    up, down = ratio(62.4725, 100.0)
    assert abs(up / down / (100.0 / 62.4725) - 1) * 3600 < 1e-4


def test_empty_input_gives_an_empty_grid() -> None:
    assert resample(np.zeros(0), 250.0, 100.0).size == 0
