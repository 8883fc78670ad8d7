"""Auxiliary heads: what they add to the loss, what they leave as it was, and that missing targets weigh nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from xmae_dist.core.errors import ConfigError
from xmae_dist.core.fingerprint import digest_json
from xmae_dist.model import bundle, kinds, presets
from xmae_dist.model.beat_heads import measured
from xmae_dist.model.interface import PretrainModel
from xmae_dist.model.readout import MEAN_STD

SMALL = {"width": 16, "heads": 2}
BEFORE = {
    "published": "f3d05d4f6533fa4a",
    "paper": "9ae371d52a203ede",
    "tiny": "d8f282160a0411a4",
    "clip": "dab082ba80cc8279",
}
"""Digests of configurations from before there were heads: runs and bundles are known by them."""


def pairs(rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pulses that follow beats of each row's own rate by a delay of its own; every third without its ECG."""
    time_L, rate_B1 = torch.arange(1000) / 100, 0.9 + 0.6 * torch.rand(rows, 1)
    delay_B1 = 0.15 + 0.2 * torch.rand(rows, 1)
    phase_BL = rate_B1 * (time_L - torch.rand(rows, 1))
    ecg_BL = (torch.pi * phase_BL).cos() ** 80
    ppg_BL = (torch.pi * (phase_BL - rate_B1 * delay_B1)).cos() ** 12
    ecg_BL[2::3] = torch.nan
    return ppg_BL, ecg_BL, (torch.arange(100) >= 20).expand(rows, -1)


def built(name: str) -> PretrainModel:
    torch.manual_seed(3)
    return presets.build(name, **SMALL)


@pytest.mark.parametrize(("plain", "headed"), [("tiny", "tiny_beats"), ("clip", "clip_beats")])
def test_the_heads_add_their_weighted_errors_and_change_nothing_else(plain: str, headed: str) -> None:
    without, having = built(plain), built(headed)
    assert set(having.state_dict()) - set(without.state_dict()) == {"beats.linear.weight", "beats.linear.bias"}
    assert all(torch.equal(having.state_dict()[name], weight) for name, weight in without.state_dict().items())
    ppg_BL, ecg_BL, mask_BN = pairs(6)
    target_BK = measured(ppg_BL, ecg_BL, 100.0)
    assert target_BK.isfinite().all(dim=1).tolist() == [True, True, False] * 2
    there_B = torch.tensor([0, 1, 3, 4])
    if plain == "clip":  # the contrastive loss knows no missing signal
        ppg_BL, ecg_BL, mask_BN, target_BK = (x[there_B] for x in (ppg_BL, ecg_BL, mask_BN, target_BK))
        there_B = torch.arange(4)
    predicted_BK = having.get_submodule("beats").linear(MEAN_STD(having.tokens(ppg_BL[there_B])))
    expected = without(ppg_BL, ecg_BL, mask_BN) + 0.03 * (predicted_BK - target_BK[there_B]).square().mean()
    torch.testing.assert_close(having(ppg_BL, ecg_BL, mask_BN), expected)
    assert torch.equal(having.embed(ppg_BL), without.embed(ppg_BL))


def test_the_cut_into_micro_batches_changes_no_gradient() -> None:
    ppg_BL, ecg_BL, mask_BN = pairs(8)  # three of eight without targets: parts hold 2, 1, 1 and 1
    gradients = []
    for parts in (1, 4):
        model = built("tiny_beats")
        over_S = model.counts(ppg_BL, ecg_BL, mask_BN) / parts
        for rows in torch.arange(8).view(parts, -1):
            given = model.measured(ppg_BL[rows], ecg_BL[rows])
            (model(ppg_BL[rows], ecg_BL[rows], mask_BN[rows], None, over_S, given) / parts).backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters()})
    for name, whole in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], whole, rtol=1e-4, atol=1e-7, msg=name)


def test_the_heads_learn_what_they_are_told() -> None:
    torch.manual_seed(3)
    model, (ppg_BL, ecg_BL, mask_BN) = presets.build("tiny", beat_weight=3.0, width=32, heads=2), pairs(24)
    given = model.measured(ppg_BL, ecg_BL)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    heads = model.get_submodule("beats")
    before = heads(model.tokens(ppg_BL), given)
    for _ in range(40):
        optimizer.zero_grad()
        model(ppg_BL, ecg_BL, mask_BN, None, None, given).backward()
        optimizer.step()
    after = heads(model.tokens(ppg_BL), given)
    assert after[0] < 0.3 * before[0]  # the rate of a pulse is in the pulse


def test_configurations_without_heads_are_written_as_they_were() -> None:
    for name, digest in BEFORE.items():
        assert digest_json(kinds.to_dict(presets.config(name))) == digest, name
    assert kinds.to_dict(presets.config("tiny_beats"))["beat_weight"] == 0.03


def test_a_bundle_says_so_and_comes_back(tmp_path: Path) -> None:
    model, (ppg_BL, *_) = built("tiny_beats").eval(), pairs(2)
    bundle.save(str(tmp_path / "headed"), model, window_spec={}, lineage={})
    loaded = bundle.load(str(tmp_path / "headed"))
    assert torch.equal(loaded.model.embed(ppg_BL), model.embed(ppg_BL))
    card = (tmp_path / "headed" / "README.md").read_text()
    assert (
        "Auxiliary heads in pretraining: log_mean_rr, log_rmssd, median_arrival_s of the paired ECG, weight 0.03"
        in card
    )
    bundle.save(str(tmp_path / "plain"), built("tiny"), window_spec={}, lineage={})
    assert "Auxiliary" not in (tmp_path / "plain" / "README.md").read_text()


def test_where_heads_make_no_sense_is_told() -> None:
    for name in ("ppg_mae_75", "joint", "reversed"):
        with pytest.raises(ConfigError, match=r"beat_weight: got 0\.03; expected 0 for this objective"):
            kinds.from_config(dataclasses.replace(presets.config(name), beat_weight=0.03))
    with pytest.raises(ConfigError, match="beat_weight: got -1; expected 0 or more"):
        presets.build("tiny", beat_weight=-1)
