"""EDF and BDF files written by edfio and by hand, read against pyedflib and against what was written."""

from __future__ import annotations

import datetime
import random
import re
import struct
from collections.abc import Callable
from pathlib import Path

import edfio
import numpy as np
import pyarrow as pa
import pyedflib
import pytest

from xmae_dist.core.errors import InputError
from xmae_dist.evaluate.labels import Labelled, label_values
from xmae_dist.evaluate.tasks import Task
from xmae_dist.ingest.formats import edf as reader
from xmae_dist.ingest.formats.edf_files import EdfFormat, annotations_beside
from xmae_dist.ingest.formats.protocol import Format
from xmae_dist.ingest.formats.source import SourceRecording
from xmae_dist.ingest.run import IngestRequest, ingest
from xmae_dist.storage.corpus import Corpus
from xmae_dist.testing.conformance_formats import FormatConformance, Sample, one_recording, read_whole

START = datetime.datetime(2031, 5, 6, 21, 30, 15, 250000)
START_NS = int(START.replace(tzinfo=datetime.UTC).timestamp() * 1000) * 10**6
RATES_HZ = {"EKG II": 200, "Pleth": 75, "Resp": 25}


def write(path: Path, seconds: int, kind: str = "edf", **options: object) -> Path:
    """An EDF+C or BDF+C file of three signals at three rates, with values over the whole range."""
    signal, whole = (edfio.EdfSignal, edfio.Edf) if kind == "edf" else (edfio.BdfSignal, edfio.Bdf)
    rng = np.random.default_rng(seconds)
    signals = [
        signal(
            np.clip(rng.standard_normal(seconds * rate), -4, 4),
            rate,
            label=label,
            physical_dimension=unit,
            physical_range=(-4, 4.5),
        )
        for (label, rate), unit in zip(RATES_HZ.items(), ("uV", "", "L/s"), strict=True)
    ]
    given = {
        "patient": edfio.Patient(code="P-77", name="Mrs_Somebody", sex="F"),
        "recording": edfio.Recording(startdate=START.date()),
        "starttime": START.time(),
        "annotations": [edfio.EdfAnnotation(0.5, None, "Lights off")],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    whole(signals, **{**given, **options}).write(path)
    return path


def by_pyedflib(path: Path) -> dict[str, np.ndarray]:
    with pyedflib.EdfReader(str(path)) as file:
        return {label: file.readSignal(at) for at, label in enumerate(file.getSignalLabels())}


class EdfConformance(FormatConformance):
    kind = "edf"

    @pytest.fixture
    def entry(self) -> Format:
        return EdfFormat()

    @pytest.fixture
    def sample(self, tmp_path: Path) -> Sample:
        path = write(tmp_path / "in" / f"night1.{self.kind}", 60, self.kind)
        signals = by_pyedflib(path)
        signals["EKG II"] = signals["EKG II"] / 1000  # µV to mV
        return Sample(
            folder=path.parent,
            head=path.name,
            signals=signals,
            rates_hz=RATES_HZ,
            start_time_ns=START_NS,
            recording_id="night1",
        )

    @pytest.fixture
    def longer(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Path]:
        monkeypatch.setattr(reader, "BLOCK_BYTES", 2**18)
        return lambda times: write(tmp_path / f"x{times}" / f"long.{self.kind}", 1500 * times, self.kind).parent


class TestEdf(EdfConformance):
    pass


class TestBdf(EdfConformance):
    kind = "bdf"


def open_edf(path: Path) -> SourceRecording:
    return one_recording(EdfFormat(), path.parent)


def discontinuous(path: Path, onsets_s: list[float], kind: str = "EDF") -> tuple[Path, np.ndarray]:
    """An EDF+D (or BDF+D) file by the published layout: a record of 1 s of 100 Hz at each of `onsets_s`."""
    n, width, size = len(onsets_s), 100, 2 if kind == "EDF" else 3
    tal_samples = 30
    head = (b"0".ljust(8) if kind == "EDF" else b"\xffBIOSEMI") + b"X X X X".ljust(80)
    head += b"Startdate 06-MAY-2031 X X X".ljust(80) + b"06.05.3121.30.15" + str(256 * 3).encode().ljust(8)
    head += f"{kind}+D".encode().ljust(44) + str(n).encode().ljust(8) + b"1".ljust(8) + b"2".ljust(4)
    top = 2 ** (8 * size - 1) - 1
    fields = [
        (b"ECG", f"{kind} Annotations".encode(), 16), (b"", b"", 80), (b"mV", b"", 8), (b"-5", b"-1", 8),
        (b"5", b"1", 8), (str(-top - 1).encode(), str(-top - 1).encode(), 8), (str(top).encode(), str(top).encode(), 8),
        (b"", b"", 80), (str(width).encode(), str(tal_samples).encode(), 8), (b"", b"", 32),
    ]  # fmt: skip
    head += b"".join(one.ljust(size_) + two.ljust(size_) for one, two, size_ in fields)
    digital = np.random.default_rng(4).integers(-top - 1, top, n * width)
    digital[:3] = [-top - 1, top, -top]
    body = b""
    for at, onset in enumerate(onsets_s):
        raw = digital[at * width : (at + 1) * width]
        body += b"".join(struct.pack("<i", int(value))[:size] for value in raw)
        body += f"+{onset:.6f}\x14\x14\x00".encode().ljust(tal_samples * size, b"\x00")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head + body)
    return path, -5 + (digital + top + 1) * (10 / (2 * top + 1))


