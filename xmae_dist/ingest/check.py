"""A first look at every sample of a recording: what is in each channel, and why a channel cannot be kept."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from xmae_dist.core.plausible import doubt
from xmae_dist.ingest.formats.source import Block, Raw, SourceChannel, SourceRecording, is_missing
from xmae_dist.ingest.naming import names_of

# A recording below this size is read once and kept in memory between the look and the writing.
KEEP_BYTES = 96 * 2**20
# Stretches of this length, at most so many a block, tell how far a signal usually spreads.
_STRETCH_S = 10.0
_STRETCHES = 8


@dataclass
class ChannelSight:
    """What the samples of one channel add up to."""

    samples: int = 0
    missing: int = 0
    low: float = float("inf")
    high: float = float("-inf")
    total: int = 0
    levels: list[float] = field(default_factory=list)
    spreads: list[float] = field(default_factory=list)

    def add(self, raw: Raw, rate_hz: float) -> None:
        absent = is_missing(raw)
        present = raw[~absent] if absent.any() else raw
        self.samples += len(raw)
        self.missing += len(raw) - len(present)
        if len(present):
            self.low = min(self.low, float(present.min()))
            self.high = max(self.high, float(present.max()))
            if present.dtype.kind == "i":
                self.total += int(present.sum(dtype=np.int64))
            self._sample(present, max(1, round(_STRETCH_S * rate_hz)))

    def _sample(self, present: Raw, length: int) -> None:
        """Level and spread of some stretches of the block; the outermost samples, likely artefacts, left out."""
        whole = max(1, len(present) // length)
        for at in sorted({number * (whole - 1) // (_STRETCHES - 1) for number in range(_STRETCHES)}):
            piece = present[at * length : (at + 1) * length]
            # Partitions where percentiles would take a millisecond of many small files each.
            ranks = [int(share * (len(piece) - 1)) for share in (0.005, 0.5, 0.995)]
            low, level, high = map(float, np.partition(piece, ranks)[ranks])
            self.levels.append(level)
            self.spreads.append(high - low)

    def doubt(self, channel: SourceChannel, name: str) -> str | None:
        """What is implausible of its values in its unit; None where nothing is."""
        if not self.spreads:
            return None
        level = statistics.median(self.levels) * channel.scale + channel.offset
        return doubt(name, channel.unit, level=level, spread=statistics.median(self.spreads) * abs(channel.scale))

    def objection(self, channel: SourceChannel) -> str | None:
        """Why the channel is dropped, in words for the report; None where it is kept."""
        if self.samples == 0:
            return "no samples"
        if self.missing == self.samples:
            return f"only missing samples (NaN), {self.samples} of them"
        if self.low == self.high:
            value = self.low * channel.scale + channel.offset
            return f"flat: every sample is {value:.6g} {channel.unit}"
        if channel.checksum is not None:
            found = (self.total + self.missing * channel.missing_mark) & 0xFFFF
            if found != channel.checksum:
                said = f"checksum {found} where the header says {channel.checksum}"
                return f"{said}: the samples are damaged; fix: copy the file again"
        return None


@dataclass(frozen=True, kw_only=True)
class Look:
    """Channels worth keeping and the others' faults; `kept_blocks` holds the samples of a small recording."""

    usable: tuple[SourceChannel, ...]
    dropped: Mapping[str, str]
    kept_blocks: list[Block] | None
    doubts: tuple[str, ...] = ()

    def blocks(self, recording: SourceRecording) -> Iterable[Block]:
        """The samples again: from memory, or read anew."""
        return recording.blocks() if self.kept_blocks is None else self.kept_blocks


def look(recording: SourceRecording) -> Look:
    """Reads the whole recording once. Raises InputError where reading fails."""
    sights = {channel.key: ChannelSight() for channel in recording.channels}
    rates = {channel.key: channel.rate_hz for channel in recording.channels}
    kept: list[Block] | None = []
    size = 0
    for block in recording.blocks():
        for key, sight in sights.items():
            sight.add(block[key], rates[key])
        size += sum(raw.nbytes for raw in block.values())
        if kept is not None:
            kept = [*kept, block] if size <= KEEP_BYTES else None
    objections = {channel.key: sights[channel.key].objection(channel) for channel in recording.channels}
    usable = tuple(channel for channel in recording.channels if objections[channel.key] is None)
    doubts = [sights[channel.key].doubt(channel, name) for channel, name in zip(usable, names_of(usable), strict=True)]
    return Look(
        usable=usable,
        dropped={
            channel.source_name: reason
            for channel in recording.channels
            if (reason := objections[channel.key]) is not None
        },
        kept_blocks=kept,
        doubts=tuple(said for said in doubts if said is not None),
    )


@dataclass
class Gaps:
    """Collects half-open spans of missing samples over blocks that follow each other."""

    spans: list[tuple[int, int]] = field(default_factory=list)
    _at: int = 0

    def add(self, missing: NDArray[np.bool_]) -> None:
        for start, stop in _runs(missing):
            if self.spans and self.spans[-1][1] == self._at + start:
                self.spans[-1] = (self.spans[-1][0], self._at + stop)
            else:
                self.spans.append((self._at + start, self._at + stop))
        self._at += len(missing)


def _runs(flags: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    if not flags.any():
        return
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False])).astype(np.int8)))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
