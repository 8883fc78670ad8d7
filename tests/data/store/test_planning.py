"""Parts planned as rows stream by are those that were planned from a list of everything."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.data.conftest import WATCH
from xmae_dist.core.errors import IntegrityError
from xmae_dist.core.fingerprint import digest_json
from xmae_dist.data.clocks.record import StoredEstimates, estimates, pair_id
from xmae_dist.data.store import planning
from xmae_dist.data.store.aligned_sources import AlignedSources
from xmae_dist.data.store.planning import SourceBlock, blocks_of_rows, part_windows, plan_parts
from xmae_dist.data.windows.source import WindowSource, pairs_among, window_sources
from xmae_dist.data.windows.source_table import Sources
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.data.windows.split import SPLITS, SplitConfig
from xmae_dist.storage import index
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.index import IndexRow
from xmae_dist.storage.snapshot import recording_of

SPLIT = SplitConfig(fractions=(0.5, 0.3, 0.2), seed=1)
Planned = list[tuple[str, str, str, list[str]]]


def planned_from_a_list(sources: list[WindowSource], spec: WindowSpec, smallest: int) -> Planned:
    """(cohort, split, part, recordings): as parts were planned before rows were streamed."""

    def order(source: WindowSource) -> tuple[int, str, str, str]:
        r = source.recording
        return SPLITS.index(SPLIT.of(r.subject_id)), r.cohort, r.subject_id, r.recording_id

    ordered = sorted(sources, key=order)
    size = int(np.clip(sum(source.possible_windows(spec) for source in ordered) / 32, smallest, 32_768))
    parts: Planned = []
    for (split_number, cohort), group in groupby(ordered, key=lambda source: order(source)[:2]):
        filled, members = 0, []
        groups = [members]
        for source in group:
            if members and filled + source.possible_windows(spec) > size:
                filled, members = 0, []
                groups.append(members)
            members.append(source.recording.recording_id)
            filled += source.possible_windows(spec)
        parts += [(cohort, SPLITS[split_number], f"p{number:06d}", one) for number, one in enumerate(groups)]
    return sorted(parts)


def planned(blocks: list[SourceBlock], spec: WindowSpec, *, mixed: bool) -> Planned:
    parts = plan_parts(blocks, SPLIT, part_windows(blocks), mixed=mixed)
    return sorted(
        (part.cohort, part.split, part.part, [s.recording.recording_id for s in Sources(part.rows, "", spec)])
        for part in parts
    )


def made_up_rows(seed: int) -> list[IndexRow]:
    """Recordings of all lengths, some without a channel, of people in several cohorts; in the order of a snapshot."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(rng.integers(1, 400)):
        cohort, subject = f"c{rng.integers(4)}", f"s{rng.integers(30):02d}"
        duration_s = float(rng.choice([0.5, 9.0, 10.0, 65.0, 700.0, 20_000.0]))
        for channel in _channels(rng):
            rate_hz = float(rng.choice([25.0, 125.0, 333.3]))
            length = max(1, int(duration_s * rate_hz * rng.uniform(0.5, 1.0)))
            rows.append(
                IndexRow(
                    subject_id=subject,
                    recording_id=f"r{number:04d}",
                    cohort=cohort,
                    part="p",
                    channel=channel,
                    array_path=f"signals/{cohort}/p/{channel}",
                    offset=0,
                    length=length,
                    rate_hz=rate_hz,
                    unit="mV",
                    clock_id=f"r{number:04d}",
                    digest="0" * 64,
                    labels={"age": float(number)},
                )
            )
    return sorted(rows, key=lambda row: (row.cohort, row.subject_id, row.recording_id, row.channel))


def _channels(rng: np.random.Generator) -> tuple[str, ...]:
    kinds = (("ecg", "ppg"), ("ecg",), ("ppg",), ("abp", "ecg", "ppg"), ("abp",))
    return kinds[int(rng.integers(len(kinds)))]


@pytest.mark.parametrize("seed", range(8))
def test_recordings_go_into_the_parts_that_a_list_of_all_would_give(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    smallest = int(np.random.default_rng(seed).choice([1, 30, 500]))
    monkeypatch.setattr(planning, "_MIN_PART_WINDOWS", smallest)
    spec = WindowSpec(stride_s=5.0)
    rows = made_up_rows(seed)
    table = index.to_arrow(rows)
    batch_rows = int(np.random.default_rng(seed).choice([1, 7, 100_000]))
    blocks = list(blocks_of_rows(table.to_batches(max_chunksize=batch_rows), spec))
    keyed = groupby(rows, key=lambda row: (row.cohort, row.subject_id, row.recording_id))
    sources = [WindowSource(recording=recording_of(list(own), "")) for _, own in keyed]
    assert planned(blocks, spec, mixed=False) == planned_from_a_list(sources, spec, smallest)
    made = [source for block in blocks for source in Sources(block.rows, "", spec)]
    assert [source.recording for source in made] == [source.recording for source in sources]


def test_a_channel_that_stands_twice_is_named() -> None:
    rows = made_up_rows(0)
    twice = sorted([*rows, rows[5]], key=lambda row: (row.cohort, row.subject_id, row.recording_id, row.channel))
    with pytest.raises(IntegrityError, match=rf"{rows[5].recording_id}.*channel {rows[5].channel} twice"):
        list(blocks_of_rows(index.to_arrow(twice).to_batches(), WindowSpec()))


def test_counting_ends_where_it_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "MAX_PART_WINDOWS", 100)
    taken = []

    def blocks() -> Iterator[SourceBlock]:
        for number in range(100):
            taken.append(number)
            yield SourceBlock(cohort="c", rows=pa.table({}), subject_S=pa.array(["s"]), possible_S=np.array([1000]))

    assert part_windows(blocks()) == 100 and len(taken) == 4


def test_people_on_two_clocks_are_planned_one_by_one_as_all_at_once(
    worn_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "_MIN_PART_WINDOWS", 100)
    corpus, spec = Corpus.open(worn_url), WindowSpec(arrival_prior_s=0.25)
    snapshot = corpus.snapshot()
    people = AlignedSources(corpus, snapshot, spec, str(tmp_path))
    people.estimate()
    recordings = list(snapshot.recordings())
    pairs = pairs_among(recordings, spec)
    sources = window_sources(recordings, pairs, estimates(corpus, pairs))
    blocks = list(people.blocks())
    assert planned(blocks, spec, mixed=True) == planned_from_a_list(sources, spec, 100)
    made = {s.recording.recording_id: s for block in blocks for s in Sources(block.rows, corpus.url, spec)}
    assert made == {source.recording.recording_id: source for source in sources}
    assert any(source.partners for source in sources)
    assert people.pairs_fingerprint_v1() == digest_json([pair_id(pair) for pair in pairs])
    (tmp_path / "again").mkdir()
    assert dict(StoredEstimates(corpus, {WATCH}, str(tmp_path / "again"))).keys() == {
        p.source.subject_id for p in pairs
    }
