"""Fine-tuning: the encoder's weights move too, from the linear probe's solution (Kumar et al. 2022).

In each outer fold the probe is fitted on the frozen embedding and becomes the head; then encoder and head are trained
on the windows of the training subjects. A unit of several windows is predicted by the mean over its windows. Intervals
know how training subjects moved the head, on the tuned embedding, and not how they moved the encoder, so they are
narrower than they should be. Legend: N units, M windows of them, E features, C prediction columns.
"""

import time
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from xmae_dist.core.seeds import hash_u64
from xmae_dist.data.store.window_store import WindowStore
from xmae_dist.evaluate.encoders.frozen import compute_device, open_model
from xmae_dist.evaluate.examples import Examples
from xmae_dist.evaluate.members import evenly
from xmae_dist.evaluate.protocols.finetune_config import FinetuneConfig
from xmae_dist.evaluate.protocols.influence import Influence
from xmae_dist.evaluate.protocols.probe import (
    Fit,
    Floats,
    Ints,
    Path,
    ProbeConfig,
    Standardised,
    fold_models,
    respond,
    targets,
)
from xmae_dist.evaluate.results import Result
from xmae_dist.evaluate.run import FitRequest, folds_of, scored
from xmae_dist.evaluate.scores.bootstrap import Predictions
from xmae_dist.evaluate.scores.folds import check_folds
from xmae_dist.evaluate.scores.metrics import sum_by
from xmae_dist.model.interface import PretrainModel

Signals = NDArray[np.float32]


def finetune_fit(
    model: PretrainModel,
    x_ML: Signals,
    found: Examples,
    fold_N: Ints,
    *,
    kind: str,
    config: FinetuneConfig,
    probe: ProbeConfig,
    seed: int,
    task: str,
) -> Fit:
    """Out-of-fold predictions; `x_ML` are the windows of `found` in the order of their ids.

    Raises InputError as `cross_fit`.
    """
    check_folds(found.subject_N, found.y_N, fold_N, kind=kind, task=task)
    target_NC = targets(kind, found.y_N)
    code_N = np.unique(found.subject_N, return_inverse=True)[1]
    begin = {name: value.clone() for name, value in model.state_dict().items()}
    unit_M = found.windows.expanded()[1]
    frozen_NE = _pooled(_embedded(model, x_ML), unit_M)
    linear_NC = np.zeros(target_NC.shape)
    influence: list[Influence] = []
    heads = fold_models(frozen_NE, found.y_N, fold_N, kind=kind, config=probe)
    for fold, head in heads.items():
        model.load_state_dict(begin)
        test_N = fold_N == fold
        tuned = _Tuned(model, head)
        train_M = ~test_N[unit_M]
        _train(tuned, x_ML[train_M], target_NC[unit_M[train_M]], kind, config, int(hash_u64(seed, task, fold)))
        tuned_NE = _pooled(_embedded(model, x_ML), unit_M)
        path = tuned.path()
        linear_NC[test_N] = path(tuned_NE[test_N])[-1]
        influence += path.influence(
            tuned_NE[~test_N], target_NC[~test_N], code_N[~test_N], code_N.max() + 1, tuned_NE, np.flatnonzero(test_N)
        )
    return Fit(
        predictions=Predictions(
            subject_N=found.subject_N, y_N=found.y_N, pred_NC=respond(kind, linear_NC), fold_N=fold_N
        ),
        linear_NC=linear_NC,
        influence=tuple(influence),
        kind=kind,
        penalty_of_fold={fold: head.penalties[-1] for fold, head in heads.items()},
        n_fits=len(heads),
    )


def finetune(request: FitRequest, found: Examples, store: WindowStore) -> Result:
    """One encoder on one task, fine-tuned on windows of the store and scored."""
    started_s = time.monotonic()
    task, config = request.task, request.config
    found = thinned(found, config.finetune.max_windows, task.unit)
    model = open_model(request.encoder).to(compute_device())
    ecg_BL, ppg_BL = store.read(found.windows.expanded()[0])
    fitted = finetune_fit(
        model,
        np.asarray(ecg_BL if model.embeds == "ecg" else ppg_BL, np.float32),
        found,
        folds_of(task, found, config),
        kind=task.kind,
        config=config.finetune,
        probe=config.probe,
        seed=config.seed,
        task=task.name,
    )
    return scored(request, found, fitted, started_s)


