"""Evaluation's fits against a plain sequential scikit-learn loop over the same fits, and from 1 core to 2.

Made-up people with embeddings of a given width; four tasks (binary, four classes and regression by window, binary by
subject). Both sides use the same folds, penalties and nested selection by subject; the loop is what one writes with
StandardScaler, LogisticRegression and Ridge. Reported are wall and processor seconds, the largest difference of a
score, and for the cores the fits as they run in an evaluation: Ray tasks with every metric and its intervals.

    OMP_NUM_THREADS=1 python bench/evaluate.py --subjects 120 --windows 20 --width 128 --json FILE
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler
from sklearn.utils._testing import ignore_warnings

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from xmae_dist.cluster import private_ray
from xmae_dist.evaluate.encoders.spec import EncoderSpec
from xmae_dist.evaluate.pooling import Embedded, embedded_here
from xmae_dist.evaluate.protocols.probe import ProbeConfig, cross_fit, loss, targets
from xmae_dist.evaluate.run import EvaluateConfig, Plan, folds_of, plan
from xmae_dist.evaluate.scores import bootstrap
from xmae_dist.evaluate.scores.bootstrap import Predictions
from xmae_dist.evaluate.tasks import Suite, Task

TASKS = (
    Task(name="binary", title="Binary, by window", label="binary", kind="binary"),
    Task(name="classes", title="Four classes, by window", label="class", kind="multiclass", classes=(0, 1, 2, 3)),
    Task(name="value", title="Regression, by window", label="value", kind="regression"),
    Task(name="person", title="Binary, by subject", label="person", kind="binary", unit="subject"),
)


def main() -> int:
    args = _arguments()
    table, embedding_WE = people(args.subjects, args.windows, args.width)
    specs = tuple(EncoderSpec(name=f"encoder {i}", kind="features", identity=str(i)) for i in range(args.encoders))
    suite = Suite(name="bench", title="Bench", tasks=TASKS)
    planned = plan(suite, specs, [table], "bench", EvaluateConfig(n_replicates=args.replicates))
    members = [found.windows for found in planned.examples_of_task.values()]
    embedded = embedded_here(members, table["window_id"].to_numpy(), embedding_WE)
    rows = [against_loop(task, planned, embedded) for task in TASKS]
    for row in rows:
        print(
            f"{row['task']:<8} {row['fits']:>5} fits  ours {row['ours_s']:7.2f} s  loop {row['loop_s']:7.2f} s  "
            f"{row['loop_s'] / row['ours_s']:6.1f} times faster ({row['loop_cpu_s'] / row['ours_cpu_s']:.1f} by CPU "
            f"time)  scores differ by {row['difference']:.1e}",
            flush=True,
        )
    total = {key: sum(row[key] for row in rows) for key in ("ours_s", "loop_s", "ours_cpu_s", "loop_cpu_s")}
    print(
        f"all: {total['loop_s'] / total['ours_s']:.1f} times faster on one core "
        f"({total['loop_cpu_s'] / total['ours_cpu_s']:.1f} by CPU time)"
    )
    cores = {n: on_cores(n, planned, embedded) for n in (1, 2)}
    print(
        f"{len(planned.requests)} fits with intervals through Ray: {cores[1]:.1f} s on 1 core, {cores[2]:.1f} s on 2 "
        f"({cores[1] / cores[2]:.2f} times faster); load average {os.getloadavg()[0]:.1f}"
    )
    if args.json:
        document = {"tasks": rows, "total": total, "cores_s": cores, "load": os.getloadavg(), "options": vars(args)}
        Path(args.json).write_text(json.dumps(document, indent=1))
    return 0


def people(n_subjects: int, n_windows: int, width: int) -> tuple[pa.Table, np.ndarray]:
    """A window table with labels, and embeddings in which a person's windows resemble one another."""
    rng = np.random.default_rng(0)
    code_W = np.repeat(np.arange(n_subjects), n_windows)
    mixing = rng.normal(size=(16, width)) / 4
    latent_W = rng.normal(size=(n_subjects, 16))[code_W] + 0.7 * rng.normal(size=(len(code_W), 16))
    embedding_WE = (latent_W @ mixing + 0.3 * rng.normal(size=(len(code_W), width))).astype(np.float32)
    noise_W = rng.normal(size=len(code_W))
    value_W = latent_W[:, 0] - latent_W[:, 1] + noise_W
    table = pa.table(
        {
            "window_id": np.arange(len(code_W)),
            "subject_id": np.char.mod("s%04d", code_W),
            "recording_id": np.char.mod("r%04d", code_W),
            "cohort": ["bench"] * len(code_W),
            "start_s": np.arange(len(code_W)) * 10.0,
            "binary": (value_W > 0.5).astype(float),
            "class": np.digitize(value_W, [-1.0, 0.0, 1.0]),
            "value": value_W,
            "person": (latent_W[::n_windows, 2] > 0).astype(float)[code_W],
        }
    )
    return table, embedding_WE


