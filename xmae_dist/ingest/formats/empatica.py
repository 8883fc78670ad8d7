"""Empatica EmbracePlus: an Avro file holds some minutes of all sensors of the band, one record, read by `fastavro`.

Sensors start at times of their own and have rates of their own; they share the band's clock. Integers of the
accelerometer and gyroscope become physical values by the file's own ranges. Format: Empatica's documentation of raw
data (Avro schema 6). https://manuals.empatica.com
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xmae_dist.core.errors import InputError
from xmae_dist.core.units import canonical_unit
from xmae_dist.ingest.formats.events import Event, labels_of
from xmae_dist.ingest.formats.protocol import library, parsing
from xmae_dist.ingest.formats.source import HeldRecording, Opened, Origin, Raw, SourceChannel, missing_value

# Sensor -> unit of its values, and what its one channel, or each of its axes, is called.
_SENSORS = {
    "bvp": ("nu", "ppg"),
    "eda": ("uS", "eda"),
    "temperature": ("degC", "temperature"),
    "accelerometer": ("g", "acc"),
    "gyroscope": ("deg/s", "gyr"),
}
_AXES = ("x", "y", "z")
DEVICE = "Empatica EmbracePlus"


@dataclass(frozen=True, kw_only=True)
class _Sensor:
    """What one sensor recorded: raw values by channel name."""

    start_us: int
    rate_hz: float
    unit: str
    scale: float
    values: dict[str, Raw]


def opened(path: Path, name: str, header_subjects: bool) -> Iterator[Opened]:
    """The recording of a file; with `header_subjects` the participant that it names is the subject."""
    with parsing(path, "an Avro file of Empatica EmbracePlus"), path.open("rb") as file:
        records = list(library("fastavro", "avro").reader(file))
        (record,) = records
        sensors = {sensor: _sensor(sensor, record["rawData"][sensor]) for sensor in _SENSORS if _there(record, sensor)}
        tags = record["rawData"].get("tags") or {}
        taps_us = list(tags.get("tagsTimeMicros") or ())
        person = (record.get("enrollment") or {}).get("participantID") if header_subjects else None
    if not sensors:
        raise InputError(f"file {path.name}", value="no sensor with values", expected="one of " + ", ".join(_SENSORS))
    start_us = min(sensor.start_us for sensor in sensors.values())
    channels, signals, length_s = [], {}, 0.0
    for sensor in sensors.values():
        lead = round((sensor.start_us - start_us) / 1e6 * sensor.rate_hz)
        for key, raw in sensor.values.items():
            unit, factor = canonical_unit(sensor.unit)
            channels.append(
                SourceChannel(
                    key=key,
                    source_name=key,
                    name=key,
                    rate_hz=sensor.rate_hz,
                    dtype=str(raw.dtype),
                    unit=unit,
                    scale=sensor.scale * factor,
                    device=DEVICE,
                    body_site="wrist",
                )
            )
            signals[key] = np.concatenate([np.full(lead, missing_value(raw.dtype), raw.dtype), raw])
            length_s = max(length_s, len(signals[key]) / sensor.rate_hz)
    events = [Event((at_us - start_us) / 1e6, None, "tag") for at_us in taps_us]
    numbers, text = labels_of(events, length_s)
    origin = Origin(
        recording_id=name, subject_id=person or None, start_time_ns=start_us * 1000, labels=numbers, label_text=text
    )
    yield HeldRecording(origin, tuple(channels), signals)


def _there(record: dict[str, Any], sensor: str) -> bool:
    found = record["rawData"].get(sensor)
    return bool(found) and found["samplingFrequency"] > 0 and bool(len(found.get("values") or found.get("x") or ()))


def _sensor(sensor: str, found: dict[str, Any]) -> _Sensor:
    unit, name = _SENSORS[sensor]
    if "values" in found:
        values: dict[str, Raw] = {name: np.asarray(found["values"], np.float64).astype(np.float32)}
        scale = 1.0
    else:
        values = {f"{name}_{axis}": _whole(found[axis]) for axis in _AXES}
        scale = _range(found["imuParams"])
    return _Sensor(
        start_us=int(found["timestampStart"]),
        rate_hz=float(found["samplingFrequency"]),
        unit=unit,
        scale=scale,
        values=values,
    )


def _whole(values: Any) -> Raw:
    """Integers in 32 bits, of which none is our mark of a missing sample."""
    return np.asarray(values, dtype=np.int64).astype(np.int32)


def _range(params: dict[str, Any]) -> float:
    """Physical units in a step of the converter."""
    return (params["physicalMax"] - params["physicalMin"]) / (params["digitalMax"] - params["digitalMin"])
