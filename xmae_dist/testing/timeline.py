"""The life of an elastic pretraining run on machines that come and go, as a timeline: Ray's autoscaler at its work.

A cluster of nothing but a head gets a job. One kind of machine with a (counted, not real) GPU boots at once, others
take their time, and CPU nodes read for them. The run begins with what there is and grows; one machine gets a spot
notice and is taken away, another is killed; each is replaced. At the end the job is stopped and all nodes go.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from xmae_dist.core.errors import RunError
from xmae_dist.testing import local_node
from xmae_dist.testing.autoscaling import NodeType
from xmae_dist.testing.local_cluster import LocalCluster, Machine, local_cluster
from xmae_dist.train.observe.metrics import read_metrics

JOB = "timeline"
IDLE_TIMEOUT_S = 15.0
READERS = NodeType(name="data", resources={"CPU": 2}, max_workers=1)
# One after another, as machines of a cloud come: Ray gives up a node that needs more than 30 s to start, which three at
# once on two busy cores do.
TRAINERS = tuple(
    NodeType(name=name, resources={"CPU": 1, "GPU": 1, "trainer": 1}, boot_s=boot_s, pool="trainer")
    for name, boot_s in (("trainer", 0), ("trainer-slow", 45), ("trainer-slower", 90))
)
MOST_WORKERS = sum(one.max_workers for one in TRAINERS)
CHECKPOINT_STEPS, RESIZE_CHECK_S = 20, 3
OPTIONS = (
    *("--train.workers", str(MOST_WORKERS), "--train.min-workers", "1"),
    *("--resources.may-grow", "--resources.node-resource", "trainer"),
    *("--resources.reader", "ray", "--resources.read-cpus", "1", "--resources.readers", "1"),
    *("--train.steps", "1000000", "--train.global-batch", "12", "--train.resize-check-s", str(RESIZE_CHECK_S)),
    *("--checkpoint.every-steps", str(CHECKPOINT_STEPS), "--validation.windows", "0"),
)
_STARTED = re.compile(r"started at step (\d+) with (\d+) workers")
_ENDED = "the job has ended"
_PATIENCE_S = 600.0


@dataclass(frozen=True, kw_only=True)
class Start:
    """A group of workers that began to train."""

    at_s: float
    step: int
    world: int


@dataclass(kw_only=True)
class Story:
    """What happened, in seconds since the job was submitted."""

    say: Callable[[str], None]
    began_s: float = field(default_factory=time.monotonic)
    began_unix_s: float = field(default_factory=time.time)
    events: list[tuple[float, str]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    """What the job said."""
    starts: list[Start] = field(default_factory=list)
    changes: list[dict[str, Any]] = field(default_factory=list)
    """Machines that train and are up, get notice, or are gone: `at_s`, `kind`, `machine` (a number)."""
    idle_nodes_gone_after_s: float = float("nan")
    """From the end of the job until nothing but the head was left."""
    tasks: list[dict[str, Any]] = field(default_factory=list)
    """Ray's state of the job's tasks while it trained with all workers."""
    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Ray's state of every node that there was, by its id."""

    def tell(self, what: str) -> float:
        at_s = time.monotonic() - self.began_s
        self.events.append((at_s, what))
        self.say(f"{at_s:7.1f} s  {what}")
        return at_s

    def change(self, kind: str, name: str) -> None:
        """A machine that trains is up, gets notice, or is gone; what follows a notice is no news."""
        machine = int(name.rpartition("-")[2])
        if not any(one["machine"] == machine and one["kind"] in ("notice", kind) for one in self.changes):
            at_s = time.monotonic() - self.began_s
            self.changes.append({"at_s": at_s, "kind": kind, "machine": machine})

    def hear(self, line: str) -> None:
        """A line of the job."""
        self.lines.append(line)
        if found := _STARTED.search(line):
            step, world = int(found[1]), int(found[2])
            self.starts.append(Start(at_s=self.tell(f"trains with {world} from step {step}"), step=step, world=world))
        elif "checkpoint at step" not in line and "step " not in line and line.strip():
            self.tell(f"job: {line.strip()}")