def thinned(found: Examples, limit: int, unit: str) -> Examples:
    """At most `limit` evenly spaced units of each subject, or, where units hold many windows, windows of each unit."""
    if unit in ("recording", "subject"):
        return replace(found, windows=found.windows.thinned(limit))
    units = spread(np.unique(found.subject_N, return_inverse=True)[1], limit)
    return replace(
        found,
        y_N=found.y_N[units],
        subject_N=found.subject_N[units],
        name_N=found.name_N[units],
        windows=found.windows.of_units(units),
    )


def spread(group_N: Ints, limit: int) -> Ints:
    """Sorted places of at most `limit` evenly spaced members of each group."""
    order_N = np.argsort(group_N, kind="stable")
    members = np.split(order_N, np.flatnonzero(np.diff(group_N[order_N])) + 1)
    return np.sort(np.concatenate([m[evenly(len(m), limit)] for m in members]))


class _Tuned(nn.Module):
    """Encoder, standardisation as the probe had it, and a linear head that begins as the probe."""

    mean_E: Tensor
    scale_E: Tensor

    def __init__(self, encoder: PretrainModel, head: Path) -> None:
        super().__init__()
        self.encoder, self._start = encoder, head
        self.register_buffer("mean_E", torch.from_numpy(head.standardise.mean_E).float())
        self.register_buffer("scale_E", torch.from_numpy(head.standardise.scale_E).float())
        self.head = nn.Linear(head.weight_PCE.shape[2], head.weight_PCE.shape[1])
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(head.weight_PCE[-1]))
            self.head.bias.copy_(torch.from_numpy(head.intercept_PC[-1]))
        self.to(compute_device())

    def forward(self, x_BL: Tensor) -> Tensor:
        return self.head((self.encoder.embed(x_BL) - self.mean_E) / self.scale_E)  # type: ignore[no-any-return]

    def path(self) -> Path:
        """The head as it is now."""
        start = self._start
        return Path(
            kind=start.kind,
            standardise=Standardised(mean_E=start.standardise.mean_E, scale_E=start.standardise.scale_E),
            penalties=start.penalties[-1:],
            weight_PCE=self.head.weight.detach().cpu().double().numpy()[None],
            intercept_PC=self.head.bias.detach().cpu().double().numpy()[None],
        )


def _train(tuned: _Tuned, x_ML: Signals, target_MC: Floats, kind: str, config: FinetuneConfig, seed: int) -> None:
    """AdamW with a cosine to zero; batches are shuffled by `seed`, so that a fit can be repeated."""
    generator = torch.Generator().manual_seed(seed % 2**63)
    head, encoder = list(tuned.head.parameters()), list(tuned.encoder.parameters())
    optimizer = torch.optim.AdamW(
        [{"params": encoder, "lr": config.lr}, {"params": head, "lr": config.head_lr}],
        weight_decay=config.weight_decay,
    )
    steps = config.epochs * -(-len(x_ML) // config.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    x, target = torch.from_numpy(x_ML), torch.from_numpy(target_MC).float()
    spread = float(target_MC.std()) if kind == "regression" else 1.0
    device = tuned.head.weight.device
    tuned.encoder.eval()  # no dropout: small sets, few epochs, and the probe's features to begin with
    for _ in range(config.epochs):
        for rows in torch.randperm(len(x), generator=generator).split(config.batch):
            loss = _loss(kind, tuned(x[rows].to(device)), target[rows].to(device), spread)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(tuned.parameters(), 1.0)
            optimizer.step()
            schedule.step()


def _loss(kind: str, linear_BC: Tensor, target_BC: Tensor, spread: float) -> Tensor:
    if kind == "regression":
        return F.mse_loss(linear_BC / spread, target_BC / spread)
    return F.binary_cross_entropy_with_logits(linear_BC, target_BC)


def _embedded(model: PretrainModel, x_ML: Signals, batch: int = 256) -> Floats:
    model.eval()
    device = next(model.parameters()).device
    with torch.no_grad():
        parts = [
            model.embed(torch.from_numpy(x_ML[i : i + batch]).to(device)).cpu() for i in range(0, len(x_ML), batch)
        ]
    return torch.cat(parts).double().numpy()


def _pooled(embedding_ME: Floats, unit_M: NDArray[np.integer]) -> Floats:
    count_N = np.bincount(unit_M)
    return sum_by(unit_M, embedding_ME, len(count_N)) / count_N[:, None]
