"""Checkpoints that are complete or do not exist (format xmae-checkpoint/v2).

    <run>/checkpoints/step-00000100/
        <attempt>-00000-of-00002.safetensors    each rank's pieces: "<kind>|<name>|<first element>" → 1-D tensor
        <attempt>-00001-of-00002.safetensors
        manifest.json                           of each file size, SHA-256, that of each MiB, and where its pieces are;
                                            shapes, state, identity, configuration
        COMPLETE                                SHA-256 of the manifest; written last, deleted first

`attempt` is drawn anew at every start, so a slow upload of a killed run cannot touch the files of the run that
replaces it. The pieces are slices of whole tensors, so a reader needs no knowledge of the ranks that wrote them.

Format v1 had no digests of MiBs and no places of pieces; its checkpoints are still read, whole.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save

from xmae_dist.core.errors import IntegrityError
from xmae_dist.core.fingerprint import sha256_hex
from xmae_dist.storage import uri
from xmae_dist.train.checkpoints.saved import SavedRanges, described
from xmae_dist.train.engines.protocol import Piece, Saved, Slice
from xmae_dist.train.step.collective import Ranks

FORMAT = "xmae-checkpoint/v2"
_WHOLE = "xmae-checkpoint/v1"
MANIFEST = "manifest.json"
COMPLETE = "COMPLETE"


@dataclass(frozen=True, kw_only=True)
class ShardFile:
    """One uploaded file of a checkpoint."""

    name: str
    size: int
    sha256: str
    pieces: dict[str, str]
    blocks: str


def folder_url(run_url: str) -> str:
    """Where a run keeps its checkpoints."""
    return uri.join(run_url, "checkpoints")


def step_url(run_url: str, step: int) -> str:
    """Where the checkpoint of `step` is."""
    return uri.join(folder_url(run_url), f"step-{step:08d}")


def copy_pieces(pieces: Iterable[Piece]) -> dict[str, torch.Tensor]:
    """A snapshot on the host that training may go on beside: the only part of a save that training waits for."""
    return {f"{p.kind}|{p.name}|{p.start}": p.data.detach().to("cpu", copy=True).contiguous() for p in pieces}


def write_shard(url: str, tensors: dict[str, torch.Tensor], *, attempt: str, rank: int, world: int) -> ShardFile:
    """Uploads one rank's copied pieces and says what it wrote."""
    data = save(tensors)
    name = f"{attempt}-{rank:05d}-of-{world:05d}.safetensors"
    uri.write_bytes(uri.join(url, name), data)
    return ShardFile(name=name, size=len(data), sha256=sha256_hex(data), **described(data))


def commit(url: str, files: list[ShardFile], about: Mapping[str, Any]) -> None:
    """Makes the checkpoint at `url` complete: the manifest, then the marker that names the manifest's digest."""
    manifest = {"format": FORMAT, "files": [vars(file) for file in files], **about}
    data = json.dumps(manifest, indent=1, sort_keys=True).encode()
    uri.write_bytes(uri.join(url, MANIFEST), data)
    uri.write_bytes(uri.join(url, COMPLETE), sha256_hex(data).encode())


def delete(url: str) -> None:
    """Removes a checkpoint, the marker first, so that half a deletion leaves nothing that looks complete."""
    uri.delete(uri.join(url, COMPLETE))
    uri.delete(url, recursive=True)


@dataclass(frozen=True)
class Found:
    """A checkpoint folder as a listing shows it."""

    step: int
    url: str
    complete: bool


def list_checkpoints(run_url: str) -> list[Found]:
    """All checkpoints of a run, the newest first; `complete` says that the marker is there."""
    found = []
    for url in uri.list_urls(folder_url(run_url)):
        name = url.rsplit("/", 1)[-1]
        if name.startswith("step-") and name[5:].isdigit():
            found.append(Found(int(name[5:]), url, uri.exists(uri.join(url, COMPLETE))))
    return sorted(found, key=lambda one: -one.step)


def read_manifest(url: str) -> dict[str, Any]:
    """The manifest of a complete checkpoint. Raises IntegrityError where it is not what the marker names."""
    data = _read(uri.join(url, MANIFEST))
    marker = _read(uri.join(url, COMPLETE)).decode().strip()
    if sha256_hex(data) != marker:
        raise IntegrityError(
            uri.join(url, MANIFEST), value=f"SHA-256 {sha256_hex(data)[:12]}…", expected=f"{marker[:12]}…"
        )
    manifest: dict[str, Any] = json.loads(data)
    if manifest.get("format") not in (FORMAT, _WHOLE):
        raise IntegrityError(uri.join(url, MANIFEST), value=manifest.get("format"), expected=f"{FORMAT} or {_WHOLE}")
    return manifest


