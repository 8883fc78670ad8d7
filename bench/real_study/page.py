"""The page on real people, written from rows and results: the finding first, and what so few people cannot show."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.embedding_study import comparing, tables
from bench.embedding_study.arms import TRAINED, UNTRAINED
from bench.embedding_study.comparing import ByArm, Difference
from bench.embedding_study.planning import Job
from bench.embedding_study.score import Score, difference
from bench.embedding_study.tables import Row
from bench.real_study.pairs import PRESSURE, WRIST
from bench.real_study.tasks import PATIENTS, PHONES
from xmae_dist.evaluate.scores.bootstrap import Interval
from xmae_dist.evaluate.scores.metrics import METRICS
from xmae_dist.evaluate.tasks import Task

_PAIRS = {
    "ecg_from_ppg": "the ECG from the finger's PPG, patients of the Challenge 2015",
    PRESSURE.name: PRESSURE.about,
    WRIST.name: WRIST.about,
}


@dataclass(frozen=True)
class Told:
    """The rows that a page is of."""

    arms: Sequence[Row]
    beside: Sequence[Row]
    """Of pairs of signals, and of phones."""
    compared: Collection[str]
    budget: int

    @property
    def trained(self) -> list[Row]:
        return [row for row in self.arms if row["windows"] == self.budget and row["arm"] in TRAINED]


def write(path: Path, told: Told, by_arm: ByArm, on_phones: Sequence[Score]) -> None:
    """The page at `path`."""
    everything = [task.name for task in PATIENTS.suite.tasks]
    found = comparing.differences(by_arm, everything)
    parts = [
        _HEAD,
        _finding(found, told, by_arm, on_phones),
        _pairs(told),
        tables.tally(found),
        _scores(by_arm),
        tables.errors(told.trained),
        _curves(told),
        _phones(told, on_phones),
        _method(told),
    ]
    path.write_text("\n\n".join(part for part in parts if part) + "\n")


_HEAD = """# What encoders know of real people

