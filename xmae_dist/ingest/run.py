"""One ingest run, from the files named on the command line to one commit and a report."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from xmae_dist.cluster import fanout
from xmae_dist.core.errors import UsageError
from xmae_dist.core.progress import progress
from xmae_dist.ingest import relabel
from xmae_dist.ingest.admission import Admission, admission, left_out
from xmae_dist.ingest.convert import PartTask, Wear
from xmae_dist.ingest.datasets.catalogue import Archive
from xmae_dist.ingest.discover import discover
from xmae_dist.ingest.formats.items import Item, Refusal
from xmae_dist.ingest.formats.mapping import Mapping as TableMapping
from xmae_dist.ingest.formats.mapping import check_pattern
from xmae_dist.ingest.gather import Gathered
from xmae_dist.ingest.grouping import groups
from xmae_dist.ingest.labels import LabelBook, check_unambiguous, read_label_files, read_manifest
from xmae_dist.ingest.noted import Done, NotedTask, write_noted
from xmae_dist.ingest.register import Register
from xmae_dist.ingest.report import IngestReport, LabelReport
from xmae_dist.ingest.written import Note, Outcome
from xmae_dist.storage import uri
from xmae_dist.storage.corpus import AlreadyThereError, Corpus
from xmae_dist.storage.part import checked_name
from xmae_dist.storage.withdrawn import Withdrawn


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A CSV with a row per recording."""

    url: str
    record_column: str = "record"
    subject_column: str | None = None


@dataclass(frozen=True, kw_only=True)
class IngestRequest:
    """What to take in, as which cohort, into which corpus. `body_sites`: channel name (or '' for all) ->
    site. `header_subjects`: the person that a file's header names is the subject; else nobody looks at it.
    """

    inputs: tuple[str, ...]
    corpus_url: str
    cohort: str
    mapping: TableMapping | Archive | None = None
    manifest: Manifest | None = None
    device: str = ""
    body_sites: Mapping[str, str] = field(default_factory=dict)
    subject_prefix: str = ""
    subject_pattern: str | None = None
    header_subjects: bool = False
    part_bytes: int = 512 * 2**20


def ingest(request: IngestRequest) -> IngestReport:
    """Takes in what is new and returns what became of it; the report is also written into the corpus.

    Raises InputError, UsageError or StorageError where the request itself cannot be carried out; a recording
    that cannot be read is no error but an entry of the report.
    """
    started = time.monotonic()
    checked_name("cohort", request.cohort)
    if request.subject_pattern is not None:
        check_pattern(request.subject_pattern, "--subject-pattern")
    with progress(f"ingest {request.cohort}: looking", None, "files") as looked:
        found = discover(request.inputs, request.mapping, looked.advance)
    books = _label_books(request, dict.fromkeys(item.folder_url for item in found.items))
    corpus = Corpus.open_or_create(request.corpus_url)
    wear = Wear(device=request.device, body_sites=request.body_sites)
    settings = [request.mapping, wear, *(["header_subjects"] if request.header_subjects else [])]
    register = Register(corpus, request.cohort, settings)
    register.finish_interrupted()
    withdrawn = corpus.withdrawn.read()
    todo = register.sort(found.items, withdrawn)
    resumed = register.resumable(todo.new)
    admitted = admission(withdrawn.subjects, todo.there, books, request.subject_prefix, request.subject_pattern)
    there = _recordings_of(corpus, request.cohort) if books else set()
    for book in books:
        check_unambiguous(book, [*there, *(item.name for item in todo.new)])
    notes = resumed + _write_new(request, corpus, register, wear, _without(todo.new, resumed), admitted)
    txn = register.txn_id(todo.new)
    collect = functools.partial(
        Gathered,
        books,
        request.subject_prefix,
        subject_pattern=request.subject_pattern,
        known=there,
        withdrawn=withdrawn.subjects,
    )
    gathered = collect()
    earlier = corpus.index.read(columns=["cohort", "recording_id", "digest"]) if notes else None
    try:
        version = gathered.commit(register, notes, txn)
    except AlreadyThereError:  # another run has some of the same files, and was first
        gathered = collect(there=register.there())
        version = gathered.commit(register, notes, txn)
    if earlier is not None:
        gathered.compare(earlier)
    report = IngestReport(
        corpus=corpus.url,
        cohort=request.cohort,
        txn=txn,
        version=version,
        kept=tuple(gathered.kept),
        rejected=(*gathered.rejected, *_refused(found.refusals), *map(_changed, todo.changed)),
        known=len(todo.known) + gathered.there,
        left_out=(*gathered.left_out, *(left_out(item.name, item.name) for item in todo.left_out)),
        resumed_parts=len(resumed),
        parts=gathered.parts,
        notes=(
            *gathered.notes(),
            *_unchanged_labels(corpus, request, books, there),
            *_on_the_list(corpus, withdrawn),
        ),
        unread=found.unread,
        same=gathered.same(),
        took_s=round(time.monotonic() - started, 2),
    )
    return _stored(report)


