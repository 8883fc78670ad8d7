"""Tables as programs export them: decimal commas, lines above the table, units below its header, no header at all."""

from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from case_files import CHANNELS, beats, mapping_text, read_table, samples, write_table

from xmae_dist.core.errors import InputError
from xmae_dist.ingest.formats.mapping import joined_name, parse_mapping, picks
from xmae_dist.ingest.formats.table import ColumnsRecording, lines_recording

RATE_HZ = 64.0
N = 1280
ECG = beats(N, RATE_HZ)
START_NS = 1711845000 * 10**9  # 2024-03-31 00:30:00 UTC


def _stamps(form: str, *, zone: datetime.tzinfo = datetime.UTC, n: int = N) -> list[str]:
    start = datetime.datetime.fromtimestamp(START_NS / 1e9, tz=zone)
    steps = (start + datetime.timedelta(microseconds=round(at * 1e6 / RATE_HZ)) for at in range(n))
    # Across zones, wall times are those of each moment.
    return [one.astimezone(zone).strftime(form) for one in steps]


@pytest.mark.parametrize(
    "times",
    [
        _stamps("%Y-%m-%dT%H:%M:%S.%fZ"),
        _stamps("%Y-%m-%d %H:%M:%S,%f"),
        _stamps("%Y-%m-%dT%H:%M:%S.%f+02:00", zone=datetime.timezone(datetime.timedelta(hours=2))),
        _stamps("%Y-%m-%d %H:%M:%S.%f +0200", zone=datetime.timezone(datetime.timedelta(hours=2))),
        _stamps("%Y-%m-%dT%H:%M:%S.%f"),
    ],
    ids=lambda times: times[0],
)
def test_dates_with_and_without_a_zone_are_read_as_utc(tmp_path: Path, times: list[str]) -> None:
    recording = read_table(
        write_table(tmp_path / "w.csv", times, ECG, ";"), mapping_text(RATE_HZ, "iso8601", top='delimiter = ";"')
    )
    np.testing.assert_allclose(samples(recording)["ecg"], ECG, atol=1e-6)
    assert recording.origin.start_time_ns == START_NS


