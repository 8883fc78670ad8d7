"""One ingest run, from the files named on the command line to one commit and a report."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from xmae_dist.cluster import fanout
from xmae_dist.core.errors import UsageError
from xmae_dist.core.progress import progress
from xmae_dist.ingest.convert import Outcome, PartTask, Wear, WrittenPart, write_part
from xmae_dist.ingest.datasets.catalogue import Archive
from xmae_dist.ingest.discover import Found, Item, Refusal, discover
from xmae_dist.ingest.formats.mapping import Mapping as TableMapping
from xmae_dist.ingest.grouping import groups
from xmae_dist.ingest.labels import LabelBook, read_label_files, read_manifest
from xmae_dist.ingest.register import Register
from xmae_dist.ingest.report import IngestReport
from xmae_dist.storage import uri
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.index import IndexRow
from xmae_dist.storage.part import checked_name

_NO_SUBJECT = (
    "no subject: the manifest has no row for it, or an empty subject; expected one, since a person in two splits "
    "would be a leak; fix: add it to the manifest and run again"
)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A CSV with a row per recording."""

    url: str
    record_column: str = "record"
    subject_column: str | None = None


@dataclass(frozen=True, kw_only=True)
class IngestRequest:
    """What to take in, as which cohort, into which corpus. `body_sites`: channel name (or '' for all) ->
    site.
    """

    inputs: tuple[str, ...]
    corpus_url: str
    cohort: str
    mapping: TableMapping | Archive | None = None
    manifest: Manifest | None = None
    device: str = ""
    body_sites: Mapping[str, str] = field(default_factory=dict)
    subject_prefix: str = ""
    part_bytes: int = 512 * 2**20


def ingest(request: IngestRequest) -> IngestReport:
    """Takes in what is new and returns what became of it; the report is also written into the corpus.

    Raises InputError, UsageError or StorageError where the request itself cannot be carried out; a recording
    that cannot be read is no error but an entry of the report.
    """
    started = time.monotonic()
    checked_name("cohort", request.cohort)
    found = discover(request.inputs, request.mapping)
    books = _label_books(request, found)
    corpus = Corpus.open_or_create(request.corpus_url)
    wear = Wear(device=request.device, body_sites=request.body_sites)
    register = Register(corpus, request.cohort, [request.mapping, wear])
    register.finish_interrupted()
    todo = register.sort(found.items)
    resumed = register.resumable(todo.new)
    parts = resumed + _write_new(request, corpus, register, wear, _without(todo.new, resumed))
    txn = register.txn_id(todo.new)
    rows, orphans = _with_labels(parts, books, request.subject_prefix)
    version = register.commit(parts, rows, txn) if rows else None
    kept, rejected = _outcomes(parts, orphans)
    report = IngestReport(
        corpus=corpus.url,
        cohort=request.cohort,
        txn=txn,
        version=version,
        kept=kept,
        rejected=(*rejected, *_refused(found.refusals), *map(_changed, todo.changed)),
        known=len(todo.known),
        resumed_parts=len(resumed),
        parts=len({row.part for row in rows}),
        notes=_notes(rows, books),
        took_s=round(time.monotonic() - started, 2),
    )
    return _stored(report)


def _label_books(request: IngestRequest, found: Found) -> list[LabelBook]:
    books = []
    if request.manifest is not None:
        manifest = request.manifest
        books.append(read_manifest(uri.normalise(manifest.url), manifest.record_column, manifest.subject_column))
    if isinstance(request.mapping, TableMapping) and request.mapping.label_files:
        for folder_url in dict.fromkeys(item.folder_url for item in found.items):
            books.append(read_label_files(folder_url, request.mapping.label_files))
    return books


def _without(items: Iterable[Item], parts: Sequence[WrittenPart]) -> list[Item]:
    done = {name for part in parts for name in part.items}
    return [item for item in items if item.name not in done]


