"""Masks over patches: a pure function of (seed, epoch, window id, repeat), drawn for a whole batch without a loop.

Shapes: B windows, N patches. True means masked. Every row masks exactly the same number of patches, which lets
visible patches be gathered into one dense tensor.

Modes: ``anchor`` leaves one contiguous visible block, masking all outside it (the published choice);
``scatter`` masks a random subset; ``block`` masks one contiguous run; ``mixed`` masks half of its patches as
one run and the other half scattered over the rest.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xmae_dist.core.errors import ConfigError
from xmae_dist.core.seeds import hash_u64, uniform01

Mode = Literal["anchor", "scatter", "block", "mixed"]
MODES: tuple[str, ...] = get_args(Mode)


def masked_count(n_patches: int, ratio: float) -> int:
    """Masked patches per window: the nearest count to ``ratio``, leaving at least one masked and one visible."""
    if not 0.0 < ratio < 1.0 or n_patches < 2:
        raise ConfigError(
            "mask ratio", value=f"{ratio} over {n_patches} patches", expected="0 < ratio < 1 over 2 patches or more"
        )
    return min(max(round(ratio * n_patches), 1), n_patches - 1)


def masks(
    seed: int,
    epoch_B: ArrayLike,
    window_ids_B: ArrayLike,
    n_patches: int,
    ratio: float,
    mode: str = "anchor",
    repeat_B: ArrayLike = 0,
) -> NDArray[np.bool_]:
    """Boolean masks (B, N), True where masked, for the windows with these ids in these epochs (one each, or one).

    A window's mask depends on its own id, and on how often it came before in the epoch (`repeat_B`), alone: it is the
    same in any batch, on any rank, at any batch size.
    Raises ConfigError for a ratio outside (0, 1) or an unknown mode.
    """
    ids_B = np.atleast_1d(np.asarray(window_ids_B, dtype=np.int64))
    seen_B = _seen(*(np.broadcast_to(np.asarray(part, dtype=np.int64), ids_B.shape) for part in (epoch_B, repeat_B)))
    count = masked_count(n_patches, ratio)
    if mode == "anchor":
        return ~_run(seed, seen_B, ids_B, n_patches, n_patches - count)
    if mode == "block":
        return _run(seed, seen_B, ids_B, n_patches, count)
    if mode == "scatter":
        return _lowest(_keys(seed, seen_B, ids_B, n_patches), count)
    if mode == "mixed":
        run_BN = _run(seed, seen_B, ids_B, n_patches, (count + 1) // 2)
        return _lowest(_keys(seed, seen_B, ids_B, n_patches) - run_BN, count)
    raise ConfigError("mask mode", value=mode, expected=" | ".join(MODES))


def _seen(epoch_B: NDArray[np.int64], repeat_B: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The part of the seed that changes each time a window comes: the epoch's number, hashed where it repeats one."""
    return np.where(repeat_B == 0, epoch_B.astype(np.uint64), hash_u64("mask repeat", epoch_B, repeat_B))


def _run(
    seed: int, seen_B: NDArray[np.uint64], ids_B: NDArray[np.int64], n_patches: int, size: int
) -> NDArray[np.bool_]:
    """One run of ``size`` True at a uniform place in each row."""
    start_B = uniform01("mask run", seed, seen_B, ids_B) * (n_patches - size + 1)
    offset_BN = np.arange(n_patches) - start_B.astype(np.int64)[:, None]
    return (offset_BN >= 0) & (offset_BN < size)


def _keys(seed: int, seen_B: NDArray[np.uint64], ids_B: NDArray[np.int64], n_patches: int) -> NDArray[np.float64]:
    patch_N = np.arange(n_patches, dtype=np.int64)
    return uniform01("mask scatter", seed, seen_B[:, None], ids_B[:, None], patch_N)


def _lowest(keys_BN: NDArray[np.float64], count: int) -> NDArray[np.bool_]:
    """True at the ``count`` lowest keys of each row."""
    chosen_BC = np.argpartition(keys_BN, count - 1, axis=1)[:, :count]
    mask_BN = np.zeros(keys_BN.shape, dtype=np.bool_)
    np.put_along_axis(mask_BN, chosen_BC, True, axis=1)
    return mask_BN
