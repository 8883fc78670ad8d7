"""The inputs beside the project (../shared/cases), a test for each, their samples read without our code."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import wfdb
from case_files import column, read_table, samples
from numpy.typing import NDArray

from xmae_dist.core.errors import InputError
from xmae_dist.ingest.check import look
from xmae_dist.ingest.formats.source import physical
from xmae_dist.ingest.formats.wfdb import WfdbRecording
from xmae_dist.ingest.run import IngestRequest, Manifest, ingest
from xmae_dist.storage.corpus import Corpus

PACKETS, JITTER, REPEATS = "10_packet_timestamps", "14_jittered_arrival", "15_duplicated_rows"


def _case(cases: Path, name: str) -> tuple[Path, str]:
    (file,) = (cases / name / "in").iterdir()
    return file, (cases / name / "map.toml").read_text()


@pytest.mark.parametrize(
    ("name", "file_column", "top"),
    [
        (PACKETS, "ecg", ""),
        (JITTER, "ecg", ""),
        ("16a_iso_Z", "ecg", ""),
        ("24_shimmer_units_row", "", "rows_after_header = 1\n"),
    ],
)
def test_ten_minutes_without_a_gap(cases: Path, name: str, file_column: str, top: str) -> None:
    file, text = _case(cases, name)
    recording = read_table(file, top + text)
    found = samples(recording)["ecg"]
    if file_column:
        expected = column(file, file_column)
    else:
        expected = np.genfromtxt(file, delimiter="\t", skip_header=3, usecols=1)
    np.testing.assert_array_equal(found, expected.astype(np.float32))
    assert len(found) / recording.channels[0].rate_hz == pytest.approx(600)
    assert recording.origin.start_time_ns == pytest.approx(1711845000 * 10**9, abs=3 * 10**7)


def test_repeated_rows_are_dropped(cases: Path) -> None:
    file, text = _case(cases, REPEATS)
    ecg, times = column(file, "ecg"), column(file, "ts")
    expected = ecg[np.concatenate(([True], np.diff(times) > 0))]
    found = samples(read_table(file, text))["ecg"]
    assert len(found) == 38_400
    np.testing.assert_array_equal(found, expected.astype(np.float32))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("12_us_declared_ms", "time.format = 'microseconds'"),
        ("13_rate_declared_double", "64 samples per second"),
        ("29_packets_swapped", "step back by 1.115 s at row 7374"),
        ("18_comma_decimal", "set decimal = ','"),
        ("22_apple_ecg", "no header: give column_names"),
        ("23_opensignals", "no header: give column_names"),
        ("24_shimmer_units_row", "rows_after_header = 1"),
    ],
)
def test_what_cannot_be_read_as_declared_is_refused_with_the_fix(cases: Path, name: str, words: str) -> None:
    file, text = _case(cases, name)
    with pytest.raises(InputError) as caught:
        samples(read_table(file, text))
    assert words in str(caught.value)


def test_parquet_of_whole_nanoseconds(cases: Path) -> None:
    file, text = _case(cases, "17a_parquet_int64_ns")
    recording = read_table(file, text)
    expected = pyarrow.parquet.read_table(file).column("ecg").to_numpy().astype(np.float32)
    np.testing.assert_array_equal(samples(recording)["ecg"], expected)
    assert recording.origin.start_time_ns == 1711845000 * 10**9


def test_a_decimal_comma_with_the_option(cases: Path) -> None:
    file, text = _case(cases, "18_comma_decimal")
    lines = file.read_text().splitlines()[1:]
    expected = np.array([float(line.split(";")[1].replace(",", ".")) for line in lines])
    np.testing.assert_array_equal(
        samples(read_table(file, 'decimal = ","\n' + text))["ecg"], expected.astype(np.float32)
    )


def test_an_ecg_of_a_watch(cases: Path) -> None:
    file, _ = _case(cases, "22_apple_ecg")
    recording = read_table(
        file,
        'layout = "columns"\nskip_rows = 13\ncolumn_names = ["ECG"]\n[header]\nrate_hz = \'Sample Rate,([\\d.]+)\'\n'
        'start = \'Recorded Date,(.+)\'\n[[channels]]\nname = "ecg"\ncolumn = "ECG"\nunit = "uV"\n',
    )
    expected = np.genfromtxt(file, skip_header=13)
    np.testing.assert_array_equal(samples(recording)["ecg"], expected.astype(np.float32))
    assert (recording.channels[0].rate_hz, recording.channels[0].scale) == (512.0, 1e-3)
    assert recording.origin.start_time_ns == 1711872000 * 10**9  # 10:00 at +02:00


def test_an_opensignals_file(cases: Path) -> None:
    file, text = _case(cases, "23_opensignals")
    names = '["nSeq", "I1", "I2", "O1", "O2", "A1", "A2"]'
    recording = read_table(file, f"column_names = {names}\n{text}")
    expected = np.genfromtxt(file, skip_header=3, usecols=(5, 6))
    found = samples(recording)
    np.testing.assert_array_equal(found["ecg"], expected[:, 0].astype(np.float32))
    np.testing.assert_array_equal(found["ppg"], expected[:, 1].astype(np.float32))


def test_two_files_of_one_device(cases: Path) -> None:
    folder, text = cases / "27_two_files_one_clock" / "in", (cases / "27_two_files_one_clock" / "map.toml").read_text()
    alone, _, ppg = text.rpartition("[[channels]]")
    joined = f'{alone}[[joined]]\nfiles = "*_ppg.csv"\nrate_hz = 64\n[[joined.channels]]{ppg}'
    recording = read_table(folder / "s1_ecg.csv", joined)
    found = samples(recording)
    np.testing.assert_array_equal(found["ecg"], column(folder / "s1_ecg.csv", "ecg").astype(np.float32))
    np.testing.assert_array_equal(found["ppg"], column(folder / "s1_ppg.csv", "ppg").astype(np.float32))
    assert recording.origin.subject_id == "s1"


def test_a_unit_off_by_a_thousand(cases: Path) -> None:
    file, text = _case(cases, "47_uv_declared_mv")
    assert "likely in uV" in look(read_table(file, text)).doubts[0]


def _values(recording: WfdbRecording) -> dict[str, NDArray[np.float32]]:
    seen = look(recording)
    blocks = list(seen.blocks(recording))
    return {
        channel.source_name: np.concatenate([physical(block[channel.key], channel) for block in blocks])
        for channel in seen.usable
    }


# What the wfdb package itself reads: its values are compared; the others have the samples of A0001.
@pytest.mark.parametrize(
    ("name", "by_library"),
    [
        ("A0001", True),
        ("A00001", False),
        ("E07835", False),
        ("S0287ECG", False),
        ("slp32", False),
        ("ck0", True),
        ("be", True),
        ("wide", True),
        ("ok2017", True),
        ("time_only", True),
        ("plus/00001_medians", False),
        ("names", True),
        ("s1_walk", True),
    ],
)
def test_headers_of_archives(cases: Path, name: str, by_library: bool) -> None:
    folder = cases / "32_wfdb_headers" / "in"
    recording = WfdbRecording(folder / f"{name}.hea", name)
    reference = wfdb.rdrecord(str(folder / (name if by_library else "A0001")))
    to_ours = {"uV": 1e-3}
    factors = [to_ours.get(unit, 1.0) for unit in reference.units]
    expected = dict(zip(reference.sig_name, (reference.p_signal * factors).T, strict=True))
    found = _values(recording)
    assert set(found) == set(expected)
    for signal, values in found.items():
        np.testing.assert_allclose(values, expected[signal], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["32_wfdb_headers", "42_header_fewer_segments"])
def test_fewer_segments_than_declared(cases: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"10000 samples in all; expected 3 segments of 15000"):
        WfdbRecording(cases / name / "in" / "m.hea", "m")


def test_missing_samples_beside_a_wider_format(cases: Path) -> None:
    found = _values(WfdbRecording(cases / "32_wfdb_headers" / "in" / "x.hea", "x"))
    parts = [wfdb.rdrecord(str(cases / "32_wfdb_headers" / "in" / f"x_000{at}")) for at in (1, 2)]
    expected = np.concatenate([part.p_signal[:, 0] for part in parts])
    assert np.isnan(expected).sum() == 200
    np.testing.assert_allclose(found["II"], expected, atol=1e-5)


def _ingested(cases: Path, name: str, corpus: Path, **changes: object) -> Corpus:
    folder = cases / name / "in"
    request = IngestRequest(inputs=(str(folder),), corpus_url=f"file://{corpus}", cohort="t", **changes)  # type: ignore[arg-type]
    assert ingest(request).exit_status == 0
    return Corpus.open(f"file://{corpus}")


def test_a_date_beyond_2262(cases: Path, tmp_path: Path) -> None:
    recordings = list(_ingested(cases, "01_year_after_2262", tmp_path).snapshot().recordings())
    starts = {one.recording_id: one.channels["ecg"].start_time_ns for one in recordings}
    assert starts == {"normal": 1602289885894000000, "shifted": None}
    reference = wfdb.rdrecord(str(cases / "01_year_after_2262" / "in" / "shifted")).p_signal[:, 0]
    for recording in recordings:
        np.testing.assert_allclose(recording.read("ecg"), reference, atol=1e-6)


def test_a_manifest_by_base_name(cases: Path, tmp_path: Path) -> None:
    folder = cases / "33_manifest_basename_merge"
    columns = (folder / "manifest.csv").read_text().splitlines()[0].split(",")
    manifest = Manifest(url=str(folder / "manifest.csv"), record_column=columns[0], subject_column=columns[1])
    with pytest.raises(InputError, match="ambiguous"):
        _ingested(cases, "33_manifest_basename_merge", tmp_path, manifest=manifest)


def test_a_folder_of_one_patient(cases: Path, tmp_path: Path) -> None:
    corpus = _ingested(cases, "38_mimic_patient_folder", tmp_path, subject_pattern=r"(p\d{6})-")
    recordings = list(corpus.snapshot().recordings())
    assert len(recordings) == 4 and {one.subject_id for one in recordings} == {"p000999"}


def test_one_file_twice(cases: Path, tmp_path: Path) -> None:
    from xmae_dist.ingest.formats.mapping import parse_mapping

    folder = cases / "48_same_file_twice"
    shutil.copytree(folder / "in", tmp_path / "in")
    mapping = parse_mapping((folder / "map.toml").read_text(), "map.toml")
    report = ingest(
        IngestRequest(inputs=(str(tmp_path / "in"),), corpus_url=f"file://{tmp_path}/c", cohort="t", mapping=mapping)
    )
    assert report.same.groups == (("rec_07", "rec_07 (1)"),)
