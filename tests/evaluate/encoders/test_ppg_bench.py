"""Our side of the PPG-Bench contract, as that program meets it: a description, a port file, an encoder over a pipe."""

from __future__ import annotations

import ast
import io
import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from xmae_dist.cli.main import main
from xmae_dist.core.errors import InputError
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.evaluate.encoders.frozen import open_encoder
from xmae_dist.evaluate.encoders.serve import HEADER, embed_raw, serve
from xmae_dist.evaluate.encoders.spec import EncoderSpec
from xmae_dist.model import bundle, presets
from xmae_dist.signals.filter import bandpass
from xmae_dist.signals.normalize import minmax

SPEC = WindowSpec()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    where = f"file://{tmp_path_factory.mktemp('bundle')}"
    torch.manual_seed(0)
    bundle.save(where, presets.build("tiny"), window_spec=SPEC.to_dict(), lineage={})
    return where


def pulses(n: int, seconds: float, rate_hz: float) -> np.ndarray:
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    return np.stack([np.sin(2 * np.pi * (1 + 0.1 * i) * time_s) + 5 for i in range(n)]).astype(np.float32)


def test_the_port_is_what_the_harness_asks_for_and_imports_neither_program(url: str, tmp_path: Path) -> None:
    assert main(["ppg-bench", url, "--out", str(tmp_path), "--rate-hz", "125"]) == 0
    model = json.loads((tmp_path / "xmae.yaml").read_text())
    assert set(model) == {"name", "port", "fs", "embedding_dim", "init"} and type(model["fs"]) is int
    file, _, name = model["port"].rpartition(":")
    tree = ast.parse((tmp_path / file).read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert imported == {"struct", "subprocess", "torch"}
    assert not any(isinstance(node, ast.ImportFrom) for node in ast.walk(tree))

    port: Any = runpy.run_path(str(tmp_path / file))[name](model["init"])
    encoder = port.load_encoder().to("cpu").eval()
    try:
        raw = pulses(3, 8, 125)
        with torch.inference_mode():
            got = encoder(port.prepare_batch({"x": torch.from_numpy(raw).double()}, model, "cpu"))
            again = encoder(port.prepare_batch({"x": torch.from_numpy(raw[1:])}, model, "cpu"))
        assert got.shape == (3, model["embedding_dim"]) and torch.isfinite(got).all()
        torch.testing.assert_close(again, got[1:], rtol=1e-4, atol=1e-5)
        ours = embed_raw(open_encoder(EncoderSpec(name="e", kind="bundle", url=url), SPEC), raw, 125.0, SPEC)
        np.testing.assert_allclose(got.numpy(), ours, rtol=1e-4, atol=1e-5)
        with pytest.raises(RuntimeError, match="fine-tuned"):
            encoder.train()(torch.from_numpy(raw))
    finally:
        encoder.close()
    assert encoder._process.returncode == 0, "the end of its input ends the program"


def test_raw_windows_become_what_a_store_would_hold(url: str) -> None:
    encoder = open_encoder(EncoderSpec(name="e", kind="bundle", url=url), SPEC)
    raw = pulses(2, 10, SPEC.rate_hz)
    plain = encoder.encode(minmax(bandpass(raw, SPEC.rate_hz, SPEC.ppg_band_hz))[0])
    np.testing.assert_allclose(embed_raw(encoder, raw, SPEC.rate_hz, SPEC), plain, rtol=1e-5, atol=1e-6)
    long = embed_raw(encoder, pulses(2, 30, SPEC.rate_hz), SPEC.rate_hz, SPEC)
    assert long.shape == plain.shape and not np.allclose(long, plain, atol=1e-4)
    raw[0, 100:200] = np.nan
    assert np.isfinite(embed_raw(encoder, raw, SPEC.rate_hz, SPEC)).all()


def test_a_request_that_is_cut_off_is_an_error_and_no_rows_end_it(url: str) -> None:
    answers = io.BytesIO()
    serve(url, SPEC, 100.0, io.BytesIO(HEADER.pack(0, 1000)), answers)
    assert answers.getvalue() == b""
    with pytest.raises(InputError, match="request"):
        serve(url, SPEC, 100.0, io.BytesIO(HEADER.pack(1, 1000) + bytes(10)), answers)
