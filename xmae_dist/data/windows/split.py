"""Subjects to train, val and test.

A subject's split is a hash of its name and the seed, so it does not move when the corpus grows, and no list
of subjects has to be kept. Lists override the hash, for held-out patients that others have agreed on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from xmae_dist.core.errors import ConfigError, InputError
from xmae_dist.core.ranges import check_numbers
from xmae_dist.core.seeds import uniform01

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """How subjects are divided among train, val and test: by a hash of the subject id, unless a list names them."""

    seed: int = 0
    """Seed of the hash; another seed gives another division."""
    fractions: tuple[float, float, float] = (0.9, 0.05, 0.05)
    """Expected shares of train, val and test among subjects that no list names."""
    train_subjects: tuple[str, ...] = ()
    """Subjects that are always in train."""
    val_subjects: tuple[str, ...] = ()
    """Subjects that are always in val."""
    test_subjects: tuple[str, ...] = ()
    """Subjects that are always in test."""

    def __post_init__(self) -> None:
        check_numbers(self, lambda path: f"split.{path[-1]}")
        if min(self.fractions) < 0 or abs(sum(self.fractions) - 1) > 1e-9:
            raise ConfigError(
                "split.fractions", value=self.fractions, expected="three shares of 0 or more that add up to 1"
            )
        _ = self.listed

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SplitConfig | None:
        """What JSON kept of a split; None where it kept none. Raises ConfigError for an unknown field."""
        if not values:
            return None
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ConfigError(
                "split",
                value=", ".join(unknown),
                expected="fields " + ", ".join(sorted(known)),
                fix="read it with the version of xmae_dist that wrote it",
            )
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**fields)

    @cached_property
    def listed(self) -> dict[str, str]:
        """Subject -> split of those named in a list; InputError where one is named in two."""
        lists = (self.train_subjects, self.val_subjects, self.test_subjects)
        return check_disjoint((subject, split) for split, names in zip(SPLITS, lists, strict=True) for subject in names)

    def of(self, subject_id: str) -> str:
        """The split of one subject."""
        listed = self.listed.get(subject_id)
        return listed or split_of(subject_id, self.seed, self.fractions)


def split_of(subject_id: str, seed: int, fractions: tuple[float, float, float] = (0.9, 0.05, 0.05)) -> str:
    """'train', 'val' or 'test' by a hash of subject and seed; the same for any corpus."""
    u = float(uniform01("split", seed, subject_id))
    if u < fractions[0]:
        return "train"
    return "val" if u < fractions[0] + fractions[1] else "test"


def check_disjoint(assignments: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return subject -> split; raise InputError for a subject in two splits, since every figure would be
    void.
    """
    seen: dict[str, str] = {}
    for subject, split in assignments:
        if seen.setdefault(subject, split) != split:
            raise InputError(
                f"subject {subject}",
                value=f"splits {seen[subject]} and {split}",
                expected="one split for each subject",
                fix="name the subject in one list only",
            )
    return seen
