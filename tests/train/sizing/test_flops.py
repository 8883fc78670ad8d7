"""The yardstick of `peak_share`."""

from __future__ import annotations

import pytest
import torch

from xmae_dist.train.sizing.flops import measured_peak_flops


def test_a_peak_is_measured_however_little_time_there_is() -> None:
    """On a busy machine the product that warms up may take longer than all the time that was meant for measuring."""
    for seconds in (0.0, -1.0):
        assert 1e6 < measured_peak_flops(torch.device("cpu"), bf16=False, seconds=seconds) < 1e18


@pytest.mark.parametrize(("bf16", "type_"), [(True, torch.bfloat16), (False, torch.float32)])
def test_the_peak_is_that_of_the_precision_of_training(
    bf16: bool, type_: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A share of float32's peak would be said of bfloat16's products, on an H100 fifteen times too much."""
    multiply, types = torch.mm, set[torch.dtype]()
    monkeypatch.setattr(
        torch, "mm", lambda left, right: (types.update((left.dtype, right.dtype)), multiply(left, right))[1]
    )
    assert measured_peak_flops(torch.device("cpu"), bf16=bf16, seconds=0.0) > 0
    assert types == {type_}
