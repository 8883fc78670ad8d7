"""Mixtures: exact shares, counts that grow one window at a time, refusals that name the option."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmae_dist.core.errors import ConfigError
from xmae_dist.data.order.mixture import MixtureConfig, counts_at, epoch_shares

SIZES = {"patch": 1000, "watch": 10, "ring": 90}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=12))
def test_counts_grow_by_one_cohort_at_each_position_and_end_at_the_shares(shares: list[int]) -> None:
    total = sum(shares)
    counts = counts_at(np.arange(total + 1), shares)
    steps = np.diff(counts, axis=0)
    assert set(np.unique(steps)) <= {0, 1} and (steps.sum(axis=1) == 1).all()
    assert counts[0].sum() == 0 and counts[-1].tolist() == shares
    in_proportion = np.arange(total + 1)[:, None] * np.array(shares) / total
    assert np.abs(counts - in_proportion).max() <= np.ceil(np.log2(max(2, len(shares))))


def test_counts_are_exact_beyond_64_bit_products() -> None:
    shares = [6 * 10**9, 3 * 10**9, 10**9]
    assert counts_at(10**10, shares)[0].tolist() == shares
    assert counts_at(5 * 10**9, shares).sum() == 5 * 10**9


def test_by_default_an_epoch_is_every_window_once() -> None:
    assert epoch_shares(SIZES, MixtureConfig()) == dict(sorted(SIZES.items()))


def test_repeats_weights_and_temperature() -> None:
    assert epoch_shares(SIZES, MixtureConfig(repeats={"watch": 2.5, "ring": 0})) == {"patch": 1000, "watch": 25}
    weighted = epoch_shares(SIZES, MixtureConfig(weights={"patch": 1, "watch": 1, "ring": 2}, epoch_windows=400))
    assert weighted == {"patch": 100, "ring": 200, "watch": 100}
    flatter = epoch_shares(SIZES, MixtureConfig(temperature=2))
    assert sum(flatter.values()) == 1100 and flatter["watch"] > 50
    level = epoch_shares(SIZES, MixtureConfig(temperature=1e9, epoch_windows=300))
    assert set(level.values()) == {100}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"weights": {"patch": 1.0}, "temperature": 2.0}, "weights"),
        ({"weights": {"patch": -1.0}}, "patch"),
        ({"repeats": {"patch": float("nan")}}, "patch"),
        ({"temperature": 0.0}, "temperature"),
    ],
)
def test_contradictions_are_refused_by_name(options: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        MixtureConfig(**options)  # type: ignore[arg-type]


def test_an_unknown_cohort_is_refused() -> None:
    with pytest.raises(ConfigError, match="glove"):
        epoch_shares(SIZES, MixtureConfig(weights={"glove": 1.0}))
