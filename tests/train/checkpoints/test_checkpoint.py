"""A checkpoint is complete or does not exist, whatever dies when."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from xmae_dist.core.errors import InputError, IntegrityError
from xmae_dist.storage import uri
from xmae_dist.testing.small_training import build, gather, train
from xmae_dist.train.checkpoints import checkpoint
from xmae_dist.train.checkpoints.retention import RetentionConfig
from xmae_dist.train.checkpoints.saved import SavedRanges
from xmae_dist.train.checkpoints.upload import Saver
from xmae_dist.train.engines.protocol import Saved, Slice
from xmae_dist.train.step.collective import Ranks


def silent(kind: str, **fields: Any) -> None:
    pass


def about(engine: Any, step: int) -> dict[str, Any]:
    return {"state": {"step": step, "windows_seen": step * 12, "optimizer_steps": engine.optimizer_steps}}


def save(url: str, steps: int, *, keep: int = 3, tell: Callable[..., None] = silent) -> Any:
    """Trains the toy and saves after every step; returns its engine."""
    engine = build("torch", 0, 1)
    saver = Saver(url, Ranks(), RetentionConfig(keep_recent=keep), tell, "attempt")
    for step in range(1, steps + 1):
        train(engine, 0, 1, step - 1, step)
        saver.start(engine, step, about(engine, step))
        saver.finish()
    return engine


def load(url: str, folder: Path) -> tuple[int, Saved]:
    found = checkpoint.newest_complete(url, lambda *_: None)
    assert found is not None
    where, manifest = found
    return manifest["state"]["step"], checkpoint.open_saved(where, manifest, folder)


def test_what_is_saved_comes_back_bit_for_bit(store_url: str, tmp_path: Path) -> None:
    engine = save(store_url, 3)
    step, saved = load(store_url, tmp_path / "here")
    assert (step, saved.optimizer_steps) == (3, 3)
    again = build("torch", 0, 1, saved=saved, seed=9)
    before, after = gather(engine, 1).items(), gather(again, 1).items()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_retention_keeps_the_newest(tmp_path: Path) -> None:
    url = f"file://{tmp_path}"
    save(url, 5, keep=2)
    assert [one.step for one in checkpoint.list_checkpoints(url)] == [5, 4]


@pytest.mark.parametrize("damage", ["marker", "manifest", "shard", "missing shard"])
def test_a_damaged_newest_checkpoint_is_found_out(damage: str, tmp_path: Path) -> None:
    url = f"file://{tmp_path}"
    save(url, 2)
    newest = Path(tmp_path, "checkpoints", "step-00000002")
    shard = next(newest.glob("*.safetensors"))
    if damage == "marker":
        (newest / checkpoint.COMPLETE).unlink()
    elif damage == "manifest":
        (newest / checkpoint.MANIFEST).write_text("{")
    elif damage == "shard":
        data = bytearray(shard.read_bytes())
        data[-1] ^= 1
        shard.write_bytes(data)
    else:
        shard.unlink()
    where, manifest = checkpoint.newest_complete(url, lambda *_: None) or ("", {})
    if damage in ("marker", "manifest"):
        assert where.endswith("step-00000001")
        return
    assert where.endswith("step-00000002")
    with pytest.raises(IntegrityError, match="safetensors"):
        build("torch", 0, 1, saved=checkpoint.open_saved(where, manifest, tmp_path / "here"))
    where, _ = checkpoint.newest_complete(url, lambda *_: None, skip=[where]) or ("", {})
    assert where.endswith("step-00000001")


def _killed(url: str, fatal: int, after: bool, log: str) -> None:
    """Saves five checkpoints, retaining one, and is killed at the `fatal`-th change of the store."""
    torch.set_num_threads(1)
    changes = 0

    def mortal(change: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*args: Any, **options: Any) -> Any:
            nonlocal changes
            changes += 1
            if changes == fatal and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = change(*args, **options)
            if changes == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return changed

    uri.write_bytes, uri.delete = mortal(uri.write_bytes), mortal(uri.delete)

    def tell(kind: str, **fields: Any) -> None:
        if kind == "checkpoint":
            with open(log, "a") as file:
                file.write(f"{fields['step']}\n")

    save(url, 5, keep=1, tell=tell)


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
def test_killed_at_any_change_of_the_store_the_newest_complete_checkpoint_is_found(after: bool, tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("forkserver")
    spawn.set_forkserver_preload(["xmae_dist.testing.small_training", "xmae_dist.train.checkpoints.upload"])
    outcomes = []
    for fatal in range(1, 40):
        folder = tmp_path / f"{fatal}"
        url, log = f"file://{folder}", tmp_path / f"{fatal}.log"
        child = spawn.Process(target=_killed, args=(url, fatal, after, str(log)))
        child.start()
        child.join()
        outcomes.append(child.exitcode)
        told = [int(line) for line in log.read_text().split()] if log.exists() else []
        found = checkpoint.newest_complete(url, lambda *_: None)
        if told or found:
            step, saved = load(url, tmp_path / f"here-{fatal}")
            assert step >= max(told, default=1)
            assert build("torch", 0, 1, saved=saved).optimizer_steps == step
        if child.exitcode == 0:
            break
    assert outcomes[-1] == 0 and set(outcomes[:-1]) == {-signal.SIGKILL}
    assert len(outcomes) > 15


class Failing:
    """A store that is down for a while."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.down = False
        real = uri.write_bytes

        def write(url: str, data: bytes) -> None:
            if self.down:
                from xmae_dist.core.errors import StorageError

                raise StorageError(url, value="no answer")
            real(url, data)

        monkeypatch.setattr(uri, "write_bytes", write)


