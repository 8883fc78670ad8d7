"""The study's page, written from rows and results: the finding first, what failed included."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.embedding_study import comparing, pictures, rates, tables
from bench.embedding_study.arms import TRAINED, UNTRAINED
from bench.embedding_study.comparing import ByArm, Difference
from bench.embedding_study.planning import Job
from bench.embedding_study.probing import SIMULATED
from bench.embedding_study.tables import Row


@dataclass(frozen=True)
class Told:
    """The rows that a page is of."""

    rows: Sequence[Row]
    compared: Collection[str]
    """Keys of the jobs whose results are compared; other arms of this budget are told beside."""
    budget: int

    @property
    def arms(self) -> list[Row]:
        return [row for row in self.rows if row["kind"] == "arm" and Job.of(row).key in self.compared]

    @property
    def trained(self) -> list[Row]:
        """Of this budget, at every learning rate."""
        return [row for row in self.rows if row["kind"] == "arm" and row["windows"] == self.budget]


def write(path: Path, differences: Path, told: Told, by_arm: ByArm, at_first: ByArm) -> None:
    """The page at `path`, and each difference that it counts as a line of `differences`.

    `at_first` has the scores at the first learning rate, before any was chosen.
    """
    ceiling = comparing.headroom(by_arm)
    found = comparing.differences(by_arm, ceiling)
    moved = rates.differences(by_arm, at_first, ceiling)
    differences.write_text(_lines((*found, *moved), told.budget))
    folder = path.parent / "figures"
    parts = [
        _HEAD,
        *_compared(folder / pictures.HEADROOM, told, found, ceiling, by_arm),
        tables.errors(told.trained),
        tables.curves(told.arms, SIMULATED),
        _picture(pictures.draw_curves(folder, told.arms, SIMULATED), "Scores against windows seen"),
        rates.tried(told.rows, told.budget),
        rates.changed(moved),
        _method(told.arms, told.budget),
    ]
    path.write_text("\n\n".join(part for part in parts if part) + "\n")


def write_further(path: Path, differences: Path, told: Told, by_arm: ByArm) -> None:
    """The page of the same encoders on further people."""
    ceiling = comparing.headroom(by_arm)
    found = comparing.differences(by_arm, ceiling)
    differences.write_text(_lines(found, told.budget))
    compared = _compared(path.parent / "figures" / pictures.FURTHER, told, found, ceiling, by_arm)
    parts = [_HEAD_FURTHER, *compared, _method(told.arms, told.budget)]
    path.write_text("\n\n".join(part for part in parts if part) + "\n")


def _compared(
    picture: Path, told: Told, found: Sequence[Difference], ceiling: Mapping[str, float], by_arm: ByArm
) -> list[str]:
    """The finding, its picture, pairs, scores and shares."""
    return [
        _finding(found, ceiling, by_arm, told.budget),
        _picture(pictures.draw(picture, found, ceiling, by_arm), "Share of the headroom, and differences to controls"),
        tables.tally(found),
        tables.scores(by_arm, SIMULATED.suite, ceiling),
        _shares(by_arm, ceiling),
    ]


_HEAD = """# What frozen embeddings know

