"""Files of devices, written by their libraries where those write, else by hand from the published layout."""

from __future__ import annotations

import ctypes
import gzip
import struct
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pydicom
from bioread import headers as acq
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, TwelveLeadECGWaveformStorage, generate_uid


def write_avro(path: Path, seconds: int) -> dict[str, np.ndarray]:
    """An EmbracePlus file of BVP (64 Hz), EDA (4 Hz, half a second later) and accelerometer (64 Hz)."""
    rng = np.random.default_rng(3)
    bvp, eda = rng.standard_normal(64 * seconds), rng.random(4 * seconds)
    axes = rng.integers(-(2**15), 2**15, (3, 64 * seconds))
    axes[0, 5] = -(2**15)
    start = 1_800_000_000_000_000

    def values(rate: float, at: int, found: np.ndarray) -> dict[str, Any]:
        return {"timestampStart": at, "samplingFrequency": rate, "values": [float(np.float32(one)) for one in found]}

    params = {"physicalMin": -16, "physicalMax": 16, "digitalMin": -32768, "digitalMax": 32768}
    nothing = {"timestampStart": 0, "samplingFrequency": 0.0}
    raw = {
        "accelerometer": {
            "timestampStart": start, "samplingFrequency": 64.0, "imuParams": params,
            **{axis: found.tolist() for axis, found in zip("xyz", axes, strict=True)},
        },
        "gyroscope": {**nothing, "imuParams": params, "x": [], "y": [], "z": []},
        "eda": values(4.0, start + 500_000, eda),
        "temperature": {**nothing, "values": []},
        "bvp": values(64.0, start, bvp),
        "tags": {"tagsTimeMicros": [start + 3_000_000]},
    }  # fmt: skip
    record = {"enrollment": {"participantID": "P-9"}, "deviceSn": "3YK", "rawData": raw}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        fastavro.writer(file, _AVRO, [record], codec="deflate")
    found = {"ppg": bvp.astype(np.float32), "eda": np.concatenate([[np.nan] * 2, eda.astype(np.float32)])}
    return found | {f"acc_{axis}": axes[at] * (32 / 65536) for at, axis in enumerate("xyz")}


def _record(name: str, **fields: Any) -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": [{"name": key, "type": kind} for key, kind in fields.items()]}


def _floats(name: str) -> dict[str, Any]:
    return _record(name, timestampStart="long", samplingFrequency="float", values={"type": "array", "items": "float"})


def _axes(name: str) -> dict[str, Any]:
    whole = {"type": "array", "items": "int"}
    params = _record(f"{name}Params", physicalMin="int", physicalMax="int", digitalMin="int", digitalMax="int")
    return _record(name, timestampStart="long", samplingFrequency="float", imuParams=params, x=whole, y=whole, z=whole)


_AVRO = fastavro.parse_schema(
    _record(
        "csvdata",
        enrollment=_record("enrollment", participantID="string"),
        deviceSn="string",
        rawData=_record(
            "rawData",
            accelerometer=_axes("Accelerometer"),
            gyroscope=_axes("Gyroscope"),
            eda=_floats("EDA"),
            temperature=_floats("Temperature"),
            bvp=_floats("BVP"),
            tags=_record("Tags", tagsTimeMicros={"type": "array", "items": "long"}),
        ),
    )
)


def write_dicom(path: Path, seconds: int) -> dict[str, np.ndarray]:
    """A DICOM ECG of two groups: leads I and II at 500 Hz, and a pressure at 125 Hz that starts 2 s later."""
    rng = np.random.default_rng(5)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = TwelveLeadECGWaveformStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.PatientID, dataset.PatientName = "P-5", "Somebody^Mrs"
    dataset.AcquisitionDateTime = "20310506213015.250000+0200"
    dataset.WaveformSequence = []
    found = {}
    for rate, offset_ms, leads, sensitivity, unit in (
        (500, 0, ("Lead I", "Lead II"), 0.005, "mV"),
        (125, 2000, ("Arterial",), 0.1, "mm[Hg]"),
    ):
        raw = rng.integers(-3000, 3000, (rate * seconds, len(leads))).astype(np.int16)
        raw[7] = -(2**15)
        dataset.WaveformSequence.append(_group(raw, rate, offset_ms, leads, sensitivity, unit))
        lead_in = np.full(round(offset_ms / 1000 * rate), np.nan)
        found |= {lead: np.concatenate([lead_in, raw[:, at] * sensitivity]) for at, lead in enumerate(leads)}
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    return found