@pytest.mark.parametrize("kind", ["EDF", "BDF"])
def test_what_edf_plus_d_left_out_is_missing(tmp_path: Path, kind: str) -> None:
    path, values = discontinuous(tmp_path / f"a.{kind.lower()}", [0.5, 1.5, 7.25, 8.25, 20.0], kind)
    recording = open_edf(path)
    assert recording.origin.start_time_ns == (START_NS // 10**9) * 10**9 + 500_000_000
    found = read_whole(recording)["ECG"]
    expected = np.full(2050, np.nan)
    for at, second in enumerate([0.0, 1.0, 6.75, 7.75, 19.5]):
        expected[round(second * 100) : round(second * 100) + 100] = values[at * 100 : (at + 1) * 100]
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    # What reads it otherwise: pyedflib refuses it, edfio glues the records together.
    with pytest.raises(OSError, match="discontinuous"):
        pyedflib.EdfReader(str(path))


@pytest.mark.parametrize(
    ("onsets_s", "said"),
    [([0.0, 1.0, 1.5], "within the one before"), ([0.0, 9e6], "a gap of"), ([0.0, 1.0, -4.0], "record 3")],
)
def test_times_that_cannot_be_are_refused(tmp_path: Path, onsets_s: list[float], said: str) -> None:
    path, _ = discontinuous(tmp_path / "a.edf", onsets_s)
    with pytest.raises(InputError, match=said):
        open_edf(path)


def test_a_clock_that_drifts_leaves_no_holes(tmp_path: Path) -> None:
    for step in (1.0002, 0.9998):
        path, values = discontinuous(tmp_path / f"{step}" / "a.edf", [at * step for at in range(100)])
        found = read_whole(open_edf(path))["ECG"]
        assert np.isnan(found).sum() <= 2
        np.testing.assert_allclose(found[~np.isnan(found)], values, atol=1e-5)


def test_the_lowest_integer_is_a_sample(tmp_path: Path) -> None:
    path, values = discontinuous(tmp_path / "a.edf", [0.0, 1.0])
    found = read_whole(open_edf(path))["ECG"]
    assert not np.isnan(found).any() and found[0] == pytest.approx(-5) and found.min() == found[0]
    np.testing.assert_allclose(found, values, atol=1e-5)


def test_a_record_as_long_as_the_recording_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.edf", 120, data_record_duration=60)
    monkeypatch.setattr(reader, "BLOCK_BYTES", 5000)
    recording = open_edf(path)
    assert max(len(block["EKG II"]) for block in recording.blocks()) < 2500
    expected = by_pyedflib(path)
    for key, values in read_whole(recording).items():
        np.testing.assert_allclose(values, expected[key] / (1000 if key == "EKG II" else 1), atol=1e-6)


@pytest.mark.parametrize("change", ["fewer", "more", "rest"])
def test_a_file_of_another_length_than_its_header_says_is_refused(tmp_path: Path, change: str) -> None:
    path = write(tmp_path / "a.edf", 10)
    whole = path.read_bytes()
    stated = {"fewer": b"8", "more": b"12", "rest": b"10"}[change]
    path.write_bytes(whole[:236] + stated.ljust(8) + whole[244:] + (b"xyz" if change == "rest" else b""))
    with pytest.raises(InputError, match=r"truncated|more than its header says"):
        open_edf(path)


def test_the_patient_is_taken_only_where_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "a.edf", 10)
    assert one_recording(EdfFormat(header_subjects=True), path.parent).origin.subject_id == "P-77"
    origin = open_edf(path).origin
    assert "Somebody" not in repr(origin) and "P-77" not in repr(origin)


