"""Windows of a part cut when they are asked for: what a store that keeps no signals reads instead of arrays.

`cuts.json` of the part says which recordings it is made of and how many windows each span gave when they were
counted. A span is cut whole, since its windows are judged against each other, so neighbouring windows are cheap and
lone ones dear: the last few spans are kept.

Where their samples lie is asked of the corpus that the reader is given, which may have moved or been made anew since:
only what a recording is must be as it was when its windows were counted.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xmae_dist.core.errors import InputError, IntegrityError
from xmae_dist.core.fingerprint import canonical_json
from xmae_dist.data.clocks import record
from xmae_dist.data.clocks.pairing import Candidate, PairConfig
from xmae_dist.data.windows.cutting import WindowBatch
from xmae_dist.data.windows.source import WindowSource
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.signals.align import AlignSpec
from xmae_dist.storage import index, uri
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.index import IndexRow
from xmae_dist.storage.snapshot import Recording


class Origin(NamedTuple):
    """The corpus, and its version, that windows are cut from."""

    url: str
    version: int


CUTS = "cuts.json"
_KEPT_SPANS = 16


def stored_signals(batch: WindowBatch) -> dict[str, np.ndarray]:
    """The signals of a batch as a window store holds them: float16 (B, L) by name."""
    signals = {"ppg": batch.ppg_BL} if batch.ecg_BL is None else {"ecg": batch.ecg_BL, "ppg": batch.ppg_BL}
    return {name: signal_BL.astype(np.float16) for name, signal_BL in signals.items()}


def write_cuts(part_url: str, sources: Sequence[WindowSource], counts: Sequence[tuple[int, int, int]]) -> None:
    """`counts`: (source, span, windows) of every span that gave windows, in the order of the part's windows."""
    document = {"sources": [_source_dict(source) for source in sources], "spans": [list(count) for count in counts]}
    uri.write_bytes(uri.join(part_url, CUTS), canonical_json(document))


class CutReader:
    """Reads windows of one part by their number in it. Safe between threads."""

    def __init__(self, part_url: str, spec: WindowSpec, origin: Origin) -> None:
        """Raises InputError where a recording is not in `origin`, or is another there."""
        document = json.loads(uri.read_bytes(uri.join(part_url, CUTS)))
        self._url, self._spec = part_url, spec
        now = _Now(document["sources"], origin)
        self._sources = [_source_of(values, now) for values in document["sources"]]
        spans = np.array(document["spans"], np.int64).reshape(-1, 3)
        self._place, self._size = spans[:, :2], spans[:, 2]
        self._ends = np.cumsum(self._size)
        self._kept: OrderedDict[int, dict[str, np.ndarray]] = OrderedDict()
        self._lock = threading.Lock()

    def gather(self, indices_B: np.ndarray) -> dict[str, np.ndarray]:
        """Windows at `indices_B`, in the order asked for: float16 (B, L) by name.

        Raises IntegrityError where a recording no longer gives the windows that were counted.
        """
        span_B = np.searchsorted(self._ends, indices_B, side="right")
        names = ("ecg", "ppg") if self._spec.paired else ("ppg",)
        out = {name: np.empty((len(indices_B), self._spec.length), np.float16) for name in names}
        for span in np.unique(span_B):
            here = np.flatnonzero(span_B == span)
            signals = self._span(int(span))
            for name in names:
                out[name][here] = signals[name][indices_B[here] - (self._ends[span] - self._size[span])]
        return out

    def _span(self, span: int) -> dict[str, np.ndarray]:
        with self._lock:
            if span in self._kept:
                self._kept.move_to_end(span)
                return self._kept[span]
        signals = self._cut(span)
        with self._lock:
            self._kept[span] = signals
            while len(self._kept) > _KEPT_SPANS:
                self._kept.popitem(last=False)
        return signals

    def _cut(self, span: int) -> dict[str, np.ndarray]:
        number, place = self._place[span]
        source = self._sources[number]
        found = source.cut(source.spans(self._spec)[0][place], self._spec).windows
        if len(found) != self._size[span]:
            raise IntegrityError(
                f"recording {source.recording.cohort}/{source.recording.recording_id}, span {place}",
                value=f"{len(found)} windows",
                expected=f"{self._size[span]}, as counted for {self._url}",
                fix="cut on machines of one kind with one version of xmae_dist, or materialise the windows",
            )
        return stored_signals(found)


