"""What the full loop costs over the bare training step, on the same windows, and how it scales.

    python bench/train_loop.py [--preset paper] [--rounds 3] [--json FILE]

*Bare*: plain PyTorch in one process, windows in memory, masks drawn beforehand, forward, backward, clipping, AdamW.
*Loop*: `xmae pretrain` as users run it: Ray Train, DeepSpeed ZeRO 1, Ray Data reading the window store, metrics,
checkpoints; no validation. Each child is bound to its cores with everything it starts, a thread a worker: one worker on
core 0, two on cores 0 and 1. *Beside*: one worker alone on core 0, and Ray's own processes on core 1, as on a machine
whose GPUs train and whose CPUs have room for Ray. All take turns; medians over rounds.

Processes differ by more than the overhead that is looked for, so it is taken within one: *in turns* is *beside* with
eight bare steps after every eight of the loop, made by the worker itself, on the same windows, with a model and
optimizer of its own. The loop's seconds are everything from the end of bare steps to the start of the next: waiting for
data, masks, engine, all-reduce, metrics, checkpoints, and what Ray's and the loop's other threads take of the core
meanwhile. What those take during bare steps is taken off these.

The clock counts what a busy neighbour takes, so CPU seconds (all processes of the run, Ray's own included) stand beside
it: overhead by CPU is what the loop itself costs. "two bare at once" is what the machine gives two processes that share
nothing but memory: scaling beyond it cannot be had.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

WARM_STEPS = 8
TURN_STEPS = 8
SAVES = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--steps", type=int, default=48, help="measured steps a round")
    parser.add_argument("--global-batch", type=int, default=64)
    parser.add_argument("--micro-batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--bare", nargs=2, metavar=("STORE", "STEPS"), help=argparse.SUPPRESS)
    parser.add_argument("--in-turns", nargs=argparse.REMAINDER, metavar="FILE, WORD", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.bare:
        print(json.dumps(bare(args, args.bare[0], int(args.bare[1]))))
        return
    if args.in_turns:
        raise SystemExit(pretrain_in_turns(args, Path(args.in_turns[0]), args.in_turns[1:]))
    with tempfile.TemporaryDirectory(prefix="xmae-bench-") as folder:
        results = run(args, Path(folder))
    show(results)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


def run(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    corpus = folder / "corpus"
    made = ["simulate", "bedside", "--corpus", str(corpus), "--subjects", "8", "--minutes", "30"]
    xmae(made, (0, 1), folder / "simulate.log").wait()
    loop(args, corpus, folder / "first", (0, 1), steps=1)  # makes the window store
    store = json.loads((folder / "first" / "run.json").read_text())["store"]
    rounds = []
    for number in range(args.rounds):
        print(f"round {number + 1}/{args.rounds}", file=sys.stderr, flush=True)
        rounds.append(
            {
                "load": os.getloadavg()[0],
                "bare": bares(args, store, (0,), folder)[0],
                "loop_1": loop(args, corpus, folder / f"one-{number}", (0,)),
                "beside": loop(args, corpus, folder / f"beside-{number}", (0, 1), workers=1),
                "turns": turns(args, corpus, folder / f"turns-{number}"),
                "bare_twice": bares(args, store, (0, 1), folder),
                "loop_2": loop(args, corpus, folder / f"two-{number}", (0, 1)),
            }
        )
    return {"preset": args.preset, "global_batch": args.global_batch, "cpus": os.cpu_count(), "rounds": rounds}


# -- the bare step ---------------------------------------------------------------------------------------------------


def bare(args: argparse.Namespace, store_url: str, steps: int) -> dict[str, float]:
    """Windows per second of a plain loop over the plan's first windows, in this process."""
    import torch

    from xmae_dist.data.order.plan import OrderConfig, plan_for
    from xmae_dist.data.store.window_store import WindowStore
    from xmae_dist.model import presets
    from xmae_dist.model.mask import masks

    torch.set_num_threads(1)
    store = WindowStore.open(store_url)
    plan = plan_for(store, OrderConfig(global_batch=args.global_batch))
    step_of = bare_step(args.preset, args.micro_batch)
    config = presets.config(args.preset)
    batches = []
    for step in range(min(WARM_STEPS + steps, 32)):
        ids_B = plan.ids(step)
        ecg_BL, ppg_BL = store.read(ids_B)
        mask_BN = masks(0, 0, ids_B, config.n_patches, config.mask_ratio, config.mask_mode)
        batches.append([torch.from_numpy(x.astype(np.float32)) for x in (ppg_BL, ecg_BL)] + [torch.from_numpy(mask_BN)])
    started = cpu_started = 0.0
    for step in range(WARM_STEPS + steps):
        if step == WARM_STEPS:
            started, cpu_started = time.perf_counter(), time.process_time()
        step_of(*batches[step % len(batches)])
    windows = steps * args.global_batch
    return {
        "windows_per_s": windows / (time.perf_counter() - started),
        "windows_per_cpu_s": windows / (time.process_time() - cpu_started),
    }


