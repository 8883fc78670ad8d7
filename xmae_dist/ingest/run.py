"""One ingest run, from the files named on the command line to commits and a report."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from xmae_dist.cluster import fanout
from xmae_dist.core.errors import UsageError
from xmae_dist.core.fingerprint import digest_json
from xmae_dist.core.progress import progress
from xmae_dist.core.scratch import scratch_errors
from xmae_dist.ingest import register as registered
from xmae_dist.ingest import relabel
from xmae_dist.ingest.admission import Admission, admission, left_out
from xmae_dist.ingest.commits import Commits, Totals
from xmae_dist.ingest.convert import PartTask, Wear
from xmae_dist.ingest.datasets.catalogue import Archive
from xmae_dist.ingest.discover import discover
from xmae_dist.ingest.formats.items import Item, Tell
from xmae_dist.ingest.formats.mapping import Mapping as TableMapping
from xmae_dist.ingest.formats.mapping import check_pattern
from xmae_dist.ingest.gather import Gathered
from xmae_dist.ingest.grouping import groups
from xmae_dist.ingest.labels import LabelBook, Meanings, check_unambiguous, read_label_files, read_manifest
from xmae_dist.ingest.noted import Done, NotedTask, write_noted
from xmae_dist.ingest.outcomes import MOST_NAMED, OutcomeLog
from xmae_dist.ingest.register import Register
from xmae_dist.ingest.report import IngestReport, LabelReport
from xmae_dist.ingest.roots import Roots
from xmae_dist.ingest.twins import Same, Twins
from xmae_dist.ingest.written import Note, Outcome
from xmae_dist.storage import uri
from xmae_dist.storage.corpus import Corpus
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

    Raises InputError, UsageError, StorageError or RunError where the request itself cannot be carried out; a recording
    that cannot be read is no error but an entry of the report.
    """
    started = time.monotonic()
    checked_name("cohort", request.cohort)
    if request.subject_pattern is not None:
        check_pattern(request.subject_pattern, "--subject-pattern")
    with scratch_errors():
        with progress(f"ingest {request.cohort}: looking", None, "files") as looked:
            run = _Run(request, looked.advance)
        before = run.corpus.index.version()
        run.write()
        report = run.report(before)
    return _stored(dataclasses.replace(report, took_s=round(time.monotonic() - started, 2)))


