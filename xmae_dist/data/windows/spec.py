"""What a window is: its length, grid, channels, cleaning and the limits of what is kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from xmae_dist.core.errors import ConfigError
from xmae_dist.core.fingerprint import digest_json
from xmae_dist.core.ranges import check_numbers

# Part of every fingerprint: a change of algorithm that changes the windows must change their name.
ALGORITHM = "xmae-windows/v1"


@dataclass(frozen=True, kw_only=True)
class WindowSpec:
    """How windows are cut. Two stores with equal specifications over one snapshot hold the same bytes."""

    window_s: float = 10.0
    """Length of a window."""
    stride_s: float = 10.0
    """Time from the start of a window to the start of the next; less than the length of a window means that they
    overlap."""
    rate_hz: float = 100.0
    """Sampling rate of all windows; recordings are resampled to it."""
    target: str = "ecg"
    """Channel that is masked and reconstructed."""
    source: str = "ppg"
    """Channel that is read whole, and the only one that the exported encoder needs."""
    require: tuple[str, ...] = ("ecg", "ppg")
    """Channels that a recording must have. With `ppg` alone, windows hold the source alone."""
    scaling: str = "minmax"
    """Scaling of each window: minmax, to [-1, 1]."""
    ecg_band_hz: tuple[float, float] = (0.5, 40.0)
    """Cut-off frequencies, in Hz, of the zero-phase band-pass filter for the target."""
    ppg_band_hz: tuple[float, float] = (0.5, 8.0)
    """Cut-off frequencies, in Hz, of the zero-phase band-pass filter for the source."""
    min_quality: float = 0.5
    """Smallest quality of a window, for each signal: the mean correlation of its beats with the median beat of their
    minute."""
    max_gap_fraction: float = 0.05
    """Largest share of missing samples; they are interpolated."""
    max_flat_fraction: float = 0.1
    """Largest share of a window that may be flat for 0.4 s or longer."""
    max_saturated_fraction: float = 0.05
    """Largest share of samples at the smallest or largest value of the channel."""
    min_relative_amplitude: float = 0.05
    """Smallest spread of a window, relative to the median window of its recording. Less means that a lead is off."""
    min_beats: int = 2
    """Smallest number of beats in each signal."""
    arrival_prior_s: float | None = None
    """Assumed delay from R peak to pulse foot, in seconds. If given, a source whose clock differs from that of the
    target is aligned by heart beats, and the constant delay, which cannot be measured, is set to this value. None:
    windows are cut only from channels that share a clock."""

    def __post_init__(self) -> None:
        check_numbers(self, lambda path: f"windows.{path[-1]}")
        for name in ("window_s", "stride_s"):
            samples = getattr(self, name) * self.rate_hz
            if abs(samples - round(samples)) > 1e-6:
                raise ConfigError(
                    f"windows.{name}",
                    value=f"{getattr(self, name)} s at {self.rate_hz} Hz = {samples} samples",
                    expected="a whole number of samples",
                    fix=f"choose a {name} that is a multiple of {1 / self.rate_hz} s",
                )
        if self.source not in self.require or not set(self.require) <= {self.source, self.target}:
            raise ConfigError(
                "windows.require",
                value=self.require,
                expected=f"({self.source!r},) or ({self.target!r}, {self.source!r})",
            )
        if self.arrival_prior_s is not None and not (self.paired and 0 <= self.arrival_prior_s < 2):
            raise ConfigError(
                "windows.arrival_prior_s",
                value=f"{self.arrival_prior_s} with {', '.join(self.require)} required",
                expected="0 to 2 seconds, and both channels required",
                fix="leave it out, or 0.25",
            )
        if self.scaling != "minmax":
            raise ConfigError("windows.scaling", value=repr(self.scaling), expected="'minmax'")

    @property
    def length(self) -> int:
        """Samples in a window (L)."""
        return round(self.window_s * self.rate_hz)

    @property
    def paired(self) -> bool:
        """Whether windows hold the target beside the source."""
        return self.target in self.require

    def source_only(self) -> WindowSpec:
        """The same windows of the source alone, for recordings of a device without the target."""
        return dataclasses.replace(self, require=(self.source,), arrival_prior_s=None)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, fit for JSON; `from_dict` takes them back. Without alignment its field is absent, as it was
        before there was any: fingerprints stay.
        """
        values = {
            field.name: list(value) if isinstance(value := getattr(self, field.name), tuple) else value
            for field in dataclasses.fields(self)
        }
        if self.arrival_prior_s is None:
            del values["arrival_prior_s"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> WindowSpec:
        """Raises ConfigError for a field this version does not know."""
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigError(
                "window specification",
                value=", ".join(unknown),
                expected="fields " + ", ".join(sorted(known)),
                fix="read it with the version of xmae_dist that wrote it",
            )
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**plain)

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with any field and with the algorithm."""
        return digest_json({"algorithm": ALGORITHM, **self.to_dict()})
