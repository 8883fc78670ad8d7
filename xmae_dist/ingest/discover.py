"""Which recordings a folder, a record or a file offers, and which of its files cannot be one.

An item is what is read as a whole: a WFDB record (its headers and signal files) or a table file. Its
fingerprint is made of names, sizes and headers, so that a re-run over terabytes reads headers alone. Works on
any store URL.
"""

from __future__ import annotations

import fnmatch
import hashlib
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from xmae_dist.core.errors import InputError
from xmae_dist.core.fingerprint import digest_json
from xmae_dist.ingest.datasets.catalogue import Archive
from xmae_dist.ingest.formats.mapping import Mapping as TableMapping
from xmae_dist.storage import uri

_SIGNAL_SUFFIXES = (".dat", ".mat")
# Enough of a table's two ends to notice another file of the same name and size.
_EDGE_BYTES = 64 * 1024


@dataclass(frozen=True, kw_only=True)
class Item:
    """One thing to read: `name` is the recording id it stands for (for a `rows` table, its prefix).

    `head` and `files` are paths relative to `folder_url`; `bytes` is the sum of the sizes of `files`.
    """

    name: str
    folder_url: str
    head: str
    files: tuple[str, ...]
    bytes: int
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Something named in the input that cannot be read, and why."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Found:
    items: tuple[Item, ...]
    refusals: tuple[Refusal, ...]


def discover(inputs: Sequence[str], mapping: TableMapping | Archive | None) -> Found:
    """Items of all `inputs` (folders, records, files), ordered by name.

    Raises InputError where an input does not exist or holds nothing that looks like a recording.
    """
    items: dict[str, Item] = {}
    refusals: dict[str, Refusal] = {}
    for url in map(uri.normalise, inputs):
        folder_url, listing, only = _listing(url, mapping)
        found = _tables(folder_url, listing, mapping, only) if mapping else _records(folder_url, listing, only)
        if not found.items and not found.refusals:
            what = f"files like {mapping.files!r}" if mapping else "WFDB headers (*.hea)"
            raise InputError(url, value="nothing to ingest", expected=what, fix="check the path, or give --mapping")
        for item in found.items:
            if item.name in items and items[item.name].fingerprint != item.fingerprint:
                reason = f"another recording is also called {item.name}; fix: ingest it from its own parent folder"
                refusals[f"{folder_url}/{item.head}"] = Refusal(name=f"{folder_url}/{item.head}", reason=reason)
                continue
            items[item.name] = item
        refusals.update({refusal.name: refusal for refusal in found.refusals})
    return Found(
        items=tuple(items[name] for name in sorted(items)), refusals=tuple(refusals[name] for name in sorted(refusals))
    )


def _listing(url: str, mapping: TableMapping | Archive | None) -> tuple[str, dict[str, int], str | None]:
    """The folder of `url`, sizes of all files below it by relative path, and the one file meant if `url` is
    no folder.
    """
    fs, path = uri.filesystem(url)
    with uri.storage_errors(url):
        if not uri.is_local(url):
            uri.probe(url)
        sizes = {found: int(info["size"]) for found, info in fs.find(path, detail=True).items()}
        below = {posixpath.relpath(found, path): size for found, size in sizes.items() if found != path}
        if below:
            return url, below, None
        head = path if mapping or path.endswith(".hea") else path + ".hea"
        folder = posixpath.dirname(path)
        sizes = {item["name"]: int(item["size"]) for item in _children(fs, folder)}
    if head not in sizes:
        raise InputError(url, value="no such folder, record or file", fix="check the path")
    folder_url = url.rsplit("/", 1)[0]
    return folder_url, {posixpath.basename(name): size for name, size in sizes.items()}, posixpath.basename(head)


def _children(fs: object, folder: str) -> list[dict]:
    try:
        return [item for item in fs.ls(folder, detail=True) if item["type"] == "file"]  # type: ignore[attr-defined]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _records(folder_url: str, sizes: Mapping[str, int], only: str | None) -> Found:
    heads = sorted(name for name in sizes if name.endswith(".hea"))
    texts = _read_many(folder_url, heads)
    references = {head: _references(head, texts[head]) for head in heads}
    segments = {name for names in references.values() for name in names if name.endswith(".hea")}
    wanted = [only] if only else [head for head in heads if head not in segments]
    items = [_record(folder_url, head, references, texts, sizes) for head in wanted]
    refusals = [] if only else _without_header(folder_url, sizes, references)
    return Found(items=tuple(items), refusals=tuple(refusals))


