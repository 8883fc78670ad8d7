"""A node of a local cluster that came up slower than Ray waits is started once more, and the cluster counts it once."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from xmae_dist.core.errors import RunError
from xmae_dist.testing import local_node
from xmae_dist.testing.local_cluster import local_cluster

SAID = "The current node timed out during startup. This could happen because …"


@pytest.mark.slow
def test_a_node_that_was_too_slow_once_gets_another_try(monkeypatch: pytest.MonkeyPatch) -> None:
    start, failures = local_node.start, iter([SAID, SAID, SAID])

    def busy(words: list[str], log: Path, *more: Any, **options: Any) -> subprocess.Popen[bytes]:
        if not log.name.startswith("node-") or (said := next(failures, None)) is None:
            return start(words, log, *more, **options)
        with log.open("wb") as file:
            return subprocess.Popen(["sh", "-c", f"echo '{said}'; exit 1"], stdout=file, start_new_session=True)

    with local_cluster(raylets=1) as cluster:
        monkeypatch.setattr(local_node, "start", busy)
        with pytest.raises(RunError, match="timed out during startup"):
            cluster.add_node(num_cpus=1)
        node = cluster.add_node(num_cpus=1)
        assert node.poll() is None
        assert [one["node_ip"] for one in cluster.alive()].count(cluster.node_ip(node)) == 1
