"""The page of the report, section by section: what was found first, then where it comes from."""

from xmae_dist.data.store.kept import KeptGroup
from xmae_dist.evaluate.encoders.pretrained import Pretrained
from xmae_dist.evaluate.report import figures, findings, page
from xmae_dist.evaluate.report.compare import Comparison, best, by_task
from xmae_dist.evaluate.report.figures_tasks import binary_detail, confusion_detail, regression_detail
from xmae_dist.evaluate.report.sections_found import MARKS, found_section
from xmae_dist.evaluate.report.sections_method import encoders_section, methods_section
from xmae_dist.evaluate.report.sections_shift import degradation_section, few_section, transfer_section
from xmae_dist.evaluate.results import Result
from xmae_dist.evaluate.scores.metrics import METRICS, gained
from xmae_dist.evaluate.transfer.matrix import Cell

_FIGURE_CAPTIONS = {
    "curves": "Training and validation loss of the pretraining run.",
    "reconstruct": "ECG reconstructed from PPG on held-out subjects: original, what the model saw, its reconstruction, "
    "above the PPG it was given.",
}
_PROTOCOL_TITLES = {"knn": "Nearest neighbours", "finetune": "Fine-tuning"}
_WIDE = 6


def render(
    results: list[Result],
    found: list[Comparison],
    cells: list[Cell],
    run_pictures: list[tuple[str, bytes]],
    skipped: dict[str, str],
    known: dict[str, Pretrained],
    shares: dict[str, list[KeptGroup]],
) -> str:
    """The page as HTML. `known`: whom encoders saw in pretraining, by identity; `shares`: windows kept, by store."""
    groups, colour_of = by_task(results), figures.colours(results)
    parts = {
        "Scores": [_cards(results, groups), *_summary(groups), *_scores(groups, colour_of)],
        "Seen in pretraining": _seen(groups, known),
        "Windows kept": _kept(shares.get(results[0].store, [])),
        "Protocols": _protocols(results, groups),
        "Differences": _differences(found, groups, colour_of),
        "Few labels": few_section(results, colour_of),
        "Transfer": transfer_section(cells, colour_of),
        "Degradation": degradation_section(cells, colour_of),
        "Tasks": _details(groups, colour_of),
        "Pretraining": _pretraining(run_pictures),
        "Encoders": encoders_section(results, known),
        "Method": methods_section(results, skipped),
    }
    parts = {name: body for name, body in parts.items() if body}
    body = [*_heading(results), page.links(parts), *found_section(groups, found)]
    for name, section in parts.items():
        body += [page.section(name, section)]
    return page.document(f"Evaluation: {results[0].suite_title}", body)


def _heading(results: list[Result]) -> list[str]:
    return [
        f"<h1>{page.text(results[0].suite_title)}</h1>",
        '<p class="quiet">How well frozen encoders of the pulse wave (PPG) predict what is known of a person, '
        "on people whose labels the prediction never saw.</p>",
    ]


def _cards(results: list[Result], groups: dict[str, list[Result]]) -> str:
    """How large the evaluation was."""
    cards = [
        (str(len(groups)), "tasks"),
        (str(len({r.encoder for r in results})), "encoders and controls"),
        (f"{max(r.n_subjects for r in results):,}", "people at most in a task"),
        (f"{sum(r.n_fits for r in results):,}", "models fitted"),
    ]
    boxes = "".join(f'<div class="card"><b>{page.text(n)}</b><span>{page.text(what)}</span></div>' for n, what in cards)
    return f'<div class="cards">{boxes}</div>'


def _pretraining(pictures: list[tuple[str, bytes]]) -> list[str]:
    if not pictures:
        return []
    parts = ["<h2>Pretraining: ECG reconstructed from PPG</h2>"]
    for name, png in pictures:
        caption = next((c for key, c in _FIGURE_CAPTIONS.items() if key in name), name.replace("_", " "))
        parts.append(page.picture(png, caption, caption))
    return parts


def _families(groups: dict[str, list[Result]]) -> dict[str, dict[str, list[Result]]]:
    families: dict[str, dict[str, list[Result]]] = {}
    for name, group in groups.items():
        families.setdefault(group[0].task.family, {})[name] = group
    return dict(sorted(families.items()))


def _protocols(results: list[Result], probed: dict[str, list[Result]]) -> list[str]:
    """A table of scores for each protocol beside the linear probe."""
    parts = []
    for protocol in dict.fromkeys(r.protocol for r in results if r.protocol in _PROTOCOL_TITLES):
        groups = by_task(results, protocol=protocol)
        parts += _summary({name: groups[name] for name in probed if name in groups}, _PROTOCOL_TITLES[protocol])
    return parts


