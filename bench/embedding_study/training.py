"""One arm trained: the same windows in the same order and steps for all, curves and errors on people not trained on.

Shapes: M windows, B batch, N patches.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bench.embedding_study.people import People, Windows
from xmae_dist.core.seeds import generator
from xmae_dist.model import kinds
from xmae_dist.model.diagnose import diagnose
from xmae_dist.model.interface import ModelConfig, PretrainModel
from xmae_dist.model.mask import masks
from xmae_dist.model.xmae import XMAEConfig
from xmae_dist.train.engines.optimizer import OptimizerConfig
from xmae_dist.train.engines.torch import TorchEngine
from xmae_dist.train.step.schedule import ScheduleConfig, learning_rate

BATCH = 32
MASK_SEED = 7
"""Of the masks that errors are measured under: the same for every model."""
CURVE = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
"""Shares of the budget at which a model is looked at. All but the last are before the learning rate came to its end."""
_ERROR_WINDOWS, _VAL_WINDOWS = 256, 512


@dataclass(frozen=True, kw_only=True)
class Run:
    """What determines a trained model beside the people."""

    seed: int
    lr: float
    windows: int


def initial(config: XMAEConfig, seed: int) -> PretrainModel:
    """Before any step; what never is trained is this, too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kinds.from_config(config)


def train(config: XMAEConfig, run: Run, people: People, look: Callable[[PretrainModel, int], None]) -> PretrainModel:
    """The trained model in evaluation mode; `look(model, windows seen)` at each point of the curve."""
    model = initial(config, run.seed)
    engine = TorchEngine(model, optimizer=OptimizerConfig(), accumulation=1)
    schedule = ScheduleConfig(peak_lr=run.lr, warmup_fraction=0.1)
    steps, pool = run.windows // BATCH, len(people.train)
    points = {max(1, round(share * steps)) for share in CURVE}
    order = np.concatenate([generator(run.seed, "study", e).permutation(pool) for e in range(run.windows // pool + 1)])
    model.train()
    for step in range(steps):
        rows = order[step * BATCH : (step + 1) * BATCH]
        mask_BN = _masks(config, run.seed, step * BATCH // pool, rows)
        told_BK = people.beat_targets[rows] if config.beat_weight else None
        engine.forward_backward(*people.train.pair(rows), mask_BN, None, None, told_BK)
        engine.step(learning_rate(schedule, (step + 1) * BATCH, steps * BATCH))
        if step + 1 in points:
            model.eval()
            look(model, (step + 1) * BATCH)
            model.train()
    return model.eval()


@torch.inference_mode()
def validation_loss(model: PretrainModel, people: People) -> float:
    """The training loss on windows of validation people, in batches as in training."""
    some = people.val.evenly(_VAL_WINDOWS // BATCH * BATCH)
    whole = len(some) // BATCH * BATCH
    # Neighbouring windows are of one person: batches take every so-many-th.
    parts = torch.arange(whole).view(BATCH, -1).T.numpy()
    mask_MN = _masks(model.config, MASK_SEED, 0, np.arange(whole))
    return float(np.mean([float(model(*some.pair(rows), mask_MN[rows])) for rows in parts]))


def errors(model: PretrainModel, windows: Windows) -> dict[str, float] | None:
    """Masked errors with own, other, no source, and no model; None for a model that reconstructs nothing."""
    if model.reconstructs is None:
        return None
    some = windows.evenly(_ERROR_WINDOWS)
    ppg_ML, ecg_ML = some.pair(slice(None))
    mask_MN = _masks(model.config, MASK_SEED, 0, np.arange(len(some)))
    return diagnose(model, ecg_ML, ppg_ML, some.subjects, mask_MN)


def cpu_s() -> float:
    """CPU seconds of this process so far: what a run costs on a machine that others use, too."""
    return time.process_time()


def _masks(config: ModelConfig, seed: int, epoch: int, ids: np.ndarray) -> Tensor:
    return torch.from_numpy(masks(seed, epoch, ids, config.n_patches, config.mask_ratio, config.mask_mode))
