"""WFDB records: one header, one or many segments, one or many rates, read in blocks.

The `wfdb` package decodes the sample formats. What it leaves out is here: a check that every signal file is
there and long enough before anything is read, blocks over segments so that a record of days takes no more
memory than one of minutes, one missing-sample mark for all formats, and each signal's own checksum.
Format: https://wfdb.io/spec/header-files.html
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmae_dist.core.errors import InputError
from xmae_dist.ingest.formats.source import (
    Block,
    Origin,
    Raw,
    SourceChannel,
    all_missing,
    device_unit,
    distinct_keys,
    physical,
)
from xmae_dist.ingest.formats.wfdb_header import read_header, read_samples
from xmae_dist.ingest.formats.wfdb_repair import readable
from xmae_dist.storage import uri

# The largest block decoded at once, in samples of all signals together (16 MiB of int16).
BLOCK_SAMPLES = 8 * 2**20
_BYTES_PER_SAMPLE = {
    "8": 1,
    "16": 2,
    "24": 3,
    "32": 4,
    "61": 2,
    "80": 1,
    "160": 2,
    "212": 1.5,
    "310": 4 / 3,
    "311": 4 / 3,
}
_MISSING = {"80": -128, "508": -128, "310": -512, "311": -512, "212": -2048, "24": -(2**23), "524": -(2**23)}
_WIDE = {"24", "32", "524"}
_UNCALIBRATED_GAIN = 200.0


@dataclass(frozen=True, kw_only=True)
class _Segment:
    """A stretch of the record: `stem` is its header without suffix, None where nothing was recorded."""

    stem: Path | None
    frames: int
    header: Any = None


class WfdbRecording:
    """One WFDB record on local disk; `header` is the path of its `.hea` file.

    Raises InputError where the header cannot be parsed, a signal file is missing or shorter than the header
    says, or the record holds no samples.
    """

    def __init__(self, header: Path, recording_id: str) -> None:
        self._folder = header.parent
        self._headers = [readable(header)]
        header = self._headers[0].path
        record = _read_header(header)
        if hasattr(record, "seg_name"):
            _check_segments(record, header)
            self._segments = [self._segment(name, n) for name, n in zip(record.seg_name, record.seg_len, strict=True)]
        else:
            frames = record.sig_len or _frames_on_disk(header.parent, record)
            self._segments = [_Segment(stem=header.with_suffix(""), frames=frames, header=record)]
        self._segments = [segment for segment in self._segments if segment.frames > 0]
        for segment in self._segments:
            if segment.header is not None:
                _check_signal_files(segment)
        self._layouts = _layouts(self._segments, float(record.fs))
        self._channels = tuple(_calibrated(key, layouts, len(self._segments)) for key, layouts in self._layouts.items())
        if not self._channels:
            raise InputError(f"record {header.name}", value="no samples", expected="at least one signal with samples")
        start_ns, dated = _start_time_ns(record, self._headers[0].start)
        notes = (*self._notes(), *dated)
        self._origin = Origin(recording_id=recording_id, start_time_ns=start_ns, notes=notes)

    @property
    def origin(self) -> Origin:
        return self._origin

    @property
    def channels(self) -> tuple[SourceChannel, ...]:
        return self._channels

    def blocks(self) -> Iterator[Block]:
        for segment in self._segments:
            width = sum(_samples_per_frame(layouts) for layouts in self._layouts.values())
            step = max(1, BLOCK_SAMPLES // width)
            for start in range(0, segment.frames, step):
                yield self._block(segment, start, min(start + step, segment.frames))

    def _segment(self, name: str, frames: int) -> _Segment:
        if name == "~":
            return _Segment(stem=None, frames=frames)
        place = uri.path_below(self._folder, name)
        found = readable(place.with_name(f"{place.name}.hea"))
        self._headers.append(found)
        segment = _Segment(stem=found.path.with_suffix(""), frames=frames, header=_read_header(found.path))
        held = segment.header.sig_len
        if held is not None and segment.header.n_sig and segment.header.file_name and 0 < held < frames:
            raise InputError(
                f"segment {name}", value=f"{held} samples", expected=f"{frames} as the record says", fix="copy it again"
            )
        return segment

    def _notes(self) -> list[str]:
        """What a person should know of the headers and files."""
        notes = [note for header in self._headers for note in header.notes]
        described = [segment for segment in self._segments if segment.header is not None and segment.header.n_sig]
        unsummed = [segment for segment in described if _no_sums(segment.header)]
        if unsummed:
            notes.append("its header gives 0 for every checksum: its samples are not checked")
        longer = [beyond for segment in described if (beyond := _frames_beyond(segment)) > 0]
        if longer:
            notes.append(f"its signal files go on for {sum(longer):,} samples after what the header says: not read")
        return notes

    def _block(self, segment: _Segment, start: int, stop: int) -> dict[str, Raw]:
        decoded = _decode(segment, start, stop)
        block: dict[str, Raw] = {}
        for channel in self._channels:
            layout = self._layouts[channel.key].get(segment.stem)
            if layout is None or channel.key not in decoded:
                n = (stop - start) * _samples_per_frame(self._layouts[channel.key])
                block[channel.key] = all_missing(n, channel.dtype)
            elif channel.dtype == "float32" and layout.dtype != "float32":
                block[channel.key] = physical(decoded[channel.key], layout)
            else:
                block[channel.key] = decoded[channel.key].astype(channel.dtype, copy=False)
        return block


@dataclass(frozen=True, kw_only=True)
class _Layout(SourceChannel):
    """A signal as one segment describes it."""

    samples_per_frame: int = 1


def _read_header(header: Path) -> Any:
    try:
        record = read_header(header)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        # wfdb raises whatever its parser trips over.
        raise InputError(f"header {header.name}", value=f"unreadable ({error})", expected="a WFDB header") from error
    described = len(getattr(record, "sig_name", None) or ())
    if not hasattr(record, "seg_name") and described != (record.n_sig or 0):
        raise InputError(
            f"header {header.name}",
            value=f"{described} signal lines",
            expected=f"{record.n_sig} as its first line says",
            fix="copy it again from its source",
        )
    return record


def _check_segments(record: Any, header: Path) -> None:
    """Raises InputError where a multi-segment header lists less than its first line says."""
    listed, frames = len(record.seg_name), sum(record.seg_len)
    if listed != record.n_seg or (record.sig_len and frames != record.sig_len):
        raise InputError(
            f"header {header.name}",
            value=f"{listed} segments of {frames} samples in all",
            expected=f"{record.n_seg} segments of {record.sig_len} samples as its first line says",
            fix="copy the header and the segments it lacks again from their source",
        )


def _no_sums(record: Any) -> bool:
    """Whether the header gives 0 for every checksum, as writers do that compute none."""
    return bool(record.checksum) and not any(record.checksum)


def _frames_beyond(segment: _Segment) -> int:
    """Frames that the signal files hold after those of the segment; 0 where formats are packed or shared."""
    assert segment.stem is not None
    beyond: list[int] = []
    for name, (bytes_per_frame, offset) in _files(segment.header).items():
        path = uri.path_below(segment.stem.parent, name)
        if name == "~" or not bytes_per_frame or not path.is_file():
            return 0
        beyond.append(int((path.stat().st_size - offset) // bytes_per_frame) - segment.frames)
    return max(0, min(beyond, default=0))


def _frames_on_disk(folder: Path, record: Any) -> int:
    """Frames that the signal files hold, for a header that does not say."""
    fewest: list[int] = []
    for file_name, (bytes_per_frame, offset) in _files(record).items():
        path = uri.path_below(folder, file_name)
        if path.is_file() and bytes_per_frame:
            fewest.append(int((path.stat().st_size - offset) // bytes_per_frame))
    return min(fewest, default=0)


def _files(record: Any) -> dict[str, tuple[float, int]]:
    """Signal file -> (bytes per frame, or 0 for compressed formats; bytes before the first sample)."""
    files: dict[str, tuple[float, int]] = {}
    for name, fmt, per_frame, offset in zip(
        record.file_name or (), record.fmt or (), record.samps_per_frame or (), record.byte_offset or (), strict=True
    ):
        width, _ = files.get(name, (0.0, 0))
        files[name] = (width + per_frame * _BYTES_PER_SAMPLE.get(fmt, 0), offset or 0)
    return files


def _check_signal_files(segment: _Segment) -> None:
    assert segment.stem is not None
    for name, (bytes_per_frame, offset) in _files(segment.header).items():
        if name == "~":
            continue
        path = uri.path_below(segment.stem.parent, name)
        if not path.is_file():
            raise InputError(f"signal file {name}", value="no such file", fix="restore it beside its header")
        needed = offset + math.floor(segment.frames * bytes_per_frame)
        size = path.stat().st_size
        if size < needed:
            raise InputError(
                f"signal file {name}",
                value=f"{size} bytes (truncated)",
                expected=f"{needed} bytes for {segment.frames} frames",
                fix="copy the file again from its source",
            )


def _layouts(segments: list[_Segment], fs: float) -> dict[str, dict[Path | None, _Layout]]:
    """Signal key -> segment -> how that segment stores it; keys in the order of first appearance."""
    found: dict[str, dict[Path | None, _Layout]] = {}
    for segment in segments:
        for key, layout in _describe(segment, fs).items():
            found.setdefault(key, {})[segment.stem] = layout
    return found


def _describe(segment: _Segment, fs: float) -> dict[str, _Layout]:
    record = segment.header
    if record is None or not record.n_sig:
        return {}
    described: dict[str, _Layout] = {}
    for at, key in enumerate(distinct_keys(record.sig_name)):
        dtype = _dtype(record.fmt[at])
        unit, factor = device_unit(record.units[at])
        gain = record.adc_gain[at] or _UNCALIBRATED_GAIN
        scale = factor / gain
        checksum = record.checksum[at] if record.checksum and not _no_sums(record) else None
        described[key] = _Layout(
            key=key,
            source_name=record.sig_name[at] or "",
            rate_hz=fs * record.samps_per_frame[at],
            dtype=dtype,
            unit=unit,
            scale=scale,
            offset=-(record.baseline[at] or 0) * scale,
            # A skewed signal is shifted on reading, so its sum is no longer the one in the header.
            checksum=None if checksum is None or (record.skew and record.skew[at]) else checksum & 0xFFFF,
            missing_mark=_MISSING.get(record.fmt[at], int(np.iinfo(dtype).min)),
            samples_per_frame=record.samps_per_frame[at],
        )
    return described


def _dtype(fmt: str) -> str:
    return "int32" if fmt in _WIDE else "int16"


def _calibrated(key: str, layouts: dict[Path | None, _Layout], segments: int) -> SourceChannel:
    """The one description of a signal for the whole record; float32 where segments differ in calibration.

    The checksum of the whole is known where every segment states one for it.
    """
    first = next(iter(layouts.values()))
    for layout in layouts.values():
        if (layout.samples_per_frame, layout.unit) != (first.samples_per_frame, first.unit):
            raise InputError(
                f"signal {key}",
                value=f"{layout.rate_hz:g} Hz in {layout.unit} in one segment",
                expected=f"{first.rate_hz:g} Hz in {first.unit} as in the first",
                fix="ingest the segments as records of their own",
            )
    same = all((x.scale, x.offset, x.dtype) == (first.scale, first.offset, first.dtype) for x in layouts.values())
    sums = [layout.checksum for layout in layouts.values()]
    known = same and len(sums) == segments and None not in sums
    total = sum(x for x in sums if x is not None) & 0xFFFF if known else None
    channel = SourceChannel(
        key=key,
        source_name=first.source_name,
        rate_hz=first.rate_hz,
        dtype=first.dtype,
        unit=first.unit,
        scale=first.scale,
        offset=first.offset,
        checksum=total,
        missing_mark=first.missing_mark,
    )
    return channel if same else replace(channel, dtype="float32", scale=1.0, offset=0.0)


def _samples_per_frame(layouts: dict[Path | None, _Layout]) -> int:
    return next(iter(layouts.values())).samples_per_frame


def _decode(segment: _Segment, start: int, stop: int) -> dict[str, NDArray[Any]]:
    """Digital samples start … stop (frames) of every signal of a segment, with one mark for missing ones."""
    if segment.stem is None or segment.header is None or not segment.header.n_sig:
        return {}
    header = segment.header
    bits = 32 if any(fmt in _WIDE for fmt in header.fmt) else 16
    try:
        signals = read_samples(segment.stem, header, segment.frames, start, stop, bits)
    except (ValueError, IndexError, KeyError, TypeError, OSError, RuntimeError) as error:
        raise InputError(
            f"signal files of {header.record_name}", value=f"undecodable ({error})", fix="copy them again"
        ) from error
    decoded = {}
    for key, fmt, raw in zip(distinct_keys(header.sig_name), header.fmt, signals, strict=True):
        if fmt in _MISSING:
            raw = np.where(raw == _MISSING[fmt], np.iinfo(_dtype(fmt)).min, raw)
        # In its own width: a 16-bit mark among 32-bit neighbours would be a number.
        decoded[key] = raw.astype(_dtype(fmt), copy=False)
    return decoded


def _start_time_ns(record: Any, told: datetime.datetime | None) -> tuple[int | None, list[str]]:
    """Wall time of the first sample, taken as UTC; None, and why, where there is none that 64 bits of ns hold."""
    start = told
    if start is None and record.base_date is not None and record.base_time is not None:
        start = datetime.datetime.combine(record.base_date, record.base_time)
    if start is None:
        return None, []
    since = start.replace(tzinfo=datetime.UTC) - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    ns = since // datetime.timedelta(microseconds=1) * 1000
    if not -(2**63) < ns < 2**63:
        return None, [f"its date, {start.date()}, is shifted beyond what the corpus holds: the start is left unknown"]
    return ns, []
