"""`xmae inspect` and `xmae verify`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from xmae_dist.cli.main import main
from xmae_dist.storage import uri
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.inspect import judge, sample_quality
from xmae_dist.storage.summary import summarise
from xmae_dist.testing.conformance_storage import write_part


@pytest.fixture
def corpus(store_url: str) -> Corpus:
    corpus = Corpus.create(store_url)
    corpus.commit_part(write_part(corpus, "p0", ["s0", "s1"], seconds=60), "run 1")
    corpus.commit_part(write_part(corpus, "p0", ["s1", "s2", "s3"], cohort="watch", seconds=30), "run 2")
    return corpus


def test_inspect_shows_a_table_and_draws_a_picture(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "deep" / "corpus.png"
    assert main(["inspect", corpus.url, "--picture", str(picture), "--windows", "4"]) == 0
    said = capsys.readouterr().out
    assert "patch" in said and "watch" in said and "all" in said and "age" in said
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and picture.stat().st_size > 20_000


def test_inspect_speaks_json_and_writes_nothing_unasked(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert main(["inspect", corpus.url, "--json", "--windows", "3"]) == 0
    assert list(folder.iterdir()) == []
    document = json.loads(capsys.readouterr().out)
    patch, watch = document["cohorts"]
    assert (patch["cohort"], patch["subjects"], patch["recordings"]) == ("patch", 2, 2)
    assert patch["hours"] == pytest.approx(2 * 60 / 3600)
    assert [channel["rates_hz"] for channel in watch["channels"]] == [[250.0], [125.0]]
    assert all(one["good"] == 3 for one in document["quality"])
    assert (document["snapshot"], document["fingerprint"]) == (2, corpus.snapshot().fingerprint)


def test_inspect_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Corpus.create(str(tmp_path / "c"))
    assert main(["inspect", str(tmp_path / "c"), "--picture", str(tmp_path / "x.png")]) == 0
    assert "no recordings yet" in capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "c"), "--cohort", "ring"]) == 2
    assert "cohort: got 'ring'" in capsys.readouterr().err


def test_inspect_goes_on_over_damage(corpus: Corpus) -> None:
    uri.write_bytes(uri.join(corpus.url, "signals/patch/p0/ecg/c/0"), b"gone")
    quality = {(one.cohort, one.channel): one for one in sample_quality(corpus.snapshot(), windows=5)}
    assert quality["patch", "ecg"].damaged == 5 and quality["patch", "ppg"].good == 5
    assert sum(cohort.recordings for cohort in summarise(corpus.snapshot())) == 5


def test_verify_passes_and_fails(corpus: Corpus, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", corpus.url]) == 0
    assert "all as written" in capsys.readouterr().out
    shard = uri.join(corpus.url, "signals/watch/p0/ppg/c/0")
    data = bytearray(uri.read_bytes(shard))
    data[-20] ^= 4
    uri.write_bytes(shard, data)
    assert main(["verify", corpus.url]) == 1
    said = capsys.readouterr()
    assert "chunk: part p0, array ppg, chunk 0: CRC-32C does not match" in said.out
    assert "fix:" in said.err
    assert main(["verify", corpus.url, "--json"]) == 1
    finding = json.loads(capsys.readouterr().out)["findings"][0]
    assert (finding["part"], finding["array"], finding["chunk"], len(finding["recordings"])) == ("p0", "ppg", 0, 3)
    assert main(["verify", corpus.url, "--cohort", "patch"]) == 0


def test_windows_are_judged() -> None:
    rng = np.random.default_rng(0)
    wave = rng.normal(size=1000).astype(np.float32)
    holes, rails = wave.copy(), np.clip(wave, -1, 1)
    holes[:200] = np.nan
    assert [judge(one) for one in (wave, holes, np.ones(1000), rails)] == ["good", "missing", "flat", "clipped"]
    assert judge(np.full(10, np.nan)) == "missing"
