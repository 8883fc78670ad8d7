"""The held-out windows of a run: each rank's share to validate on, and a panel to look at.

Shapes: M windows of one rank's share, L samples, N patches. Masks are boolean, True where a patch is masked.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from xmae_dist.data.order.chunks import SegmentLike
from xmae_dist.data.store.window_store import WindowStore
from xmae_dist.model.interface import PretrainModel
from xmae_dist.model.mask import masks
from xmae_dist.model.patch import visible_indices
from xmae_dist.storage import uri
from xmae_dist.train.observe.losses import Cohorts
from xmae_dist.train.step.batch import Masking
from xmae_dist.train.step.collective import Ranks

PANEL_WINDOWS = 6
_MASK_SEED = 20_001  # apart from any training seed, so that validation masks never change


Panel = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], list[str]]
"""(ecg, ppg, mask, captions)."""


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """A rank's share of the held-out windows: signals (M, L), mask (M, N); every rank has equally many."""

    ecg: NDArray[np.float32]
    ppg: NDArray[np.float32]
    subject: NDArray[np.str_]
    cohort: NDArray[np.int64]
    """Place in `cohorts`."""
    cohorts: tuple[str, ...]
    mask: NDArray[np.bool_]
    panel: Panel
    """A few windows, the same on all ranks."""


def held_out(
    store: WindowStore, split: str, count: int, masking: Masking, ratio: float, ranks: Ranks
) -> HeldOut | None:
    """`count` windows evenly spaced over the split, the same for any number of ranks but for a last few that would not
    divide among them; None where there are fewer than one for each rank.
    """
    segments = store.segments(split)
    chosen = evenly(segments, count)
    chosen = chosen[: len(chosen) // ranks.world * ranks.world]
    if not len(chosen):
        return None
    mine = chosen[ranks.rank :: ranks.world]
    subject_M = store.meta(mine, columns=["subject_id"])["subject_id"].to_pylist()
    ecg_ML, ppg_ML = _read(store, mine)
    cohorts = Cohorts.of(segments)
    # The same few windows for all: one rank asks the store for them.
    panel = ranks.from_first(_panel(store, chosen, masking, ratio) if ranks.rank == 0 else None)
    return HeldOut(
        ecg=ecg_ML,
        ppg=ppg_ML,
        subject=np.asarray(subject_M),
        cohort=cohorts.of_windows(torch.from_numpy(mine)).numpy(),
        cohorts=cohorts.names,
        mask=_masks(mine, masking, ratio),
        panel=panel,
    )


def evenly(segments: Sequence[SegmentLike], count: int) -> NDArray[np.int64]:
    """Ids of so many windows evenly spaced over the segments, or of all; worked out, not picked from a list of all."""
    ends_S = np.cumsum([segment.n for segment in segments], dtype=np.int64)
    total = int(ends_S[-1]) if len(segments) else 0
    place_M = np.linspace(0, total - 1, min(count, total)).astype(np.int64)
    segment_M = np.searchsorted(ends_S, place_M, side="right")
    first_S = np.array([segment.first_id + segment.n for segment in segments], np.int64) - ends_S
    return first_S[segment_M] + place_M


def _panel(store: WindowStore, chosen: NDArray[np.int64], masking: Masking, ratio: float) -> Panel:
    shown = chosen[np.linspace(0, len(chosen) - 1, min(PANEL_WINDOWS, len(chosen))).astype(np.int64)]
    rows = store.meta(shown, columns=["subject_id", "start_s"]).to_pylist()
    captions = [f"{row['subject_id']}, {row['start_s']:.0f} s" for row in rows]
    return *_read(store, shown), _masks(shown, masking, ratio), captions


@torch.inference_mode()
def rebuilt_panel(model: PretrainModel, share: HeldOut, device: torch.device) -> NDArray[np.float32]:
    """Reconstructions of the panel's windows (B, L). Collective under ZeRO-3."""
    ecg, ppg, mask, _ = share.panel
    was_training = model.training
    model.eval()
    visible = visible_indices(torch.from_numpy(mask)).numpy()
    inputs = (torch.from_numpy(x).to(device) for x in (ppg, ecg, mask, visible))
    rebuilt = model.reconstruct(*inputs).float().cpu().numpy()
    model.train(was_training)
    return np.asarray(rebuilt, np.float32)


def save_panel(
    run_url: str, step: int, share: HeldOut, rebuilt_BL: NDArray[np.float32], *, reconstructs: str, rate_hz: float
) -> str:
    """Keeps the numbers of a panel (npz), from which `train.observe.figures` draws; returns the URL."""
    ecg, ppg, mask, captions = share.panel
    data = io.BytesIO()
    np.savez_compressed(
        data,
        ecg=ecg,
        ppg=ppg,
        mask=mask,
        rebuilt=rebuilt_BL,
        captions=np.array(captions),
        step=step,
        reconstructs=reconstructs,
        rate_hz=rate_hz,
    )
    url = uri.join(run_url, "figures", f"panel-{step:08d}.npz")
    uri.write_bytes(url, data.getvalue())
    return url


def _read(store: WindowStore, ids: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    ecg_BL, ppg_BL = store.read(ids)
    ecg_BL = ppg_BL if ecg_BL is None else ecg_BL
    return ecg_BL.astype(np.float32), ppg_BL.astype(np.float32)


def _masks(ids: NDArray[np.int64], masking: Masking, ratio: float) -> NDArray[np.bool_]:
    return masks(_MASK_SEED, 0, ids, masking.n_patches, ratio, masking.mode)
