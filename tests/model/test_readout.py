"""Readouts: the numbers that their names promise, kept by bundles, exported, the same for every encoder compared."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from xmae_dist.core.errors import ConfigError
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.evaluate.encoders.frozen import open_encoder, resolve
from xmae_dist.evaluate.encoders.spec import parse_bundles, with_controls
from xmae_dist.model import XMAE, bundle, presets
from xmae_dist.model.exported import export_encoder
from xmae_dist.model.readout import READOUTS, frequencies, named

FROZEN = Path(__file__).parent / "frozen" / "bundle-v1"
SPEC = WindowSpec()
OURS = [name for name in READOUTS if name != "head"]


def tiny() -> XMAE:
    torch.manual_seed(0)
    return presets.build("tiny", width=16, heads=2, decoder_depth=1).eval()


def windows(n: int = 2) -> torch.Tensor:
    return torch.randn(n, 1000, generator=torch.Generator().manual_seed(1))


def test_numbers_against_numpy() -> None:
    tokens_BND = torch.randn(3, 100, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = tokens_BND.numpy()
    moments = np.concatenate([x.mean(1), np.sqrt(x.var(1) + 1e-6)], axis=1)
    power = (np.abs(np.fft.rfft(x - x.mean(1, keepdims=True), axis=1)) ** 2).mean(2)[:, 1:40]
    fifths = [np.quantile(x, q, axis=1, method="nearest") for q in (0.1, 0.25, 0.5, 0.75, 0.9)]
    expected = {
        "mean": x.mean(1),
        "mean_std": moments,
        "extremes": np.concatenate([moments, x.min(1), x.max(1)], axis=1),
        "quantiles": np.concatenate(fifths, axis=1),
        "spectrum": np.concatenate([moments, np.log(power / 100**2 + 1e-8)], axis=1),
    }
    assert sorted(expected) == sorted(OURS) and frequencies(100) == 39
    for name, values in expected.items():
        np.testing.assert_allclose(named(name)(tokens_BND).numpy(), values, rtol=1e-6, err_msg=name)


def test_a_constant_signal_has_a_finite_spectrum() -> None:
    assert torch.isfinite(named("spectrum")(torch.ones(1, 25, 4))).all()


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("preset", ["tiny", "clip", "published", "ecg_mae_80"])
def test_a_bundle_keeps_its_readout(tmp_path: Path, preset: str, name: str) -> None:
    model = presets.build(preset, width=16, heads=2).eval()
    plain = bundle.save(str(tmp_path / "plain"), model, window_spec={}, lineage={})
    model.read_by(named(name))
    written = bundle.save(str(tmp_path / "read"), model, window_spec={}, lineage={})
    loaded = bundle.load(str(tmp_path / "read"))
    assert loaded.bundle_id == written
    assert (written == plain) == (model.readout is type(model).readout)
    with torch.no_grad():
        assert torch.equal(loaded.model.embed(windows()), model.embed(windows()))
        assert model.embed(windows()).shape == (2, model.embedding_width)


def test_a_bundle_from_before_there_were_readouts(tmp_path: Path) -> None:
    loaded = bundle.load(str(FROZEN))
    assert (loaded.bundle_id, loaded.model.readout.name) == ("02ea724cad85c394", "mean_std")
    # Written again it has the id that it had: nothing that was embedded by it is embedded anew.
    assert bundle.save(str(tmp_path), loaded.model, window_spec=loaded.window_spec, lineage={}) == loaded.bundle_id


def test_a_readout_that_is_not_known_is_refused(tmp_path: Path) -> None:
    shutil.copytree(FROZEN, tmp_path / "b")
    document = json.loads((tmp_path / "b" / "config.json").read_text())
    (tmp_path / "b" / "config.json").write_text(
        json.dumps(document | {"format": bundle.FORMAT, "readout": "../attentive"})
    )
    with pytest.raises(ConfigError, match="mean_std"):
        bundle.load(str(tmp_path / "b"))
    with pytest.raises(ConfigError, match="head"):
        tiny().read_by(named("head"))


def test_a_changed_readout_is_found(tmp_path: Path) -> None:
    bundle.save(str(tmp_path), tiny().read_by(named("spectrum")), window_spec={}, lineage={})
    file = tmp_path / "config.json"
    file.write_text(file.read_text().replace('"spectrum"', '"extremes"'))
    with pytest.raises(bundle.IntegrityError):
        bundle.load(str(tmp_path))


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
@pytest.mark.parametrize("name", ["spectrum", "quantiles", "extremes"])
def test_exports_within_the_tolerance(suffix: str, name: str) -> None:
    if suffix == ".onnx":
        pytest.importorskip("onnxruntime")
    exported = export_encoder(tiny().read_by(named(name)), suffix, {})
    assert exported.worst <= 1e-4 and exported.embedding_width == tiny().read_by(named(name)).embedding_width


def test_every_encoder_of_an_evaluation_is_read_alike(tmp_path: Path) -> None:
    bundle.save(str(tmp_path), tiny(), window_spec=SPEC.to_dict(), lineage={})
    specs = [
        resolve(spec, SPEC)
        for readout in ("", "mean_std", "spectrum")
        for spec in with_controls(parse_bundles((str(tmp_path),), readout=readout), seed=0)
    ]
    own, same, other = specs[:3], specs[3:6], specs[6:]
    # Asking for what a bundle states anyway is the same encoder; another readout is another one, features are not.
    assert [spec.identity for spec in own] == [spec.identity for spec in same]
    assert [a.identity == b.identity for a, b in zip(own, other, strict=True)] == [False, False, True]
    x_BL = windows().numpy()
    assert [open_encoder(spec, SPEC).encode(x_BL).shape[1] for spec in other[:2]] == [2 * 16 + 39] * 2