def update_labels(request: IngestRequest) -> LabelReport:
    """Takes the labels of the request's tables over into recordings that are in the corpus, in one commit.

    Reads no signals and no new recordings; inputs are the folders beside which label files of the mapping lie. Raises
    InputError or UsageError where there is no table of labels, or a row of it means several recordings.
    """
    folders = [uri.normalise(url) for url in request.inputs]
    books = _label_books(request, folders)
    if not books:
        raise UsageError(
            "--update-labels",
            value="no table of labels",
            expected="--labels FILE, or a mapping with label_files and the folder that they lie in",
        )
    corpus = Corpus.open(request.corpus_url)
    before = relabel.changes(corpus, request.cohort, books, request.subject_prefix)
    there = _recordings_of(corpus, request.cohort)
    if not there:
        raise UsageError("--cohort", value=request.cohort, expected="a cohort that is in the corpus")
    version = relabel.update(corpus, request.cohort, books)
    return LabelReport(
        corpus=corpus.url,
        cohort=request.cohort,
        version=version,
        changed=before.labels,
        other_subjects=before.subjects,
        without_a_row=len([one for one in there if not any(book.of(one) for book in books)]),
        notes=tuple(note for book in books for note in book.notes),
    )


def _recordings_of(corpus: Corpus, cohort: str) -> set[str]:
    table = corpus.index.read(columns=["recording_id"], filters=[("cohort", "=", cohort)])
    return set(table["recording_id"].to_pylist())


def _unchanged_labels(
    corpus: Corpus, request: IngestRequest, books: Sequence[LabelBook], there: set[str]
) -> Iterator[str]:
    """What the tables of labels say otherwise of recordings that were in before: a run adds, it does not change."""
    if not there:
        return
    found = relabel.changes(corpus, request.cohort, books, request.subject_prefix)
    if found.labels:
        yield (
            f"labels of {len(found.labels)} recordings that are in the corpus differ from those of the table, such as "
            f"{found.labels[0]}: --update-labels takes them over"
        )
    if found.subjects:
        yield (
            f"the table names another subject for {len(found.subjects)} recordings, such as {found.subjects[0]}: "
            "who is in which split stays as it is; withdraw and ingest them again to change it"
        )


def _label_books(request: IngestRequest, folders: Iterable[str]) -> list[LabelBook]:
    books = []
    if request.manifest is not None:
        manifest = request.manifest
        books.append(read_manifest(uri.normalise(manifest.url), manifest.record_column, manifest.subject_column))
    if isinstance(request.mapping, TableMapping) and request.mapping.label_files:
        for folder_url in folders:
            books.append(read_label_files(folder_url, request.mapping.label_files))
    return books


def _without(items: Iterable[Item], notes: Sequence[Note]) -> list[Item]:
    done = {name for note in notes for name in note.items}
    return [item for item in items if item.name not in done]


def _write_new(
    request: IngestRequest, corpus: Corpus, register: Register, wear: Wear, items: list[Item], admitted: Admission
) -> list[Note]:
    if not items:
        return []
    tasks = [
        NotedTask(
            part=PartTask(
                corpus_url=corpus.url,
                cohort=request.cohort,
                part_id=register.part_id(group),
                items=group,
                mapping=request.mapping,
                wear=wear,
                header_subjects=request.header_subjects,
                admission=admitted,
            ),
            notes_url=register.notes_url,
            settings=register.settings,
        )
        for group in groups(items, request.part_bytes, fanout.cores())
    ]
    notes: list[Note] = []
    mapping = request.mapping
    # How many recordings a file of rows, or of segments, holds is known when it has been read.
    rows_in_a_file = mapping.name == "pulsedb" if isinstance(mapping, Archive) else mapping and mapping.layout == "rows"
    with progress(f"ingest {request.cohort}", None if rows_in_a_file else len(items), "recordings") as shown:
        for event in fanout.stream(write_noted, tasks):
            if isinstance(event, Done):
                shown.advance(event.recordings, event.last)
            elif event is not None:
                notes.append(event)
    return sorted(notes, key=lambda note: note.part)


def _refused(refusals: Iterable[Refusal]) -> list[Outcome]:
    return [Outcome(name=refusal.name, item=refusal.name, kept=False, reason=refusal.reason) for refusal in refusals]


def _changed(item: Item) -> Outcome:
    reason = (
        "its files changed since it was taken in, and nothing committed is rewritten; "
        "fix: `xmae withdraw` and then `xmae readmit` its subject, and run this again; or take it in as another cohort"
    )
    return Outcome(name=item.name, item=item.name, kept=False, reason=reason)


def _on_the_list(corpus: Corpus, withdrawn: Withdrawn) -> list[str]:
    """What is not as the list of the withdrawn says, and what that list cannot say."""
    notes = []
    if withdrawn.subjects:
        theirs = [("subject_id", "in", sorted(withdrawn.subjects))]
        if back := sorted(set(corpus.index.read(columns=["subject_id"], filters=theirs)["subject_id"].to_pylist())):
            notes.append(
                f"{', '.join(back)}: withdrawn, and in the corpus again, from before it kept a list; "
                "fix: `xmae withdraw` once more, or `xmae readmit`"
            )
    if withdrawn.unnamed:
        notes.append(
            f"{withdrawn.unnamed} people were withdrawn before this corpus kept a list, and cannot be named any more: "
            "nothing keeps their files out; fix: `xmae withdraw --absent --subject NAME --apply`"
        )
    return notes


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