def _summary(groups: dict[str, list[Result]], title: str = "Scores") -> list[str]:
    names = list(dict.fromkeys(r.encoder for group in groups.values() for r in group))
    rows = []
    for family, members in _families(groups).items():
        rows.append(f'<tr class="family"><td colspan="{4 + len(names)}">{page.text(family)}</td></tr>')
        for group in members.values():
            task = group[0].task
            cells = "".join(_score_cell(next((r for r in group if r.encoder == n), None), group) for n in names)
            arrow = "↑" if METRICS[task.metric].higher_is_better else "↓"
            rows.append(
                f"<tr><td>{page.text(task.title)}<small>{page.text(_how(group[0]))}</small></td>"
                f"<td>{page.text(METRICS[task.metric].title)} {arrow}<small>{page.text(task.label_unit)}</small></td>"
                f'<td class="n">{group[0].n_subjects:,}<small>{len(group[0].unit_names):,} {task.unit}s</small></td>'
                f'<td class="n">{_constant(group)}</td>{cells}</tr>'
            )
    head = ["Task", "Metric", "People", "Constant", *names]
    note = (
        '<p class="quiet">Bold: best point score of the row, whether or not the difference is shown. Below each score '
        "its 95 % interval over people. Constant: the score of a prediction that knows nothing of the signal (chance, "
        "or always the mean). ↑ higher is better, ↓ lower is better.</p>"
    )
    return [f"<h2>{page.text(title)}</h2>", page.table(head, rows, numeric_from=2, wide=len(names) > _WIDE), note]


def _seen(groups: dict[str, list[Result]], known: dict[str, Pretrained]) -> list[str]:
    """How many of the people of each task were in the train split of each pretrained encoder."""
    trained = {r.encoder: known.get(r.encoder_id, Pretrained(trained=True)) for group in groups.values() for r in group}
    trained = {name: one for name, one in trained.items() if one.trained}
    rows = []
    for group in groups.values():
        subject_N = group[0].scored.predictions.subject_N
        seen = (one.people(subject_N) for one in trained.values())
        cells = "".join(f'<td class="n">{"not known" if n is None else f"{n:,}"}</td>' for n in seen)
        rows.append(
            f'<tr><td>{page.text(group[0].task.title)}</td><td class="n">{group[0].n_subjects:,}</td>{cells}</tr>'
        )
    if not trained:
        return []
    return [
        "<h2>Seen in pretraining</h2>",
        "<p>People of each task who were in the train split of an encoder's pretraining, where it saw their signals, "
        "never their labels. The split is by name, so people whose cohort was not pretrained on count too.</p>",
        page.table(["Task", "People", *trained], rows),
    ]


def _kept(shares: list[KeptGroup]) -> list[str]:
    """What share of the windows there might be was kept, by rhythm and ectopy."""
    rows = [
        f"<tr><td>{page.text(group.label)}</td><td>{page.text(group.group)}</td>"
        + "".join(f'<td class="n">{n}</td>' for n in (f"{group.recordings:,}", f"{group.subjects:,}"))
        + "".join(f'<td class="n">{100 * share:.1f} %</td>' for share in _parts(group))
        + "</tr>"
        for group in shares
    ]
    if not rows:
        return []
    return [
        "<h2>Windows kept</h2>",
        "<p>Windows in which the beats of a signal resemble one another too little are dropped as unclean. An "
        "irregular heart looks like that too: where fewer of its windows were kept, scores speak of its calmer "
        "moments.</p>",
        page.table(["Label", "Value", "Recordings", "People", "Kept", "Beats unlike", "Other"], rows, numeric_from=2),
    ]


def _parts(group: KeptGroup) -> tuple[float, float, float]:
    possible = max(group.kept + group.low_quality + group.other, 1)
    return group.kept / possible, group.low_quality / possible, group.other / possible


def _constant(group: list[Result]) -> str:
    level = findings.constant(group[0])
    return "–" if level is None else f"{level:.{findings.decimals(group)}f}"


def _score_cell(result: Result | None, group: list[Result]) -> str:
    if result is None:
        return '<td class="n">–</td>'
    score, digits = result.headline, findings.decimals(group)
    mark = " best" if result is best(group) else ""
    return (
        f'<td class="n{mark}">{score.value:.{digits}f}'
        f"<small>{score.low:.{digits}f} to {score.high:.{digits}f}</small></td>"
    )


