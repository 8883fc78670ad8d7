"""DistributedDataParallel with its default settings trains every preset but the published one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from xmae_dist.model import presets
from xmae_dist.model.mask import masks
from xmae_dist.testing.ranks import run_ranks

SMALL = {"width": 32, "heads": 4}


def _two_steps(rank: int, world: int) -> dict[str, str]:
    """What went wrong with each preset in two steps, on this rank; DDP finds unused parameters at the second."""
    found = {}
    for name in presets.NAMES:
        torch.manual_seed(rank)  # other weights on each rank: DDP must make them equal
        model = presets.build(name, **SMALL)
        wrapped = DistributedDataParallel(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        try:
            for step in range(2):
                optimizer.zero_grad()
                wrapped(*_batch(model.config, seed=10 * step + rank)).backward()
                optimizer.step()
        except RuntimeError as error:
            unused = "finished reduction in the prior iteration" in str(error)
            found[name] = "unused parameters" if unused else str(error)
            continue
        still = [key for key, weight in model.named_parameters() if not _moved(weight)]
        weights = torch.cat([weight.detach().flatten() for weight in model.parameters()])
        everyone = [torch.empty_like(weights) for _ in range(world)]
        torch.distributed.all_gather(everyone, weights)
        apart = not torch.equal(everyone[0], everyone[1])
        found[name] = f"no gradient: {still}" if still else "ranks apart" if apart else "trains"
    return found


def _moved(weight: torch.Tensor) -> bool:
    return weight.grad is not None and bool(weight.grad.isfinite().all()) and bool(weight.grad.abs().max() > 0)


def _batch(config, seed):
    generator = torch.Generator().manual_seed(seed)
    ppg_BL, ecg_BL = torch.randn(2, 2, config.length, generator=generator)
    mask_BN = masks(0, 0, [seed, seed + 1], config.n_patches, config.mask_ratio, config.mask_mode)
    return ppg_BL, ecg_BL, torch.as_tensor(mask_BN)


@pytest.mark.slow
def test_distributed_data_parallel_with_default_settings_trains(tmp_path: Path) -> None:
    expected = dict.fromkeys(presets.NAMES, "trains") | {"published": "unused parameters"}
    assert run_ranks(2, _two_steps, tmp_path) == [expected, expected]
