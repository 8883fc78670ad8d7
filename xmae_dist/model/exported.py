"""The encoder alone as one file that runs where this package is not installed: a `torch.export` program, or ONNX.

Shapes: B batch (free in the file), C channels, L samples, E embedding width.
"""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from xmae_dist.core.errors import ConfigError, IntegrityError
from xmae_dist.model.interface import PretrainModel

TOLERANCE = 1e-4
FORMATS = {".pt2": "a torch.export program", ".onnx": "ONNX"}
_ANY_BATCH = ({0: Dim("batch", min=1, max=65536)},)


class Embedder(nn.Module):
    """A model's `embed` as a module of its own, so that nothing else is exported."""

    def __init__(self, model: PretrainModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, signal_BL: Tensor) -> Tensor:
        return self.model.embed(signal_BL)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """An encoder as one file's bytes, and how far its embeddings are from the model's."""

    content: bytes
    shape: tuple[int, ...]
    """Of one window: (L,), or (C, L)."""
    embedding_width: int
    worst: float
    """Largest absolute difference of its embeddings from the model's, over random windows."""


def export_encoder(model: PretrainModel, suffix: str, about: Mapping[str, Any]) -> Exported:
    """`embed` for any batch size, with `about` (plain JSON values) kept in the file under the name ``xmae``.

    Takes (B, L), or (B, C, L) where the embedded signal has several channels, float32. `suffix` is one of `FORMATS`.
    Raises IntegrityError where the file's embeddings of random windows, at a batch size other than the traced one,
    differ from the model's by more than 1e-4, and ConfigError where ONNX is asked for and not installed.
    """
    embedder = Embedder(model).eval()
    channels = getattr(model.config, f"{model.embeds}_channels", 1)
    shape = (model.config.length,) if channels == 1 else (channels, model.config.length)
    windows = torch.randn(5, *shape, generator=torch.Generator().manual_seed(0))
    if suffix == ".onnx":
        content, found_BE = _onnx(embedder, windows, about)
    else:
        content, found_BE = _program(embedder, windows, about)
    with torch.no_grad():
        worst = float((found_BE - embedder(windows)).abs().max())
    if not worst <= TOLERANCE:
        raise IntegrityError("exported encoder", value=f"a difference of {worst:g}", expected=f"at most {TOLERANCE:g}")
    return Exported(content=content, shape=shape, embedding_width=found_BE.shape[1], worst=worst)


def _program(embedder: Embedder, windows: Tensor, about: Mapping[str, Any]) -> tuple[bytes, Tensor]:
    with _quiet():
        # Not strict, which newer versions of torch take for granted: a strict 2.7 cannot trace a model with a readout.
        program = torch.export.export(embedder, (windows[:2],), dynamic_shapes=_ANY_BATCH, strict=False)
        file = io.BytesIO()
        torch.export.save(program, file, extra_files={"xmae": json.dumps(dict(about))})
        file.seek(0)
        read: ExportedProgram = torch.export.load(file)
    with torch.no_grad():
        return file.getvalue(), read.module()(windows)


def _onnx(embedder: Embedder, windows: Tensor, about: Mapping[str, Any]) -> tuple[bytes, Tensor]:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  (torch's exporter needs it)
    except ImportError as error:
        raise ConfigError(
            "ONNX", value=f"no module {error.name}", expected="it to be installed", fix="pip install 'xmae_dist[onnx]'"
        ) from error
    with _quiet():
        program = torch.onnx.export(
            embedder,
            (windows[:2],),
            input_names=["signal"],
            output_names=["embedding"],
            dynamic_shapes=_ANY_BATCH,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    entry = proto.metadata_props.add()
    entry.key, entry.value = "xmae", json.dumps(dict(about))
    content = proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return content, torch.from_numpy(session.run(None, {"signal": windows.numpy()})[0])


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' remarks on libraries that are not needed here, and on each other's deprecations."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
