"""Quiet recordings for the tests of the simulator: no motion, no gaps, one device."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from xmae_dist.simulate.cohorts import PRESETS, CohortSpec, SimulatedChannel, SimulatedRecording, simulate_subject
from xmae_dist.simulate.traits import Prevalence

QUIET = replace(PRESETS["bedside"], subjects=1000, minutes=5.0, motion_scale=0.0, gap_scale=0.0, subject_prefix="quiet")
SINUS_ONLY = replace(QUIET, prevalence=Prevalence(af=0.0, ectopy=0.0))
YOUNG = replace(QUIET, prevalence=Prevalence(af=0.0, ectopy=0.0, age_range_yr=(20.0, 35.0)))
FIBRILLATING = replace(QUIET, prevalence=Prevalence(af=1.0, ectopy=0.0, age_range_yr=(75.0, 85.0)))
ECTOPIC = replace(QUIET, prevalence=Prevalence(af=0.0, ectopy=2.0))


@cache
def recording(spec: CohortSpec, index: int) -> SimulatedRecording:
    """The first recording of a subject (kept between tests; treat it as read-only)."""
    return simulate_subject(spec, index)[0]


def find(spec: CohortSpec, name: str, low: float, high: float = np.inf) -> SimulatedRecording:
    """The first recording whose label lies within the limits."""
    for index in range(60):
        found = recording(spec, index)
        if low <= found.labels[name] <= high:
            return found
    raise LookupError(f"no recording of {spec.name} with {name} in [{low}, {high}]")


def physical(channel: SimulatedChannel) -> NDArray[np.float64]:
    """Values in the channel's unit."""
    return channel.raw * channel.scale + channel.offset


def around(
    values: NDArray[np.float64], rate_hz: float, times_s: NDArray[np.float64], before_s: float, after_s: float
) -> NDArray[np.float64]:
    """Stretches (N, K) of a signal around the times that have room."""
    first = np.round((times_s - before_s) * rate_hz).astype(int)
    width = int(round((before_s + after_s) * rate_hz))
    first = first[(first >= 0) & (first + width < values.size)]
    return values[first[:, None] + np.arange(width)]
