"""Whether a bundle may take another's place: margins, pairing, many small losses, and how often luck decides."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.embed.evaluations import evaluated, result_of, task_of
from xmae_dist.core.errors import InputError
from xmae_dist.evaluate.promotion import Judgement, Margins, evidence, judge

TASKS = [task_of(f"t{number}") for number in range(4)]


def judged(url: str, new: float, present: float, *, luck: int = 0, people: int = 60) -> Judgement:
    results = [
        result_of(name, task, signal=signal, luck=luck, people=people)
        for name, signal in (("new", new), ("present", present))
        for task in TASKS
    ]
    evaluated(url, *results)
    return judge(evidence(url, "new"), evidence(url, "present"), Margins())


def test_much_worse_is_refused_and_better_is_not(tmp_path: Path) -> None:
    worse = judged(f"file://{tmp_path}/a", 0.0, 2.0)
    assert all(one.paired and one.verdict == "worse" for one in worse.tasks) and "t0, t1, t2, t3" in worse.refusals()[0]
    better = judged(f"file://{tmp_path}/b", 2.0, 0.0)
    assert not better.refusals() and {one.verdict for one in better.tasks} == {"better"}


def test_few_people_do_not_hide_a_loss_on_every_task(tmp_path: Path) -> None:
    """Twelve people: on no task need the interval exclude zero, and still the mean over tasks says it."""
    told = judged(f"file://{tmp_path}/few", 0.0, 1.5, people=12)
    assert told.mean_in_margins.value < -1 and any("on the mean of 4 tasks" in one for one in told.refusals())


@pytest.mark.slow
def test_equals_are_seldom_refused_and_losses_seldom_missed(tmp_path: Path) -> None:
    """Bundles of equal worth on 60 people and 4 tasks, and ones that lose about 0.1 of AUROC on each."""
    equal = [bool(judged(f"file://{tmp_path}/e{n}", 1.0, 1.0, luck=n).refusals()) for n in range(12)]
    lost = [bool(judged(f"file://{tmp_path}/l{n}", 0.5, 1.2, luck=n).refusals()) for n in range(12)]
    assert sum(lost) == 12 and sum(equal) <= 3, (sum(equal), sum(lost))


def test_people_of_other_evaluations_are_not_paired(tmp_path: Path) -> None:
    here = evaluated(f"file://{tmp_path}/here", result_of("new", TASKS[0], signal=1.0))
    there = evaluated(f"file://{tmp_path}/there", result_of("present", TASKS[0], signal=1.0, name="other"))
    (one,) = judge(evidence(here, "new"), evidence(there, "present"), Margins()).tasks
    assert not one.paired and one.difference.low < 0 < one.difference.high
    both = evaluated(f"file://{tmp_path}/both", *(result_of(m, TASKS[0], signal=1.0) for m in ("new", "present")))
    (paired,) = judge(evidence(both, "new"), evidence(both, "present"), Margins()).tasks
    assert paired.paired and paired.difference.se < one.difference.se, "noise of the same people cancels"


def test_a_task_that_is_left_out_is_named(tmp_path: Path) -> None:
    url = evaluated(
        f"file://{tmp_path}/part",
        result_of("new", TASKS[0], signal=2.0),
        *(result_of("present", task, signal=1.0) for task in TASKS[:2]),
    )
    told = judge(evidence(url, "new"), evidence(url, "present"), Margins())
    assert told.missing == ("t1",) and told.refusals() == ["not evaluated on t1, which the present one was"]
    with pytest.raises(InputError, match=r"no result of bundle absent; .*new, present"):
        evidence(url, "absent")


def test_errors_have_a_margin_in_their_own_unit(tmp_path: Path) -> None:
    age = task_of("age", "regression")
    url = evaluated(f"file://{tmp_path}/age", *(result_of(m, age, signal=s) for m, s in (("new", 0.8), ("present", 1))))
    (one,) = judge(evidence(url, "new"), evidence(url, "present"), Margins(error_share=0.1)).tasks
    assert one.metric == "mae" and one.margin == pytest.approx(0.1 * one.present)
    assert one.difference.value == pytest.approx(one.present - one.new) and one.difference.value < 0
