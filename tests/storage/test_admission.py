"""Who and what may be committed, whatever happens at the same moment: no recording twice, nobody withdrawn."""

from __future__ import annotations

import json
import shutil
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from xmae_dist.cli.main import main
from xmae_dist.core.errors import InputError, IntegrityError
from xmae_dist.storage import sweep, uri
from xmae_dist.storage.corpus import AlreadyThereError, Corpus
from xmae_dist.storage.duplicates import duplicates
from xmae_dist.storage.table import PinnedTable
from xmae_dist.storage.verify import verify
from xmae_dist.testing.conformance_storage import NO_GRACE_S, content, write_part

FROZEN = Path(__file__).parent / "frozen" / "corpora-before-withdrawn-table.tar.gz"


@pytest.fixture
def old_corpora(tmp_path: Path) -> Path:
    """Corpora as they were before there was a list of the withdrawn: `withdrawn` (p1 of p0, p1), `duplicates`."""
    with tarfile.open(FROZEN) as tar:
        tar.extractall(tmp_path, filter="data")
    return tmp_path


class Meeting:
    """Brings two commits to the same version: each reads it, and none commits before both have."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, others: int = 2) -> None:
        self._barrier = threading.Barrier(others)
        self._met = threading.local()
        asked = Corpus._admit

        def admit(corpus: Corpus, rows: pa.Table, base: PinnedTable) -> list[str]:
            held = asked(corpus, rows, base)
            if not getattr(self._met, "done", False):
                self._met.done = True
                self._barrier.wait(timeout=60)
            return held

        monkeypatch.setattr(Corpus, "_admit", admit)


def test_two_ingests_that_share_a_recording_cannot_both_commit(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = Corpus.create(store_url)
    corpus.commit_part(write_part(corpus, "first", ["s9"], seconds=1), "run 0")
    parts = [write_part(corpus, "p0", people, seconds=1) for people in (["s0", "s1"], ["s1", "s2"])]
    Meeting(monkeypatch)

    def commit(at: int) -> int | AlreadyThereError | None:
        try:
            return Corpus.open(store_url).commit_part(parts[at], f"run {at + 1}")
        except AlreadyThereError as error:
            return error

    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(commit, range(2)))
    assert sorted(isinstance(one, AlreadyThereError) for one in done) == [False, True]
    assert "such as 'p0-s1'" in str(next(one for one in done if isinstance(one, AlreadyThereError)))
    assert len(list(corpus.snapshot().recordings())) == 3


def test_two_first_ingests_of_a_cohort_that_share_nothing_both_commit(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = Corpus.create(store_url)
    parts = [write_part(corpus, f"p{i}", [f"s{i}"], seconds=1) for i in range(2)]
    Meeting(monkeypatch)
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda at: Corpus.open(store_url).commit_part(parts[at], f"run {at}"), range(2)))
    assert sorted(v for v in done if v is not None) == [1, 2]
    assert corpus.snapshot().subjects().to_pylist() == ["s0", "s1"]


@pytest.mark.parametrize("cohort", ["patch", "new"])
def test_an_ingest_that_meets_a_withdrawal_brings_nobody_back(
    store_url: str, cohort: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ingest has looked at the list, then the person is withdrawn, then the ingest commits."""
    corpus = Corpus.create(store_url)
    corpus.commit_part(write_part(corpus, "p0", ["s0", "s1"], seconds=1), "run 0")
    rows = write_part(corpus, "p1", ["s1", "s2"], cohort=cohort, seconds=1)
    asked, calls = Corpus._admit, []

    def admit(self: Corpus, rows: pa.Table, base: PinnedTable) -> list[str]:
        held = asked(self, rows, base)
        if not calls:
            calls.append(Corpus.open(store_url).withdraw(["s1"]))
        return held

    monkeypatch.setattr(Corpus, "_admit", admit)
    with pytest.raises(InputError, match=r"s1: withdrawn.*xmae readmit"):
        corpus.commit_part(rows, "run 1")
    assert calls == [2]
    assert corpus.snapshot().subjects().to_pylist() == ["s0"]
    corpus.readmit(["s1"])
    assert corpus.commit_part(rows, "run 1") is not None
    assert corpus.snapshot().subjects().to_pylist() == ["s0", "s1", "s2"]