def test_an_anonymised_date_is_no_date(tmp_path: Path) -> None:
    path = write(tmp_path / "a.edf", 10, recording=edfio.Recording(), starttime=datetime.time(22, 0))
    assert open_edf(path).origin.start_time_ns is None


def test_annotations_become_epochs_and_counts(tmp_path: Path) -> None:
    stages = ["Sleep stage W", "Sleep stage N1", "Sleep stage N2", "Sleep stage 4", "Sleep stage R", "Sleep stage ?"]
    given = [edfio.EdfAnnotation(30.0 * at, 30.0, text) for at, text in enumerate(stages)]
    given += [edfio.EdfAnnotation(second, 12.5, "Obstructive apnea") for second in (33.0, 70.0, 71.0)]
    origin = open_edf(write(tmp_path / "a.edf", 200, annotations=given)).origin
    assert origin.label_text == {"sleep_stages": "W123R-"}
    assert origin.labels == {"events_obstructive_apnea": 3.0}


def test_a_task_reads_the_stages(tmp_path: Path) -> None:
    """From annotations of an EDF+ to the labels of windows, through the corpus."""
    stages = ["Sleep stage W"] * 2 + ["Sleep stage N2"] * 2 + ["Sleep stage R", "Sleep stage ?"]
    given = [edfio.EdfAnnotation(30.0 * at, 30.0, text) for at, text in enumerate(stages)]
    write(tmp_path / "in" / "a.edf", 180, annotations=given)
    ingest(IngestRequest(inputs=(str(tmp_path / "in"),), corpus_url=f"file://{tmp_path}/c", cohort="c"))
    row = Corpus.open(f"file://{tmp_path}/c").snapshot().table().slice(0, 1)
    starts = [0.0, 10.0, 35.0, 60.0, 119.0, 120.0, 150.0]
    windows = pa.concat_tables([row.select(["label_text", "labels"])] * len(starts)).append_column(
        "start_s", pa.array(starts)
    )
    classes = ("W", "1", "2", "3", "R")
    task = Task(
        name="stage", title="", label="sleep_stages", kind="multiclass", unit="epoch", epoch_s=30.0, classes=classes
    )
    column = Labelled(windows).find(task.label, "label_text")
    assert column is not None
    np.testing.assert_array_equal(label_values(task, column, np.array(starts)), [0, 0, 0, 2, 2, 4, np.nan])


