"""What a worker's memory must hold, predicted before any worker starts.

Per parameter: weights (4 bytes, float32), gradients (4), AdamW's moments (8), and under DeepSpeed the optimizer's own
copy of the weights (4), each divided among R ranks from the ZeRO stage that divides it. On top come the activations
that a micro-batch keeps for its backward pass, counted by running the model on tensors without memory, in the precision
of training; beside bfloat16 these hold a copy of the weights in it (2 bytes a parameter). Communication buffers, the
allocator's slack and the libraries themselves are not in it, so a prediction is a lower bound.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from xmae_dist.core.errors import ConfigError
from xmae_dist.model import kinds, presets
from xmae_dist.model.interface import PretrainModel
from xmae_dist.model.mask import masked_count
from xmae_dist.train.config import EngineConfig, PretrainConfig, model_config
from xmae_dist.train.sizing import known

_GIB = 2**30
_COUNTED = 8
_GPU_GIB = {
    "B200": 180,
    "H200": 141,
    "H100": 80,
    "H20": 96,
    "A100": 80,
    "A100-80G": 80,
    "A100-40G": 40,
    "L40S": 48,
    "L4": 24,
    "A10G": 24,
    "V100": 32,
    "T4": 16,
    "P100": 16,
}
"""The largest memory that a GPU of Ray's accelerator type comes with, in GiB."""


@dataclass(frozen=True, kw_only=True)
class Need:
    """Bytes of one worker: on its device, and on the host beside it."""

    state: float
    activations: float
    host: float = 0.0

    @property
    def device(self) -> float:
        return self.state + self.activations


def state_need(parameters: int, engine: EngineConfig, ranks: int, activations: float = 0.0) -> Need:
    """Of one of `ranks` workers that train so many parameters."""
    stage = engine.zero_stage if engine.kind == "deepspeed" else 0
    weights = 4 * parameters / (ranks if stage >= 3 else 1)
    gradients = 4 * parameters / (ranks if stage >= 2 else 1)
    optimizer = (8 + 4) * parameters / ranks if stage else 8 * parameters
    host = (weights if engine.offload_parameters else 0) + (optimizer if engine.offload_optimizer else 0)
    return Need(state=weights + gradients + optimizer - host, activations=activations, host=host)


