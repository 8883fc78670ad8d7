"""From NumPy batches to torch tensors, pinned where that makes the copy to a device asynchronous."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from xmae_dist.data.stream.direct import Batch


@dataclass(frozen=True, kw_only=True)
class TensorBatch:
    """A `Batch` as tensors: epochs, ids and repeats int64 (B,), signals float32 (B, L)."""

    step: int
    epoch_B: torch.Tensor
    ids_B: torch.Tensor
    repeat_B: torch.Tensor
    ecg_BL: torch.Tensor | None
    ppg_BL: torch.Tensor


def collate(batch: Batch, *, pin: bool) -> TensorBatch:
    """`batch` as tensors that share its memory, or with `pin` as pinned copies, which are for a GPU.

    Pinning opens a CUDA context, so it is for whoever trains on a GPU to ask for, not for the machine to offer.
    """

    def tensor(array: object) -> torch.Tensor:
        shared = torch.as_tensor(array)
        return shared.pin_memory() if pin else shared

    return TensorBatch(
        step=batch.step,
        epoch_B=tensor(batch.epoch_B),
        ids_B=tensor(batch.ids_B),
        repeat_B=tensor(batch.repeat_B),
        ecg_BL=None if batch.ecg_BL is None else tensor(batch.ecg_BL),
        ppg_BL=tensor(batch.ppg_BL),
    )


def tensor_batches(batches: Iterable[Batch], *, ahead: int = 2, pin: bool = False) -> Iterator[TensorBatch]:
    """Collates in a thread, up to `ahead` batches before they are asked for; errors arrive in their place.

    Reading starts at the call, not at the first batch, so what a caller does between is time saved.
    """
    ready: queue.Queue[TensorBatch | BaseException | None] = queue.Queue(maxsize=ahead)
    stopped = threading.Event()

    def offer(item: TensorBatch | BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for batch in batches:
                if not offer(collate(batch, pin=pin)):
                    return
            offer(None)
        except BaseException as error:  # noqa: BLE001  (raised again in the consumer's thread)
            offer(error)

    thread = threading.Thread(target=work, name="collate", daemon=True)
    thread.start()
    return _taken(ready, stopped, thread)


def _taken(
    ready: queue.Queue[TensorBatch | BaseException | None],
    stopped: threading.Event,
    thread: threading.Thread,
) -> Iterator[TensorBatch]:
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join(timeout=10)