def test_people_can_be_kept_out_before_anything_of_theirs_is_here(
    store_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = Corpus.create(store_url)
    assert main(["withdraw", store_url, "--subject", "s7", "--apply"]) == 2
    assert "--absent" in capsys.readouterr().err
    assert main(["withdraw", store_url, "--subject", "s7", "--absent", "--apply"]) == 0
    assert "s7: no recordings; their files are left out of new ingests" in capsys.readouterr().out
    with pytest.raises(InputError, match="s7: withdrawn"):
        corpus.commit_part(write_part(corpus, "p0", ["s7"], seconds=1), "run 0")
    assert main(["readmit", store_url]) == 0
    assert capsys.readouterr().out == "s7: withdrawn\n"
    assert main(["readmit", store_url, "--subject", "s8", "--apply"]) == 2
    assert main(["readmit", store_url, "--subject", "s7"]) == 0
    assert "nothing was changed" in capsys.readouterr().out
    assert main(["readmit", store_url, "--subject", "s7", "--apply", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"applied": True, "withdrawn": [], "unnamed": 0}
    assert corpus.commit_part(write_part(corpus, "p0", ["s7"], seconds=1), "run 0") is not None


def test_an_old_corpus_remembers_whom_it_lost(old_corpora: Path) -> None:
    corpus = Corpus.open(f"{old_corpora}/withdrawn")
    listed = corpus.withdrawn.read()
    assert listed.subjects == {"p1"} and listed.recordings == {("c", "r1"), ("c", "r2")} and listed.unnamed == 0
    with pytest.raises(InputError, match="p1: withdrawn"):
        corpus.commit_part(write_part(corpus, "p0", ["p1"], seconds=1), "run 1")


def test_a_vacuum_by_this_version_forgets_nobody(old_corpora: Path) -> None:
    corpus = Corpus.open(f"{old_corpora}/withdrawn")
    sweep.vacuum(corpus, grace_s=NO_GRACE_S)
    assert corpus.withdrawn.read().subjects == {"p1"}


def test_an_old_corpus_whose_history_is_vacuumed_says_how_many_it_cannot_name(old_corpora: Path) -> None:
    corpus = Corpus.open(f"{old_corpora}/withdrawn")
    corpus.index.vacuum(retention_hours=0)  # as an earlier version did
    assert corpus.withdrawn.read().unnamed == 1
    corpus.withdraw(["p1"])
    listed = corpus.withdrawn.read()
    assert (listed.subjects, listed.unnamed) == ({"p1"}, 0)


def test_a_corpus_with_duplicates_has_a_way_out(old_corpora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"{old_corpora}/duplicates"
    corpus = Corpus.open(url)
    with pytest.raises(IntegrityError, match="xmae repair"):
        list(corpus.snapshot().recordings())
    before = content(corpus.snapshot())
    assert main(["repair", url]) == 1
    said = capsys.readouterr().out
    assert "patch/p0-s1 (ecg, ppg): copies in patch/p0, patch/p0.2, equal; that in patch/p0 stays" in said
    assert "watch/q0-s0 (ecg, ppg): copies in watch/q0, watch/q0.2, which differ (subject s0); decide with" in said
    assert "nothing was changed" in said and len(duplicates(corpus)) == 2
    assert main(["repair", url, "--apply"]) == 1
    assert [one.recording_id for one in duplicates(corpus)] == ["q0-s0"]  # nothing that differs goes unasked
    assert main(["repair", url, "--keep", "watch/q7", "--apply"]) == 2
    assert main(["repair", url, "--keep", "watch/q0.2", "--apply", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["dropped"] == 1
    after = corpus.snapshot()
    assert {(r.cohort, r.recording_id) for r in after.recordings()} == {
        ("patch", "p0-s0"), ("patch", "p0-s1"), ("patch", "p0-s2"), ("watch", "q0-s0"),
    }  # fmt: skip
    held = content(after)
    assert held.keys() == before.keys()
    assert {row.part for row in after.rows() if row.recording_id == "q0-s0"} == {"q0.2"}
    sweep.vacuum(corpus)
    sweep.vacuum(corpus, grace_s=NO_GRACE_S)
    assert content(corpus.snapshot()) == held and list(verify(corpus.snapshot())) == []
    assert main(["repair", url]) == 0
    assert "no recording stands twice" in capsys.readouterr().out


def test_the_same_rows_committed_twice_stay_once(old_corpora: Path) -> None:
    """Two runs that both took over one part of an interrupted third."""
    corpus = Corpus.create(f"{old_corpora}/other")
    corpus.commit_part(write_part(corpus, "p0", ["s0", "s1", "s2"], seconds=1), "run 0")
    held = corpus.snapshot().fingerprint
    corpus.index.append(corpus.index.read())
    assert main(["repair", corpus.url, "--apply"]) == 0
    assert len(list(corpus.snapshot().recordings())) == 3 and corpus.snapshot().fingerprint == held


def test_what_was_dropped_stays_for_readers_of_the_grace_period(old_corpora: Path) -> None:
    corpus = Corpus.open(f"{old_corpora}/duplicates")
    main(["repair", corpus.url, "--keep", "watch/q0.2", "--apply"])
    sweep.vacuum(corpus)
    assert uri.exists(uri.join(corpus.url, "signals/watch/q0/ecg/zarr.json"))
    shutil.rmtree(old_corpora / "duplicates")
