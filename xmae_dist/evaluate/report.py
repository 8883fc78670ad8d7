"""The report, made from committed results alone: HTML with everything inside, JSON and Parquet beside it."""

import dataclasses
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from xmae_dist.core.errors import InputError
from xmae_dist.evaluate import figures, page
from xmae_dist.evaluate.compare import Comparison, Tally, best, by_task, comparisons, tallies
from xmae_dist.evaluate.metrics import METRICS, gained
from xmae_dist.evaluate.results import PREDICTION_COLUMNS, Result, ResultTable
from xmae_dist.storage import uri

_FIGURE_CAPTIONS = {
    "curves": "Training and validation loss of the pretraining run.",
    "reconstruct": "ECG reconstructed from PPG on held-out subjects: original, what the model saw, its reconstruction, "
    "above the PPG it was given.",
}


def write_report(out_url: str, report_url: str, *, run_url: str = "", skipped: dict[str, str] | None = None) -> str:
    """Make the three files from the results under `out_url`; returns the URL of the HTML.

    With `run_url`, figures of the pretraining run (`<run>/figures/*.png`) are embedded. Raises InputError when there
    are no results.
    """
    results = ResultTable(out_url).read()
    if not results:
        raise InputError("results", value=f"none under {out_url}", expected="one or more",
                         fix="run `xmae evaluate` with this --out first")  # fmt: skip
    skipped = dict(skipped or {})
    found = comparisons(results)
    page_html = render(results, found, _run_pictures(run_url), skipped)
    uri.write_bytes(uri.join(report_url, "report.html"), page_html.encode())
    uri.write_bytes(
        uri.join(report_url, "report.json"), json.dumps(as_json(results, found, skipped), indent=1).encode()
    )
    uri.write_bytes(uri.join(report_url, "results.parquet"), _parquet(results))
    return uri.join(report_url, "report.html")


def as_json(results: list[Result], found: list[Comparison], skipped: dict[str, str]) -> dict[str, Any]:
    """Scores, differences and tallies for programs; NaN becomes null."""
    rows = [{k: v for k, v in r.to_row().items() if k not in PREDICTION_COLUMNS} for r in results]
    for row in rows:
        for name in ("task_json", "scores_json", "penalties_json"):
            row[name.removesuffix("_json") if name != "task_json" else "task_spec"] = json.loads(row.pop(name))
    differences = [dataclasses.asdict(c) | {"verdict": c.verdict} for c in found]
    document = {"format": "xmae-evaluation/v1", "results": rows, "differences": differences,
                "tallies": [dataclasses.asdict(t) for t in tallies(found)], "skipped": skipped}  # fmt: skip
    return _finite(document)


def render(
    results: list[Result], found: list[Comparison], run_pictures: list[tuple[str, bytes]], skipped: dict[str, str]
) -> str:
    """The page as HTML."""
    groups, colour_of = by_task(results), figures.colours(results)
    titles = {name: group[0].task.title for name, group in groups.items()}
    body = [
        *_heading(results, groups, tallies(found)),
        *_pretraining(run_pictures),
        *_summary(groups),
        "<h2>Scores with intervals</h2>",
        page.picture(
            figures.score_forest(groups, colour_of),
            "Score and 95 % interval of every encoder, a panel per task",
            "Filled: encoders. Open: controls. Bars: 95 % bootstrap intervals over subjects. "
            "Dotted: a prediction that knows nothing (chance, or always the mean).",
        ),
        *_differences(found, titles, colour_of),
        *_details(groups, colour_of),
        *_methods(results, skipped),
    ]
    return page.document(f"Evaluation: {results[0].suite_title}", body)


