"""Moments of each feature over the windows of a unit, gathered block by block: 32 bytes a unit and feature.

While windows come, sum, sum of squares, least and largest are kept; at the end there are mean, standard deviation,
least and largest. Blocks may come in any number; added in one order, the result is the same to the last bit.

Legend: K windows of a block, U units that the block feeds, N units, E features.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def start(shape: tuple[int, int]) -> Floats:
    """(N, 4 E) for (N, E): units that have no window yet."""
    zeros_NE = np.zeros(shape)
    return np.concatenate([zeros_NE, zeros_NE, zeros_NE + np.inf, zeros_NE - np.inf], axis=1)


def kept(place_K: NDArray[np.integer], x_KE: Floats, n_units: int) -> Floats:
    """(U, 4 E) of a block, where each unit has a window."""
    order_K = np.argsort(place_K, kind="stable")
    first_U = np.searchsorted(place_K[order_K], np.arange(n_units))
    x_KE = x_KE[order_K]
    if not len(x_KE):
        return start((n_units, x_KE.shape[1]))
    sums = (np.add.reduceat(values, first_U) for values in (x_KE, x_KE**2))
    return np.concatenate([*sums, np.minimum.reduceat(x_KE, first_U), np.maximum.reduceat(x_KE, first_U)], axis=1)


def add(kept_NF: Floats, units_U: NDArray[np.integer], kept_UF: Floats) -> None:
    """What a block kept of `units_U`, all different, to what was kept before, in place."""
    e = kept_NF.shape[1] // 4
    kept_NF[units_U, : 2 * e] += kept_UF[:, : 2 * e]
    kept_NF[units_U, 2 * e : 3 * e] = np.minimum(kept_NF[units_U, 2 * e : 3 * e], kept_UF[:, 2 * e : 3 * e])
    kept_NF[units_U, 3 * e :] = np.maximum(kept_NF[units_U, 3 * e :], kept_UF[:, 3 * e :])


def settle(kept_NF: Floats, count_N1: NDArray[np.int64]) -> None:
    """Sums to mean and standard deviation, in place."""
    e = kept_NF.shape[1] // 4
    kept_NF[:, : 2 * e] /= count_N1
    kept_NF[:, e : 2 * e] = np.sqrt(np.maximum(kept_NF[:, e : 2 * e] - kept_NF[:, :e] ** 2, 0.0))
