"""What a restore fetches: the slices that a rank needs, whatever ranks and stages wrote them; all of it is checked."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from xmae_dist.core.errors import IntegrityError
from xmae_dist.testing.ranks import run_ranks
from xmae_dist.testing.small_training import Gathered, build, gather, train
from xmae_dist.train.checkpoints import checkpoint, saved
from xmae_dist.train.checkpoints.blocks import BLOCK_BYTES
from xmae_dist.train.checkpoints.retention import RetentionConfig
from xmae_dist.train.checkpoints.saved import SavedRanges
from xmae_dist.train.checkpoints.upload import Saver
from xmae_dist.train.engines.deepspeed import DeepSpeedEngine, ZeroConfig, divided
from xmae_dist.train.engines.optimizer import OptimizerConfig
from xmae_dist.train.engines.protocol import Engine, Saved, Slice
from xmae_dist.train.engines.torch import TorchEngine
from xmae_dist.train.step.collective import Ranks

FROZEN_V1 = Path(__file__).parent / "v1"
WIDTH, DEPTH = 1024, 3
PARAMETERS = DEPTH * (WIDTH * WIDTH + WIDTH)
CHECKPOINT_BYTES = 12 * PARAMETERS


class Large(nn.Module):
    """Tensors of several blocks and such of a part of one, so that what is fetched can be told from what is needed."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(DEPTH)))

    def forward(self, x_BF: torch.Tensor) -> torch.Tensor:
        return self.layers(x_BF).square().mean()


def engine(kind: str, rank: int, world: int, restored: Saved | None = None, seed: int = 1) -> Engine:
    torch.manual_seed(seed)
    if kind == "torch":
        return TorchEngine(Large(), optimizer=OptimizerConfig(), accumulation=1, rank=rank, world=world, saved=restored)
    zero = ZeroConfig(stage=int(kind[-1]))
    module = divided(Large, zero) if zero.stage == 3 else Large()
    return DeepSpeedEngine(
        module, zero=zero, optimizer=OptimizerConfig(), micro_batch=1, accumulation=1, saved=restored
    )


def step(trained: Engine, rank: int) -> None:
    trained.forward_backward(torch.full((1, WIDTH), 1.0 + rank))
    trained.step(1e-3)


def digest(state: Gathered) -> float:
    return sum(float((t.detach().double() * torch.arange(1, t.numel() + 1)).sum()) for t in state.items().values())


def _written(rank: int, world: int, url: str, kind: str) -> float:
    trained = engine(kind, rank, world)
    step(trained, rank)
    saver = Saver(url, Ranks(rank=rank, world=world), RetentionConfig(), lambda *_, **__: None, "a")
    state = {"step": 1, "windows_seen": 1, "optimizer_steps": trained.optimizer_steps}
    saver.start(trained, 1, {"state": state})
    saver.finish()
    return digest(gather(trained, world))


def _restored(rank: int, world: int, url: str, kind: str, at_once_bytes: int = 2**27) -> dict[str, float]:
    saved._AT_ONCE_BYTES = at_once_bytes  # in a process of its own
    where, manifest = checkpoint.newest_complete(url, lambda *_: None) or ("", {})
    found = SavedRanges(where, manifest, Ranks(rank=rank, world=world))
    again = engine(kind, rank, world, found, seed=9)
    return {"bytes": found.bytes_read, "digest": digest(gather(again, world)), "steps": again.optimizer_steps}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_each_block_is_read_once_whatever_ranks_and_stages_wrote(tmp_path: Path) -> None:
    for old_world, old, new_world, new in [
        (2, "zero1", 2, "zero1"),
        (2, "zero1", 3, "zero3"),
        (3, "zero3", 2, "zero2"),
        (4, "zero3", 4, "zero3"),
        (1, "torch", 3, "zero1"),
        (3, "zero1", 2, "torch"),
        (2, "zero2", 1, "zero0"),
    ]:
        url = f"file://{tmp_path}/{old_world}-{old}-{new_world}-{new}"
        before = run_ranks(old_world, _written, tmp_path, url, old)[0]
        found = run_ranks(new_world, _restored, tmp_path, url, new)
        stored = sum(path.stat().st_size for path in Path(url[7:]).rglob("*.safetensors"))
        told = ", ".join(f"{one['bytes'] / 1e6:.1f}" for one in found)
        print(f"{old_world} × {old} → {new_world} × {new}: {told} MB a rank of {stored / 1e6:.1f}")
        for one in found:
            assert one["digest"] == pytest.approx(before, rel=1e-12) and one["steps"] == 1
            assert one["bytes"] <= stored / new_world + 4 * BLOCK_BYTES
        assert sum(one["bytes"] for one in found) <= stored
        if (old, new) == ("zero1", "zero3"):
            slowly = run_ranks(new_world, _restored, tmp_path, url, new, 3 * BLOCK_BYTES)
            assert [one["digest"] for one in slowly] == [one["digest"] for one in found]
            assert sum(one["bytes"] for one in slowly) <= stored, "in many rounds too"


