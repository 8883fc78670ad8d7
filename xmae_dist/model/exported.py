"""The encoder alone as a `torch.export` program: runs where this package is not installed.

Shapes: B batch (free in the program), C channels, L samples, E embedding width.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from xmae_dist.core.errors import IntegrityError
from xmae_dist.model.interface import PretrainModel
from xmae_dist.storage import uri

TOLERANCE = 1e-4


class Embedder(nn.Module):
    """A model's `embed` as a module of its own, so that nothing else is exported."""

    def __init__(self, model: PretrainModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, signal_BL: Tensor) -> Tensor:
        return self.model.embed(signal_BL)


def export_encoder(model: PretrainModel, channels: int = 1) -> ExportedProgram:
    """The program of ``embed`` for any batch size, checked against the model.

    Takes (B, L), or (B, C, L) where ``channels`` is more than one. Raises IntegrityError if the program's embeddings
    of random windows, at a batch size other than the traced one, differ from the model's by more than 1e-4.
    """
    embedder = Embedder(model.eval())
    shape = (model.config.length,) if channels == 1 else (channels, model.config.length)
    example = torch.randn(2, *shape)
    program = torch.export.export(embedder, (example,), dynamic_shapes=({0: Dim("batch", min=1, max=65536)},))
    other = torch.randn(5, *shape)
    with torch.no_grad():
        worst = float((program.module()(other) - embedder(other)).abs().max())
    if not worst <= TOLERANCE:
        raise IntegrityError("exported encoder", value=f"a difference of {worst:g}", expected=f"at most {TOLERANCE:g}")
    return program


def save_encoder(url: str, model: PretrainModel, channels: int = 1) -> str:
    """Write ``encoder.pt2`` into the folder ``url`` and return its URL; see `export_encoder`."""
    program = export_encoder(model, channels)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "encoder.pt2"
        torch.export.save(program, path)
        uri.write_bytes(uri.join(url, "encoder.pt2"), path.read_bytes())
    return uri.join(url, "encoder.pt2")
