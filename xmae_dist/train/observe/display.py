"""What the driver shows of a run: a live line on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time

from xmae_dist.core.progress import Progress
from xmae_dist.train.observe.metrics import Row

_EVENTS = {
    "start": "started at step {step} with {world} workers after {spent}",
    "checkpoint": "checkpoint at step {step}: {megabytes:.1f} MB",
    "checkpoint_missed": "checkpoint at step {step} MISSED: {why}",
    "checkpoint_again": "the store refuses the last checkpoint; it is tried again for {patience_s:.0f} s",
    "checkpoint_passed_over": "checkpoint passed over: {url}: {why}",
    "hung": "HUNG, the workers are restarted: {why}",
    "metrics_lost": "NOT STORED: {what}: {why}",
    "retention_failed": "old checkpoints not removed: {why}",
    "tracker_failed": "no more metrics to a tracker, training goes on: {why}",
    "step_skipped": "step {step} skipped on all workers: gradient norm {grad_norm}",
    "validation": "validation at step {step}: masked error own {own:.4f}, other {other:.4f}, none {none:.4f}, "
    "mean {mean:.4f}",
}
_LINE_EVERY_S = 5.0
_TELLING_STEPS = 5
"""Steps of a group of workers from which on the time left is told."""
_WAITING = 0.05
"""Share of the time spent waiting for data above which it is worth a word where there is little room."""


class Display:
    """Takes rows as they come; `close` ends the live line."""

    def __init__(self, total_steps: int) -> None:
        self._total = total_steps
        self._progress: Progress | None = None
        self._shown = 0
        self._smooth: dict[str, float] = {}
        self._steps_of_group = 0
        self._other_over_own: float | None = None
        self._last_line_s = 0.0
        self._live = sys.stderr.isatty()

    def show(self, row: Row) -> None:
        """Shows a step in its turn, and anything else at once."""
        if row["kind"] == "step":
            self._step(row)
            return
        if row["kind"] == "start":
            self._steps_of_group = 0
        if row["kind"] == "validation":
            self._other_over_own = row["other"] / row["own"]
        if row["kind"] in _EVENTS:
            times = [name for name in row if name.endswith("_s") and name != "time_s"]
            spent = ", ".join(f"{name[:-2]} {row[name]:.1f} s" for name in times)
            told = {**row, "megabytes": row.get("bytes", 0) / 1e6, "spent": spent}
            self._say(_EVENTS[row["kind"]].format(**told))

    def close(self) -> None:
        if self._progress is not None:
            self._progress.close()
            self._progress = None

    def _step(self, row: Row) -> None:
        self._steps_of_group += 1
        if self._steps_of_group <= 2:
            # Nothing is known of this group's speed before its first step, and that one says little: it warms up.
            self._smooth = {}
        for name in ("windows_per_s", "data_stall", "peak_share"):
            if name in row:
                value = float(row[name])
                self._smooth[name] = 0.9 * self._smooth.get(name, value) + 0.1 * value
        if self._live:
            if self._progress is None:
                self._progress = Progress("pretrain", self._total, "steps")
                self._progress.advance(row["step"] - 1)
                self._shown = row["step"] - 1
            self._progress.advance(row["step"] - self._shown, self._note(row, terse=True))
            self._shown = row["step"]
        elif time.monotonic() - self._last_line_s > _LINE_EVERY_S or row["step"] >= self._total:
            self._last_line_s = time.monotonic()
            self._say(f"step {row['step']}/{self._total}  {self._note(row)}{self._left(row)}")

    def _left(self, row: Row) -> str:
        """Time to the last step, once a few steps have shown the speed."""
        if self._steps_of_group < _TELLING_STEPS:
            return ""
        per_step = row["windows_seen"] / row["step"]
        left_s = (self._total - row["step"]) * per_step / max(self._smooth["windows_per_s"], 1e-9)
        return f"  {_duration(left_s)} left"

    def _note(self, row: Row, *, terse: bool = False) -> str:
        """Loss, speed, how much worse another subject's source is than the own, waits for data, use of the device."""
        parts = [f"loss {row['loss']:.4f}", f"{self._smooth['windows_per_s']:.0f} windows/s"]
        if self._other_over_own is not None:
            parts.append(f"other/own {self._other_over_own:.2f}")
        if not terse or self._smooth["data_stall"] > _WAITING:
            parts.append(f"waits for data {self._smooth['data_stall']:.0%}")
        if not terse:
            parts.append(f"lr {row['lr']:.1e}")
            if "peak_share" in self._smooth:
                parts.append(f"{self._smooth['peak_share']:.0%} of peak")
        return "  ".join(parts)

    def _say(self, line: str) -> None:
        line = f"pretrain: {line}"
        if self._progress is not None:
            self._progress.say(line)
        else:
            print(line, file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
