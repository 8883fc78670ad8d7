"""Which rows of the transfer and degradation matrices are asked for, and the table that keeps them.

    <out>/transfer/    Delta table, a row per cell: the columns of a result, the axis and its two conditions

A row of a matrix (one probe, tested everywhere) is committed at once, under its request as application transaction.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from xmae_dist.core.errors import InputError, UsageError
from xmae_dist.evaluate.encoders.degradation import Degradation
from xmae_dist.evaluate.encoders.spec import EncoderSpec
from xmae_dist.evaluate.examples import Examples
from xmae_dist.evaluate.gathering import gathered_by
from xmae_dist.evaluate.labels import available_labels
from xmae_dist.evaluate.results import SCHEMA, Result, rows_of
from xmae_dist.evaluate.run import Plan
from xmae_dist.evaluate.transfer.matrix import (
    CLEAN,
    Cell,
    RowRequest,
    conditions_of,
    folds_of_conditions,
    row_request,
)
from xmae_dist.storage import uri
from xmae_dist.storage.table import Table

DEGRADATION = "degradation"
CELL_SCHEMA = pa.schema([("axis", pa.string()), ("trained", pa.string()), ("tested", pa.string()), *SCHEMA])


@dataclass(frozen=True, kw_only=True)
class TransferPlan:
    """Rows to be fitted, the units of every (axis, task) by condition, and what is left out with the reason."""

    rows: tuple[RowRequest, ...] = ()
    conditions: Mapping[tuple[str, str], Mapping[str, Examples]] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)


def plan_transfer(
    plan: Plan, windows: Iterable[pa.Table], *, by: Iterable[str] = (), degradations: Iterable[Degradation] = ()
) -> TransferPlan:
    """Rows for every task and encoder of `plan`: trained in each condition of each axis of `by`, and on clean windows
    to be tested on degraded ones. Goes through the windows once an axis. Raises UsageError for an axis that they do
    not have.
    """
    conditions: dict[tuple[str, str], dict[str, Examples]] = {}
    skipped: dict[str, str] = {}
    names = [CLEAN, *(d.name for d in degradations)]
    first = {request.task.name: request for request in reversed(plan.requests)}
    axes = tuple(by)
    _check_axes(axes, windows)
    for axis in axes:
        config = plan.requests[0].config
        found = gathered_by(axis, [request.task for request in first.values()], windows, limit=config.limit)
        for name, request in first.items():
            try:
                conditions[axis, name] = conditions_of(request.task, axis, found[name])
                folds_of_conditions(request.task, conditions[axis, name], config)
            except InputError as error:
                conditions.pop((axis, name), None)
                skipped[f"{name} by {axis}"] = str(error)
    if len(names) > 1:
        for name in first:
            conditions[DEGRADATION, name] = dict.fromkeys(names, plan.examples_of_task[name])
    once = {(request.task.name, request.encoder.identity): request for request in reversed(plan.requests)
            if request.encoder.role != "checkpoint"}  # fmt: skip
    rows = [
        row_request(axis, trained, _blank(request), conditions[axis, request.task.name])
        for request in reversed(once.values())
        for axis in (*axes, DEGRADATION)
        if (axis, request.task.name) in conditions
        for trained in ([CLEAN] if axis == DEGRADATION else conditions[axis, request.task.name])
    ]
    return TransferPlan(rows=tuple(rows), conditions=conditions, skipped=skipped)


def degraded(encoder: EncoderSpec, condition: str) -> EncoderSpec:
    """The encoder that sees windows of `condition`: itself, or behind a degradation."""
    if "=" not in condition:
        return encoder
    return dataclasses.replace(encoder, degrade=condition, identity=f"{encoder.identity}+{condition}")


class CellTable:
    """The cells of an evaluation, at `<out>/transfer` (Delta)."""

    def __init__(self, out_url: str) -> None:
        self._table = Table(uri.join(out_url, "transfer"))

    def committed(self) -> set[str]:
        """Requests of rows that need no fit."""
        if not self._table.exists():
            return set()
        return set(self._table.read(columns=["request"])["request"].to_pylist())

    def commit(self, cells: list[Cell]) -> bool:
        """Append a row of a matrix; False when its request was committed before, by whomever."""
        request = cells[0].result.request
        rows = pa.Table.from_pylist([cell_row(c) for c in cells], schema=CELL_SCHEMA)
        return self._table.append(rows, txn=(request, 1)) is not None

    def read(self, requests: set[str] | None = None) -> list[Cell]:
        """Cells in a fixed order; `requests` selects rows of matrices."""
        if not self._table.exists():
            return []
        cells = [
            Cell(axis=row["axis"], trained=row["trained"], tested=row["tested"], result=Result.from_row(row))
            for row in rows_of(self._table, requests)
        ]
        return sorted(cells, key=lambda c: (c.axis, c.result.task.name, c.result.encoder, c.trained, c.tested))


def cell_row(cell: Cell) -> dict[str, Any]:
    """A cell as a row of its table."""
    return {"axis": cell.axis, "trained": cell.trained, "tested": cell.tested, **cell.result.to_row()}


def home_of(cell: Cell, cells: Iterable[Cell]) -> Cell | None:
    """The cell that a change is measured from, on the same units: trained where tested, or tested clean."""
    key = (cell.axis, cell.result.task.name, cell.result.encoder)
    where = (CLEAN, CLEAN) if cell.axis == DEGRADATION else (cell.tested, cell.tested)
    same = (c for c in cells if (c.axis, c.result.task.name, c.result.encoder) == key)
    return next((c for c in same if (c.trained, c.tested) == where), None)


def _blank(request: object) -> RowRequest:
    names = ("suite", "suite_title", "task", "encoder", "store", "config")
    return RowRequest(request="", axis="", trained="", **{name: getattr(request, name) for name in names})


def _check_axes(axes: tuple[str, ...], windows: Iterable[pa.Table]) -> None:
    known = available_labels(windows) if axes else []
    for axis in axes:
        if axis not in known:
            raise UsageError("--transfer-by", value=axis, expected="device, body_site, or one of " + ", ".join(known))
