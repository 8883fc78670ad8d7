"""WebDataset shards -> window store, so that windows which others made are trained on in the same exact order.

Shards of `shards.export_shards` give back the windows they were made from: same parts, same ids, hence the same batches
from the same plan (of an export of some splits, those of these splits). The store has a fingerprint of its own, which
covers the shards' bytes: what is imported never answers to the fingerprint of a corpus's windows. Any other tar files
are taken as windows that somebody cut: `ppg.npy` and `ecg.npy` of the right length, scaled to [-1, 1] here, divided
among splits by the subject that their JSON names.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import Any

import numpy as np

from xmae_dist.core.errors import ConfigError, InputError, IntegrityError
from xmae_dist.core.fingerprint import canonical_json, digest_json, sha256_hex
from xmae_dist.core.progress import Progress, progress
from xmae_dist.data.exchange.samples import Sample, digest_of_object, meta_table, samples
from xmae_dist.data.exchange.shard_index import checked_index, imported_document
from xmae_dist.data.exchange.shards import SHARDS_FORMAT, read_index
from xmae_dist.data.store.part import finish_part, finished_part, kept_as, signal_writers, stored_sizes
from xmae_dist.data.store.part_index import SUBJECTS_AND_SIZE, commit_index, is_complete
from xmae_dist.data.store.window_store import FORMAT, WindowStore, part_path
from xmae_dist.data.windows.spec import ALGORITHM, WindowSpec
from xmae_dist.data.windows.split import SPLITS, SplitConfig
from xmae_dist.signals.normalize import minmax
from xmae_dist.storage import uri
from xmae_dist.storage.part import checked_name

_AT_ONCE = 1024  # windows held while a shard is read


@dataclass(frozen=True, kw_only=True)
class ForeignConfig:
    """For shards that this package did not write: what they do not state themselves."""

    cohort: str = "shards"
    """Name of the cohort that they become."""
    spec: WindowSpec = field(default_factory=WindowSpec)
    """Rate, length and signals of their windows; how they were cleaned is not checked."""
    split: SplitConfig = field(default_factory=SplitConfig)
    """How subjects are divided."""
    subject_field: str = "subject_id"
    """Field of a sample's JSON that names its subject."""
    all_to: str | None = None
    """Put every sample in this split; for shards without subjects, which nothing else can keep apart."""
    chunk_windows: int = 64
    """Windows in a chunk of the store."""

    def __post_init__(self) -> None:
        checked_name("cohort", self.cohort)
        if self.all_to is not None and self.all_to not in SPLITS:
            raise ConfigError("--all-to", value=repr(self.all_to), expected=f"one of {', '.join(SPLITS)}")
        if self.chunk_windows < 1:
            raise ConfigError("--chunk-windows", value=self.chunk_windows, expected="1 or more")


def import_shards(url: str, windows_url: str, foreign: ForeignConfig | None = None) -> WindowStore:
    """The window store, below `windows_url`, of the shards below `url`; made if it is not there.

    `foreign` is for shards without our `index.json`. Raises InputError for shards that cannot be windows, naming
    shard and sample, IntegrityError for one of ours whose bytes have changed.
    """
    url, windows_url = uri.normalise(url), uri.checked_place(windows_url)
    uri.probe(url)
    uri.probe(windows_url)
    index = read_index(url)
    source = (
        _OwnShards(url, checked_index(index, url))
        if index is not None
        else _ForeignShards(url, foreign or ForeignConfig())
    )
    fingerprint = source.document["fingerprint"]
    store_url = uri.join(windows_url, fingerprint)
    if not is_complete(store_url, fingerprint):
        document = {**source.document, **kept_as(source.document["chunk_windows"])}
        uri.write_bytes(uri.join(store_url, "store.json"), canonical_json(document))
        with progress("import", source.total, source.unit) as shown:
            commit_index(store_url, fingerprint, list(source.written(store_url, shown)))
    return WindowStore.open(store_url)


