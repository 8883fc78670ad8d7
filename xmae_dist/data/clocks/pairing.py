"""Which recordings of a person, made by devices with clocks of their own, may hold the same heart beats."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from xmae_dist.signals.align import AlignSpec
from xmae_dist.storage.index import IndexRow
from xmae_dist.storage.snapshot import Recording

UNKNOWN_START = "unknown_start"
"""Reason to reject a pair of which one wall time is not known: it is not searched for."""


@dataclass(frozen=True, kw_only=True)
class PairConfig:
    """What is paired and what is trusted."""

    target: str = "ecg"
    """Channel with R peaks; its clock is the reference."""
    source: str = "ppg"
    """Channel with pulse feet; it is brought onto the target's clock."""
    align: AlignSpec = field(default_factory=lambda: AlignSpec(max_offset_s=130.0))
    """Search and limits. The offset is that of two clocks which are each wrong by up to a minute."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Two recordings of one subject on different clocks that may have been made at the same time."""

    target: Recording
    source: Recording
    config: PairConfig

    @property
    def target_row(self) -> IndexRow:
        return self.target.channels[self.config.target]

    @property
    def source_row(self) -> IndexRow:
        return self.source.channels[self.config.source]

    @property
    def shift_s(self) -> float | None:
        """First sample of the source minus that of the target, each by its own wall clock; None where unknown."""
        starts = self.target_row.start_time_ns, self.source_row.start_time_ns
        return None if starts[0] is None or starts[1] is None else (starts[1] - starts[0]) / 1e9

    @property
    def gap_s(self) -> float | None:
        """Wall time from the end of one to the start of the other; below 0 where they overlap; None where unknown."""
        if (shift_s := self.shift_s) is None:
            return None
        return max(shift_s - self.target_row.duration_s, -shift_s - self.source_row.duration_s)


def candidates(recordings: Sequence[Recording], config: PairConfig) -> list[Candidate]:
    """All pairs whose spans of wall time meet, give or take the largest offset, in the order of the sources.

    A source that shares a clock with a target of its own recording needs no partner and gets none. Pairs of which
    a wall time is not known are in the list, to be counted as rejected.
    """
    return [pair for pairs in _other_clocks(recordings, config) for pair in pairs if _may_meet(pair)]


def apart_s(recordings: Sequence[Recording], config: PairConfig) -> list[float]:
    """For each source that meets no target of its person by wall time, how far away the nearest is."""
    gaps = [
        [pair.gap_s for pair in pairs] for pairs in _other_clocks(recordings, config) if not any(map(_may_meet, pairs))
    ]
    return [min(gap for gap in one if gap is not None) for one in gaps if one]


def _other_clocks(recordings: Sequence[Recording], config: PairConfig) -> Iterator[list[Candidate]]:
    """For each source that needs a partner, all targets of its person on other clocks."""
    targets: dict[str, list[Recording]] = defaultdict(list)
    for recording in recordings:
        if config.target in recording.channels:
            targets[recording.subject_id].append(recording)
    for source in recordings:
        if config.source in source.channels and not _complete(source, config):
            pairs = [Candidate(target=target, source=source, config=config) for target in targets[source.subject_id]]
            yield [pair for pair in pairs if pair.target_row.clock_id != pair.source_row.clock_id]


def _complete(recording: Recording, config: PairConfig) -> bool:
    target = recording.channels.get(config.target)
    return target is not None and target.clock_id == recording.channels[config.source].clock_id


def _may_meet(pair: Candidate) -> bool:
    return (gap_s := pair.gap_s) is None or gap_s < pair.config.align.max_offset_s
