"""Lab Streaming Layer recordings (`.xdf`), read by `pyxdf`: streams of devices on one clock.

`pyxdf` brings the streams' times onto the recorder's clock and smooths their jitter. Samples are then laid on a grid
of each stream's nominal rate; where the recorder lost some they are missing. Streams of markers become labels. When
the first sample was taken is on no wall clock: the file says when it was opened, kept as the label `opened_at`.
Format: https://github.com/sccn/xdf/wiki/Specifications
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmae_dist.core.errors import InputError
from xmae_dist.ingest.formats.events import Event, labels_of
from xmae_dist.ingest.formats.protocol import library, parsing
from xmae_dist.ingest.formats.source import (
    HeldRecording,
    Opened,
    Origin,
    Raw,
    SourceChannel,
    device_unit,
    distinct_keys,
)

# A stream whose samples come at another rate than it says cannot be laid on its grid.
_RATE_TOLERANCE = 0.02
# A pause between samples from which on it is a hole; the library would smooth times over one of a second.
_HOLE_S, _HOLE_SAMPLES = 0.2, 5
_UNIT_WORDS = {"microvolts": "uV", "millivolts": "mV", "volts": "V", "microsiemens": "uS"}


def opened(path: Path, name: str, header_subjects: bool) -> Iterator[Opened]:
    """The recording of a file: every regular stream of numbers, all on one clock."""
    pyxdf = library("pyxdf", "xdf")
    with parsing(path, "an XDF file"):
        _check_whole(path)
        streams, header = pyxdf.load_xdf(
            str(path),
            jitter_break_threshold_seconds=_HOLE_S,
            jitter_break_threshold_samples=_HOLE_SAMPLES,
            verbose=False,
        )
        regular = [stream for stream in streams if _is_signal(stream)]
        markers = [stream for stream in streams if not _is_signal(stream)]
        opened_at = (header.get("info", {}).get("datetime") or [""])[0]
    if not regular:
        raise InputError(f"file {path.name}", value=f"{len(streams)} streams, none regular", expected="a signal")
    start_s = min(float(stream["time_stamps"][0]) for stream in regular)
    labels = [label for stream in regular for label, _ in _described(stream)]
    keys = iter(distinct_keys(labels))
    channels: list[SourceChannel] = []
    signals: dict[str, Raw] = {}
    for stream in regular:
        rate_hz = float(stream["info"]["nominal_srate"][0])
        laid_TC = _laid_out(stream, start_s, rate_hz, path)
        for at, (label, unit) in enumerate(_described(stream)):
            key = next(keys)
            word, factor = device_unit(_UNIT_WORDS.get(unit.lower(), unit))
            device = str((stream["info"].get("name") or [""])[0])
            channels.append(
                SourceChannel(
                    key=key, source_name=label, rate_hz=rate_hz, dtype="float32", unit=word, scale=factor, device=device
                )
            )
            signals[key] = laid_TC[:, at]
    length_s = max(len(raw) / channel.rate_hz for raw, channel in zip(signals.values(), channels, strict=True))
    numbers, text = labels_of(_events(markers, start_s), length_s)
    text |= {"opened_at": str(opened_at)} if opened_at else {}
    yield HeldRecording(Origin(recording_id=name, labels=numbers, label_text=text), tuple(channels), signals)


def _check_whole(path: Path) -> None:
    """`pyxdf` takes what it can from a damaged file and says so in its log only: chunks are counted here before.

    Raises InputError where the file ends within a chunk.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(4) != b"XDF:":
            raise InputError(f"file {path.name}", value="no 'XDF:' at its beginning", expected="an XDF file")
        footers = streams = 0
        while (width := file.read(1)) != b"":
            if width[0] not in (1, 4, 8):
                raise InputError(f"file {path.name}", value="a chunk of unknown length", expected="an XDF file")
            raw = file.read(width[0])
            length = int.from_bytes(raw, "little")
            if len(raw) < width[0] or length < 2 or file.tell() + length > size:
                raise InputError(
                    f"file {path.name}",
                    value=f"ends within a chunk at byte {file.tell()} (truncated)",
                    expected="whole chunks",
                    fix="copy the file again from its source",
                )
            tag = int.from_bytes(file.read(2), "little")
            streams, footers = streams + (tag == 2), footers + (tag == 6)
            file.seek(length - 2, 1)
    if footers < streams:
        raise InputError(
            f"file {path.name}",
            value=f"{footers} stream footers for {streams} streams",
            expected="one footer per stream",
            fix="the recorder was stopped hard, or the copy is cut: copy it again, or repair it with LabRecorder",
        )


def _is_signal(stream: Any) -> bool:
    return (
        float(stream["info"]["nominal_srate"][0]) > 0
        and stream["info"]["channel_format"][0] != "string"
        and len(stream["time_stamps"]) > 1
    )


def _described(stream: Any) -> list[tuple[str, str]]:
    """(label, unit) of each channel; numbered names where the stream does not describe them."""
    count = int(stream["info"]["channel_count"][0])
    description = (stream["info"].get("desc") or [None])[0] or {}
    listed = ((description.get("channels") or [None])[0] or {}).get("channel") or []
    name = str((stream["info"].get("type") or stream["info"].get("name") or ["signal"])[0])
    if len(listed) != count:
        return [(name if count == 1 else f"{name} {at + 1}", "") for at in range(count)]
    return [(str((one.get("label") or [name])[0]), str((one.get("unit") or [""])[0])) for one in listed]


def _laid_out(stream: Any, start_s: float, rate_hz: float, path: Path) -> NDArray[np.float32]:
    """(T, channels) samples on the stream's grid from `start_s` on, NaN where there are none."""
    times_s = np.asarray(stream["time_stamps"], np.float64)
    values_NC = np.asarray(stream["time_series"], np.float64).astype(np.float32).reshape(len(times_s), -1)
    steps_s = np.diff(times_s)
    usual_hz = 1 / float(np.median(steps_s)) if (steps_s > 0).all() else 0.0
    if abs(usual_hz / rate_hz - 1) > _RATE_TOLERANCE:
        raise InputError(
            f"stream {stream['info']['name'][0]} of {path.name}",
            value=f"{usual_hz:.5g} samples per second",
            expected=f"{rate_hz:g} as it says",
            fix="leave the stream out when recording, or correct its nominal rate",
        )
    breaks = np.flatnonzero(steps_s * rate_hz > 1.5) + 1
    firsts = np.concatenate([[0], breaks])
    lasts = np.concatenate([breaks, [len(times_s)]])
    begins = np.round((times_s[firsts] - start_s) * rate_hz).astype(int)
    # Within a stretch samples are counted; a slow clock must not push one stretch into the next.
    for at in range(1, len(begins)):
        begins[at] = max(begins[at], begins[at - 1] + lasts[at - 1] - firsts[at - 1])
    laid_TC = np.full((begins[-1] + lasts[-1] - firsts[-1], values_NC.shape[1]), np.nan, np.float32)
    for first, last, begin in zip(firsts, lasts, begins, strict=True):
        laid_TC[begin : begin + last - first] = values_NC[first:last]
    return laid_TC


def _events(markers: list[Any], start_s: float) -> list[Event]:
    return [
        Event(float(at_s) - start_s, None, str(value[0]))
        for stream in markers
        for at_s, value in zip(stream["time_stamps"], stream["time_series"], strict=True)
    ]
