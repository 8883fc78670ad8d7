"""Evaluation over a Ray cluster: each encoder embeds the windows once, then every missing fit is a task.

Embeddings are kept under `<out>/embeddings/<digest>/` in blocks of windows, so a restart embeds only what is missing.
Fits read the embeddings of their encoder from the object store and come back in any order; each result is committed
by the driver as it arrives, so a kill loses only fits in flight.
"""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from xmae_dist.cluster.fanout import connect, told
from xmae_dist.cluster.gpus import to_ask_for
from xmae_dist.core.errors import InputError
from xmae_dist.core.fingerprint import digest_json, sha256_hex
from xmae_dist.core.progress import progress
from xmae_dist.data.store.window_store import WindowStore
from xmae_dist.evaluate.encoders.spec import EncoderSpec
from xmae_dist.evaluate.results import Result, ResultTable
from xmae_dist.evaluate.run import FitRequest, Plan, fit
from xmae_dist.evaluate.transfer.matrix import Cell, RowRequest, fit_row
from xmae_dist.evaluate.transfer.requests import CellTable, TransferPlan, degraded
from xmae_dist.storage import uri

BLOCK_WINDOWS = 2048


def run_fits(
    plan: Plan, store: WindowStore, window_ids_W: NDArray[np.int64], out_url: str, *, gpus: float | None = None
) -> list[Result]:
    """Embed, fit and commit whatever `plan` asks for and the result table lacks; returns the results of the plan.

    `gpus` is what each task that embeds or fine-tunes asks for: see `xmae_dist.cluster.gpus.to_ask_for`.
    """
    table = ResultTable(out_url)
    committed = table.committed()
    missing = [r for r in plan.requests if r.request not in committed]
    if missing:
        connect(store_bytes=None)  # embeddings are in it
        encoders = list({r.encoder.identity: r.encoder for r in missing if r.protocol != "finetune"}.values())
        embedded = embed_all(encoders, store, window_ids_W, out_url, gpus)
        with progress("evaluate", len(missing), "fits") as shown:
            for result in fits(missing, plan, embedded, (store, window_ids_W), gpus):
                table.commit(result)
                shown.advance(note=f"{result.task.name} / {result.encoder}")
    return table.read({r.request for r in plan.requests})


def embed_all(
    encoders: list[EncoderSpec],
    store: WindowStore,
    window_ids_W: NDArray[np.int64],
    out_url: str,
    gpus: float | None = None,
) -> dict[str, Any]:
    """Object references to the (W, E) embeddings by encoder identity."""
    embed_block = _embed_block.options(num_gpus=to_ask_for(gpus))
    starts = range(0, len(window_ids_W), BLOCK_WINDOWS)
    blocks = {
        spec.identity: [
            embed_block.remote(
                spec, store, window_ids_W[i : i + BLOCK_WINDOWS], block_url(spec, store, window_ids_W, i, out_url)
            )
            for i in starts
        ]
        for spec in encoders
    }
    pending = [ref for refs in blocks.values() for ref in refs]
    with progress("embed", len(pending), f"blocks of {BLOCK_WINDOWS} windows") as shown:
        while pending:
            done, pending = ray.wait(pending)
            shown.advance(len(done))
    return {identity: ray.put(np.concatenate(fetched(refs))) for identity, refs in blocks.items()}


def block_url(spec: EncoderSpec, store: WindowStore, window_ids_W: NDArray[np.int64], start: int, out_url: str) -> str:
    block = window_ids_W[start : start + BLOCK_WINDOWS]
    digest = digest_json({"encoder": spec.identity, "store": store.fingerprint, "ids": sha256_hex(block)})
    return uri.join(out_url, "embeddings", f"{digest}.npy")


@ray.remote(num_cpus=1, max_retries=3)
def _embed_block(spec: EncoderSpec, store: WindowStore, ids_B: NDArray[np.int64], url: str) -> NDArray[np.float32]:
    if uri.exists(url):
        return np.asarray(np.load(io.BytesIO(uri.read_bytes(url))))
    from xmae_dist.evaluate.encoders.frozen import open_encoder  # torch: not needed by the workers that only fit

    encoder = open_encoder(spec, store.spec)
    ecg_BL, ppg_BL = store.read(ids_B)
    x_BL = ecg_BL if encoder.reads == "ecg" else ppg_BL
    if x_BL is None:
        raise InputError(
            f"encoder {spec.name}", value=f"reads {encoder.reads}", expected="a window store that holds it",
            fix="materialise windows with both signals",
        )  # fmt: skip
    embedding_BE = encoder.encode(x_BL.astype(np.float32))
    buffer = io.BytesIO()
    np.save(buffer, embedding_BE)
    uri.write_bytes(url, buffer.getvalue())
    return embedding_BE


