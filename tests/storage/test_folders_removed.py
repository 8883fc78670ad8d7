"""Local folders come and go as if there were none: object stores have none, and many processes write and remove."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from xmae_dist.core.errors import StorageError
from xmae_dist.storage import uri


@pytest.fixture
def removing(tmp_path: Path) -> Iterator[Path]:
    """A folder that is removed whenever it is empty, again and again."""
    folder, over = tmp_path / "staging" / "tasks", threading.Event()

    def remove() -> None:
        while not over.is_set():
            for place in (folder, folder.parent):
                with contextlib.suppress(OSError):
                    place.rmdir()
            time.sleep(0.001)  # at full speed none of twenty attempts would find the folder that it made

    thread = threading.Thread(target=remove)
    thread.start()
    yield folder
    over.set()
    thread.join()


@pytest.mark.parametrize("write", [uri.write_bytes, uri.create_exclusively])
def test_an_object_is_written_where_another_removes_empty_folders(
    removing: Path, write: Callable[[str, bytes], object]
) -> None:
    for number in range(300):
        url = f"file://{removing}/{number}"
        write(url, b"x")
        assert uri.read_bytes(url) == b"x"
        uri.delete(url)


def test_two_remove_one_tree_and_leave_nothing(tmp_path: Path) -> None:
    for round_ in range(20):
        tree = tmp_path / str(round_)
        for number in range(60):
            uri.write_bytes(f"file://{tree}/{number % 6}/{number}", b"x")
        (tree / "link").symlink_to(tmp_path)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _, url=f"file://{tree}": uri.delete(url, recursive=True), range(4)))
        assert not tree.exists()
    assert tmp_path.exists(), "what a link points at stays"


def test_what_another_adds_to_a_tree_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri.write_bytes(f"file://{tmp_path}/tree/a/x", b"x")
    unlink = uri.os.unlink  # type: ignore[attr-defined]

    def beside(path: str) -> None:
        unlink(path)
        Path(path).with_name("late").write_bytes(b"y")

    monkeypatch.setattr(uri.os, "unlink", beside)  # type: ignore[attr-defined]
    uri.delete(f"file://{tmp_path}/tree", recursive=True)
    assert [str(one.relative_to(tmp_path)) for one in tmp_path.rglob("*") if one.is_file()] == ["tree/a/late"]


def test_a_folder_that_cannot_be_read_is_no_silent_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri.write_bytes(f"file://{tmp_path}/tree/a/x", b"x")
    scandir = uri.os.scandir  # type: ignore[attr-defined]

    def refused(path: str) -> object:
        if str(path).endswith("/a"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(uri.os, "scandir", refused)  # type: ignore[attr-defined]
    with pytest.raises(StorageError, match="tree"):
        uri.delete(f"file://{tmp_path}/tree", recursive=True)
