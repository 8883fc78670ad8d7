"""The tensors of a checkpoint where they lie: ranks fetch the blocks that hold what they ask for, each block once.

The manifest says of every file where its pieces are and what each block of a MiB digests to, so that neither a header
nor a whole file has to be read to trust a slice of it. Ranks that load together tell one another what they want, read a
share of the blocks each, and send on what others want of it: one copy of the checkpoint is read in all, whatever ranks
and stages wrote it and read it. Checkpoints of format v1 say no places: every rank fetches those whole.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from xmae_dist.core.errors import IntegrityError, StorageError
from xmae_dist.storage import uri
from xmae_dist.storage.diagnose import NOTHING_THERE
from xmae_dist.train.checkpoints.blocks import BLOCK_BYTES, Block, Cut, Readers
from xmae_dist.train.engines.protocol import Slice
from xmae_dist.train.step.collective import Ranks

_AT_ONCE_BYTES = 2**27
"""Most that a rank asks for at once; it holds as much of what it reads, sends and gets."""
_DIGEST = 64
_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Of safetensors, by the names in its headers."""


def described(data: bytes) -> dict[str, Any]:
    """What a manifest says of a safetensors file beside its size and digest.

    `pieces`: type, first and last byte (exclusive) of each tensor; `blocks`: SHA-256 of each block of the file, joined.
    """
    begin = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:begin])
    header.pop("__metadata__", None)
    pieces = {
        key: f"{entry['dtype']} {begin + entry['data_offsets'][0]} {begin + entry['data_offsets'][1]}"
        for key, entry in header.items()
    }
    blocks = (data[at : at + BLOCK_BYTES] for at in range(0, len(data), BLOCK_BYTES))
    return {"pieces": pieces, "blocks": "".join(hashlib.sha256(block).hexdigest() for block in blocks)}


class _Stored(NamedTuple):
    """Elements `start … stop` of a flattened tensor, in a file from byte `first` on."""

    start: int
    stop: int
    file: int
    first: int
    dtype: torch.dtype


class _Part(NamedTuple):
    """Elements of one type, and where their bytes lie."""

    cut: Cut
    dtype: torch.dtype


