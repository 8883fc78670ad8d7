"""Batches in the plan's order, read ahead by Ray Data: a Datasource whose read tasks are the plan's blocks.

Each rank runs its own dataset over its own share, so ranks never wait for each other's data and nothing has to
be split: a task reads whole chunks (see `plan`), `preserve_order` keeps the blocks in sequence, and what comes
out is bit for bit what `direct.step_batches` gives. Ray Data's own iterator state is not used: to resume is to
start at another step.

Read amplification, the windows decoded for each window handed to a rank, is 1 + (W + C)·chunk / block at most
(W ranks, C cohorts, block = block_steps · global batch windows): a rank's share of a block begins and ends
inside a chunk, and so may each cohort's.
"""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.data import DataContext, Datasource, ReadTask
from ray.data.block import BlockMetadata

from xmae_dist.cluster import pools
from xmae_dist.core.errors import ConfigError, RunError, XmaeError
from xmae_dist.data.order.plan import Plan
from xmae_dist.data.stream.direct import Batch, Block, RetryConfig, WindowReader, read_block


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """How far and how wide a rank reads ahead; none of it changes a single byte of the batches."""

    readers: int = 2
    """Read tasks of one rank at a time."""
    read_cpus: float = 0.0
    """Logical CPUs that a read task reserves. 0 lets reads run where the training workers hold every CPU; 1 sends
    them to nodes with CPUs to spare."""
    read_label: str = ""
    """key=value: reads run only on nodes with this Ray label, as `ray start --labels` gives it. Empty: those that
    reserve CPUs stay off machines with GPUs, others run anywhere."""
    blocks_ahead: int = 4
    """Blocks that may wait in the object store, read and not yet trained on."""
    leg_blocks: int = 256
    """Blocks in one Ray dataset; a run is one dataset after another, so that a long one needs no long task list."""
    lost_readers: int = 10
    """How often one block may lose its reading process or node before the stream gives up."""
    retry: RetryConfig = field(default_factory=RetryConfig)

    def __post_init__(self) -> None:
        if self.read_label and not all(self.read_label.partition("=")):
            raise ConfigError(
                "read_label", value=repr(self.read_label), expected="key=value, such as role=reader", fix="correct it"
            )

    @property
    def label_selector(self) -> dict[str, str] | None:
        key, _, value = self.read_label.partition("=")
        if key:
            return {key: value}
        return pools.OFF_GPUS if self.read_cpus else None


def step_batches(
    store: WindowReader,
    plan: Plan,
    *,
    start_step: int = 0,
    stop_step: int,
    world: int = 1,
    rank: int = 0,
    config: StreamConfig = StreamConfig(),
    store_ref: ray.ObjectRef | None = None,
) -> Iterator[Batch]:
    """`rank`'s batches of steps [start_step, stop_step), in order, through Ray Data; `store` must be picklable.

    `store_ref`: where `store` lies in the object store already, so that the ranks of a node share one copy.
    Raises IntegrityError for damaged bytes, StorageError when reads keep failing, as the read tasks raised them.
    """
    _quieten()
    shared = (store_ref or ray.put(store), ray.put(plan))
    first, last = plan.columns(world, rank)
    block_bytes = plan.block_steps * (last - first) * _window_bytes(store)
    leg_steps = config.leg_blocks * plan.block_steps
    while start_step < stop_step:
        leg_stop = min((start_step // leg_steps + 1) * leg_steps, stop_step)
        source = PlanDatasource(shared, plan, (start_step, leg_stop), (world, rank), config.retry)
        yield from _leg(source, plan, block_bytes, config)
        start_step = leg_stop


def _quieten() -> None:
    """Ray Data tells the console of every dataset that ends or fails; what matters to us is raised."""
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL)


def _window_bytes(store: WindowReader) -> int:
    return store.spec.length * np.dtype(np.float16).itemsize * (2 if store.spec.paired else 1)


_Shared = tuple[ray.ObjectRef, ray.ObjectRef]
"""The window store and the plan."""


class PlanDatasource(Datasource):
    """Blocks of the plan as read tasks. Each yields one Arrow table: step, id and the signals as stored."""

    def __init__(
        self,
        shared: _Shared,
        plan: Plan,
        steps: tuple[int, int],
        share: tuple[int, int],
        retry: RetryConfig,
    ) -> None:
        super().__init__()
        self._shared, self._share, self._retry = shared, share, retry
        first, last = plan.columns(*share)
        self._width = last - first
        self._blocks = list(plan.blocks(*steps))

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self,
        parallelism: int,
        per_task_row_limit: int | None = None,
        data_context: DataContext | None = None,
    ) -> list[ReadTask]:
        return [self._task(start, stop) for start, stop in self._blocks]

    def _task(self, start: int, stop: int) -> ReadTask:
        shared, share, retry = self._shared, self._share, self._retry
        metadata = BlockMetadata(
            num_rows=(stop - start) * self._width, size_bytes=None, exec_stats=None, input_files=None
        )
        return ReadTask(lambda: [_read_block(shared, (start, stop), share, retry)], metadata)

    @property
    def n_blocks(self) -> int:
        return len(self._blocks)


