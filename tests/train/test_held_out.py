"""Which windows a run validates on: worked out from the sizes of parts, the same as picked from a list of all."""

from __future__ import annotations

import numpy as np
import pytest

from xmae_dist.data.store.window_store import Segment
from xmae_dist.train.validation.held_out import evenly


@pytest.mark.parametrize("sizes", [[1], [7], [3, 1, 1000, 2], [64] * 50])
@pytest.mark.parametrize("count", [0, 1, 2, 6, 256, 5000])
def test_windows_are_those_of_a_list_of_all(sizes: list[int], count: int) -> None:
    firsts = 100 + 3 * np.arange(len(sizes)) + np.cumsum(sizes) - sizes  # other splits lie between
    segments = [Segment(cohort="c", part=f"p{k}", first_id=int(firsts[k]), n=n) for k, n in enumerate(sizes)]
    ids = np.concatenate([np.arange(s.first_id, s.first_id + s.n) for s in segments])
    expected = ids[np.linspace(0, len(ids) - 1, min(count, len(ids))).astype(np.int64)]
    assert evenly(segments, count).tolist() == expected.tolist()


def test_an_empty_split_has_none() -> None:
    assert evenly([], 256).size == 0


def test_a_billion_windows_are_not_listed() -> None:
    segments = [Segment(cohort="c", part=f"p{k}", first_id=k << 30, n=1 << 30) for k in range(4)]
    found = evenly(segments, 9)
    assert found[0] == 0 and found[-1] == (4 << 30) - 1 and found[4] == (4 << 30) // 2 - 1
