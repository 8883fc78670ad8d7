"""Bundles: what is saved is what is loaded, and a changed byte is found."""

from __future__ import annotations

import json

import pytest
import torch

from xmae_dist.core.errors import IntegrityError
from xmae_dist.model import XMAE, bundle, presets

SPEC = {"window_s": 10.0, "rate_hz": 100.0, "ecg_band_hz": [0.5, 40.0]}
LINEAGE = {"run": "r1", "steps": 10}


@pytest.mark.parametrize("name", ["published", "paper", "clip"])
def test_round_trip(store_url, name):
    model = presets.build(name, width=32, heads=2).eval()
    url = f"{store_url}/bundle"
    bundle_id = bundle.save(url, model, window_spec=SPEC, lineage=LINEAGE)
    loaded = bundle.load(url)
    assert (loaded.bundle_id, loaded.config) == (bundle_id, model.config)
    assert (loaded.window_spec, loaded.lineage) == (SPEC, LINEAGE)
    ppg_BL = torch.randn(3, 1000)
    with torch.no_grad():
        assert torch.equal(XMAE.load(url).embed(ppg_BL), model.embed(ppg_BL))


def test_the_id_follows_weights_and_windows_but_not_lineage(tmp_path):
    model = presets.build("tiny", width=32, heads=2)

    def saved(spec, lineage):
        return bundle.save(str(tmp_path / "b"), model, window_spec=spec, lineage=lineage)

    first = saved(SPEC, LINEAGE)
    assert saved(SPEC, {}) == first
    assert saved(SPEC | {"rate_hz": 125.0}, LINEAGE) != first
    with torch.no_grad():
        next(model.parameters()).add_(1e-3)
    assert saved(SPEC, LINEAGE) != first


def test_a_changed_weight_is_found(tmp_path):
    bundle.save(str(tmp_path), presets.build("tiny", width=32, heads=2), window_spec=SPEC, lineage=LINEAGE)
    file = tmp_path / "weights.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(IntegrityError, match="weights of bundle"):
        bundle.load(str(tmp_path))


def test_another_format_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"format": "xmae-bundle/v9"}))
    with pytest.raises(IntegrityError, match="got xmae-bundle/v9; expected xmae-bundle/v2"):
        bundle.load(str(tmp_path))
