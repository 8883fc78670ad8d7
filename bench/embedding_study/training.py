"""One arm trained: the same windows in the same order and steps for all, curves and errors on people not trained on.

Everything random is a function of the seed and the step, so an arm that was stopped goes on as if it had not been.
Shapes: M windows, B batch, N patches.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.embedding_study.latent_targets import LatentTargets
from bench.embedding_study.people import People, Windows
from bench.embedding_study.unfinished import Ended, Unfinished
from xmae_dist.core.seeds import generator
from xmae_dist.model import kinds
from xmae_dist.model.diagnose import diagnose
from xmae_dist.model.interface import ModelConfig, PretrainModel
from xmae_dist.model.mask import masks
from xmae_dist.model.xmae import XMAE, XMAEConfig
from xmae_dist.train.engines.optimizer import OptimizerConfig
from xmae_dist.train.engines.torch import TorchEngine
from xmae_dist.train.step.batch import seed_dropout
from xmae_dist.train.step.schedule import ScheduleConfig, learning_rate

BATCH = 32
_MASK_SEED = 7
CURVE = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
"""Shares of the budget at which a model is looked at. All but the last are before the learning rate came to its end."""
_ERROR_WINDOWS, _VAL_WINDOWS = 256, 512
_SAVED_EVERY = 500
"""Steps: a minute or two of a core."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What determines a trained model beside the people."""

    seed: int
    lr: float
    windows: int

    @property
    def steps(self) -> int:
        return self.windows // BATCH

    @property
    def schedule(self) -> ScheduleConfig:
        return ScheduleConfig(peak_lr=self.lr, warmup_fraction=0.1)


def initial(config: XMAEConfig, seed: int) -> PretrainModel:
    """Before any step; what never is trained is this, too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kinds.from_config(config)


@dataclass(kw_only=True)
class Work:
    """How far an arm is, and what it took: CPU seconds over all processes that worked on it."""

    step: int = 0
    curve: list[list[Any]] = field(default_factory=list)
    """Windows seen, and what was found then, at each point."""
    train_s: float = 0.0
    """Of steps alone."""
    spent_s: float = 0.0
    """Of steps and looks."""


Look = Callable[[PretrainModel], Any]


def train(
    config: XMAEConfig, run: Run, people: People, look: Look, kept: Unfinished, *, latent: bool = False
) -> tuple[PretrainModel, Work]:
    """The trained model in evaluation mode, from where `kept` has it; `look(model)` at each point of the curve.

    With `latent` it learns an averaged teacher's tokens. Raises Ended once `kept.ending` says so; what was done is
    kept.
    """
    model, (saved, found) = initial(config, run.seed), kept.newest()
    taught = _taught(model, run.seed) if latent else None
    work, inputs = Work(**found), _Inputs(config, run, people)
    engine = TorchEngine(taught or model, optimizer=OptimizerConfig(), accumulation=1, saved=saved)
    points = {max(1, round(share * run.steps)) for share in CURVE}
    model.train()
    while work.step < run.steps:
        began_s = cpu_s()
        seed_dropout(run.seed, work.step, 0)
        engine.forward_backward(*inputs.at(work.step))
        work.step += 1
        engine.step(learning_rate(run.schedule, work.step * BATCH, run.steps * BATCH))
        if taught is not None:
            taught.follow()
        work.train_s += cpu_s() - began_s
        if work.step in points:
            work.curve.append([work.step * BATCH, look(model.eval())])
            model.train()
        work.spent_s += cpu_s() - began_s
        if (ending := kept.ending()) or work.step % _SAVED_EVERY == 0 or work.step == run.steps:
            kept.save(engine, work.step, asdict(work))
        if ending:
            raise Ended
    return model.eval(), work


def _taught(model: PretrainModel, seed: int) -> LatentTargets:
    assert isinstance(model, XMAE)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LatentTargets(model)


class _Inputs:
    """What the forward pass of a step takes: the same windows in the same order for every arm of a seed."""

    def __init__(self, config: XMAEConfig, run: Run, people: People) -> None:
        self._config, self._seed, self._windows = config, run.seed, people.train
        self._told_MK = people.beat_targets if config.beat_weight else None
        epochs = range(run.windows // len(people.train) + 1)
        self._order = np.concatenate([generator(run.seed, "study", e).permutation(len(people.train)) for e in epochs])

    def at(self, step: int) -> tuple[Any, ...]:
        rows, epoch = self._order[step * BATCH : (step + 1) * BATCH], step * BATCH // len(self._windows)
        told_BK = None if self._told_MK is None else self._told_MK[rows]
        return (*self._windows.pair(rows), _masks(self._config, self._seed, epoch, rows), None, None, told_BK)


@torch.inference_mode()
def validation_loss(model: PretrainModel, people: People) -> float:
    """The training loss on windows of validation people, in batches as in training."""
    some = people.val.evenly(_VAL_WINDOWS // BATCH * BATCH)
    whole = len(some) // BATCH * BATCH
    # Neighbouring windows are of one person: batches take every so-many-th.
    parts = torch.arange(whole).view(BATCH, -1).T.numpy()
    mask_MN = fixed_masks(model.config, whole)
    return float(np.mean([float(model(*some.pair(rows), mask_MN[rows])) for rows in parts]))


def errors(model: PretrainModel, windows: Windows) -> dict[str, float] | None:
    """Masked errors with own, other, no source, and no model; None for a model that reconstructs nothing."""
    if model.reconstructs is None:
        return None
    some = windows.evenly(_ERROR_WINDOWS)
    ppg_ML, ecg_ML = some.pair(slice(None))
    return diagnose(model, ecg_ML, ppg_ML, some.subjects, fixed_masks(model.config, len(some)))


def fixed_masks(config: ModelConfig, windows: int) -> Tensor:
    """(M, N), what errors are measured under: the same for every model."""
    return _masks(config, _MASK_SEED, 0, np.arange(windows))


def cpu_s() -> float:
    """CPU seconds of this process so far: what a run costs on a machine that others use, too."""
    return time.process_time()


def _masks(config: ModelConfig, seed: int, epoch: int, ids: np.ndarray) -> Tensor:
    return torch.from_numpy(masks(seed, epoch, ids, config.n_patches, config.mask_ratio, config.mask_mode))