def bare_step(preset: str, micro_batch: int) -> Callable[..., None]:
    """A training step of a model of its own, on (ppg, ecg, mask)."""
    import torch

    from xmae_dist.model import presets

    torch.manual_seed(0)
    model = presets.build(preset)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step(*tensors: Any) -> None:
        parts = len(tensors[0]) // micro_batch
        for micro in zip(*(x.split(micro_batch) for x in tensors), strict=True):
            (model(*micro) / parts).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def bares(args: argparse.Namespace, store: str, cores: Sequence[int], folder: Path) -> list[dict[str, float]]:
    """One bare loop on each core, at the same time."""
    words = ["--preset", args.preset, "--global-batch", str(args.global_batch), "--micro-batch", str(args.micro_batch)]
    children = [
        child(
            [sys.executable, __file__, *words, "--bare", store, str(args.steps)],
            (core,),
            folder / f"bare-{core}.log",
            stdout=subprocess.PIPE,
        )
        for core in cores
    ]
    return [json.loads(one.communicate()[0]) for one in children]


# -- the full loop ---------------------------------------------------------------------------------------------------


def loop(
    args: argparse.Namespace,
    corpus: Path,
    run_folder: Path,
    cores: Sequence[int],
    *,
    steps: int | None = None,
    workers: int | None = None,
) -> dict[str, Any]:
    """One run with as many workers as cores, unless told; what its measured steps took.

    Fewer workers than cores have the first cores to themselves.
    """
    workers = workers or len(cores)
    words, total = words_of(args, corpus, run_folder, steps or args.steps, workers)
    log = run_folder.with_suffix(".log")
    process = xmae(words, cores, log)
    samples = list(cpu_seconds_of(process, log, apart=cores[:workers] if workers < len(cores) else ()))
    rows = [json.loads(line) for file in run_folder.glob("metrics/*") for line in file.read_text().splitlines()]
    steps_rows = sorted((row for row in rows if row["kind"] == "step"), key=lambda row: row["step"])
    return measured(steps_rows[WARM_STEPS:-1], samples, args.global_batch, max((total - WARM_STEPS) // SAVES, 1))


def words_of(
    args: argparse.Namespace, corpus: Path, run_folder: Path, steps: int, workers: int
) -> tuple[list[str], int]:
    """(the command line, how many steps it makes) for `steps` measured ones."""
    total = WARM_STEPS + steps + 1  # the last step also waits for its checkpoint
    options = {
        "--corpus": corpus,
        "--run": run_folder,
        "--model.preset": args.preset,
        "--train.steps": total,
        "--train.global-batch": args.global_batch,
        "--train.micro-batch": args.micro_batch,
        "--train.workers": workers,
        "--validation.windows": 0,
        "--checkpoint.every-steps": max((total - WARM_STEPS) // SAVES, 1),
    }
    return ["pretrain", "debug_cpu2", *(str(word) for pair in options.items() for word in pair)], total


def measured(
    rows: list[dict[str, Any]], samples: list[tuple[float, float]], global_batch: int, save_every: int
) -> dict[str, Any]:
    took_S = np.array([global_batch / row["windows_per_s"] for row in rows])
    # CPU between the first and the last measured step, by the nearest samples around them.
    stamp_s, cpu_s = np.array(samples).T
    inside = np.interp([rows[0]["time_s"] - took_S[0], rows[-1]["time_s"]], stamp_s, cpu_s)
    saves = [row["checkpoint_s"] for row in rows if row["step"] % save_every == 0]
    return {
        "windows_per_s": global_batch * len(rows) / took_S.sum(),
        "windows_per_cpu_s": global_batch * len(rows) / (inside[1] - inside[0]),
        "checkpoint_stall_s": float(np.mean(saves)) if saves else 0.0,
        "parts_s": {
            part: float(np.mean([row.get(part, 0.0) for row in rows]))
            for part in ("data_s", "other_s", "forward_s", "backward_s", "optimizer_s", "communication_s")
        },
    }


def cpu_seconds_of(process: subprocess.Popen[bytes], log: Path, apart: Sequence[int]) -> Iterator[tuple[float, float]]:
    """(time, CPU seconds so far of the process and all that it started), until it ends.

    If it fails, this process ends too and shows the last lines of its log.

    Workers are bound to the cores `apart`, if any, and everything else to the others.
    """
    import psutil

    known: dict[int, float] = {}
    others = sorted(set(range(os.cpu_count() or 1)) - set(apart))
    while process.poll() is None:
        with contextlib.suppress(psutil.Error):
            top = psutil.Process(process.pid)
            for one in (top, *top.children(recursive=True)):
                with contextlib.suppress(psutil.Error, ProcessLookupError):
                    for thread in one.threads() if apart else ():
                        os.sched_setaffinity(thread.id, apart if one.name() == "ray::RayTrainWorker" else others)
                    times = one.cpu_times()
                    known[one.pid] = times.user + times.system
        yield time.time(), sum(known.values())
        time.sleep(0.2)
    if process.returncode:
        last = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        raise SystemExit(f"{last}\n{log.stem}: ended with status {process.returncode}; its last lines are above")


def xmae(words: list[str], cores: Sequence[int], log: Path) -> subprocess.Popen[bytes]:
    return child([sys.executable, "-m", "xmae_dist.cli", *words], cores, log)


def child(
    command: list[str], cores: Sequence[int], log: Path, stdout: int = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
    """A process that, with all that it starts, has these cores alone and one thread a process."""
    root = str(Path(__file__).resolve().parents[1])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    environment["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"  # as workers have it; without, each process is a lottery
    environment.pop("RAY_ADDRESS", None)
    bound = ["taskset", "-c", ",".join(map(str, cores)), *command]
    with log.open("wb") as errors:
        return subprocess.Popen(bound, env=environment, stdout=stdout, stderr=errors)


# -- in turns --------------------------------------------------------------------------------------------------------


def turns(args: argparse.Namespace, corpus: Path, run_folder: Path) -> dict[str, Any]:
    """The loop's steps and bare ones in turns, in one worker on core 0, Ray on core 1: seconds of each turn."""
    words, _ = words_of(args, corpus, run_folder, args.steps, workers=1)
    turns_file = run_folder.with_suffix(".json")
    own = ["--preset", args.preset, "--micro-batch", str(args.micro_batch), "--in-turns", str(turns_file), *words]
    log = run_folder.with_suffix(".log")
    process = child([sys.executable, __file__, *own], (0, 1), log)
    for _ in cpu_seconds_of(process, log, apart=(0,)):
        pass
    return dict(json.loads(turns_file.read_text()))


def pretrain_in_turns(args: argparse.Namespace, turns_file: Path, words: list[str]) -> int:
    """`xmae pretrain`, whose worker makes bare steps in turns with its own; what they took goes to `turns_file`."""
    from xmae_dist.cli.main import main as command
    from xmae_dist.train import trainer

    preset, micro_batch, train = args.preset, args.micro_batch, trainer.train

    def train_in_turns(settings: dict[str, Any]) -> dict[str, Any]:
        from xmae_dist.train import loop

        run_loop = loop.Loop.run

        def in_turns(self: Any, batches: Any, state: Any) -> Any:
            def mask_of(batch: Any) -> Any:
                return self.masking.draw(batch, self.config.model_mask_ratio)

            return run_loop(self, with_bare_steps(batches, mask_of, bare_step(preset, micro_batch), turns_file), state)

        loop.Loop.run = in_turns  # type: ignore[method-assign]
        return train(settings)

    trainer.train = train_in_turns
    return command(words)


def with_bare_steps(
    batches: Any, mask_of: Callable[[Any], Any], step_of: Callable[..., None], turns_file: Path
) -> Iterator[Any]:
    """The batches; after every `TURN_STEPS`, bare steps on the same."""
    loop_s: list[float] = []
    bare_s: list[float] = []
    other_threads_s: list[float] = []
    block: list[Any] = []
    began_s = time.perf_counter()
    for batch in batches:
        yield batch
        block.append(batch)
        if len(block) == TURN_STEPS:
            loop_s.append(time.perf_counter() - began_s)
            tensors = [(one.ppg_BL, one.ecg_BL, mask_of(one)) for one in block]
            before_s, used_s, own_s = time.perf_counter(), time.process_time(), time.thread_time()
            for one in tensors:
                step_of(*one)
            bare_s.append(time.perf_counter() - before_s)
            other_threads_s.append(time.process_time() - used_s - (time.thread_time() - own_s))
            block, began_s = [], time.perf_counter()
    turns_file.write_text(  # the first turn warms up
        json.dumps({"loop_s": loop_s[1:], "bare_s": bare_s[1:], "other_threads_s": other_threads_s[1:]})
    )


# -- the table -------------------------------------------------------------------------------------------------------


def show(results: dict[str, Any]) -> None:
    rounds = results["rounds"]

    def median(what: str, key: str) -> float:
        return float(np.median([one[what][key] for one in rounds]))

    loads = ", ".join(f"{one['load']:.1f}" for one in rounds)
    print(
        f"{results['preset']}, global batch {results['global_batch']}, {len(rounds)} rounds; load before each: {loads}"
    )
    print(f"{'':<24} {'windows/s':>10} {'per CPU s':>10}")
    for label, what in (
        ("bare step, 1 core", "bare"),
        ("loop, 1 worker, 1 core", "loop_1"),
        ("loop, 1 worker beside Ray", "beside"),
        ("loop, 2 workers, 2 cores", "loop_2"),
    ):
        print(f"{label:<24} {median(what, 'windows_per_s'):>10.1f} {median(what, 'windows_per_cpu_s'):>10.1f}")
    for what, key, clock in (
        ("beside", "windows_per_s", "with Ray on another core, by the clock"),
        ("loop_1", "windows_per_s", "with Ray on the same core, by the clock"),
        ("loop_1", "windows_per_cpu_s", "and by CPU time, Ray's included"),
    ):
        over = float(np.median([one["bare"][key] / one[what][key] - 1 for one in rounds]))
        print(f"overhead of the loop over the bare step {clock}: {over:.1%}")
    turned = [overhead_in_turns(one["turns"]) for one in rounds]
    each = ", ".join(f"{over:.1%}" for over in turned)
    print(f"and in turns in one process: {np.mean(turned):.1%} ({each})")
    scaling = float(np.median([one["loop_2"]["windows_per_s"] / one["loop_1"]["windows_per_s"] / 2 for one in rounds]))
    both = float(
        np.median(
            [sum(b["windows_per_s"] for b in one["bare_twice"]) / one["bare"]["windows_per_s"] / 2 for one in rounds]
        )
    )
    by_cpu = float(
        np.median([one["loop_2"]["windows_per_cpu_s"] / one["loop_1"]["windows_per_cpu_s"] for one in rounds])
    )
    print(f"scaling 1 to 2 workers: {scaling:.2f} by the clock, {by_cpu:.2f} by CPU time; two bare at once: {both:.2f}")
    for what in ("loop_1", "loop_2"):
        stall_s = median(what, "checkpoint_stall_s")
        print(f"{what}: a checkpoint stops training for {stall_s * 1e3:.1f} ms, {stall_s / 60:.3%} at one a minute")
    parts = rounds[-1]["loop_1"]["parts_s"]
    print("a step of loop_1, ms: " + ", ".join(f"{name[:-2]} {spent * 1e3:.1f}" for name, spent in parts.items()))


def overhead_in_turns(turned: dict[str, list[float]]) -> float:
    """The loop's seconds over the bare ones' less 1, over all turns of a round."""
    return sum(turned["loop_s"]) / (sum(turned["bare_s"]) - sum(turned["other_threads_s"])) - 1


if __name__ == "__main__":
    main()