def _heading(results: list[Result], groups: dict[str, list[Result]], found: list[Tally]) -> list[str]:
    subjects = max(r.n_subjects for r in results)
    cards = [
        (str(len(groups)), "tasks"),
        (str(len({r.encoder for r in results})), "encoders and controls"),
        (f"{subjects:,}", "subjects at most in a task"),
        (f"{sum(r.n_fits for r in results):,}", "models fitted"),
    ]
    cards += [
        (f"{t.better} of {t.tasks}", f"tasks on which {t.encoder} beats {t.against}; worse on {t.worse}") for t in found
    ]
    boxes = "".join(f'<div class="card"><b>{page.text(n)}</b><span>{page.text(what)}</span></div>' for n, what in cards)
    return [
        f"<h1>{page.text(results[0].suite_title)}</h1>",
        '<p class="quiet">Frozen encoders probed with linear models, folds and intervals by subject. '
        "“Beats” means that the 95 % interval of the paired difference excludes zero.</p>",
        f'<div class="cards">{boxes}</div>',
    ]


def _pretraining(pictures: list[tuple[str, bytes]]) -> list[str]:
    if not pictures:
        return []
    parts = ["<h2>Pretraining: ECG reconstructed from PPG</h2>"]
    for name, png in pictures:
        caption = next((c for key, c in _FIGURE_CAPTIONS.items() if key in name), name.replace("_", " "))
        parts.append(page.picture(png, caption, caption))
    return parts


def _summary(groups: dict[str, list[Result]]) -> list[str]:
    names = list(dict.fromkeys(r.encoder for group in groups.values() for r in group))
    rows, family = [], None
    for group in sorted(groups.values(), key=lambda g: g[0].task.family):
        task = group[0].task
        if task.family != family:
            family = task.family
            rows.append(f'<tr class="family"><td colspan="{3 + len(names)}">{page.text(family)}</td></tr>')
        cells = "".join(_score_cell(next((r for r in group if r.encoder == n), None), best(group)) for n in names)
        rows.append(
            f"<tr><td>{page.text(task.title)}<small>{page.text(_how(group[0]))}</small></td>"
            f"<td>{page.text(METRICS[task.metric].title)}<small>{page.text(task.label_unit)}</small></td>"
            f'<td class="n">{group[0].n_subjects:,}<small>{len(group[0].unit_names):,} {task.unit}s</small></td>'
            f"{cells}</tr>"
        )
    head = ["Task", "Metric", "Subjects", *names]
    note = '<p class="quiet">Bold: best point score of the row. Below each score its 95 % interval over subjects.</p>'
    return ["<h2>Summary</h2>", page.table(head, rows, numeric_from=2), note]


def _score_cell(result: Result | None, winner: Result) -> str:
    if result is None:
        return '<td class="n">–</td>'
    score = result.headline
    mark = " best" if result is winner else ""
    return f'<td class="n{mark}">{score.value:.3g}<small>{score.low:.3g} to {score.high:.3g}</small></td>'


def _how(result: Result) -> str:
    p, task = result.scored.predictions, result.task
    if task.kind == "binary":
        return f"by {task.unit}, {100 * p.y_N.mean():.0f} % positive"
    if task.kind == "multiclass":
        return f"by {task.unit}, {p.pred_NC.shape[1]} classes"
    return f"by {task.unit}, {p.y_N.mean():.3g} ± {p.y_N.std():.2g} {task.label_unit}"


def _differences(found: list[Comparison], titles: dict[str, str], colour_of: dict[str, str]) -> list[str]:
    if not found:
        return []
    rows = [_difference_row(c, titles[c.task]) for c in found]
    head = ["Task", "Pair", "Difference", "95 % interval", "p, Holm", "Verdict"]
    return [
        "<h2>Paired differences</h2>",
        "<p>Both encoders predict the same units in the same folds and share each bootstrap draw of subjects. Positive "
        "means that the first is better, whichever way the metric runs. The verdict is by the interval of that task "
        "alone; p is corrected over the tasks of the pair (Holm).</p>",
        page.picture(
            figures.difference_forest(found, titles, colour_of),
            "Forest plot of paired differences in units of their standard errors",
            "Filled: the interval excludes zero.",
        ),
        page.table(head, rows, numeric_from=2),
    ]


