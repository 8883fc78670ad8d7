"""A folder for the transformers library: loaded without this package it gives the model's own numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from xmae_dist.core.errors import ConfigError, IntegrityError
from xmae_dist.model import presets
from xmae_dist.model.hub import folder
from xmae_dist.model.hub.folder import folder_files
from xmae_dist.model.interface import PretrainModel
from xmae_dist.model.readout import named

pytest.importorskip("transformers")

ALONE = """
import sys
class Away:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "xmae_dist":
            raise ImportError(name)
sys.meta_path.insert(0, Away())
import numpy as np, torch
from transformers import AutoConfig, AutoModel
folder, windows, out = sys.argv[1:]
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
with torch.no_grad():
    found = model(torch.from_numpy(np.load(windows)))
np.savez(out, pooled=found.pooler_output.numpy(), tokens=found.last_hidden_state.numpy())
assert AutoConfig.from_pretrained(folder, trust_remote_code=True).about["bundle_id"] == "b"
assert not any(name.split(".")[0] == "xmae_dist" for name in sys.modules)
"""


def built(name: str, readout: str = "spectrum", **options: int) -> PretrainModel:
    torch.manual_seed(0)
    return presets.build(name, width=16, heads=2, **options).eval().read_by(named(readout))


def test_it_loads_without_this_package(tmp_path: Path) -> None:
    model = built("tiny_beats", ppg_channels=2)
    where = tmp_path / "encoder"
    where.mkdir()
    for name, content in folder_files(model, {"bundle_id": "b", "window_spec": {"rate_hz": 100.0}}).items():
        (where / name).write_bytes(content)
    assert "xmae_dist." not in "".join(path.read_text() for path in where.glob("*.py") if path.name != "errors.py")
    windows = torch.randn(3, 2, 1000, generator=torch.Generator().manual_seed(4))
    windows[1, 0, 200:260] = torch.nan
    np.save(tmp_path / "windows.npy", windows.numpy())
    command = [sys.executable, "-c", ALONE, str(where), str(tmp_path / "windows.npy"), str(tmp_path / "found.npz")]
    environment = {"HF_MODULES_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin"}
    subprocess.run(command, check=True, env=environment, cwd=tmp_path)
    found = np.load(tmp_path / "found.npz")
    with torch.no_grad():
        np.testing.assert_allclose(found["pooled"], model.embed(windows), atol=1e-5)
        np.testing.assert_allclose(found["tokens"], model.tokens(windows), atol=1e-5)
    assert json.loads((where / "config.json").read_text())["readout"] == "spectrum"
    card = (where / "README.md").read_text()
    assert "encoder of bundle b" in card and "- rate_hz: 100.0" in card


def test_a_folder_that_embeds_otherwise_is_not_given_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "_source", lambda name, make=folder._source: make(name).replace("1e-6", "1.0"))
    with pytest.raises(IntegrityError, match="exported folder: got a difference of"):
        folder_files(built("clip", "mean_std"), {})


def test_a_model_that_it_cannot_hold_is_told() -> None:
    with pytest.raises(ConfigError, match="model: got PublishedXMAE; expected an encoder with a readout"):
        folder_files(presets.build("published"), {})
