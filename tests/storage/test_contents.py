"""What commits state of the index is what its rows come to, for every writer, old corpora included."""

from __future__ import annotations

import dataclasses
import json
import pickle
import tarfile
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable, write_deltalake

from xmae_dist.cli.main import main
from xmae_dist.core.errors import InputError
from xmae_dist.storage import index, uri
from xmae_dist.storage.contents import CohortContent, Contents
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.ledger import KEY, Ledger
from xmae_dist.storage.snapshot import Snapshot
from xmae_dist.storage.table import CHECKPOINT_EVERY, PinnedTable
from xmae_dist.testing.conformance_storage import content, write_part

FROZEN = Path(__file__).parent / "frozen" / "corpus-v1.tar.gz"


@pytest.fixture
def v1(tmp_path: Path) -> str:
    """A corpus of format v1: cohorts patch and watch, s1 withdrawn in version 3, another part in version 4."""
    with tarfile.open(FROZEN) as tar:
        tar.extractall(tmp_path, filter="data")
    return f"{tmp_path}/corpus-v1"


@pytest.fixture
def v1_fingerprints(v1: str) -> dict[str, Any]:
    """By version, the fingerprints that the code of format v1 printed for it, whole and by cohort."""
    return json.loads(Path(f"{v1}.json").read_text())  # type: ignore[no-any-return]


def counted(corpus: Corpus) -> dict[str, tuple[str, int, Mapping[str, int]]]:
    """What the rows themselves come to."""
    return plain(Ledger.counted(corpus.index.at(corpus.index.version())).cohorts)


def plain(cohorts: Mapping[str, CohortContent]) -> dict[str, tuple[str, int, Mapping[str, int]]]:
    return {name: (one.digest, one.rows, one.channels) for name, one in cohorts.items() if one.rows}


def stated(corpus: Corpus) -> Contents:
    found = Ledger(corpus.index.url).stated(corpus.index.version())
    assert found is not None
    return found


def test_every_writer_states_what_is_there(store_url: str) -> None:
    corpus = Corpus.create(store_url)
    assert corpus.snapshot().contents == {} and corpus.snapshot().cohorts() == []
    corpus.commit_part(write_part(corpus, "p0", ["s0", "s1"], seconds=1), "run 0")
    corpus.commit_part(write_part(corpus, "q0", ["s0"], cohort="watch", seconds=1), "run 1")
    assert plain(stated(corpus).cohorts) == counted(corpus)
    assert corpus.snapshot().contents["patch"].channels == {"ecg": 2, "ppg": 2}

    before = corpus.snapshot().fingerprint
    corpus.index.rewrite([("cohort", "=", "patch")], relabelled)
    assert plain(stated(corpus).cohorts) == counted(corpus) and corpus.snapshot().fingerprint != before
    assert stated(corpus).cohorts["patch"].lost == 0, "labels take nothing away"

    corpus.withdraw(["s0"])
    assert plain(stated(corpus).cohorts) == counted(corpus)
    assert corpus.snapshot().cohorts() == ["patch"] == list(corpus.snapshot().contents)
    assert stated(corpus).cohorts["watch"].rows == 0 and stated(corpus).cohorts["watch"].lost == 4
    corpus.readmit(["s0"])
    corpus.commit_part(write_part(corpus, "q1", ["s0"], cohort="watch", seconds=1), "run 2")
    assert plain(stated(corpus).cohorts) == counted(corpus)


def relabelled(rows: pa.Table) -> pa.Table:
    return index.to_arrow([dataclasses.replace(row, labels={"age": 99.0}) for row in index.from_arrow(rows)])


