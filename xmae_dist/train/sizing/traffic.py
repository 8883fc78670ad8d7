"""Bytes that a rank sends in one step, so that a network can be chosen before it is paid for."""

from __future__ import annotations

from xmae_dist.train.config import EngineConfig

_BYTES = 4
"""Of an element: gradients and parameters are float32."""


def sent_bytes(parameters: int, engine: EngineConfig, ranks: int, accumulation: int) -> float:
    """By ring algorithms, in which a reduction to owners and a gathering send (ranks − 1) / ranks of the data each.

    Stage 0 and the plain engine reduce and gather gradients once a step; stage 1 reduces gradients and gathers
    parameters once; stage 2 keeps only its part of the gradients and so reduces after every micro-batch; stage 3
    gathers parameters for every forward and backward pass too (Rajbhandari et al., ZeRO, 2020).
    """
    stage = engine.zero_stage if engine.kind == "deepspeed" else 0
    passes = {0: 2, 1: 2, 2: accumulation + 1, 3: 3 * accumulation}[stage]
    return passes * _BYTES * parameters * (ranks - 1) / ranks
