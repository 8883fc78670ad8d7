"""What a run on a thousand nodes asks of its head: formulas with constants that are measured here.

    python bench/fleet.py [--nodes 1000] [--ranks-a-node 1] [--json FILE]

A thousand nodes are not here, so each part is loaded alone and its CPU seconds are counted, which a busy machine does
not change much: the board by calls as ranks make them, a poll of a worker by the one who polls, and Ray's control
server by idle nodes, one and then three. Rates are those of the code: a beat and a row a second from each rank, two
polls of each rank and two looks at all beats a second by the controller.
"""

from __future__ import annotations

import argparse
import json
import pickle
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import ray

from xmae_dist.cluster import private_ray
from xmae_dist.testing.local_cluster import local_cluster
from xmae_dist.train.survival.board import Board
from xmae_dist.train.survival.pulse import Beat

CALLS = 4000
BEATS_A_S, ROWS_A_S, POLLS_A_S, LOOKS_A_S = 1.0, 1.0, 2.0, 2.0
MANY_RANKS = 1000


@dataclass(frozen=True, kw_only=True)
class Constants:
    """CPU seconds of the process that is named, for one of each."""

    beat_s: float
    """Board: a beat taken."""
    row_s: float
    """Board: a call with rows, answered."""
    look_s: float
    """Board: all beats handed out, for each rank."""
    look_bytes: float
    """Of the answer, for each rank."""
    poll_s: float
    """Controller: a worker asked and its answer taken."""
    node_s: float
    """Control server: a node, for a second."""
    head_s: float
    """Control server: a second, with no node but the head's."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--ranks-a-node", type=int, default=1)
    parser.add_argument("--idle-s", type=float, default=40.0, help="for how long idle nodes are watched")
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args()
    head_s, three_s = control_server_s(1, args.idle_s), control_server_s(3, args.idle_s)
    private_ray.start(num_cpus=2, object_store_memory=200 * 2**20, log_to_driver=False)
    constants = Constants(**of_the_board(), poll_s=poll_s(), node_s=max(three_s - head_s, 0.0) / 2, head_s=head_s)
    ray.shutdown()
    show(constants, args.nodes, args.nodes * args.ranks_a_node)
    if args.json:
        args.json.write_text(json.dumps(asdict(constants), indent=1))


# -- measured --------------------------------------------------------------------------------------------------------


def of_the_board() -> dict[str, float]:
    board = ray.remote(num_cpus=0)(Board).remote()
    place = "train.step.collective.Ranks.sum"
    beats = [Beat(rank=rank, step=100, place=place, collective="all_reduce", since_s=0.1) for rank in range(MANY_RANKS)]
    ray.get([board.beat.remote(beat.rank, beat) for beat in beats])
    rows = [{"kind": "step", "step": 100, "loss": 0.5, "windows_per_s": 900.0}]
    looks = 50
    return {
        "beat_s": cpu_of(board, CALLS, lambda at: board.beat.remote(at % MANY_RANKS, beats[at % MANY_RANKS])),
        "row_s": cpu_of(board, CALLS, lambda _: board.post.remote(rows)),
        "look_s": cpu_of(board, looks, lambda _: board.beats.remote()) / MANY_RANKS,
        "look_bytes": len(pickle.dumps(ray.get(board.beats.remote()))) / MANY_RANKS,
    }


def cpu_of(actor: Any, calls: int, call: Callable[[int], Any]) -> float:
    """CPU seconds of the actor's process for a call."""
    before_s = ray.get(actor.__ray_call__.remote(_process_time))
    for first in range(0, calls, 100):  # no more wait than a real board would let
        ray.get([call(at) for at in range(first, min(first + 100, calls))])
    return float((ray.get(actor.__ray_call__.remote(_process_time)) - before_s) / calls)


def _process_time(_: Any) -> float:
    return time.process_time()


def poll_s() -> float:
    """CPU seconds of this process for asking an actor and taking its answer, many at a time as the controller does."""

    class Worker:
        def poll_status(self) -> dict[str, Any]:
            return {"running": True, "error": None}

    workers = [ray.remote(num_cpus=0)(Worker).remote() for _ in range(2)]
    ray.get([worker.poll_status.remote() for worker in workers])
    before_s = time.process_time()
    for _ in range(CALLS // 100):
        ray.get([workers[at % 2].poll_status.remote() for at in range(100)])
    return (time.process_time() - before_s) / CALLS


def control_server_s(nodes: int, watched_s: float) -> float:
    """CPU seconds a second of Ray's control server with so many idle nodes, the head among them."""
    with local_cluster(raylets=nodes, num_cpus=1, object_store_mib=100) as cluster:
        family = psutil.Process(cluster.nodes[0].pid).children(recursive=True)
        (server,) = [one for one in family if "gcs_server" in one.name()]
        time.sleep(watched_s / 4)
        before, began_s = server.cpu_times(), time.monotonic()
        time.sleep(watched_s)
        after, took_s = server.cpu_times(), time.monotonic() - began_s
    return (after.user + after.system - before.user - before.system) / took_s


# -- reckoned --------------------------------------------------------------------------------------------------------


def show(constants: Constants, nodes: int, ranks: int) -> None:
    print(f"{nodes:,} nodes, {ranks:,} ranks; cores, where nothing else is said")
    for name, formula, value in reckoned(constants, nodes, ranks):
        print(f"{name:<34} {formula:<58} {value:>10.3g}")


def reckoned(c: Constants, nodes: int, ranks: int) -> list[tuple[str, str, float]]:
    board = ranks * (BEATS_A_S * c.beat_s + ROWS_A_S * c.row_s + LOOKS_A_S * c.look_s)
    return [
        ("control server", f"{c.head_s:.4f} + {c.node_s:.5f} a node", c.head_s + c.node_s * nodes),
        ("board", f"{board / ranks * 1e6:.0f} µs a rank and second", board),
        (
            "controller, asking workers",
            f"{POLLS_A_S:g} polls a second, {c.poll_s * 1e6:.0f} µs each",
            POLLS_A_S * c.poll_s * ranks,
        ),
        (
            "controller, looking at beats, MB/s",
            f"{LOOKS_A_S:g} a second, {c.look_bytes:.0f} B a rank",
            LOOKS_A_S * c.look_bytes * ranks / 1e6,
        ),
    ]


if __name__ == "__main__":
    main()