def test_what_a_commit_raises_is_raised_in_training(tmp_path: Path) -> None:
    def broken() -> None:
        raise ZeroDivisionError("before the first commit")

    engine = build("torch", 0, 1)
    saver = Saver(f"file://{tmp_path}", Ranks(), RetentionConfig(), lambda *_, **__: None, "attempt", broken)
    with pytest.raises(ZeroDivisionError):
        for step in range(1, 3):
            train(engine, 0, 1, step - 1, step)
            saver.start(engine, step, about(engine, step))
            while saver.status[0]:
                time.sleep(0.01)
            saver.settle(busy=False, failed=False)


def test_a_store_that_is_down_costs_a_checkpoint_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, told = f"file://{tmp_path}", list[tuple[str, int]]()
    store = Failing(monkeypatch)
    engine = build("torch", 0, 1)
    saver = Saver(url, Ranks(), RetentionConfig(), lambda kind, **f: told.append((kind, f["step"])), "attempt")
    for step in range(1, 4):
        train(engine, 0, 1, step - 1, step)
        store.down = step == 2
        saver.start(engine, step, about(engine, step))
        saver.finish()
    assert told == [("checkpoint", 1), ("checkpoint_missed", 2), ("checkpoint", 3)]
    assert load(url, tmp_path / "here")[0] == 3


def test_a_manifest_cannot_name_a_file_elsewhere(tmp_path: Path) -> None:
    """Of the first format files are brought to this machine; of the second they are read where they are."""
    (tmp_path / "run" / "escaped").mkdir(parents=True)
    (tmp_path / "run" / "escaped" / "x").write_bytes(b"1")
    url = f"file://{tmp_path}/run/checkpoints/step-1"
    whole = {"format": "xmae-checkpoint/v1", "files": [{"name": "../../escaped/x", "size": 1, "sha256": "0"}]}
    with pytest.raises(InputError, match="stays below"):
        checkpoint.open_saved(url, whole, tmp_path / "deep" / "fetched")
    assert not (tmp_path / "escaped").exists()
    entry = {"name": "../../escaped/x", "size": 4, "blocks": "0" * 64, "pieces": {"weight|w|0": "F32 0 4"}}
    ranges = SavedRanges(url, {"format": checkpoint.FORMAT, "files": [entry]})
    with pytest.raises(InputError, match="stays below"):
        list(ranges.parts([Slice("weight", "w", 0, 1)]))


def saver_of(folder: Path, told: list[tuple[str, int]]) -> Saver:
    return Saver(
        f"file://{folder}", Ranks(), RetentionConfig(), lambda kind, **f: told.append((kind, f["step"])), "attempt"
    )


def test_the_last_save_is_tried_again_until_the_store_takes_it(tmp_path: Path) -> None:
    told: list[tuple[str, int]] = []
    in_the_way = tmp_path / "checkpoints"
    in_the_way.touch()

    def tell(kind: str, **fields: Any) -> None:
        told.append((kind, fields["step"]))
        if kind == "checkpoint_again":
            in_the_way.unlink()

    saver, engine = Saver(f"file://{tmp_path}", Ranks(), RetentionConfig(), tell, "attempt"), build("torch", 0, 1)
    train(engine, 0, 1, 0, 1)
    saver.start(engine, 1, about(engine, 1))
    train(engine, 0, 1, 1, 2)  # what is stored is what the step had, whatever came later
    assert saver.finish(60) is None
    assert told == [("checkpoint_missed", 1), ("checkpoint_again", 1), ("checkpoint", 1)]
    step, saved = load(f"file://{tmp_path}", tmp_path / "here")
    assert (step, saved.optimizer_steps) == (1, 1)


@pytest.mark.parametrize("refused", ["upload", "commit"])
def test_a_save_that_is_refused_to_the_end_says_why_and_one_that_is_not_says_nothing(
    refused: str, tmp_path: Path
) -> None:
    told: list[tuple[str, int]] = []
    saver, engine = saver_of(tmp_path, told), build("torch", 0, 1)
    for step in (1, 2):
        folder = tmp_path / "checkpoints" / f"step-{step:08d}"
        if step == 2 and refused == "upload":
            folder.touch()
        elif step == 2:
            (folder / checkpoint.MANIFEST).mkdir(parents=True)
        train(engine, 0, 1, step - 1, step)
        saver.start(engine, step, about(engine, step))
        why = saver.finish(1.5)
        assert (why is None) == (step == 1)
        assert step == 1 or "step-00000002" in str(why)
    assert told == [("checkpoint", 1), ("checkpoint_missed", 2), ("checkpoint_again", 2)]
    error = str(saver.lost(2, 2, str(why)))
    assert "trained to step 2 of 2, which is not stored" in error and "newest checkpoint is of step 1" in error
