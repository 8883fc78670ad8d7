"""Copies to a GPU that nothing waits for, on a CPU that answers as a machine with a GPU does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from xmae_dist.data.stream.collate import collate
from xmae_dist.data.stream.direct import Batch
from xmae_dist.model import presets
from xmae_dist.train.engines.deepspeed import ZeroConfig, _settings
from xmae_dist.train.engines.optimizer import OptimizerConfig
from xmae_dist.train.engines.protocol import adamw
from xmae_dist.train.step.batch import Share
from xmae_dist.train.step.collective import Ranks

CUDA = torch.device("cuda")


class Copies:
    """What is pinned, and how tensors are sent to the GPU that is not there."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._pinned: dict[int, torch.Tensor] = {}  # kept, so that no storage takes the place of another
        self.sent: list[tuple[bool, bool]] = []
        """(from pinned memory, asked for and not waited for) of each."""
        to = torch.Tensor.to

        def sent(tensor: torch.Tensor, *where: Any, non_blocking: bool = False, **options: Any) -> torch.Tensor:
            if where and where[0] == CUDA:
                self.sent.append((self.holds(tensor), non_blocking))
                return tensor
            return to(tensor, *where, non_blocking=non_blocking, **options)

        patch.setattr(torch.Tensor, "pin_memory", self._pin)
        patch.setattr(torch.Tensor, "is_pinned", self.holds)
        patch.setattr(torch.Tensor, "to", sent)

    @property
    def _pin(self) -> Any:
        def pin(tensor: torch.Tensor) -> torch.Tensor:
            copy = tensor.clone()
            self._pinned[copy.untyped_storage().data_ptr()] = copy
            return copy

        return pin

    @property
    def holds(self) -> Any:
        return lambda tensor: tensor.untyped_storage().data_ptr() in self._pinned


def batch() -> Batch:
    signal_BL = np.zeros((4, 100), np.float32)
    return Batch(
        step=0,
        epoch_B=np.zeros(4, np.int64),
        ids_B=np.arange(4),
        repeat_B=np.zeros(4, np.int64),
        ecg_BL=signal_BL,
        ppg_BL=signal_BL,
    )


def test_a_micro_batch_is_sent_from_pinned_memory_and_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    copies = Copies(monkeypatch)
    found = collate(batch(), pin=True)
    assert copies.holds(found.ppg_BL) and copies.holds(found.ecg_BL)
    model = presets.build("tiny_beats", length=100, width=16, heads=2)
    share = Share.of(found, (torch.arange(10) > 2).expand(4, -1), torch.zeros(4, dtype=torch.int64), model)
    assert len(list(share.micro_batches(2, CUDA))) == 2
    assert copies.sent == [(True, True)] * 12  # signals, mask, indices, cohorts and what was measured, twice


def test_what_ranks_agree_on_is_sent_likewise(monkeypatch: pytest.MonkeyPatch) -> None:
    copies = Copies(monkeypatch)
    assert Ranks(device=CUDA).sum_later([1.0, 2.0], torch.zeros(1)).read() == [1.0, 2.0, 0.0]
    assert copies.sent == [(True, True)]


@pytest.mark.parametrize(("device", "is_gpu"), [("cuda", True), ("cpu", False)])
def test_deepspeed_reduces_beside_computing_and_offloads_to_pinned_memory_on_gpus(device: str, is_gpu: bool) -> None:
    zero = ZeroConfig(stage=3, offload_optimizer=True, offload_parameters=True)
    settings = _settings(zero, OptimizerConfig(), 1, 1, 1000, torch.device(device))["zero_optimization"]
    assert settings["overlap_comm"] is is_gpu
    assert settings["offload_optimizer"]["pin_memory"] is settings["offload_param"]["pin_memory"] is is_gpu


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_optimizer_is_one_kernel(device: str) -> None:
    assert adamw(nn.Linear(2, 2), OptimizerConfig(), torch.device(device)).defaults["fused"] is True
