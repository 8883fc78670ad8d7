"""Which recordings of a person, made by devices with clocks of their own, may hold the same heart beats."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
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


def candidates(recordings: Sequence[Recording], config: PairConfig) -> list[Candidate]:
    """All pairs whose spans of wall time meet, give or take the largest offset, in the order of the sources.

    A source that shares a clock with a target of its own recording needs no partner and gets none. Pairs of which
    a wall time is not known are in the list, to be counted as rejected.
    """
    targets: dict[str, list[Recording]] = defaultdict(list)
    for recording in recordings:
        if config.target in recording.channels:
            targets[recording.subject_id].append(recording)
    return [
        candidate
        for source in recordings
        if config.source in source.channels and not _complete(source, config)
        for target in targets[source.subject_id]
        if _may_meet(candidate := Candidate(target=target, source=source, config=config))
    ]


def _complete(recording: Recording, config: PairConfig) -> bool:
    target = recording.channels.get(config.target)
    return target is not None and target.clock_id == recording.channels[config.source].clock_id


def _may_meet(pair: Candidate) -> bool:
    if pair.target_row.clock_id == pair.source_row.clock_id:
        return False
    if pair.shift_s is None:
        return True
    stop_s = min(pair.target_row.duration_s, pair.shift_s + pair.source_row.duration_s)
    return stop_s - max(0.0, pair.shift_s) > -pair.config.align.max_offset_s
