"""Keyed permutations of 0..n-1 that need no memory: element i is computed, not looked up.

A Feistel network over the mixed radix (a, b) with a·b ≥ n: an index is a pair (left, right), and rounds add
a keyed hash of one half to the other, modulo its radix, which can always be undone. Since a = ⌈√n⌉ and
b = ⌈n/a⌉, the network permutes at most n + √n numbers; those that land at or beyond n are sent through
again until they fall below it ("cycle walking": Black and Rogaway, "Ciphers with arbitrary finite domains",
2002), so that the result permutes exactly 0..n-1. Starting anywhere costs the same as starting at 0.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from xmae_dist.core.seeds import hash_u64

# Four rounds are already pseudo-random for large halves (Luby and Rackoff, 1988); small ones need a few more.
_ROUNDS = 6

IntArray = NDArray[np.int64]
Step = Callable[[IntArray, IntArray, NDArray[np.uint64]], IntArray]


def permute(index: IntArray | int, size: IntArray | int, key: NDArray[np.uint64] | int) -> IntArray:
    """Where the permutation of 0..size-1 under `key` sends `index`; all three broadcast.

    So one call permutes one index in many permutations, or many in one. Raises ValueError where an index is
    outside 0..size-1.
    """
    return _walk(_forward, index, size, key)


def unpermute(image: IntArray | int, size: IntArray | int, key: NDArray[np.uint64] | int) -> IntArray:
    """The inverse: `unpermute(permute(i, n, k), n, k) == i`."""
    return _walk(_backward, image, size, key)


def _walk(step: Step, index: IntArray | int, size: IntArray | int, key: NDArray[np.uint64] | int) -> IntArray:
    index_B, size_B, key_B = np.broadcast_arrays(
        np.asarray(index, np.int64), np.asarray(size, np.int64), hash_u64("permutation", key)
    )
    shape = index_B.shape
    index_B, size_B, key_B = index_B.ravel(), size_B.ravel(), key_B.ravel()
    if index_B.size and (index_B.min() < 0 or np.any(index_B >= size_B)):
        raise ValueError("permute: an index lies outside 0..size-1")
    image_B = step(index_B, size_B, key_B)
    outside = np.flatnonzero(image_B >= size_B)
    while outside.size:
        image_B[outside] = step(image_B[outside], size_B[outside], key_B[outside])
        outside = outside[image_B[outside] >= size_B[outside]]
    return image_B.reshape(shape)


def _radices(size: IntArray) -> tuple[IntArray, IntArray]:
    left = np.ceil(np.sqrt(np.maximum(size, 1))).astype(np.int64)
    return left, -(-np.maximum(size, 1) // left)


def _round(key: NDArray[np.uint64], number: int, half: IntArray, radix: IntArray) -> IntArray:
    return (hash_u64(key ^ np.uint64(number), half) % radix.astype(np.uint64)).astype(np.int64)


def _forward(index: IntArray, size: IntArray, key: NDArray[np.uint64]) -> IntArray:
    a, b = _radices(size)
    left, right = index // b, index % b
    for number in range(_ROUNDS):
        if number % 2 == 0:
            left = (left + _round(key, number, right, a)) % a
        else:
            right = (right + _round(key, number, left, b)) % b
    return left * b + right


def _backward(image: IntArray, size: IntArray, key: NDArray[np.uint64]) -> IntArray:
    a, b = _radices(size)
    left, right = image // b, image % b
    for number in reversed(range(_ROUNDS)):
        if number % 2 == 0:
            left = (left - _round(key, number, right, a)) % a
        else:
            right = (right - _round(key, number, left, b)) % b
    return left * b + right