def _group(raw: np.ndarray, rate: int, offset_ms: int, leads: tuple[str, ...], scale: float, unit: str) -> Dataset:
    group = Dataset()
    group.MultiplexGroupTimeOffset, group.WaveformOriginality = offset_ms, "ORIGINAL"
    group.NumberOfWaveformChannels, group.NumberOfWaveformSamples = raw.shape[1], len(raw)
    group.SamplingFrequency, group.WaveformBitsAllocated, group.WaveformSampleInterpretation = rate, 16, "SS"
    group.ChannelDefinitionSequence = []
    for lead in leads:
        source, units, channel = Dataset(), Dataset(), Dataset()
        source.CodeValue, source.CodingSchemeDesignator, source.CodeMeaning = "2:1", "MDC", lead
        units.CodeValue, units.CodingSchemeDesignator, units.CodeMeaning = unit, "UCUM", unit
        channel.ChannelSourceSequence, channel.ChannelSensitivityUnitsSequence = [source], [units]
        channel.ChannelSensitivity, channel.ChannelBaseline = scale, 0
        channel.ChannelSensitivityCorrectionFactor, channel.WaveformBitsStored = 1, 16
        group.ChannelDefinitionSequence.append(channel)
    group.add_new("WaveformData", "OW", raw.astype("<i2").tobytes())
    return group


def write_xdf(path: Path, seconds: int) -> dict[str, np.ndarray]:
    """An XDF file by its published layout: an ECG stream at 250 Hz with a hole of 1 s, a PPG at 50 Hz, and markers."""
    rng = np.random.default_rng(7)
    streams = [
        (1, "Heart", "ECG", 250, rng.standard_normal((250 * seconds, 2)), (("I", "millivolts"), ("II", "millivolts"))),
        (2, "Finger", "PPG", 50, rng.standard_normal((50 * seconds, 1)), ()),
    ]
    start_s = 5000.25
    body = b"XDF:" + _chunk(
        1, b"<?xml version='1.0'?><info><version>1.0</version><datetime>2031-05-06T21:30:15+0200</datetime></info>"
    )
    found = {}
    for number, name, kind, rate, values, described in streams:
        body += _chunk(2, struct.pack("<I", number) + _stream_header(name, kind, rate, values.shape[1], described))
    body += _chunk(2, struct.pack("<I", 3) + _marker_header())
    for number, _, kind, rate, values, described in streams:
        times = start_s + np.arange(len(values)) / rate
        kept = np.ones(len(values), bool)
        if number == 1:
            kept[rate * 5 : rate * 6] = False
        samples = b"".join(
            b"\x08" + struct.pack("<d", at) + row.astype("<f4").tobytes()
            for at, row in zip(times[kept], values[kept], strict=True)
        )
        body += _chunk(3, struct.pack("<I", number) + b"\x04" + struct.pack("<I", int(kept.sum())) + samples)
        shown = np.where(kept[:, None], values.astype(np.float32), np.nan)
        labels = [label for label, _ in described] or [kind]
        found |= {label: shown[:, at] for at, label in enumerate(labels)}
    text = b"stimulus"
    marker = b"\x08" + struct.pack("<d", start_s + 1) + b"\x01" + bytes([len(text)]) + text
    body += _chunk(3, struct.pack("<I", 3) + b"\x04" + struct.pack("<I", 1) + marker)
    for number in (1, 2, 3):
        body += _chunk(
            6, struct.pack("<I", number) + b"<?xml version='1.0'?><info><sample_count>1</sample_count></info>"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)
    return found


def _chunk(tag: int, content: bytes) -> bytes:
    return b"\x04" + struct.pack("<IH", len(content) + 2, tag) + content


def _stream_header(name: str, kind: str, rate: int, count: int, described: tuple[tuple[str, str], ...]) -> bytes:
    channels = "".join(f"<channel><label>{label}</label><unit>{unit}</unit></channel>" for label, unit in described)
    desc = f"<desc><channels>{channels}</channels></desc>" if described else "<desc />"
    return (
        f"<?xml version='1.0'?><info><name>{name}</name><type>{kind}</type><channel_count>{count}</channel_count>"
        f"<nominal_srate>{rate}</nominal_srate><channel_format>float32</channel_format>"
        f"<source_id>{name}</source_id><hostname>h</hostname>{desc}</info>"
    ).encode()