class _Run:
    """The steps of one run, and what they share."""

    def __init__(self, request: IngestRequest, tell: Tell) -> None:
        """Finds what there is, and says what is to become of it. Raises InputError where a row of labels means several
        recordings.
        """
        self.request = request
        self._wear = Wear(device=request.device, body_sites=request.body_sites)
        uri.probe(request.corpus_url)
        found, roots = None, Roots()
        if not uri.exists(uri.join(request.corpus_url, "corpus.json")):  # a wrong input makes no corpus
            found = discover(request.inputs, request.mapping, tell, roots=roots)
        self.corpus = Corpus.open_or_create(request.corpus_url)
        settings = [request.mapping, self._wear, *(["header_subjects"] if request.header_subjects else [])]
        self._register = Register(self.corpus, request.cohort, settings)
        self._register.finish_interrupted()
        self._register.roots.named.update(roots.named)
        self._withdrawn = self.corpus.withdrawn.read()
        self._offer = found or discover(
            request.inputs, request.mapping, tell, self._register.recall, self._register.roots
        )
        self._books = _label_books(request, self._offer.folders())
        self._register.sort(self._offer, self._withdrawn)
        self._check_labels()
        self._resumed = self._register.resume(self._offer)
        self._log, self._twins = OutcomeLog(self.corpus.url, request.cohort), Twins()
        self._totals = Totals()

    def _check_labels(self) -> None:
        if self._books:
            new = (item.name for item in self._offer.items(registered.NEW))
            check_unambiguous(self._books, itertools.chain(self._register.present(), new))

    def write(self) -> None:
        """Writes what is new in parts, and commits them."""
        meanings = Meanings(self._books)
        for name in self._register.present() if self._books else ():
            meanings.add(name)
        collect = functools.partial(
            Gathered,
            self._books,
            meanings,
            self.request.subject_prefix,
            subject_pattern=self.request.subject_pattern,
            withdrawn=self._withdrawn.subjects,
        )
        commits = Commits(self._register, lambda there: collect(there=there), self._log, self._twins)
        for note in self._notes():
            commits.add(note)
        commits.finish()
        self._totals = commits.totals

    def _notes(self) -> Iterator[Note]:
        """Notes of all parts in the order of their numbers, or nearly: those of an interrupted run come first."""
        yield from (dataclasses.replace(note, task=number) for number, note in enumerate(self._resumed))
        count = self._offer.count(registered.NEW)
        if not count:
            return
        mapping = self.request.mapping
        # How many recordings a file of rows, or of segments, holds is known when it has been read.
        many = mapping.name == "pulsedb" if isinstance(mapping, Archive) else mapping and mapping.layout == "rows"
        with progress(f"ingest {self.request.cohort}", None if many else count, "recordings") as shown:
            for event in fanout.stream(write_noted, self._tasks()):
                if isinstance(event, Done):
                    shown.advance(event.recordings, event.last)
                elif event is not None:
                    yield event

    def _tasks(self) -> Iterator[NotedTask]:
        """A task for each part that is to be written, made when it is asked for."""
        request, register = self.request, self._register
        size = self._offer.bytes(registered.NEW)
        grouped = groups(self._offer.items(registered.NEW), size, request.part_bytes, fanout.cores())
        for number, items in enumerate(grouped, len(self._resumed)):
            part = PartTask(
                corpus_url=self.corpus.url,
                cohort=request.cohort,
                part_id=register.part_id(items),
                items=items,
                mapping=request.mapping,
                wear=self._wear,
                header_subjects=request.header_subjects,
                admission=self._admission(items),
            )
            yield NotedTask(part=part, notes_url=register.notes_url, settings=register.settings, number=number)

    def _admission(self, items: Sequence[Item]) -> Admission:
        return admission(
            self._withdrawn.subjects,
            self._register.there(items),
            self._books,
            self.request.subject_prefix,
            self.request.subject_pattern,
        )

    def report(self, before: int) -> IngestReport:
        """What became of it all, compared with what was in the corpus at version `before`."""
        totals, log, offer = self._totals, self._log, self._offer
        run = digest_json([self.request.cohort, totals.txns])
        version = max(totals.versions, default=None)
        log.add(self._not_read(), f"{run}-not-read")
        return IngestReport(
            corpus=self.corpus.url,
            cohort=self.request.cohort,
            txn=run,
            version=version,
            commits=len(totals.versions),
            kept=log.kept,
            rejected=log.rejected,
            known=offer.count(registered.KNOWN) + totals.known,
            left_out=log.left_out,
            lost=log.lost,
            noted=log.noted,
            resumed_parts=len(self._resumed),
            parts=totals.parts,
            hours=log.hours,
            channels=log.channels,
            notes=tuple(self._remarks()),
            unread=dict(sorted(offer.unread.items())),
            same=self._same(before),
            outcomes=tuple(log.urls),
        )

    def _not_read(self) -> Iterator[Outcome]:
        """What became of items that nobody reads."""
        for refusal in self._offer.refusals():
            yield Outcome(name=refusal.name, item=refusal.name, kept=False, reason=refusal.reason)
        for item in self._offer.items(registered.CHANGED):
            yield Outcome(name=item.name, item=item.name, kept=False, reason=_CHANGED)
        for item in self._offer.items(registered.LEFT_OUT):
            yield left_out(item.name, item.name)

    def _same(self, before: int) -> Same:
        if not self._totals.versions:
            return Same()
        earlier = self.corpus.snapshot(before, allow_withdrawn=True)
        self._twins.compare(earlier.batches(["cohort", "recording_id", "digest"]))
        return self._twins.same(MOST_NAMED)

    def _remarks(self) -> Iterator[str]:
        """What a reader of the report should know of subjects, labels and of what lies in the corpus."""
        totals, books = self._totals, self._books
        yield from (note for book in books for note in book.notes)
        if totals.alone and not any(book.names_subjects for book in books):
            yield (
                f"{totals.alone} recordings count as a subject of their own: name subjects (--labels and "
                "--subject-column, --subject-pattern, or subject_pattern in the mapping) if one person made several"
            )
        if totals.unlabelled:
            yield (f"{totals.unlabelled} recordings have no row in the label files, such as {totals.first_unlabelled}")
        yield from self._unchanged_labels()
        yield from _on_the_list(self.corpus, self._withdrawn)
        for url in self._register.strays:
            yield f"{url} was not read: it is no record of an ingest run; fix: remove it, or restore it from a copy"

    def _unchanged_labels(self) -> Iterator[str]:
        """What the tables of labels say otherwise of recordings that were in before: a run adds, it does not change."""
        if not self._books or next(self._register.present(), None) is None:
            return
        found = relabel.changes(self.corpus, self.request.cohort, self._books, self.request.subject_prefix)
        if found.labels.count:
            yield (
                f"labels of {found.labels.count} recordings that are in the corpus differ from those of the table, "
                f"such as {found.labels.first[0]}: --update-labels takes them over"
            )
        if found.subjects.count:
            yield (
                f"the table names another subject for {found.subjects.count} recordings, such as "
                f"{found.subjects.first[0]}: who is in which split stays as it is; withdraw and ingest them again to "
                "change it"
            )


_CHANGED = (
    "its files changed since it was taken in, and nothing committed is rewritten; "
    "fix: `xmae withdraw` and then `xmae readmit` its subject, and run this again; or take it in as another cohort"
)


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
    if not before.recordings:
        raise UsageError("--cohort", value=request.cohort, expected="a cohort that is in the corpus")
    return LabelReport(
        corpus=corpus.url,
        cohort=request.cohort,
        version=relabel.update(corpus, request.cohort, books) if before.labels.count else None,
        changed=before.labels,
        other_subjects=before.subjects,
        without_a_row=before.without_a_row,
        notes=tuple(note for book in books for note in book.notes),
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


def _on_the_list(corpus: Corpus, withdrawn: Withdrawn) -> Iterator[str]:
    """What is not as the list of the withdrawn says, and what that list cannot say."""
    if withdrawn.subjects:
        subjects = [("subject_id", "in", sorted(withdrawn.subjects))]
        present = corpus.index.read(columns=["subject_id"], filters=subjects)["subject_id"]
        if back := sorted(present.unique().to_pylist()):
            yield (
                f"{', '.join(back)}: withdrawn, and in the corpus again, from before it kept a list; "
                "fix: `xmae withdraw` once more, or `xmae readmit`"
            )
    if withdrawn.unnamed:
        yield (
            f"{withdrawn.unnamed} people were withdrawn before this corpus kept a list, and cannot be named any more: "
            "nothing keeps their files out; fix: `xmae withdraw --absent --subject NAME --apply`"
        )


def _stored(report: IngestReport) -> IngestReport:
    """Writes the report into the corpus; a run that had nothing to do leaves none."""
    if not report.kept.count and not report.rejected.count:
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
