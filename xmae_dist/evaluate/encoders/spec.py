"""Which encoders an evaluation compares: a description small enough to send, and free of torch."""

from dataclasses import dataclass
from typing import Literal

from xmae_dist.core.errors import InputError


@dataclass(frozen=True, kw_only=True)
class EncoderSpec:
    """How to open an encoder on any node. `kind`: an exported `bundle`, the same architecture at `random`
    initialisation, or pulse `features`. `identity` is filled by `resolve`. `degrade` ("rate=25") spoils every window
    before it is encoded (see `degradation`). `readout` replaces the one that the bundle states ("" keeps it).
    `role`: an `encoder` is compared with all others, a `control` stands beside, a `checkpoint` is a moment of a run; by
    default bundles are encoders and the rest controls."""

    name: str
    kind: Literal["bundle", "random", "features"]
    url: str = ""
    seed: int = 0
    identity: str = ""
    degrade: str = ""
    readout: str = ""
    role: str = ""

    def __post_init__(self) -> None:
        if not self.role:
            object.__setattr__(self, "role", "encoder" if self.kind == "bundle" else "control")


def parse_bundles(
    values: tuple[str, ...], *, controls: tuple[str, ...] = (), readout: str = ""
) -> tuple[EncoderSpec, ...]:
    """`URL` or `name=URL` for each; unnamed bundles are called xmae, xmae-2, ... Controls must be named. All of them
    are read by `readout`, where one is given."""
    specs = []
    for i, value in enumerate(values):
        name, separator, url = value.partition("=")
        if not separator or "/" in name:
            name, url = "xmae" if i == 0 else f"xmae-{i + 1}", value
        specs.append(EncoderSpec(name=name, kind="bundle", url=url, readout=readout))
    for value in controls:
        name, separator, url = value.partition("=")
        if not separator or "/" in name:
            raise InputError("--control", value=value, expected="name=URL", fix="name it, as in published=s3://...")
        specs.append(EncoderSpec(name=name, kind="bundle", url=url, readout=readout, role="control"))
    return tuple(specs)


def with_controls(bundles: tuple[EncoderSpec, ...], seed: int) -> tuple[EncoderSpec, ...]:
    """The bundles, the first one's architecture at random initialisation, and pulse features."""
    controls = (
        EncoderSpec(name="random init", kind="random", url=bundles[0].url, seed=seed, readout=bundles[0].readout),
        EncoderSpec(name="rate + morphology", kind="features"),
    )
    specs = bundles + controls
    names = [spec.name for spec in specs]
    if len(set(names)) != len(names):
        raise InputError("--bundle names", value=names, expected="all different", fix="write name=URL with other names")
    return specs
