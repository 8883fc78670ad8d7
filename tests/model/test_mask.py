"""Masks: exact counts, shapes of the modes, and dependence on the window alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xmae_dist.core.errors import ConfigError
from xmae_dist.model.mask import MODES, masked_count, masks

# Of (seed 11, epoch 5, ids 0, 7 and 2^40), made before there were repeats.
FROZEN = {
    "anchor": "ffc03ff807fc03f0",
    "scatter": "437de9fe92ef5250",
    "block": "01ffe03ffc0fff00",
    "mixed": "417fe1f7f0a7fa40",
}


@given(
    mode=st.sampled_from(MODES),
    n_patches=st.integers(2, 120),
    ratio=st.floats(0.01, 0.99),
    epoch=st.integers(0, 1000),
)
def test_every_row_masks_the_same_number(mode, n_patches, ratio, epoch):
    mask_BN = masks(3, epoch, np.arange(20), n_patches, ratio, mode)
    assert mask_BN.shape == (20, n_patches)
    assert set(mask_BN.sum(axis=1)) == {masked_count(n_patches, ratio)}


@pytest.mark.parametrize("mode", MODES)
def test_a_mask_depends_on_its_own_window_alone(mode):
    together = masks(1, 2, np.arange(1000), 50, 0.8, mode)
    shuffled = np.random.default_rng(0).permutation(1000)[:37]
    assert np.array_equal(masks(1, 2, shuffled, 50, 0.8, mode), together[shuffled])
    assert np.array_equal(masks(1, 2, np.int64(5), 50, 0.8, mode)[0], together[5])


@pytest.mark.parametrize("mode", MODES)
def test_seed_and_epoch_change_the_masks(mode):
    first = masks(1, 0, np.arange(200), 50, 0.8, mode)
    for other in (masks(2, 0, np.arange(200), 50, 0.8, mode), masks(1, 1, np.arange(200), 50, 0.8, mode)):
        assert (first != other).any(axis=1).mean() > 0.8


def _runs(mask_BN):
    return (np.diff(mask_BN.astype(int), prepend=0, append=0, axis=1) == 1).sum(axis=1)


def test_modes_have_their_shape():
    ids = np.arange(300)
    assert (_runs(~masks(0, 0, ids, 50, 0.8, "anchor")) == 1).all()
    assert (_runs(masks(0, 0, ids, 50, 0.5, "block")) == 1).all()
    assert _runs(masks(0, 0, ids, 50, 0.5, "scatter")).mean() > 8
    mixed = masks(0, 0, ids, 50, 0.5, "mixed")
    assert 2 < _runs(mixed).mean() < _runs(masks(0, 0, ids, 50, 0.5, "scatter")).mean()


@pytest.mark.parametrize("mode", MODES)
def test_every_patch_is_masked_in_its_share(mode):
    share_N = masks(0, 0, np.arange(20_000), 10, 0.5, mode).mean(axis=0)
    assert share_N.mean() == pytest.approx(0.5)
    if mode == "scatter":
        assert np.abs(share_N - 0.5).max() < 0.02


def test_bad_settings_are_named():
    with pytest.raises(ConfigError, match=r"mask ratio: got 1\.0"):
        masks(0, 0, [1], 50, 1.0)
    with pytest.raises(ConfigError, match=r"mask mode: got striped; expected anchor \| scatter"):
        masks(0, 0, [1], 50, 0.5, "striped")


@pytest.mark.parametrize("mode", MODES)
def test_a_window_that_an_epoch_repeats_is_masked_anew_and_the_first_time_as_ever(mode):
    ids_B = np.arange(64)
    plain = masks(3, 2, ids_B, 100, 0.6, mode)
    repeated = masks(3, 2, ids_B, 100, 0.6, mode, ids_B % 3)
    first = ids_B % 3 == 0
    assert np.array_equal(repeated[first], plain[first])
    assert (repeated[~first] != plain[~first]).any(axis=1).mean() > 0.9
    assert (repeated.sum(axis=1) == plain.sum(axis=1)).all()
    third = masks(3, 2, ids_B, 100, 0.6, mode, 2)
    assert (third != masks(3, 2, ids_B, 100, 0.6, mode, 1)).any(axis=1).mean() > 0.9
    assert not np.array_equal(third, masks(3, 3, ids_B, 100, 0.6, mode, 2))


def test_masks_without_repeats_are_those_they_were():
    """Of a run that goes on with this version no bit may change."""
    found = {mode: masks(11, 5, [0, 7, 2**40], 20, 0.6, mode) for mode in MODES}
    assert {mode: np.packbits(mask_BN).tobytes().hex() for mode, mask_BN in found.items()} == FROZEN
