"""The corrected model lives on a time axis: moving things in time moves the reconstruction, and only then."""

from __future__ import annotations

import math

import pytest
import torch

from xmae_dist.model import kinds, presets
from xmae_dist.model.lag_map import lag_map
from xmae_dist.model.patch import View, visible_indices

RATE_HZ = 100


def _shift_errors(name, seed, **overrides):
    """Relative errors, in the interior, of a reconstruction whose anchor was moved by 3 s in a periodic signal:
    against the reconstruction of the unmoved anchor moved along, and against it left where it was."""
    torch.manual_seed(seed)
    model = presets.build(name, **overrides).eval().double()
    n_patches, length = model.config.n_patches, model.config.length
    time_L = torch.arange(length, dtype=torch.float64)
    ppg_1L = (torch.sin(2 * math.pi * time_L / RATE_HZ) + 0.5 * torch.cos(4 * math.pi * time_L / RATE_HZ))[None]
    ecg_1L = torch.randn(RATE_HZ, dtype=torch.float64)[torch.arange(length) % RATE_HZ][None]
    shift = 3 * RATE_HZ
    rebuilt = []
    for start in (n_patches // 4, n_patches // 4 + shift * n_patches // length):
        mask_1N = torch.ones(1, n_patches, dtype=torch.bool)
        mask_1N[0, start : start + n_patches // 5] = False
        with torch.no_grad():
            rebuilt.append(model.reconstruct(ppg_1L, ecg_1L, mask_1N)[0])
    first, second = rebuilt
    span = slice(200, 500)
    moved, left = second[200 + shift : 500 + shift], second[span]
    return tuple(float((first[span] - x).norm() / first[span].std() / math.sqrt(300)) for x in (moved, left))


@pytest.mark.parametrize("name", ["paper", "tiny"])
def test_a_reconstruction_moves_with_its_visible_patches(name):
    for seed in range(3):
        moved, left = _shift_errors(name, seed)
        assert moved < 0.1
        assert left > 0.4


def test_the_published_model_is_bound_to_absolute_positions():
    assert min(_shift_errors("published", seed, patch_length=20)[0] for seed in range(3)) > 0.15


def _with_and_without_a_gap(model):
    """The same ECG patches under two masks: one run, and the run torn apart by three seconds."""
    config = model.config
    ecg_1NP = torch.randn(1, 10, config.length // config.n_patches, dtype=torch.float64)
    for times in (range(10, 20), [*range(10, 15), *range(30, 35)]):
        mask_1N = torch.ones(1, config.n_patches, dtype=torch.bool)
        mask_1N[0, list(times)] = False
        full_1NP = torch.zeros(1, config.n_patches, ecg_1NP.shape[-1], dtype=torch.float64)
        full_1NP[:, list(times)] = ecg_1NP
        yield full_1NP.flatten(1), mask_1N


def test_visible_tokens_know_the_time_between_them():
    torch.manual_seed(0)
    model = presets.build("paper", patch_s=0.2).eval().double()
    encoder = model.encoders["ecg"]
    with torch.no_grad():
        near, far = (encoder(x[:, None], View.of(m)) for x, m in _with_and_without_a_gap(model))
    # Patches far from the tear see the same samples; only their distances in time differ.
    assert (near[:, :4] - far[:, :4]).abs().max() > 1e-3


def test_the_published_model_glues_what_is_not_adjacent():
    torch.manual_seed(0)
    model = presets.build("published", patch_length=20).eval().double()
    with torch.no_grad():
        near, far = (model._queries(x, visible_indices(m))[~m] for x, m in _with_and_without_a_gap(model))
    shift = (model.ecg_path.pos[0, 15:20] - model.ecg_path.pos[0, 30:35]).detach()
    assert torch.allclose(near[:5], far[:5])
    assert torch.allclose(near[5:] - shift, far[5:])


@pytest.mark.parametrize("name", ["paper", "tiny", "joint", "symmetric", "ecg_mae_80"])
def test_masked_samples_do_not_leak(name):
    torch.manual_seed(0)
    model = presets.build(name, width=64, heads=4, patch_s=0.2).eval().double()
    ppg_BL, ecg_BL = torch.randn(2, 2, 1000, dtype=torch.float64)
    mask_BN = torch.ones(2, 50, dtype=torch.bool)
    mask_BN[:, 20:30] = False
    changed_BL = torch.where(mask_BN.repeat_interleave(20, dim=1), 5.0, ecg_BL)
    with torch.no_grad():
        first = model.reconstruct(ppg_BL, ecg_BL, mask_BN)
        assert torch.allclose(first, model.reconstruct(ppg_BL, changed_BL, mask_BN))


def test_the_bridge_reaches_its_lag_window_only():
    torch.manual_seed(0)
    model = presets.build("paper", patch_s=0.2, ppg_depth=0, decoder_depth=0, lag_window_s=(0.0, 1.0)).eval()
    ppg_BL, ecg_BL = torch.randn(2, 4, 1000)
    mask_BN = torch.ones(4, 50, dtype=torch.bool)
    mask_BN[:, :5] = False
    found = lag_map(model, ppg_BL, ecg_BL, mask_BN, rate_hz=RATE_HZ)
    outside = (found.lag_s_K < -0.45) | (found.lag_s_K > 1.45)
    assert found.weight_K[outside].sum() == pytest.approx(0.0, abs=1e-9)
    assert found.weight_K.sum() == pytest.approx(1.0)


def test_a_pulse_is_rebuilt_from_the_beats_before_it():
    """The bridge's window is mirrored where the PPG is the target; models from before that keep theirs."""
    for name in ("reversed", "symmetric", "joint"):
        assert presets.build(name).decoders["ppg"].bridge.lags == (-10, 2), name
    for name in ("cross", "symmetric", "joint"):
        assert presets.build("paper", objective=name, mirrored_lags=True).decoders["ecg"].bridge.lags == (-2, 10), name
    old = {key: value for key, value in kinds.to_dict(presets.config("reversed")).items() if key != "mirrored_lags"}
    assert kinds.from_config(kinds.from_dict(old)).decoders["ppg"].bridge.lags == (-2, 10)

    torch.manual_seed(0)
    model = presets.build("reversed", width=32, heads=2, ecg_depth=0, decoder_depth=0).eval()
    ppg_BL, ecg_BL = torch.randn(2, 1, 1000)
    ecg_BL.requires_grad_()
    mask_BN = torch.ones(1, 100, dtype=torch.bool)
    mask_BN[:, :5] = False
    model.reconstruct(ppg_BL, ecg_BL, mask_BN)[0, 500:510].sum().backward()
    read_L = ecg_BL.grad[0].nonzero().flatten()
    assert 400 - 10 <= read_L.min() <= 400 and 530 <= read_L.max() + 1 <= 530 + 10  # and the stem's few samples
