"""What an ingest run did: for programs as JSON in the corpus, for people as a table."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from rich.console import Console

from xmae_dist.core.tables import show as show_table
from xmae_dist.ingest.outcomes import Outcomes
from xmae_dist.ingest.relabel import Recordings
from xmae_dist.ingest.twins import Same
from xmae_dist.ingest.written import outcome_fields

_SHOWN = 40
FORMAT = "xmae-ingest-report/v2"


@dataclass(frozen=True, kw_only=True)
class IngestReport:
    """`kept` and `rejected` recordings of this run, the first of them by name; `known` were in before. `version` is the
    last of its `commits`, if there was one. `outcomes`: objects that hold what became of each recording, a line each.
    `unread`: suffix -> number of files that no format reads. `same`: recordings that share samples. `lost`: kept
    without some channels; `noted`: kept, with something to be known of them.
    """

    corpus: str
    cohort: str
    txn: str
    version: int | None
    commits: int
    kept: Outcomes
    rejected: Outcomes
    known: int
    left_out: Outcomes
    """Recordings, or whole files, of people who were withdrawn."""
    lost: Outcomes
    noted: Outcomes
    resumed_parts: int
    parts: int
    hours: float
    channels: Mapping[str, int]
    notes: tuple[str, ...] = ()
    unread: Mapping[str, int] = field(default_factory=dict)
    same: Same = field(default_factory=Same)
    outcomes: tuple[str, ...] = ()
    took_s: float = 0.0
    url: str = ""

    @property
    def exit_status(self) -> int:
        """0 where everything is in, 1 where some recordings were rejected, 2 where nothing could be used."""
        if not self.rejected.count:
            return 0
        return 1 if self.kept.count or self.known else 2

    def to_json(self) -> str:
        """The report with the first recordings of each kind; the first version had all of them."""
        listed = {name: getattr(self, name) for name in ("kept", "rejected", "left_out")}
        counts = {"kept": self.kept.count, "rejected": self.rejected.count, "known": self.known}
        summary = {
            "format": FORMAT,
            "exit_status": self.exit_status,
            "recordings": counts | {"left_out": self.left_out.count},
            "hours": round(self.hours, 4),
            "channels": dict(sorted(self.channels.items())),
            **{name: list(map(outcome_fields, some.first)) for name, some in listed.items()},
            "same": self.same.groups,
            "same_recordings": self.same.recordings,
        }
        others = {one.name for one in dataclasses.fields(self)} - {*summary, "lost", "noted"}
        return json.dumps(summary | {name: getattr(self, name) for name in sorted(others)}, indent=1, allow_nan=False)


def show(report: IngestReport, console: Console) -> None:
    """Prints what was taken in, then every recording that was rejected or lost a channel, with its reason."""
    for line in _unread(report):
        console.print(line, soft_wrap=True)
    if report.left_out.count:
        who = _few(tuple(outcome.name for outcome in report.left_out.first), report.left_out.count)
        console.print(f"left out, of people who were withdrawn (`xmae readmit` lists them): {who}", soft_wrap=True)
    for note in report.notes:
        console.print(f"note: {note}", soft_wrap=True)
    if not report.kept.count and not report.rejected.count:
        console.print(
            f"nothing new: {report.known} recording files are already in cohort {report.cohort}", style="green"
        )
        return
    if report.rejected.count or report.lost.count:
        show_table(console, "What could not be kept", ("recording", "what", "why"), _faults(report))
    for note in _of_recordings(report):
        console.print(f"note: {note}", soft_wrap=True)
    for names in report.same.groups[:_SHOWN]:
        console.print(f"same samples: {_few(names, len(names))}", style="yellow", soft_wrap=True)
    if len(report.same.groups) > _SHOWN:
        console.print(f"same samples: {report.same.recordings} recordings in all, see the report", style="yellow")
    console.print(_summary(report), soft_wrap=True)
    console.print(f"report: {report.url}", soft_wrap=True)


def _summary(report: IngestReport) -> str:
    known = f", {report.known} files already in" if report.known else ""
    resumed = f", {report.resumed_parts} parts taken over from an interrupted run" if report.resumed_parts else ""
    snapshot = "no new snapshot" if report.version is None else f"snapshot {report.version}"
    if report.commits > 1:
        snapshot += f", the last of {report.commits}"
    return (
        f"{report.kept.count} recordings kept ({report.hours:.2f} h, {report.parts} parts{resumed}), "
        f"{report.rejected.count} rejected{known}; cohort {report.cohort}, {snapshot}, {report.took_s:.1f} s"
    )


def _faults(report: IngestReport) -> list[tuple[str, str, str]]:
    lines = [(outcome.name, "rejected", outcome.reason) for outcome in report.rejected.first]
    lines += [
        (outcome.name, f"channel {name}", why) for outcome in report.lost.first for name, why in outcome.dropped.items()
    ]
    if len(lines) <= _SHOWN:
        return lines
    more = len(lines) - _SHOWN + sum(some.count - len(some.first) for some in (report.rejected, report.lost))
    return [*lines[:_SHOWN], ("…", f"{more} more", "see the report")]


def _of_recordings(report: IngestReport) -> Iterator[str]:
    """What was noted of single recordings, a line each while they are few."""
    notes = [f"{outcome.name}: {note}" for outcome in report.noted.first for note in outcome.notes]
    yield from notes[:_SHOWN]
    if len(notes) > _SHOWN:
        more = len(notes) - _SHOWN + report.noted.count - len(report.noted.first)
        yield f"{more} more of single recordings: see the report"


@dataclass(frozen=True, kw_only=True)
class LabelReport:
    """What an update of labels did. `version` is the new snapshot; None where nothing differed."""

    corpus: str
    cohort: str
    version: int | None
    changed: Recordings
    other_subjects: Recordings
    without_a_row: int
    notes: tuple[str, ...] = ()

    def to_json(self) -> str:
        """The report with the first names of each kind."""
        fields = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        counts = {f"{name}_recordings": fields[name].count for name in ("changed", "other_subjects")}
        named = {name: fields[name].first for name in ("changed", "other_subjects")}
        return json.dumps({"format": "xmae-label-report/v2", **fields, **named, **counts}, indent=1)


def show_labels(report: LabelReport, console: Console) -> None:
    """Prints what an update of labels did."""
    for note in report.notes:
        console.print(f"note: {note}", soft_wrap=True)
    if report.other_subjects.count:
        console.print(
            f"note: the table names another subject for {report.other_subjects.count} recordings, such as "
            f"{report.other_subjects.first[0]}: subjects stay as they are",
            soft_wrap=True,
        )
    if report.without_a_row:
        console.print(f"note: {report.without_a_row} recordings of the cohort have no row", soft_wrap=True)
    console.print(
        f"labels of {report.changed.count} recordings changed; cohort {report.cohort}, "
        + (f"snapshot {report.version}" if report.version is not None else "no new snapshot"),
        soft_wrap=True,
    )


def _unread(report: IngestReport) -> list[str]:
    if not report.unread:
        return []
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(report.unread.items(), key=lambda one: -one[1]))
    tables = sorted({".csv", ".tsv", ".txt", ".parquet", ".h5", ".hdf5", ".mat"} & set(report.unread))
    hint = f"; {'/'.join(tables)} need --mapping (`xmae ingest --suggest FILE` writes one)" if tables else ""
    return [f"files that were not read: {kinds}{hint}"]


def _few(names: tuple[str, ...], count: int, most: int = 10) -> str:
    more = f" and {count - most} more" if count > most else ""
    return ", ".join(names[:most]) + more
