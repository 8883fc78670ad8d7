"""What a spot fleet does to a run: goodput, and the best interval between checkpoints, by playing the fleet.

    python bench/spot.py [--loss-per-h 0.05] [--noticed 0.9] [--grace-s 110] [--boot-s 300] [--restart-s 30]
                         [--detect-s 5] [--save-s 1] [--upload-s 20] [--hours 500] [--story FILE]

Machines come and go; the run answers as `xmae pretrain` does (docs/operations.md): it saves every interval, saves and
leaves after a notice where that fits into the grace, goes back to the newest complete checkpoint after a loss without
one, goes on with what there is down to --train.min-workers, and is resized when machines have come. A group is chosen
when it starts: a machine that comes meanwhile waits for the next resize, which is one more restart. Speed grows with
the number of cards. Rates of losses and boot times are the cloud's and assumed here; what a restart, a save and an
upload take is told by the run itself (docs/training.md). `--story` replays what `cluster/timeline.py --json` recorded
and compares the steps that come out with those that the real run made.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import math
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Seconds, but for `speed`."""

    restart_s: float
    """From a group that is gone to its successor's first step."""
    detect_s: float = 0.0
    """From a loss without notice until the group is gone."""
    save_s: float
    """For which training stands still."""
    upload_s: float
    """From then until the checkpoint is complete."""
    speed: Callable[[int], float]
    """Of so many machines, in units of work a second."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """The run's own."""

    interval_s: float
    fewest: int
    resize_check_s: float = 60.0


@dataclass(frozen=True, kw_only=True)
class Change:
    """A machine that is up, gets notice, or is gone."""

    at_s: float
    kind: str
    machine: int


@dataclass(kw_only=True)
class Outcome:
    """Work that stands and work that was lost, in the units of `Costs.speed`; seconds with and without a group."""

    work: float = 0.0
    lost: float = 0.0
    training_s: float = 0.0
    standing_s: float = 0.0
    starts: int = 0


class _Run:
    """The run between two changes: it trains with a group, or stands until `_ready_s`."""

    def __init__(self, costs: Costs, policy: Policy) -> None:
        self._costs, self._policy = costs, policy
        self._now_s, self.outcome = 0.0, Outcome()
        self._there: set[int] = set()
        self._group: set[int] = set()
        self._starting: set[int] = set()
        """The next group, until `_ready_s`; chosen at `_chosen_s`."""
        self._chosen_s = math.inf
        self._ready_s = math.inf
        self._still_until_s = 0.0
        self._saved = self._kept = 0.0
        self._save_s = self._complete_s = self._resize_s = math.inf

    def until(self, end_s: float) -> None:
        """Goes on to a time, saving, starting and resizing on the way."""
        while (next_s := min(self._ready_s, self._save_s, self._complete_s, self._resize_s)) < end_s:
            self._pass_to(next_s)
            if next_s == self._complete_s:
                self._kept, self._complete_s = self._saved, math.inf
            elif next_s == self._ready_s:
                self._begin()
            elif next_s == self._save_s:
                self._save()
            else:
                self._consider()
        self._pass_to(end_s)

    def change(self, change: Change) -> None:
        if change.kind == "up":
            self._there.add(change.machine)
            if self._starting and self._chosen_s == self._now_s:
                self._starting.add(change.machine)
            elif not self._group and not self._starting:
                self._start(self._away_s(noticed=True))
            return
        self._there.discard(change.machine)
        if change.machine in self._group:
            self._leave(saved=change.kind == "notice")
        elif change.machine in self._starting:
            self._start(self._away_s(noticed=change.kind == "notice"))

    def _pass_to(self, next_s: float) -> None:
        seconds = next_s - self._now_s
        if self._group:
            working_s = max(0.0, next_s - max(self._now_s, self._still_until_s))
            self.outcome.work += working_s * self._costs.speed(len(self._group))
            self.outcome.training_s += seconds
        else:
            self.outcome.standing_s += seconds
        self._now_s = next_s

    def _away_s(self, *, noticed: bool) -> float:
        """From the news to the next group's first step, saves left out."""
        return self._costs.restart_s + (0.0 if noticed else self._costs.detect_s)

    def _start(self, after_s: float) -> None:
        self._group = set()
        self._save_s = self._complete_s = self._resize_s = math.inf
        enough = len(self._there) >= self._policy.fewest
        self._starting, self._chosen_s = (set(self._there) if enough else set()), self._now_s
        self._ready_s = self._now_s + after_s if enough else math.inf

    def _begin(self) -> None:
        self._ready_s, self._group, self._starting = math.inf, self._starting, set()
        self.outcome.starts += 1
        self._save_s = self._now_s + self._policy.interval_s
        self._resize_s = self._now_s + self._policy.resize_check_s

    def _save(self) -> None:
        self._saved = self.outcome.work
        self._still_until_s = self._now_s + self._costs.save_s
        self._complete_s = self._still_until_s + self._costs.upload_s
        self._save_s = self._now_s + self._policy.interval_s

    def _consider(self) -> None:
        self._resize_s = self._now_s + self._policy.resize_check_s
        if self._there > self._group:
            self._leave(saved=True)

    def _leave(self, *, saved: bool) -> None:
        if saved:
            self._kept = self.outcome.work
            self._start(self._costs.save_s + self._costs.upload_s + self._away_s(noticed=True))
            return
        self.outcome.lost += self.outcome.work - self._kept
        self.outcome.work = self._kept
        self._start(self._away_s(noticed=False))