Written by `python -m bench.real_study --data FOLDER` from `bench/results/real-study.jsonl` (a row for each arm, seed,
pair of signals and phone), the files in `bench/results/real-study` (scores under draws of
people)."""


def _finding(found: Sequence[Difference], told: Told, by_arm: ByArm, on_phones: Sequence[Score]) -> str:
    """Of the leading arm; the rest is in the tables."""
    pairs = [row for row in told.beside if row["kind"] == "pair" and row["what"] == "ecg_from_ppg"]
    lines = [
        f"- `{row['arm']}`, seed {row['seed']}: masked ECG error with the own PPG {_percent(row['below_other'])} below "
        f"that with another's ({row['people']} held-out patients)."
        for row in pairs
    ]
    leading = [lead for lead in comparing.LEADS if lead in by_arm][:1]
    for arm, other in dict.fromkeys((one.arm, one.other) for one in found if one.arm.split(" + ")[-1] in leading):
        of_pair = [one for one in found if (one.arm, one.other) == (arm, other)]
        seeds = f"{of_pair[0].seeds} seed{'s' * (of_pair[0].seeds > 1)}"
        lines.append(f"- `{arm}` against `{other}`, {seeds}: {tables.counted(of_pair)}.")
    if bare := _as_without_input(by_arm):
        lines.append(
            f"- On {len(bare)} of {len(by_arm['constant'])} tasks no arm, features included, is shown to be better "
            f"than no input at all (`constant`): {', '.join(bare)}."
        )
    lines += [
        f"- {one.phone}, {one.task.title}: `{one.arm}` is {_told(one.against)} features ({_bounds(one.against)} "
        f"{one.task.label_unit}; positive: a smaller error)."
        for one in _on_phones(told, on_phones)
        if one.arm in comparing.LEADS and one.against is not None
    ]
    return "\n".join([f"**After {told.budget:,} windows:**", *lines]) if lines else "**No finding yet.**"


def _as_without_input(by_arm: ByArm) -> list[str]:
    """Tasks on which no arm is shown to be better than chance."""
    chance = by_arm.get("constant", {})
    arms = [by_arm[name] for name in tables.shown(by_arm)]
    return [
        task
        for task, group in chance.items()
        if not any(task in arm and difference(arm[task], group).low > 0 for arm in arms)
    ]


def _told(found: Interval) -> str:
    return {1: "better than", -1: "worse than"}.get((found.low > 0) - (found.high < 0), "not told apart from")


def _percent(below: dict[str, float]) -> str:
    value, low, high = (100 * below[name] for name in ("value", "low", "high"))
    return f"{value:.0f} % [{low:.0f}, {high:.0f}]"


def _pairs(told: Told) -> str:
    rows = [row for row in told.beside if row["kind"] == "pair"]
    lines = [
        "## One signal from another\n",
        "Masked mean squared error, a mean over held-out people, by what the model was given; how far own lies below",
        "other, with a 95 % interval over people.\n",
        "| pair | arm | seed | people | own | other | none | mean | own below other |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: (list(_PAIRS).index(row["what"]), row["arm"], row["seed"])):
        errors = " | ".join(f"{row['errors'][kind]:.4f}" for kind in ("own", "other", "none", "mean"))
        lines.append(
            f"| {_PAIRS[row['what']]} | `{row['arm']}` | {row['seed']} | {row['people']} | {errors} "
            f"| {_percent(row['below_other'])} |"
        )
    return "\n".join(lines) if rows else ""


def _scores(by_arm: ByArm) -> str:
    """Mean over seeds with the interval over people of the first seed."""
    shown = [*tables.shown(by_arm), *(name for name in ("constant",) if name in by_arm)]
    lines = [
        "## Probes on held-out patients\n",
        "Mean over seeds; in brackets the 95 % interval over patients of the first seed.\n",
        "| task | patients | " + " | ".join(f"`{arm}`" for arm in shown) + " |",
        "|---" * (len(shown) + 2) + "|",
    ]
    for task in tables.tasks(by_arm, PATIENTS.suite):
        groups = [by_arm[arm].get(task.name) for arm in shown]
        people = next(group[0].n_subjects for group in groups if group)
        unit = f", {task.label_unit}" if task.metric == "mae" else ""
        cells = " | ".join(_cell(group) for group in groups)
        lines.append(f"| {task.name}, {METRICS[task.metric].title}{unit} | {people} | {cells} |")
    return "\n".join(lines) if shown else ""


def _cell(group: Sequence[Score] | None) -> str:
    if not group:
        return ""
    return f"{tables.cell(group)} [{group[0].low:.3f}, {group[0].high:.3f}]"


def _curves(told: Told) -> str:
    arms = [row for row in told.trained if Job.of(row).key in told.compared]
    return tables.curves(arms, PATIENTS)


@dataclass(frozen=True)
class _OnPhone:
    """An arm on one task of a phone."""

    phone: str
    task: Task
    arm: str
    group: Sequence[Score]
    """One for each seed."""
    against: Interval | None
    """The features; None for themselves."""


def _on_phones(told: Told, scores: Sequence[Score]) -> Iterator[_OnPhone]:
    rows = [row for row in told.beside if row["kind"] == "phone"]
    for name, suite in PHONES.items():
        for task in suite.tasks:
            here = [one for one in scores if (one.suite, one.task) == (name, task.name)]
            base = [one for one in here if one.encoder == "features"]
            for arm in dict.fromkeys(["features", *(row["arm"] for row in rows if row["what"] == name)]):
                group = [one for one in here if one.encoder == arm]
                if group and base:
                    yield _OnPhone(name, task, arm, group, None if arm == "features" else difference(group, base[:1]))


def _phones(told: Told, scores: Sequence[Score]) -> str:
    lines = [
        "## Phones\n",
        "Linear probes on frozen encoders, windows of ten seconds. In the last column the paired difference to",
        "features with its 95 % interval over groups (people of `butppg`, recordings of `welltory`); more is better.\n",
        "| phone, task | groups, windows | arm | seeds | score | against features |\n|---|---|---|---|---|---|",
    ]
    found = list(_on_phones(told, scores))
    for one in found:
        against = "" if one.against is None else _interval(one.against)
        sizes = f"{one.group[0].n_subjects}, {one.group[0].n_units}"
        where = f"{one.phone}, {one.task.name}, {METRICS[one.task.metric].title}, {one.task.label_unit}"
        lines.append(f"| {where} | {sizes} | `{one.arm}` | {len(one.group)} | {tables.cell(one.group)} | {against} |")
    return "\n".join(lines) if found else ""


def _interval(found: Interval) -> str:
    return _bounds(found) + {1: " ▲", -1: " ▼"}.get((found.low > 0) - (found.high < 0), "")


def _bounds(found: Interval) -> str:
    return f"{found.value:+.3g} [{found.low:+.3g}, {found.high:+.3g}]"


def _method(told: Told) -> str:
    trained: list[Row] = told.trained
    lines = ["## How, and what it cannot show\n"]
    if trained:
        one: dict[str, Any] = trained[0]
        rates = ", ".join(f"`{arm}` {lr:g}" for arm, lr in {row["arm"]: row["lr"] for row in trained}.items())
        lines += [
            "- Learning rates, the first of the simulated study:",
            f"  {rates}.",
            f"- Trained arms, size `tiny`: {told.budget:,} windows in batches of 32, drawn",
            f"  from {one['train_windows']:,} of {one['train_people']} patients; probed on {one['held_out']} others.",
        ]
    lines += [
        "- A hundred patients of one set of intensive care units, eleven hours: intervals over some forty held-out",
        "  patients are wide, so most tasks can only show large differences. Blood pressure is known of fewer still.",
        "  Nothing here speaks of healthy people, other monitors or other body sites, and a monitor's own delay is in",
        "  its arrival times.",
        "- No ceiling is known where the truth is not, so every task of the patients counts as one with headroom.",
        "- Which recordings of `welltory` share a person is not published: folds are by recording. Read differences",
        "  there, not scores.",
        "- Readout `spectrum` for every model; recordings are mean, standard deviation, least and largest of windows.",
    ]
    if any(", simulated " in row["arm"] for row in told.beside):
        lines += [
            "- `ARM, simulated N`: of the study of embeddings, trained on N windows of simulated people at the same",
            "  learning rate.",
        ]
    about = {**{name: arm.about for name, arm in TRAINED.items()}, **UNTRAINED}
    lines += [f"- `{name}`: {text}." for name, text in about.items() if any(row["arm"] == name for row in told.arms)]
    return "\n".join(lines)
