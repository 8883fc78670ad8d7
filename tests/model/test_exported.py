"""The exported encoder gives the model's embeddings at any batch size, from a file, without this package."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from xmae_dist.cli.main import main
from xmae_dist.core.errors import IntegrityError
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.model import bundle, presets
from xmae_dist.model.exported import export_encoder
from xmae_dist.model.interface import PretrainModel

ABOUT = {"bundle_id": "0123", "window_spec": {"rate_hz": 100.0}}


def small(name: str, **changes: Any) -> PretrainModel:
    torch.manual_seed(0)
    return presets.build(name, width=32, heads=2, **changes).eval()


def embeddings_of_program(content: bytes, windows: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return np.asarray(torch.export.load(io.BytesIO(content)).module()(windows))


def embeddings_of_onnx(content: bytes, windows: torch.Tensor) -> np.ndarray:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"signal": windows.numpy()})[0])


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
@pytest.mark.parametrize("name", ["paper", "published"])
def test_a_file_embeds_as_the_model_does(name: str, suffix: str) -> None:
    if suffix == ".onnx":
        pytest.importorskip("onnxruntime")
    model = small(name)
    content = export_encoder(model, suffix, ABOUT).content
    windows = torch.randn(7, 1000)
    if name == "paper":
        windows[3, 200:400] = float("nan")  # a dropout of the sensor
        windows[4] = float("nan")
    found_BE = (embeddings_of_onnx if suffix == ".onnx" else embeddings_of_program)(content, windows)
    with torch.no_grad():
        np.testing.assert_allclose(found_BE, model.embed(windows), atol=1e-5)


def test_what_the_file_is_of_stands_in_it() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(export_encoder(small("tiny"), ".onnx", ABOUT).content)
    assert json.loads(session.get_modelmeta().custom_metadata_map["xmae"]) == ABOUT
    extra = {"xmae": ""}
    torch.export.load(io.BytesIO(export_encoder(small("tiny"), ".pt2", ABOUT).content), extra_files=extra)
    assert json.loads(extra["xmae"]) == ABOUT


def test_several_channels_and_the_other_signal() -> None:
    exported = export_encoder(small("tiny", ppg_channels=3), ".pt2", ABOUT)
    assert exported.shape == (3, 1000)
    assert embeddings_of_program(exported.content, torch.randn(4, 3, 1000)).shape == (4, exported.embedding_width)
    assert export_encoder(small("ecg_mae_80", ecg_channels=2), ".pt2", ABOUT).shape == (2, 1000)


def test_a_file_that_differs_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small("tiny")
    load = torch.export.load

    def damaged(file: Any) -> Any:
        program = load(file)
        next(iter(program.state_dict.values())).data.add_(1.0)
        return program

    monkeypatch.setattr(torch.export, "load", damaged)
    with pytest.raises(IntegrityError, match="a difference of"):
        export_encoder(model, ".pt2", ABOUT)


def test_the_command_writes_what_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = small("tiny")
    source = str(tmp_path / "bundle")
    name = bundle.save(source, model, window_spec=WindowSpec().to_dict(), lineage={})
    out = tmp_path / "encoder.pt2"
    assert main(["export-encoder", source, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert name in said and "(B, 1000): ppg at 100 Hz" in said
    windows = torch.randn(3, 1000)
    with torch.no_grad():
        np.testing.assert_allclose(embeddings_of_program(out.read_bytes(), windows), model.embed(windows), atol=1e-5)
    assert main(["export-encoder", source, "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["window"] == [1000]


def test_bad_questions_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = str(tmp_path / "bundle")
    bundle.save(source, small("tiny"), window_spec={}, lineage={})
    assert main(["export-encoder", source, "--out", str(tmp_path / "encoder.tflite")]) == 2
    assert ".onnx (ONNX)" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert main(["export-encoder", source, "--out", str(tmp_path / "encoder.onnx")]) == 2
    assert "pip install 'xmae_dist[onnx]'" in capsys.readouterr().err
