"""Does a model use the source at all? Its error with the right source, a wrong one, none, and no model.

Shapes: M windows, L samples, N patches. Masks are boolean, True where a patch is masked.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from xmae_dist.model.interface import PretrainModel
from xmae_dist.model.loss import masked_error
from xmae_dist.model.patch import visible_indices


def diagnose(
    model: PretrainModel,
    ecg_ML: ArrayLike,
    ppg_ML: ArrayLike,
    subject_M: ArrayLike,
    mask_MN: ArrayLike,
    batch: int = 64,
) -> dict[str, float]:
    """Mean squared errors over masked samples, averaged over windows that have a target: see `window_errors`."""
    found = window_errors(model, ecg_ML, ppg_ML, subject_M, mask_MN, batch)
    compared_M = ~np.isnan(found["mean"])
    return {name: float(error_M[compared_M].mean()) for name, error_M in found.items()}


@torch.inference_mode()
def window_errors(
    model: PretrainModel,
    ecg_ML: ArrayLike,
    ppg_ML: ArrayLike,
    subject_M: ArrayLike,
    mask_MN: ArrayLike,
    batch: int = 64,
) -> dict[str, NDArray[np.float32]]:
    """Mean squared error over the masked samples of each window, (M,), by what the model was given.

    ``own``: with the window's own source signal. ``other``: with a window of another subject (the same pairing at
    every call). ``none``: with a constant (zero) source. ``mean``: predicting the mean of all target samples,
    which needs no model; NaN, as all, for a window that has no target. The target is what the model reconstructs; for a
    model with one signal only, ``other`` and ``none`` equal ``own``. The model's training mode is put back afterwards.
    """
    ecg_ML, ppg_ML = (torch.as_tensor(np.asarray(x)) for x in (ecg_ML, ppg_ML))
    mask_MN = torch.as_tensor(np.asarray(mask_MN))
    target_ML, source_ML = (ecg_ML, ppg_ML) if model.reconstructs == "ecg" else (ppg_ML, ecg_ML)
    other_M = torch.as_tensor(another_subject(np.asarray(subject_M)))
    sources = {"own": source_ML, "other": source_ML[other_M], "none": torch.zeros_like(source_ML)}
    was_training = model.training
    model.eval()
    found = {name: _errors(model, source, target_ML, mask_MN, batch) for name, source in sources.items()}
    model.train(was_training)
    level_ML = target_ML.nanmean().expand_as(target_ML)
    return {name: error_M.numpy() for name, error_M in found.items()} | {
        "mean": masked_error(level_ML, target_ML, mask_MN).numpy()
    }


def another_subject(subject_M: NDArray) -> NDArray[np.int64]:
    """For each window, the index of a window of another subject; itself where there is only one subject.

    Windows sorted by subject are paired with those half-way round, and any pair left inside one subject
    moves on to the next subject.
    """
    order_M = np.argsort(subject_M, kind="stable")
    sorted_M = subject_M[order_M]
    count = len(sorted_M)
    place_M = (np.arange(count) + count // 2) % count
    after_M = np.searchsorted(sorted_M, sorted_M, side="right") % count
    place_M = np.where(sorted_M[place_M] == sorted_M, after_M, place_M)
    partner_M = np.empty(count, dtype=np.int64)
    partner_M[order_M] = order_M[place_M]
    return partner_M


def _errors(model: PretrainModel, source_ML: Tensor, target_ML: Tensor, mask_MN: Tensor, batch: int) -> Tensor:
    device = next(model.parameters()).device
    parts = []
    for start in range(0, len(target_ML), batch):
        rows = slice(start, start + batch)
        # What is visible is known here; a device would have to be asked for it.
        visible_BV = visible_indices(mask_MN[rows]).to(device)
        source, target, mask = (x[rows].to(device) for x in (source_ML, target_ML, mask_MN))
        ppg, ecg = (source, target) if model.reconstructs == "ecg" else (target, source)
        parts.append(masked_error(model.reconstruct(ppg, ecg, mask, visible_BV), target, mask).float())
    return torch.cat(parts).cpu()
