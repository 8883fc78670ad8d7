"""The agreement term: the formula by hand, collapse costs, and windows that lack a signal count nowhere."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from xmae_dist.core.errors import ConfigError
from xmae_dist.model import kinds, presets
from xmae_dist.model.agreement import Agreement
from xmae_dist.model.readout import MEAN_STD


def built(**options: float) -> torch.nn.Module:
    torch.manual_seed(3)
    return presets.build("tiny", width=16, heads=2, **options)


def by_hand(term: Agreement, ppg_BND: Tensor, ecg_BND: Tensor) -> float:
    a, b = (layer(MEAN_STD(x)).detach().double().numpy() for layer, x in ((term.ppg, ppg_BND), (term.ecg, ecg_BND)))
    total = np.mean((a - b) ** 2)
    for x in (a, b):
        covariance = np.cov(x, rowvar=False)
        spread = np.sqrt(np.diag(covariance) + 1e-4)
        off = covariance - np.diag(np.diag(covariance))
        total += (np.maximum(1 - spread, 0).mean() + 0.04 * np.sum(off**2) / len(off)) / 2
    return float(total)


def test_it_is_the_published_formula() -> None:
    torch.manual_seed(0)
    term, ppg_BND, ecg_BND = Agreement(8), 3 * torch.randn(7, 20, 8), torch.randn(7, 20, 8)
    everyone_B = torch.ones(7, dtype=torch.bool)
    assert term(ppg_BND, ecg_BND, everyone_B).item() == pytest.approx(by_hand(term, ppg_BND, ecg_BND), rel=1e-5)
    there_B = torch.tensor([True, False, True, True, False, True, True])
    expected = by_hand(term, ppg_BND[there_B], ecg_BND[there_B])
    assert term(ppg_BND, ecg_BND, there_B).item() == pytest.approx(expected, rel=1e-5)
    assert term(ppg_BND, ecg_BND, there_B & False).item() == 0.0


def test_saying_nothing_costs() -> None:
    term, same_BND = Agreement(8), torch.zeros(6, 20, 8)
    assert term(same_BND, same_BND, torch.ones(6, dtype=torch.bool)).item() >= 0.99  # no spread, though they agree


def test_it_is_added_by_its_weight_and_moves_both_encoders() -> None:
    ppg_BL, ecg_BL = torch.randn(2, 5, 1000, generator=torch.Generator().manual_seed(1))
    ecg_BL[2, :40] = torch.nan
    mask_BN = (torch.arange(100) >= 20).expand(5, -1)
    plain, agreeing = built(), built(agreement_weight=0.5)
    assert agreeing.counts(ppg_BL, ecg_BL, mask_BN).tolist()[1:] == [4]
    extra = 2 * (agreeing(ppg_BL, ecg_BL, mask_BN) - plain(ppg_BL, ecg_BL, mask_BN))
    assert extra.item() > 0.1
    extra.backward()
    for name in ("encoders.ppg.norm.weight", "encoders.ecg.norm.weight", "agreement.ppg.weight"):
        assert agreeing.get_parameter(name).grad.abs().max() > 0, name
    counts_S = agreeing.counts(ppg_BL, ecg_BL, mask_BN).float()
    told = agreeing(ppg_BL, ecg_BL, mask_BN, None, counts_S)
    assert torch.equal(told, agreeing(ppg_BL, ecg_BL, mask_BN))


def test_where_it_makes_no_sense_is_told() -> None:
    for name in ("ppg_mae_75", "clip"):
        with pytest.raises(ConfigError, match=r"agreement_weight: got 0\.1; expected 0 for this objective"):
            kinds.from_config(dataclasses.replace(presets.config(name), agreement_weight=0.1))