def test_offsets_that_change_with_daylight_saving_are_no_gap(tmp_path: Path) -> None:
    offsets = ["+01:00"] * (N // 2) + ["+02:00"] * (N - N // 2)
    start = datetime.datetime(2024, 3, 31, 1, 59, 50)
    times = []
    for at, offset in enumerate(offsets):
        wall = start + datetime.timedelta(seconds=at / RATE_HZ, hours=int(offset[2]) - 1)
        times.append(wall.isoformat(timespec="microseconds") + offset)
    recording = read_table(write_table(tmp_path / "w.csv", times, ECG), mapping_text(RATE_HZ, "iso8601"))
    assert len(samples(recording)["ecg"]) == N


@pytest.mark.parametrize("day", ["2024-03-31T01:59:50", "2024-10-27T02:59:50"])
def test_wall_times_of_a_zone_across_a_change_of_the_clock(tmp_path: Path, day: str) -> None:
    from zoneinfo import ZoneInfo

    zone = ZoneInfo("Europe/Berlin")
    first = datetime.datetime.fromisoformat(day).replace(tzinfo=zone).astimezone(datetime.UTC)
    moments = [first + datetime.timedelta(seconds=at / RATE_HZ) for at in range(N)]
    times = [one.astimezone(zone).strftime("%Y-%m-%d %H:%M:%S.%f") for one in moments]
    recording = read_table(
        write_table(tmp_path / "w.csv", times, ECG), mapping_text(RATE_HZ, "iso8601", top='zone = "Europe/Berlin"')
    )
    assert len(samples(recording)["ecg"]) == N
    assert recording.origin.start_time_ns == round(first.timestamp()) * 10**9


def test_dates_beyond_2262_keep_the_signal(tmp_path: Path) -> None:
    times = [one.replace("2024", "2896") for one in _stamps("%Y-%m-%dT%H:%M:%S.%f")]
    recording = read_table(write_table(tmp_path / "w.csv", times, ECG), mapping_text(RATE_HZ, "iso8601"))
    assert len(samples(recording)["ecg"]) == N
    assert recording.origin.start_time_ns is None and "2262" in recording.origin.notes[0]


def test_a_clock_past_midnight_goes_on(tmp_path: Path) -> None:
    seconds = (86390 + np.arange(N) / RATE_HZ) % 86400
    times = [f"{int(s // 3600)}:{int(s // 60) % 60:02d}:{s % 60:09.6f}" for s in seconds]
    recording = read_table(write_table(tmp_path / "w.csv", times, ECG), mapping_text(RATE_HZ, "clock"))
    assert len(samples(recording)["ecg"]) == N


def test_a_clock_that_is_set_back_an_hour_is_refused(tmp_path: Path) -> None:
    seconds = 7200 + np.arange(N) / RATE_HZ - 3600 * (np.arange(N) > 640)
    times = [f"{int(s // 3600)}:{int(s // 60) % 60:02d}:{s % 60:09.6f}" for s in seconds]
    with pytest.raises(InputError, match="step back"):
        samples(read_table(write_table(tmp_path / "w.csv", times, ECG), mapping_text(RATE_HZ, "clock")))


@pytest.mark.parametrize("unit", ["nanoseconds", "microseconds"])
def test_whole_numbers_of_parquet_are_read_exactly(tmp_path: Path, unit: str) -> None:
    per_s = {"nanoseconds": 10**9, "microseconds": 10**6}[unit]
    times = [1711845000 * per_s + round(at * per_s / RATE_HZ) for at in range(N)]
    table = pa.table({"ts": pa.array(times, pa.int64()), "ecg": ECG, "ppg": ECG / 2})
    pyarrow.parquet.write_table(table, tmp_path / "w.parquet")
    text = mapping_text(RATE_HZ, unit, top='format = "parquet"', time="unix = true")
    recording = read_table(tmp_path / "w.parquet", text)
    np.testing.assert_array_equal(samples(recording)["ecg"], ECG.astype(np.float32))
    assert recording.origin.start_time_ns == START_NS


def test_times_counted_from_an_epoch(tmp_path: Path) -> None:
    times = [f"{at / RATE_HZ / 86400 + 45382.0208333333:.12f}" for at in range(N)]  # a spreadsheet's days
    text = mapping_text(RATE_HZ, "days", time='epoch = "1899-12-30"')
    recording = read_table(write_table(tmp_path / "w.csv", times, ECG), text)
    assert len(samples(recording)["ecg"]) == N
    assert recording.origin.start_time_ns == pytest.approx(START_NS, abs=10**7)


def _with_commas(path: Path, thousands: str = "") -> Path:
    lines = ["ts;ecg;ppg"]
    for at, value in enumerate(ECG * 10_000):
        whole, _, part = f"{value:,.3f}".partition(".")
        lines.append(f"{at * 1000 / RATE_HZ:.3f}".replace(".", ",") + f";{whole.replace(',', thousands)},{part};0,5")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("thousands", ["", "."])
def test_decimal_commas_and_thousands(tmp_path: Path, thousands: str) -> None:
    top = f'delimiter = ";"\ndecimal = ","\nthousands = "{thousands}"'
    recording = read_table(_with_commas(tmp_path / "w.csv", thousands), mapping_text(RATE_HZ, top=top))
    np.testing.assert_allclose(samples(recording)["ecg"], ECG * 10_000, atol=1e-3)


def test_a_decimal_comma_that_is_not_declared_is_refused_with_the_option(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="set decimal = ','"):
        samples(read_table(_with_commas(tmp_path / "w.csv"), mapping_text(RATE_HZ, top='delimiter = ";"')))
    with pytest.raises(InputError, match="the delimiter too"):
        parse_mapping(mapping_text(RATE_HZ, top='decimal = ","'), "m.toml")


def test_a_row_of_units_is_passed_over(tmp_path: Path) -> None:
    path = write_table(tmp_path / "w.csv", [at * 1000 / RATE_HZ for at in range(N)], ECG)
    lines = path.read_text().splitlines()
    path.write_text("\n".join(["sep=,", lines[0], "ms,mV,nu", *lines[1:]]) + "\n")
    with pytest.raises(InputError, match="rows_after_header = 1"):
        samples(read_table(path, mapping_text(RATE_HZ, top="skip_rows = 1")))
    recording = read_table(path, mapping_text(RATE_HZ, top="skip_rows = 1\nrows_after_header = 1"))
    np.testing.assert_allclose(samples(recording)["ecg"], ECG, atol=1e-6)


ABOVE = ["Name,Some One", "Recorded Date,2024-03-31 02:30:00 +0200", "Sample Rate,64 hertz", "", "Unit,µV", ""]


@pytest.mark.parametrize(
    ("above", "header"),
    [
        (ABOVE, "rate_hz = 'Sample Rate,([\\d.]+)'\nstart = 'Recorded Date,(.+)'"),
        (["1711845000.000000", "64.000000"], "start = 1\nrate_hz = 2"),
        (["at 31.03.2024 00:30:00", "rate 64"],
         "start = 'at (.*)'\nstart_format = '%d.%m.%Y %H:%M:%S'\nrate_hz = 'rate (.*)'"),
        (['{"rate": 64, "time": "0:30:00.0", "date": "2024-03-31"}'],
         "rate_hz = '\"rate\": (\\d+)'\nstart = '\"time\": \"(?P<time>[^\"]+)\", \"date\": \"(?P<date>[^\"]+)\"'\n"
         "start_format = '%Y-%m-%d %H:%M:%S.%f'"),
    ],
    ids=["named lines", "numbered lines", "a form of its own", "date and time apart"],
)  # fmt: skip
def test_rate_and_start_from_the_lines_above(tmp_path: Path, above: list[str], header: str) -> None:
    path = tmp_path / "w.csv"
    path.write_text("\n".join([*above, *(f"{value:.5f}" for value in ECG)]) + "\n", encoding="utf-8")
    text = (
        f'layout = "columns"\nskip_rows = {len(above)}\ncolumn_names = ["value"]\n[header]\n{header}\n'
        '[[channels]]\nname = "ecg"\ncolumn = "value"\nunit = "mV"\n'
    )
    recording = read_table(path, text)
    assert recording.channels[0].rate_hz == RATE_HZ
    np.testing.assert_allclose(samples(recording)["ecg"], ECG, atol=1e-6)
    assert recording.origin.start_time_ns == START_NS


def test_a_rate_above_the_table_that_contradicts_the_mapping_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.csv").write_text("rate,64\na\n1\n2\n")
    text = (
        "layout = 'columns'\nrate_hz = 128\nskip_rows = 1\n[header]\nrate_hz = 'rate,(.*)'\n"
        "[[channels]]\nname = 'ecg'\ncolumn = 'a'\n"
    )
    with pytest.raises(InputError, match="64 samples per second; expected 128"):
        read_table(tmp_path / "w.csv", text)


def test_names_for_columns_that_have_none_and_a_delimiter_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "o.txt"
    path.write_text("# head\n" + "".join(f"{at}\t{value:.5f}\t0.5\t\n" for at, value in enumerate(ECG)))
    with pytest.raises(InputError, match=r"delimiter.*a tab is"):
        parse_mapping("layout = 'columns'\nrate_hz = 64\ndelimiter = '\\t'\n" + CHANNELS, "m.toml")
    top = "layout = 'columns'\nrate_hz = 64\ndelimiter = \"\\t\"\nskip_rows = 1\n"
    with pytest.raises(InputError, match="no header: give column_names"):
        read_table(path, top + CHANNELS)
    recording = read_table(path, top + "column_names = ['seq', 'ecg', 'ppg']\n" + CHANNELS)
    np.testing.assert_allclose(samples(recording)["ecg"], ECG, atol=1e-6)
    with pytest.raises(InputError, match="2 names for 4 columns"):
        read_table(path, top + "column_names = ['ecg', 'ppg']\n" + CHANNELS)


def test_a_list_of_columns_in_an_error_is_short(tmp_path: Path) -> None:
    (tmp_path / "w.csv").write_text(",".join(f"{value:.5f}" for value in ECG) + "\n")
    with pytest.raises(InputError, match=r"and 1,2\d\d more; fix: this file seems to have no header") as caught:
        read_table(tmp_path / "w.csv", "layout = 'columns'\nrate_hz = 64\n" + CHANNELS)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(("separator", "delimiter"), [(",", ","), (" ", " "), ("\t", "\\t"), ("; ", ";"), ("  ", " ")])
def test_a_whole_recording_in_one_line(tmp_path: Path, separator: str, delimiter: str) -> None:
    (tmp_path / "w.csv").write_text(separator.join(f"{value:.5f}" for value in ECG) + separator + "\n")
    text = (
        f'layout = "lines"\nrate_hz = 64\ndelimiter = "{delimiter}"\n'
        '[[channels]]\nname = "ppg"\ncolumn = "1"\n[[channels]]\nname = "ecg"\ncolumn = "2"\n'
    )
    with pytest.raises(InputError, match="no line 2"):
        lines_recording(tmp_path / "w.csv", "w", parse_mapping(text, "m.toml"))
    one = parse_mapping(text.rsplit("[[channels]]", 1)[0], "m.toml")
    recording = lines_recording(tmp_path / "w.csv", "w", one)
    np.testing.assert_allclose(samples(recording)["ppg"], ECG, atol=1e-6)


def test_a_column_with_values_in_every_fourth_row_has_a_rate_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "w.csv"
    slow = beats(N // 4, 16.0)
    rows = (
        f"{at * 1000 / RATE_HZ:.3f},{v:.5f},{'' if at % 4 else f'{slow[at // 4]:.5f}'}\n" for at, v in enumerate(ECG)
    )
    path.write_text("ts,ecg,ppg\n" + "".join(rows))
    with pytest.raises(InputError, match=r"every 4th row.*rate_hz in the mapping file \(16 "):
        samples(read_table(path, mapping_text(RATE_HZ)))
    for text in (
        mapping_text(RATE_HZ),
        mapping_text(RATE_HZ).replace('[time]\ncolumn = "ts"\nformat = "milliseconds"', ""),
    ):
        found = samples(read_table(path, text + "rate_hz = 16\n"))
        np.testing.assert_allclose(found["ecg"], ECG, atol=1e-6)
        np.testing.assert_allclose(found["ppg"], slow, atol=1e-6)


def test_two_devices_in_one_log_with_a_row_each(tmp_path: Path) -> None:
    slow = beats(400, 20.0)
    events = sorted(
        [(at / RATE_HZ, f"{v:.5f},") for at, v in enumerate(ECG)]
        + [(0.013 + at / 20, f",{v:.5f}") for at, v in enumerate(slow)]
    )
    (tmp_path / "w.csv").write_text("ts,ecg,ppg\n" + "".join(f"{t * 1000:.3f},{cells}\n" for t, cells in events))
    text = mapping_text(RATE_HZ).replace('unit = "mV"', 'unit = "mV"\nrate_hz = 64') + "rate_hz = 20\n"
    recording = read_table(tmp_path / "w.csv", text.replace("rate_hz = 64.0\n", ""))
    found = samples(recording)
    lead = {name: int(np.flatnonzero(np.isfinite(values))[0]) for name, values in found.items()}
    np.testing.assert_allclose(found["ecg"][lead["ecg"] :], ECG, atol=1e-6)
    np.testing.assert_allclose(found["ppg"][lead["ppg"] :], slow, atol=1e-6)
    # Both begin at one moment; the first PPG sample lies 13 ms after the first of the ECG.
    assert lead["ppg"] / 20 - lead["ecg"] / RATE_HZ == pytest.approx(0.013, abs=0.003)


def test_the_first_column_that_moves_is_taken(tmp_path: Path) -> None:
    (tmp_path / "w.csv").write_text("R,G\n" + "".join(f"{value:.5f},0\n" for value in ECG))
    text = "layout = 'columns'\nrate_hz = 64\n[[channels]]\nname = 'ppg'\ncolumn = ['G', 'R', 'B']\n"
    recording = read_table(tmp_path / "w.csv", text)
    np.testing.assert_allclose(samples(recording)["ppg"], ECG, atol=1e-6)
    assert recording.channels[0].source_name == "R"
    assert recording.origin.notes == ("channel ppg is read from 'R': 'G' is flat or empty",)


JOINED = (
    'layout = "columns"\nfiles = "*_ecg.csv"\nrate_hz = 64\n'
    '[time]\ncolumn = "ts"\nformat = "milliseconds"\nunix = true\n'
    '[[channels]]\nname = "ecg"\ncolumn = "ecg"\nunit = "mV"\n'
    '[[joined]]\nfiles = "*_ppg.csv"\nrate_hz = 25\n[[joined.channels]]\nname = "ppg"\ncolumn = "ecg"\n'
)  # fmt: skip


@pytest.mark.parametrize("behind_s", [-0.9, 0.0, 0.37, 2.0])
def test_two_files_of_one_device_are_one_recording_on_one_clock(tmp_path: Path, behind_s: float) -> None:
    slow = beats(500, 25.0)
    start_ms = 1711845000000
    write_table(tmp_path / "s1_ecg.csv", [start_ms + at * 1000 / RATE_HZ for at in range(N)], ECG)
    write_table(tmp_path / "s1_ppg.csv", [start_ms + 1000 * behind_s + at * 40 for at in range(500)], slow)
    mapping = parse_mapping(JOINED, "m.toml")
    recording = ColumnsRecording(tmp_path / "s1_ecg.csv", "s1_ecg", mapping)
    found = samples(recording)
    lead = {name: int(np.flatnonzero(np.isfinite(values))[0]) for name, values in found.items()}
    np.testing.assert_allclose(found["ecg"][lead["ecg"] :], ECG, atol=1e-6)
    np.testing.assert_allclose(found["ppg"][lead["ppg"] :], slow, atol=1e-6)
    assert lead["ppg"] / 25 - lead["ecg"] / RATE_HZ == pytest.approx(behind_s, abs=0.002)
    assert recording.origin.start_time_ns is not None
    ecg_at_s = recording.origin.start_time_ns / 1e9 + lead["ecg"] / RATE_HZ
    assert ecg_at_s == pytest.approx(start_ms / 1e3, abs=0.005)


def test_a_joined_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    write_table(tmp_path / "s1_ecg.csv", [1711845000000, 1711845000016], ECG[:2])
    with pytest.raises(InputError, match=r"s1_ppg\.csv: got no such file"):
        ColumnsRecording(tmp_path / "s1_ecg.csv", "s1_ecg", parse_mapping(JOINED, "m.toml"))


@pytest.mark.parametrize(
    ("pattern", "path", "picked"),
    [
        ("*.csv", "a/b.csv", True),
        ("csv/*.csv", "x/csv/b.csv", True),
        ("csv/*.csv", "csv/b.csv", True),
        ("csv/*.csv", "b.csv", False),
        ("*/PPG.csv", "data/s1/PPG.csv", True),
        ("**/*.csv", "b.csv", True),
        ("[ab]?.csv", "a1.csv", True),
        ("[!ab]?.csv", "a1.csv", False),
    ],
)
def test_files_are_picked_by_name_or_path(pattern: str, path: str, picked: bool) -> None:
    assert picks(pattern, path) == picked


def test_what_a_star_stands_for_is_the_same_in_joined_files() -> None:
    assert joined_name("/x/s1/ecg/7.csv", "*/ecg/*.csv", "*/ppg/p*.csv") == "/x/s1/ppg/p7.csv"
    assert joined_name("s1/BVP.csv", "BVP.csv", "ACC.csv") == "s1/ACC.csv"
