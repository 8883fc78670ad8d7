"""The first section of the report: what was found, against a constant and the controls, and a sentence a task."""

from xmae_dist.evaluate.report import findings, page
from xmae_dist.evaluate.report.compare import Comparison, Tally, tallies
from xmae_dist.evaluate.results import Result

MARKS = {"better": "▲", "worse": "▼"}


def found_section(groups: dict[str, list[Result]], found: list[Comparison]) -> list[str]:
    """The answer first: against a constant and each control on how many tasks, then a sentence a task."""
    encoders = list(dict.fromkeys(r.encoder for group in groups.values() for r in group if r.role == "encoder"))
    rows = [_constant_row(groups, name) for name in encoders] + [_tally_row(t) for t in tallies(found)]
    head = ["Comparison", f"{len(groups)} tasks", "Better", "Not shown", "Worse", "Better, corrected"]
    return [
        "<h2>What was found</h2>",
        *(f"<p>{_lead(groups, name, found)}</p>" for name in encoders),
        page.table([*head, "Worse, corrected"], rows, numeric_from=2),
        '<p class="quiet">“Better” and “worse”: the 95 % interval of the difference, over people, excludes zero; '
        "against a constant, the interval of the score excludes that of a constant prediction. “Not shown” is no proof "
        "that two are equal. “Corrected”: still so when the number of tasks is allowed for (Holm). A random-weight "
        "encoder and plain pulse features stand beside every result: an encoder that does not beat them has learned "
        "nothing that this task needs.</p>",
        "<h3>In a sentence a task</h3>",
        "<ul>",
        *(
            f"<li><b>{page.text(group[0].task.title)}</b>: {page.text(findings.sentence(result, group, found))}.</li>"
            for group in groups.values()
            for result in group
            if result.role == "encoder"
        ),
        "</ul>",
    ]


def _lead(groups: dict[str, list[Result]], encoder: str, found: list[Comparison]) -> str:
    """An encoder's finding in a sentence."""
    beaten, of = findings.constants_beaten(groups.values(), encoder)
    none = [
        group[0].task.title
        for group in groups.values()
        if any(r.encoder == encoder and findings.beats_constant(r) is False for r in group)
    ]
    against = "; ".join(
        f"against {t.against} better on {t.better} and worse on {t.worse} of {t.tasks}"
        for t in tallies(found)
        if t.encoder == encoder
    )
    said = f"{encoder} is better than a constant prediction on {beaten} of {of} tasks"
    lacking = f" It is not shown to be better than a constant on: {'; '.join(none)}." if none else ""
    return f"<b>{page.text(said)}</b>{page.text(f'; {against}' if against else '')}.{page.text(lacking)}"


def _constant_row(groups: dict[str, list[Result]], encoder: str) -> str:
    beaten, of = findings.constants_beaten(groups.values(), encoder)
    return (
        f"<tr><td><b>{page.text(encoder)}</b> against a constant</td><td>{page.bar((beaten, of - beaten, 0))}</td>"
        f'{_count(beaten, "better")}{_count(of - beaten)}<td class="n">–</td><td class="n">–</td>'
        '<td class="n">–</td></tr>'
    )


def _tally_row(t: Tally) -> str:
    even = t.tasks - t.better - t.worse
    return (
        f"<tr><td><b>{page.text(t.encoder)}</b> against {page.text(t.against)}</td>"
        f"<td>{page.bar((t.better, even, t.worse))}</td>{_count(t.better, 'better')}{_count(even)}"
        f"{_count(t.worse, 'worse')}{_count(t.better_after_holm)}{_count(t.worse_after_holm)}</tr>"
    )


def _count(n: int, verdict: str = "") -> str:
    """A cell with a number of tasks; colour and mark only where there are any."""
    if not n or verdict not in MARKS:
        return f'<td class="n">{n}</td>'
    return f'<td class="n {verdict}">{MARKS[verdict]} {n}</td>'