def play(corpus: str, run: str, say: Callable[[str], None] = print) -> Story:
    """Plays it with the corpus and the run at these URLs; windows are made below the corpus.

    `say` gets each line of the timeline as it happens. Raises RunError where something expected does not happen in
    ten minutes.
    """
    with local_cluster(
        raylets=1, num_cpus=0, object_store_mib=120, node_types=(READERS, *TRAINERS), idle_timeout_s=IDLE_TIMEOUT_S
    ) as cluster:
        story = Story(say=say)
        with _watched(cluster, story):
            _played(cluster, story, corpus, run)
        return story


def record(story: Story, run: str) -> dict[str, Any]:
    """What `bench/spot.py --story` replays: changes of machines, and what the run's own rows say of speed, steps and
    restarts (means over those with a save before them, and over those without)."""
    rows = read_metrics(run)
    speeds = _steps_per_s(rows)
    lost = _after_losses(story)
    saved_s = _standing_s(rows, speeds, {start.step for start in lost.values()})
    lost_s = [
        _stepped_s(rows, start.step + 1) - story.began_unix_s - at_s - _step_s(speeds, start.world)
        for at_s, start in lost.items()
    ]
    restart_s = sum(saved_s) / len(saved_s)
    first_s = story.starts[0].at_s - restart_s  # what the first start took beside, windows among it, is no restart
    return {
        "changes": [{**one, "at_s": max(one["at_s"], first_s)} for one in story.changes],
        "steps": max(row["step"] for row in rows),
        "steps_per_s": speeds,
        "restart_s": restart_s,
        "restarts_s": {"saved": saved_s, "lost": lost_s},
        "detect_s": max(0.0, sum(lost_s) / len(lost_s) - restart_s),
        "checkpoint_steps": CHECKPOINT_STEPS,
        "resize_check_s": RESIZE_CHECK_S,
        "end_s": next(at_s for at_s, what in story.events if what == _ENDED),
    }


def _after_losses(story: Story) -> dict[float, Start]:
    """By the time of each loss without notice: the first start after it."""
    losses = [float(one["at_s"]) for one in story.changes if one["kind"] == "gone"]
    return {at_s: next(one for one in story.starts if one.at_s > at_s) for at_s in losses}


def _standing_s(rows: list[dict[str, Any]], speeds: dict[int, float], lost_from: set[int]) -> list[float]:
    """Seconds from the last step of a group that saved and left to the first of the next; less that step itself."""
    times = {row["step"]: row["time_s"] for row in rows if row["kind"] == "step"}
    return [
        times[row["step"] + 1] - times[row["step"]] - _step_s(speeds, row["world"])
        for row in rows
        if row["kind"] == "start" and row["step"] not in lost_from and {row["step"], row["step"] + 1} <= times.keys()
    ]


def _stepped_s(rows: list[dict[str, Any]], step: int) -> float:
    return next(float(row["time_s"]) for row in rows if row["kind"] == "step" and row["step"] == step)


def _step_s(speeds: dict[int, float], world: int) -> float:
    return 1 / speeds[min(speeds, key=lambda known: abs(known - world))]


def _steps_per_s(rows: list[dict[str, Any]]) -> dict[int, float]:
    """By number of workers."""
    steps: dict[int, float] = {}
    seconds: dict[int, float] = {}
    world, begun, last_s = 0, 0, None
    for row in rows:
        if row["kind"] == "start":
            world, begun, last_s = row["world"], row["step"], None
        elif row["kind"] == "step" and row["step"] > begun:  # that step itself was its predecessor's
            if last_s is not None:
                steps[world] = steps.get(world, 0.0) + 1
                seconds[world] = seconds.get(world, 0.0) + row["time_s"] - last_s
            last_s = row["time_s"]
    return {world: steps[world] / seconds[world] for world in steps}


