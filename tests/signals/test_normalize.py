from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from xmae_dist.signals.normalize import minmax


def test_windows_fill_the_range_and_can_be_undone() -> None:
    x = np.random.default_rng(0).normal(40.0, 3.0, (5, 100))
    scaled, offset, scale = minmax(x)
    assert scaled.min(axis=1).tolist() == [-1.0] * 5
    assert scaled.max(axis=1).tolist() == [1.0] * 5
    assert np.allclose(scaled * scale[:, None] + offset[:, None], x, atol=1e-5)


def test_flat_and_missing_windows_survive() -> None:
    x = np.stack([np.full(10, 3.3), np.full(10, np.nan), np.array([np.nan, 1.0] * 5), np.full(10, 1e9)])
    scaled, offset, scale = minmax(x)
    assert not scaled.any()
    assert scale.tolist() == [0.0] * 4
    assert offset.tolist() == [3.3, 0.0, 1.0, 1e9]


@given(arrays(np.float64, (3, 17), elements=st.floats(allow_nan=True, allow_infinity=True)))
def test_anything_in_gives_finite_numbers_in_range(x: np.ndarray) -> None:
    scaled, offset, scale = minmax(x)
    assert np.isfinite(scaled).all()
    assert np.abs(scaled).max() <= 1.0
    assert np.isfinite(offset).all()
    assert np.isfinite(scale).all()
