"""Names looked for in every object of a store, as bytes and as values of Parquet columns: proof that somebody is gone.

Pages of Parquet are compressed, so a name in them is in no byte: their text columns are decoded. A name counts where no
letter or digit is next to it, so that `s1` is not found in `s10`. Names of fewer than four characters would be found in
any number: of these only whole values of Parquet count. Other compressed objects (samples, pictures, archives) are
looked through as bytes alone. Every object is read whole, one at a time on each of a few threads: requests as objects,
time as the bytes of the store times the names, memory as the largest objects.
"""

from __future__ import annotations

import hashlib
import json
import string
import urllib.parse
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from xmae_dist.core.errors import StorageError
from xmae_dist.core.fingerprint import sha256_hex
from xmae_dist.storage import parquet, uri
from xmae_dist.storage.diagnose import NOTHING_THERE
from xmae_dist.storage.uri import StoredObject

SHORT = 4
"""Names of fewer characters are looked for as whole values only."""
_AT_ONCE = 4
_LETTERS_AND_DIGITS = frozenset((string.ascii_letters + string.digits).encode())


@dataclass(frozen=True, kw_only=True)
class Sighting:
    """A name in an object. The name itself is not kept: a proof that somebody is gone would name them."""

    path: str
    """Relative to what was searched."""
    name_sha256: str
    in_rows: bool
    """In a value of Parquet; else in the bytes of the object."""


@dataclass(kw_only=True)
class Searched:
    """What was gone through, and what was found."""

    url: str
    objects: int = 0
    bytes: int = 0
    listing_sha256: str = ""
    """Of a line for each object, sorted: path, size and SHA-256 of its bytes."""
    sightings: list[Sighting] = field(default_factory=list)


class Names:
    """Names to look for."""

    def __init__(self, names: Collection[str]) -> None:
        self._all = pa.array(sorted(set(names)), pa.string())
        self._spellings = [(spelling, name) for name in names if len(name) >= SHORT for spelling in _spellings(name)]

    def in_bytes(self, data: bytes) -> set[str]:
        """A pass over `data` for each spelling of each name, at some GB/s."""
        return {name for spelling, name in self._spellings if _stands_alone(spelling, data)}

    def in_rows(self, data: bytes) -> set[str]:
        """In the text columns of a Parquet object."""
        found: set[str] = set()
        rows = parquet.decode(data)
        for column in rows.columns:
            for chunk in column.chunks:
                for values in _texts(chunk):
                    once = pc.unique(values)
                    found.update(once.filter(pc.is_in(once, value_set=self._all)).to_pylist())
                    found |= self.in_bytes("\n".join(once.drop_null().to_pylist()).encode())
        return found


def search(url: str, names: Names) -> Searched:
    """Looks through every object below `url`. Objects that go meanwhile are passed over. Raises StorageError,
    IntegrityError for a Parquet object that cannot be decoded.
    """
    url = uri.normalise(url)
    done, lines = Searched(url=url), hashlib.sha256()
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="name-search") as pool:
        for one in pool.map(lambda stored: _looked_through(url, stored, names), uri.list_details(url)):
            if one is None:
                continue
            path, size, digest, sightings = one
            done.objects, done.bytes = done.objects + 1, done.bytes + size
            done.sightings += sightings
            lines.update(f"{path} {size} {digest}\n".encode())
    done.listing_sha256 = lines.hexdigest()
    return done


def _looked_through(url: str, stored: StoredObject, names: Names) -> tuple[str, int, str, list[Sighting]] | None:
    try:
        data = uri.read_bytes(stored.url)
    except StorageError as error:
        if error.value != NOTHING_THERE:
            raise
        return None
    path = stored.url.removeprefix(url).lstrip("/")
    # What an object is called counts as a part of it.
    found = {False: names.in_bytes(data + b"\n" + path.encode())}
    if data[:4] == data[-4:] == b"PAR1":
        found[True] = names.in_rows(data)
    sightings = [
        Sighting(path=path, name_sha256=sha256_hex(name.encode()), in_rows=in_rows)
        for in_rows, some in found.items()
        for name in sorted(some)
    ]
    return path, len(data), sha256_hex(data), sightings


def _spellings(name: str) -> set[bytes]:
    """As it is, as JSON has it, and as paths in logs have it."""
    return {one.encode() for one in (name, json.dumps(name)[1:-1], urllib.parse.quote(name, safe=""))}


def _stands_alone(word: bytes, data: bytes) -> bool:
    """Whether it stands somewhere with no letter or digit next to it."""
    place = data.find(word)
    while place >= 0:
        around = data[max(0, place - 1) : place] + data[place + len(word) : place + len(word) + 1]
        if not any(one in _LETTERS_AND_DIGITS for one in around):
            return True
        place = data.find(word, place + 1)
    return False


def _texts(values: pa.Array) -> Iterator[pa.Array]:
    """All arrays of text inside an array of any type."""
    kind = values.type
    if pa.types.is_dictionary(kind):
        yield from _texts(values.dictionary)
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        yield values.cast(pa.string())
    elif pa.types.is_map(kind):
        yield from _texts(values.keys)
        yield from _texts(values.items)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        yield from _texts(values.flatten())
    elif pa.types.is_struct(kind):
        for place in range(kind.num_fields):
            yield from _texts(values.field(place))
