"""What the driver of a run hands to every worker. Ray Train's controller holds it too, and has no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from xmae_dist.train.checkpoints.state import Identity
from xmae_dist.train.config import PretrainConfig
from xmae_dist.train.survival.lease import Lease


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run as its workers need it."""

    config: PretrainConfig
    config_dict: dict[str, Any]
    store_url: str
    identity: Identity
    board: Any
    """Handle of the `Board` actor, which has a reference to the opened window store: no rank asks for its index."""
    lease: Lease
    """What the driver holds of the run; asked for before each commit."""
    flops_per_window: int
    driver_s: dict[str, float]
    """Seconds the driver spent before it handed over, by what on."""
    handed_over_s: float
    """When it did (Unix time)."""