@dataclass(frozen=True, kw_only=True)
class Counted:
    """A model's trained and frozen parameters, and the bytes of activations a window keeps, by precision."""

    parameters: int
    activation_bytes: int
    """In float32."""
    bf16_activation_bytes: int
    """Beside bfloat16, in which matrix products read and write; norms and the sums between blocks stay float32."""

    def need(self, config: PretrainConfig) -> Need:
        """Of one worker of the fewest that the run may have."""
        train = config.train
        ranks = train.min_workers or train.workers
        half = config.engine.precision == "bf16" or (config.engine.precision == "auto" and config.resources.gpus)
        windows = min(train.micro_batch, -(-train.global_batch // ranks))
        activations = (self.bf16_activation_bytes if half else self.activation_bytes) * windows
        copies = 2 * self.parameters if half else 0  # of the weights, kept from the forward to the backward pass
        return state_need(self.parameters, config.engine, ranks, activations + copies)


def count(config: presets.Config, *, fused: bool) -> Counted:
    """Runs the model without memory, over a few windows as tables are kept once a micro-batch.

    With `fused`, attention keeps what the fused kernels keep, which takes seconds of imports to find out; without, also
    its scores, as on PyTorch's meta device.
    """
    if fused:
        from torch._subclasses.fake_tensor import FakeTensorMode

        pretended: Any = FakeTensorMode()
    else:
        pretended = torch.device("meta")
    with pretended:
        model = kinds.from_config(config)
    targets = _targets(model, config)
    with pretended:
        full = _kept_bytes(model, config, _COUNTED, targets) // _COUNTED
        if not fused:  # autocast knows no device without memory; some more than what fused kernels show
            return Counted(parameters=_elements(model), activation_bytes=full, bf16_activation_bytes=full * 6 // 10)
        with torch.autocast("cpu", torch.bfloat16), _NormsInFloat32():
            few, many = (_kept_bytes(model, config, size, targets) for size in (_COUNTED, 2 * _COUNTED))
    half = (many - few) // _COUNTED
    return Counted(parameters=_elements(model), activation_bytes=full, bf16_activation_bytes=half)


class _NormsInFloat32(TorchFunctionMode):
    """CUDA's autocast where the CPU's is other: layer norms read and give float32."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.nn.functional.layer_norm:
            return func(*args, **(kwargs or {}))
        with torch.autocast("cpu", enabled=False):
            return func(args[0].float(), *args[1:], **(kwargs or {}))


def _elements(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _targets(model: PretrainModel, config: presets.Config) -> int | None:
    """How many numbers a window's signals are measured for; the host works them out, so not without memory."""
    silence_BL = torch.zeros(1, config.length)
    measured_BK = model.measured(silence_BL, silence_BL)
    return None if measured_BK is None else measured_BK.shape[1]


def _kept_bytes(model: torch.nn.Module, config: presets.Config, windows: int, targets: int | None) -> int:
    """What a forward pass over so many windows keeps for the backward pass, beside the weights."""
    signal_BL = torch.zeros(windows, config.length)
    mask_BN = torch.zeros(windows, config.n_patches, dtype=torch.bool)
    measured_BK = None if targets is None else torch.zeros(windows, targets)
    visible = config.n_patches - masked_count(config.n_patches, config.mask_ratio)
    kept = {p.untyped_storage()._cdata: p.untyped_storage() for p in model.parameters()}
    weights = sum(storage.nbytes() for storage in kept.values())

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept.setdefault(storage._cdata, storage)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(signal_BL, signal_BL, mask_BN, torch.arange(visible).expand(windows, -1), None, measured_BK)
    return sum(storage.nbytes() for storage in kept.values()) - weights


def check_fits(config: PretrainConfig, nodes: Iterable[Mapping[str, Any]]) -> None:
    """Raises ConfigError where the workers of this run cannot fit into these nodes (`ray.nodes()`)."""
    model, nodes = model_config(config), list(nodes)
    try:
        check_memory(config, _quickly_counted(model), nodes)
    except ConfigError:
        check_memory(config, count(model, fused=True), nodes)


def _quickly_counted(config: presets.Config) -> Counted:
    kept = known.sizes_of(config)
    if kept is None:
        return count(config, fused=False)
    return Counted(
        parameters=kept.parameters,
        activation_bytes=kept.activation_bytes,
        bf16_activation_bytes=kept.bf16_activation_bytes,
    )


def check_memory(config: PretrainConfig, counted: Counted, nodes: Iterable[Mapping[str, Any]]) -> None:
    """Raises ConfigError where the workers cannot fit into these nodes (`ray.nodes()`), naming what would.

    Nodes that do not say how much memory they have pass.
    """
    resources = [node["Resources"] for node in nodes if node["Alive"]]
    need = counted.need(config)
    if _fits(config, need, resources):
        return
    raise ConfigError(
        "--model.preset",
        value=f"{config.model.preset}, {counted.parameters:,} parameters: a worker needs {_gib(need.device)} "
        f"({_gib(need.state)} weights, gradients and optimizer, {_gib(need.activations)} activations of "
        f"micro-batch {config.train.micro_batch})" + (f", and {_gib(need.host)} on the host" if need.host else ""),
        expected=_room(config, resources),
        fix=_advice(config, counted, resources),
    )


def _fits(config: PretrainConfig, need: Need, nodes: list[Mapping[str, float]]) -> bool:
    on_host = need.host if config.resources.gpus else need.device + need.host
    fewest, places = config.train.min_workers or config.train.workers, 0
    for node in nodes:
        workers = int(node.get("GPU" if config.resources.gpus else "CPU", 0) / _share(config) + 1e-9)
        if config.resources.gpus and need.device > _gpu_bytes(node):
            workers = 0
        places += min(workers, int(_host_bytes(node) / max(on_host, 1))) if _host_bytes(node) else workers
    return places >= fewest


def _share(config: PretrainConfig) -> float:
    return 1.0 if config.resources.gpus else config.resources.worker_cpus


def _host_bytes(node: Mapping[str, float]) -> float:
    return node.get("memory", 0) + node.get("object_store_memory", 0)


def _gpu_bytes(node: Mapping[str, float]) -> float:
    kinds = [name.removeprefix("accelerator_type:") for name in node if name.startswith("accelerator_type:")]
    return max((_GPU_GIB[kind] * _GIB for kind in kinds if kind in _GPU_GIB), default=float("inf"))


def _room(config: PretrainConfig, nodes: list[Mapping[str, float]]) -> str:
    if config.resources.gpus:
        known = [size for node in nodes if (size := _gpu_bytes(node)) < float("inf")]
        return f"at most {_gib(max(known, default=0))} a GPU"
    return f"{config.train.min_workers or config.train.workers} workers to fit into " + ", ".join(
        sorted({_gib(_host_bytes(node)) for node in nodes if node.get("CPU")})
    )


def _advice(config: PretrainConfig, counted: Counted, nodes: list[Mapping[str, float]]) -> str:
    """The mildest change that fits: a smaller micro-batch, then more division, then offload, then both."""
    train, engine = config.train, config.engine
    smaller = [m for m in (2**power for power in range(12, -1, -1)) if m < train.micro_batch]
    stages = [stage for stage in (1, 2, 3) if stage > engine.zero_stage and engine.kind == "deepspeed"]
    changes: list[tuple[str, PretrainConfig]] = []
    for stage in (None, *stages):
        divided = config if stage is None else _with_engine(config, zero_stage=stage)
        named = "" if stage is None else f"--engine.zero-stage {stage}"
        for micro in (train.micro_batch, *smaller):
            words = named if micro == train.micro_batch else f"--train.micro-batch {micro} {named}"
            changes.append(
                (words.strip(), dataclasses.replace(divided, train=dataclasses.replace(train, micro_batch=micro)))
            )
    if config.resources.gpus and engine.kind == "deepspeed":
        offload = _with_engine(config, zero_stage=3, offload_optimizer=True, offload_parameters=True)
        small = dataclasses.replace(offload, train=dataclasses.replace(train, micro_batch=1))
        words = "--engine.zero-stage 3 --engine.offload-optimizer --engine.offload-parameters --train.micro-batch 1"
        changes.append((words, small))
    for words, changed in changes:
        if words and _fits(changed, counted.need(changed), nodes):
            return words
    return "a smaller --model.preset, or more or larger machines and --train.workers"


def _with_engine(config: PretrainConfig, **changes: Any) -> PretrainConfig:
    return dataclasses.replace(config, engine=dataclasses.replace(config.engine, **changes))


def _gib(size: float) -> str:
    return f"{size / _GIB:.1f} GiB"