def _write_new(
    request: IngestRequest, corpus: Corpus, register: Register, wear: Wear, items: list[Item]
) -> list[WrittenPart]:
    if not items:
        return []
    tasks = [
        PartTask(
            corpus_url=corpus.url,
            cohort=request.cohort,
            part_id=register.part_id(group),
            items=group,
            mapping=request.mapping,
            wear=wear,
        )
        for group in groups(items, request.part_bytes, fanout.cores())
    ]
    parts: list[WrittenPart] = []
    mapping = request.mapping
    # How many recordings a file of rows, or of segments, holds is known when it has been read.
    rows_in_a_file = mapping.name == "pulsedb" if isinstance(mapping, Archive) else mapping and mapping.layout == "rows"
    with progress(f"ingest {request.cohort}", None if rows_in_a_file else len(items), "recordings") as shown:
        for event in fanout.stream(write_part, tasks):
            if isinstance(event, Outcome):
                shown.advance(1, event.name)
                continue
            if event.rows:
                register.keep(event)
            parts.append(event)
    return parts


def _with_labels(
    parts: Iterable[WrittenPart], books: Sequence[LabelBook], subject_prefix: str
) -> tuple[list[IndexRow], dict[str, str]]:
    """Rows with their subject and labels; and recordings whose subject is unknown -> why they stay out."""
    rows: list[IndexRow] = []
    orphans: dict[str, str] = {}
    for row in (row for part in parts for row in part.rows):
        found = [(book, book.of(row.recording_id)) for book in books]
        if any(book.names_subjects and (labels is None or labels.subject_id is None) for book, labels in found):
            orphans[row.recording_id] = _NO_SUBJECT
            continue
        numbers, text = dict(row.labels), dict(row.label_text)
        subject = row.subject_id or row.recording_id
        for _, labels in found:
            if labels is not None:
                numbers.update(labels.numbers)
                text.update(labels.text)
                subject = labels.subject_id or subject
        rows.append(dataclasses.replace(row, subject_id=subject_prefix + subject, labels=numbers, label_text=text))
    return rows, orphans


def _outcomes(
    parts: Iterable[WrittenPart], orphans: Mapping[str, str]
) -> tuple[tuple[Outcome, ...], tuple[Outcome, ...]]:
    kept: list[Outcome] = []
    rejected: list[Outcome] = []
    for outcome in (outcome for part in parts for outcome in part.outcomes):
        if outcome.kept and outcome.name in orphans:
            rejected.append(
                dataclasses.replace(outcome, kept=False, reason=orphans[outcome.name], channels=(), hours=0.0)
            )
        else:
            (kept if outcome.kept else rejected).append(outcome)
    return tuple(kept), tuple(rejected)


def _refused(refusals: Iterable[Refusal]) -> list[Outcome]:
    return [Outcome(name=refusal.name, item=refusal.name, kept=False, reason=refusal.reason) for refusal in refusals]


def _changed(item: Item) -> Outcome:
    reason = (
        "its files changed since it was taken in, and nothing committed is rewritten; "
        "fix: withdraw its subject first, or take it in as another cohort"
    )
    return Outcome(name=item.name, item=item.name, kept=False, reason=reason)


def _notes(rows: Sequence[IndexRow], books: Sequence[LabelBook]) -> tuple[str, ...]:
    notes = []
    alone = {row.recording_id for row in rows if row.subject_id.endswith(row.recording_id)}
    if alone and not any(book.names_subjects for book in books):
        notes.append(
            f"{len(alone)} recordings count as a subject of their own: name subjects (--labels and --subject-column, "
            "or subject_pattern in the mapping) if one person made several"
        )
    unlabelled = {row.recording_id for row in rows if books and not any(book.of(row.recording_id) for book in books)}
    if unlabelled:
        notes.append(f"{len(unlabelled)} recordings have no row in the label files, such as {min(unlabelled)}")
    return tuple(notes)


def _stored(report: IngestReport) -> IngestReport:
    """Writes the report into the corpus; a run that had nothing to do leaves none."""
    if not report.kept and not report.rejected:
        return report
    name = f"{report.txn}.json" if report.version is not None else f"{report.txn}-nothing-committed.json"
    url = uri.join(report.corpus, "reports", "ingest", report.cohort, name)
    report = dataclasses.replace(report, url=url)
    uri.write_bytes(url, report.to_json().encode())
    return report


def parse_body_sites(words: Sequence[str]) -> dict[str, str]:
    """`finger` for all channels, or `ecg=chest` `ppg=wrist` for some. Raises UsageError."""
    sites: dict[str, str] = {}
    for word in words:
        channel, given, site = word.rpartition("=")
        if not site or (given and not channel) or channel in sites:
            raise UsageError("--body-site", value=repr(word), expected="a site, or channel=site, once each")
        sites[channel] = site
    return sites
