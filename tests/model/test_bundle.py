"""Bundles: what is saved is what is loaded, and a changed byte is found."""

from __future__ import annotations

import json
from pathlib import Path

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
    with pytest.raises(IntegrityError, match="got xmae-bundle/v9; expected xmae-bundle/v1 or xmae-bundle/v2"):
        bundle.load(str(tmp_path))


def test_a_bundle_says_whom_it_was_pretrained_on(tmp_path):
    model = presets.build("tiny", width=8, heads=1)
    known = {"split": {"seed": 4}, "cohorts": ["watch", "patch"]}
    url = str(tmp_path / "b")
    named = bundle.save(url, model, window_spec=SPEC, lineage=LINEAGE, pretrained_on=known)
    assert bundle.load(url).pretrained_on == bundle.describe(url)["pretrained_on"] == known
    assert "cohorts pretrained on: watch, patch" in (tmp_path / "b" / "README.md").read_text()
    assert bundle.save(url, model, window_spec=SPEC, lineage=LINEAGE) == named, "the id is of the model alone"


def test_a_bundle_of_version_1_is_read():
    loaded = bundle.load(str(Path(__file__).parent / "frozen" / "bundle-v1"))
    assert (loaded.bundle_id, loaded.pretrained_on) == ("02ea724cad85c394", {})
    assert loaded.lineage == {"preset": "tiny", "step": 3}
    with torch.no_grad():
        embedding_E = loaded.model.embed(torch.linspace(-1, 1, 1000)[None])[0]
    torch.testing.assert_close(embedding_E[:4], torch.tensor([1.4182, 0.5089, 0.0698, -0.8836]), rtol=0, atol=1e-3)
