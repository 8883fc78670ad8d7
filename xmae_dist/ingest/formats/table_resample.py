"""Rows at irregular times onto a steady grid: interpolated between neighbours, anti-aliased, long steps left out.

Streamed: rows come in batches, and only as many are held as a filter is long.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_LOBES = 12  # half width of the anti-aliasing filter, in samples of the output
_KAISER_BETA = 8.0
_CUTOFF = 0.9  # of the output's Nyquist frequency
_FINER = 4  # interpolated points to a row before the filter: straight lines and cubics fold little back from there


class Resampler:
    """Rows (times_s (n,), values_NC) in, samples_MC at k / rate_hz out, k = 0 … from time 0.

    A sample between two finite values of a column that are more than `bridge_s` apart is NaN.
    """

    def __init__(self, rate_hz: float, rows_per_s: float, bridge_s: float) -> None:
        self._rate_hz, self._bridge_s = rate_hz, bridge_s
        # Rows slower than the grid carry nothing that could fold.
        self._finer = max(1, math.ceil(_FINER * rows_per_s / rate_hz)) if rows_per_s > rate_hz * 1.05 else 1
        self._context_s = 2 * (_LOBES + 2) / rate_hz + bridge_s
        self._times_s: Floats = np.empty(0)
        self._values: Floats = np.empty((0, 0))
        self._next = 0

    def push(self, times_s: Floats, values_NC: Floats) -> Floats:
        """Samples that no later row can change."""
        if len(self._times_s):
            times_s, values_NC = np.concatenate([self._times_s, times_s]), np.concatenate([self._values, values_NC])
        # Of rows with one time the first counts.
        new = np.diff(times_s, prepend=-np.inf) > 0
        self._times_s, self._values = times_s[new], values_NC[new]
        return self._upto(math.floor((self._times_s[-1] - self._context_s) * self._rate_hz))

    def finish(self) -> Floats:
        """The samples that are left, up to the last row."""
        return self._upto(math.floor(self._times_s[-1] * self._rate_hz + 1e-6) + 1)

    def _upto(self, stop: int) -> Floats:
        if stop <= self._next:
            return np.empty((0, self._values.shape[1]))
        samples = np.stack([self._column(column, stop) for column in self._values.T], axis=1)
        self._next = stop
        keep = max(0, int(np.searchsorted(self._times_s, stop / self._rate_hz - self._context_s)) - 3)
        self._times_s, self._values = self._times_s[keep:], self._values[keep:]
        return samples

    def _column(self, column: Floats, stop: int) -> Floats:
        finite = np.isfinite(column)
        times_s, values = self._times_s[finite], column[finite]
        at_s = np.arange(self._next, stop) / self._rate_hz
        if len(times_s) < 2:
            return np.full(len(at_s), np.nan)
        samples = self._filtered(times_s, values, stop) if self._finer > 1 else _between(times_s, values, at_s)
        after = np.clip(np.searchsorted(times_s, at_s), 1, len(times_s) - 1)
        near = 1e-9 * np.maximum(1.0, at_s)
        wide = times_s[after] - times_s[after - 1] > self._bridge_s
        on_a_row = (np.abs(at_s - times_s[after]) < near) | (np.abs(at_s - times_s[after - 1]) < near)
        outside = (at_s < times_s[0] - near) | (at_s > times_s[-1] + near)
        samples[(wide & ~on_a_row) | outside] = np.nan
        return samples

    def _filtered(self, times_s: Floats, values: Floats, stop: int) -> Floats:
        fine_hz = self._rate_hz * self._finer
        reach = _LOBES * self._finer
        at_s = np.arange(self._next * self._finer - reach, (stop - 1) * self._finer + reach + 1) / fine_hz
        import scipy.signal  # a second of the command's start, and few need it

        taps = scipy.signal.firwin(
            2 * reach + 1, _CUTOFF * self._rate_hz / 2, fs=fine_hz, window=("kaiser", _KAISER_BETA)
        )
        fine = _between(times_s, values, at_s)
        return scipy.signal.upfirdn(taps, fine, up=1, down=1)[2 * reach : -2 * reach : self._finer].copy()


def _between(times_s: Floats, values: Floats, at_s: Floats) -> Floats:
    """Values at other times: a local cubic, which a jump does not make ring; the ends are held."""
    inside = np.clip(at_s, times_s[0], times_s[-1])
    if len(times_s) < 3:
        return np.interp(inside, times_s, values)
    import scipy.interpolate

    return scipy.interpolate.Akima1DInterpolator(times_s, values, method="makima")(inside)