def _difference_row(c: Comparison, title: str) -> str:
    style = c.verdict if c.verdict in ("better", "worse") else "quiet"
    d = c.difference
    return (
        f"<tr><td>{page.text(title)}</td><td>{page.text(c.encoder)} − {page.text(c.against)}</td>"
        f'<td class="n">{d.value:+.3g}<small>{page.text(gained(c.metric))}</small></td>'
        f'<td class="n">{d.low:+.3g} to {d.high:+.3g}</td><td class="n">{_p(c.p_holm)}</td>'
        f'<td class="n"><span class="{style}">{c.verdict}</span></td></tr>'
    )


def _details(groups: dict[str, list[Result]], colour_of: dict[str, str]) -> list[str]:
    parts = ["<h2>Task by task</h2>"]
    for group in groups.values():
        task = group[0].task
        controls = [r.encoder for r in group if r.role != "encoder"]
        if task.kind == "binary":
            drawn = figures.binary_detail(group, colour_of)
        elif task.kind == "multiclass":
            drawn = figures.confusion_detail(group, colour_of)
        else:
            drawn = figures.regression_detail(group, colour_of, controls[-1] if controls else "")
        parts.append(f"<h3>{page.text(task.title)}</h3>")
        if task.mechanism:
            parts.append(f'<p class="quiet">How the label reaches the signal: {page.text(task.mechanism)}.</p>')
        parts.append(page.picture(drawn, f"Predictions of {task.title}"))
    return parts


def _methods(results: list[Result], skipped: dict[str, str]) -> list[str]:
    first = results[0]
    identities = dict.fromkeys((r.encoder, r.encoder_id) for r in results)
    facts = [
        ("window store", f"<code>{page.text(first.store)}</code>"),
        *((f"encoder {name}", f"<code>{page.text(identity)}</code>") for name, identity in identities.items()),
        ("seed, bootstrap draws", f"{first.seed}, {first.n_replicates:,}"),
    ]
    left_out = [f"<li><b>{page.text(name)}</b>: {page.text(why)}</li>" for name, why in skipped.items()]
    return [
        "<h2>How this was measured</h2>",
        "<ul><li>The encoder is frozen. Embeddings are standardised on the training subjects; the probe is ridge "
        "regression or L2 logistic regression. For recording and subject tasks, embeddings of the unit's windows are "
        "averaged.</li>"
        "<li>Outer folds share no subject; the penalty is chosen by inner cross-validation, again by subject. "
        "AUROC compares predictions within a fold only.</li>"
        "<li>Intervals resample subjects, not windows, and are widened by the measured covariance between folds that "
        "train on one another; draws are the same for all encoders of a task.</li>"
        "<li>Pretraining saw signals, never labels. Unless the window store was split otherwise, subjects evaluated "
        "here may be among those whose unlabelled signals were used in pretraining.</li></ul>",
        page.definitions(facts),
        *(["<h3>Tasks left out</h3><ul>", *left_out, "</ul>"] if left_out else []),
    ]


def _run_pictures(run_url: str) -> list[tuple[str, bytes]]:
    """Figures of a pretraining run by name, reconstructions first."""
    if not run_url:
        return []
    folder = uri.join(run_url, "figures")
    urls = [u for u in uri.list_urls(folder) if u.endswith(".png")] if uri.exists(folder) else []
    pictures = [(u.rsplit("/", 1)[-1].removesuffix(".png"), uri.read_bytes(u)) for u in sorted(urls)]
    return sorted(pictures, key=lambda item: "reconstruct" not in item[0])


def _parquet(results: list[Result]) -> bytes:
    rows = pa.Table.from_pylist([r.to_row() for r in results])
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())


def _p(value: float) -> str:
    return "–" if value != value else ("<0.001" if value < 0.001 else f"{value:.3f}")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value