@ray.remote(num_cpus=1, max_retries=3)
def _fit(request: FitRequest, found: Any, embedding_WE: NDArray[np.float32]) -> Result:
    return fit(request, found, embedding_WE)


def run_rows(
    plan: TransferPlan, store: WindowStore, window_ids_W: NDArray[np.int64], out_url: str, *, gpus: float | None = None
) -> list[Cell]:
    """Embed, fit and commit the rows of `plan` that the table of cells lacks; returns the cells of the plan.

    Encoders follow one another, so that no more than one encoder's embeddings (clean and degraded) are held at once.
    """
    table = CellTable(out_url)
    committed = table.committed()
    missing = [row for row in plan.rows if row.request not in committed]
    by_encoder: dict[str, list[RowRequest]] = {}
    for row in missing:
        by_encoder.setdefault(row.encoder.identity, []).append(row)
    if missing:
        connect(store_bytes=None)
        conditions = {key: ray.put(dict(units)) for key, units in plan.conditions.items()}
    with progress("transfer", len(missing), "rows") as shown:
        for rows in by_encoder.values():
            names = {name for row in rows for name in plan.conditions[row.axis, row.task.name]}
            specs = {name: degraded(rows[0].encoder, name) for name in names}
            unique = list({spec.identity: spec for spec in specs.values()}.values())
            embedded = embed_all(unique, store, window_ids_W, out_url, gpus)
            pending = [_fit_row.remote(row, conditions[row.axis, row.task.name], *_by_condition(row, plan, embedded))
                       for row in rows]  # fmt: skip
            while pending:
                done, pending = ray.wait(pending)
                for cells in fetched(done):
                    table.commit(cells)
                    shown.advance(note=f"{cells[0].result.task.name} / {cells[0].result.encoder}")
    return table.read({row.request for row in plan.rows})


def _by_condition(row: RowRequest, plan: TransferPlan, embedded: dict[str, Any]) -> list[Any]:
    return [embedded[degraded(row.encoder, name).identity] for name in plan.conditions[row.axis, row.task.name]]


@ray.remote(num_cpus=1, max_retries=3)
def _fit_row(row: RowRequest, conditions: Any, *embeddings: NDArray[np.float32]) -> list[Cell]:
    return fit_row(row, conditions, dict(zip(conditions, embeddings, strict=True)))


@ray.remote(num_cpus=1, max_retries=3)
def _finetune(request: FitRequest, found: Any, source: Any) -> Result:
    from xmae_dist.evaluate.finetune import finetune  # torch, as above

    return finetune(request, found, *source)


def fits(
    missing: list[FitRequest],
    plan: Plan,
    embedded: dict[str, Any],
    source: tuple[WindowStore, NDArray[np.int64]] | None = None,
    gpus: float | None = None,
) -> Iterator[Result]:
    """Results as they finish; what takes longest starts first, so that no long fit runs alone at the end.

    `source`, the store and the ids of its windows, and `gpus` are for fine-tuning alone.
    """
    tunes = any(r.protocol == "finetune" for r in missing)
    finetune = _finetune.options(num_gpus=to_ask_for(gpus)) if tunes else _finetune
    examples = {name: ray.put(found) for name, found in plan.examples_of_task.items()}
    windows = ray.put(source)

    def submit(r: FitRequest) -> Any:
        if r.protocol == "finetune":
            return finetune.remote(r, examples[r.task.name], windows)
        return _fit.remote(r, examples[r.task.name], embedded[r.encoder.identity])

    sized = sorted(missing, key=lambda r: (r.protocol != "finetune", -len(plan.examples_of_task[r.task.name].y_N)))
    pending = [submit(r) for r in sized]
    while pending:
        done, pending = ray.wait(pending)
        yield from fetched(done)


def fetched(refs: Any) -> Any:
    """`ray.get` that raises a task's own XmaeError as it was, and RunError for what a cluster did to a task."""
    try:
        return ray.get(refs)
    except ray.exceptions.RayError as error:
        raise told(error) from error
