"""DeepSpeed behind the engine protocol: ZeRO 0–3, with optional offload.

Parameters stay float32 and bfloat16 is an autocast of the forward pass, so that at every stage the weights are
the master weights: one checkpoint format serves all stages, at the cost of 2 bytes a parameter where DeepSpeed
would keep a bfloat16 copy beside float32 masters.

DeepSpeed's own checkpoints are pickles, and stage- and world-specific; `pieces` reads the partitions through
the fragment maps that DeepSpeed keeps for this (`_hp_mapping` at stages 1 and 2, the local partition at 3).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import nn

from xmae_dist.train.engines.compiled import Compile, begin_micro_batch, compile_in_place
from xmae_dist.train.engines.optimizer import OptimizerConfig
from xmae_dist.train.engines.precision import Autocast, autocast, set_float32_products
from xmae_dist.train.engines.protocol import (
    MOMENTS,
    WEIGHT,
    Piece,
    Saved,
    Slice,
    StepOutcome,
    adamw,
    applied_steps,
    constant_tensors,
    load_replicated,
    skip_unless_finite,
    weights_of,
)
from xmae_dist.train.engines.uncompiled import import_deepspeed
from xmae_dist.train.step.clock import Clock


@dataclass(frozen=True, kw_only=True)
class ZeroConfig:
    """How DeepSpeed divides optimizer state (1), gradients (2) and parameters (3) among ranks."""

    stage: Literal[0, 1, 2, 3] = 1
    """0 replicates everything, like plain data parallelism."""
    offload_optimizer: bool = False
    """Keep optimizer state in host memory (stages 1–3)."""
    offload_parameters: bool = False
    """Keep parameters in host memory (stage 3)."""
    bucket_elements: int = 50_000_000
    """Most elements in one gradient reduction; less saves memory, more saves calls."""
    live_elements: int = 1_000_000_000
    """Most gathered parameters that a rank keeps in case they are needed again (stage 3); less saves memory."""


class DeepSpeedEngine:
    """`module` in a DeepSpeed engine on an initialised process group. See `train.engines.protocol.Engine`."""

    def __init__(
        self,
        module: nn.Module,
        *,
        zero: ZeroConfig,
        optimizer: OptimizerConfig,
        micro_batch: int,
        accumulation: int,
        bf16: bool = False,
        compile: Compile = "no",
        device: torch.device | str = "cpu",
        saved: Saved | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._device = torch.device(device)
        self._clock = clock or Clock(self._device)
        self._zero, self._clip_norm, self._bf16 = zero, optimizer.clip_norm, bf16
        self._accumulation = accumulation
        self._steps_applied = 0
        self._compile = compile
        set_float32_products(bf16=bf16)
        # Parameters that were divided as they were made have no elements of their own, but remember their shape.
        self._shapes = {n: list(getattr(t, "ds_shape", t.shape)) for n, t in module.state_dict(keep_vars=True).items()}
        module.to(self._device)
        if saved is not None:
            _load_weights(module, saved)
        self._module = module
        compile_in_place(module, compile)
        computing = Autocast(module, self._device, bf16=bf16)
        self._engine = _initialize(computing, zero, optimizer, micro_batch, accumulation, self._device)
        self._named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
        if saved is not None:
            self._load_moments(saved)

    @property
    def optimizer_steps(self) -> int:
        return applied_steps(self._engine.optimizer) if self._zero.stage == 0 else self._steps_applied

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def module(self) -> nn.Module:
        return self._module

    def autocast(self) -> torch.autocast:
        return autocast(self._device, bf16=self._bf16)

    def forward_backward(self, *inputs: Any) -> torch.Tensor:
        begin_micro_batch(self._compile)
        loss = self._engine(*inputs)
        self._clock.mark("forward")
        self._engine.backward(loss)
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()
        self._clock.mark("backward")
        return loss.detach()

    def step(self, lr: float) -> StepOutcome:
        for group in self._engine.optimizer.param_groups:
            group["lr"] = lr
        return self._step_replicated() if self._zero.stage == 0 else self._step_partitioned()

    def _step_partitioned(self) -> StepOutcome:
        # ZeRO reduces the norm over ranks, waits for it, and skips the step on all of them where it is not finite.
        self._engine.step()
        applied = not self._engine.optimizer.overflow
        self._steps_applied += applied
        norm = self._engine.get_global_grad_norm()
        return StepOutcome(torch.tensor(applied), norm if torch.is_tensor(norm) else torch.tensor(norm))

    def _step_replicated(self) -> StepOutcome:
        gradients = [p.grad for _, p in self._named if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self._clip_norm:
            torch.nn.utils.clip_grads_with_norm_([p for _, p in self._named], self._clip_norm, norm)
        skip_unless_finite(self._engine.optimizer, norm)
        self._engine.step()
        return StepOutcome(torch.isfinite(norm), norm)

    def pieces(self) -> Iterator[Piece]:
        if self._zero.stage == 0:
            yield from self._replicated_pieces()
        else:
            for name, p in self._named:
                for kind in (WEIGHT, *(MOMENTS if self.optimizer_steps else ())):
                    start, data = self._partition(p, kind)
                    if data.numel():
                        yield Piece(kind, name, start, data)
        yield from self._constant_pieces()

    def shapes(self) -> dict[str, list[int]]:
        return self._shapes

    def _replicated_pieces(self) -> Iterator[Piece]:
        # Every rank holds everything; rank r writes every world-th parameter.
        rank, world = dist.get_rank(), dist.get_world_size()
        moments = MOMENTS if self.optimizer_steps else ()
        for name, p in self._named[rank::world]:
            state = self._engine.optimizer.state[p]
            yield Piece(WEIGHT, name, 0, p.detach().reshape(-1))
            for kind in moments:
                yield Piece(kind, name, 0, state[kind].reshape(-1))

    def _constant_pieces(self) -> Iterator[Piece]:
        constants = constant_tensors(self._module)
        if self._zero.stage == 3:
            import deepspeed

            frozen = [t for t in constants.values() if hasattr(t, "ds_id")]
            with deepspeed.zero.GatheredParameters(frozen):
                constants = {name: t.detach().clone() for name, t in constants.items()}
        if dist.get_rank() == 0:
            for name, tensor in constants.items():
                yield Piece(WEIGHT, name, 0, tensor.detach().reshape(-1))

    def _partition(self, p: nn.Parameter, kind: str) -> tuple[int, torch.Tensor]:
        """(first element, live view) of this rank's slice of `p`'s state; empty where it holds none."""
        if self._zero.stage == 3:
            return self._partition_stage3(p, kind)
        mapping = getattr(p, "_hp_mapping", None)
        if mapping is None:
            return 0, torch.empty(0)
        # Not `mapping.optim_fragment`: DeepSpeed links it after the first group's first step, when the
        # moments of the second parameter group do not exist yet, and never again.
        zero = self._engine.optimizer
        flat = zero.single_partition_of_fp32_groups[mapping.param_group_index]
        state = flat if kind == WEIGHT else zero.optimizer.state[flat][kind]
        address = mapping.hp_fragment_address
        return int(mapping.lp_fragment_address.start), state.narrow(0, address.start, address.numel)

    def _partition_stage3(self, p: Any, kind: str) -> tuple[int, torch.Tensor]:
        key = None if kind == WEIGHT else kind
        view, _ = p._z3_optimizer._get_fp32_opt_state_partition(p, release_swap_buffers=True, optim_state_key=key)
        return _without_padding(p, view)

    def _load_moments(self, saved: Saved) -> None:
        self._steps_applied = saved.optimizer_steps
        if not saved.optimizer_steps:
            return
        inner = self._engine.optimizer if self._zero.stage == 0 else self._engine.optimizer.optimizer
        for flat in self._optimizer_tensors(inner):
            zeros = {kind: torch.zeros_like(flat, requires_grad=False) for kind in MOMENTS}
            step = torch.tensor(float(saved.optimizer_steps), device=flat.device)
            inner.state[flat] = {"step": step, **zeros}
        if self._zero.stage == 0:
            targets = [(kind, name, inner.state[p][kind]) for kind in MOMENTS for name, p in self._named]
            load_replicated(targets, saved, rank=dist.get_rank(), world=dist.get_world_size())
            return
        _fill([(kind, name, *self._partition(p, kind)) for kind in MOMENTS for name, p in self._named], saved)

    def _optimizer_tensors(self, inner: torch.optim.Optimizer) -> list[torch.Tensor]:
        if self._zero.stage == 3:
            return list(self._engine.optimizer.fp32_partitioned_groups_flat)
        return [p for group in inner.param_groups for p in group["params"]]


def divided(build: Callable[[], nn.Module], zero: ZeroConfig, device: torch.device | str = "cpu") -> nn.Module:
    """What `build` makes, for stage 3: each layer is divided among ranks as soon as it is made, so that no rank ever
    holds the whole model. Initial weights are those of rank 0.
    """
    deepspeed = _deepspeed(torch.device(device))
    settings = _settings(zero, OptimizerConfig(), 1, 1, zero.bucket_elements, torch.device(device))
    with deepspeed.zero.Init(config_dict_or_path=settings):
        return build()


def _load_weights(module: nn.Module, saved: Saved) -> None:
    """Weights of a module that may be divided: of what is, each rank reads its own part."""
    targets = weights_of(module)
    divided = [(name, tensor) for _, name, tensor in targets if hasattr(tensor, "ds_id")]
    whole = [one for one in targets if not hasattr(one[2], "ds_id")]
    load_replicated(whole, saved, rank=dist.get_rank(), world=dist.get_world_size())
    if divided:
        _fill([(WEIGHT, name, *_without_padding(p, p.ds_tensor)) for name, p in divided], saved)  # type: ignore[attr-defined]


def _without_padding(p: Any, partition: torch.Tensor) -> tuple[int, torch.Tensor]:
    """(first element, view) of this rank's slice of a tensor that DeepSpeed divided, given with what fills it up."""
    start = p.ds_tensor.ds_numel * dist.get_rank()
    return start, partition[: max(0, min(partition.numel(), p.ds_numel - start))]