@functools.lru_cache(maxsize=1)
def _got(store_ref: ray.ObjectRef, plan_ref: ray.ObjectRef) -> tuple[WindowReader, Plan]:
    """Of the stream that this process reads for, once: not for each of its blocks."""
    store, plan = ray.get([store_ref, plan_ref])
    return store, plan


def _read_block(shared: _Shared, steps: tuple[int, int], share: tuple[int, int], retry: RetryConfig) -> pa.Table:
    store, plan = _got(*shared)
    block = read_block(store, plan, steps, share, retry)
    columns = {
        "step": pa.array(np.repeat(np.arange(*steps), block.ids_KB.shape[1])),
        "id": pa.array(block.ids_KB.ravel()),
        "epoch": pa.array(block.epoch_KB.ravel()),
        "repeat": pa.array(block.repeat_KB.ravel()),
        "ppg": _to_arrow(block.ppg_NL),
    }
    if block.ecg_NL is not None:
        columns["ecg"] = _to_arrow(block.ecg_NL)
    return pa.table(columns)


def _to_arrow(signal_NL: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(signal_NL.reshape(-1)), signal_NL.shape[1])


def _from_arrow(table: pa.Table, name: str) -> np.ndarray | None:
    if name not in table.column_names:
        return None
    column = table.column(name).combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=True).reshape(len(column), -1)


def _leg(source: PlanDatasource, plan: Plan, block_bytes: int, config: StreamConfig) -> Iterator[Batch]:
    with DataContext.current(_context(block_bytes, config)), warnings.catch_warnings():
        # No named parameter sets `max_retries`, and by default Ray Data retries for ever: a reader that cannot
        # import this package would be a silent hang.
        warnings.filterwarnings("ignore", message=".*ray_remote_args.*")
        dataset = ray.data.read_datasource(
            source,
            label_selector=config.label_selector,
            ray_remote_args={"num_cpus": config.read_cpus, "max_retries": config.lost_readers},
            concurrency=min(config.readers, source.n_blocks),
            override_num_blocks=source.n_blocks,
        )
        tables = iter(dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1))
    while (table := _next_table(tables)) is not None:
        yield from _block_of(table).batches()


def _context(block_bytes: int, config: StreamConfig) -> DataContext:
    """Ray Data's settings for this stream alone: in order, whole blocks, a bounded lead, no chatter."""
    context = DataContext.get_current().copy()
    options = context.execution_options
    options.preserve_order = True
    options.resource_limits = options.resource_limits.copy(
        object_store_memory=block_bytes * (config.readers + config.blocks_ahead)
    )
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # A block is handed on whole: its steps need each other's chunks.
    context.target_max_block_size = None
    return context


def _next_table(tables: Iterator[Any]) -> pa.Table | None:
    try:
        return next(tables, None)
    except ray.exceptions.RayError as error:
        cause: BaseException | None = error
        # Ray's wrapper of an IntegrityError is an IntegrityError too, but with Ray's message.
        while cause is not None and (isinstance(cause, ray.exceptions.RayError) or not isinstance(cause, XmaeError)):
            cause = getattr(cause, "cause", None) or cause.__cause__
        if cause is None:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            cause = RunError("a task that reads windows", value=lines[-1], fix="see ray-data.log of this session")
        raise cause from error


def _block_of(table: pa.Table) -> Block:
    step_N = table.column("step").to_numpy()
    steps = int(step_N[-1] - step_N[0]) + 1
    names = ("epoch", "id", "repeat")
    epoch_KB, ids_KB, repeat_KB = (table.column(name).to_numpy().reshape(steps, -1) for name in names)
    ppg_NL = _from_arrow(table, "ppg")
    if ppg_NL is None:
        raise RunError("reading ahead", value=table.column_names, expected="a column ppg")
    return Block(
        start_step=int(step_N[0]),
        epoch_KB=epoch_KB,
        ids_KB=ids_KB,
        repeat_KB=repeat_KB,
        ecg_NL=_from_arrow(table, "ecg"),
        ppg_NL=ppg_NL,
    )
