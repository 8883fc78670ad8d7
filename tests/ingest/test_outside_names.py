"""Names that files bring along never lead out of the folder that was named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from wfdb_files import pulse, write_record

from xmae_dist.cli.main import main
from xmae_dist.ingest.run import IngestRequest, ingest
from xmae_dist.storage import uri
from xmae_dist.storage.corpus import Corpus


def test_a_header_cannot_name_a_signal_file_elsewhere(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "in"
    write_record(folder, "good", {"II": pulse(1000, 1)})
    write_record(folder, "bad", {"II": pulse(1000, 2)})
    (folder / "bad.dat").rename(tmp_path / "deep" / "private.dat")
    header = folder / "bad.hea"
    header.write_text(header.read_text().replace("bad.dat", "../private.dat"))
    report = ingest(IngestRequest(inputs=(str(folder),), corpus_url=f"{tmp_path}/corpus", cohort="c"))
    assert [one.name for one in report.kept.first] == ["good"]
    assert [one.name for one in report.rejected.first] == ["bad"]
    assert "that stays below it" in report.rejected.first[0].reason


def test_a_multi_segment_header_cannot_name_a_segment_elsewhere(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "in"
    write_record(tmp_path / "deep", "private", {"II": pulse(1000, 2)})
    folder.mkdir()
    (folder / "many.hea").write_text("many/1 1 100 1000\n../private 1000\n")
    report = ingest(IngestRequest(inputs=(str(folder),), corpus_url=f"{tmp_path}/corpus", cohort="c"))
    assert [one.name for one in report.rejected.first] == ["many"] and not report.kept.count
    assert list(Corpus.open(f"{tmp_path}/corpus").snapshot().rows()) == []


def test_a_key_with_dots_is_not_copied_out_of_the_temporary_folder(
    store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if uri.is_local(store_url):
        pytest.skip("a file system has no such key")
    write_record(tmp_path / "made", "x", {"II": np.asarray(pulse(1000, 1))})
    fs, path = uri.filesystem(store_url)
    for suffix in (".hea", ".dat"):
        fs.pipe_file(f"{path}/raw/../../../escaped/x{suffix}", (tmp_path / "made" / f"x{suffix}").read_bytes())
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    monkeypatch.setattr("tempfile.tempdir", f"{tmp_path}/a/b/c")
    assert main(["ingest", f"{store_url}/raw", "--corpus", f"{tmp_path}/corpus", "--cohort", "c"]) == 2
    said = capsys.readouterr().err
    assert "stays below" in said or "nothing to ingest" in said
    assert not list(tmp_path.rglob("escaped"))