class _OwnShards:
    unit = "windows"

    def __init__(self, url: str, index: dict[str, Any]) -> None:
        self._url, self._index = url, index
        self.total = index["n_windows"]
        self.document = imported_document(index)

    def written(self, store_url: str, shown: Progress) -> Iterator[dict[str, Any]]:
        place = ("cohort", "split", "part")
        shards = {
            key: list(rows)
            for key, rows in groupby(self._index["shards"], key=lambda row: tuple(row[name] for name in place))
        }
        for row in self._index["parts"]:
            key = tuple(row[name] for name in place)
            url = uri.join(store_url, part_path(*key))
            facts: dict[str, Any] = {}
            if row["n_windows"]:
                facts = finished_part(url) or self._write_part(url, row, shards.get(key, []))
                _check_count(facts, row, self._url)
            shown.advance(row["n_windows"], "/".join(key))
            # Where bytes lie is known of what was written, and not believed of others.
            found = {name: facts.get(name) for name in (*SUBJECTS_AND_SIZE, "chunk_bytes")}
            yield {"n_recordings": 0, "n_subjects": 0, **row, **found}

    def _write_part(self, url: str, row: dict[str, Any], shards: list[dict[str, Any]]) -> dict[str, Any]:
        spec, metas = WindowSpec.from_dict(self.document["spec"]), []
        with signal_writers(url, spec, self.document["chunk_windows"]) as writers:
            for shard in shards:
                for some in _batched(self._samples(shard, spec)):
                    for name, writer in writers.items():
                        writer.append(np.stack([sample.signals[name] for sample in some])[:, None, :])
                    metas += [sample.meta for sample in some]
        sources = row.get("n_recordings", 0), row.get("n_subjects", 0)
        place = (row["cohort"], row["split"], row["part"])
        return finish_part(url, place, meta_table(metas), row["dropped"], sources, stored_sizes(writers))

    def _samples(self, shard: dict[str, Any], spec: WindowSpec) -> Iterator[Sample]:
        url = uri.join(self._url, shard["path"])
        data = uri.read_bytes(url)
        if sha256_hex(data) != shard["sha256"]:
            raise IntegrityError(
                url, value="other bytes", expected=f"sha256 {shard['sha256']}", fix="copy or export that shard again"
            )
        return samples(io.BytesIO(data), url, spec)


