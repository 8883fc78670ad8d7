"""An encoder is only given windows that were cleaned as those it was trained on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from xmae_dist.core.errors import ConfigError
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.evaluate.encoders.frozen import resolve
from xmae_dist.evaluate.encoders.spec import EncoderSpec
from xmae_dist.model import bundle, presets

SPEC = WindowSpec()


@pytest.mark.parametrize("kind", ["bundle", "random"])
@pytest.mark.parametrize(
    ("preset", "changed", "refused"),
    [
        ("ecg_mae_80", {"ecg_band_hz": (0.05, 40.0)}, "ecg_band_hz"),
        ("ecg_mae_80", {"target": "ecg_v5", "require": ("ecg_v5", "ppg")}, "target"),
        ("ecg_mae_80", {}, ""),
        ("tiny", {"ecg_band_hz": (0.05, 40.0)}, ""),  # reads the pulse wave alone
        ("tiny", {"ppg_band_hz": (0.5, 12.0)}, "ppg_band_hz"),
    ],
)
def test_bands_of_what_the_encoder_reads_are_compared(
    tmp_path: Path, kind: Any, preset: str, changed: dict[str, Any], refused: str
) -> None:
    model = presets.build(preset, width=8, heads=1)
    bundle.save(str(tmp_path), model, window_spec=SPEC.to_dict(), lineage={})
    spec = EncoderSpec(name="one", kind=kind, url=str(tmp_path))
    windows = dataclasses.replace(SPEC, **changed)
    if not refused:
        assert resolve(spec, windows).identity
        return
    with pytest.raises(ConfigError, match=f"^{refused} of the window store"):
        resolve(spec, windows)
