"""What a job wants of a cluster, in words and in labels; what is asked of a real autoscaler is in test_autoscaling."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from xmae_dist.cluster import demand, pools
from xmae_dist.core.errors import UsageError
from xmae_dist.data.stream.read_ahead import StreamConfig
from xmae_dist.testing import autoscaling
from xmae_dist.testing.autoscaling import NodeType
from xmae_dist.train.config import PretrainConfig, ResourceConfig
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


def test_ray_data_in_a_worker_asks_for_no_nodes_by_itself() -> None:
    """Its thresholds are read when it is imported, by names that a version of Ray may change."""
    from xmae_dist.train.trainer import _worker_environment

    program = (
        "from ray.data._internal.cluster_autoscaler import create_cluster_autoscaler, RateBasedClusterAutoscaler as R\n"
        "from ray.data._internal.cluster_autoscaler import DEFAULT_CLUSTER_AUTOSCALER_VERSION as version\n"
        "found = R.DEFAULT_CLUSTER_SCALING_UP_UTIL_THRESHOLD\n"
        "print(version, min(found.cpu, found.gpu, found.memory, found.object_store_memory))"
    )
    environment = {**os.environ, **_worker_environment(PretrainConfig())}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["RATE_BASED", "1000000000.0"]
