"""What counts as a recording in a folder, and what is named as broken."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from xmae_dist.core.errors import InputError
from xmae_dist.ingest.discover import discover
from xmae_dist.ingest.formats.items import Item
from xmae_dist.ingest.grouping import groups
from xmae_dist.storage import uri
from xmae_dist.testing.s3_server import S3Server


def names(folder: Path) -> list[str]:
    return [item.name for item in discover([str(folder)], None).items()]


@pytest.mark.recordings
def test_segments_are_part_of_their_record(recordings_dir: Path) -> None:
    found = discover([f"{recordings_dir}/wfdb"], None)
    assert [item.name for item in found.items()] == ["041s/041s", "3000003_0003", "a103l"]
    assert not list(found.refusals())
    assert len(next(found.items()).files) == 5


def test_a_record_may_be_named_with_or_without_suffix(good_folder: Path) -> None:
    for name in ("r1", "r1.hea"):
        assert [item.name for item in discover([f"{good_folder}/{name}"], None).items()] == ["r1"]


def test_signals_without_header_and_listed_records_that_are_gone_are_named(good_folder: Path) -> None:
    (good_folder / "r0.hea").unlink()
    (good_folder / "RECORDS").write_text("r1\nr2\nr9\n")
    found = discover([str(good_folder)], None)
    assert [item.name for item in found.items()] == ["r1", "r2"]
    assert {refusal.name for refusal in found.refusals()} == {"r0", "r9"}
    assert all("no such file; fix:" in refusal.reason for refusal in found.refusals())


def test_a_fingerprint_follows_content_not_place(good_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(good_folder, copy)
    before = tuple(discover([str(good_folder)], None).items())
    assert [i.fingerprint for i in discover([str(copy)], None).items()] == [i.fingerprint for i in before]
    (copy / "r0.hea").write_text((copy / "r0.hea").read_text() + "# a comment\n")
    assert next(discover([str(copy)], None).items()).fingerprint != before[0].fingerprint


def test_a_folder_on_object_storage_lists_like_a_local_one(good_folder: Path, s3: S3Server) -> None:
    url = s3.bucket_url()
    uri.upload_tree(good_folder, uri.join(url, "raw"))
    local, remote = discover([str(good_folder)], None), discover([uri.join(url, "raw")], None)
    assert [(i.name, i.fingerprint, i.bytes) for i in remote.items()] == [
        (i.name, i.fingerprint, i.bytes) for i in local.items()
    ]
    assert [item.name for item in discover([uri.join(url, "raw", "r2")], None).items()] == ["r2"]


@pytest.mark.parametrize("name", ["nowhere", "good/r7"])
def test_an_input_that_is_not_there_is_an_error(good_folder: Path, name: str) -> None:
    with pytest.raises(InputError, match="no such folder, record or file"):
        discover([str(good_folder.parent / name)], None)


def test_a_folder_without_recordings_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(InputError, match="nothing to ingest"):
        discover([str(tmp_path)], None)


def _item(at: int, size: int) -> Item:
    return Item(name=f"{at:04d}", folder_url="", head="", files=(), bytes=size, fingerprint="")


@pytest.mark.parametrize(
    ("count", "size_mib", "workers", "expected"), [(100, 1, 8, 2), (100, 20, 8, 8), (64, 64, 2, 8)]
)
def test_groups_keep_order_and_balance(count: int, size_mib: int, workers: int, expected: int) -> None:
    items = [_item(at, size_mib * 2**20) for at in range(count)]
    grouped = list(groups(items, count * size_mib * 2**20, 512 * 2**20, workers))
    assert [item for group in grouped for item in group] == items
    assert len(grouped) == expected
    assert max(map(len, grouped)) - min(map(len, grouped)) <= 1
