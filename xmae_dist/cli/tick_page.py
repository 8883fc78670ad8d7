"""The page of a tick: what each cohort got, how it compares with what was known, what waits, and the map."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from matplotlib.figure import Figure

from xmae_dist.embed.drift import Comparison
from xmae_dist.embed.pipeline import Held, Outcome
from xmae_dist.embed.tick import Tick
from xmae_dist.evaluate.report import page


def tick_page(tick: Tick, *, table_url: str, ended: str, drawn: Figure | None) -> str:
    """HTML that needs no other file. `ended`: when, in words; `drawn`: the map, where there is one."""
    compared = {name: one for name, one in tick.outcomes.items() if one and one.familiarity}
    parts = [
        "<h1>Embedding tick</h1>",
        f'<p class="quiet">{page.text(table_url)}, bundle {page.text(tick.model_id)}, {page.text(ended)}</p>',
        f"<p><code>{page.text(tick.line)}</code></p>",
        page.section("Cohorts", ["<h2>Cohorts</h2>", page.table(_HEAD, _cohorts(tick), numeric_from=2)]),
    ]
    if compared:
        parts.append(page.section("Comparisons", ["<h2>Comparisons with known cohorts</h2>", *_compared(compared)]))
    if drawn is not None:
        caption = "Principal components of a sample of windows; what varies less is not seen."
        shown = page.picture(drawn, "Windows by device, person and signal quality", caption)
        parts.append(page.section("Map", ["<h2>Map</h2>", shown]))
    return page.document("Embedding tick", parts)


_HEAD = ("cohort", "what", "windows", "recordings", "withdrawn", "windows dropped", "behind for (h)")


def _cohorts(tick: Tick) -> Iterator[str]:
    for cohort, outcome in tick.outcomes.items():
        numbers: tuple[int, ...] = (0, 0, 0, 0)
        if isinstance(outcome, Held):
            numbers = (0, 0, outcome.withdrawn, 0)
        elif outcome:
            numbers = (outcome.rows, outcome.recordings, outcome.withdrawn, sum(outcome.dropped.values()))
        behind = tick.lag.lag_s_of.get(cohort)
        lag_h = "" if behind is None else f"{behind / 3600:.1f}"
        yield _row([cohort, _what(tick, cohort, outcome)], [*(str(one) for one in numbers), lag_h])


def _what(tick: Tick, cohort: str, outcome: Outcome) -> str:
    if cohort in tick.failed:
        return f"failed: {tick.failed[cohort]}"
    if outcome is None:
        return "nothing new"
    done = "held back" if isinstance(outcome, Held) else "embedded"
    return f"{done}; {outcome.familiarity}" if outcome.familiarity else done


def _compared(outcomes: Mapping[str, Outcome]) -> Iterator[str]:
    head = ("known", "people per side", "AUC", "threshold", "p", "MMD²", "quality", "differs")
    for cohort, outcome in outcomes.items():
        assert outcome and outcome.familiarity, "only those that were compared"
        yield f"<h3>{page.text(cohort)}: {page.text(outcome.familiarity.state)}</h3>"
        yield page.table(head, map(_comparison, outcome.familiarity.comparisons))


def _comparison(one: Comparison) -> str:
    mmd, shift = one.mmd2, one.quality_shift
    numbers = [
        str(one.people),
        f"{one.auc:.2f}",
        f"{one.threshold:.2f}",
        f"{one.p_value:.3f}",
        f"{mmd.value:.4f} [{mmd.low:.4f}, {mmd.high:.4f}]",
        f"{shift.value:+.3f} [{shift.low:+.3f}, {shift.high:+.3f}]",
        "yes" if one.differs else "no",
    ]
    return _row([one.known], numbers)


def _row(words: Iterable[str], numbers: Iterable[str]) -> str:
    cells = [f"<td>{page.text(one)}</td>" for one in words] + [
        f'<td class="n">{page.text(one)}</td>' for one in numbers
    ]
    return f"<tr>{''.join(cells)}</tr>"
