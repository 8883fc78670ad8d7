"""Frozen encoders by one interface: exported bundles, and the controls that stand beside them.

An encoder has a `name` and `encode(ppg_BL float32) -> (B, E) float32`; `identity` names what decides its numbers.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from xmae_dist.core.errors import InputError
from xmae_dist.core.fingerprint import digest_json
from xmae_dist.evaluate.features import pulse_features

FEATURES_VERSION = "pulse-features/v1"
BATCH = 256


class Encoder(Protocol):
    """What a probe needs to know of an encoder."""

    name: str

    def encode(self, ppg_BL: NDArray[np.float32]) -> NDArray[np.float32]: ...


@dataclass(frozen=True, kw_only=True)
class EncoderSpec:
    """How to open an encoder on any node. `kind`: an exported `bundle`, the same architecture at `random`
    initialisation, or pulse `features`. `identity` is filled by `resolve`."""

    name: str
    kind: Literal["bundle", "random", "features"]
    url: str = ""
    seed: int = 0
    identity: str = ""

    @property
    def role(self) -> str:
        return "encoder" if self.kind == "bundle" else "control"


def parse_bundles(values: tuple[str, ...]) -> tuple[EncoderSpec, ...]:
    """`URL` or `name=URL` for each; unnamed bundles are called xmae, xmae-2, ... Raises InputError on a repeated name."""
    specs = []
    for i, value in enumerate(values):
        name, separator, url = value.partition("=")
        if not separator or "/" in name:
            name, url = "xmae" if i == 0 else f"xmae-{i + 1}", value
        specs.append(EncoderSpec(name=name, kind="bundle", url=url))
    return tuple(specs)


def with_controls(bundles: tuple[EncoderSpec, ...], seed: int) -> tuple[EncoderSpec, ...]:
    """The bundles, the first one's architecture at random initialisation, and pulse features."""
    controls = (
        EncoderSpec(name="random init", kind="random", url=bundles[0].url, seed=seed),
        EncoderSpec(name="rate + morphology", kind="features"),
    )
    specs = bundles + controls
    names = [spec.name for spec in specs]
    if len(set(names)) != len(names):
        raise InputError("--bundle names", value=names, expected="all different", fix="write name=URL with other names")
    return specs


def resolve(spec: EncoderSpec) -> EncoderSpec:
    """The spec with its identity, which needs a look at the bundle."""
    if spec.kind == "features":
        return dataclasses.replace(spec, identity=FEATURES_VERSION)
    bundle = _load(spec.url)
    if spec.kind == "bundle":
        return dataclasses.replace(spec, identity=str(bundle.bundle_id))
    config = {"model": type(bundle.model).__name__, "config": dataclasses.asdict(bundle.model.config)}
    return dataclasses.replace(spec, identity=f"random-{digest_json(config)}-{spec.seed}")


def open_encoder(spec: EncoderSpec, rate_hz: float) -> Encoder:
    """The encoder, ready on this node. Raises what loading the bundle raises."""
    if spec.kind == "features":
        return FeatureEncoder(spec.name, rate_hz)
    model = _load(spec.url).model
    return ModelEncoder(spec.name, model if spec.kind == "bundle" else _reinitialised(model, spec.seed))


class FeatureEncoder:
    """Pulse rate and morphology (see `features`)."""

    def __init__(self, name: str, rate_hz: float) -> None:
        self.name, self._rate_hz = name, rate_hz

    def encode(self, ppg_BL: NDArray[np.float32]) -> NDArray[np.float32]:
        return pulse_features(ppg_BL, self._rate_hz)


class ModelEncoder:
    """A torch model's `embed`, in evaluation mode, without gradients, in batches."""

    def __init__(self, name: str, model: Any) -> None:
        self.name, self._model = name, model.eval()

    def encode(self, ppg_BL: NDArray[np.float32]) -> NDArray[np.float32]:
        import torch

        with torch.no_grad():
            parts = [
                self._model.embed(torch.from_numpy(np.ascontiguousarray(ppg_BL[i : i + BATCH]))).float().numpy()
                for i in range(0, len(ppg_BL), BATCH)
            ]
        return np.concatenate(parts)


def _load(url: str) -> Any:
    from xmae_dist.model import bundle

    return bundle.load(url)


def _reinitialised(model: Any, seed: int) -> Any:
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return type(model)(model.config)
