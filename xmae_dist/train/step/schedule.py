"""Learning rate and mask ratio as pure functions of windows seen, so that a resize or a restart changes nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass

from xmae_dist.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Warm-up, then a half cosine; the mask ratio moves linearly between its ends."""

    peak_lr: float = 1e-3
    """Learning rate at the end of the warm-up. To begin with: tiny 2e-3; paper and the controls 1e-3 (2e-3 is too
    high); base 6e-4; large and published 3e-4; huge 1.5e-4 (`xmae_dist.model.presets.PEAK_LR`)."""
    final_lr_fraction: float = 0.01
    """Learning rate at the last step, as a share of the peak."""
    warmup_fraction: float = 0.05
    """Share of the run during which the rate rises linearly from 0."""
    mask_ratio_start: float | None = None
    """Mask ratio at the first step. None: the model's own, constant."""
    mask_ratio_end: float | None = None
    """Mask ratio at the last step. None: the same as at the first."""

    def __post_init__(self) -> None:
        for name in ("final_lr_fraction", "warmup_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"schedule.{name}", value=getattr(self, name), expected="0 to 1")
        for name in ("mask_ratio_start", "mask_ratio_end"):
            ratio = getattr(self, name)
            if ratio is not None and not 0 < ratio < 1:
                raise ConfigError(f"schedule.{name}", value=ratio, expected="above 0 and below 1")
        if not (math.isfinite(self.peak_lr) and self.peak_lr > 0):
            raise ConfigError("schedule.peak_lr", value=self.peak_lr, expected="a number above 0")


def learning_rate(config: ScheduleConfig, windows_seen: int, total_windows: int) -> float:
    """The rate of the step that ends at `windows_seen` (so the very first step does not waste a batch on 0)."""
    warmup = config.warmup_fraction * total_windows
    if windows_seen < warmup:
        return config.peak_lr * windows_seen / warmup
    done = min((windows_seen - warmup) / max(total_windows - warmup, 1.0), 1.0)
    floor = config.final_lr_fraction
    return config.peak_lr * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done)))


def mask_ratio(config: ScheduleConfig, model_ratio: float, windows_seen: int, total_windows: int) -> float:
    """The share of patches masked in the step that ends at `windows_seen`."""
    start = model_ratio if config.mask_ratio_start is None else config.mask_ratio_start
    end = start if config.mask_ratio_end is None else config.mask_ratio_end
    return start + (end - start) * min(windows_seen / max(total_windows, 1), 1.0)
