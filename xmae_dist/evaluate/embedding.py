"""Embedding over a Ray cluster: what tasks want of one encoder, in blocks, pooled as they come back.

A block's embeddings are kept under `<out>/embeddings/<digest>.npy`, so a restart embeds only what is missing, and so
does a task that is added later as far as it wants the same windows. A task of the cluster answers with what the pool
keeps of its block. No more blocks are under way than keep the cluster busy, whatever the size of the store, and what
all of them need (encoder, store) is put into the object store once.
"""

from __future__ import annotations

import functools
import io
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from xmae_dist.cluster import pools
from xmae_dist.cluster.demand import Demand, waited_for
from xmae_dist.cluster.fanout import cores, told
from xmae_dist.cluster.gpus import to_ask_for
from xmae_dist.core.errors import InputError
from xmae_dist.core.fingerprint import digest_json, sha256_hex
from xmae_dist.core.progress import progress
from xmae_dist.data.store.window_store import WindowStore
from xmae_dist.evaluate.encoders.spec import EncoderSpec
from xmae_dist.evaluate.members import Members
from xmae_dist.evaluate.pooling import Block, Embedded, Pool, Pooled, Wanted
from xmae_dist.storage import uri

BLOCK_WINDOWS = 2048
_BLOCKS_PER_CORE = 2


def embed(
    spec: EncoderSpec,
    members: Iterable[Members],
    store: WindowStore,
    out_url: str,
    gpus: float | None = None,
    *,
    pooling: str = "mean",
) -> Embedded:
    """What tasks want of one encoder; `members` are their windows, `pooling` one of `POOLINGS`.

    Raises the XmaeError of a block, or RunError.
    """
    wanted = Wanted(members, pooling)
    pool: Pool | None = None
    n_blocks = -(-wanted.n_windows // BLOCK_WINDOWS)
    with progress("embed", n_blocks, f"blocks of {BLOCK_WINDOWS} windows") as shown:
        for block, found in _embedded_blocks(spec, wanted, store, out_url, gpus):
            pool = pool or Pool(wanted, found.n_features)
            pool.add(block, found)
            shown.advance(1, spec.name)
    if pool is None:
        raise InputError(f"encoder {spec.name}", value="no windows", expected="windows that a task wants")
    return pool.embedded()


def _embedded_blocks(
    spec: EncoderSpec, wanted: Wanted, store: WindowStore, out_url: str, gpus: float | None
) -> Iterator[tuple[Block, Pooled]]:
    """Blocks in their order: the same sums to the last bit, whatever the cluster."""
    share = to_ask_for(gpus)
    embed_block = _embed_block.options(num_gpus=share, label_selector=pools.selector(share))
    shared = [ray.put((spec, store))]  # in a list: a task takes it once, not with every block
    under_way: deque[tuple[Block, Any]] = deque()
    with waited_for(Demand.of_tasks("blocks", _BLOCKS_PER_CORE * cores(), gpus=share)):
        for block in wanted.blocks(BLOCK_WINDOWS):
            under_way.append((block, embed_block.remote(shared, block, block_url(spec, store, block.ids_B, out_url))))
            if len(under_way) > _BLOCKS_PER_CORE * cores():
                yield _first(under_way)
        while under_way:
            yield _first(under_way)


def _first(under_way: deque[tuple[Block, Any]]) -> tuple[Block, Pooled]:
    block, ref = under_way.popleft()
    return block, fetched(ref)


def block_url(spec: EncoderSpec, store: WindowStore, ids_B: NDArray[np.int64], out_url: str) -> str:
    digest = digest_json({"encoder": spec.identity, "store": store.fingerprint, "ids": sha256_hex(ids_B)})
    return uri.join(out_url, "embeddings", f"{digest}.npy")


@ray.remote(num_cpus=1, max_retries=3)
def _embed_block(shared: list[Any], block: Block, url: str) -> Pooled:
    if uri.exists(url):
        return block.pooled(np.load(io.BytesIO(uri.read_bytes(url))))
    spec, store, encoder = _ready(shared[0])
    ecg_BL, ppg_BL = store.read(block.ids_B)
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
    return block.pooled(embedding_BE)


@functools.lru_cache(maxsize=1)
def _ready(shared: Any) -> tuple[EncoderSpec, WindowStore, Any]:
    """The encoder and the store, opened once in a process, not once a block."""
    from xmae_dist.evaluate.encoders.frozen import open_encoder  # torch: not needed by the workers that only fit

    spec, store = ray.get(shared)
    return spec, store, open_encoder(spec, store.spec)


def let_go() -> None:
    """Frees the encoder that this process embedded with: fits need its memory."""
    _ready.cache_clear()


def fetched(refs: Any) -> Any:
    """`ray.get` that raises a task's own XmaeError as it was, and RunError for what a cluster did to a task."""
    try:
        return ray.get(refs)
    except ray.exceptions.RayError as error:
        raise told(error) from error