class SavedRanges:
    """See `engines.protocol.Saved`. Raises IntegrityError, on all ranks, where slices do not cover a tensor, or bytes
    are not right.
    """

    def __init__(self, url: str, manifest: Mapping[str, Any], ranks: Ranks | None = None) -> None:
        """`ranks`: those that load together; one by itself unless given."""
        self._url, self._manifest, self._ranks = url, manifest, ranks or Ranks()
        self._files: list[dict[str, Any]] = list(manifest["files"])
        self._pieces: dict[tuple[str, str], list[_Stored]] = {}
        self._readers = Readers(self._ranks.world, [file["size"] for file in self._files])
        self._held: dict[Block, bytes] = {}
        self.bytes_read = 0
        """By this rank, so far."""
        for number, file in enumerate(self._files):
            for key, where in file["pieces"].items():
                kind, name, start = key.split("|")
                dtype, first, last = where.split()
                count = (int(last) - int(first)) // _TYPES[dtype].itemsize
                stored = _Stored(int(start), int(start) + count, number, int(first), _TYPES[dtype])
                self._pieces.setdefault((kind, name), []).append(stored)
        for pieces in self._pieces.values():
            pieces.sort(key=lambda piece: piece.start)

    @property
    def optimizer_steps(self) -> int:
        return int(self._manifest["state"]["optimizer_steps"])

    def parts(self, wanted: Sequence[Slice]) -> Iterator[torch.Tensor]:
        asked = self._ranks.gather([tuple(one) for one in wanted])
        # What all want is looked up by all, so that what is not there is missed by all.
        turns = [list(_grouped([self._lying(Slice(*one)) for one in theirs])) for theirs in asked]
        for now in itertools.zip_longest(*turns, fillvalue=[]):
            yield from self._exchanged(now)

    def _lying(self, wanted: Slice) -> list[_Part]:
        """Where the elements of a slice lie. Raises IntegrityError where they are not all there."""
        at, parts = wanted.start, []
        pieces = self._pieces.get((wanted.kind, wanted.name), [])
        for piece in pieces[max(0, bisect.bisect_right(pieces, at, key=lambda one: one.start) - 1) :]:
            if piece.start > at or at >= wanted.stop:
                break
            if piece.stop <= at:
                continue
            stop, size = min(piece.stop, wanted.stop), piece.dtype.itemsize
            first = piece.first + (at - piece.start) * size
            parts.append(_Part(Cut(piece.file, first, first + (stop - at) * size), piece.dtype))
            at = stop
        if at < wanted.stop:
            raise IntegrityError(
                f"checkpoint tensor {wanted.kind} of {wanted.name}",
                value=f"slices that end at element {at}",
                expected=f"elements up to {wanted.stop}",
            )
        return parts

    def _exchanged(self, asked: Sequence[list[list[_Part]]]) -> list[torch.Tensor]:
        """What this rank asked for, one tensor a slice. `asked`: slices of each rank."""
        cuts = [[part.cut for parts in theirs for part in parts] for theirs in asked]
        kept = {*self._readers.kept}
        readers = self._readers.assign(itertools.chain.from_iterable(cuts))
        mine = {block for block, reader in readers.items() if reader == self._ranks.rank}
        self._read(sorted(mine - kept))
        sent = [b"".join(self._bytes_of(theirs, mine)) for theirs in cuts]
        self._held = {block: data for block, data in self._held.items() if block in self._readers.kept}
        streams = [memoryview(data) for data in self._ranks.exchange(sent)]
        return [_joined(parts, readers, streams) for parts in asked[self._ranks.rank]]

    def _bytes_of(self, cuts: Iterable[Cut], mine: set[Block]) -> Iterator[memoryview]:
        for cut in cuts:
            for block, span in cut.by_block():
                if block in mine:
                    yield memoryview(self._held[block])[span]

    def _read(self, blocks: Sequence[Block]) -> None:
        """Fetches blocks and holds them. Raises, on all ranks, what is wrong with those of any rank."""
        damage: IntegrityError | None = None
        try:
            for file, own in itertools.groupby(blocks, key=lambda block: block[0]):
                self._held.update(self._fetched(file, [number for _, number in own]))
        except IntegrityError as error:
            damage = error
        self._ranks.raise_first(damage)

    def _fetched(self, file: int, numbers: Sequence[int]) -> Iterator[tuple[Block, bytes]]:
        entry = self._files[file]
        url = uri.join(self._url, entry["name"])
        runs = _runs(numbers)
        starts = [first * BLOCK_BYTES for first, _ in runs]
        stops = [min(last * BLOCK_BYTES, entry["size"]) for _, last in runs]
        try:
            with uri.storage_errors(url):
                found = uri.read_ranges(url, starts, stops)
        except StorageError as error:
            # A file that is gone is damage, which an older checkpoint cures; a store that is gone is none.
            if error.value != NOTHING_THERE:
                raise
            raise IntegrityError(url, value=NOTHING_THERE, expected="a part of a complete checkpoint") from error
        for (first, last), data in zip(runs, found, strict=True):
            self.bytes_read += len(data)
            for number in range(first, last):
                at = (number - first) * BLOCK_BYTES
                yield (file, number), self._checked(file, number, data[at : at + BLOCK_BYTES])

    def _checked(self, file: int, number: int, block: bytes) -> bytes:
        entry = self._files[file]
        expected = entry["blocks"][number * _DIGEST : (number + 1) * _DIGEST]
        found = hashlib.sha256(block).hexdigest()
        if found != expected:
            raise IntegrityError(
                f"{uri.join(self._url, entry['name'])}, MiB {number}",
                value=f"{len(block)} bytes, SHA-256 {found[:12]}…",
                expected=f"SHA-256 {expected[:12]}…",
                fix="an older checkpoint is used where there is one; delete this one",
            )
        return block


def _grouped(slices: Iterable[list[_Part]]) -> Iterator[list[list[_Part]]]:
    """Slices in their order, so many together as a rank asks for at once."""
    group, size = list[list[_Part]](), 0
    for parts in slices:
        bytes_ = sum(part.cut.last - part.cut.first for part in parts)
        if group and size + bytes_ > _AT_ONCE_BYTES:
            yield group
            group, size = [], 0
        group.append(parts)
        size += bytes_
    if group:
        yield group


def _runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Neighbouring numbers as (first, last exclusive)."""
    groups = itertools.groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])
    runs = ([number for _, number in group] for _, group in groups)
    return [(run[0], run[-1] + 1) for run in runs]


def _joined(parts: Sequence[_Part], readers: Mapping[Block, int], streams: list[memoryview]) -> torch.Tensor:
    """The elements of a slice, taken from the front of what each rank sent."""
    tensors = []
    for cut, dtype in parts:
        data = bytearray()
        for block, span in cut.by_block():
            reader, size = readers[block], span.stop - span.start
            data += streams[reader][:size]
            streams[reader] = streams[reader][size:]
        tensors.append(torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype))
    return torch.cat(tensors) if tensors else torch.empty(0)