def _played(cluster: LocalCluster, story: Story, corpus: str, run: str) -> None:
    story.tell(f"submitted: up to {MOST_WORKERS} workers, 1 at least")
    words = [
        sys.executable,
        "-m",
        "xmae_dist.cli",
        "pretrain",
        "debug_cpu2",
        "--corpus",
        corpus,
        "--run",
        run,
        *OPTIONS,
    ]
    with _job(cluster, story, words):
        _until(story, "the first step", lambda: bool(story.starts))
        _until(story, "all workers", lambda: story.starts[-1].world == MOST_WORKERS)
        story.tasks = cluster.state("tasks")

        taken = _trainer(cluster, "trainer-")
        starts = len(story.starts)
        cluster.notice(taken.ip)
        story.change("notice", taken.name)
        story.tell(f"spot notice for {taken.name}")
        _until(story, "the group without it", lambda: len(story.starts) > starts)
        cluster.lose(taken)
        story.tell(f"{taken.name} taken away")
        _until(story, "all workers again", lambda: story.starts[-1].world == MOST_WORKERS)

        starts, killed = len(story.starts), _trainer(cluster, "trainer-slow-")
        cluster.lose(killed)
        story.change("gone", killed.name)
        story.tell(f"{killed.name} killed")
        _until(
            story, "all workers again", lambda: len(story.starts) > starts and story.starts[-1].world == MOST_WORKERS
        )
        _ray(cluster, "job", "stop", JOB)
    ended_s = story.tell(_ENDED)
    _until(story, "nothing but the head", lambda: len(cluster.alive()) == 1)
    story.idle_nodes_gone_after_s = story.tell("nothing but the head is left") - ended_s


def _trainer(cluster: LocalCluster, prefix: str) -> Machine:
    """The newest machine of a type, on which a worker trains: all do."""
    return [one for one in cluster.machines() if re.fullmatch(prefix + r"\d+", one.name)][-1]


def _until(story: Story, what: str, true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not true():
        if time.monotonic() > deadline:
            raise RunError(
                f"waiting for {what}",
                value=" / ".join(story.lines[-3:]),
                expected=f"it within {_PATIENCE_S:.0f} s",
                fix="see the timeline so far; a machine with more than two cores is quicker",
            )
        time.sleep(0.2)


@contextlib.contextmanager
def _job(cluster: LocalCluster, story: Story, words: list[str]) -> Iterator[None]:
    """The job while the block runs, and until it has ended; its lines go to the story."""
    client = subprocess.Popen(
        [local_node.RAY, "job", "submit", "--submission-id", JOB, "--", *words],
        env={**os.environ, **cluster.environment()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert client.stdout is not None
    reader = threading.Thread(target=_hear, args=(client.stdout, story), daemon=True)
    reader.start()
    try:
        yield
        client.wait(timeout=120)
        reader.join()
    finally:
        client.kill()


def _hear(lines: Any, story: Story) -> None:
    for line in lines:
        if line.startswith(("pretrain:", "xmae ", "waiting ")):
            story.hear(line)


def _ray(cluster: LocalCluster, *words: str) -> None:
    subprocess.run(
        [local_node.RAY, *words], env={**os.environ, **cluster.environment()}, check=True, capture_output=True
    )


@contextlib.contextmanager
def _watched(cluster: LocalCluster, story: Story) -> Iterator[None]:
    """Machines that the autoscaler starts and ends, and nodes that the head counts, go to the story."""
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(cluster, story, ended), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def _watch(cluster: LocalCluster, story: Story, ended: threading.Event) -> None:
    told, up = 0, {node["node_ip"] for node in cluster.alive()}
    while not ended.wait(1.0):
        events = cluster.machine_events()
        names = {row["ip"]: row["machine"] for row in events}
        for row in events[told:]:
            story.tell(f"machine {row['machine']} {row['event']}")
        told = len(events)
        alive = cluster.alive()
        story.nodes |= {node["node_id"]: node for node in alive}
        now = {node["node_ip"] for node in alive} if alive else up
        for ip in sorted(now - up):
            story.tell(f"node {names.get(ip, ip)} up")
            if names.get(ip, "").startswith("trainer"):
                story.change("up", names[ip])
        for ip in sorted(up - now):
            story.tell(f"node {names.get(ip, ip)} gone")
        up = now