def _source_dict(source: WindowSource) -> dict[str, Any]:
    return {
        "recording": _recording_dict(source.recording),
        "partners": [
            {
                "target": _recording_dict(pair.target),
                "config": dataclasses.asdict(pair.config),
                "estimate": record.to_dict(estimate),
            }
            for pair, estimate in source.partners
        ],
    }


class _Now:
    """The rows of a part's recordings in `origin`: where they lie may differ from when their windows were counted."""

    def __init__(self, sources: Sequence[Mapping[str, Any]], origin: Origin) -> None:
        self.origin = origin
        wanted: dict[str, set[str]] = {}
        for recording in _recordings(sources):
            for row in recording["channels"].values():
                wanted.setdefault(row["cohort"], set()).add(row["recording_id"])
        self._rows = {
            (row.cohort, row.recording_id, row.channel): row
            for cohort, names in wanted.items()
            for row in _rows_of(origin, cohort, names)
        }

    def row(self, counted: IndexRow) -> IndexRow:
        """Raises InputError where it is not there, or another signal now."""
        found = self._rows.get((counted.cohort, counted.recording_id, counted.channel))
        if found is None or _what(found) != _what(counted):
            raise InputError(
                f"recording {counted.cohort}/{counted.recording_id}, channel {counted.channel}",
                value=f"{'not there' if found is None else 'another'} in snapshot {self.origin.version} of "
                f"{self.origin.url}",
                expected=f"as when its windows were counted (digest {counted.digest[:12]}…)",
                fix="name the corpus that the windows were made from (--corpus), or make the windows again",
            )
        return dataclasses.replace(found, labels={}, label_text={})


def _recordings(sources: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    for source in sources:
        yield source["recording"]
        yield from (one["target"] for one in source["partners"])


def _source_of(values: Mapping[str, Any], now: _Now) -> WindowSource:
    recording = _recording_of(values["recording"], now)
    return WindowSource(
        recording=recording,
        partners=tuple(
            (
                Candidate(target=_recording_of(one["target"], now), source=recording, config=_config_of(one["config"])),
                record.from_dict(one["estimate"]),
            )
            for one in values["partners"]
        ),
    )


def _config_of(values: Mapping[str, Any]) -> PairConfig:
    return PairConfig(**{**values, "align": AlignSpec(**values["align"])})


def _recording_dict(recording: Recording) -> dict[str, Any]:
    """What cutting needs of a recording: where its channels lie, not its labels."""
    channels = {
        name: dataclasses.asdict(row) | {"labels": {}, "label_text": {}} for name, row in recording.channels.items()
    }
    # Read by earlier versions alone; today's reader is told its corpus.
    return {"corpus_url": recording.corpus_url, "channels": channels}


def _recording_of(values: Mapping[str, Any], now: _Now) -> Recording:
    channels = {
        name: now.row(IndexRow(**{**row, "gaps": tuple(tuple(gap) for gap in row["gaps"])}))
        for name, row in values["channels"].items()
    }
    one = next(iter(channels.values()))
    return Recording(
        subject_id=one.subject_id,
        recording_id=one.recording_id,
        cohort=one.cohort,
        labels={},
        label_text={},
        channels=channels,
        corpus_url=now.origin.url,
    )


def _what(row: IndexRow) -> IndexRow:
    """A row without its place and its labels: what the windows depend on."""
    return dataclasses.replace(row, part="", array_path="", offset=0, labels={}, label_text={})


def _rows_of(origin: Origin, cohort: str, recording_ids: set[str]) -> list[IndexRow]:
    table = _cohort_table(origin, cohort)
    return list(index.from_arrow(table.filter(pc.is_in(table["recording_id"], pa.array(sorted(recording_ids))))))


@functools.lru_cache(maxsize=4)
def _cohort_table(origin: Origin, cohort: str) -> pa.Table:
    """A version never changes, so its rows may be kept."""
    return Corpus.open(origin.url).index.read(origin.version, filters=[("cohort", "=", cohort)])
