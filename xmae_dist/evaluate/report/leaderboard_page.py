"""A leaderboard as Markdown, the finding first, and as one JSON object."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from xmae_dist.evaluate.report.compare import Comparison, tallies
from xmae_dist.evaluate.report.findings import constant, decimals
from xmae_dist.evaluate.report.leaderboard import Board
from xmae_dist.evaluate.report.rows import Told
from xmae_dist.evaluate.scores.metrics import METRICS

_MARKS = {"better": " ▲", "worse": " ▼", "no difference shown": " ="}


def markdown(board: Board, digests: Mapping[str, str]) -> str:
    """The page. `digests`: SHA-256 of each file, by URL."""
    parts = [["# Leaderboard"], _finding(board), _scores(board), _seen(board), _files(board, digests)]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def document(board: Board, digests: Mapping[str, str]) -> dict[str, Any]:
    """Scores, differences and files for programs; what is not known is null."""
    scores = [
        {
            "task": task,
            "encoder": name,
            "metric": told.result.task.metric,
            **{key: _finite(value) for key, value in dataclasses.asdict(told.result.headline).items()},
            "people": told.result.n_subjects,
            "units": len(told.result.unit_names),
            "constant": constant(told.result),
            "pretraining_overlap": told.overlap,
            "environment": told.environment,
            "request": told.result.request,
            "file": told.source,
        }
        for task, entries in board.by_task.items()
        for name, told in entries.items()
    ]
    found = [{**dataclasses.asdict(one), "verdict": one.verdict, "p_holm": _finite(one.p_holm)} for one in board.found]
    return {
        "format": "xmae-leaderboard/v1",
        "against": board.reference,
        "scores": scores,
        "differences": [{**one, "difference": {k: _finite(v) for k, v in one["difference"].items()}} for one in found],
        "files": [{"url": url, "sha256": digest} for url, digest in digests.items()],
    }


def _finding(board: Board) -> list[str]:
    best = [board.best(task) for task in board.by_task]
    told = {one.encoder: one for one in tallies(list(board.found))}
    lines = [f"**Against `{board.reference}`, {len(board.by_task)} tasks:**\n"]
    for name in board.names:
        leads = f"best score on {best.count(name)}"
        if name == board.reference:
            lines.append(f"- `{name}`: {leads}.")
        elif name in told:
            one = told[name]
            lines.append(
                f"- `{name}`: better on {one.better} ({one.better_after_holm} after Holm), worse on {one.worse} "
                f"({one.worse_after_holm}), of {one.tasks} with the same people and folds; {leads}."
            )
        else:
            lines.append(f"- `{name}`: no task of the same people and folds, so nothing is said; {leads}.")
    return lines


def _scores(board: Board) -> list[str]:
    found = {(one.task, one.encoder): one for one in board.found}
    lines = [
        "## Scores\n",
        f"With 95 % intervals over people. ▲ better, ▼ worse than `{board.reference}`: the interval of the paired "
        "difference excludes zero; = not shown; no mark: not the same people and folds. Bold: best score of the row. "
        "Constant: what a prediction that knows nothing of the signal scores.\n",
        _row(["task", "metric", "people", *(f"`{name}`" for name in board.names), "constant"]),
        "|---" * (len(board.names) + 4) + "|",
    ]
    for task, entries in board.by_task.items():
        group = [told.result for told in entries.values()]
        digits, best = decimals(group), board.best(task)
        cells = [_cell(entries.get(name), found.get((task, name)), digits, name == best) for name in board.names]
        level = constant(group[0])
        last = "" if level is None else f"{level:.{digits}f}"
        lines.append(_row([task, _metric(group[0].task), _people(entries), *cells, last]))
    return lines


def _cell(told: Told | None, found: Comparison | None, digits: int, best: bool) -> str:
    if told is None:
        return ""
    score, mark = told.result.headline, "" if found is None else _MARKS[found.verdict]
    value = f"**{score.value:.{digits}f}**" if best else f"{score.value:.{digits}f}"
    return f"{value} [{score.low:.{digits}f}, {score.high:.{digits}f}]{mark}"


def _metric(task: Any) -> str:
    arrow = "↑" if METRICS[task.metric].higher_is_better else "↓"
    unit = f", {task.label_unit}" if task.metric == "mae" and task.label_unit else ""
    return f"{METRICS[task.metric].title}{unit} {arrow}"


def _people(entries: Mapping[str, Told]) -> str:
    return " / ".join(f"{n:,}" for n in dict.fromkeys(told.result.n_subjects for told in entries.values()))


def _seen(board: Board) -> list[str]:
    lines = [
        "## Seen in pretraining\n",
        "Share of a task's people in the train split of the encoder's pretraining: their signals, not their labels.\n",
        _row(["task", *(f"`{name}`" for name in board.names)]),
        "|---" * (len(board.names) + 1) + "|",
    ]
    for task, entries in board.by_task.items():
        lines.append(_row([task, *(_overlap(entries.get(name)) for name in board.names)]))
    return lines


def _overlap(told: Told | None) -> str:
    if told is None:
        return ""
    return "not stated" if told.overlap is None else f"{100 * told.overlap:.0f} %"


def _files(board: Board, digests: Mapping[str, str]) -> list[str]:
    rows = [told for entries in board.by_task.values() for told in entries.values()]
    lines = ["## Files\n", _row(["file", "SHA-256", "rows", "made with"]), "|---|---|---|---|"]
    for url, digest in digests.items():
        mine = [told for told in rows if told.source == url]
        lines.append(_row([f"`{url.rsplit('/', 1)[-1]}`", f"`{digest[:16]}…`", str(len(mine)), _made_with(mine)]))
    return lines


def _made_with(rows: Sequence[Told]) -> str:
    stated = dict.fromkeys(
        ", ".join(f"{name} {version}" for name, version in sorted(told.environment.items()))
        for told in rows
        if told.environment is not None
    )
    return "; ".join(stated) or "not stated"


def _row(cells: Sequence[str]) -> str:
    """Names in files of others may hold anything: none ends a cell or a line."""
    safe = (" ".join(cell.split()).replace("|", "\\|").replace("<", "&lt;") for cell in cells)
    return f"| {' | '.join(safe)} |"


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
