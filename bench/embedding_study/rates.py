"""What the page says of learning rates: how they were chosen, and whether the finding depends on them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.embedding_study import comparing, tables
from bench.embedding_study.arms import FIRST_RATE, RATES, TRAINED
from bench.embedding_study.comparing import ByArm, Difference
from bench.embedding_study.planning import Job, Planned
from bench.embedding_study.tables import Row


def tried(rows: Sequence[Row], budget: int) -> str:
    """Every rate's validation loss, a row each, of arms that were tried; empty if none was."""
    losses = {Job.of(row).key: row["val_loss"] for row in rows if row["kind"] == "rate"}
    lines = [
        "## Learning rates\n",
        "Rates are compared by the loss on validation people, with a quarter of the budget and the first seed: three,",
        "and larger ones until a larger one is worse. That is done with one arm of each objective and size, named",
        "here; the others, with auxiliary heads or another further term, use the rate chosen for it. Before that, arms",
        "are trained at a first rate. An arm is compared at the chosen rate when all its seeds are trained at it: the",
        "table of reconstruction and cost has both.\n",
        "| arm | learning rate | validation loss | |\n|---|---|---|---|",
    ]
    seed_of = {row["arm"]: row["seed"] for row in reversed(rows) if row["kind"] == "rate"}
    for family in [name for name in RATES if name in seed_of]:
        planned = Planned((family,), (seed_of[family],), budget)
        chosen = planned.chosen(family, losses)
        for lr in RATES[family]:
            loss = losses.get(planned.rate(family, lr).key)
            said = ["first"] * (lr == FIRST_RATE[family]) + ["chosen"] * (lr == chosen)
            lines.append(f"| `{family}` | {lr:g} | {'' if loss is None else f'{loss:.4g}'} | {', '.join(said)} |")
    return "\n".join(lines) if seed_of else ""


def differences(by_arm: ByArm, at_first: ByArm, open_tasks: Iterable[str]) -> list[Difference]:
    """Of each arm that moved against itself at the first rate, and of the leading arm there against all there."""
    counted = list(open_tasks)
    moved = [arm for arm in TRAINED if arm in at_first and by_arm[arm] != at_first[arm]]
    name_of = {arm: f"{arm} at {FIRST_RATE[TRAINED[arm].family]:g}" for arm in moved}
    compared = [((arm, name_of[arm]), (by_arm[arm], at_first[arm])) for arm in moved]
    for lead in [arm for arm in comparing.LEADS if arm in moved][:1]:
        others = [other for arm, other in comparing.pairs(at_first) if arm == lead]
        compared += [
            ((name_of[lead], name_of.get(other, other)), (at_first[lead], at_first[other])) for other in others
        ]
    return [one for names, scores in compared for one in comparing.between(names, scores, counted)]


def changed(found: Sequence[Difference]) -> str:
    """What `differences` found; empty if no arm moved."""
    lines = [
        "## What does the learning rate change?\n",
        "`ARM at RATE` is an arm at the first rate. First each arm at its chosen rate against itself at the first one,",
        "then the leading arm against the others, all at the first one.\n",
        tables.pairs(found),
    ]
    return "\n".join(lines) if found else ""
