"""Keyed permutations: bijections of every size, invertible, different for every key."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmae_dist.data.order.permutation import permute, unpermute


def test_every_size_up_to_5000_is_a_bijection() -> None:
    # All sizes in few calls: element i of the permutation of 0..n-1 for every pair (n, i) of a band of sizes.
    for low in range(1, 5001, 250):
        sizes = np.arange(low, low + 250)
        size_B = np.repeat(sizes, sizes)
        index_B = np.concatenate([np.arange(n) for n in sizes])
        image_B = permute(index_B, size_B, 7)
        starts_B = np.repeat(np.cumsum(sizes) - sizes, sizes)
        assert np.array_equal(np.sort(image_B + starts_B), np.arange(size_B.size))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 2**45), st.integers(0, 2**64 - 1), st.data())
def test_the_inverse_undoes_it_at_any_size(size: int, key: int, data: st.DataObject) -> None:
    index_B = np.array(data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=50)))
    image_B = permute(index_B, size, key)
    assert ((image_B >= 0) & (image_B < size)).all()
    assert np.array_equal(unpermute(image_B, size, key), index_B)


@pytest.mark.parametrize("size", [3, 7, 64, 100])
def test_every_place_is_equally_likely_for_every_element(size: int) -> None:
    keys = 4000
    image = permute(np.arange(size)[None, :], size, np.arange(keys)[:, None])
    counts = np.stack([np.bincount(image[:, i], minlength=size) for i in range(size)])
    # Chi-square over the (size-1)² degrees of freedom of a doubly stochastic table: 1 for a true shuffle.
    chi_square = ((counts - keys / size) ** 2 / (keys / size)).sum() / (size - 1) ** 2
    assert chi_square < 2


def test_keys_give_unrelated_orders() -> None:
    index = np.arange(10_000)
    one, other = permute(index, index.size, 1), permute(index, index.size, 2)
    assert (one == other).mean() < 0.001
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.05
    assert abs(np.corrcoef(one[:-1], one[1:])[0, 1]) < 0.05


def test_an_index_outside_is_refused() -> None:
    with pytest.raises(ValueError, match="outside"):
        permute(5, 5, 1)