def play(changes: Iterable[Change], costs: Costs, policy: Policy, end_s: float) -> Outcome:
    """What the run comes to with these changes, in their order, until `end_s`."""
    run = _Run(costs, policy)
    for change in changes:
        if change.at_s >= end_s:
            break
        run.until(change.at_s)
        run.change(change)
    run.until(end_s)
    return run.outcome


# -- a fleet ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """Machines that are wanted, how they are lost, and how soon another comes."""

    machines: int
    loss_per_h: float
    """Of one machine."""
    noticed: float
    """Share of losses that a notice comes before."""
    grace_s: float
    boot_s: float
    """From a loss to the next machine's readiness, on average; exponential beyond the first third."""

    def changes(self, seed: int, end_s: float, needed_s: float) -> Iterator[Change]:
        """Until `end_s`. A notice counts where `needed_s`, what a save takes, fits into its grace."""
        random_numbers = random.Random(seed)
        heap = [Change(at_s=0.0, kind="up", machine=number) for number in range(self.machines)]
        order = itertools.count()
        queue = [(one.at_s, next(order), one) for one in heap]
        heapq.heapify(queue)
        numbers = itertools.count(self.machines)
        useful = self.noticed if needed_s <= self.grace_s else 0.0
        while queue and queue[0][0] < end_s:
            at_s, _, change = heapq.heappop(queue)
            yield change
            if change.kind != "up":
                boot_s = self.boot_s * (1 + 2 * random_numbers.expovariate(1.0)) / 3
                follower = Change(at_s=at_s + boot_s, kind="up", machine=next(numbers))
            elif self.loss_per_h:
                lost_s = at_s + random_numbers.expovariate(self.loss_per_h / 3600)
                kind = "notice" if random_numbers.random() < useful else "gone"
                follower = Change(at_s=lost_s, kind=kind, machine=change.machine)
            else:
                continue
            heapq.heappush(queue, (follower.at_s, next(order), follower))


def goodput(fleet: Fleet, costs: Costs, policy: Policy, hours: float, seeds: int = 4) -> float:
    """Work kept, as a share of what all machines would do without losses and saves; the mean of several fleets."""
    end_s, needed_s = hours * 3600, costs.save_s + costs.upload_s
    shares = [
        play(fleet.changes(seed, end_s, needed_s), costs, policy, end_s).work / (costs.speed(fleet.machines) * end_s)
        for seed in range(seeds)
    ]
    return sum(shares) / seeds


