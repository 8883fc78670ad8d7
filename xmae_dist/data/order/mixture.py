"""Mixtures of cohorts: how many windows of each an epoch holds, and how many have come by any position.

The count is a closed formula, so nothing is drawn at random and nothing is accumulated: at every position
each cohort has been given its share to within a few windows, and at the end of the epoch exactly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from xmae_dist.core.errors import ConfigError

IntArray = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class MixtureConfig:
    """How cohorts share the stream. With all defaults an epoch is every window exactly once."""

    weights: Mapping[str, float] = field(default_factory=dict)
    """Share of each cohort, on any positive scale. Not together with repeats or temperature."""
    repeats: Mapping[str, float] = field(default_factory=dict)
    """How often the windows of a cohort are used in one epoch: 1 if not given, 0 leaves the cohort out."""
    temperature: float = 1.0
    """1: shares are proportional to the sizes of cohorts. Larger: shares are more equal (size ** (1 / temperature))."""
    epoch_windows: int | None = None
    """Windows in one epoch; by default the cohorts' sizes times their repeats."""

    def __post_init__(self) -> None:
        if self.weights and (self.repeats or self.temperature != 1.0):
            raise ConfigError(
                "mixture.weights",
                value=f"weights with repeats={dict(self.repeats)}, temperature={self.temperature}",
                expected="weights alone, or repeats and temperature",
                fix="leave one of them out: weights are final shares",
            )
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise ConfigError("mixture.temperature", value=self.temperature, expected="a finite number above 0")
        for option, given in (("weights", self.weights), ("repeats", self.repeats)):
            for cohort, number in given.items():
                if not (math.isfinite(number) and number >= 0):
                    raise ConfigError(
                        f"mixture.{option}[{cohort}]", value=number, expected="a finite number, 0 or more"
                    )


def epoch_shares(sizes: Mapping[str, int], config: MixtureConfig) -> dict[str, int]:
    """Windows of each cohort in one epoch, by cohort name, without the cohorts that have no share.

    `sizes` are the cohorts' windows. Raises ConfigError where the configuration names an unknown cohort, or
    nothing is left to train on.
    """
    unknown = sorted((set(config.weights) | set(config.repeats)) - set(sizes))
    if unknown:
        raise ConfigError(
            "mixture", value=", ".join(unknown), expected=f"cohorts of the store: {', '.join(sorted(sizes))}"
        )
    cohorts = sorted(cohort for cohort, size in sizes.items() if size > 0)
    repeated = [sizes[cohort] * config.repeats.get(cohort, 1.0) for cohort in cohorts]
    if config.weights:
        appetite = [config.weights.get(cohort, 0.0) for cohort in cohorts]
    elif config.temperature != 1.0:
        appetite = [size ** (1.0 / config.temperature) for size in repeated]
    else:
        appetite = repeated
    total = config.epoch_windows or round(math.fsum(repeated))
    if total < 1 or not math.fsum(appetite):
        raise ConfigError("mixture", value="no windows", expected="a cohort with windows and a share above 0")
    return {c: n for c, n in zip(cohorts, _apportion(appetite, total), strict=True) if n}


def _apportion(appetite: Sequence[float], total: int) -> list[int]:
    """`total` split in proportion to `appetite`: whole numbers by largest remainder (Hamilton's method)."""
    unit = total / math.fsum(appetite)
    exact = [part * unit for part in appetite]
    shares = [math.floor(part) for part in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: (shares[i] - exact[i], i))
    for i in by_remainder[: total - sum(shares)]:
        shares[i] += 1
    return shares


def counts_at(position: IntArray | int, shares: Sequence[int]) -> IntArray:
    """How many windows of each cohort stand before `position` (B,) of an epoch: (B, C), rows sum to it.

    A balanced tree of two-way splits by floor arithmetic: ⌊p·left/(left+right)⌋ of the first p go left. Every
    count starts at 0, grows by 0 or 1 from one position to the next, and ends at the cohort's share. Between,
    it is off proportion by at most the depth of the tree: 1 window for two cohorts, 7 for a hundred.
    """
    position_B = np.atleast_1d(np.asarray(position, np.int64))
    counts_BC = np.empty((position_B.size, len(shares)), np.int64)
    _split(position_B, shares, counts_BC)
    return counts_BC


def _split(position_B: IntArray, shares: Sequence[int], counts_BC: IntArray) -> None:
    if len(shares) == 1:
        counts_BC[:, 0] = position_B
        return
    middle = len(shares) // 2
    total, left = sum(shares), sum(shares[:middle])
    # position ≤ total, so the product fits 64 bits up to 2³² windows; Python integers carry it beyond.
    number = np.uint64 if total < 2**32 else int
    wide_B = position_B.astype(np.uint64 if total < 2**32 else object)
    left_B = (wide_B * number(left) // number(total)).astype(np.int64)
    _split(left_B, shares[:middle], counts_BC[:, :middle])
    _split(position_B - left_B, shares[middle:], counts_BC[:, middle:])
