"""How subjects in training move out-of-fold predictions, to first order (infinitesimal jackknife; Efron 1982).

A number for every subject and unit would grow with the square of the people: 23 GB for 5,400 people of 100 windows. It
is a product of two thin factors, or sparse, and is only ever multiplied by how much subjects weigh, so that is what is
kept. Legend: N units, T of them, S subjects, F coefficients, C prediction columns, Q draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Influence:
    """What one more copy of each subject in a training set adds to one column of the linear predictors of units_T.

    Rows of the first factor are subjects (their sorted unique ids), columns of the last are units: (S, F) and (F, T) of
    a probe, one sparse (S, T) of neighbours.
    """

    units_T: NDArray[np.intp]
    column: int
    factors: tuple[Any, ...]

    def moved(self, weight_QS: Floats) -> Floats:
        """(Q, T) for subjects that weigh so much more."""
        moved = weight_QS
        for factor in self.factors:
            moved = moved @ factor
        return moved

    def of_first(self, n_subjects: int) -> Influence:
        """Without the subjects after these."""
        return replace(self, factors=(self.factors[0][:n_subjects], *self.factors[1:]))


def moved(influence: Sequence[Influence], weight_QS: Floats, shape: tuple[int, int]) -> Floats:
    """(Q, N, C) changes of all linear predictors; `shape` is (N, C)."""
    moved_QNC = np.zeros((len(weight_QS), *shape))
    for one in influence:
        moved_QNC[:, one.units_T, one.column] += one.moved(weight_QS)
    return moved_QNC
