"""Pools of nodes: which work goes where.

The files of `cluster/` label each node with its pool, `xmae/pool`; machines with GPUs are of the pool `trainer`. Work
that needs no GPU stays off that pool, and a cluster that grows on demand brings a cheaper machine for it. On nodes
without the label, such as a machine of one's own, it goes anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LABEL, _WITH_GPUS = "xmae/pool", "trainer"
OFF_GPUS = {_LABEL: f"!{_WITH_GPUS}"}
"""Label selector of tasks and actors that ask for no GPU."""


def selector(gpus: float) -> dict[str, str] | None:
    """Of a task or an actor that asks for so many GPUs."""
    return None if gpus else OFF_GPUS


def off_gpus(node: Mapping[str, Any]) -> bool:
    """Whether a node, as `ray.nodes()` describes it, takes work that asks for no GPU."""
    return bool(node["Labels"].get(_LABEL) != _WITH_GPUS)
