"""Several channels, other windows and rates, missing signals."""

from __future__ import annotations

import pytest
import torch

from xmae_dist.model import presets
from xmae_dist.model.mask import masks
from xmae_dist.model.patch import View

SMALL = {"width": 32, "heads": 2}


def _inputs(config, rows=4, **channels):
    generator = torch.Generator().manual_seed(0)
    shapes = [
        (rows, channels[name], config.length) if name in channels else (rows, config.length) for name in ("ppg", "ecg")
    ]
    signals = [torch.randn(*shape, generator=generator) for shape in shapes]
    return *signals, torch.as_tensor(masks(0, 0, range(rows), config.n_patches, config.mask_ratio))


@pytest.mark.parametrize("name", ["paper", "symmetric", "joint", "reversed", "clip"])
def test_several_channels_in_each_signal(name):
    model = presets.build(name, ppg_channels=3, ecg_channels=2, **SMALL)
    ppg_BCL, ecg_BCL, mask_BN = _inputs(model.config, ppg=3, ecg=2)
    assert torch.isfinite(model(ppg_BCL, ecg_BCL, mask_BN))
    assert model.embed(ppg_BCL).shape == (4, model.embedding_width)
    if model.reconstructs is not None:
        target = ecg_BCL if model.reconstructs == "ecg" else ppg_BCL
        assert model.reconstruct(ppg_BCL, ecg_BCL, mask_BN).shape == target.shape


@pytest.mark.parametrize(
    ("length", "rate_hz", "patch_s", "stem"),
    [
        (3840, 128.0, 0.25, "frames"),
        (1500, 50.0, 0.5, "frames"),
        (1000, 100.0, 0.2, "strided"),
        (1000, 100.0, 0.4, "pyramid"),
    ],
)
def test_other_windows_rates_and_stems(length, rate_hz, patch_s, stem):
    model = presets.build("paper", length=length, rate_hz=rate_hz, patch_s=patch_s, stem=stem, **SMALL)
    ppg_BL, ecg_BL, mask_BN = _inputs(model.config)
    assert model.reconstruct(ppg_BL, ecg_BL, mask_BN).shape == (4, length)


@pytest.mark.parametrize("name", ["paper", "symmetric", "joint", "reversed", "ppg_mae_75"])
def test_a_batch_may_lack_signals(name):
    torch.manual_seed(0)
    model = presets.build(name, **SMALL).eval()
    ppg_BL, ecg_BL, mask_BN = _inputs(model.config)
    ppg_BL[1], ecg_BL[2], ecg_BL[3, 100:130] = torch.nan, torch.nan, torch.nan
    loss = model(ppg_BL, ecg_BL, mask_BN)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    with torch.no_grad():
        assert torch.isfinite(model.embed(ppg_BL)).all()
        assert torch.isfinite(model.reconstruct(ppg_BL, ecg_BL, mask_BN)).all()


def test_a_window_without_target_teaches_nothing():
    torch.manual_seed(0)
    model = presets.build("paper", **SMALL).eval()
    ppg_BL, ecg_BL, mask_BN = _inputs(model.config)
    ecg_BL[2:] = torch.nan
    with torch.no_grad():
        assert torch.allclose(model(ppg_BL, ecg_BL, mask_BN), model(ppg_BL[:2], ecg_BL[:2], mask_BN[:2]))


@pytest.mark.parametrize("name", presets.NAMES)
def test_given_visible_indices_change_nothing(name):
    torch.manual_seed(0)
    model = presets.build(name, **SMALL).eval()
    ppg_BL, ecg_BL, mask_BN = _inputs(model.config)
    with torch.no_grad():
        given = model(ppg_BL, ecg_BL, mask_BN, View.of(mask_BN).visible_BV)
        assert torch.equal(given, model(ppg_BL, ecg_BL, mask_BN))
