"""What an ingest run did: for programs as JSON in the corpus, for people as a table."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from xmae_dist.ingest.convert import Outcome

_SHOWN = 40


@dataclass(frozen=True, kw_only=True)
class IngestReport:
    """`kept` and `rejected` recordings of this run; `known` were in before. `version` is the commit, if one
    was made.
    """

    corpus: str
    cohort: str
    txn: str
    version: int | None
    kept: tuple[Outcome, ...]
    rejected: tuple[Outcome, ...]
    known: int
    resumed_parts: int
    parts: int
    notes: tuple[str, ...] = ()
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
            "recordings": {"kept": len(self.kept), "rejected": len(self.rejected), "known": self.known},
            "hours": round(self.hours, 4),
            "channels": dict(sorted(counts.items())),
        }
        fields = dataclasses.asdict(self)
        return json.dumps(summary | fields, indent=1, allow_nan=False)


def show(report: IngestReport, console: Console) -> None:
    """Prints what was taken in, then every recording that was rejected or lost a channel, with its reason."""
    if not report.kept and not report.rejected:
        console.print(
            f"nothing new: {report.known} recording files are already in cohort {report.cohort}", style="green"
        )
        return
    lost = [outcome for outcome in report.kept if outcome.dropped]
    if report.rejected or lost:
        console.print(_faults(report.rejected, lost))
    for note in report.notes:
        console.print(f"note: {note}", soft_wrap=True)
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
