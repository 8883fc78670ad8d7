"""A pretraining run without Ray, Ray Data or faults: what a run through faults must come to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from xmae_dist.core.fingerprint import digest_json
from xmae_dist.data.order.plan import plan_for
from xmae_dist.data.store.window_store import WindowStore
from xmae_dist.data.stream import direct
from xmae_dist.data.stream.collate import tensor_batches
from xmae_dist.model import kinds
from xmae_dist.testing.ranks import run_ranks
from xmae_dist.train.config import PretrainConfig, model_config
from xmae_dist.train.engines.deepspeed import DeepSpeedEngine, ZeroConfig
from xmae_dist.train.order import order_of
from xmae_dist.train.step.batch import Masking, Share, seed_dropout
from xmae_dist.train.step.collective import Ranks
from xmae_dist.train.step.schedule import learning_rate, mask_ratio


def reference(config: PretrainConfig, store_url: str, world: int, steps: int, folder: Path) -> tuple[list[float], str]:
    """(losses of the first `steps` steps, digest of rank 0's share of the state after them) on `world` ranks."""
    folder.mkdir()
    losses, state = run_ranks(world, _run, folder, config, store_url, steps)[0]
    return losses, state


def _run(rank: int, world: int, config: PretrainConfig, store_url: str, steps: int) -> tuple[list[float], str]:
    store = WindowStore.open(store_url)
    torch.manual_seed(config.train.seed)
    module = kinds.from_config(model_config(config))
    masking = Masking(seed=config.train.seed, n_patches=module.config.n_patches, mode=module.config.mask_mode)
    count, ranks = config.accumulation(world), Ranks(rank=rank, world=world)
    engine = DeepSpeedEngine(
        module,
        zero=ZeroConfig(stage=config.engine.zero_stage),
        optimizer=config.optimizer,
        micro_batch=config.train.micro_batch,
        accumulation=count,
    )
    plan = plan_for(store, order_of(config))
    total, losses = config.train.steps * config.train.global_batch, []
    for batch in tensor_batches(direct.step_batches(store, plan, stop_step=steps, world=world, rank=rank)):
        seen = (batch.step + 1) * config.train.global_batch
        ratio = mask_ratio(config.schedule, module.config.mask_ratio, seen, total)
        seed_dropout(config.train.seed, batch.step, rank)
        mask_BN = masking.draw(batch, ratio)
        share = Share.of(batch, mask_BN, batch.ids_B, module)
        parts = [
            engine.forward_backward(*one.forward) * len(one.mask_MN)
            for one in share.micro_batches(count, engine.device)
        ]
        engine.step(learning_rate(config.schedule, seen, total))
        losses.append(float(ranks.sum(torch.stack(parts).sum().double())) / config.train.global_batch)
    return losses, state_digest((f"{p.kind}|{p.name}|{p.start}", p.data) for p in engine.pieces())


def state_digest(tensors: Any) -> str:
    """One digest of (key, tensor) pairs, whatever their order."""
    return digest_json({key: digest_json(tensor.detach().flatten().tolist()) for key, tensor in tensors})