def _marker_header() -> bytes:
    return (
        b"<?xml version='1.0'?><info><name>Marks</name><type>Markers</type><channel_count>1</channel_count>"
        b"<nominal_srate>0</nominal_srate><channel_format>string</channel_format><source_id>m</source_id>"
        b"<hostname>h</hostname><desc /></info>"
    )


def write_acq(path: Path, seconds: int) -> dict[str, np.ndarray]:
    """An AcqKnowledge 3.7 file by bioread's own layout of it: ECG as int16 at 200 Hz, PPG as float64 at 50 Hz."""
    rng = np.random.default_rng(9)
    revision, order = 38, "<"
    ecg = rng.integers(-(2**15), 2**15, 200 * seconds).astype("<i2")
    ecg[3] = -(2**15)
    ppg = rng.standard_normal(50 * seconds)

    def packed(kind: type[acq.Header], **fields: Any) -> bytes:
        made = kind.for_revision(revision, order)._struct_class()
        for name, value in fields.items():
            setattr(made, name, ctypes.sizeof(made) if value is ... else value)
        return bytes(made)

    body = packed(acq.GraphHeader, lVersion=revision, lExtItemHeaderLen=..., nChannels=2, dSampleTime=5.0)
    for name, unit, count, divider in ((b"ECG", b"mV", len(ecg), 1), (b"PPG", b"", len(ppg), 4)):
        body += packed(
            acq.ChannelHeader, lChanHeaderLen=..., szCommentText=name, szUnitsText=unit, lBufLength=count,
            dAmplScale=0.001, dAmplOffset=0.5, nVarSampleDivider=divider,
        )  # fmt: skip
    body += packed(acq.ForeignHeader, nLength=4, nType=0)
    body += packed(acq.ChannelDTypeHeader, nSize=2, nType=2) + packed(acq.ChannelDTypeHeader, nSize=8, nType=1)
    for at in range(len(ppg)):
        body += ecg[4 * at : 4 * at + 1].tobytes() + struct.pack("<d", ppg[at]) + ecg[4 * at + 1 : 4 * at + 4].tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)
    return {"ECG": ecg * 0.001 + 0.5, "PPG": ppg}


def write_vital(path: Path, seconds: int) -> dict[str, np.ndarray]:
    """A .vital file by its published layout: a pulse wave of int16 with a hole of 2 s, an ECG of floats."""
    rng = np.random.default_rng(11)
    pleth = rng.integers(-3000, 3000, 100 * seconds).astype("<i2")
    ecg = rng.standard_normal(250 * seconds).astype("<f4")
    body = b"VITA" + struct.pack("<IH", 3, 10) + bytes(10)
    body += _packet(9, struct.pack("<I", 1) + _word("Monitor") + _word("Bed1"))
    body += _packet(0, _track(1, 5, "PLETH", "", 100, 0.01, 3.0)) + _packet(0, _track(2, 1, "ECG_II", "mV", 250, 1, 0))
    for second in range(seconds):
        at_s = 1_800_000_000.0 + second
        if second not in (3, 4):
            body += _packet(1, _samples(1, at_s, pleth[second * 100 : second * 100 + 100]))
        body += _packet(1, _samples(2, at_s, ecg[second * 250 : second * 250 + 250]))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(body))
    shown = pleth * 0.01 + 3.0
    shown[300:500] = np.nan
    return {"Bed1/PLETH": shown, "Bed1/ECG_II": ecg.astype(float)}


def _packet(kind: int, content: bytes) -> bytes:
    return struct.pack("<bI", kind, len(content)) + content


def _word(text: str) -> bytes:
    return struct.pack("<I", len(text)) + text.encode()


def _track(number: int, kind: int, name: str, unit: str, rate: float, gain: float, offset: float) -> bytes:
    head = struct.pack("<HBB", number, 1, kind) + _word(name) + _word(unit)
    return head + struct.pack("<ffIfddBI", 0.0, 1.0, 0, rate, gain, offset, 0, 1)


def _samples(number: int, at_s: float, values: np.ndarray) -> bytes:
    return struct.pack("<HdHI", 10, at_s, number, len(values)) + values.tobytes()