class _ForeignShards:
    unit = "shards"

    def __init__(self, url: str, config: ForeignConfig) -> None:
        self._config = config
        self._urls = [one for one in uri.list_urls(url, recursive=True) if one.endswith((".tar", ".tar.gz", ".tgz"))]
        if not self._urls:
            raise InputError(url, value="no .tar files", expected="WebDataset shards", fix="check the URL")
        self.total = len(self._urls)
        shards = [(one.removeprefix(url), digest_of_object(one)) for one in self._urls]
        content = {"format": FORMAT, "algorithm": ALGORITHM, **vars(config), "spec": config.spec.to_dict()}
        snapshot = {"fingerprint": digest_json([SHARDS_FORMAT, shards]), "version": 0}
        self.document = {**content, "snapshot": snapshot, "fingerprint": digest_json([content, shards])}

    def written(self, store_url: str, shown: Progress) -> Iterator[dict[str, Any]]:
        for number, url in enumerate(self._urls):
            done_url = uri.join(store_url, "imported", f"{number:06d}.json")
            if uri.exists(done_url):
                rows = [_with_sizes(row, store_url) for row in json.loads(uri.read_bytes(done_url))]
            else:
                rows = self._write_shard(store_url, url, f"p{number:06d}")
                uri.write_bytes(done_url, canonical_json(rows))
            shown.advance(1, url)
            yield from rows

    def _write_shard(self, store_url: str, url: str, part: str) -> list[dict[str, Any]]:
        """The samples of one tar file, a part for each split that they fall in."""
        by_split: dict[str, list[Sample]] = {}
        fs, path = uri.filesystem(url)
        with uri.storage_errors(url), fs.open(path, "rb") as tar:
            for sample in samples(tar, url, self._config.spec):
                by_split.setdefault(self._split_of(sample, url), []).append(sample)
        return [self._write_part(store_url, split, part, by_split[split]) for split in SPLITS if split in by_split]

    def _split_of(self, sample: Sample, url: str) -> str:
        if self._config.all_to is not None:
            return self._config.all_to
        return self._config.split.of(self._subject(sample, url))

    def _subject(self, sample: Sample, url: str) -> str:
        subject = sample.meta.get(self._config.subject_field)
        if subject is None and self._config.all_to is None:
            raise InputError(
                f"sample {sample.key} of {url}",
                value=f"no {self._config.subject_field!r} in its JSON",
                expected="the name of its subject, which decides its split",
                fix="--subject-field NAME, or --all-to train",
            )
        return sample.key if subject is None else str(subject)

    def _write_part(self, store_url: str, split: str, part: str, found: list[Sample]) -> dict[str, Any]:
        place = (self._config.cohort, split, part)
        url, dropped, metas = uri.join(store_url, part_path(*place)), Counter[str](), []
        with signal_writers(url, self._config.spec, self._config.chunk_windows) as writers:
            for some in _batched(found):
                scaled = {
                    name: minmax(np.stack([s.signals[name] for s in some]).astype(np.float64)) for name in writers
                }
                keep_B = _usable(some, scaled, dropped)
                for name, writer in writers.items():
                    writer.append(scaled[name][0][keep_B][:, None, :].astype(np.float16))
                metas += [self._meta(some[i], url, scaled, i) for i in np.flatnonzero(keep_B).tolist()]
        subjects = len({meta["subject_id"] for meta in metas})
        return finish_part(url, place, meta_table(metas), dropped, (subjects, subjects), stored_sizes(writers))

    def _meta(self, sample: Sample, url: str, scaled: Mapping[str, tuple[np.ndarray, ...]], i: int) -> dict[str, Any]:
        subject = self._subject(sample, url)
        units: dict[str, float] = {}
        for name, (_, offset_B, scale_B) in scaled.items():
            units |= {f"{name}_offset": float(offset_B[i]), f"{name}_scale": float(scale_B[i])}
        named = {"subject_id": subject, "recording_id": str(sample.meta.get("recording_id", sample.key))}
        return {**units, **sample.meta, **named, "cohort": self._config.cohort}


def _with_sizes(row: dict[str, Any], store_url: str) -> dict[str, Any]:
    """The row of a part; one noted before the index held sizes of chunks is looked up."""
    if "chunk_bytes" in row:
        return row
    return finished_part(uri.join(store_url, part_path(row["cohort"], row["split"], row["part"]))) or row


def _check_count(facts: dict[str, Any], row: dict[str, Any], url: str) -> None:
    if facts["n_windows"] != row["n_windows"]:
        raise IntegrityError(
            f"shards of {row['cohort']}/{row['split']}/{row['part']} below {url}",
            value=f"{facts['n_windows']} windows",
            expected=f"{row['n_windows']}, as index.json says",
            fix="copy or export the shards again",
        )


def _usable(some: list[Sample], scaled: Mapping[str, tuple[np.ndarray, ...]], dropped: Counter[str]) -> np.ndarray:
    """Which windows are finite and not flat in every signal; the others are counted by reason."""
    keep_B = np.ones(len(some), bool)
    for name, (_, _, scale_B) in scaled.items():
        finite_B = np.array([np.isfinite(sample.signals[name]).all() for sample in some])
        for reason, good_B in ((f"{name} not finite", finite_B), (f"{name} flat", scale_B > 0)):
            if bad := int((keep_B & ~good_B).sum()):
                dropped[reason] += bad
            keep_B &= good_B
    return keep_B


def _batched(found: Iterable[Sample]) -> Iterator[list[Sample]]:
    rest = iter(found)
    while some := list(islice(rest, _AT_ONCE)):
        yield some
