"""An exported encoder as a program of its own, for harnesses that are no part of ours: windows in, embeddings out.

The protocol, little-endian, on a pair of byte streams. Request: `<II` rows and samples, then rows × samples float32 of
raw PPG at the rate agreed on at the start. Answer: `<II` rows and features, then as many float32. A request of no rows,
or the end of the stream, ends it. `evaluate/encoders/ppg_bench_port.py` is the other end.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from xmae_dist.core.errors import InputError
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.evaluate.encoders.frozen import Encoder, open_encoder
from xmae_dist.evaluate.encoders.spec import EncoderSpec
from xmae_dist.signals.filter import bandpass
from xmae_dist.signals.normalize import minmax
from xmae_dist.signals.resample import resample

HEADER = struct.Struct("<II")


def serve(bundle_url: str, spec: WindowSpec, rate_hz: float, requests: BinaryIO, answers: BinaryIO) -> None:
    """Answers requests until they end. Raises InputError for a request that is cut off."""
    encoder = open_encoder(EncoderSpec(name="served", kind="bundle", url=bundle_url), spec)
    while header := requests.read(HEADER.size):
        rows, samples = HEADER.unpack(_whole(header, HEADER.size))
        if not rows:
            return
        body = _whole(requests.read(4 * rows * samples), 4 * rows * samples)
        embedding_BE = embed_raw(encoder, np.frombuffer(body, "<f4").reshape(rows, samples), rate_hz, spec)
        answers.write(HEADER.pack(*embedding_BE.shape) + embedding_BE.astype("<f4").tobytes())
        answers.flush()


def embed_raw(encoder: Encoder, raw_BT: NDArray[np.floating], rate_hz: float, spec: WindowSpec) -> NDArray[np.float32]:
    """(B, E) embeddings of raw windows of any one length: filled, resampled, band-passed, cut and scaled as a store's.

    A window longer than the model's is cut into as many whole ones as it holds (from its start) and their embeddings
    averaged; a shorter one is extended by reflection.
    """
    raw_BT = np.asarray(raw_BT, float)
    finite_BT = np.isfinite(raw_BT)
    middle_B = [float(np.median(x[ok])) if ok.any() else 0.0 for x, ok in zip(raw_BT, finite_BT, strict=True)]
    filled_BT = np.where(finite_BT, raw_BT, np.array(middle_B)[:, None])
    grid_BT = np.stack([resample(x_T, rate_hz, spec.rate_hz, n_out=_samples(x_T, rate_hz, spec)) for x_T in filled_BT])
    clean_BT = bandpass(grid_BT, spec.rate_hz, spec.ppg_band_hz)
    if clean_BT.shape[1] < spec.length:
        clean_BT = np.pad(clean_BT, ((0, 0), (0, spec.length - clean_BT.shape[1])), mode="reflect")
    n = clean_BT.shape[1] // spec.length
    windows = clean_BT[:, : n * spec.length].reshape(len(raw_BT) * n, spec.length)
    embedding = encoder.encode(minmax(windows)[0])
    return np.asarray(embedding.reshape(len(raw_BT), n, -1).mean(axis=1), np.float32)


def _samples(x_T: NDArray[np.floating], rate_hz: float, spec: WindowSpec) -> int:
    return max(2, round(len(x_T) / rate_hz * spec.rate_hz))


def _whole(data: bytes, size: int) -> bytes:
    if len(data) < size:
        raise InputError(
            "request", value=f"{len(data)} of {size} bytes", expected="a whole one: see evaluate/encoders/serve.py"
        )
    return data
