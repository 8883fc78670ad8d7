"""The tensors of a checkpoint where they lie: a rank fetches the blocks that hold what it asks for, no others.

The manifest says of every file where its pieces are and what each block of a MiB digests to, so that neither a header
nor a whole file has to be read to trust a slice of it. Checkpoints of format v1 say neither: those are fetched whole.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from xmae_dist.core.errors import IntegrityError
from xmae_dist.storage import uri
from xmae_dist.train.engines.protocol import Saved, Slice

BLOCK_BYTES = 2**20
_AHEAD_BYTES = 2**28
"""Most that is fetched at once, and held, of what is asked for."""
_KEPT_BLOCKS = 32
"""Blocks that are kept for what is asked for next, of those that were asked for in part: slices of a tensor divided
among many ranks are smaller than a block, and their neighbours follow.
"""
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


@dataclass(frozen=True)
class _Stored:
    """Elements `start … stop` of a flattened tensor, in a file from byte `first` on."""

    start: int
    stop: int
    file: int
    first: int
    dtype: torch.dtype


@dataclass(frozen=True)
class _Cut:
    """A part of a piece: `bytes` of a file that are elements `at …` of what was asked for."""

    file: int
    first: int
    last: int
    at: int
    dtype: torch.dtype


class SavedRanges:
    """See `engines.protocol.Saved`. Raises IntegrityError where slices do not cover a tensor or bytes are not right."""

    def __init__(self, url: str, manifest: Mapping[str, Any]) -> None:
        self._url, self._manifest = url, manifest
        self._files: list[dict[str, Any]] = list(manifest["files"])
        self._pieces: dict[tuple[str, str], list[_Stored]] = {}
        self._kept: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self.bytes_read = 0
        """So far; blocks that were fetched twice count twice."""
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
        cuts = [self._cuts(one) for one in wanted]
        for group in _grouped(list(zip(wanted, cuts, strict=True))):
            blocks = self._fetch([cut for _, parts in group for cut in parts])
            for one, parts in group:
                yield _joined(one, parts, blocks)

    def _cuts(self, wanted: Slice) -> list[_Cut]:
        """Where the elements of a slice lie. Raises IntegrityError where they are not all there."""
        at, cuts = wanted.start, []
        for piece in self._pieces.get((wanted.kind, wanted.name), []):
            if piece.stop <= at or at >= wanted.stop:
                continue
            if piece.start > at:
                break
            stop, size = min(piece.stop, wanted.stop), piece.dtype.itemsize
            first = piece.first + (at - piece.start) * size
            cuts.append(_Cut(piece.file, first, first + (stop - at) * size, at - wanted.start, piece.dtype))
            at = stop
        if at < wanted.stop:
            raise IntegrityError(
                f"checkpoint tensor {wanted.kind} of {wanted.name}",
                value=f"slices that end at element {at}",
                expected=f"elements up to {wanted.stop}",
            )
        return cuts

    def _fetch(self, cuts: Sequence[_Cut]) -> dict[tuple[int, int], bytes]:
        """The blocks that hold these, by file and number, each digest compared."""
        held = dict(self._kept)
        by_file: dict[int, set[int]] = {}
        for cut in cuts:
            blocks = range(cut.first // BLOCK_BYTES, -(-cut.last // BLOCK_BYTES))
            by_file.setdefault(cut.file, set()).update(number for number in blocks if (cut.file, number) not in held)
        for file, numbers in by_file.items():
            runs = _runs(sorted(numbers))
            if not runs:
                continue
            for (first, last), data in zip(runs, self._read(file, runs), strict=True):
                for number in range(first, last):
                    at = (number - first) * BLOCK_BYTES
                    held[file, number] = self._checked(file, number, data[at : at + BLOCK_BYTES])
        self._keep(cuts, held)
        return held

    def _keep(self, cuts: Sequence[_Cut], held: Mapping[tuple[int, int], bytes]) -> None:
        for cut in cuts:
            for edge in (cut.first, cut.last):
                place = cut.file, edge // BLOCK_BYTES
                if edge % BLOCK_BYTES and place in held:
                    self._kept[place] = held[place]
                    self._kept.move_to_end(place)
        while len(self._kept) > _KEPT_BLOCKS:
            self._kept.popitem(last=False)

    def _read(self, file: int, runs: Sequence[tuple[int, int]]) -> list[bytes]:
        entry = self._files[file]
        url = uri.join(self._url, entry["name"])
        # A file that is gone is damage, which an older checkpoint cures; a store that is gone must never look like it.
        if not uri.exists(url):
            raise IntegrityError(url, value="nothing there", expected="a part of a complete checkpoint")
        starts = [first * BLOCK_BYTES for first, _ in runs]
        stops = [min(last * BLOCK_BYTES, entry["size"]) for _, last in runs]
        with uri.storage_errors(url):
            found = uri.read_ranges(url, starts, stops)
        self.bytes_read += sum(map(len, found))
        return found

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


def _grouped(wanted: list[tuple[Slice, list[_Cut]]]) -> Iterator[list[tuple[Slice, list[_Cut]]]]:
    """Slices in their order, so many together as may be held at once."""
    group, size = list[tuple[Slice, list[_Cut]]](), 0
    for one, cuts in wanted:
        bytes_ = sum(cut.last - cut.first for cut in cuts)
        if group and size + bytes_ > _AHEAD_BYTES:
            yield group
            group, size = [], 0
        group.append((one, cuts))
        size += bytes_
    if group:
        yield group


def _runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Neighbouring numbers as (first, last exclusive)."""
    groups = itertools.groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])
    runs = ([number for _, number in group] for _, group in groups)
    return [(run[0], run[-1] + 1) for run in runs]


def _joined(wanted: Slice, cuts: Sequence[_Cut], blocks: Mapping[tuple[int, int], bytes]) -> torch.Tensor:
    parts = []
    for cut in cuts:
        first = cut.first // BLOCK_BYTES
        numbers = range(first, -(-cut.last // BLOCK_BYTES))
        data = b"".join(blocks[cut.file, number] for number in numbers)
        view = bytearray(data[cut.first - first * BLOCK_BYTES : cut.last - first * BLOCK_BYTES])
        parts.append(torch.frombuffer(view, dtype=cut.dtype) if view else torch.empty(0, dtype=cut.dtype))
    return torch.cat(parts) if parts else torch.empty(0)


class Unbroken:
    """Another `Saved` whose damage is kept for later and not raised: for ranks that load together.

    A rank that stopped in mid-load would leave the others in a collective. From the first damage on it gives zeros; who
    loads from it must ask for `damage` before anything is done with them.
    """

    def __init__(self, open_saved: Callable[[], Saved], optimizer_steps: int) -> None:
        self.optimizer_steps = optimizer_steps
        self.damage: IntegrityError | None = None
        self._saved: Saved | None = None
        try:
            self._saved = open_saved()
        except IntegrityError as error:
            self.damage = error

    def parts(self, wanted: Sequence[Slice]) -> Iterator[torch.Tensor]:
        found = iter(()) if self._saved is None else self._saved.parts(wanted)
        for one in wanted:
            yield self._next(found, one)

    def _next(self, found: Iterator[torch.Tensor], wanted: Slice) -> torch.Tensor:
        if self.damage is None:
            try:
                return next(found)
            except IntegrityError as error:
                self.damage = error
        return torch.zeros(wanted.stop - wanted.start)
