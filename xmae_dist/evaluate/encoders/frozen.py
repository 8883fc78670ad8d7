"""Frozen encoders by one interface: exported bundles, and the controls that stand beside them.

An encoder has a `name`, the signal it `reads` (ppg, or ecg for a unimodal control) and
`encode(x_BL float32) -> (B, E) float32`.
"""

import dataclasses
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from xmae_dist.cluster import gpus
from xmae_dist.core.errors import ConfigError
from xmae_dist.core.fingerprint import digest_json
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.evaluate.encoders.degradation import Degradation, parse_degradation
from xmae_dist.evaluate.encoders.features import pulse_features
from xmae_dist.evaluate.encoders.spec import EncoderSpec
from xmae_dist.model import kinds
from xmae_dist.model.bundle import Bundle, load
from xmae_dist.model.interface import PretrainModel
from xmae_dist.model.readout import named

FEATURES_VERSION = "pulse-features/v1"
BATCH = 256
MUST_MATCH = ("window_s", "rate_hz", "source", "scaling", "ppg_band_hz")
"""Fields of a window specification that decide what the source looks like (docs/window-fields.md)."""
MUST_MATCH_OF_ECG = ("target", "ecg_band_hz")
"""And those of an encoder that reads the target."""


class Encoder(Protocol):
    """What a probe needs to know of an encoder."""

    name: str
    reads: str

    def encode(self, x_BL: NDArray[np.float32]) -> NDArray[np.float32]: ...


def resolve(spec: EncoderSpec, windows: WindowSpec) -> EncoderSpec:
    """The spec with its identity. Raises ConfigError when the bundle was trained on windows cut otherwise, or cannot be
    read by the readout asked for."""
    if spec.kind == "features":
        return dataclasses.replace(spec, identity=FEATURES_VERSION)
    bundle = load(spec.url)
    check_windows(spec, bundle, windows)
    own = bundle.model.readout
    asked = bundle.model.read_by(named(spec.readout)).readout if spec.readout else own
    identity, usual = bundle.bundle_id, own
    if spec.kind == "random":
        identity, usual = f"random-{digest_json(kinds.to_dict(bundle.config))}-{spec.seed}", type(bundle.model).readout
    # What is fitted on another readout of the same weights is another result.
    return dataclasses.replace(spec, identity=identity if asked is usual else f"{identity}-{asked.name}")


def check_windows(spec: EncoderSpec, bundle: Bundle, windows: WindowSpec) -> None:
    """Raise ConfigError unless what the encoder reads is what it was trained on."""
    trained = WindowSpec.from_dict(bundle.window_spec) if bundle.window_spec else windows
    for name in MUST_MATCH + (MUST_MATCH_OF_ECG if bundle.model.embeds == "ecg" else ()):
        if getattr(trained, name) != getattr(windows, name):
            raise ConfigError(
                f"{name} of the window store",
                value=getattr(windows, name),
                expected=f"{getattr(trained, name)}, as bundle {spec.url} was trained",
                fix="materialise windows with the bundle's specification",
            )


def open_encoder(spec: EncoderSpec, windows: WindowSpec) -> Encoder:
    """The encoder, ready on this node. Raises what loading the bundle raises."""
    encoder = _open(spec, windows.rate_hz)
    return DegradedEncoder(encoder, parse_degradation(spec.degrade), windows) if spec.degrade else encoder


def _open(spec: EncoderSpec, rate_hz: float) -> Encoder:
    if spec.kind == "features":
        return FeatureEncoder(spec.name, rate_hz)
    return ModelEncoder(spec.name, open_model(spec))


def open_model(spec: EncoderSpec) -> PretrainModel:
    """The model of a bundle, or one of its architecture at random initialisation, with the readout asked for."""
    bundle = load(spec.url)
    model = bundle.model if spec.kind == "bundle" else _reinitialised(bundle, spec.seed)
    return model.read_by(named(spec.readout) if spec.readout else bundle.model.readout)


class FeatureEncoder:
    """Pulse rate and morphology (see `features`)."""

    reads = "ppg"

    def __init__(self, name: str, rate_hz: float) -> None:
        self.name, self._rate_hz = name, rate_hz

    def encode(self, x_BL: NDArray[np.float32]) -> NDArray[np.float32]:
        return pulse_features(x_BL, self._rate_hz)


class DegradedEncoder:
    """Another encoder, given windows as a worse device would have delivered them."""

    def __init__(self, encoder: Encoder, degradation: Degradation, windows: WindowSpec) -> None:
        self.name, self.reads = encoder.name, encoder.reads
        self._encoder, self._degradation, self._windows = encoder, degradation, windows

    def encode(self, x_BL: NDArray[np.float32]) -> NDArray[np.float32]:
        band_hz = self._windows.ecg_band_hz if self.reads == "ecg" else self._windows.ppg_band_hz
        return self._encoder.encode(self._degradation.apply(x_BL, self._windows.rate_hz, band_hz))


class ModelEncoder:
    """A torch model's `embed`, in evaluation mode, without gradients, in batches."""

    def __init__(self, name: str, model: PretrainModel) -> None:
        self.name, self.reads, self._device = name, model.embeds, compute_device()
        self._model = model.to(self._device).eval()

    def encode(self, x_BL: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            parts = [
                self._model.embed(torch.from_numpy(np.ascontiguousarray(x_BL[i : i + BATCH])).to(self._device)).float()
                for i in range(0, len(x_BL), BATCH)
            ]
        return torch.cat(parts).cpu().numpy()


def compute_device() -> torch.device:
    """The GPU that this process was given, if it was given one."""
    return torch.device("cuda" if gpus.given() and torch.cuda.is_available() else "cpu")


def _reinitialised(bundle: Bundle, seed: int) -> PretrainModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kinds.from_config(bundle.config)
