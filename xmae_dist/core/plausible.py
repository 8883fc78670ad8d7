"""Whether the numbers of a channel can be what its name and unit say, and which unit would make them so.

Bounds are wide: they catch a factor of a thousand or a wrong scale, not an unusual person.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class _Kind:
    """`low` … `high`: of the spread of 10 s (peak to peak) or of the values themselves, in `unit`; `typical`: where
    most people lie. `units`: another unit, and what its numbers are to be multiplied by.
    """

    what: str
    unit: str
    low: float
    high: float
    typical: tuple[float, float]
    of_spread: bool
    units: tuple[tuple[str, float], ...]


_VOLTS = (("uV", 1e-3), ("nV", 1e-6), ("V", 1e3))
_ECG = _Kind("ECG", "mV", 0.05, 20.0, (0.3, 5.0), True, _VOLTS)
_PRESSURE = _Kind("pressure", "mmHg", 20.0, 300.0, (50.0, 180.0), False, (("kPa", 7.5006), ("Pa", 0.0075006)))
_RATE = _Kind("rate", "bpm", 3.0, 300.0, (8.0, 200.0), False, (("Hz", 60.0),))
_SATURATION = _Kind("oxygen saturation", "%", 30.0, 101.0, (80.0, 100.0), False, (("a fraction of 1", 100.0),))
_BODY_DEGC = _Kind("temperature", "degC", 10.0, 50.0, (25.0, 42.0), False, ())
_NAMES: dict[str, _Kind] = {
    "abp": _PRESSURE,
    "heart_rate": _RATE,
    "hr": _RATE,
    "pulse": _RATE,
    "pr": _RATE,
    "hr_ecg": _RATE,
    "resp_rate": _RATE,
    "spo2": _SATURATION,
    "temp": _BODY_DEGC,
    "temperature": _BODY_DEGC,
    "skin_temperature": _BODY_DEGC,
}


def doubt(channel: str, unit: str, *, level: float, spread: float) -> str | None:
    """What is implausible of a channel with this median `level` and this usual peak to peak `spread` within 10 s, in
    `unit`, and the unit that would fit; None where nothing is.
    """
    kind = _ECG if channel == "ecg" or channel.startswith("ecg_") else _NAMES.get(channel)
    if kind is None or kind.unit != unit:
        return None
    value = spread if kind.of_spread else level
    if kind.low <= value <= kind.high:
        return None
    measure = "peak to peak" if kind.of_spread else "in the middle"
    fits = [name for name, factor in kind.units if kind.typical[0] <= value * factor <= kind.typical[1]]
    likely = f"; likely in {fits[0]}" if fits else ""
    return (
        f"channel {channel}: {value:.4g} {unit} {measure} is implausible for {kind.what} "
        f"({kind.low:g} to {kind.high:g} {unit}){likely}: correct the unit or scale in its source"
    )


def likely_pulse_waves(channels: Iterable[str]) -> list[str]:
    """Those of a corpus's channels that may be a pulse wave under another name."""
    words = r"pleth|ppg|bvp|puls|^ir(_|$)|infrared|^green(_|$)|^red(_|$)"
    return sorted(name for name in channels if re.search(words, name) and not name.endswith(("_number", "_rate")))
