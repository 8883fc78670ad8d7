"""The played fleet against what can be reckoned by hand."""

from __future__ import annotations

import pytest

from bench.spot import Change, Costs, Fleet, Policy, formula, goodput, play

COSTS = Costs(restart_s=30, save_s=2, upload_s=8, speed=float)
POLICY = Policy(interval_s=100, fewest=1, resize_check_s=60)


def up(*machines: int) -> list[Change]:
    return [Change(at_s=0.0, kind="up", machine=one) for one in machines]


def test_without_losses_only_the_start_and_the_saves_cost() -> None:
    found = play(up(0, 1), COSTS, POLICY, 30 + 10 * 100 + 50)
    assert found.work == pytest.approx(2 * (10 * 98 + 50)) and found.starts == 1
    assert found.training_s == pytest.approx(1050) and found.standing_s == pytest.approx(30)


def test_a_loss_goes_back_to_the_newest_complete_checkpoint() -> None:
    """Of the checkpoint at 130 s all is there at 140 s; of that at 230 s not yet all at 235 s."""
    late = play([*up(0, 1), Change(at_s=200, kind="gone", machine=0)], COSTS, POLICY, 201)
    assert late.work == pytest.approx(2 * 100) and late.lost == pytest.approx(2 * (200 - 30 - 2 - 100))
    early = play([*up(0, 1), Change(at_s=235, kind="gone", machine=0)], COSTS, POLICY, 236)
    assert early.work == pytest.approx(2 * 100)


def test_a_notice_loses_nothing_and_its_successor_costs_another_start() -> None:
    changes = [*up(0, 1), Change(at_s=200, kind="notice", machine=0), Change(at_s=500, kind="up", machine=2)]
    found = play(changes, COSTS, POLICY, 1000)
    assert found.lost == 0 and found.starts == 3


def test_a_machine_that_comes_during_a_start_waits_for_the_next_resize() -> None:
    changes = [*up(0), Change(at_s=10, kind="up", machine=1)]
    policy = Policy(interval_s=1e9, fewest=1, resize_check_s=60)
    found = play(changes, COSTS, policy, 30 + 60 + 40 + 100)  # a start, alone until it looks, save and start, together
    assert found.starts == 2 and found.work == pytest.approx(60 + 2 * 100)


def test_a_loss_without_notice_is_noticed_late_and_one_in_a_start_begins_it_anew() -> None:
    late = Costs(restart_s=30, detect_s=5, save_s=2, upload_s=8, speed=float)
    found = play([*up(0, 1), Change(at_s=50, kind="gone", machine=0)], late, POLICY, 50 + 5 + 30 + 10)
    assert found.work == pytest.approx(10) and found.starts == 2
    again = play([*up(0, 1), Change(at_s=20, kind="gone", machine=0)], late, POLICY, 20 + 5 + 30 + 10)
    assert again.work == pytest.approx(10) and again.starts == 1


def test_with_too_few_it_waits() -> None:
    policy = Policy(interval_s=100, fewest=2)
    found = play([*up(0, 1), Change(at_s=100, kind="gone", machine=0)], COSTS, policy, 1000)
    assert found.work == 0 and found.training_s == pytest.approx(70)


def test_the_formula_holds_while_losses_are_far_apart() -> None:
    fleet = Fleet(machines=8, loss_per_h=0.05, noticed=0.9, grace_s=110, boot_s=300)
    for interval_s in (120, 600):
        policy = Policy(interval_s=interval_s, fewest=2)
        assert goodput(fleet, COSTS, policy, 100) == pytest.approx(formula(fleet, COSTS, interval_s), abs=0.01)
