"""Recordings -> rows of embeddings: windows are cut from the raw signal on the fly, nothing else is stored.

Legend: B windows, E embedding width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from xmae_dist.cluster import gpus
from xmae_dist.core.errors import ConfigError
from xmae_dist.data.windows.spans import spans_of_recording
from xmae_dist.embed.part import SCHEMA
from xmae_dist.embed.request import Encoder
from xmae_dist.model.bundle import load
from xmae_dist.model.interface import PretrainModel
from xmae_dist.storage import index
from xmae_dist.storage.snapshot import Recording

BATCH_WINDOWS = 256


@dataclass(frozen=True, kw_only=True)
class LoadedEncoder:
    """A bundle's model, ready to encode windows of the source signal."""

    encoder: Encoder
    model: PretrainModel
    device: str
    width: int
    """Numbers per embedding, E."""

    @classmethod
    def open(cls, encoder: Encoder) -> LoadedEncoder:
        """Raises ConfigError for a model that embeds another signal than the specification's source."""
        model = load(encoder.url).model
        if model.embeds != encoder.spec.source:
            raise ConfigError(
                f"bundle {encoder.url}",
                value=f"embeds {model.embeds!r}",
                expected=f"{encoder.spec.source!r}",
                fix="export a model whose kept encoder reads that signal",
            )
        device = "cuda" if gpus.given() and torch.cuda.is_available() else "cpu"
        width = model.embedding_width
        return cls(encoder=encoder, model=model.to(device).eval(), device=device, width=width)

    def __call__(self, ppg_BL: NDArray[np.float32]) -> NDArray[np.float32]:
        """(B, E) float32."""
        parts = [np.zeros((0, self.width), np.float32)]
        with torch.no_grad():
            for first in range(0, len(ppg_BL), BATCH_WINDOWS):
                ppg = torch.from_numpy(np.ascontiguousarray(ppg_BL[first : first + BATCH_WINDOWS], np.float32))
                parts.append(self.model.embed(ppg.to(self.device)).float().cpu().numpy())
        return np.concatenate(parts)


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """The rows of a batch of recordings (SCHEMA), in its order; how many each gave, and windows dropped by reason."""

    rows: pa.Table
    windows: tuple[int, ...]
    dropped: dict[str, int]


def encode_batch(recordings: pa.Table, corpus_url: str, encoder: LoadedEncoder) -> Encoded:
    """All windows of these recordings, given as rows of the index, one a recording: of the source channel."""
    found, counts, dropped = list[_Cut](), [], Counter[str]()
    for row in index.from_arrow(recordings.select(index.columns())):
        recording = Recording(
            subject_id=row.subject_id,
            recording_id=row.recording_id,
            cohort=row.cohort,
            labels=row.labels,
            label_text=row.label_text,
            channels={row.channel: row},
            corpus_url=corpus_url,
        )
        before = len(found)
        for windows, reasons in spans_of_recording(corpus_url, recording, encoder.encoder.spec):
            dropped += reasons
            if len(windows):
                found.append(_Cut(recording, windows.start_s_B, windows.quality_ppg_B, encoder(windows.ppg_BL)))
        counts.append(sum(len(cut.start_s_B) for cut in found[before:]))
    return Encoded(rows=_rows(found, encoder), windows=tuple(counts), dropped=dict(dropped))


class _Cut(NamedTuple):
    """The windows of a span, encoded."""

    recording: Recording
    start_s_B: NDArray[np.float64]
    quality_B: NDArray[np.float64]
    embedding_BE: NDArray[np.float32]


def _rows(cuts: Sequence[_Cut], encoder: LoadedEncoder) -> pa.Table:
    """One table of all: a table for each of many short recordings would take as long as half their encoding."""
    if not cuts:
        return SCHEMA.empty_table()

    def each(value_of: Callable[[Recording], str]) -> list[str]:
        return [value for cut in cuts for value in [value_of(cut.recording)] * len(cut.start_s_B)]

    start_s_B = np.concatenate([cut.start_s_B for cut in cuts])
    embedding_BE = np.concatenate([cut.embedding_BE for cut in cuts])
    stops_B = np.arange(len(start_s_B) + 1, dtype=np.int32) * embedding_BE.shape[1]
    columns = {
        "subject_id": each(lambda recording: recording.subject_id),
        "recording_id": each(lambda recording: recording.recording_id),
        "cohort": each(lambda recording: recording.cohort),
        "start_s": start_s_B,
        "start_time_ns": pa.concat_arrays([_wall_times(cut.recording, cut.start_s_B) for cut in cuts]),
        "quality": np.concatenate([cut.quality_B for cut in cuts]).astype(np.float32),
        "embedding": pa.ListArray.from_arrays(stops_B, pa.array(embedding_BE.ravel())),
        "model_id": [encoder.encoder.model_id] * len(start_s_B),
        "spec_id": [encoder.encoder.spec_id] * len(start_s_B),
    }
    return pa.Table.from_pydict(columns, schema=SCHEMA)


def _wall_times(recording: Recording, start_s_B: NDArray[np.float64]) -> pa.Array:
    """Nanoseconds since 1970 UTC of each window's start; null where the recording's start is not known."""
    known = [row.start_time_ns for row in recording.channels.values() if row.start_time_ns is not None]
    if not known:
        return pa.nulls(len(start_s_B), pa.int64())
    return pa.array(min(known) + np.round(start_s_B * 1e9).astype(np.int64))