def test_a_hypnogram_beside_the_recording_is_joined(tmp_path: Path) -> None:
    for night in ("SC4001", "SC4002"):
        write(tmp_path / f"{night}E0-PSG.edf", 120, annotations=())
        later = START + datetime.timedelta(seconds=30)
        edfio.Edf(
            [],
            recording=edfio.Recording(startdate=later.date()),
            starttime=later.time(),
            annotations=[
                edfio.EdfAnnotation(0, 60, f"Sleep stage {night[-1]}"),
                edfio.EdfAnnotation(60, 30, "Sleep stage W"),
            ],
        ).write(tmp_path / f"{night}EC-Hypnogram.edf")
    report = ingest(IngestRequest(inputs=(str(tmp_path),), corpus_url=f"file://{tmp_path}/corpus", cohort="c"))
    assert (report.kept.count, report.rejected.count, report.unread) == (2, 0, {})
    stages = {r.recording_id: r.label_text for r in Corpus.open(f"file://{tmp_path}/corpus").snapshot().recordings()}
    assert stages == {
        "SC4001E0-PSG": {"sleep_stages": "-11W"},
        "SC4002E0-PSG": {"sleep_stages": "-22W"},
    }


def test_annotations_alone_are_named(tmp_path: Path) -> None:
    edfio.Edf([], annotations=[edfio.EdfAnnotation(0, 60, "x")]).write(tmp_path / "a.edf")
    with pytest.raises(InputError, match="annotations only"):
        open_edf(tmp_path / "a.edf")


def test_which_annotations_belong_to_which_recording() -> None:
    names = ["p/SC4001E0-PSG.edf", "p/SC4001EC-Hypnogram.edf", "p/SC4011E0-PSG.edf", "p/SC4011EH-Hypnogram.edf"]
    assert annotations_beside(names) == {names[0]: names[1], names[2]: names[3]}
    assert annotations_beside(["a.edf", "b.edf", "x-hypnogram.edf"]) == {}
    assert annotations_beside(["night.edf", "night-a-scoring.edf", "night-b-scoring.edf"]) == {}


def test_a_missing_library_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.edf", 10)
    monkeypatch.setitem(__import__("sys").modules, "edfio", None)
    with pytest.raises(InputError, match=re.escape("pip install 'xmae_dist[edf]'")):
        open_edf(path)


def test_edf_reaches_a_corpus(tmp_path: Path) -> None:
    path = write(tmp_path / "in" / "n1.edf", 60)
    discontinuous(tmp_path / "in" / "n2.edf", [0.0, 5.0])
    report = ingest(IngestRequest(inputs=(str(tmp_path / "in"),), corpus_url=f"file://{tmp_path}/corpus", cohort="c"))
    assert (report.kept.count, report.rejected.count) == (2, 0)
    first, second = Corpus.open(f"file://{tmp_path}/corpus").snapshot().recordings()
    assert {name: row.rate_hz for name, row in first.channels.items()} == {"ecg": 200, "ppg": 75, "resp": 25}
    np.testing.assert_allclose(first.read("ecg"), by_pyedflib(path)["EKG II"] / 1000, atol=1e-6)
    assert list(second.channels["ecg"].gaps) == [(100, 500)]


@pytest.mark.parametrize("width", [2, 8, 15])
def test_onsets_are_told_from_events_as_one_by_one(width: int) -> None:
    chance = random.Random(width)
    whole = [
        b"+12\x14\x14",
        b"-0.5\x14\x14",
        b"+3.\x14\x14",
        b"+1\x14\x14\x00\x00+1\x14x\x14",
        b"+1\x14a\x14",
        b"+\x14\x14",
    ]
    texts = [chance.choice(whole)[:width].ljust(width, b"\0") for _ in range(200)]
    texts += [bytes(chance.choices(b"+-.0127\x14\x14\x00\x15a", k=width)) for _ in range(20_000)]
    alone, onsets_s = reader._onsets_alone(np.frombuffer(b"".join(texts), np.uint8).reshape(-1, width))
    for text, is_alone, onset_s in zip(texts, alone, onsets_s, strict=True):
        found = re.fullmatch(rb"([+-]\d+(?:\.\d*)?)\x14\x14\x00*", text)
        assert is_alone == bool(found)
        assert found is None or onset_s == float(found.group(1))
    assert width == 2 or 10 < alone.sum() < len(texts)
