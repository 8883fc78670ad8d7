"""The bottleneck: what a dropped window is rebuilt from, and that evaluation drops nothing."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from xmae_dist.core.errors import ConfigError
from xmae_dist.model import kinds, presets
from xmae_dist.model.bottleneck import Bottleneck
from xmae_dist.model.patch import View
from xmae_dist.model.readout import MEAN_STD


def test_a_dropped_window_is_its_summary_and_nothing_else() -> None:
    torch.manual_seed(0)
    part, source_BND = Bottleneck(8, 0.5).train(), torch.randn(64, 20, 8)
    found_BND, summary_BD = part(source_BND), part.summary(MEAN_STD(source_BND))
    dropped_B = torch.isclose(found_BND, summary_BD[:, None]).flatten(1).all(dim=1)
    kept_B = torch.isclose(found_BND, source_BND + summary_BD[:, None]).flatten(1).all(dim=1)
    assert bool((dropped_B ^ kept_B).all()) and 16 < int(dropped_B.sum()) < 48
    torch.testing.assert_close(part.eval()(source_BND), source_BND + summary_BD[:, None])


def test_two_pulses_that_pool_alike_are_rebuilt_alike_when_dropped() -> None:
    torch.manual_seed(0)
    model = presets.build("tiny", width=16, heads=2, local_drop=0.999)
    ppg_BL, ecg_BL = torch.randn(2, 3, 1000)
    mask_BN = (torch.arange(100) >= 20).expand(3, -1)
    tokens_BND = model._source("ecg", {"ppg": ppg_BL, "ecg": ecg_BL}, View.of(mask_BN, None))
    shuffled_BND = tokens_BND[:, torch.randperm(100)]  # another time course, the same mean and spread
    signals, view = {"ppg": ppg_BL, "ecg": ecg_BL}, View.of(mask_BN, None)
    for mode, alike in ((True, True), (False, False)):
        model.train(mode)
        rebuilt = [model._rebuild("ecg", signals, view, source_BND) for source_BND in (tokens_BND, shuffled_BND)]
        assert torch.allclose(*rebuilt, atol=1e-4) is alike


def test_training_is_a_function_of_the_seed() -> None:
    torch.manual_seed(0)
    model = presets.build("tiny", width=16, heads=2, local_drop=0.5)
    ppg_BL, ecg_BL = torch.randn(2, 8, 1000)
    mask_BN = (torch.arange(100) >= 20).expand(8, -1)
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(model(ppg_BL, ecg_BL, mask_BN).item())
    assert losses[0] == losses[1] != losses[2]


def test_where_it_makes_no_sense_is_told() -> None:
    with pytest.raises(ConfigError, match=r"local_drop: got 1\.0; expected 0 or more, and below 1"):
        presets.build("tiny", local_drop=1.0)
    with pytest.raises(ConfigError, match=r"local_drop: got 0\.3; expected 0 for this objective"):
        kinds.from_config(dataclasses.replace(presets.config("ppg_mae_75"), local_drop=0.3))
