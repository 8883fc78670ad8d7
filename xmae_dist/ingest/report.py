"""What an ingest run did: for programs as JSON in the corpus, for people as a table."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from xmae_dist.ingest.written import Outcome

_SHOWN = 40


@dataclass(frozen=True, kw_only=True)
class IngestReport:
    """`kept` and `rejected` recordings of this run; `known` were in before. `version` is the commit, if one
    was made. `unread`: suffix -> number of files that no format reads. `same`: groups of recordings that share samples.
    """

    corpus: str
    cohort: str
    txn: str
    version: int | None
    kept: tuple[Outcome, ...]
    rejected: tuple[Outcome, ...]
    known: int
    left_out: tuple[Outcome, ...]
    """Recordings, or whole files, of people who were withdrawn."""
    resumed_parts: int
    parts: int
    notes: tuple[str, ...] = ()
    unread: Mapping[str, int] = field(default_factory=dict)
    same: tuple[tuple[str, ...], ...] = ()
    took_s: float = 0.0
    url: str = ""

    @property
    def exit_status(self) -> int:
        """0 where everything is in, 1 where some recordings were rejected, 2 where nothing could be used."""
        if not self.rejected:
            return 0
        return 1 if self.kept or self.known else 2

    @property
    def hours(self) -> float:
        return sum(outcome.hours for outcome in self.kept)

    def to_json(self) -> str:
        counts = Counter(channel for outcome in self.kept for channel in outcome.channels)
        summary = {
            "format": "xmae-ingest-report/v1",
            "exit_status": self.exit_status,
            "recordings": {"kept": len(self.kept), "rejected": len(self.rejected), "known": self.known}
            | {"left_out": len(self.left_out)},
            "hours": round(self.hours, 4),
            "channels": dict(sorted(counts.items())),
        }
        # Field by field: a deep copy of all outcomes at once would be the largest thing in memory.
        fields = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        return json.dumps(summary | fields, indent=1, allow_nan=False, default=dataclasses.asdict)


def show(report: IngestReport, console: Console) -> None:
    """Prints what was taken in, then every recording that was rejected or lost a channel, with its reason."""
    for line in _unread(report):
        console.print(line, soft_wrap=True)
    if report.left_out:
        who = _few(tuple(sorted(outcome.name for outcome in report.left_out)))
        console.print(f"left out, of people who were withdrawn (`xmae readmit` lists them): {who}", soft_wrap=True)
    for note in report.notes:
        console.print(f"note: {note}", soft_wrap=True)
    if not report.kept and not report.rejected:
        console.print(
            f"nothing new: {report.known} recording files are already in cohort {report.cohort}", style="green"
        )
        return
    lost = [outcome for outcome in report.kept if outcome.dropped]
    if report.rejected or lost:
        console.print(_faults(report.rejected, lost))
    for note in _of_recordings(report):
        console.print(f"note: {note}", soft_wrap=True)
    for names in report.same[:_SHOWN]:
        console.print(f"same samples: {_few(names)}", style="yellow", soft_wrap=True)
    known = f", {report.known} files already in" if report.known else ""
    resumed = f", {report.resumed_parts} parts taken over from an interrupted run" if report.resumed_parts else ""
    console.print(
        f"{len(report.kept)} recordings kept ({report.hours:.2f} h, {report.parts} parts{resumed}), "
        f"{len(report.rejected)} rejected{known}; cohort {report.cohort}, "
        + (f"snapshot {report.version}" if report.version is not None else "no new snapshot")
        + f", {report.took_s:.1f} s",
        soft_wrap=True,
    )
    console.print(f"report: {report.url}", soft_wrap=True)


def _faults(rejected: tuple[Outcome, ...], lost: list[Outcome]) -> Table:
    table = Table(title="What could not be kept", title_justify="left")
    for heading in ("recording", "what", "why"):
        table.add_column(heading, overflow="fold")
    lines = [(outcome.name, "rejected", outcome.reason) for outcome in rejected]
    lines += [(outcome.name, f"channel {name}", why) for outcome in lost for name, why in outcome.dropped.items()]
    for line in lines[:_SHOWN]:
        table.add_row(*line)
    if len(lines) > _SHOWN:
        table.add_row("…", f"{len(lines) - _SHOWN} more", "see the report")
    return table


def _of_recordings(report: IngestReport) -> list[str]:
    """What was noted of single recordings, a line each while they are few."""
    notes = [f"{outcome.name}: {note}" for outcome in report.kept for note in outcome.notes]
    more = [f"{len(notes) - _SHOWN} more of single recordings: see the report"] if len(notes) > _SHOWN else []
    return notes[:_SHOWN] + more


@dataclass(frozen=True, kw_only=True)
class LabelReport:
    """What an update of labels did. `version` is the new snapshot; None where nothing differed."""

    corpus: str
    cohort: str
    version: int | None
    changed: tuple[str, ...]
    other_subjects: tuple[str, ...]
    without_a_row: int
    notes: tuple[str, ...] = ()

    def to_json(self) -> str:
        return json.dumps({"format": "xmae-label-report/v1", **dataclasses.asdict(self)}, indent=1)


def show_labels(report: LabelReport, console: Console) -> None:
    """Prints what an update of labels did."""
    for note in report.notes:
        console.print(f"note: {note}", soft_wrap=True)
    if report.other_subjects:
        console.print(
            f"note: the table names another subject for {len(report.other_subjects)} recordings, such as "
            f"{report.other_subjects[0]}: subjects stay as they are",
            soft_wrap=True,
        )
    if report.without_a_row:
        console.print(f"note: {report.without_a_row} recordings of the cohort have no row", soft_wrap=True)
    console.print(
        f"labels of {len(report.changed)} recordings changed; cohort {report.cohort}, "
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


def _few(names: tuple[str, ...], most: int = 10) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
