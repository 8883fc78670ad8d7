"""What a job wants of a cluster, in words and in labels; what is asked of a real autoscaler is in test_autoscaling."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from xmae_dist.cluster import demand, pools
from xmae_dist.core.errors import UsageError
from xmae_dist.data.stream.read_ahead import StreamConfig
from xmae_dist.testing import autoscaling
from xmae_dist.testing.autoscaling import NodeType
from xmae_dist.train.config import ResourceConfig
from xmae_dist.train.survival.board import Board


def test_a_demand_in_words() -> None:
    each = ResourceConfig(worker_cpus=4, gpus=True, node_resource="trainer").each
    assert str(demand.Demand(what="workers", count=64, each=each)) == "64 workers (4 CPU, 1 GPU, 1 trainer each)"
    assert ResourceConfig().each == {"CPU": 1.0}


def test_room_is_counted_node_by_node(ray_local: None) -> None:
    """On a node of four CPUs."""
    assert demand.Demand(what="tasks", count=9, each={"CPU": 3.0}).room() == 1
    assert demand.Demand(what="tasks", count=9, each={"CPU": 0.5}, off_gpus=True).room() == 8
    assert demand.Demand(what="tasks", count=9, each={"CPU": 1.0, "trainer": 1.0}).room() == 0


def test_only_what_asks_for_a_gpu_may_go_to_the_trainers() -> None:
    assert pools.selector(0.25) is None and pools.selector(0.0) == pools.OFF_GPUS == {"xmae/pool": "!trainer"}
    assert pools.off_gpus({"Labels": {}}) and pools.off_gpus({"Labels": {"xmae/pool": "data"}})
    assert not pools.off_gpus({"Labels": {"xmae/pool": "trainer"}})
    assert StreamConfig(read_cpus=1).label_selector == pools.OFF_GPUS
    assert StreamConfig(read_cpus=1, read_label="xmae/pool=trainer").label_selector == {"xmae/pool": "trainer"}


def test_the_board_knows_whether_workers_are_waited_for() -> None:
    board = Board()
    assert board.waits()
    board.begin()
    assert not board.waits()
    board.note_time("lost")
    assert board.waits()


def test_a_node_type_is_read_and_written_for_the_autoscaler(tmp_path: Path) -> None:
    found = NodeType.parse("trainer:GPU=1,trainer=1,max=3,boot_s=2.5")
    assert found == NodeType(name="trainer", resources={"CPU": 1, "GPU": 1, "trainer": 1}, max_workers=3, boot_s=2.5)
    file = tmp_path / "autoscaling.yaml"
    autoscaling.write_file(
        file, [found], gcs_address="127.0.0.2:1", folder=tmp_path, head_cpus=0, idle_timeout_s=30, object_store_mib=100
    )
    written = json.loads(file.read_text())
    assert written["available_node_types"]["trainer"]["labels"] == {"xmae/pool": "trainer"}
    assert written["max_workers"] == 3 and written["idle_timeout_minutes"] == 0.5
    with pytest.raises(UsageError, match=r"--node-type: got trainer:max=many"):
        NodeType.parse("trainer:max=many")
