"""DICOM waveforms (12-lead ECG, haemodynamic and other monitoring), read by `pydicom`.

A file holds one or more multiplex groups, each at a rate and with a time offset of its own.
Format: DICOM PS3.3, C.10.9 Waveform Module.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmae_dist.core.errors import InputError
from xmae_dist.ingest.formats.protocol import library, parsing
from xmae_dist.ingest.formats.source import (
    HeldRecording,
    Opened,
    Origin,
    Raw,
    SourceChannel,
    device_unit,
    distinct_keys,
    missing_value,
)


def opened(path: Path, name: str, header_subjects: bool) -> Iterator[Opened]:
    """The recording of a file; with `header_subjects` its PatientID is the subject."""
    pydicom = library("pydicom", "dicom")
    errors = (pydicom.errors.InvalidDicomError, pydicom.errors.BytesLengthException)
    try:
        with parsing(path, "a DICOM waveform"):
            dataset = pydicom.dcmread(path)
            groups = [_Group(dataset, number, path) for number in range(len(dataset.get("WaveformSequence") or ()))]
            start_ns = _start_ns(dataset)
            person = str(dataset.get("PatientID") or "") if header_subjects else ""
    except errors as error:
        raise InputError(f"file {path.name}", value=f"unreadable ({error})", expected="a DICOM waveform") from error
    if not groups:
        raise InputError(f"file {path.name}", value="no WaveformSequence", expected="a DICOM waveform, not an image")
    keys = iter(distinct_keys([label for group in groups for label in group.labels]))
    first_s = min(group.offset_s for group in groups)
    channels: list[SourceChannel] = []
    signals: dict[str, Raw] = {}
    for group in groups:
        lead = round((group.offset_s - first_s) * group.rate_hz)
        for at in range(len(group.labels)):
            key = next(keys)
            channels.append(group.channel(at, key))
            raw = group.raw_TC[:, at]
            signals[key] = np.concatenate([np.full(lead, missing_value(raw.dtype), raw.dtype), raw])
    start_ns = None if start_ns is None else start_ns + round(first_s * 1e9)
    yield HeldRecording(
        Origin(recording_id=name, subject_id=person or None, start_time_ns=start_ns), tuple(channels), signals
    )


class _Group:
    """One multiplex group: raw_TC (samples, channels) int32, and how its numbers are meant."""

    def __init__(self, dataset: Any, number: int, path: Path) -> None:
        item = dataset.WaveformSequence[number]
        self.definitions = list(item.ChannelDefinitionSequence)
        self.rate_hz = float(item.SamplingFrequency)
        self.offset_s = float(item.get("MultiplexGroupTimeOffset") or 0.0) / 1000
        self.labels = [_label(one) for one in self.definitions]
        held, stated = len(item.WaveformData), _stated_bytes(item)
        if held < stated:
            raise InputError(
                f"file {path.name}",
                value=f"{held} bytes of waveform (truncated)",
                expected=f"{stated} bytes for {item.NumberOfWaveformSamples} samples",
                fix="copy the file again from its source",
            )
        decoded = library("pydicom.waveforms", "dicom").multiplex_array(dataset, number, as_raw=True)
        self.raw_TC = _marked(decoded, item)

    def channel(self, at: int, key: str) -> SourceChannel:
        definition = self.definitions[at]
        unit, factor = device_unit(_unit(definition))
        scale = float(definition.get("ChannelSensitivity") or 1.0)
        scale *= float(definition.get("ChannelSensitivityCorrectionFactor") or 1.0)
        return SourceChannel(
            key=key,
            source_name=self.labels[at],
            rate_hz=self.rate_hz,
            dtype="int32",
            unit=unit,
            scale=scale * factor,
            offset=float(definition.get("ChannelBaseline") or 0.0) * factor,
        )


def _stated_bytes(item: Any) -> int:
    return int(item.NumberOfWaveformSamples) * int(item.NumberOfWaveformChannels) * int(item.WaveformBitsAllocated) // 8


def _marked(raw_TC: NDArray[Any], item: Any) -> NDArray[np.int32]:
    """Samples in 32 bits, those of the padding value as missing."""
    wide_TC = raw_TC.astype(np.int32)
    padding = item.get("WaveformPaddingValue")
    if padding is not None:
        value = padding if isinstance(padding, int) else np.frombuffer(padding, raw_TC.dtype)[0]
        wide_TC[raw_TC == value] = np.iinfo(np.int32).min
    return wide_TC


def _label(definition: Any) -> str:
    """The lead of the channel as the standard codes it, else what the device wrote."""
    source = definition.get("ChannelSourceSequence")
    meaning = str(source[0].get("CodeMeaning") or "") if source else ""
    return meaning or str(definition.get("ChannelLabel") or "")


def _unit(definition: Any) -> str:
    units = definition.get("ChannelSensitivityUnitsSequence")
    return str(units[0].CodeValue).strip("{}").replace("mm[Hg]", "mmHg") if units else ""


def _start_ns(dataset: Any) -> int | None:
    """Wall time of the first group's time zero; UTC where no offset is stated."""
    text = str(dataset.get("AcquisitionDateTime") or "")
    if not text:
        date = dataset.get("AcquisitionDate") or dataset.get("ContentDate")
        time = dataset.get("AcquisitionTime") or dataset.get("ContentTime")
        text = f"{date}{time}" if date and time else ""
    if not text:
        return None
    zone = text[-5:] if len(text) > 5 and text[-5] in "+-" else ""
    plain, _, fraction = text.removesuffix(zone).strip().partition(".")
    start = datetime.datetime.strptime(plain.ljust(14, "0"), "%Y%m%d%H%M%S").replace(tzinfo=datetime.UTC)
    if zone:
        start -= datetime.timedelta(hours=int(zone[:3]), minutes=int(zone[0] + zone[3:]))
    start += datetime.timedelta(microseconds=int(fraction[:6].ljust(6, "0")) if fraction else 0)
    return (start - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)) // datetime.timedelta(microseconds=1) * 1000
