"""The formats whose files describe themselves: no mapping is needed, and a folder may hold several of them."""

from __future__ import annotations

from xmae_dist.ingest.formats.edf_files import EdfFormat
from xmae_dist.ingest.formats.protocol import Format, SuffixFormat
from xmae_dist.ingest.formats.wfdb_files import WfdbFormat

SELF_DESCRIBING: tuple[Format, ...] = (
    WfdbFormat(),
    EdfFormat(),
    SuffixFormat(name="empatica", title="Empatica (*.avro)", suffixes=(".avro",), opener="empatica:opened"),
    SuffixFormat(name="biopac", title="Biopac (*.acq)", suffixes=(".acq",), opener="biopac:opened"),
    SuffixFormat(name="vital", title="Vital Recorder (*.vital)", suffixes=(".vital",), opener="vital:opened"),
    SuffixFormat(name="dicom", title="DICOM waveforms (*.dcm)", suffixes=(".dcm",), opener="dicom:opened"),
    SuffixFormat(name="xdf", title="Lab Streaming Layer (*.xdf)", suffixes=(".xdf",), opener="xdf:opened"),
)
