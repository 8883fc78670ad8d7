"""In which order rows are made, so that those that are there at any time compare, and which rates are compared.

First what needs no training. Then every arm at its objective's first learning rate, a seed of all arms after another:
a table of one seed is whole before the second seed begins. Then all rates, for a quarter of the budget, and where
another one has the least validation loss, the arms at that rate. Larger models come last, in the same order.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.embedding_study.arms import (
    ATTENTIVE,
    FIRST_RATE,
    LARGER,
    NAMES,
    PAPER_SIZE,
    RATES,
    SEEDLESS,
    TOGETHER,
    TRAINED,
    UNTRAINED,
)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One row. `windows` is 0 for what is not trained."""

    kind: str
    """rate, or arm."""
    arm: str
    seed: int
    windows: int
    lr: float

    @property
    def key(self) -> str:
        return "-".join(str(value) for value in asdict(self).values()).replace(" ", "")

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Job:
        """The job that a row is of."""
        return cls(**{name: row[name] for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class Planned:
    """The rows of some arms and seeds at a budget. `losses` below are validation losses by the key of a rate's job."""

    arms: Sequence[str]
    seeds: Sequence[int]
    budget: int
    tried: bool = True
    """Whether other learning rates than the first ones are tried."""

    def jobs(self, losses: Mapping[str, float]) -> list[Job]:
        """In order; arms at the chosen rates come once `losses` has all of an objective."""
        return list(dict.fromkeys(self._in_order(losses)))

    def _in_order(self, losses: Mapping[str, float]) -> Iterator[Job]:
        yield from (self._untrained(name, self.seeds[0]) for name in self._small(UNTRAINED))
        for seed in self.seeds:
            yield from self._of_seed(seed, FIRST_RATE)
        if self.tried:
            small = self._small(TRAINED)
            yield from self._rates(small)
            for seed in self.seeds:
                yield from self._of_seed(seed, self._chosen(small, losses))
        for seed in self.seeds:
            yield from (self._arm(name, seed, self._first_rate(name)) for name in self._wanted(LARGER))
        if self.tried:
            large = self._wanted(PAPER_SIZE)
            yield from self._rates(large)
            chosen = self._chosen(large, losses)
            for seed in self.seeds:
                there = [name for name in large if TRAINED[name].family in chosen]
                yield from (self._arm(name, seed, chosen[TRAINED[name].family]) for name in there)

    def rate(self, family: str, lr: float) -> Job:
        return Job(kind="rate", arm=family, seed=self.seeds[0], windows=self.budget // 4, lr=lr)

    def chosen(self, family: str, losses: Mapping[str, float]) -> float | None:
        """The rate with the least validation loss; None until all are known."""
        known = {lr: losses[key] for lr in RATES[family] if (key := self.rate(family, lr).key) in losses}
        return min(known, key=known.__getitem__) if len(known) == len(RATES[family]) else None

    def compared(self, arm: str, done: Collection[str], losses: Mapping[str, float]) -> list[Job]:
        """The finished jobs that speak for an arm: at the chosen rate once it has as many seeds there as at the first.

        `done` are keys of finished jobs.
        """
        name = {**TOGETHER, **ATTENTIVE}.get(arm, arm)
        rates: tuple[float | None, ...] = (self._first_rate(name),)
        if self.tried and name in TRAINED:
            rates = (*rates, self.chosen(TRAINED[name].family, losses))
        best: list[Job] = []
        for lr in rates:
            jobs = [] if lr is None else [self._arm(arm, seed, lr) for seed in self.seeds]
            there = [job for job in jobs if job.key in done]
            best = there if len(there) >= len(best) else best
        return best

    def _of_seed(self, seed: int, rate_of: Mapping[str, float]) -> Iterator[Job]:
        """Every trained arm whose objective has a rate, what is put together with it, and what else a seed changes."""
        for name in self._small(TRAINED):
            if (lr := rate_of.get(TRAINED[name].family)) is not None:
                yield self._arm(name, seed, lr)
                yield from (self._arm(both, seed, lr) for both in self._wanted(TOGETHER) if TOGETHER[both] == name)
        for name in self._small((*UNTRAINED, *TOGETHER)):
            if name not in SEEDLESS and TOGETHER.get(name) not in TRAINED:
                yield self._untrained(name, seed)
        for name in self._wanted(ATTENTIVE) if seed == self.seeds[0] else ():
            alone = ATTENTIVE[name]
            if alone not in TRAINED:
                yield self._untrained(name, seed)
            elif (lr := rate_of.get(TRAINED[alone].family)) is not None:
                yield self._arm(name, seed, lr)

    def _first_rate(self, name: str) -> float:
        return FIRST_RATE[TRAINED[name].family] if name in TRAINED else 0.0

    def _arm(self, name: str, seed: int, lr: float) -> Job:
        return Job(kind="arm", arm=name, seed=seed, windows=self.budget if lr else 0, lr=lr)

    def _untrained(self, name: str, seed: int) -> Job:
        return self._arm(name, seed, 0.0)

    def _wanted(self, names: Collection[str]) -> list[str]:
        return [name for name in NAMES if name in names and name in self.arms]

    def _small(self, names: Collection[str]) -> list[str]:
        return [name for name in self._wanted(names) if name not in LARGER]

    def _rates(self, names: Iterable[str]) -> Iterator[Job]:
        return (self.rate(family, lr) for family in _families(names) for lr in RATES[family])

    def _chosen(self, names: Iterable[str], losses: Mapping[str, float]) -> dict[str, float]:
        return {family: lr for family in _families(names) if (lr := self.chosen(family, losses)) is not None}


def _families(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(TRAINED[name].family for name in names))
