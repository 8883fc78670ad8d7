"""The yardstick of `peak_share`."""

from __future__ import annotations

import torch

from xmae_dist.train.sizing.flops import measured_peak_flops


def test_a_peak_is_measured_however_little_time_there_is() -> None:
    """On a busy machine the product that warms up may take longer than all the time that was meant for measuring."""
    for seconds in (0.0, -1.0):
        assert 1e6 < measured_peak_flops(torch.device("cpu"), bf16=False, seconds=seconds) < 1e18