def against_loop(task: Task, planned: Plan, embedded: Embedded) -> dict[str, Any]:
    """The same nested cross-validation by ours and by the loop."""
    found = planned.examples_of_task[task.name]
    config = ProbeConfig()
    x_NE, fold_N = found.features(embedded), folds_of(task, found, EvaluateConfig())
    wall, cpu = time.perf_counter(), time.process_time()
    fit = cross_fit(x_NE, found.y_N, found.subject_N, fold_N, kind=task.kind, config=config, task=task.name)
    ours = time.perf_counter() - wall, time.process_time() - cpu
    wall, cpu = time.perf_counter(), time.process_time()
    looped, fits = loop(task, x_NE, found.y_N, fold_N, config)
    theirs = time.perf_counter() - wall, time.process_time() - cpu
    other = Predictions(subject_N=found.subject_N, y_N=found.y_N, pred_NC=looped, fold_N=fold_N)
    difference = abs(bootstrap.point(task.metric, fit.predictions) - bootstrap.point(task.metric, other))
    return {
        "task": task.name, "units": len(found.y_N), "fits": fits, "difference": difference, "ours_s": ours[0],
        "loop_s": theirs[0], "ours_cpu_s": ours[1], "loop_cpu_s": theirs[1],
    }  # fmt: skip


def loop(
    task: Task, x_NE: np.ndarray, y_N: np.ndarray, fold_N: np.ndarray, config: ProbeConfig
) -> tuple[np.ndarray, int]:
    """Out-of-fold predictions by a grid search inside each outer fold, one fit after another."""
    pred_NC = np.zeros(targets(task.kind, y_N).shape)
    fits = 0
    folds = np.unique(fold_N)
    for outer in folds:
        train_N = fold_N != outer
        losses = []
        for penalty in config.penalties:
            total = 0.0
            for inner in folds[folds != outer]:
                held_N = fold_N == inner
                pred = predicted(task.kind, x_NE, y_N, train_N & ~held_N, held_N, penalty)
                total += loss(task.kind, y_N[held_N], pred) * held_N.sum()
                fits += pred.shape[1]
            losses.append(total)
        best = config.penalties[int(np.argmin(losses))]
        pred_NC[fold_N == outer] = predicted(task.kind, x_NE, y_N, train_N, fold_N == outer, best)
        fits += pred_NC.shape[1]
    return pred_NC, fits


@ignore_warnings(category=ConvergenceWarning)
def predicted(
    kind: str, x_NE: np.ndarray, y_N: np.ndarray, train_N: np.ndarray, held_N: np.ndarray, penalty: float
) -> np.ndarray:
    """Predictions (N_held, C) of models fitted to the training units."""
    scale = StandardScaler().fit(x_NE[train_N])
    z_NE, n = scale.transform(x_NE[train_N]), int(train_N.sum())
    columns = []
    for target_N in targets(kind, y_N).T:
        if kind == "regression":
            columns.append(Ridge(alpha=penalty * n).fit(z_NE, target_N[train_N]).predict(scale.transform(x_NE[held_N])))
        else:
            model = LogisticRegression(C=1 / (penalty * n), max_iter=1000).fit(z_NE, target_N[train_N])
            columns.append(model.predict_proba(scale.transform(x_NE[held_N]))[:, 1])
    pred_NC = np.stack(columns, axis=1)
    return pred_NC / pred_NC.sum(axis=1, keepdims=True) if kind == "multiclass" else pred_NC


def on_cores(n: int, planned: Plan, embedded: Embedded) -> float:
    """Seconds for all fits of the plan on `n` cores, workers being up."""
    import ray

    from xmae_dist.evaluate.fanout import Put, fits

    private_ray.start(num_cpus=n, log_to_driver=False)
    try:
        features = {r.encoder.identity: ray.put(embedded) for r in planned.requests}
        examples = {name: Put.of(found) for name, found in planned.examples_of_task.items()}
        small = [r for r in planned.requests if r.task.unit == "subject"][: 2 * n]
        list(fits(small, examples, features))
        started = time.perf_counter()
        list(fits(list(planned.requests), examples, features))
        return time.perf_counter() - started
    finally:
        ray.shutdown()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=100)
    parser.add_argument("--windows", type=int, default=20, help="of each subject")
    parser.add_argument("--width", type=int, default=128, help="of an embedding")
    parser.add_argument("--encoders", type=int, default=4, help="in the measurement of cores")
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--json", help="write the figures to this file")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
