"""What a checkpoint says about the run beside its tensors: how far it is, and of what it is a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from xmae_dist.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Fingerprints of everything that a resumed run must share with the run it continues."""

    snapshot: str
    """The corpus snapshot."""
    windows: str
    """The window specification and split."""
    plan: str
    """The order of windows: seed, mixture, global batch, snapshot."""
    model: str
    """Sizes and form of the model."""

    def to_dict(self) -> dict[str, str]:
        return asdict(self)

    def check(self, found: Mapping[str, str], accepted: tuple[str, ...], where: str) -> None:
        """Raises ConfigError where the checkpoint at `where` is of another run and the user did not accept it."""
        differing = [name for name, own in self.to_dict().items() if found.get(name) != own]
        refused = [name for name in differing if name not in accepted or name == "model"]
        if not refused:
            return
        name = refused[0]
        advice = (
            "use a new --run"
            if name == "model"
            else (f"use a new --run, or go on from it all the same with --checkpoint.accept {' '.join(differing)}")
        )
        raise ConfigError(
            f"checkpoint {where}, {name}",
            value=f"fingerprint {found.get(name)}",
            expected=f"{self.to_dict()[name]}, the {name} of this run",
            fix=advice,
        )


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """How far a run is. The whole loader and all randomness follow from `step`."""

    step: int = 0
    """Steps done, which is the number of the next step."""
    windows_seen: int = 0
    optimizer_steps: int = 0
    """Steps applied; smaller than `step` where non-finite gradients were skipped."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
