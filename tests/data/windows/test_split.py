from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xmae_dist.core.errors import ConfigError, InputError
from xmae_dist.data.windows.split import SplitConfig, check_disjoint, split_of


def test_shares_are_as_asked_and_depend_on_the_seed() -> None:
    names = [f"subject-{i}" for i in range(4000)]
    counts = Counter(split_of(name, 0) for name in names)
    assert 3500 < counts["train"] < 3700
    assert 140 < counts["val"] < 260
    assert 140 < counts["test"] < 260
    assert [split_of(name, 0) for name in names] != [split_of(name, 1) for name in names]


@given(st.text(max_size=20), st.integers(0, 2**31))
def test_a_subject_keeps_its_split_whoever_else_is_there(subject: str, seed: int) -> None:
    assert split_of(subject, seed) == SplitConfig(seed=seed).of(subject)


def test_known_subjects_keep_their_split_in_later_versions() -> None:
    # Changing the hash would move people from train to test between versions.
    assert [split_of(f"s{i}", 0, (0.5, 0.25, 0.25)) for i in range(8)] == [
        "train",
        "val",
        "test",
        "train",
        "train",
        "train",
        "val",
        "train",
    ]


def test_lists_win_over_the_hash() -> None:
    config = SplitConfig(fractions=(1.0, 0.0, 0.0), test_subjects=("a", "b"))
    assert [config.of(name) for name in "abc"] == ["test", "test", "train"]


def test_a_subject_in_two_splits_is_an_error() -> None:
    with pytest.raises(InputError, match="subject a: got splits train and test"):
        SplitConfig(train_subjects=("a",), test_subjects=("a",))
    with pytest.raises(InputError, match="b"):
        check_disjoint([("a", "train"), ("b", "val"), ("a", "train"), ("b", "test")])


@pytest.mark.parametrize("fractions", [(0.5, 0.5, 0.5), (1.2, -0.2, 0.0)])
def test_shares_must_add_up(fractions: tuple[float, float, float]) -> None:
    with pytest.raises(ConfigError, match="fractions"):
        SplitConfig(fractions=fractions)
