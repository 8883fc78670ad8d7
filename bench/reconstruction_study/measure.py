"""One row of the study: train one preset on one dataset from one seed, then measure it.

Shapes: M windows, L samples, B batch, N patches, E embedding width.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.reconstruction_study.dataset import Dataset, Pairs
from xmae_dist.core.errors import InputError
from xmae_dist.core.seeds import generator
from xmae_dist.evaluate.gathering import examples
from xmae_dist.evaluate.pooling import embedded_here
from xmae_dist.evaluate.protocols.probe import cross_fit
from xmae_dist.evaluate.run import EvaluateConfig, folds_of
from xmae_dist.evaluate.scores.metrics import METRICS
from xmae_dist.evaluate.tasks import Task, load_suite
from xmae_dist.model import bundle, presets
from xmae_dist.model.diagnose import diagnose
from xmae_dist.model.interface import PretrainModel
from xmae_dist.model.mask import masks
from xmae_dist.train.engines.optimizer import OptimizerConfig
from xmae_dist.train.engines.torch import TorchEngine
from xmae_dist.train.step.schedule import ScheduleConfig, learning_rate

EVALUATIONS = 16
CURVE_WINDOWS, VAL_WINDOWS = 64, 192
MASK_SEED = 7
"""Of the masks that errors are measured under: the same for every model."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What determines a row."""

    dataset: str
    preset: str
    seed: int
    lr: float
    windows: int
    batch: int

    @property
    def key(self) -> str:
        return "-".join(str(value) for value in asdict(self).values())


def measure(job: Job, data: Dataset, out: Path) -> dict[str, Any]:
    """The row of a job, plain values; the trained model is kept as a bundle below `out`."""
    torch.manual_seed(job.seed)
    model = presets.build(job.preset, length=data.store.spec.length)
    started = time.monotonic()
    curve, cpu_s = ([], 0.0) if job.preset == "random" else _train(model, job, data)
    model.eval()
    spec = data.store.spec.to_dict()
    bundle.save(str(out / "models" / job.key), model, window_spec=spec, lineage=asdict(job))
    return {
        **asdict(job),
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "trained_windows": 0 if job.preset == "random" else job.windows // job.batch * job.batch,
        "train_pool": len(data.train.subject_M),
        "train_subjects": len(np.unique(data.train.subject_M)),
        "test_windows": len(data.test.subject_M),
        "test_subjects": len(np.unique(data.test.subject_M)),
        "store": data.store.fingerprint,
        "reconstructs": model.reconstructs,
        "embeds": model.embeds,
        "val_loss": _loss(model, data.split("val").some(VAL_WINDOWS), job.batch),
        "errors": errors_of(model, data.test),
        "curve": curve,
        "windows_to_10_percent": reached(curve),
        "windows_per_cpu_s": job.windows / cpu_s if cpu_s else None,
        "probes": _probes(model, data),
        "seconds": time.monotonic() - started,
    }


def _train(model: PretrainModel, job: Job, data: Dataset) -> tuple[list[list[float]], float]:
    """Trains in place; returns (windows seen, own, other) at each evaluation, and the CPU seconds of the steps."""
    engine = TorchEngine(model, optimizer=OptimizerConfig(), accumulation=1)
    schedule = ScheduleConfig(peak_lr=job.lr, warmup_fraction=0.1)
    pool, steps = len(data.train.subject_M), job.windows // job.batch
    order = np.concatenate(
        [generator(job.seed, "study", epoch).permutation(pool) for epoch in range(job.windows // pool + 1)]
    )
    few, curve, cpu_s = data.test.some(CURVE_WINDOWS), [], 0.0
    model.train()
    for step in range(steps):
        rows = order[step * job.batch : (step + 1) * job.batch]
        began, seen = time.process_time(), (step + 1) * job.batch
        mask_BN = _masks(model, job.seed, step * job.batch // pool, rows)
        engine.forward_backward(data.train.ppg_ML[rows], data.train.ecg_ML[rows], mask_BN)
        engine.step(learning_rate(schedule, seen, steps * job.batch))
        cpu_s += time.process_time() - began
        before, after = ((seen - part) * EVALUATIONS // job.windows for part in (job.batch, 0))
        if model.reconstructs and after > before:
            found = errors_of(model, few)
            curve.append([seen, found["own"], found["other"]])
    return curve, cpu_s


def _masks(model: PretrainModel, seed: int, epoch: int, ids: np.ndarray) -> Tensor:
    config = model.config
    return torch.from_numpy(masks(seed, epoch, ids, config.n_patches, config.mask_ratio, config.mask_mode))


def errors_of(model: PretrainModel, pairs: Pairs) -> dict[str, float] | None:
    """Masked errors by input (own, other, none, mean); None for a model that reconstructs nothing."""
    if model.reconstructs is None:
        return None
    mask_MN = _masks(model, MASK_SEED, 0, np.arange(len(pairs.subject_M)))
    return diagnose(model, pairs.ecg_ML, pairs.ppg_ML, pairs.subject_M, mask_MN)


@torch.inference_mode()
def _loss(model: PretrainModel, pairs: Pairs, batch: int) -> float:
    """The training loss on held-out windows, in batches as in training (a contrastive loss depends on them)."""
    mask_MN = _masks(model, MASK_SEED, 0, np.arange(len(pairs.subject_M)))
    whole = len(pairs.subject_M) // batch * batch
    # Neighbouring windows are of one subject: batches take every so-many-th.
    order = torch.arange(whole).view(batch, -1).T
    return float(np.mean([float(model(pairs.ppg_ML[i], pairs.ecg_ML[i], mask_MN[i])) for i in order]))


def reached(curve: list[list[float]]) -> int | None:
    """Windows seen at the first evaluation from which on the own error stays 10 % below the other."""
    below = [own <= 0.9 * other for _, own, other in curve]
    first = len(below) - next((i for i, good in enumerate(reversed(below)) if not good), len(below))
    return int(curve[first][0]) if first < len(below) else None


def _probes(model: PretrainModel, data: Dataset) -> dict[str, dict[str, float]]:
    """Cross-validated scores of linear probes on the frozen embedding, by task."""
    pairs = data.probes
    signal_ML = pairs.ppg_ML if model.embeds == "ppg" else pairs.ecg_ML
    with torch.inference_mode():
        embedding_ME = torch.cat([model.embed(part) for part in signal_ML.split(64)]).numpy()
    scores = {}
    for task in load_suite(data.name).tasks:
        try:
            scores[task.name] = _score(task, data, embedding_ME)
        except InputError as unusable:  # too few held-out subjects with this label
            print(f"   not probed: {unusable}", flush=True)
    return scores


def _score(task: Task, data: Dataset, embedding_ME: np.ndarray) -> dict[str, Any]:
    config = EvaluateConfig()
    found = examples(task, [data.probe_table], limit=config.limit)
    embedded = embedded_here([found.windows], data.probe_table["window_id"].to_numpy(), embedding_ME)
    fold_N = folds_of(task, found, config)
    fit = cross_fit(
        *(found.features(embedded), found.y_N, found.subject_N, fold_N),
        kind=task.kind,
        config=config.probe,
        task=task.name,
    )
    score = METRICS[task.metric].score(found.y_N, fit.predictions.pred_NC, fold_N, np.ones((1, len(found.y_N))))
    return {
        "metric": task.metric,
        "value": float(score[0]),
        "units": len(found.y_N),
        "subjects": len(np.unique(found.subject_N)),
    }
