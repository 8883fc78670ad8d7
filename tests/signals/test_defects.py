from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from xmae_dist.signals.defects import fill_gaps, flat_mask, fraction_between, long_runs, saturated_mask


def test_gaps_are_bridged_and_marked() -> None:
    filled, missing = fill_gaps(np.array([np.nan, 1.0, np.nan, 3.0, np.inf]))
    assert filled.tolist() == [1.0, 1.0, 2.0, 3.0, 3.0]
    assert missing.tolist() == [True, False, True, False, True]


def test_nothing_but_nan_becomes_zeros() -> None:
    filled, missing = fill_gaps(np.full(4, np.nan))
    assert filled.tolist() == [0.0] * 4
    assert missing.all()


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 8))
def test_long_runs_against_a_plain_loop(bits: list[bool], min_run: int) -> None:
    expected = [False] * len(bits)
    start = 0
    for i in range(len(bits) + 1):
        if i == len(bits) or not bits[i]:
            if i - start >= min_run:
                expected[start:i] = [True] * (i - start)
            start = i + 1
    assert long_runs(np.array(bits, dtype=bool), min_run).tolist() == expected


def test_a_standing_value_is_flat_and_a_slow_wave_is_not() -> None:
    x = np.sin(np.arange(1000) / 40)
    x[300:400] = x[300]
    mask = flat_mask(x, 100.0)
    assert mask[300:400].all()
    assert mask.sum() == 100


def test_rails_are_saturated_and_crests_are_not() -> None:
    x = np.sin(2 * np.pi * 1.2 * np.arange(3000) / 250)
    assert not saturated_mask(x, 250.0).any()
    clipped = np.clip(x, -1.0, 0.6)
    share = saturated_mask(clipped, 250.0).mean()
    assert 0.25 < share < 0.32


def test_a_constant_channel_is_not_called_saturated() -> None:
    assert not saturated_mask(np.full(500, 2.0), 100.0).any()


def test_outside_the_array_counts_as_true() -> None:
    mask = np.array([False, False, True, True])
    share = fraction_between(mask, np.array([0, 2, -2, 3]), np.array([4, 4, 2, 7]))
    assert share.tolist() == [0.5, 1.0, 0.5, 1.0]
