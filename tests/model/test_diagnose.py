"""The four errors that tell whether a source is used."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from xmae_dist.model import presets
from xmae_dist.model.diagnose import another_subject, diagnose, window_errors
from xmae_dist.model.loss import masked_error, masked_mse


@pytest.mark.parametrize("subjects", [[0, 0, 1, 1, 2, 2], [0, 0, 0, 0, 1], [3, 1, 2, 1, 1, 1, 2, 1], ["a", "b"]])
def test_partners_are_of_another_subject(subjects):
    subject_M = np.array(subjects)
    partner_M = another_subject(subject_M)
    assert (subject_M[partner_M] != subject_M).all()


def test_the_error_is_over_masked_samples_alone():
    target_BL, predicted_BL = torch.zeros(2, 6), torch.ones(2, 6)
    mask_BN = torch.tensor([[True, False, False], [False, True, False]])
    predicted_BL[0, :2] = 3.0
    predicted_BL[:, 4:] = 100.0
    assert masked_error(predicted_BL, target_BL, mask_BN).tolist() == [9.0, 1.0]
    loss, (square_B, counted_B) = masked_mse(predicted_BL, target_BL, mask_BN)
    assert float(loss) == 5.0
    assert square_B.tolist() == [18.0, 2.0] and counted_B.tolist() == [2, 2]
    assert float(masked_mse(predicted_BL, target_BL, mask_BN, torch.tensor(10.0))[0]) == 2.0


class _Copier(torch.nn.Module):
    """Reconstructs the target as the source: right with the own one, wrong with any other."""

    reconstructs = "ecg"

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def reconstruct(self, ppg_BL, ecg_BL, mask_BN, visible_BV=None):
        return ppg_BL * self.scale


def test_a_model_that_copies_its_source_is_recognised():
    signal_ML = np.random.default_rng(0).standard_normal((30, 100)).astype(np.float32)
    mask_MN = np.ones((30, 10), dtype=bool)
    mask_MN[:, 0] = False
    model = _Copier().train()
    found = diagnose(model, signal_ML, signal_ML, np.arange(30) // 5, mask_MN, batch=7)
    assert found["own"] == 0.0
    assert found["other"] == pytest.approx(2.0, rel=0.1)
    assert found["none"] == pytest.approx(1.0, rel=0.1)
    assert found["mean"] == pytest.approx(1.0, rel=0.1)
    assert model.training


def test_a_model_of_one_signal_has_no_other():
    signals = np.random.default_rng(0).standard_normal((2, 6, 1000)).astype(np.float32)
    mask_MN = np.tile(np.arange(50) >= 10, (6, 1))
    found = diagnose(presets.build("ppg_mae_50", width=32, heads=2, patch_s=0.2), *signals, np.arange(6), mask_MN)
    assert found["own"] == found["other"] == found["none"]


def test_a_window_without_a_target_is_not_one_without_an_error():
    torch.manual_seed(0)
    model = presets.build("tiny", width=16, heads=2)
    rng = np.random.default_rng(0)
    ecg_ML, ppg_ML = rng.standard_normal((2, 6, 1000)).astype(np.float32)
    mask_MN = np.tile(np.arange(100) > 20, (6, 1))
    subject_M = np.arange(6)
    whole = window_errors(model, ecg_ML, ppg_ML, subject_M, mask_MN)
    ecg_ML[[1, 4]] = np.nan
    found = window_errors(model, ecg_ML, ppg_ML, subject_M, mask_MN)
    there = np.array([True, False, True, True, False, True])
    for name, error_M in found.items():
        assert np.array_equal(np.isnan(error_M), ~there), name
    np.testing.assert_allclose(found["own"][there], whole["own"][there], rtol=1e-6)
    assert diagnose(model, ecg_ML, ppg_ML, subject_M, mask_MN)["own"] == pytest.approx(whole["own"][there].mean())
