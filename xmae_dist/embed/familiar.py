"""Is what a request adds like anything that the table knows? Asked after encoding, before the commit.

The new people are compared (`embed.drift`) with each known cohort of the same bundle and specification, those that the
bundle was pretrained on first, and with these together. A cohort is *different* where it differs from all of them, and
*alike* where one of them cannot be told from it. Whatever the answer, the first explanations are sought where they are
cheap: sampling rates, signal quality, dropped windows.

Cost: at most 9 samples of 12 files each, two requests a file, one file in memory at a time; about 0.3 s of CPU a
comparison; the index rows of two cohorts for their rates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from xmae_dist.core.seeds import hash_u64
from xmae_dist.embed import staging
from xmae_dist.embed.backlog import View
from xmae_dist.embed.drift import LEAST_PEOPLE, Comparison, compare
from xmae_dist.embed.positions import Likeness
from xmae_dist.embed.request import GONE, NOT_WANTED, Encoder, Lineage, Request
from xmae_dist.embed.sample import Bounds, Sample, drawn, pooled
from xmae_dist.embed.work import Work
from xmae_dist.storage.file_actions import DataFile
from xmae_dist.storage.snapshot import Snapshot

ALIKE, DIFFERENT, UNTESTED = "alike", "different", "untested"
TRAINING = "training cohorts together"
_MOST_KNOWN = 8
_QUALITY_ALONE = 0.7  # AUC from which quality is named as an explanation


@dataclass(frozen=True, kw_only=True)
class Familiarity:
    """What became of the comparison."""

    state: str
    """ALIKE, DIFFERENT, or UNTESTED: too few people, or nothing to compare with."""
    comparisons: tuple[Comparison, ...] = ()
    """Nearest first."""
    reasons: tuple[str, ...] = ()
    """Explanations, in words; where it is untested, why."""

    @property
    def likeness(self) -> Likeness:
        """The nearest comparison, for the table's commits."""
        if not self.comparisons:
            return Likeness(state=self.state)
        nearest = self.comparisons[0]
        return Likeness(
            state=self.state,
            nearest=nearest.known,
            auc=round(nearest.auc, 4),
            threshold=round(nearest.threshold, 4),
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        if not self.comparisons:
            return f"drift untested: {'; '.join(self.reasons)}"
        nearest = self.comparisons[0]
        how = f"{nearest.known} (AUC {nearest.auc:.2f}, threshold {nearest.threshold:.2f}, p {nearest.p_value:.3f})"
        why = f": {'; '.join(self.reasons)}" if self.reasons else ""
        if self.state == ALIKE:
            return f"like {how}{why}"
        return f"DRIFT, like no known cohort, nearest {how}{why}"


def familiarity(request: Request, work: Work, view: View) -> Familiarity:
    """Compares what the workers of a request have encoded. Raises what reading the table or facts raises."""
    assert request.encoder is not None, "who only takes away adds nothing to be compared"
    encoded = _encoded(work)
    files = [one.add for one in encoded if one.add]
    table_url, spec_id, cohort = view.table_url, request.lineage.spec_id, request.lineage.cohort
    new = drawn(f"new of {cohort}", table_url, files, spec_id)
    if len(new.subject_P) < LEAST_PEOPLE:
        return Familiarity(
            state=UNTESTED, reasons=(f"{len(new.subject_P)} people with windows, {LEAST_PEOPLE} are needed",)
        )
    found = [one for known in _known(view, request.encoder) if (one := compare(new, known))]
    if not found:
        return Familiarity(state=UNTESTED, reasons=(f"no cohort with {2 * LEAST_PEOPLE} other people in the table",))
    found.sort(key=_distance)
    state = DIFFERENT if all(one.differs for one in found) else ALIKE
    reasons = tuple(_reasons(view.snapshot, request.lineage, found[0], encoded))
    return Familiarity(state=state, comparisons=tuple(found), reasons=reasons)


def known_cohorts(view: View, encoder: Encoder) -> list[str]:
    """Cohorts with rows of the bundle and specification, those of its pretraining first, at most 8."""
    held = [
        lineage.cohort
        for lineage, position in view.positions.items()
        if encoder.lineage(lineage.cohort) == lineage and position.content not in (GONE, NOT_WANTED)
    ]
    trained = set(encoder.pretrained_on)
    return sorted(held, key=lambda name: (name not in trained, int(hash_u64("known", name))))[:_MOST_KNOWN]


def sample_of(view: View, lineage: Lineage, bounds: Bounds | None = None) -> Sample:
    """A sample of the rows that the table holds of a lineage."""
    assert view.main is not None, "a lineage with rows has a table"
    files = [
        DataFile(path=one["path"], bytes=one["size_bytes"], partition=lineage.partition, rows=one["num_records"] or 0)
        for one in view.main.files(lineage.partition).to_pylist()
    ]
    return drawn(lineage.cohort, view.table_url, files, lineage.spec_id, bounds)


def _distance(one: Comparison) -> tuple[bool, bool, float, float]:
    """A cohort before several together; of far ones, which all have an AUC of 1, that of least MMD."""
    return one.differs, one.known == TRAINING, one.auc, one.mmd2.value


def _known(view: View, encoder: Encoder) -> Iterator[Sample]:
    trained = []
    for cohort in known_cohorts(view, encoder):
        sample = sample_of(view, encoder.lineage(cohort))
        yield sample
        if cohort in encoder.pretrained_on:
            trained.append(sample)
    if len(trained) > 1:
        yield pooled(TRAINING, trained)


def _encoded(work: Work) -> list[staging.Facts]:
    """Facts of some batches, by hash: as many as files are read."""
    keys = sorted(work.batches, key=lambda key: int(hash_u64("batch", key)))[: Bounds.files]
    return list(staging.read_facts(work.place.folder, keys))


def _reasons(
    snapshot: Snapshot, lineage: Lineage, nearest: Comparison, encoded: Sequence[staging.Facts]
) -> Iterator[str]:
    if nearest.known in snapshot.contents:
        here, there = (_rates_hz(snapshot, name, lineage.source) for name in (lineage.cohort, nearest.known))
        if here != there:
            yield f"sampled at {_told(here)} Hz, {nearest.known} at {_told(there)} Hz"
    shift = nearest.quality_shift
    separates = max(nearest.quality_auc, 1 - nearest.quality_auc) >= _QUALITY_ALONE
    if separates and (shift.low > 0 or shift.high < 0):
        yield (
            f"signal quality {shift.value:+.2f} [{shift.low:+.2f}, {shift.high:+.2f}] against {nearest.known}; quality "
            f"alone tells them apart with AUC {max(nearest.quality_auc, 1 - nearest.quality_auc):.2f}"
        )
    dropped: Counter[str] = sum((Counter(one.dropped) for one in encoded), Counter())
    total = sum(dropped.values()) + sum(sum(one.windows) for one in encoded)
    if dropped and sum(dropped.values()) >= 0.1 * total:
        most, count = dropped.most_common(1)[0]
        yield f"{sum(dropped.values()) / total:.0%} of windows dropped, {count / total:.0%} for {most}"


def _rates_hz(snapshot: Snapshot, cohort: str, source: str) -> frozenset[float]:
    batches = snapshot.cohort(cohort).batches(["rate_hz"], [("channel", "=", source)])
    return frozenset(rate for batch in batches for rate in batch["rate_hz"].unique().to_pylist())


def _told(rates_hz: frozenset[float]) -> str:
    return " and ".join(f"{rate:g}" for rate in sorted(rates_hz))
