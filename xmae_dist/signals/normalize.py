"""Scaling of windows to [-1, 1] that survives flat and partly missing windows."""

from __future__ import annotations

import numpy as np


def minmax(x_BL: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scale each window to [-1, 1]; return (scaled_BL float32, offset_B, scale_B), x = scaled * scale +
    offset.

    A flat window becomes zeros with scale 0; missing samples (NaN, infinity) become 0 in the middle of the
    range; a window without one finite sample has offset 0.
    """
    x_BL = np.asarray(x_BL, dtype=np.float64)
    finite_BL = np.isfinite(x_BL)
    low_B = np.where(finite_BL, x_BL, np.inf).min(axis=-1)
    high_B = np.where(finite_BL, x_BL, -np.inf).max(axis=-1)
    known_B = high_B >= low_B
    low_B, high_B = np.where(known_B, low_B, 0.0), np.where(known_B, high_B, 0.0)
    offset_B, scale_B = low_B / 2 + high_B / 2, high_B / 2 - low_B / 2
    # A spread below the resolution of the values is rounding, not signal.
    scale_B = np.where(scale_B > 1e-12 * np.maximum(np.abs(low_B), np.abs(high_B)), scale_B, 0.0)
    divisor_B = np.where(scale_B > 0, scale_B, 1.0)
    usable_BL = finite_BL & (scale_B > 0)[..., None]
    scaled_BL = np.where(usable_BL, (np.where(finite_BL, x_BL, 0.0) - offset_B[..., None]) / divisor_B[..., None], 0.0)
    return np.clip(scaled_BL, -1.0, 1.0).astype(np.float32), offset_B, scale_B
