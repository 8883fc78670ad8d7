"""Unit names as devices write them, and the factor to the one name we keep."""

from __future__ import annotations

from xmae_dist.core.errors import InputError

_CANONICAL: dict[str, tuple[str, float]] = {
    "mv": ("mV", 1.0),
    "uv": ("mV", 1e-3),
    "µv": ("mV", 1e-3),
    "μv": ("mV", 1e-3),
    "nv": ("mV", 1e-6),
    "v": ("mV", 1e3),
    "mvolt": ("mV", 1.0),
    "mvolts": ("mV", 1.0),
    "millivolt": ("mV", 1.0),
    "millivolts": ("mV", 1.0),
    "uvolt": ("mV", 1e-3),
    "uvolts": ("mV", 1e-3),
    "microvolt": ("mV", 1e-3),
    "microvolts": ("mV", 1e-3),
    "volt": ("mV", 1e3),
    "volts": ("mV", 1e3),
    "mmhg": ("mmHg", 1.0),
    "kpa": ("mmHg", 7.500617),
    "nu": ("nu", 1.0),
    "": ("nu", 1.0),
    "adu": ("nu", 1.0),
    "counts": ("nu", 1.0),
    "a.u.": ("nu", 1.0),
    "au": ("nu", 1.0),
    "na": ("nA", 1.0),
    "ua": ("nA", 1e3),
    "µa": ("nA", 1e3),
    "%": ("%", 1.0),
    "pm": ("pm", 1.0),
    "bpm": ("bpm", 1.0),
    "ohm": ("ohm", 1.0),
    "l/s": ("L/s", 1.0),
    "g": ("g", 1.0),
    "mg": ("g", 1e-3),
    "m/s2": ("m/s^2", 1.0),
    "m/s^2": ("m/s^2", 1.0),
    "deg/s": ("deg/s", 1.0),
    "dps": ("deg/s", 1.0),
    "rad/s": ("deg/s", 57.29577951308232),
    "ut": ("uT", 1.0),
    "degc": ("degC", 1.0),
    # Microsiemens: a signal is in no microseconds.
    "us": ("uS", 1.0),
    "µs": ("uS", 1.0),
    "μs": ("uS", 1.0),
    "microsiemens": ("uS", 1.0),
}


def canonical_unit(unit: str) -> tuple[str, float]:
    """The name we keep for `unit` and the factor that turns its numbers into ours.

    Raises InputError for a unit we do not know: a wrong guess would scale a whole cohort wrongly.
    """
    known = _CANONICAL.get(unit.strip().lower())
    if known is None:
        raise InputError(
            "unit",
            value=repr(unit),
            expected="one of " + ", ".join(sorted(name for name in _CANONICAL if name)),
            fix="name the unit in the mapping file, or use 'nu' for a signal without a unit",
        )
    return known
