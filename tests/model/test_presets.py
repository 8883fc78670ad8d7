"""Every preset trains all of its parameters, and configurations survive a file."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

from xmae_dist.core.errors import ConfigError
from xmae_dist.model import kinds, presets
from xmae_dist.model.mask import masks

SMALL = {"width": 64, "heads": 4}
TRAINED = [name for name in presets.NAMES if name != "published"]


def _batch(config, rows=4):
    generator = torch.Generator().manual_seed(0)
    ppg_BL, ecg_BL = torch.randn(2, rows, config.length, generator=generator)
    mask_BN = masks(0, 0, range(rows), config.n_patches, config.mask_ratio, config.mask_mode)
    return ppg_BL, ecg_BL, torch.as_tensor(mask_BN)


@pytest.mark.parametrize("name", TRAINED)
def test_every_parameter_gets_a_gradient(name):
    torch.manual_seed(0)
    model = presets.build(name, **(SMALL if name in ("base", "large", "huge") else {}))
    loss = model(*_batch(model.config))
    loss.backward()
    assert math.isfinite(loss.detach())
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all(), parameter_name
        assert parameter.grad.abs().max() > 0, parameter_name


@pytest.mark.parametrize("name", presets.NAMES)
def test_shapes(name):
    model = presets.build(name, **SMALL).eval()
    ppg_BL, ecg_BL, mask_BN = _batch(model.config)
    with torch.no_grad():
        assert model(ppg_BL, ecg_BL, mask_BN).shape == ()
        assert model.embed(ppg_BL).shape == (4, model.embedding_width)
        if model.reconstructs is not None:
            assert model.reconstruct(ppg_BL, ecg_BL, mask_BN).shape == ppg_BL.shape


@pytest.mark.parametrize("name", TRAINED)
def test_no_window_depends_on_its_batch(name):
    model = presets.build(name, **SMALL).train()
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    ppg_BL, ecg_BL, mask_BN = _batch(model.config)
    with torch.no_grad():
        assert torch.allclose(model.embed(ppg_BL)[:1], model.embed(ppg_BL[:1]), atol=1e-5)
        if model.reconstructs is not None:
            alone = model.reconstruct(ppg_BL[:1], ecg_BL[:1], mask_BN[:1])
            assert torch.allclose(model.reconstruct(ppg_BL, ecg_BL, mask_BN)[:1], alone, atol=1e-5)


@pytest.mark.parametrize("name", presets.NAMES)
def test_configurations_survive_json(name):
    config = presets.config(name)
    assert kinds.from_dict(json.loads(json.dumps(kinds.to_dict(config)))) == config


def test_sizes():
    counts = {}
    for name in presets.NAMES:
        with torch.device("meta"):
            counts[name] = sum(weight.numel() for weight in presets.build(name).parameters())
    assert counts["published"] == 6_481_930
    assert counts["huge"] > 1_000_000_000
    assert counts["tiny"] < counts["paper"] < counts["base"] < counts["large"] < counts["huge"]


def test_bad_names_are_explained():
    with pytest.raises(ConfigError, match=r"model preset: got papre; expected published \| paper"):
        presets.build("papre")
    with pytest.raises(ConfigError, match="option of preset tiny: got widht"):
        presets.build("tiny", widht=3)
    with pytest.raises(ConfigError, match="window length: got 1005 samples; expected a multiple of 10"):
        presets.build("paper", length=1005)


def test_every_parameter_has_a_first_dimension():
    # DeepSpeed broadcasts and divides parameters by it.
    for name in presets.NAMES:
        with torch.device("meta"):
            assert all(weight.ndim > 0 for weight in presets.build(name).parameters()), name


def test_every_preset_has_a_learning_rate():
    assert set(presets.PEAK_LR) == set(presets.NAMES)
