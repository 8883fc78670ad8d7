"""Sections of the report on other conditions: few labels, transfer between devices or sites, degraded windows."""

from xmae_dist.evaluate.report import page
from xmae_dist.evaluate.report.figures_shift import degradation_curves, few_label_curves, transfer_matrices
from xmae_dist.evaluate.results import Result
from xmae_dist.evaluate.scores.metrics import METRICS
from xmae_dist.evaluate.transfer.matrix import Cell, lost
from xmae_dist.evaluate.transfer.requests import DEGRADATION, home_of

_MOST_MATRICES = 3
_MOST_CURVES = 6


def few_section(results: list[Result], colour_of: dict[str, str]) -> list[str]:
    """Curves of the probe with few labelled people, the last point with all of a training side; empty without any."""
    parts: list[str] = []
    tasks = dict.fromkeys(r.task.name for r in results if r.protocol == "few")
    for task in tasks:
        here = [r for r in results if r.task.name == task and r.protocol in ("few", "linear")]
        ranked = sorted({(r.role != "encoder", r.encoder) for r in here if r.protocol == "few"})
        curves = {
            name: sorted(((_labelled(r), r) for r in here if r.encoder == name), key=lambda point: point[0])
            for _, name in ranked[:_MOST_CURVES]
        }
        drawn = few_label_curves(curves, colour_of)
        made_from = [r.request for points in curves.values() for _, r in points]
        parts.append(page.picture(drawn, f"Few-label curves of {task}", title=here[0].task.title, rows=made_from))
    if not parts:
        return []
    return [
        "<h2>Few labels</h2>",
        "<p>How many labelled people an encoder needs. The same people are labelled for every encoder; points average "
        "repetitions with other people; the last has all of a training side. Bars: 95 % intervals over people.</p>",
        *parts,
    ]


def _labelled(result: Result) -> float:
    """People with labels in training; for the plain probe all but one fold's."""
    n_folds = len(set(result.scored.predictions.fold_N.tolist()))
    return result.labelled_subjects or round(result.n_subjects * (n_folds - 1) / n_folds)


def transfer_section(cells: list[Cell], colour_of: dict[str, str]) -> list[str]:
    """Matrices by task for every axis but degradation; empty where there are none."""
    parts: list[str] = []
    for axis in sorted({c.axis for c in cells} - {DEGRADATION}):
        here = [c for c in cells if c.axis == axis]
        parts += [f"<h2>Transfer by {page.text(axis.replace('_', ' '))}</h2>", _moves(here)]
        parts.append(
            "<p>Each row is one probe: trained on one condition, tested on all, on people it was not trained on. The "
            "framed diagonal is home. ▼ and red: worse than a probe trained at home, on the same people, with an "
            "interval that excludes zero; ▲ and green: better; grey: no change shown.</p>"
        )
        for task, by_encoder in _grouped(here, _MOST_MATRICES).items():
            title, unit = _title(by_encoder)
            drawn = transfer_matrices(by_encoder, colour_of)
            where = f"Transfer matrices of {task}"
            parts.append(page.picture(drawn, where, unit, title=title, rows=_requests(by_encoder), file=page.CELLS))
    return parts


def degradation_section(cells: list[Cell], colour_of: dict[str, str]) -> list[str]:
    """Curves by task: trained on clean windows, tested on spoilt ones; empty where there are none."""
    here = [c for c in cells if c.axis == DEGRADATION]
    if not here:
        return []
    parts = [
        "<h2>Degraded signals</h2>",
        _moves(here),
        "<p>Probes are trained on windows as they are and tested, on other people, on the same windows as a worse "
        "device would have delivered them: sampled more slowly, with white noise, or with a motion artefact over half "
        "of the window. Bars: 95 % intervals over people.</p>",
    ]
    for task, by_encoder in _grouped(here, _MOST_CURVES).items():
        drawn = degradation_curves(by_encoder, colour_of)
        title, where = _title(by_encoder)[0], f"Degradation of {task}"
        parts.append(page.picture(drawn, where, title=title, rows=_requests(by_encoder), file=page.CELLS))
    return parts


def _requests(by_encoder: dict[str, list[Cell]]) -> list[str]:
    return [cell.result.request for cells in by_encoder.values() for cell in cells]


def _moves(cells: list[Cell]) -> str:
    """A table: of how many changes of condition each encoder pays a price that is shown."""
    rows = []
    for encoder in _order(cells):
        mine = [c for c in cells if c.result.encoder == encoder]
        homes = [(c, home_of(c, mine)) for c in mine]
        changes = [lost(c, home) for c, home in homes if home is not None and home is not c]
        worse = sum(d.high < 0 for d in changes)
        better = sum(d.low > 0 for d in changes)
        rows.append(
            f"<tr><td>{page.text(encoder)}</td><td>{page.bar((better, len(changes) - better - worse, worse))}</td>"
            f'<td class="n better">▲ {better}</td><td class="n">{len(changes) - better - worse}</td>'
            f'<td class="n worse">▼ {worse}</td></tr>'
        )
    return page.table(["Encoder", "All tasks and changes", "Better", "Not shown", "Worse"], rows, numeric_from=2)


def _grouped(cells: list[Cell], most: int) -> dict[str, dict[str, list[Cell]]]:
    """Cells by task and encoder, encoders first, at most `most` of them."""
    tasks = dict.fromkeys(c.result.task.name for c in cells)
    return {
        task: {
            encoder: [c for c in cells if (c.result.task.name, c.result.encoder) == (task, encoder)]
            for encoder in _order([c for c in cells if c.result.task.name == task])[:most]
        }
        for task in tasks
    }


def _order(cells: list[Cell]) -> list[str]:
    ranked = sorted({(c.result.role != "encoder", c.result.encoder) for c in cells})
    return [name for _, name in ranked]


def _title(by_encoder: dict[str, list[Cell]]) -> tuple[str, str]:
    task = next(iter(by_encoder.values()))[0].result.task
    metric = METRICS[task.metric]
    unit = f", {task.label_unit}" if task.metric == "mae" and task.label_unit else ""
    better = "higher" if metric.higher_is_better else "lower"
    return task.title, f"{metric.title}{unit}; {better} is better. Below each score its 95 % interval over people."
