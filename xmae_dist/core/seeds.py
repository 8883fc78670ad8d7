"""Randomness without state: every random number is a function of what it is for.

A mask is drawn from (seed, epoch, window id), a dropout from (seed, step, rank). So nothing random is kept in
a checkpoint, and no number of workers changes what is drawn. The mixing is SplitMix64 (Steele, Lea and Flood,
"Fast splittable pseudorandom number generators", 2014), chained over the parts.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)

Part = int | str | np.integer | NDArray[np.integer]


def hash_u64(*parts: Part) -> NDArray[np.uint64]:
    """64 well-mixed bits for each element of the broadcast of `parts`.

    Parts are strings (purposes, cohort names), integers, or integer arrays; their order counts. Returns a
    uint64 array of the broadcast shape (zero-dimensional where all parts are scalars).
    """
    state = np.asarray(_GAMMA)
    with np.errstate(over="ignore"):
        for part in parts:
            state = _mix((state ^ _as_u64(part)) + _GAMMA)
    return state


def uniform01(*parts: Part) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1) with 53 random bits, one for each element of the broadcast of `parts`."""
    return (hash_u64(*parts) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def generator(*parts: Part) -> np.random.Generator:
    """A NumPy generator (Philox) whose stream depends on the scalar `parts` alone."""
    key = [int(hash_u64("generator", lane, *parts)) for lane in (0, 1)]
    return np.random.Generator(np.random.Philox(key=np.array(key, dtype=np.uint64)))


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return z ^ (z >> np.uint64(31))


def _as_u64(part: Part) -> NDArray[np.uint64]:
    if isinstance(part, str):
        # Python's own hash differs between processes.
        digest = hashlib.blake2b(part.encode(), digest_size=8).digest()
        return np.asarray(np.uint64(int.from_bytes(digest, "little")))
    if isinstance(part, (int, np.integer)):
        return np.asarray(np.uint64(int(part) & 0xFFFFFFFFFFFFFFFF))
    values = np.asarray(part)
    return values.astype(np.uint64) if values.dtype.kind == "u" else values.astype(np.int64).view(np.uint64)
