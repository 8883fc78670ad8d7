"""The report, made from committed results alone: HTML with everything inside, JSON and Parquet beside it.

report.html              for people: see `sections`
report.json              scores, differences, tallies, transfer, what was left out and why
results.parquet          a row per fit with its out-of-fold predictions and their digest: see `rows`
transfer.parquet         the same for every cell of the transfer and degradation matrices, where there are any
"""

import dataclasses
import json
from typing import Any

import pyarrow as pa

from xmae_dist.core.errors import InputError
from xmae_dist.data.store.kept import KeptGroup
from xmae_dist.evaluate import environment, kept
from xmae_dist.evaluate.encoders.pretrained import Pretrained, recalled
from xmae_dist.evaluate.report import findings, page, rows
from xmae_dist.evaluate.report.compare import Comparison, comparisons, tallies
from xmae_dist.evaluate.report.sections import render
from xmae_dist.evaluate.report.sections_method import named_encoders
from xmae_dist.evaluate.results import PREDICTION_COLUMNS, Result, ResultTable
from xmae_dist.evaluate.transfer.matrix import Cell, lost
from xmae_dist.evaluate.transfer.requests import CellTable, cell_row, home_of
from xmae_dist.storage import parquet, uri

LEFT_OUT = "left_out.json"


def write_report(out_url: str, report_url: str, *, run_url: str = "", skipped: dict[str, str] | None = None) -> str:
    """Make the files from the results under `out_url`; returns the URL of the HTML.

    With `run_url`, figures of the pretraining run (`<run>/figures/*.png`) are embedded. `skipped` (what was left out,
    with the reason) is kept beside the results; None takes what was kept. Raises InputError when there are no results.
    """
    results = ResultTable(out_url).read()
    if not results:
        raise InputError("results", value=f"none under {out_url}", expected="one or more",
                         fix="run `xmae evaluate` with this --out first")  # fmt: skip
    skipped = _left_out(out_url, skipped)
    cells = _widest(CellTable(out_url).read())
    found, known, shares = comparisons(results), recalled(out_url), kept.recalled(out_url)
    made_with = environment.recalled(out_url)
    document = as_json(results, found, skipped, known, cells, shares)
    files = {
        "report.html": render(results, found, cells, _run_pictures(run_url), skipped, known, shares).encode(),
        "report.json": json.dumps(document, indent=1).encode(),
        page.RESULTS: rows.encoded(results, known, made_with),
    }
    if cells:
        files[page.CELLS] = _cells(cells, known, made_with)
    for name, content in files.items():
        uri.write_bytes(uri.join(report_url, name), content)
    return uri.join(report_url, "report.html")


def as_json(
    results: list[Result],
    found: list[Comparison],
    skipped: dict[str, str],
    known: dict[str, Pretrained],
    cells: list[Cell] | None = None,
    shares: dict[str, list[KeptGroup]] | None = None,
) -> dict[str, Any]:
    """Encoders, scores beside that of a constant, differences, tallies and matrices for programs; NaN becomes null.

    `pretrained_subjects` of a result are the people of the task in the train split of the encoder's pretraining,
    `pretraining_overlap` their share of all; null where that is not known; `known` says it by encoder identity.
    `shares` of windows kept are by window store.
    """
    differences = [dataclasses.asdict(c) | {"verdict": c.verdict} for c in found]
    document = {"format": "xmae-evaluation/v1", "encoders": _encoders(results, known),
                "results": [_plain_row(r.to_row()) | rows.seen(r, known) | _against_constant(r) for r in results],
                "differences": differences, "tallies": [dataclasses.asdict(t) for t in tallies(found)],
                "transfer": _transfer_rows(cells or [], known), "skipped": skipped,
                "kept_by_label": _kept(results, shares or {})}  # fmt: skip
    return _finite(document)


def _encoders(results: list[Result], known: dict[str, Pretrained]) -> list[dict[str, Any]]:
    """Name, role and identity of each encoder, its bundle, and what that states of its pretraining."""
    return [
        {"name": name, "role": role, "id": identity, **_stated(known.get(identity, Pretrained(trained=True)))}
        for name, role, identity in named_encoders(results)
    ]


def _stated(one: Pretrained) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(one).items() if name != "split"}


def _against_constant(result: Result) -> dict[str, Any]:
    return {"constant": findings.constant(result), "better_than_constant": findings.beats_constant(result)}


def _kept(results: list[Result], shares: dict[str, list[KeptGroup]]) -> list[dict[str, Any]]:
    stores = dict.fromkeys(result.store for result in results)
    return [
        {"store": store, **dataclasses.asdict(group), "kept_share": group.kept_share}
        for store in stores
        for group in shares.get(store, ())
    ]


def _plain_row(row: dict[str, Any]) -> dict[str, Any]:
    row = {k: v for k, v in row.items() if k not in PREDICTION_COLUMNS}
    for name in ("task_json", "scores_json", "penalties_json"):
        row[name.removesuffix("_json") if name != "task_json" else "task_spec"] = json.loads(row.pop(name))
    return row


def _transfer_rows(cells: list[Cell], known: dict[str, Pretrained]) -> list[dict[str, Any]]:
    told = []
    for cell in cells:
        home = home_of(cell, cells)
        change = dataclasses.asdict(lost(cell, home)) if home is not None and home is not cell else None
        told.append(_plain_row(cell_row(cell)) | rows.seen(cell.result, known) | {"against_home": change})
    return told


def _cells(cells: list[Cell], known: dict[str, Pretrained], made_with: dict[str, dict[str, str]]) -> bytes:
    told = [cell_row(cell) | rows.beside(cell.result, known, made_with) for cell in cells]
    return parquet.encode(pa.Table.from_pylist(told))


def _widest(cells: list[Cell]) -> list[Cell]:
    """Of rows that were asked for more than once (with other conditions beside), the one with most cells."""
    rows: dict[tuple[str, ...], dict[str, list[Cell]]] = {}
    for cell in cells:
        key = (cell.axis, cell.result.task.name, cell.result.encoder, cell.trained)
        rows.setdefault(key, {}).setdefault(cell.result.request, []).append(cell)
    return [cell for asked in rows.values() for cell in max(asked.values(), key=len)]


def _left_out(out_url: str, skipped: dict[str, str] | None) -> dict[str, str]:
    url = uri.join(out_url, LEFT_OUT)
    if skipped is not None:
        uri.write_bytes(url, json.dumps(skipped, indent=1).encode())
        return skipped
    return dict(json.loads(uri.read_bytes(url))) if uri.exists(url) else {}


def _run_pictures(run_url: str) -> list[tuple[str, bytes]]:
    """Figures of a pretraining run by name, reconstructions first."""
    if not run_url:
        return []
    folder = uri.join(run_url, "figures")
    urls = [u for u in uri.list_urls(folder) if u.endswith(".png")] if uri.exists(folder) else []
    pictures = [(u.rsplit("/", 1)[-1].removesuffix(".png"), uri.read_bytes(u)) for u in sorted(urls)]
    return sorted(pictures, key=lambda item: "reconstruct" not in item[0])


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value