def newest_complete(
    run_url: str, tell: Callable[[str, str], None], skip: Collection[str] = ()
) -> tuple[str, dict[str, Any]] | None:
    """(URL, manifest) of the newest checkpoint, not in `skip`, whose marker and manifest agree.

    `tell(url, why)` hears of those that are passed over.
    """
    for found in list_checkpoints(run_url):
        if found.url in skip:
            continue
        if not found.complete:
            tell(found.url, "incomplete: no COMPLETE marker")
            continue
        try:
            return found.url, read_manifest(found.url)
        except IntegrityError as error:
            tell(found.url, str(error))
    return None


def open_saved(url: str, manifest: Mapping[str, Any], folder: Path, ranks: Ranks | None = None) -> Saved:
    """The tensors of a complete checkpoint, for `ranks` that load together. One of format v1 is brought to `folder`
    first, whole, by each rank.

    Raises IntegrityError, at once or when it comes to them, for bytes that are not those that were written: on all
    ranks, so that none waits for another that gave up.
    """
    ranks = ranks or Ranks()
    if manifest["format"] != _WHOLE:
        return SavedRanges(url, manifest, ranks)
    damage: IntegrityError | None = None
    try:
        saved = SavedFiles(_fetch(url, manifest, folder), manifest)
    except IntegrityError as error:
        damage = error
    ranks.raise_first(damage)
    return saved


def _fetch(url: str, manifest: Mapping[str, Any], folder: Path) -> Path:
    """Brings the files of a checkpoint to `folder`, checking each. Raises IntegrityError for any that is not whole.

    Files that are there already with the right digest are kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in manifest["files"]:
        target = uri.path_below(folder, file["name"])
        if target.exists() and _digest(target) == file["sha256"]:
            continue
        data = _read(uri.join(url, file["name"]))
        if len(data) != file["size"] or sha256_hex(data) != file["sha256"]:
            raise IntegrityError(
                uri.join(url, file["name"]),
                value=f"{len(data)} bytes, SHA-256 {sha256_hex(data)[:12]}…",
                expected=f"{file['size']} bytes, {file['sha256'][:12]}…",
                fix="an older checkpoint is used where there is one; delete this one",
            )
        uri.write_bytes(f"file://{target.absolute()}", data)
    return folder


def _read(url: str) -> bytes:
    # Told apart from a store that cannot be reached, which must never make a run start anew.
    if not uri.exists(url):
        raise IntegrityError(url, value="nothing there", expected="a part of a complete checkpoint")
    return uri.read_bytes(url)


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class SavedFiles:
    """The tensors of a fetched checkpoint of format v1 (`engines.protocol.Saved`), memory-mapped."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        self._manifest = manifest
        self._files = [safe_open(uri.path_below(folder, file["name"]), framework="pt") for file in manifest["files"]]
        self._slices: dict[tuple[str, str], list[tuple[int, int, str]]] = {}
        for number, file in enumerate(self._files):
            for key in file.keys():  # noqa: SIM118  (safe_open is no mapping)
                kind, name, start = key.split("|")
                self._slices.setdefault((kind, name), []).append((int(start), number, key))
        for (kind, name), slices in self._slices.items():
            slices.sort()
            self._check_covered(kind, name, slices)

    @property
    def optimizer_steps(self) -> int:
        return int(self._manifest["state"]["optimizer_steps"])

    def parts(self, wanted: Sequence[Slice]) -> Iterator[torch.Tensor]:
        for one in wanted:
            yield self._full(one.kind, one.name)[one.start : one.stop]

    def _full(self, kind: str, name: str) -> torch.Tensor:
        """The whole flattened tensor."""
        if (kind, name) not in self._slices:
            raise _gap(kind, name, 0)
        return torch.cat([self._files[number].get_tensor(key) for _, number, key in self._slices[kind, name]])

    def _check_covered(self, kind: str, name: str, slices: Sequence[tuple[int, int, str]]) -> None:
        end = 0
        for start, number, key in slices:
            if start != end:
                raise _gap(kind, name, end)
            end = start + math.prod(self._files[number].get_slice(key).get_shape())
        if end != math.prod(self._manifest["shapes"].get(name, [-1])):
            raise _gap(kind, name, end)


def _gap(kind: str, name: str, at: int) -> IntegrityError:
    return IntegrityError(
        f"checkpoint tensor {kind} of {name}", value=f"slices that end at element {at}", expected="all elements"
    )
