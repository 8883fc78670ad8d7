"""The order of windows that a configuration asks for."""

from __future__ import annotations

from xmae_dist.data.order.plan import OrderConfig
from xmae_dist.train.config import PretrainConfig


def order_of(config: PretrainConfig) -> OrderConfig:
    """Seed, batch, reads and mixture: with the store's segments they determine every window of every step."""
    return OrderConfig(
        seed=config.train.seed,
        global_batch=config.train.global_batch,
        mixture=config.mixture,
        read_windows=config.train.read_windows,
        block_steps=config.train.block_steps,
    )