def _references(head: str, text: bytes) -> list[str]:
    """Files that a header names, relative to the listing: segment headers of a multi-segment record, else
    signal files.
    """
    lines = [line.split() for line in text.decode("utf-8", "replace").splitlines()]
    lines = [words for words in lines if words and not words[0].startswith("#")]
    if not lines:
        return []
    folder = posixpath.dirname(head)
    suffix = ".hea" if "/" in lines[0][0] else ""
    names = dict.fromkeys(words[0] for words in lines[1:] if words[0] != "~")
    return [posixpath.join(folder, name + suffix) for name in names]


def _record(
    folder_url: str,
    head: str,
    references: Mapping[str, list[str]],
    texts: Mapping[str, bytes],
    sizes: Mapping[str, int],
) -> Item:
    headers = [head] + [name for name in references[head] if name in references]
    named = dict.fromkeys(headers + [name for header in headers for name in references[header]])
    files = tuple(name for name in named if name in sizes)
    identity = {
        "files": [[posixpath.basename(name), sizes.get(name)] for name in named],
        "headers": [hashlib.sha256(texts[name]).hexdigest() for name in headers],
    }
    return Item(
        name=head.removesuffix(".hea"),
        folder_url=folder_url,
        head=head,
        files=files,
        bytes=sum(sizes[name] for name in files),
        fingerprint=digest_json(identity),
    )


def _without_header(folder_url: str, sizes: Mapping[str, int], references: Mapping[str, list[str]]) -> list[Refusal]:
    """Signal files that no header names, and records listed in a RECORDS file that have no header."""
    named = {name for names in references.values() for name in names}
    lost = {}
    for name in sizes:
        stem, suffix = posixpath.splitext(name)
        if suffix in _SIGNAL_SUFFIXES and name not in named and f"{stem}.hea" not in sizes:
            lost[stem] = _no_header(stem, f"restore it beside {posixpath.basename(name)}")
    for listing in (name for name in sizes if posixpath.basename(name) == "RECORDS"):
        folder = posixpath.dirname(listing)
        for line in uri.read_bytes(uri.join(folder_url, listing)).decode("utf-8", "replace").split():
            record = posixpath.join(folder, line)
            if not line.endswith("/") and f"{record}.hea" not in sizes and record not in lost:
                lost[record] = _no_header(record, f"copy the record again: {listing} lists it")
    return [lost[name] for name in sorted(lost)]


def _no_header(record: str, fix: str) -> Refusal:
    return Refusal(name=record, reason=f"header {posixpath.basename(record)}.hea: got no such file; fix: {fix}")


def _tables(folder_url: str, sizes: Mapping[str, int], mapping: TableMapping | Archive, only: str | None) -> Found:
    names = (
        [only] if only else sorted(name for name in sizes if fnmatch.fnmatch(posixpath.basename(name), mapping.files))
    )
    ends = {name: _ends(folder_url, name, sizes[name]) for name in names}
    items = [
        Item(
            name=posixpath.splitext(name)[0],
            folder_url=folder_url,
            head=name,
            files=(name, *(mapping.companions(name, sizes) if isinstance(mapping, Archive) else ())),
            bytes=sizes[name],
            fingerprint=digest_json([posixpath.basename(name), sizes[name], ends[name]]),
        )
        for name in names
    ]
    return Found(items=tuple(items), refusals=())


def _ends(folder_url: str, name: str, size: int) -> str:
    url = uri.join(folder_url, name)
    fs, path = uri.filesystem(url)
    with uri.storage_errors(url):
        first = fs.cat_file(path, start=0, end=min(size, _EDGE_BYTES))
        last = fs.cat_file(path, start=max(0, size - _EDGE_BYTES), end=size)
    return hashlib.sha256(first + last).hexdigest()


def _read_many(folder_url: str, names: Iterable[str]) -> dict[str, bytes]:
    """Contents of small files; a remote store is asked for many at a time."""
    names = list(names)
    if not names:
        return {}
    fs, root = uri.filesystem(folder_url)
    paths = {f"{root}/{name}": name for name in names}
    with uri.storage_errors(folder_url):
        contents = fs.cat(list(paths)) if len(paths) > 1 else {next(iter(paths)): fs.cat_file(next(iter(paths)))}
    return {paths[path if path in paths else "/" + path.lstrip("/")]: data for path, data in contents.items()}
