"""`xmae ingest`: recordings of a device into a corpus."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from xmae_dist.core.errors import UsageError
from xmae_dist.core.tables import terminal
from xmae_dist.ingest.datasets.catalogue import Archive, archive
from xmae_dist.ingest.formats.mapping import Mapping, parse_mapping
from xmae_dist.ingest.report import show, show_labels
from xmae_dist.ingest.run import IngestRequest, Manifest, ingest, parse_body_sites, update_labels
from xmae_dist.ingest.suggest import suggest
from xmae_dist.storage import uri


@dataclass(frozen=True, kw_only=True)
class Args:
    """Read recordings of a device (WFDB, EDF, tables, MATLAB, HDF5, public data sets as downloaded) into a corpus.

    New recordings are written in parts, in parallel, and become visible with commits during the run, in the order of
    the files. The same command again adds new files only. A recording that cannot be read is reported with its reason;
    all others are kept. Exit status: 0 all kept, 1 some recordings rejected, 2 nothing usable or a wrong option.
    """

    inputs: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Folders, WFDB records (with or without .hea) or files; paths or URLs (s3://bucket/key)."""
    suggest: str | None = None
    """Read this one file (a table, EDF, HDF5 or MATLAB) and print a draft of its mapping: what was found, and what you
    must decide. Nothing is ingested.
    """
    corpus: str = ""
    """URL of the corpus; created if it does not exist."""
    cohort: str = ""
    """Name of this campaign of one device: letters, digits, '.', '_' and '-'."""
    mapping: str | None = None
    """Mapping file (TOML or JSON) that states what the columns of tables mean; docs/mapping.md lists every key."""
    adapter: str | None = None
    """Public data set that was downloaded to the folder: bidmc, dreamt, mimic_perform_af, ppg_dalia, pulsedb, vitaldb
    or wesad (docs/datasets.md); also reads its subjects and labels.
    """
    labels: str | None = None
    """CSV table with a row per recording; columns of numbers become labels, all others text labels."""
    record_column: str = "record"
    """Column of the table that names the recording."""
    subject_column: str | None = None
    """Column of the table that names the person. Splits are by person, so give it whenever one person has several
    recordings.
    """
    subject_pattern: str | None = None
    """Regular expression whose first group, found in a recording's id (its path without suffix), is the subject:
    'p(\\d{6})' for WFDB folders of one patient each. A subject from the table is preferred.
    """
    update_labels: bool = False
    """Change labels of recordings that are in the corpus to those of the table (--labels, or label_files of the
    mapping): one commit, no signal is read, nothing is added. With --labels, no input is needed.
    """
    subject_prefix: str = ""
    """Text to put before every subject id, to distinguish people of different campaigns with the same number."""
    header_subjects: bool = False
    """Use the patient code in the header of EDF, BDF and DICOM files as the subject. Otherwise it is ignored."""
    device: str = ""
    """Make or model of the device."""
    body_site: tuple[str, ...] = ()
    """Where the device was worn: one site for all channels, or channel=site for some (ecg=chest ppg=finger)."""
    part_mib: int = 512
    """Largest total size of the input files of one part, in MiB; a part has one array per channel."""
    json: bool = False
    """Print the report as JSON instead of a table."""


def run(args: Args) -> int:
    """Carries the command out and returns its exit status."""
    if args.suggest is not None:
        print(suggest(Path(args.suggest)), end="")
        return 0
    request = IngestRequest(
        inputs=_inputs(args),
        corpus_url=uri.normalise(_given("--corpus", args.corpus)),
        cohort=_given("--cohort", args.cohort),
        mapping=_mapping(args),
        manifest=_manifest(args),
        device=args.device,
        body_sites=parse_body_sites(args.body_site),
        subject_prefix=args.subject_prefix,
        subject_pattern=args.subject_pattern,
        header_subjects=args.header_subjects,
        part_bytes=_part_bytes(args),
    )
    if args.update_labels:
        return _update_labels(request, args)
    report = ingest(request)
    if args.json:
        print(report.to_json())
    else:
        show(report, terminal())
    return report.exit_status


def _given(option: str, value: str) -> str:
    if not value:
        raise UsageError(option, value="none", expected="one", fix=f"add {option}; `xmae ingest --help` explains it")
    return value


def _update_labels(request: IngestRequest, args: Args) -> int:
    report = update_labels(request)
    if args.json:
        print(report.to_json())
    else:
        show_labels(report, terminal())
    return 0


def _inputs(args: Args) -> tuple[str, ...]:
    if not args.inputs and not args.update_labels:
        raise UsageError("inputs", value="none", expected="folders, records or files", fix="name what to ingest")
    return args.inputs


def _mapping(args: Args) -> Mapping | Archive | None:
    if args.adapter is not None:
        if args.mapping is not None:
            raise UsageError("--adapter and --mapping", value="both", fix="give one of them")
        return archive(args.adapter)
    if args.mapping is None:
        return None
    text = uri.read_bytes(uri.normalise(args.mapping)).decode("utf-8", "replace")
    return parse_mapping(text, args.mapping.rsplit("/", 1)[-1])


def _manifest(args: Args) -> Manifest | None:
    if args.labels is None:
        if args.subject_column is not None:
            raise UsageError("--subject-column", value=args.subject_column, fix="give the manifest too: --labels FILE")
        return None
    return Manifest(url=args.labels, record_column=args.record_column, subject_column=args.subject_column)


def _part_bytes(args: Args) -> int:
    if args.part_mib < 1:
        raise UsageError("--part-mib", value=args.part_mib, expected="at least 1")
    return args.part_mib * 2**20
