"""Evaluation over a Ray cluster: each encoder embeds what tasks want, then every missing fit is a task.

Fits read the features of their encoder from the object store and come back in any order; each result is committed by
the driver as it arrives, so a kill loses only fits in flight. Encoders are taken in turn: features of as many as
`HELD_BYTES` has room for are fitted together, so that several fill a cluster where they are small, and one encoder's
are held alone where they are large.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import ray

from xmae_dist.cluster import pools
from xmae_dist.cluster.demand import Demand, waited_for
from xmae_dist.cluster.fanout import connect
from xmae_dist.cluster.gpus import to_ask_for
from xmae_dist.core.progress import progress
from xmae_dist.data.store.window_store import WindowStore
from xmae_dist.evaluate import environment
from xmae_dist.evaluate.embedding import embed, fetched, let_go
from xmae_dist.evaluate.encoders.spec import EncoderSpec
from xmae_dist.evaluate.examples import Examples
from xmae_dist.evaluate.members import Members
from xmae_dist.evaluate.pooling import Embedded
from xmae_dist.evaluate.results import Result, ResultTable
from xmae_dist.evaluate.run import FitRequest, Plan, fit
from xmae_dist.evaluate.transfer.matrix import Cell, RowRequest, fit_row
from xmae_dist.evaluate.transfer.requests import CellTable, TransferPlan, degraded

HELD_BYTES = 2**30


def run_fits(plan: Plan, store: WindowStore, out_url: str, *, gpus: float | None = None) -> list[Result]:
    """Embed, fit and commit whatever `plan` asks for and the result table lacks; returns the results of the plan.

    `gpus` is what each task that embeds or fine-tunes asks for: see `xmae_dist.cluster.gpus.to_ask_for`.
    """
    table = ResultTable(out_url)
    committed = table.committed()
    missing = [r for r in plan.requests if r.request not in committed]
    if missing:
        environment.remember(out_url, [r.request for r in missing])
        connect(store_bytes=None)  # features are in it
        examples = {name: Put.of(found) for name, found in plan.examples_of_task.items()}
        with progress("evaluate", len(missing), "fits") as shown:
            for requests, features in _in_turn(missing, plan, store, out_url, gpus):
                for result in fits(requests, examples, features, store, gpus):
                    table.commit(result)
                    shown.advance(note=f"{result.task.name} / {result.encoder}")
    return table.read({r.request for r in plan.requests})


@dataclass(frozen=True)
class Put:
    """Units of a task in the object store."""

    ref: Any
    n_units: int

    @classmethod
    def of(cls, found: Examples) -> Put:
        return cls(ray.put(found), len(found.y_N))


def _in_turn(
    missing: list[FitRequest], plan: Plan, store: WindowStore, out_url: str, gpus: float | None
) -> Iterator[tuple[list[FitRequest], dict[str, Any]]]:
    """Requests that are fitted together, and references to features by identity of the encoder."""
    requests = [r for r in missing if r.protocol == "finetune"]
    by_encoder: dict[str, list[FitRequest]] = {}
    for request in missing:
        if request.protocol != "finetune":
            by_encoder.setdefault(request.encoder.identity, []).append(request)
    features: dict[str, Any] = {}
    held = 0
    for identity, of_encoder in by_encoder.items():
        members = [plan.examples_of_task[name].windows for name in {r.task.name: None for r in of_encoder}]
        encoder, pooling = of_encoder[0].encoder, of_encoder[0].config.pooling
        features[identity], n_bytes = _put(embed(encoder, members, store, out_url, gpus, pooling=pooling))
        requests, held = requests + of_encoder, held + n_bytes
        if held + n_bytes > HELD_BYTES:  # another would not fit beside them
            yield requests, features
            features.clear()  # whoever got it has it still
            requests, held = [], 0
    if requests:
        yield requests, features


def _put(embedded: Embedded) -> tuple[Any, int]:
    return ray.put(embedded), embedded.n_bytes


def fits(
    requests: list[FitRequest],
    examples: Mapping[str, Put],
    features: Mapping[str, Any],
    store: WindowStore | None = None,
    gpus: float | None = None,
) -> Iterator[Result]:
    """Results as they finish; what takes longest starts first, so that no long fit runs alone at the end.

    `examples` are units by task, `features` references by identity of the encoder; `store` and `gpus` are for
    fine-tuning alone.
    """
    tunes = any(r.protocol == "finetune" for r in requests)
    share = to_ask_for(gpus) if tunes else 0.0
    finetune = _finetune.options(num_gpus=share, label_selector=pools.selector(share))
    windows = ray.put(store)

    def submit(r: FitRequest) -> Any:
        if r.protocol == "finetune":
            return finetune.remote(r, examples[r.task.name].ref, windows)
        return _fit.remote(r, examples[r.task.name].ref, features[r.encoder.identity])

    sized = sorted(requests, key=lambda r: (r.protocol != "finetune", -examples[r.task.name].n_units))
    pending = [submit(r) for r in sized]
    with waited_for(Demand.of_tasks("fits", len(pending), gpus=share)):
        while pending:
            done, pending = ray.wait(pending)
            yield from fetched(done)


@ray.remote(num_cpus=1, max_retries=3, label_selector=pools.OFF_GPUS)
def _fit(request: FitRequest, found: Examples, embedded: Embedded) -> Result:
    let_go()
    return fit(request, found, embedded)


@ray.remote(num_cpus=1, max_retries=3)
def _finetune(request: FitRequest, found: Examples, store: WindowStore | None) -> Result:
    from xmae_dist.evaluate.finetune import finetune  # torch: not needed by the workers that only fit

    let_go()
    if store is None:
        raise ValueError("fine-tuning reads windows: it needs their store")
    return finetune(request, found, store)


def run_rows(plan: TransferPlan, store: WindowStore, out_url: str, *, gpus: float | None = None) -> list[Cell]:
    """Embed, fit and commit the rows of `plan` that the table of cells lacks; returns the cells of the plan.

    Encoders follow one another, so that no more than one encoder's features (clean and degraded) are held at once.
    """
    table = CellTable(out_url)
    committed = table.committed()
    missing = [row for row in plan.rows if row.request not in committed]
    by_encoder: dict[str, list[RowRequest]] = {}
    for row in missing:
        by_encoder.setdefault(row.encoder.identity, []).append(row)
    if missing:
        environment.remember(out_url, [row.request for row in missing])
        connect(store_bytes=None)
        conditions: dict[tuple[str, str], Any] = {key: ray.put(dict(units)) for key, units in plan.conditions.items()}
    with progress("transfer", len(missing), "rows") as shown:
        for rows in by_encoder.values():
            features = _features_of_rows(rows, plan, store, out_url, gpus)
            pending = [_fit_row.remote(row, conditions[row.axis, row.task.name], *_by_condition(row, plan, features))
                       for row in rows]  # fmt: skip
            with waited_for(Demand.of_tasks("rows", len(pending))):
                while pending:
                    done, pending = ray.wait(pending)
                    for cells in fetched(done):
                        table.commit(cells)
                        shown.advance(note=f"{cells[0].result.task.name} / {cells[0].result.encoder}")
            del features
    return table.read({row.request for row in plan.rows})


def _features_of_rows(
    rows: list[RowRequest], plan: TransferPlan, store: WindowStore, out_url: str, gpus: float | None
) -> dict[str, Any]:
    """References to the features of one encoder, clean and degraded, by identity of the encoder that sees them."""
    specs: dict[str, EncoderSpec] = {}
    members: dict[str, list[Members]] = {}
    for axis, task in {(row.axis, row.task.name): None for row in rows}:
        for name, units in plan.conditions[axis, task].items():
            spec = degraded(rows[0].encoder, name)
            specs[spec.identity] = spec
            members.setdefault(spec.identity, []).append(units.windows)
    pooling = rows[0].config.pooling
    return {
        identity: ray.put(embed(spec, members[identity], store, out_url, gpus, pooling=pooling))
        for identity, spec in specs.items()
    }


def _by_condition(row: RowRequest, plan: TransferPlan, features: dict[str, Any]) -> list[Any]:
    return [features[degraded(row.encoder, name).identity] for name in plan.conditions[row.axis, row.task.name]]


@ray.remote(num_cpus=1, max_retries=3, label_selector=pools.OFF_GPUS)
def _fit_row(row: RowRequest, conditions: Mapping[str, Examples], *features: Embedded) -> list[Cell]:
    let_go()
    return fit_row(row, conditions, dict(zip(conditions, features, strict=True)))