def _how(result: Result) -> str:
    p, task = result.scored.predictions, result.task
    if task.kind == "binary":
        return f"by {task.unit}, {100 * p.y_N.mean():.0f} % positive"
    if task.kind == "multiclass":
        return f"by {task.unit}, {p.pred_NC.shape[1]} classes"
    spread = f"± {p.y_N.std():.2g} {task.label_unit}"
    return f"by {task.unit}, {spread}" if task.centred else f"by {task.unit}, {p.y_N.mean():.3g} {spread}"


def _scores(groups: dict[str, list[Result]], colour_of: dict[str, str]) -> list[str]:
    parts = []
    for family, members in _families(groups).items():
        parts.append(f"<h3>{page.text(family.capitalize())}</h3>")
        drawn = figures.score_forest(members, colour_of)
        made_from = [r.request for group in members.values() for r in group]
        parts.append(page.picture(drawn, f"Scores and 95 % intervals: {family}", rows=made_from))
    return [
        *parts,
        '<p class="quiet">Filled: encoders. Open: controls. Bars: 95 % intervals over people. Dotted: a prediction '
        "that knows nothing (chance, or always the mean).</p>",
    ]


def _differences(found: list[Comparison], groups: dict[str, list[Result]], colour_of: dict[str, str]) -> list[str]:
    if not found:
        return []
    titles = {name: group[0].task.title for name, group in groups.items()}
    pairs = list(dict.fromkeys((c.encoder, c.against) for c in found))
    of = {(c.task, c.encoder, c.against): c for c in found}
    rows = [
        f"<tr><td>{page.text(titles[task])}<small>{page.text(gained(metric))}</small></td>"
        + "".join(_difference_cell(of.get((task, *pair))) for pair in pairs)
        + "</tr>"
        for task, metric in dict.fromkeys((c.task, c.metric) for c in found)
    ]
    forests = [
        page.picture(
            figures.difference_forest([c for c in found if (c.encoder, c.against) == pair], titles, colour_of),
            f"Forest plot of {pair[0]} against {pair[1]}",
            rows=[r.request for group in groups.values() for r in group if r.encoder in pair],
        )
        for pair in pairs
    ]
    return [
        "<h2>Differences on the same people</h2>",
        "<p>Both encoders predict the same units in the same folds and share each bootstrap draw of people. Positive "
        "means that the first is better, whichever way the metric runs.</p>",
        *forests,
        '<p class="quiet">Each difference is divided by its standard error, so that metrics share an axis; the number '
        "at the right has the metric's own unit. Filled: the interval excludes zero.</p>",
        page.table(["Task", *(f"{a} − {b}" for a, b in pairs)], rows, numeric_from=1, wide=len(pairs) > _WIDE - 2),
        '<p class="quiet">▲ better, ▼ worse, by the interval of that task alone; p is corrected over the tasks of the '
        "pair (Holm).</p>",
    ]


def _difference_cell(c: Comparison | None) -> str:
    if c is None:
        return '<td class="n">–</td>'
    d, style = c.difference, c.verdict if c.verdict in MARKS else "quiet"
    return (
        f'<td class="n"><span class="{style}">{MARKS.get(c.verdict, "")} {d.value:+.3g}</span>'
        f"<small>{d.low:+.3g} to {d.high:+.3g}</small><small>{_p(c.p_holm)}</small></td>"
    )


def _details(groups: dict[str, list[Result]], colour_of: dict[str, str]) -> list[str]:
    parts = ["<h2>Task by task</h2>"]
    for group in groups.values():
        task = group[0].task
        if task.kind == "binary":
            drawn = binary_detail(group, colour_of)
        elif task.kind == "multiclass":
            drawn = confusion_detail(group, colour_of)
        else:
            drawn = regression_detail(group, colour_of)
        how = f"How the label reaches the signal: {task.mechanism}." if task.mechanism else ""
        made_from = [r.request for r in group]
        parts += [page.picture(drawn, f"Predictions of {task.title}", how, title=task.title, rows=made_from)]
    return [
        *parts,
        '<p class="quiet">ROC and calibration: the encoders and the best controls; calibration in tenths of the '
        "predictions, bars over people. Bland-Altman: bias and limits of agreement (1.96 standard deviations) with "
        "their 95 % intervals over people as bands; the first encoder beside the best control. A cloud that slopes "
        "down is a prediction drawn towards the mean.</p>",
    ]


def _p(value: float) -> str:
    return "" if value != value else ("p < 0.001" if value < 0.001 else f"p {value:.2g}")