def test_contents_are_read_without_rows(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = Corpus.create(store_url)
    for i in range(3):
        corpus.commit_part(write_part(corpus, f"p{i}", [f"s{i}"], cohort=f"c{i}", seconds=1), f"run {i}")

    def refuse(self: PinnedTable, *_: object) -> None:
        raise AssertionError("a row was read")

    monkeypatch.setattr(PinnedTable, "_scanned", refuse)
    snapshot = corpus.snapshot()
    assert snapshot.cohorts() == ["c0", "c1", "c2"] == list(snapshot.contents)
    assert snapshot.fingerprint != snapshot.cohort("c1").fingerprint != snapshot.cohort("c2").fingerprint
    assert snapshot.legacy_fingerprint() is None
    assert corpus.snapshot(1).contents.keys() == {"c0"}, "an old version, of which nothing was withdrawn"


@pytest.mark.parametrize("same_cohort", [True, False])
def test_two_writers_at_once_state_one_truth(
    store_url: str, same_cohort: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both compute their statement on one version; the later must not be committed as it was."""
    corpus = Corpus.create(store_url)
    corpus.commit_part(write_part(corpus, "p", ["s"], seconds=1), "run")
    cohorts = ["patch", "patch" if same_cohort else "watch"]
    parts = [write_part(corpus, f"p{i}", [f"s{i}"], cohort=cohorts[i], seconds=1) for i in range(2)]
    barrier, met = threading.Barrier(2), threading.local()
    asked, versions = Ledger.statement, list[int]()

    def statement(self: Ledger, base: PinnedTable, removed: Any, added: Any) -> Mapping[str, str]:
        versions.append(base.version)
        made = asked(self, base, removed, added)
        if not getattr(met, "done", False):
            met.done = True
            barrier.wait(timeout=60)
        return made

    monkeypatch.setattr(Ledger, "statement", statement)
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda at: Corpus.open(store_url).commit_part(parts[at], f"run {at}"), range(2)))
    assert sorted(version or 0 for version in done) == [2, 3]
    assert sorted(versions)[:3] == [1, 1, 2], "the loser states anew, on what the winner left"
    assert plain(stated(corpus).cohorts) == counted(corpus)


def test_a_statement_of_another_version_is_not_believed(store_url: str) -> None:
    """As a client would leave it that moved a commit on to a later version."""
    corpus = Corpus.create(store_url)
    corpus.commit_part(write_part(corpus, "p0", ["s0"], seconds=1), "run 0")
    log = uri.join(corpus.index.url, "_delta_log")
    assert uri.create_exclusively(uri.join(log, f"{2:020d}.json"), uri.read_bytes(uri.join(log, f"{1:020d}.json")))
    assert KEY in corpus.index.commit(2).info and Ledger(corpus.index.url).stated(2) is None
    assert plain(corpus.snapshot().contents) == counted(corpus)


def test_a_corpus_of_format_v1_is_read_as_it_is(v1: str, v1_fingerprints: dict[str, Any]) -> None:
    before = (Path(v1) / "corpus.json").read_text()
    corpus = Corpus.open(v1)
    snapshot = corpus.snapshot()
    assert Ledger(corpus.index.url).stated(snapshot.version) is None
    assert snapshot.cohorts() == ["patch", "watch"]
    assert {name: one.rows for name, one in snapshot.contents.items()} == {"patch": 6, "watch": 4}
    for version, expected in v1_fingerprints.items():
        pinned = corpus.snapshot(int(version), allow_withdrawn=True)
        assert pinned.legacy_fingerprint() == expected["fingerprint"]
        assert {name: pinned.cohort(name).legacy_fingerprint() for name in pinned.cohorts()} == expected["cohorts"]
    with pytest.raises(InputError, match=r"1 subject\(s\), 2 signal\(s\) withdrawn since"):
        corpus.snapshot(2)
    assert len(content(snapshot)) == 10
    assert (Path(v1) / "corpus.json").read_text() == before and corpus.index.version() == 4


def test_the_next_write_upgrades_in_one_commit(v1: str, v1_fingerprints: dict[str, Any]) -> None:
    corpus = Corpus.open(v1)
    old, newest = corpus.snapshot(), v1_fingerprints["4"]
    assert corpus.commit_part(write_part(corpus, "q1", ["s5"], cohort="watch", seconds=1), "run 3") == 5
    assert plain(stated(corpus).cohorts) == counted(corpus)
    document = json.loads((Path(v1) / "corpus.json").read_text())
    assert (document["format"], document["upgraded_from"]) == ("xmae-corpus/v2", "xmae-corpus/v1")
    snapshot = Corpus.open(v1).snapshot()
    assert snapshot.cohort("patch").fingerprint == old.cohort("patch").fingerprint
    assert snapshot.cohort("patch").legacy_fingerprint() == newest["cohorts"]["patch"]
    assert snapshot.cohort("watch").legacy_fingerprint() is None, "it was never so in format v1"
    assert snapshot.legacy_fingerprint() is None
    assert corpus.commit_part(write_part(corpus, "r0", ["s6"], cohort="ring", seconds=1), "run 4") == 6
    assert corpus.snapshot().cohort("patch").legacy_fingerprint() == newest["cohorts"]["patch"]
    assert old.legacy_fingerprint() == newest["fingerprint"], "a version from before the upgrade"
    with pytest.raises(InputError, match=r"1 subject\(s\), 2 signal\(s\) withdrawn since"):
        corpus.snapshot(2)
    assert corpus.snapshot(4).fingerprint == old.fingerprint


def test_an_upgrade_that_changes_no_content_keeps_every_fingerprint(v1: str, v1_fingerprints: dict[str, Any]) -> None:
    corpus = Corpus.open(v1)
    corpus.index.rewrite([("cohort", "=", "patch")], lambda rows: rows)
    snapshot = corpus.snapshot()
    assert snapshot.legacy_fingerprint() == v1_fingerprints["4"]["fingerprint"]
    assert {n: snapshot.cohort(n).legacy_fingerprint() for n in snapshot.cohorts()} == v1_fingerprints["4"]["cohorts"]


def test_a_writer_of_format_v1_that_still_runs_is_noticed(v1: str) -> None:
    corpus = Corpus.open(v1)
    corpus.commit_part(write_part(corpus, "q1", ["s5"], cohort="watch", seconds=1), "run 3")
    rows = index.to_arrow(write_part(corpus, "p2", ["s6"], seconds=1))
    write_deltalake(DeltaTable(corpus.index.url), rows, mode="append")
    snapshot = Corpus.open(v1).snapshot()
    assert Ledger(corpus.index.url).stated(snapshot.version) is None
    assert plain(snapshot.contents) == counted(corpus) and snapshot.contents["patch"].rows == 8
    corpus.commit_part(write_part(corpus, "q2", ["s7"], cohort="watch", seconds=1), "run 4")
    assert plain(stated(corpus).cohorts) == counted(corpus)
    assert all(KEY in corpus.index.commit(one.touched).info for one in stated(corpus).cohorts.values())


def test_a_log_that_somebody_shortened_is_counted_again(tmp_path: Path) -> None:
    corpus = Corpus.create(str(tmp_path))
    corpus.commit_part(write_part(corpus, "q0", ["s0"], cohort="watch", seconds=1), "run q0")
    for at in range(CHECKPOINT_EVERY):
        corpus.commit_part(write_part(corpus, f"p{at}", [f"s{at}"], seconds=1), f"run {at}")
    for version in range(3):
        (tmp_path / "index" / "_delta_log" / f"{version:020d}.json").unlink()
    assert plain(corpus.snapshot().contents) == counted(corpus), "what the newest commit states needs no other"
    corpus.commit_part(write_part(corpus, "q1", ["s1"], cohort="watch", seconds=1), "run q1")
    assert plain(stated(corpus).cohorts) == counted(corpus) and stated(corpus).sums.keys() == {"patch", "watch"}


def test_rearranged_files_are_looked_past(store_url: str) -> None:
    corpus = Corpus.create(store_url)
    for i in range(3):
        corpus.commit_part(write_part(corpus, f"p{i}", [f"s{i}"], seconds=1), f"run {i}")
    before = corpus.snapshot()
    table = DeltaTable(corpus.index.url, storage_options=uri.delta_options(corpus.index.url))
    table.optimize.compact()
    after = corpus.snapshot()
    assert (after.version, after.fingerprint) == (4, before.fingerprint) and stated(corpus).version == 3
    corpus.commit_part(write_part(corpus, "p3", ["s3"], seconds=1), "run 3")
    assert plain(stated(corpus).cohorts) == counted(corpus)


def test_verify_compares_rows_with_what_is_stated(
    store_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = Corpus.create(store_url)
    corpus.commit_part(write_part(corpus, "q0", ["s0"], cohort="watch", seconds=1), "run 0")
    with monkeypatch.context() as wrong:
        wrong.setattr(Ledger, "summed", lambda self, batches: {})  # a writer that does not count what it adds
        corpus.commit_part(write_part(corpus, "p0", ["s1"], seconds=1), "run 1")
    assert main(["verify", store_url]) == 1
    assert "contents: cohort patch: its rows come to 2 rows, " in (said := capsys.readouterr().out)
    assert "the log states no rows" in said and "watch" not in said
    assert main(["verify", store_url, "--cohort", "watch"]) == 0


def test_a_snapshot_travels_as_a_place_and_a_version(v1: str) -> None:
    snapshot = Corpus.open(v1).snapshot().cohort("patch")
    assert snapshot.contents
    data = pickle.dumps(snapshot)
    again = pickle.loads(data)
    assert len(data) < 300 and isinstance(again, Snapshot)
    assert again.contents == snapshot.contents and again.cohorts() == ["patch"]
    assert pc.unique(again.table(["cohort"])["cohort"]).to_pylist() == ["patch"]
