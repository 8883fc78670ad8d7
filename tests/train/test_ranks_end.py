"""The ranks that tests and benches spawn end where their results are stored."""

from __future__ import annotations

import atexit
import os
from pathlib import Path

import pytest
from torch.multiprocessing.spawn import ProcessRaisedException

from xmae_dist.testing.ranks import run_ranks


def _dies_of_finalising(rank: int, world: int) -> int:
    atexit.register(os.abort)
    print(f"rank {rank} of {world}")
    return rank


def _fails(rank: int, world: int) -> None:
    raise ValueError(f"rank {rank}")


def test_a_rank_whose_result_is_stored_does_not_die_of_what_comes_after(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_ranks(2, _dies_of_finalising, tmp_path) == [0, 1]
    assert "rank 1 of 2" in capfd.readouterr().out


def test_a_rank_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(ProcessRaisedException, match="ValueError: rank"):
        run_ranks(2, _fails, tmp_path)
