"""Readouts: from an encoder's tokens over time to one embedding. None has parameters, so any encoder can take any.

    mean       the mean over time
    mean_std   mean and standard deviation: what the signal is like, and how much it varies
    extremes   mean_std, and the least and the largest value of each feature
    quantiles  five quantiles of each feature
    spectrum   mean_std, and the log power spectrum of the tokens over time, averaged over features: how they vary,
               which for pulse waves is the rhythm
    head       what the model itself puts on its tokens; only models that have such a head take it

A name never changes its meaning: a bundle that states one gives the same numbers for as long as it is kept.

Shapes: B batch, N tokens, D width, K frequencies, E embedding width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from xmae_dist.core.errors import ConfigError

_HIGHEST_CYCLES_PER_TOKEN = 0.39
"""3.9 Hz at tokens of 0.1 s: above the fastest pulse, below where tokens alias."""
_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
_LEAST_POWER = 1e-8
"""Of a token sequence that does not vary at all, so that its logarithm is finite."""


def mean(tokens_BND: Tensor) -> Tensor:
    """(B, D)."""
    return tokens_BND.mean(dim=1)


def spread(tokens_BND: Tensor) -> Tensor:
    """Standard deviation over time, (B, D)."""
    return (tokens_BND.var(dim=1, correction=0) + 1e-6).sqrt()


def extremes(tokens_BND: Tensor) -> Tensor:
    """Least and largest value over time, (B, 2 D)."""
    return torch.cat([tokens_BND.amin(dim=1), tokens_BND.amax(dim=1)], dim=1)


def quantiles(tokens_BND: Tensor) -> Tensor:
    """Five quantiles over time, (B, 5 D); the nearest token's value, so that nothing is interpolated."""
    rank_BND = tokens_BND.sort(dim=1).values
    return torch.cat([rank_BND[:, round(q * (rank_BND.shape[1] - 1))] for q in _QUANTILES], dim=1)


def spectrum(tokens_BND: Tensor) -> Tensor:
    """Log power at 1, 2, …, K cycles per window, averaged over features, (B, K)."""
    n = tokens_BND.shape[1]
    cycle_K = torch.arange(1, frequencies(n) + 1, dtype=tokens_BND.dtype, device=tokens_BND.device)
    time_N = torch.arange(n, dtype=tokens_BND.dtype, device=tokens_BND.device)
    angle_KN = 2.0 * math.pi / n * torch.remainder(cycle_K[:, None] * time_N, n)
    deviation_BND = tokens_BND - tokens_BND.mean(dim=1, keepdim=True)
    # Two small matrix products instead of an FFT: any N at equal cost, and every exporter knows them.
    power_BKD = (angle_KN.cos() @ deviation_BND).square() + (angle_KN.sin() @ deviation_BND).square()
    return (power_BKD.mean(dim=2) / n**2 + _LEAST_POWER).log()


def frequencies(n_tokens: int) -> int:
    """Frequencies in the spectrum of a window of so many tokens."""
    return max(1, math.floor(_HIGHEST_CYCLES_PER_TOKEN * n_tokens + 1e-9))


@dataclass(frozen=True)
class Readout:
    """A named readout: ``readout(tokens_BND) -> (B, E)``."""

    name: str
    parts: tuple[Callable[[Tensor], Tensor], ...]

    def __call__(self, tokens_BND: Tensor) -> Tensor:
        return torch.cat([part(tokens_BND) for part in self.parts], dim=1)


READOUTS: dict[str, Readout] = {
    readout.name: readout
    for readout in (
        Readout("mean", (mean,)),
        Readout("mean_std", (mean, spread)),
        Readout("extremes", (mean, spread, extremes)),
        Readout("quantiles", (quantiles,)),
        Readout("spectrum", (mean, spread, spectrum)),
        Readout("head", ()),
    )
}
MEAN_STD, HEAD = READOUTS["mean_std"], READOUTS["head"]


def named(name: str) -> Readout:
    """The readout of that name. Raises ConfigError for one that is not known."""
    if name not in READOUTS:
        raise ConfigError(
            "readout", value=name, expected=" | ".join(READOUTS), fix="use the version of xmae_dist that made it"
        )
    return READOUTS[name]