def formula(fleet: Fleet, costs: Costs, interval_s: float) -> float:
    """That of docs/operations.md, for losses far enough apart: a loss costs a restart, another when its successor
    comes, a save before each that is foreseen, and the successor's boot time of one machine."""
    loss_per_s = fleet.machines * fleet.loss_per_h / 3600
    leave_s = costs.save_s + costs.upload_s
    useful = fleet.noticed if leave_s <= fleet.grace_s else 0.0
    back_s = (1 - useful) * (interval_s / 2 + leave_s) + useful * leave_s
    away_s = 2 * costs.restart_s + leave_s + fleet.boot_s / fleet.machines
    return 1 - loss_per_s * (back_s + away_s) - costs.save_s / interval_s


# -- a run that was ------------------------------------------------------------------------------------------------


def replay(story: dict[str, Any]) -> tuple[float, float]:
    """(steps that come out, steps that the real run made) of what `cluster/timeline.py --json` wrote."""
    speeds = {int(world): float(speed) for world, speed in story["steps_per_s"].items()}
    costs = Costs(
        restart_s=story["restart_s"],
        detect_s=story["detect_s"],
        save_s=0.0,  # in what a restart takes
        upload_s=0.0,
        speed=lambda machines: speeds[min(speeds, key=lambda known: abs(known - machines))],
    )
    policy = Policy(
        interval_s=story["checkpoint_steps"] / max(speeds.values()), fewest=1, resize_check_s=story["resize_check_s"]
    )
    outcome = play((Change(**one) for one in story["changes"]), costs, policy, story["end_s"])
    return outcome.work, float(story["steps"])


# -- table -----------------------------------------------------------------------------------------------------------


def _policy(interval_s: float, cards: int, resize_check_s: float) -> Policy:
    return Policy(interval_s=interval_s, fewest=max(1, cards // 4), resize_check_s=resize_check_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loss-per-h", type=float, default=0.05, help="losses of one machine an hour (assumed)")
    parser.add_argument("--noticed", type=float, default=0.9, help="share of losses with a notice (assumed)")
    parser.add_argument("--grace-s", type=float, default=110)
    parser.add_argument("--boot-s", type=float, default=300, help="from a loss to the next machine (assumed)")
    parser.add_argument("--restart-s", type=float, default=30)
    parser.add_argument("--detect-s", type=float, default=5, help="until a loss without notice is noticed")
    parser.add_argument("--save-s", type=float, default=1)
    parser.add_argument("--upload-s", type=float, default=20)
    parser.add_argument("--resize-check-s", type=float, default=60, help="--train.resize-check-s of the run")
    parser.add_argument("--hours", type=float, default=100)
    parser.add_argument("--story", type=Path)
    args = parser.parse_args()
    if args.story:
        expected, made = replay(json.loads(args.story.read_text()))
        print(f"steps: played {expected:.0f}, real {made:.0f}, error {expected / made - 1:+.1%}")
        return
    costs = Costs(
        restart_s=args.restart_s,
        detect_s=args.detect_s,
        save_s=args.save_s,
        upload_s=args.upload_s,
        speed=lambda machines: float(machines),
    )
    intervals = (60, 120, 300, 600, 1200, 2400)
    print("goodput (formula) with checkpoints every … s; machines of one card")
    print("cards  " + "".join(f"{interval:>16}" for interval in intervals) + "   best by formula")
    for cards in (8, 64, 256):
        fleet = Fleet(
            machines=cards,
            loss_per_h=args.loss_per_h,
            noticed=args.noticed,
            grace_s=args.grace_s,
            boot_s=args.boot_s,
        )
        row = [
            f"{goodput(fleet, costs, _policy(one, cards, args.resize_check_s), args.hours):.3f} "
            f"({formula(fleet, costs, one):.3f})"
            for one in intervals
        ]
        unnoticed_per_s = cards * args.loss_per_h * (1 - args.noticed) / 3600
        best_s = max(math.sqrt(2 * args.save_s / unnoticed_per_s), args.save_s + args.upload_s)
        print(f"{cards:5}  " + "".join(f"{cell:>16}" for cell in row) + f"{best_s:12.0f} s")


if __name__ == "__main__":
    main()
