"""Which source time does a masked target patch read? Measured on the model as a whole, so for any bridge.

For a masked patch, the squared gradient of its reconstruction with respect to every source sample says how much each
sample matters to it. Averaged over windows and patches, as a function of the time between source sample and patch, it
shows the delay that the model has learned, to be compared with a measured pulse arrival time. Random signs over the
patch's samples stand for the sum over all of them (Hutchinson's estimator).

Shapes: B windows, L samples, N patches, K lags (one per patch of reach on either side, and zero).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xmae_dist.model.interface import PretrainModel


@dataclass(frozen=True, kw_only=True)
class LagMap:
    """``weight_K`` sums to one over ``lag_s_K``; a positive lag means that the source comes later."""

    lag_s_K: NDArray[np.float64]
    weight_K: NDArray[np.float64]

    @property
    def peak_s(self) -> float:
        """The lag that matters most."""
        return float(self.lag_s_K[self.weight_K.argmax()])


def lag_map(
    model: PretrainModel,
    ppg_BL: Tensor,
    ecg_BL: Tensor,
    mask_BN: Tensor,
    *,
    rate_hz: float,
    reach_s: float = 2.0,
    bin_s: float = 0.05,
    patches: int = 8,
    seed: int = 0,
) -> LagMap:
    """Sensitivity of masked patches to the source at lags within ``reach_s``, in bins of ``bin_s``.

    At most ``patches`` patches, evenly spread where their whole reach lies inside the window, are looked at; a window
    counts only where its patch is masked. The model is used as it is (call ``eval()`` first).
    """
    n_patches, length = mask_BN.shape[1], ppg_BL.shape[-1]
    patch_length, reach = length // n_patches, round(reach_s * rate_hz)
    inside = [i for i in range(n_patches) if reach <= _centre(i, patch_length) < length - reach]
    chosen = [inside[i] for i in np.unique(np.linspace(0, len(inside) - 1, patches).astype(int))]
    generator = torch.Generator().manual_seed(seed)
    sign_BP = (torch.rand(len(ppg_BL), patch_length, generator=generator) < 0.5).to(ppg_BL) * 2 - 1
    energy = torch.zeros(2 * reach, dtype=torch.float64)
    for index in chosen:
        found_BL = _sensitivity(model, ppg_BL, ecg_BL, mask_BN, index, sign_BP.to(ppg_BL.device))
        centre = _centre(index, patch_length)
        masked_B = mask_BN[:, index]
        energy += found_BL[masked_B, centre - reach : centre + reach].sum(dim=0).double().cpu()
    return _binned(energy.numpy(), rate_hz, bin_s)


def _centre(index: int, patch_length: int) -> int:
    return index * patch_length + patch_length // 2


def _sensitivity(
    model: PretrainModel, ppg_BL: Tensor, ecg_BL: Tensor, mask_BN: Tensor, index: int, sign_BP: Tensor
) -> Tensor:
    """Squared gradient of one reconstructed patch with respect to the source, (B, L)."""
    source_BL = (ppg_BL if model.reconstructs == "ecg" else ecg_BL).detach().clone().requires_grad_()
    signals = (source_BL, ecg_BL) if model.reconstructs == "ecg" else (ppg_BL, source_BL)
    rebuilt_BNP = model.reconstruct(*signals, mask_BN).unflatten(-1, (mask_BN.shape[1], -1))
    (gradient_BL,) = torch.autograd.grad((rebuilt_BNP[:, index] * sign_BP).sum(), source_BL)
    return gradient_BL.square()


def _binned(energy: NDArray[np.float64], rate_hz: float, bin_s: float) -> LagMap:
    """Energy per sample of lag, gathered into bins centred on multiples of ``bin_s``."""
    lag_s = (np.arange(len(energy)) - len(energy) // 2) / rate_hz
    bin_of = np.round(lag_s / bin_s).astype(int)
    bins, place = np.unique(bin_of, return_inverse=True)
    weight_K = np.bincount(place, weights=energy) / np.bincount(place)
    return LagMap(lag_s_K=bins * bin_s, weight_K=weight_K / max(weight_K.sum(), np.finfo(float).tiny))
