"""The exported encoder gives the model's embeddings at any batch size, also from a file."""

from __future__ import annotations

import io

import pytest
import torch

from xmae_dist.model import presets
from xmae_dist.model.exported import save_encoder
from xmae_dist.storage import uri


@pytest.mark.parametrize("name", ["paper", "published"])
def test_a_saved_program_embeds_as_the_model_does(tmp_path, name):
    torch.manual_seed(0)
    model = presets.build(name, width=32, heads=2).eval()
    url = save_encoder(str(tmp_path), model)
    program = torch.export.load(io.BytesIO(uri.read_bytes(url)))
    ppg_BL = torch.randn(7, 1000)
    with torch.no_grad():
        assert torch.allclose(program.module()(ppg_BL), model.embed(ppg_BL), atol=1e-5)


def test_several_channels(tmp_path):
    model = presets.build("tiny", width=32, heads=2, ppg_channels=3)
    save_encoder(str(tmp_path), model, channels=3)