def test_only_what_is_asked_for_is_fetched(store_url: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    before = _written(0, 1, store_url, "torch")
    where, manifest = checkpoint.newest_complete(store_url, lambda *_: None) or ("", {})
    found = SavedRanges(where, manifest)
    (one,) = found.parts([Slice("exp_avg", "layers.1.weight", 300_000, 300_010)])
    assert one.numel() == 10 and found.bytes_read == BLOCK_BYTES
    again = SavedRanges(where, manifest)
    state = gather(engine("torch", 0, 1, again, seed=9), 1)
    assert digest(state) == pytest.approx(before, rel=1e-12)
    assert again.bytes_read <= manifest["files"][0]["size"] + 4 * BLOCK_BYTES
    torch.testing.assert_close(one, state.full("exp_avg", "layers.1.weight")[300_000:300_010], rtol=0, atol=0)


def test_neighbours_that_are_asked_for_one_after_another_share_their_block(tmp_path: Path) -> None:
    """As at stage 3, a tensor at a time, where a rank's slice of each is smaller than a block."""
    _written(0, 1, f"file://{tmp_path}", "torch")
    where, manifest = checkpoint.newest_complete(f"file://{tmp_path}", lambda *_: None) or ("", {})
    found = SavedRanges(where, manifest)
    size = WIDTH * WIDTH
    for start in range(0, size, 10_000):
        (one,) = found.parts([Slice("exp_avg", "layers.1.weight", start, min(start + 10_000, size))])
        assert one.numel() <= 10_000
    assert found.bytes_read <= 4 * size + 2 * BLOCK_BYTES, "each block once"


def test_much_is_fetched_a_bit_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _written(0, 1, f"file://{tmp_path}", "torch")
    monkeypatch.setattr(saved, "_AT_ONCE_BYTES", 3 * BLOCK_BYTES)
    assert _restored(0, 1, f"file://{tmp_path}", "torch", 3 * BLOCK_BYTES)["digest"] == pytest.approx(before, rel=1e-12)


def damaged(tmp_path: Path, at: int) -> tuple[str, dict[str, Any]]:
    url = f"file://{tmp_path}"
    _written(0, 1, url, "torch")
    shard = next(Path(tmp_path, "checkpoints", "step-00000001").glob("*.safetensors"))
    data = bytearray(shard.read_bytes())
    data[at] ^= 1
    shard.write_bytes(data)
    return checkpoint.newest_complete(url, lambda *_: None) or ("", {})


def test_damage_is_named_with_its_place(tmp_path: Path) -> None:
    where, manifest = damaged(tmp_path, -1)
    with pytest.raises(IntegrityError, match=r"safetensors, MiB \d+: got .* SHA-256"):
        engine("torch", 0, 1, SavedRanges(where, manifest))
    next(Path(tmp_path, "checkpoints", "step-00000001").glob("*.safetensors")).unlink()
    with pytest.raises(IntegrityError, match="safetensors: got nothing there"):
        engine("torch", 0, 1, SavedRanges(where, manifest))


def _refused(rank: int, world: int, url: str, kind: str) -> list[str]:
    """What this rank hears of a checkpoint that one rank finds damaged, and of one that lacks a slice."""
    torch.set_num_threads(1)
    where, manifest = checkpoint.newest_complete(url, lambda *_: None) or ("", {})
    heard = []
    for lacking in (manifest, {**manifest, "files": manifest["files"][:0]}):
        with pytest.raises(IntegrityError) as refused:
            engine(kind, rank, world, SavedRanges(where, lacking, Ranks(rank=rank, world=world)))
        heard.append(str(refused.value))
    return heard


@pytest.mark.parametrize("kind", ["torch", "zero1", "zero3"])
def test_what_one_rank_finds_damaged_all_refuse(tmp_path: Path, kind: str) -> None:
    """Nobody is left waiting in a collective for a rank that gave up."""
    damaged(tmp_path, -1)
    first, second = run_ranks(2, _refused, tmp_path, f"file://{tmp_path}", kind)
    assert first == second and "SHA-256" in first[0] and "slices that end at element 0" in first[1]


def test_a_slice_that_nobody_wrote_is_damage(tmp_path: Path) -> None:
    url = f"file://{tmp_path}"
    _written(0, 1, url, "torch")
    where, manifest = checkpoint.newest_complete(url, lambda *_: None) or ("", {})
    with pytest.raises(IntegrityError, match="elements up to 2000000"):
        list(SavedRanges(where, manifest).parts([Slice("weight", "layers.0.weight", 0, 2_000_000)]))


def test_checkpoints_of_format_v1_are_read(tmp_path: Path) -> None:
    """Written by the last version that wrote them (commit 1400149): the toy, three steps."""
    shutil.copytree(FROZEN_V1 / "checkpoints", tmp_path / "checkpoints")
    where, manifest = checkpoint.newest_complete(f"file://{tmp_path}", lambda *_: None) or ("", {})
    assert manifest["format"] == "xmae-checkpoint/v1"
    old = build("torch", 0, 1, saved=checkpoint.open_saved(where, manifest, tmp_path / "here"), seed=9)
    assert old.optimizer_steps == 3
    found = {"|".join(key): t for key, t in gather(old, 1).items().items()}
    for key, (total, elements) in json.loads((FROZEN_V1 / "sums.json").read_text()).items():
        assert found[key].numel() == elements and float(found[key].double().sum()) == pytest.approx(total, rel=1e-12)
    train(old, 0, 1, 3, 4)
    assert math.isfinite(sum(float(t.sum()) for t in gather(old, 1).items().values()))
