"""Every engine trains as the plain one does, and any state loads into any engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from xmae_dist.model import presets
from xmae_dist.testing.ranks import run_ranks
from xmae_dist.testing.small_training import KINDS, OPTIMIZER, build, gather, train
from xmae_dist.train.engines.deepspeed import DeepSpeedEngine, ZeroConfig, divided


def _reference() -> tuple[list[float], dict[str, torch.Tensor]]:
    engine = build("torch", 0, 1)
    losses = train(engine, 0, 1, 0, 50)
    return losses, {f"{k}/{n}": t for (k, n), t in gather(engine, 1).items().items()}


def _all_engines(rank: int, world: int) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for kind in KINDS:
        engine = build(kind, rank, world)
        losses = train(engine, rank, world, 0, 50)
        state = gather(engine, world)
        result[kind] = {
            "losses": losses,
            "state": {f"{k}/{n}": t.clone() for (k, n), t in state.items().items()},
            "once": all(n == state.full(*key).numel() for key, n in state.covered.items()),
        }
    return result


@pytest.mark.slow
def test_all_engines_equal_the_plain_one(tmp_path: Path) -> None:
    losses, state = _reference()
    found = run_ranks(2, _all_engines, tmp_path)[0]
    for kind in KINDS:
        worst = max(abs(a - b) / abs(b) for a, b in zip(found[kind]["losses"], losses, strict=True))
        assert worst < 2e-5, kind
        assert found[kind]["once"], f"{kind}: an element is in two pieces"
        assert found[kind]["state"].keys() == state.keys(), kind
        for key, tensor in state.items():
            torch.testing.assert_close(found[kind]["state"][key], tensor, rtol=2e-3, atol=2e-5, msg=f"{kind} {key}")


def _resume(rank: int, world: int) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for kind in KINDS:
        whole = build(kind, rank, world)
        losses = train(whole, rank, world, 0, 12)
        half = build(kind, rank, world)
        train(half, rank, world, 0, 6)
        again = build(kind, rank, world, saved=gather(half, world), seed=99)
        tail = train(again, rank, world, 6, 12)
        a, b = gather(whole, world).items(), gather(again, world).items()
        result[kind] = {"losses": losses[6:] == tail, "state": all(torch.equal(a[k], b[k]) for k in a)}
    chain = build("zero1", rank, world)
    losses = train(chain, rank, world, 0, 3)
    for number, kind in enumerate(["zero3", "zero2", "torch", "zero0"]):
        chain = build(kind, rank, world, saved=gather(chain, world), seed=99)
        losses += train(chain, rank, world, 3 + 3 * number, 6 + 3 * number)
    result["chain"] = losses
    return result


@pytest.mark.slow
def test_resume_is_bit_equal_and_crosses_engines(tmp_path: Path) -> None:
    found = run_ranks(2, _resume, tmp_path)[0]
    for kind in KINDS:
        assert found[kind] == {"losses": True, "state": True}, kind
    torch.testing.assert_close(torch.tensor(found["chain"]), torch.tensor(_reference()[0][:15]), rtol=1e-5, atol=0)


def _poisoned(rank: int, world: int) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for kind in KINDS:
        engine = build(kind, rank, world)
        train(engine, rank, world, 0, 5, poison=3)
        state = gather(engine, world)
        finite = all(bool(torch.isfinite(t).all()) for t in state.items().values())
        result[kind] = {"finite": finite, "steps": engine.optimizer_steps}
    return result


@pytest.mark.slow
def test_a_nan_on_one_rank_skips_the_step_on_all(tmp_path: Path) -> None:
    for found in run_ranks(2, _poisoned, tmp_path):
        assert found == {kind: {"finite": True, "steps": 4} for kind in KINDS}


def _initial(rank: int, world: int) -> bool:
    """Whether layers divided as they are made hold the weights that they have when made whole."""
    zero = ZeroConfig(stage=3)
    torch.manual_seed(4)
    parts = divided(lambda: presets.build("tiny"), zero)
    engine = DeepSpeedEngine(parts, zero=zero, optimizer=OPTIMIZER, micro_batch=1, accumulation=1)
    torch.manual_seed(4)
    whole = presets.build("tiny").state_dict()
    found = gather(engine, world)
    return all(torch.equal(found.full("weight", name), tensor.flatten()) for name, tensor in whole.items())


def test_a_model_divided_as_it_is_made_begins_with_the_same_weights(tmp_path: Path) -> None:
    assert run_ranks(2, _initial, tmp_path) == [True, True]
