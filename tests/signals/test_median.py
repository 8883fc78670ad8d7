from __future__ import annotations

import numpy as np
import pytest

from xmae_dist.signals.median import median


@pytest.mark.parametrize("shape", [(1,), (2,), (7,), (10,), (1, 5), (6, 4), (9, 81)])
def test_the_same_bits_as_numpy(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(sum(shape)).normal(size=shape)
    before = x.copy()
    assert np.array_equal(median(x), np.median(x, axis=0))
    assert np.array_equal(x, before)
