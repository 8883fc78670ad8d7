"""The published preset against numbers computed with its authors' code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from xmae_dist.core.errors import InputError
from xmae_dist.model import XMAE
from xmae_dist.model.published import PublishedXMAE, from_published, to_published_state


@pytest.fixture
def recorded(parity_file: Path):
    with np.load(parity_file) as file:
        return dict(file)


def _state(recorded, dtype=np.float64):
    found = {key.removeprefix("state/"): value for key, value in recorded.items() if key.startswith("state/")}
    return {key: value.astype(dtype) for key, value in found.items()}


def _inputs(recorded, dtype):
    ppg_BL, ecg_BL = (torch.tensor(recorded[name], dtype=dtype) for name in ("ppg", "ecg"))
    return ppg_BL, ecg_BL, torch.tensor(recorded["mask"])


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 1e-5)])
def test_outputs(recorded, dtype, tolerance):
    model = XMAE.from_published(_state(recorded, dtype), heads=int(recorded["cfg/heads"]))
    ppg_BL, ecg_BL, mask_BN = _inputs(recorded, getattr(torch, np.dtype(dtype).name))
    with torch.no_grad():
        found = {
            "ecg_reconstructed": model.reconstruct(ppg_BL, ecg_BL, mask_BN),
            "ecg_reconstructed_all_visible": model.reconstruct(ppg_BL, ecg_BL, torch.zeros_like(mask_BN)),
            "ppg_embedding": model.embed(ppg_BL),
            "ppg_embedding_with_ecg": model.embed(ppg_BL),
        }
    for name, value in found.items():
        assert value.dtype == ppg_BL.dtype
        assert np.abs(value.numpy() - recorded[f"eval/{name}"]).max() < tolerance, name


def _training_model(recorded) -> PublishedXMAE:
    """As the fixture was made: float64, batch statistics in BatchNorm, no dropout."""
    return from_published(_state(recorded), heads=int(recorded["cfg/heads"]), dropout=0.0).train()


def test_gradient_norms(recorded):
    model = _training_model(recorded)
    model(*_inputs(recorded, torch.float64)).backward()
    expected = {key.removeprefix("gradnorm/"): v for key, v in recorded.items() if key.startswith("gradnorm/")}
    found = {name: float(p.grad.norm()) for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys()
    for name, norm in expected.items():
        assert found[name] == pytest.approx(float(norm), rel=1e-6), name


def test_loss_trajectory(recorded):
    model = _training_model(recorded)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.01, betas=(0.9, 0.95))
    losses = []
    for _ in recorded["train/losses"]:
        loss = model(*_inputs(recorded, torch.float64))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.abs(np.array(losses) - recorded["train/losses"]).max() < 1e-6


def test_released_names_round_trip(recorded):
    state = _state(recorded, np.float32)
    prefixed = {f"model.{name}": torch.tensor(value) for name, value in state.items()}
    written = to_published_state(XMAE.from_published(prefixed, heads=4))
    assert written.keys() == state.keys()
    for name, value in state.items():
        assert written[name].shape == value.shape
        assert np.array_equal(written[name].numpy(), value), name


def test_another_state_dict_is_told_by_the_weight_that_is_wrong(recorded):
    state = _state(recorded, np.float32)
    with pytest.raises(InputError, match=r"no ppg_path\.pos among 1"):
        XMAE.from_published({"encoder.weight": np.zeros((2, 2))}, heads=4)
    with pytest.raises(InputError, match=r"more\.weight"):
        XMAE.from_published({**state, "more.weight": np.zeros(2)}, heads=4)
    without = {name: value for name, value in state.items() if name != "mask_token"}
    with pytest.raises(InputError, match="mask_token"):
        XMAE.from_published(without, heads=4)
