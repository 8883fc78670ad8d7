"""Schedules are functions of windows seen."""

from __future__ import annotations

import itertools

import pytest

from xmae_dist.core.errors import ConfigError
from xmae_dist.train.step.schedule import ScheduleConfig, learning_rate, mask_ratio

CONFIG = ScheduleConfig(peak_lr=1e-3, final_lr_fraction=0.1, warmup_fraction=0.1)


def test_learning_rate_rises_peaks_and_falls_to_its_floor() -> None:
    rates = [learning_rate(CONFIG, seen, 1000) for seen in range(1, 1001)]
    assert rates[0] == pytest.approx(1e-5)
    assert max(rates) == rates[99] == pytest.approx(1e-3)
    assert rates[-1] == pytest.approx(1e-4)
    assert all(a <= b for a, b in itertools.pairwise(rates[:100]))
    assert all(a >= b for a, b in itertools.pairwise(rates[99:]))


def test_a_resize_changes_nothing() -> None:
    # 10 steps of 100 windows meet the same rates as 100 steps of 10, at the same numbers of windows.
    assert [learning_rate(CONFIG, 100 * k, 1000) for k in range(11)] == [
        learning_rate(CONFIG, 10 * k, 1000) for k in range(0, 101, 10)
    ]


def test_rates_past_the_end_stay_at_the_floor() -> None:
    assert learning_rate(CONFIG, 5000, 1000) == pytest.approx(1e-4)


def test_mask_ratio_moves_between_its_ends_or_stays_the_models() -> None:
    assert mask_ratio(ScheduleConfig(), 0.8, 500, 1000) == 0.8
    moving = ScheduleConfig(mask_ratio_start=0.5, mask_ratio_end=0.9)
    assert mask_ratio(moving, 0.8, 0, 1000) == 0.5
    assert mask_ratio(moving, 0.8, 500, 1000) == pytest.approx(0.7)
    assert mask_ratio(moving, 0.8, 2000, 1000) == pytest.approx(0.9)


@pytest.mark.parametrize(
    "wrong", [{"warmup_fraction": 1.5}, {"peak_lr": 0.0}, {"peak_lr": float("nan")}, {"mask_ratio_end": 1.0}]
)
def test_impossible_schedules_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        ScheduleConfig(**wrong)
