"""A device against itself raises an alarm once in twenty; a device that moves people is told from it."""

from __future__ import annotations

import numpy as np
import pytest

from tests.embed.devices import sample_of_device
from xmae_dist.core.seeds import generator
from xmae_dist.embed.drift import compare, mmd_squared, person_means, two_sample_aucs
from xmae_dist.embed.sample import Sample, apart


def split(number: int, **moved: float) -> tuple[Sample, Sample]:
    """Twenty new people, and forty others of one device; `moved`: how the new ones differ."""
    return sample_of_device(f"new{number}", 20, **moved), sample_of_device(f"known{number}", 40)


def alarms(splits: int, **moved: float) -> float:
    found = [compare(*split(number, **moved)) for number in range(splits)]
    return float(np.mean([one is not None and one.differs for one in found]))


def test_false_alarms_and_power() -> None:
    """More splits: `python -m bench.drift`."""
    assert alarms(60) <= 8 / 60
    assert alarms(10, shift=3.0) == 1.0 and alarms(10, spread=2.5) >= 0.7


@pytest.mark.slow
def test_two_hundred_splits_of_a_device_against_itself() -> None:
    assert 0.03 <= alarms(200) <= 0.07


def test_windows_of_a_person_are_not_people() -> None:
    """A hundred windows of each of nine people are nine people: what only looks like evidence raises no p-value."""
    few = [
        compare(sample_of_device(f"n{i}", 9, windows=100), sample_of_device(f"k{i}", 18, windows=100)) for i in range(6)
    ]
    assert np.mean([one is not None and one.p_value < 0.05 for one in few]) <= 2 / 6
    assert compare(sample_of_device("n", 7), sample_of_device("k", 40)) is None
    assert compare(sample_of_device("n", 40), sample_of_device("k", 15)) is None


def test_a_person_of_both_is_on_one_side() -> None:
    a = sample_of_device("all", 30)
    b = a.of_people(np.arange(10, 30))
    left, right = apart(a, b)
    assert not set(left.subject_P) & set(right.subject_P)
    assert set(left.subject_P) | set(right.subject_P) == set(a.subject_P) and len(right.subject_P) > 3
    assert np.array_equal(
        left.embedding_NE[left.person_N == 3][0], a.embedding_NE[a.subject_P[a.person_N] == left.subject_P[3]][0]
    )


def test_aucs_are_those_of_one_labelling_at_a_time() -> None:
    """All labellings at once are what each gives alone: the first column does not hang on the others."""
    samples = split(0, shift=1.0)
    assert two_sample_aucs(samples, generator("a"))[0] == pytest.approx(two_sample_aucs(samples, generator("a"))[0])
    null_D = two_sample_aucs(split(1), generator("b"))[1:]
    assert abs(null_D.mean() - 0.5) < 0.03 and 0.03 < null_D.std() < 0.15


def test_mmd_is_that_of_pairs_of_windows_of_different_people() -> None:
    a, b = split(2, shift=2.0)
    found = mmd_squared(a, b, generator("mmd"))
    assert found.low > 0 and found.low < found.value < found.high
    same = mmd_squared(*split(3), generator("mmd"))
    assert same.low < 0.01 and same.value < found.value / 3


def test_means_of_people() -> None:
    means = person_means(np.array([[1.0], [3.0], [10.0]]), np.array([1, 1, 0]))
    assert means.tolist() == [[10.0], [2.0]]
