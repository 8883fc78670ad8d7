"""The units of a task: the label of each, whose it is, and which windows feed it. Legend: N units, E features."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from xmae_dist.evaluate.members import Members
from xmae_dist.evaluate.pooling import Embedded
from xmae_dist.evaluate.scores.metrics import sum_by

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Examples:
    """y_N, the subject and a readable name of each unit, and the windows that feed it.

    `centred`: features are deviations from the subject's mean, as y_N is. `left_out`: how many units a limit took
    away.
    """

    y_N: Floats
    subject_N: NDArray[np.str_]
    name_N: NDArray[np.str_]
    windows: Members
    centred: bool = False
    left_out: int = 0

    def features(self, embedded: Embedded) -> Floats:
        """(N, E): the embedding of each window, or the mean embedding of the windows of each unit."""
        x_NE = embedded.features(self.windows)
        return x_NE - self._subject_mean(x_NE) if self.centred else x_NE

    def centre(self) -> Examples:
        """These units with labels (and, when asked for, features) as deviations from each subject's mean."""
        return replace(self, y_N=self.y_N - self._subject_mean(self.y_N[:, None])[:, 0], centred=True)

    def _subject_mean(self, x_NE: Floats) -> Floats:
        code_N = np.unique(self.subject_N, return_inverse=True)[1]
        count_S = np.bincount(code_N)
        return (sum_by(code_N, x_NE, len(count_S)) / count_S[:, None])[code_N]
