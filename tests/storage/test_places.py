"""One URL is one place: spellings that clients read in two ways are refused before a byte is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from xmae_dist.cli.main import main
from xmae_dist.core.errors import InputError, StorageError
from xmae_dist.storage import uri
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.table import Table
from xmae_dist.testing.conformance_storage import TableConformance, write_part

AMBIGUOUS = ["week%201", "a#b", "a?b", "a?versionId=b", "[1]", "a*b", "a\\b", "a^b", "a|b", "a\tb", " a", "a "]
PLAIN = ["week 1", "ä", "a:b", "a+b", "a@b", "a=b", "a&b", "(a)", "a'b", "{a}", "<a>", "$a", "~a"]


def everything_below(url: str) -> list[str]:
    return [one.url for one in uri.list_details(url)]


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_what_clients_read_in_two_ways_is_refused_before_anything_is_written(store_url: str, name: str) -> None:
    place = f"{store_url}/{name}/t"
    for use in (
        Corpus.create,
        Corpus.open_or_create,
        Table,
        lambda url: uri.write_bytes(url, b"x"),
        lambda url: uri.create_exclusively(url, b"x"),
        lambda url: uri.delete(url, recursive=True),
    ):
        with pytest.raises(StorageError, match=r"that all clients read alike.*fix: choose another name"):
            use(place)
    assert everything_below(store_url) == []


@pytest.mark.parametrize("name", ["a//b", "a/../b", "a/./b"])
def test_levels_that_one_client_drops_are_refused_on_object_stores(name: str) -> None:
    with pytest.raises(StorageError, match="no empty level"):
        Corpus.create(f"s3://bucket/{name}")


@pytest.mark.parametrize("name", PLAIN)
def test_other_names_are_one_place_for_all_clients(store_url: str, name: str) -> None:
    table = Table(f"{store_url}/{name}/t")
    table.append(TableConformance.rows)
    assert table.read().num_rows == 2
    assert {url.removeprefix(f"{store_url}/").split("/")[0] for url in everything_below(store_url)} == {name}


def test_two_corpora_never_share_an_index(store_url: str) -> None:
    first = Corpus.create(f"{store_url}/week 1/corpus")
    first.commit_part(write_part(first, "p0", ["s0"], seconds=1), "run 1")
    before = everything_below(store_url)
    with pytest.raises(StorageError, match="week%201"):
        Corpus.open_or_create(f"{store_url}/week%201/corpus")
    assert everything_below(store_url) == before
    assert first.snapshot().subjects().to_pylist() == ["s0"]


def test_commands_refuse_before_they_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = f"{tmp_path}/a#b"
    corpus = Corpus.create(f"{tmp_path}/corpus")
    corpus.commit_part(write_part(corpus, "p0", ["s0"], seconds=30), "run 1")
    for argv in (
        ["simulate", "bedside", "--corpus", odd, "--subjects", "1", "--minutes", "1"],
        ["windows", "--corpus", f"{tmp_path}/corpus", "--out", odd],
        ["embed", "--corpus", f"{tmp_path}/c", "--bundle", f"{tmp_path}/b", "--table", odd, "--cohort", "c"],
        ["reembed", "--corpus", f"{tmp_path}/c", "--bundle", f"{tmp_path}/b", "--table", odd],
        ["evaluate", "--windows", f"{tmp_path}/w", "--bundle", f"{tmp_path}/b", "--out", odd],
        ["export", "--run", f"{tmp_path}/run", "--out", odd],
        ["export-encoder", f"{tmp_path}/b", "--out", f"{odd}/encoder.onnx"],
        ["import-shards", "--shards", f"{tmp_path}/s", "--out", odd],
        ["pretrain", "debug_cpu2", "--corpus", f"{tmp_path}/c", "--run", odd],
    ):
        assert main(argv) == 2, argv
        assert "that all clients read alike" in capsys.readouterr().err, argv
    assert {path.name for path in tmp_path.iterdir()} == {"corpus"}


@pytest.mark.parametrize(
    "url", ["file:/x", "s3:/x", "gs:/x", "s3:x", "S3:/x", "http:/x", "file://data/x", "file://~/x"]
)
def test_a_slip_in_the_scheme_is_no_relative_path(url: str) -> None:
    with pytest.raises(StorageError, match=r"store URL: got .*fix: write"):
        uri.normalise(url)


def test_paths_with_a_colon_stay_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert uri.normalise("./s3:x") == f"file://{tmp_path}/s3:x"
    assert uri.normalise("10:30/x") == f"file://{tmp_path}/10:30/x"
    assert uri.normalise("file://localhost/x") == "file:///x"


@pytest.mark.parametrize("part", ["..", "../x", "a/../../x", "./x", "a/..", "a\0b"])
def test_a_name_from_outside_cannot_leave_its_base(part: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="one that stays below it"):
        uri.join("s3://bucket/base", part)
    with pytest.raises(InputError, match="one that stays below it"):
        uri.path_below(tmp_path, part)
    with pytest.raises(InputError, match="one that stays below it"):
        uri.path_below(tmp_path, "/etc/hosts")


def test_a_key_with_dots_is_not_downloaded_out_of_the_folder(s3: object, store_url: str, tmp_path: Path) -> None:
    if uri.is_local(store_url):
        pytest.skip("a file system has no such key")
    fs, path = uri.filesystem(store_url)
    fs.pipe_file(f"{path}/bundle/../../escaped", b"x")
    with pytest.raises(InputError, match="escaped"):
        uri.download_tree(f"{store_url}/bundle", tmp_path / "deep" / "bundle")
    assert not (tmp_path / "escaped").exists()
