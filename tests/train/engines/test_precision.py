"""The type in which a model computes, on a CPU that answers as CUDA does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from xmae_dist.model import presets
from xmae_dist.testing.ranks import run_ranks
from xmae_dist.train.engines.deepspeed import DeepSpeedEngine, ZeroConfig, divided
from xmae_dist.train.engines.optimizer import OptimizerConfig
from xmae_dist.train.engines.precision import bf16_is_fast, computes_bf16, set_float32_products
from xmae_dist.train.engines.protocol import Engine
from xmae_dist.train.engines.torch import TorchEngine
from xmae_dist.train.step.collective import Ranks
from xmae_dist.train.validation.held_out import HeldOut
from xmae_dist.train.validation.validator import Patience, Validator

SIZES: dict[str, Any] = {"length": 100, "width": 16, "heads": 2, "decoder_depth": 1}
KINDS = ("torch", "zero0", "zero1", "zero2", "zero3")


@contextmanager
def answering_as_cuda() -> Iterator[None]:
    """`torch.is_autocast_enabled()` is about CUDA; here it answers for the CPU, as it would on a GPU for CUDA."""
    ask = torch.is_autocast_enabled

    def answer(device_type: str = "cpu") -> bool:
        return ask(device_type)

    torch.is_autocast_enabled = answer
    try:
        yield
    finally:
        torch.is_autocast_enabled = ask


def build(kind: str, *, bf16: bool) -> Engine:
    torch.manual_seed(3)
    if kind == "torch":
        return TorchEngine(presets.build("tiny", **SIZES), optimizer=OptimizerConfig(), accumulation=1, bf16=bf16)
    zero = ZeroConfig(stage=int(kind[-1]))
    module = (
        divided(lambda: presets.build("tiny", **SIZES), zero) if zero.stage == 3 else presets.build("tiny", **SIZES)
    )
    return DeepSpeedEngine(module, zero=zero, optimizer=OptimizerConfig(), micro_batch=2, accumulation=1, bf16=bf16)


def types_of(engine: Engine) -> set[str]:
    """Types of what the matrix products of a model give from here on, kept up to date."""
    seen: set[str] = set()
    for module in engine.module.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda _m, _i, output: seen.add(str(output.dtype)))
    return seen


def validate(engine: Engine) -> None:
    signal = np.random.default_rng(0).standard_normal((2, 100)).astype(np.float32)
    mask = np.tile(np.arange(10) > 2, (2, 1))
    share = HeldOut(
        ecg=signal,
        ppg=signal,
        subject=np.array(["a", "b"]),
        cohort=np.zeros(2, np.int64),
        cohorts=("a",),
        mask=mask,
        panel=(signal[:1], signal[:1], mask[:1], ["one"]),
    )
    validator = Validator(
        share,
        Ranks(),
        batch=2,
        patience=Patience(),
        tell=lambda **_: None,
        keep_panel=lambda *_: None,
        history={},
    )
    validator.start(engine, 1)
    validator.finish()
    assert np.isfinite(validator.history[1])


def _found(_rank: int, _world: int, bf16: bool) -> dict[str, dict[str, list[str]]]:
    found: dict[str, dict[str, list[str]]] = {}
    torch.manual_seed(0)
    signal_BL, mask_BN = torch.randn(2, 100), (torch.arange(10) > 2).expand(2, -1)
    with answering_as_cuda():
        for kind in KINDS:
            set_float32_products(bf16=not bf16)
            engine = build(kind, bf16=bf16)
            products = [torch.get_float32_matmul_precision()]
            seen = types_of(engine)
            engine.forward_backward(signal_BL, signal_BL, mask_BN)
            engine.step(1e-3)
            trained = sorted(seen)
            validated: set[str] = set()
            forward = nn.Linear.forward

            def linear(
                self: nn.Linear, x: torch.Tensor, validated: set[str] = validated, forward: Any = forward
            ) -> Any:
                output = forward(self, x)
                validated.add(str(output.dtype))
                return output

            nn.Linear.forward = linear  # validation has a copy of the model of its own
            try:
                validate(engine)
            finally:
                nn.Linear.forward = forward
            gradients = {str(p.grad.dtype) for p in engine.module.parameters() if p.grad is not None}
            weights = {str(p.dtype) for p in engine.module.parameters()}
            found[kind] = {
                "trained": trained,
                "validated": sorted(validated),
                "kept": sorted(gradients | weights),
                "products": products,
            }
    return found


@pytest.mark.timeout(600)
def test_every_engine_trains_and_validates_in_bfloat16_where_cuda_would(tmp_path: Path) -> None:
    for kind, types in run_ranks(1, _found, tmp_path, True)[0].items():
        assert types["trained"] == ["torch.bfloat16"], kind
        assert types["validated"] == ["torch.bfloat16"], kind
        assert types["kept"] == ["torch.float32"], f"{kind}: weights and gradients stay float32"
        assert types["products"] == ["high"], f"{kind}: what stays float32 is multiplied in TF32"


def test_float32_stays_float32(tmp_path: Path) -> None:
    for kind, types in run_ranks(1, _found, tmp_path, False)[0].items():
        assert types.pop("products") == ["highest"], kind
        assert types == {name: ["torch.float32"] for name in ("trained", "validated", "kept")}, kind


@pytest.mark.parametrize(
    ("card", "capability", "fast"),
    [
        ("P100", (6, 0), False),
        ("V100", (7, 0), False),
        ("T4", (7, 5), False),
        ("A100", (8, 0), True),
        ("H100", (9, 0), True),
    ],
)
def test_emulated_bfloat16_is_not_fast(
    card: str, capability: tuple[int, int], fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Card:
        major, minor, name = *capability, card

    @contextmanager
    def chosen(_: Any) -> Iterator[None]:
        yield

    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "device", chosen)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _=None: Card)
    # Every one of these cards can emulate it.
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda _: True)
    assert torch.cuda.is_bf16_supported()
    assert bf16_is_fast(torch.device("cuda")) is fast
    assert computes_bf16("auto", torch.device("cuda")) is fast
    assert computes_bf16("bf16", torch.device("cuda")) and not computes_bf16("fp32", torch.device("cuda"))


def test_what_stays_float32_beside_bfloat16_is_multiplied_in_tf32() -> None:
    try:
        set_float32_products(bf16=True)
        assert torch.get_float32_matmul_precision() == "high" and torch.backends.cudnn.allow_tf32
        set_float32_products(bf16=False)
        assert torch.get_float32_matmul_precision() == "highest" and not torch.backends.cudnn.allow_tf32
    finally:
        set_float32_products(bf16=False)
