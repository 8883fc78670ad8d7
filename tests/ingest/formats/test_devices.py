"""Empatica, Biopac, Vital Recorder, DICOM and Lab Streaming Layer: the suite of formats, on files of known values."""

from __future__ import annotations

import gzip
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import device_files as files
import numpy as np
import pytest

from xmae_dist.core.errors import InputError
from xmae_dist.ingest.formats import biopac
from xmae_dist.ingest.formats.protocol import Format
from xmae_dist.ingest.formats.registry import SELF_DESCRIBING
from xmae_dist.ingest.readers import formats_of
from xmae_dist.ingest.run import IngestRequest, ingest
from xmae_dist.testing.conformance_formats import FormatConformance, Sample, one_recording, read_whole

BY_NAME = {entry.name: entry for entry in SELF_DESCRIBING}
Writer = Callable[[Path, int], dict[str, np.ndarray]]


class DeviceConformance(FormatConformance):
    """`name` of the format, its file's `suffix`, who writes one, and what the file says of rates and time."""

    streams = False
    name: str
    suffix: str
    write: Writer
    rates_hz: ClassVar[dict[str, float]]
    start_ns: int | None = None

    @pytest.fixture
    def entry(self) -> Format:
        return BY_NAME[self.name]

    @pytest.fixture
    def sample(self, tmp_path: Path) -> Sample:
        path = tmp_path / "in" / f"r1{self.suffix}"
        signals = type(self).write(path, 20)
        return Sample(
            folder=path.parent,
            head=path.name,
            signals=signals,
            rates_hz=self.rates_hz,
            start_time_ns=self.start_ns,
            recording_id="r1",
        )

    @pytest.fixture
    def longer(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Path]:
        monkeypatch.setattr(biopac, "BLOCK_BYTES", 2**15)

        def written(times: int) -> Path:
            path = tmp_path / f"x{times}" / f"r{self.suffix}"
            type(self).write(path, 200 * times)
            return path.parent

        return written


class TestEmpatica(DeviceConformance):
    name, suffix, write = "empatica", ".avro", staticmethod(files.write_avro)
    rates_hz: ClassVar = {"ppg": 64, "eda": 4, "acc_x": 64, "acc_y": 64, "acc_z": 64}
    start_ns = 1_800_000_000 * 10**9


class TestBiopac(DeviceConformance):
    streams = True
    name, suffix, write = "biopac", ".acq", staticmethod(files.write_acq)
    rates_hz: ClassVar = {"ECG": 200, "PPG": 50}


class TestVital(DeviceConformance):
    name, suffix, write = "vital", ".vital", staticmethod(files.write_vital)
    rates_hz: ClassVar = {"Bed1/PLETH": 100, "Bed1/ECG_II": 250}
    start_ns = 1_800_000_000 * 10**9


class TestDicom(DeviceConformance):
    name, suffix, write = "dicom", ".dcm", staticmethod(files.write_dicom)
    rates_hz: ClassVar = {"Lead I": 500, "Lead II": 500, "Arterial": 125}
    start_ns = 1_935_862_215_250_000_000  # 2031-05-06 19:30:15.25 UTC


class TestXdf(DeviceConformance):
    name, suffix, write = "xdf", ".xdf", staticmethod(files.write_xdf)
    rates_hz: ClassVar = {"I": 250, "II": 250, "PPG": 50}


def test_all_of_them_reach_one_corpus(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    files.write_avro(folder / "a.avro", 20)
    files.write_acq(folder / "b.acq", 20)
    files.write_vital(folder / "c.vital", 20)
    files.write_dicom(folder / "d.dcm", 20)
    files.write_xdf(folder / "e.xdf", 20)
    (folder / "f.csv").write_text("a,b\n1,2\n")
    report = ingest(IngestRequest(inputs=(str(folder),), corpus_url=f"file://{tmp_path}/c", cohort="c"))
    assert report.rejected.count == 0 and dict(report.unread) == {".csv": 1}
    channels = {outcome.name: set(outcome.channels) for outcome in report.kept.first}
    assert {"ecg", "ppg"} <= channels["b"] and {"ecg", "ppg"} <= channels["c"] and {"ecg", "ppg"} <= channels["e"]
    assert "ppg" in channels["a"] and {"ecg", "ecg_i"} <= channels["d"]


@pytest.mark.parametrize(("name", "person"), [("empatica", "P-9"), ("dicom", "P-5")])
def test_a_person_in_the_header_is_taken_where_asked_for(tmp_path: Path, name: str, person: str) -> None:
    write, suffix = {"empatica": (files.write_avro, ".avro"), "dicom": (files.write_dicom, ".dcm")}[name]
    write(tmp_path / f"r{suffix}", 5)
    assert one_recording(formats_of(None, header_subjects=True)[name], tmp_path).origin.subject_id == person


def test_markers_and_tags_become_labels(tmp_path: Path) -> None:
    files.write_xdf(tmp_path / "x" / "r.xdf", 10)
    origin = one_recording(BY_NAME["xdf"], tmp_path / "x").origin
    assert origin.labels == {"events_stimulus": 1.0} and origin.label_text == {"opened_at": "2031-05-06T21:30:15+0200"}
    files.write_avro(tmp_path / "a" / "r.avro", 10)
    assert one_recording(BY_NAME["empatica"], tmp_path / "a").origin.labels == {"events_tag": 1.0}


@pytest.mark.parametrize(
    ("name", "suffix", "library", "extra"),
    [
        ("empatica", ".avro", "fastavro", "avro"),
        ("biopac", ".acq", "bioread", "biopac"),
        ("dicom", ".dcm", "pydicom", "dicom"),
        ("xdf", ".xdf", "pyxdf", "xdf"),
    ],
)
def test_a_missing_library_names_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, suffix: str, library: str, extra: str
) -> None:
    writers = {
        "empatica": files.write_avro,
        "biopac": files.write_acq,
        "dicom": files.write_dicom,
        "xdf": files.write_xdf,
    }
    writers[name](tmp_path / f"r{suffix}", 5)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(InputError, match=re.escape(f"pip install 'xmae_dist[{extra}]'")):
        one_recording(BY_NAME[name], tmp_path)


def test_a_vital_file_with_a_damaged_time_is_refused(tmp_path: Path) -> None:
    files.write_vital(tmp_path / "r.vital", 5)
    body = gzip.decompress((tmp_path / "r.vital").read_bytes())
    late = files._packet(1, files._samples(1, 9e9, np.zeros(100, "<i2")))
    (tmp_path / "r.vital").write_bytes(gzip.compress(body + late))
    with pytest.raises(InputError, match="s long"):
        read_whole(one_recording(BY_NAME["vital"], tmp_path))
