"""The examples of docs/encoder-elsewhere.md run, and give the package's own windows and embeddings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from xmae_dist.cli.main import main
from xmae_dist.data.clocks.signal import Signal
from xmae_dist.data.windows.cutting import cut
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.model import bundle, presets
from xmae_dist.model.interface import PretrainModel

PAGE = Path(__file__).resolve().parents[2] / "docs/encoder-elsewhere.md"
SPEC = WindowSpec(require=("ppg",))
RATE_HZ = 64


def example(heading: str) -> str:
    """The Python of the section with this heading."""
    _, _, section = PAGE.read_text().partition(f"\n## {heading}\n")
    (code, *_) = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    return str(code)


def pulse() -> np.ndarray:
    """A minute of beats whose rate wanders, on a slow wave: units and mean of a device."""
    time_T = np.arange(60 * RATE_HZ) / RATE_HZ
    phase_T = 2 * np.pi * np.cumsum(1.1 + 0.1 * np.sin(2 * np.pi * 0.1 * time_T)) / RATE_HZ
    return np.asarray(900 + 40 * np.sin(0.3 * time_T) + 30 * np.exp(2 * np.cos(phase_T)))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[PretrainModel, str]:
    torch.manual_seed(0)
    made = presets.build("tiny", width=32, heads=2).eval()
    url = f"file://{tmp_path_factory.mktemp('bundle')}/b"
    bundle.save(url, made, window_spec=SPEC.to_dict(), lineage={})
    return made, url


def own_windows() -> np.ndarray:
    """The package's windows of the same recording, which begin where those of the page do."""
    signal = Signal(values_T=pulse(), rate_hz=float(RATE_HZ), start_s=0.0)
    batch, dropped = cut(None, signal, SPEC)
    assert not dropped
    return batch.ppg_BL


def run(heading: str) -> dict[str, Any]:
    names: dict[str, Any] = {"ppg_T": pulse(), "rate_hz": RATE_HZ}
    exec(example("What goes in, and what comes out?"), names)
    exec(example(heading), names)
    return names


@pytest.mark.parametrize(
    ("heading", "options", "needs"),
    [
        ("ONNX Runtime", ["--out", "encoder.onnx"], "onnxruntime"),
        ("PyTorch", ["--out", "encoder.pt2"], "torch"),
        ("transformers", ["--out", "encoder", "--format", "transformers"], "transformers"),
    ],
)
def test_the_example_embeds_as_the_package_does(
    heading: str,
    options: list[str],
    needs: str,
    model: tuple[PretrainModel, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip(needs)
    monkeypatch.chdir(tmp_path)
    made, url = model
    assert main(["export-encoder", url, *options]) == 0
    names = run(heading)
    own_BL = own_windows()
    assert names["windows_BL"].shape == own_BL.shape
    np.testing.assert_allclose(names["windows_BL"], own_BL, atol=0.01)
    with torch.no_grad():
        own_BE = made.embed(torch.from_numpy(names["windows_BL"])).numpy()
    np.testing.assert_allclose(names["embedding_BE"], own_BE, atol=1e-4)