The people on this page are simulated, so the truth of every task is known ([simulator](simulator.md)). Written by `make
model-study` from `bench/results/embedding-study.jsonl` (a row for each arm and seed) and the files in
`bench/results/embedding-study` (each arm's scores under 1,000 draws of people).
`bench/results/embedding-study-differences.jsonl` has every difference counted here, with its interval. Reconstruction
on an equal budget, `published` and `challenge2015` included, is another page:
[reconstruction-study.md](reconstruction-study.md); the same encoders on more people, of whom nothing was chosen by:
[model-study-further.md](model-study-further.md). Words such as arm, headroom, null and Holm:
[glossary](glossary.md#evaluation)."""


_HEAD_FURTHER = """# Does the finding hold on further people?

The encoders of [the study of embeddings](model-study.md), frozen, on more simulated people than it holds out, all of
whom were simulated after encoders, readout and learning rates were chosen. Written by `make model-study-further` from
`bench/results/embedding-study-further.jsonl` (a row for each arm and seed) and the files in
`bench/results/embedding-study-further` (scores under 1,000 draws of people);
`bench/results/embedding-study-further-differences.jsonl` has every difference counted here, with its interval. Words
such as arm, headroom, null and Holm: [glossary](glossary.md#evaluation)."""


def _finding(found: Sequence[Difference], ceiling: Mapping[str, float], by_arm: ByArm, budget: int) -> str:
    if not found or not ceiling:
        return "**No finding yet: chance, a ceiling or an arm to compare is missing.**"
    lead = found[0].arm
    trained = f"{budget:,} windows, {found[0].seeds} seed{'s' * (found[0].seeds > 1)}"
    people = max(group[0].n_subjects for group in by_arm[lead].values())
    lines = [f"**`{lead}` after {trained}, on {len(ceiling)} tasks with headroom, {people:,} held-out people:**"]
    rooms = {one.other: comparing.room(by_arm, one.other, ceiling) for one in found if one.arm == lead}
    for other in dict.fromkeys(one.other for one in found if one.arm == lead):
        pair = [one for one in found if (one.arm, one.other) == (lead, other)]
        won = sum(one.sign == 1 and one.task in rooms[other] for one in pair)
        lines.append(
            f"- Against `{other}`: {tables.counted(pair)}. A ceiling is better on {len(rooms[other])},"
            f" `{lead}` on {won} of these."
        )
    nulls = [name for name in by_arm["constant"] if name not in ceiling]
    if bare := [task for task in ceiling if task not in rooms.get("random", ceiling)]:
        lines += [
            f"- On {len(bare)} tasks neither ceiling is shown to be better than `random` with so many people, so a win",
            f"  there is not to be expected: {', '.join(bare)}.",
        ]
    lines.append(f"- Tasks without headroom, called nulls: {', '.join(nulls) or 'none'}.")
    return "\n".join(lines)


def _picture(drawn: Path | None, about: str) -> str:
    return "" if drawn is None else f"![{about}]({drawn.parent.name}/{drawn.name})"


def _shares(by_arm: ByArm, ceiling: Mapping[str, float]) -> str:
    if not ceiling:
        return ""
    lines = [
        "## Share of the headroom\n",
        "0 % is chance. 100 % is the better of two ceilings: a probe on the simulator's own state of each window, and",
        "one on features of the noiseless pulse. Both are linear probes, so an embedding can be above 100 %.\n",
        "| task | " + " | ".join(f"`{arm}`" for arm in tables.shown(by_arm)) + " |",
        "|---" * (len(tables.shown(by_arm)) + 1) + "|",
    ]
    for task, top in ceiling.items():
        chance = comparing.score(by_arm["constant"][task])
        groups = [by_arm[arm].get(task) for arm in tables.shown(by_arm)]
        cells = [f"{100 * comparing.share(comparing.score(g), chance, top):.0f} %" if g else "" for g in groups]
        lines.append(f"| {task} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _method(arms: Sequence[Row], budget: int) -> str:
    if not arms:
        return ""
    lines = ["## How\n"]
    for told in [row for row in arms if "train_people" in row][:1]:
        lines += [
            f"- Trained arms, size `tiny` where no other is named: {budget:,} windows each in batches of 32,",
            f"  drawn from {told['train_windows']:,} windows of {told['train_people']} people.",
        ]
    if any(row["arm"].startswith("contrastive") for row in arms):
        lines.append("- A contrastive arm has the other 31 windows of its batch as negatives.")
    lines += [
        f"- Probed: {arms[0]['probed_windows']:,} windows of {arms[0]['held_out']} other people, evenly spaced in",
        "  their recordings of ten minutes. Half of all people wear a bedside monitor, half a telemetry unit. Folds",
        "  are nested and by person; intervals resample people, with 1,000 draws.",
        "- Readout `spectrum` for every model: mean, standard deviation and log power of the tokens over time.",
        "- The embedding of a recording or person is made of mean, standard deviation, least and largest value over",
        "  its windows (`--pooling moments`).",
    ]
    about = {**{name: arm.about for name, arm in TRAINED.items()}, **UNTRAINED}
    lines += [f"- `{name}`: {text}." for name, text in about.items() if any(row["arm"] == name for row in arms)]
    return "\n".join(lines)


def _lines(found: Iterable[Difference], budget: int) -> str:
    return "".join(json.dumps(_line(one, budget)) + "\n" for one in found)


def _line(one: Difference, budget: int) -> Row:
    found = {name: float(f"{getattr(one.found, name):.6g}") for name in ("value", "low", "high", "p_value")}
    holm = {"p_holm": float(f"{one.p_holm:.6g}")} if one.p_holm == one.p_holm else {}
    names = {"arm": one.arm, "other": one.other, "task": one.task, "seeds": one.seeds, "budget": budget}
    return {**names, **found, **holm}
