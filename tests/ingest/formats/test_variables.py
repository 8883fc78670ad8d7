"""MATLAB and HDF5 files written by scipy and h5py, read by a mapping."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from wfdb_files import pulse

from xmae_dist.core.errors import InputError
from xmae_dist.ingest.formats import variables as reader
from xmae_dist.ingest.formats.mapped import MappedFormat
from xmae_dist.ingest.formats.mapping import Mapping, parse_mapping
from xmae_dist.ingest.formats.protocol import Format
from xmae_dist.ingest.run import IngestRequest, ingest
from xmae_dist.storage.corpus import Corpus
from xmae_dist.testing.conformance_formats import FormatConformance, Sample, one_recording, read_whole

CHANNELS = """
rate_hz = 250
[[channels]]
name = "ecg"
column = "data/ecg"
unit = "uV"
[[channels]]
name = "ppg"
column = "data/light[1]"
rate_hz = 50
scale = 0.5
offset = 1.0
"""


def mapping(kind: str, more: str = CHANNELS) -> Mapping:
    return parse_mapping(f'layout = "variables"\nformat = "{kind}"\nfiles = "*.{kind}"\n{more}', "m.toml")


def contents(seconds: int) -> tuple[np.ndarray, np.ndarray]:
    """(n,) float64 ECG in µV and (m, 3) int16 light, which takes every value that int16 has room for."""
    light = np.random.default_rng(1).integers(-(2**15), 2**15, (seconds * 50, 3)).astype(np.int16)
    light[3, 1] = -(2**15)
    return 1000 * pulse(seconds * 250, 1), light


def write_hdf5(path: Path, seconds: int) -> Path:
    ecg, light = contents(seconds)
    ecg[100:150] = np.nan
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset("data/ecg", data=ecg, chunks=(4096,), compression="gzip")
        file.create_dataset("data/light", data=light, chunks=(1024, 3))
    return path


class VariablesConformance(FormatConformance):
    kind = "hdf5"

    @pytest.fixture
    def entry(self) -> Format:
        return MappedFormat(mapping=mapping(self.kind))

    @pytest.fixture
    def sample(self, tmp_path: Path) -> Sample:
        path = tmp_path / "in" / f"r1.{self.kind}"
        path.parent.mkdir()
        ecg, light = contents(40)
        ecg[100:150] = np.nan
        if self.kind == "mat":
            # MATLAB's vectors are columns or rows of a matrix.
            scipy.io.savemat(path, {"data": {"ecg": ecg[None, :], "light": light.T}}, do_compression=True)
        else:
            write_hdf5(path, 40)
        return Sample(
            folder=path.parent,
            head=path.name,
            signals={"data/ecg": ecg / 1000, "data/light[1]": light[:, 1] * 0.5 + 1},
            rates_hz={"data/ecg": 250, "data/light[1]": 50},
            start_time_ns=None,
            recording_id="r1",
        )

    @pytest.fixture
    def longer(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Path]:
        monkeypatch.setattr(reader, "BLOCK_SAMPLES", 2**15)
        return lambda times: write_hdf5(tmp_path / f"x{times}" / "r.hdf5", 600 * times).parent


class TestHdf5(VariablesConformance):
    pass


class TestOldMatlab(VariablesConformance):
    kind = "mat"
    streams = False


def hdf5_with(folder: Path, **datasets: object) -> Path:
    folder.mkdir(exist_ok=True)
    with h5py.File(folder / "r.hdf5", "w") as file:
        for name, values in datasets.items():
            file[name] = values
    return folder


SIMPLE = '[[channels]]\nname = "ppg"\ncolumn = "ppg"\n'


def test_matlab_7_3_with_labels(tmp_path: Path) -> None:
    """MATLAB 7.3 puts 512 bytes before HDF5, and writes texts as numbers of characters."""
    path = tmp_path / "p1.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        file["sig"] = pulse(1000, 1)[:, None]
        file["age"] = np.array([[61.0]])
        file["sex"] = np.frombuffer("female".encode("utf-16-le"), np.uint16)[:, None]
    given = 'rate_hz = 100\n[labels]\nage = "age"\nsex = "sex"\n[[channels]]\nname = "ppg"\ncolumn = "sig"\n'
    recording = one_recording(MappedFormat(mapping=mapping("mat", given)), tmp_path)
    assert (dict(recording.origin.labels), dict(recording.origin.label_text)) == ({"age": 61.0}, {"sex": "female"})
    np.testing.assert_allclose(read_whole(recording)["sig"], pulse(1000, 1), atol=1e-6)


@pytest.mark.parametrize(
    ("datasets", "said"),
    [
        ({"other": np.arange(9.0)}, "expected one of other"),
        ({"ppg": np.zeros((9, 9))}, r"name the row or column"),
        ({"ppg": np.zeros((4, 5, 6))}, "numbers in one row or column"),
        ({"ppg": np.array([b"a", b"b"])}, "numbers in one row or column"),
        ({"ppg": 3.0}, "numbers in one row or column"),
    ],
)
def test_what_is_no_signal_is_named(tmp_path: Path, datasets: dict[str, object], said: str) -> None:
    folder = hdf5_with(tmp_path / "in", **datasets)
    with pytest.raises(InputError, match=said):
        one_recording(MappedFormat(mapping=mapping("hdf5", "rate_hz = 100\n" + SIMPLE)), folder)


def test_times_check_the_rate_and_give_the_start(tmp_path: Path) -> None:
    times = 1_800_000_000.25 + np.arange(5000) / 100
    given = 'rate_hz = 100\n[time]\ncolumn = "t"\nunix = true\n' + SIMPLE
    entry = MappedFormat(mapping=mapping("hdf5", given))
    recording = one_recording(entry, hdf5_with(tmp_path / "in", ppg=pulse(5000, 1), t=times))
    assert recording.origin.start_time_ns == 1_800_000_000_250_000_000
    assert len(read_whole(recording)["ppg"]) == 5000
    times[3000:] += 2.0
    with pytest.raises(InputError, match="at sample 3001"):
        read_whole(one_recording(entry, hdf5_with(tmp_path / "in", ppg=pulse(5000, 1), t=times)))


def test_a_layout_that_does_not_fit_the_format_is_refused() -> None:
    with pytest.raises(InputError, match="'variables' for 'mat' and 'hdf5'"):
        parse_mapping('layout = "columns"\nformat = "mat"\nrate_hz = 1\n' + SIMPLE, "m.toml")


def test_hdf5_reaches_a_corpus(tmp_path: Path) -> None:
    write_hdf5(tmp_path / "in" / "r1.hdf5", 40)
    (tmp_path / "in" / "notes.txt").write_text("x")
    given = IngestRequest(
        inputs=(str(tmp_path / "in"),), corpus_url=f"file://{tmp_path}/c", cohort="c", mapping=mapping("hdf5")
    )
    report = ingest(given)
    assert (report.kept.count, dict(report.unread)) == (1, {".txt": 1})
    (recording,) = Corpus.open(f"file://{tmp_path}/c").snapshot().recordings()
    assert list(recording.channels["ecg"].gaps) == [(100, 150)] and recording.channels["ppg"].rate_hz == 50
