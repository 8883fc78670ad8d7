"""Samples on a clock."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Signal:
    """One channel, or a span of it: physical values (NaN where missing), its rate, the time of its first
    sample.
    """

    values_T: np.ndarray
    rate_hz: float
    start_s: float = 0.0

    @property
    def stop_s(self) -> float:
        return self.start_s + len(self.values_T) / self.rate_hz
