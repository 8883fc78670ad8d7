"""What `xmae inspect` sums up, batch by batch, is what the same rows give in plain Python."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
import subprocess
import sys
from pathlib import Path

import pytest

from xmae_dist.core.errors import IntegrityError
from xmae_dist.storage import index, inspect, ordered
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.index import IndexRow
from xmae_dist.storage.snapshot import Recording, Snapshot
from xmae_dist.storage.summary import CohortSummary, summarise


def row(dice: random.Random, cohort: str, at: int, channel: str) -> IndexRow:
    numbers = {name: dice.choice([1.5, 2.0, math.nan]) for name in ("age", "sbp")[: dice.randrange(3)]}
    texts = {name: dice.choice("xyz") for name in ("rhythm", "sex")[: dice.randrange(3)]}
    return IndexRow(
        subject_id=f"s{at % 17}",
        recording_id=f"r{at}",
        cohort=cohort,
        part=f"p{at % 5}",
        channel=channel,
        array_path="x",
        offset=0,
        length=dice.randrange(100, 1000),
        rate_hz=dice.choice([100.0, 125.0]),
        unit=dice.choice(["mV", "NU"]),
        clock_id=dice.choice("kl"),
        digest="d",
        gaps=[(0, 5)] * dice.randrange(3),
        device=dice.choice(["", "watch"]),
        body_site=dice.choice(["", "wrist"]),
        labels=numbers,
        label_text=texts,
    )


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Snapshot:
    """120 recordings of up to three channels in three cohorts, their rows scattered over commits and runs."""
    monkeypatch.setattr(ordered, "RUN_ROWS", 90)
    monkeypatch.setattr(ordered, "BATCH_ROWS", 8)
    dice = random.Random(3)
    rows = [
        row(dice, cohort, at, channel)
        for cohort in "abc"
        for at in range(40)
        for channel in ("ecg", "ppg", "abp")[: dice.randrange(1, 4)]
    ]
    dice.shuffle(rows)
    corpus = Corpus.create(str(tmp_path))
    for start in range(0, len(rows), 60):
        corpus.index.append(index.to_arrow(rows[start : start + 60]))
    return corpus.snapshot()


def test_sums_are_those_of_plain_python(snapshot: Snapshot) -> None:
    recordings = list(snapshot.recordings())
    for found in summarise(snapshot):
        check_cohort(found, [one for one in recordings if one.cohort == found.cohort])


def check_cohort(found: CohortSummary, own: list[Recording]) -> None:
    rows = [row for one in own for row in one.channels.values()]
    assert found.subjects == len({one.subject_id for one in own}) and found.recordings == len(own)
    assert found.hours == pytest.approx(sum(one.duration_s for one in own) / 3600)
    assert found.clocks == len({(row.recording_id, row.clock_id) for row in rows})
    assert found.parts == len({row.part for row in rows})
    for channel in found.channels:
        of_it = [row for row in rows if row.channel == channel.channel]
        assert channel.recordings == len(of_it)
        assert channel.hours == pytest.approx(sum(row.duration_s for row in of_it) / 3600)
        assert channel.rates_hz == tuple(sorted({row.rate_hz for row in of_it}))
        assert channel.devices == tuple(sorted({row.device for row in of_it} - {""}))
        gaps = sum(stop - start for row in of_it for start, stop in row.gaps)
        assert channel.gap_fraction == pytest.approx(gaps / sum(row.length for row in of_it))
    for label in found.labels:
        if label.texts:
            texts = [one.label_text[label.name] for one in own if label.name in one.label_text]
            assert dict(label.texts) == {text: texts.count(text) for text in texts} and label.recordings == len(texts)
        else:
            values = [one.labels[label.name] for one in own if label.name in one.labels]
            finite = [value for value in values if math.isfinite(value)]
            assert (label.recordings, label.least, label.most) == (len(finite), min(finite), max(finite))
            assert label.mean == pytest.approx(sum(finite) / len(finite))


def test_what_is_drawn_is_that_row_of_all_in_order(snapshot: Snapshot) -> None:
    rows = list(snapshot.rows())
    drawn = {key: inspect._Drawn.of(*key, 12, 9, 0) for key in itertools.product("abc", ("ecg", "ppg"))}
    drawn |= {(cohort, "abp"): inspect._Drawn.of(cohort, "abp", 1, 1, 0) for cohort in "abc"}
    inspect._find_recordings(snapshot, drawn)
    for (cohort, channel), one in drawn.items():
        own = [row for row in rows if (row.cohort, row.channel) == (cohort, channel)]
        assert one.recordings == {at: own[at].recording_id for at in one.picks}
        assert one.units == {row.unit for row in own} and one.passed == len(own)
        found = inspect._rows_of(snapshot, cohort, one.recordings.values())
        for at in one.picks:
            assert repr(found[own[at].recording_id, channel]) == repr(own[at]), "NaN is not NaN"


def test_recordings_are_found_by_their_place(snapshot: Snapshot) -> None:
    for cohort in "abc":
        own = snapshot.cohort(cohort)
        names = [one.recording_id for one in own.recordings()]
        assert inspect._recordings_at(own, {0, 13, 39}) == {at: names[at] for at in (0, 13, 39)}


def test_summing_up_needs_no_pandas(snapshot: Snapshot) -> None:
    """It would be half a second and 80 MB of a process that has few."""
    code = (
        "import sys; from xmae_dist.storage.corpus import Corpus; from xmae_dist.storage.summary import summarise;"
        "print(len(summarise(Corpus.open(sys.argv[1]).snapshot())), 'pandas' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, snapshot.url], stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == "3 False\n"


def test_a_channel_that_stands_twice_is_refused(tmp_path: Path) -> None:
    corpus = Corpus.create(str(tmp_path))
    one = row(random.Random(0), "a", 0, "ecg")
    corpus.index.append(index.to_arrow([one, dataclasses.replace(one, part="other")]))
    with pytest.raises(IntegrityError, match=r"channel ecg twice.*xmae repair"):
        summarise(corpus.snapshot())