def _fill(places: Sequence[tuple[str, str, int, torch.Tensor]], saved: Saved) -> None:
    """Fills slices that this rank alone holds: kind, name, first element, view."""
    held = [place for place in places if place[3].numel()]
    wanted = [Slice(kind, name, start, start + view.numel()) for kind, name, start, view in held]
    for (_, _, _, view), part in zip(held, saved.parts(wanted), strict=True):
        view.data.copy_(part)


def _initialize(
    module: nn.Module,
    zero: ZeroConfig,
    optimizer: OptimizerConfig,
    micro_batch: int,
    accumulation: int,
    device: torch.device,
) -> Any:
    elements = sum(getattr(p, "ds_numel", p.numel()) for p in module.parameters())
    engine, _, _, _ = _deepspeed(device).initialize(
        model=module,
        optimizer=adamw(module, optimizer, device),
        config=_settings(zero, optimizer, micro_batch, accumulation, elements, device),
        dist_init_required=False,
    )
    return engine


def _deepspeed(device: torch.device) -> Any:
    """Imports DeepSpeed, quietened."""
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    deepspeed = import_deepspeed(uncompiled=device.type == "cpu")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    if device.type == "cpu":
        # The one op that a CPU start would compile (45 s); only `inference_all_reduce` uses it.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _settings(
    zero: ZeroConfig,
    optimizer: OptimizerConfig,
    micro_batch: int,
    accumulation: int,
    elements: int,
    device: torch.device,
) -> dict[str, Any]:
    # A bucket is allocated whole, however small the model.
    bucket = max(min(zero.bucket_elements, elements), 1)
    sharding: dict[str, Any] = {
        "stage": zero.stage,
        # On GPUs reductions have a stream of their own; CPUs have none, and gloo would only be called in more pieces.
        "overlap_comm": device.type == "cuda",
        "contiguous_gradients": True,
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
    }
    if zero.stage == 3:
        sharding |= {
            "stage3_prefetch_bucket_size": bucket,
            "stage3_max_live_parameters": max(bucket, zero.live_elements),
            "stage3_max_reuse_distance": max(bucket, zero.live_elements),
            # A step copies the gradients of one such group at a time; DeepSpeed's default is 1e9 elements.
            "sub_group_size": 2 * bucket,
        }
    if zero.offload_optimizer:
        sharding["offload_optimizer"] = {"device": "cpu", "pin_memory": device.type == "cuda"}
    if zero.offload_parameters:
        sharding["offload_param"] = {"device": "cpu", "pin_memory": device.type == "cuda"}
    return {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": accumulation,
        # At stage 0 DeepSpeed would not check for non-finite gradients; the engine clips there itself.
        "gradient_clipping": optimizer.clip_norm if zero.stage else 0.0,
        "zero_optimization": sharding,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31,
        "wall_clock_breakdown": False,
    }
