"""The stream: Ray Data's batches equal plain reads bit for bit; damage stops it; a killed reader does not."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from xmae_dist.core.errors import IntegrityError, RunError, StorageError
from xmae_dist.data.order.mixture import MixtureConfig
from xmae_dist.data.order.plan import OrderConfig, Plan, plan_for
from xmae_dist.data.store.window_store import WindowStore
from xmae_dist.data.stream import direct
from xmae_dist.data.stream.collate import collate, tensor_batches
from xmae_dist.data.stream.direct import Batch, RetryConfig
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.storage.segment_cache import CacheConfig
from xmae_dist.testing.s3_server import S3Server
from xmae_dist.testing.window_store import spelt_ids, write_window_store

SPEC = WindowSpec(window_s=2.0, stride_s=2.0)
COHORTS = {"patch": [300, 130], "watch": [50], "ring": [90]}


@pytest.fixture
def store(store_url: str) -> WindowStore:
    return write_window_store(store_url, COHORTS, chunk_windows=16, shard_windows=128, spec=SPEC)


@pytest.fixture
def local_store(tmp_path: Path) -> WindowStore:
    return write_window_store(f"file://{tmp_path}/windows", COHORTS, chunk_windows=16, shard_windows=128, spec=SPEC)


def plan_of(store: WindowStore) -> Plan:
    return plan_for(store, OrderConfig(seed=5, global_batch=24))


def same(ours: list[Batch], reference: list[Batch]) -> bool:
    assert [b.step for b in ours] == [b.step for b in reference]
    return all(
        a.epoch_B.tobytes() == b.epoch_B.tobytes()
        and a.ids_B.tobytes() == b.ids_B.tobytes()
        and a.repeat_B.tobytes() == b.repeat_B.tobytes()
        and a.ecg_BL.tobytes() == b.ecg_BL.tobytes()  # type: ignore[union-attr]
        and a.ppg_BL.tobytes() == b.ppg_BL.tobytes()
        for a, b in zip(ours, reference, strict=True)
    )


def test_direct_batches_hold_the_windows_of_the_plan(store: WindowStore) -> None:
    plan = plan_of(store)
    for batch in direct.step_batches(store, plan, start_step=20, stop_step=60):
        assert np.array_equal(batch.ids_B, plan.ids(batch.step))
        assert batch.ecg_BL is not None and batch.ecg_BL.dtype == np.float32
        assert np.array_equal(spelt_ids(batch.ecg_BL), batch.ids_B)
        assert np.array_equal(spelt_ids(batch.ppg_BL), batch.ids_B)


def test_ray_stream_equals_plain_reads_for_any_readers_legs_and_start(store: WindowStore, ray_local: None) -> None:
    from xmae_dist.data.stream import read_ahead

    mixture = MixtureConfig(repeats={"watch": 2.5})
    plan = plan_for(store, OrderConfig(seed=5, global_batch=24, mixture=mixture))
    reference = list(direct.step_batches(store, plan, start_step=7, stop_step=60))
    assert {int(batch.repeat_B.max()) for batch in reference} >= {0, 1}
    for readers, leg_blocks, ahead in ((1, 256, 1), (3, 2, 4)):
        config = read_ahead.StreamConfig(readers=readers, leg_blocks=leg_blocks, blocks_ahead=ahead)
        ours = list(read_ahead.step_batches(store, plan, start_step=7, stop_step=60, config=config))
        assert same(ours, reference)


def test_ray_stream_through_copies_equals_plain_reads(s3: S3Server, ray_local: None, tmp_path: Path) -> None:
    from xmae_dist.data.stream import read_ahead

    url = s3.bucket_url()
    write_window_store(url, COHORTS, chunk_windows=16, shard_windows=128, spec=SPEC)
    plain, cached = WindowStore.open(url), WindowStore.open(url, CacheConfig(max_gib=1.0, folder=str(tmp_path)))
    plan = plan_of(plain)
    reference = list(direct.step_batches(plain, plan, stop_step=40))
    assert same(list(read_ahead.step_batches(cached, plan, stop_step=40)), reference)
    assert [path for path in tmp_path.rglob("*") if path.is_file()]


def test_ranks_stream_at_once_while_they_hold_every_cpu(local_store: WindowStore, ray_local: None) -> None:
    import ray

    plan = plan_of(local_store)

    @ray.remote(num_cpus=2)
    class Rank:
        def run(self, rank: int) -> list[np.ndarray]:
            from xmae_dist.data.stream import read_ahead

            batches = read_ahead.step_batches(local_store, plan, stop_step=40, world=2, rank=rank)
            return [batch.ids_B for batch in batches]

    ranks = [Rank.remote() for _ in range(2)]  # all 4 CPUs
    shares = ray.get([actor.run.remote(rank) for rank, actor in enumerate(ranks)], timeout=120)
    for step, (left, right) in enumerate(zip(*shares, strict=True)):
        assert np.array_equal(np.concatenate([left, right]), plan.ids(step))


@dataclass
class DiesOnce:
    """A real store whose first read takes its process down with it, as the out-of-memory killer would."""

    store: WindowStore
    mark: str

    @property
    def spec(self) -> WindowSpec:
        return self.store.spec

    def read(self, ids_B: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
        try:
            os.close(os.open(self.mark, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return self.store.read(ids_B)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("unreachable")


def test_a_killed_reader_changes_nothing(local_store: WindowStore, tmp_path: Path, ray_local: None) -> None:
    from ray import cloudpickle

    from xmae_dist.data.stream import read_ahead

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # readers cannot import a test
    plan = plan_of(local_store)
    reference = list(direct.step_batches(local_store, plan, stop_step=40))
    dying = DiesOnce(local_store, str(tmp_path / "died"))
    assert same(list(read_ahead.step_batches(dying, plan, stop_step=40)), reference)
    assert (tmp_path / "died").exists()


@dataclass
class Unreadable:
    """Stands for a reader whose environment lacks what it needs: it cannot be unpickled."""

    spec: WindowSpec

    def read(self, ids_B: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
        raise AssertionError("unreachable")

    def __reduce__(self) -> tuple[object, ...]:
        return int, ("not a number",)


def test_a_reader_that_cannot_start_is_an_error_and_no_hang(local_store: WindowStore, ray_local: None) -> None:
    from xmae_dist.data.stream import read_ahead

    config = read_ahead.StreamConfig(lost_readers=1)
    with pytest.raises(RunError, match="not a number"):
        list(read_ahead.step_batches(Unreadable(SPEC), plan_of(local_store), stop_step=40, config=config))


def flip_a_bit(store: WindowStore, tmp_path: Path) -> None:
    shard = sorted(p for p in tmp_path.glob("windows/parts/watch/**/ecg/c/**/*") if p.is_file())[0]
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 1
    shard.write_bytes(data)


def test_damage_is_named_and_never_handed_out(local_store: WindowStore, tmp_path: Path, ray_local: None) -> None:
    from xmae_dist.data.stream import read_ahead

    plan = plan_of(local_store)
    flip_a_bit(local_store, tmp_path)
    retry = RetryConfig(first_wait_s=0.01)
    with pytest.raises(IntegrityError, match=r"array ecg, chunk \d"):
        list(direct.step_batches(WindowStore.open(local_store.url), plan, stop_step=60, retry=retry))
    config = read_ahead.StreamConfig(retry=retry)
    taken = []
    with pytest.raises(IntegrityError, match=r"array ecg, chunk \d"):
        for batch in read_ahead.step_batches(local_store, plan, stop_step=60, config=config):
            taken.append(batch)
    assert all(np.array_equal(spelt_ids(b.ecg_BL), b.ids_B) for b in taken if b.ecg_BL is not None)


@dataclass
class Fails:
    """A store that answers with `errors`, one a read, before it answers rightly."""

    store: WindowStore
    errors: Iterator[Exception]
    reads: int = 0

    @property
    def spec(self) -> WindowSpec:
        return self.store.spec

    def read(self, ids_B: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
        self.reads += 1
        error = next(self.errors, None)
        if error is not None:
            raise error
        return self.store.read(ids_B)


@pytest.mark.parametrize(
    ("errors", "raised", "reads"),
    [
        ([StorageError("server")] * 2, None, 3),
        ([StorageError("server")] * 9, StorageError, 4),
        ([IntegrityError("cut off")], None, 2),
        ([IntegrityError("chunk")] * 9, IntegrityError, 2),
    ],
)
def test_passing_failures_are_tried_again_and_lasting_ones_raised(
    local_store: WindowStore, errors: list[Exception], raised: type[Exception] | None, reads: int
) -> None:
    fails = Fails(local_store, iter(errors))
    retry = RetryConfig(attempts=4, first_wait_s=0.001)
    ids = np.arange(10)
    if raised is None:
        ecg_BL, _ = direct.read_with_retries(fails, ids, retry)
        assert ecg_BL is not None and np.array_equal(spelt_ids(ecg_BL), ids)
    else:
        with pytest.raises(raised):
            direct.read_with_retries(fails, ids, retry)
    assert fails.reads == reads


def test_tensors_share_the_batch_and_errors_arrive_in_their_place(local_store: WindowStore) -> None:
    batches = list(direct.step_batches(local_store, plan_of(local_store), stop_step=5))
    tensor = collate(batches[0], pin=False)
    assert tensor.ppg_BL.data_ptr() == batches[0].ppg_BL.ctypes.data
    assert collate(replace(batches[0], ecg_BL=None), pin=False).ecg_BL is None

    def then_fail() -> Iterator[Batch]:
        yield from batches
        raise StorageError("server")

    taken = tensor_batches(then_fail(), pin=False)
    assert [next(taken).step for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(StorageError):
        next(taken)
