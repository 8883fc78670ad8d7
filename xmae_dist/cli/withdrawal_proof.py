"""The file that says of withdrawn people what left, which models saw them, and that a search found nothing more.

`xmae withdraw --proof FILE` begins it, `xmae vacuum --proof FILE` searches and writes what it found. It names nobody:
people and recordings stand there as SHA-256 of their ids, so that who knows an id can look for it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from xmae_dist.core.errors import InputError
from xmae_dist.core.fingerprint import sha256_hex
from xmae_dist.storage import uri
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.name_search import SHORT, Names, Searched, search
from xmae_dist.storage.snapshot import Recording
from xmae_dist.storage.sweep import vacuum

FORMAT = "xmae-withdrawal-proof/v1"
KEPT_ON_PURPOSE = {
    "withdrawn/": "the list of the withdrawn, which keeps their files out (`xmae readmit`)",
    "ingest/": "the register of files, which recognises theirs",
}
"""Below a corpus."""


@dataclass(frozen=True, kw_only=True)
class Stores:
    """What is searched beside the corpus."""

    tables: Sequence[str] = ()
    windows: Sequence[str] = ()
    evaluations: Sequence[str] = ()

    def kinds(self) -> Iterable[tuple[str, str]]:
        """(kind, URL) of each."""
        for kind in ("tables", "windows", "evaluations"):
            for url in getattr(self, kind):
                yield kind, url


def begin_proof(
    url: str, corpus: Corpus, theirs: Iterable[Recording], absent: Collection[str], models: Sequence[Mapping[str, Any]]
) -> None:
    """Adds people, with what they had, and the models that saw them. People who are there already keep their entry."""
    document = _read(url, corpus)
    for subject, entry in _people(theirs, absent).items():
        document["people"].setdefault(sha256_hex(subject.encode()), entry)
    known = [one for one in document["models"] if one not in models]
    _write(url, {**document, "models": [*known, *models]})


def finish_proof(url: str, corpus: Corpus, stores: Stores, *, grace_s: float, until_s: float) -> dict[str, Any]:
    """Searches all stores for whoever was withdrawn by `until_s` and is not there again, and writes what was found.

    Reads every object of every store (`storage.name_search`).
    """
    withdrawn = corpus.withdrawn.read(until_s)
    waiting = corpus.withdrawn.read().subjects - withdrawn.subjects
    recordings = {name for _, name in withdrawn.recordings}
    names = Names(withdrawn.subjects | recordings)
    searched = [_told(search(corpus.url, names), "corpus", KEPT_ON_PURPOSE)]
    searched += [_told(search(place, names), kind, {}) for kind, place in stores.kinds()]
    left = vacuum(corpus, grace_s=0.0, dry_run=True)
    unreferenced = {"parts": len(left.removed), "parts_with_unused_samples": len(left.compacted)}
    document = _read(url, corpus) | {
        "searched_at": _now(),
        "grace_hours": grace_s / 3600,
        "searched_for": {
            "people": sorted(sha256_hex(one.encode()) for one in withdrawn.subjects),
            "recordings": len(recordings),
            "as_whole_values_only": sum(len(one) < SHORT for one in withdrawn.subjects | recordings),
        },
        "in_grace_period": sorted(sha256_hex(one.encode()) for one in waiting),
        "stores": searched,
        "samples_that_no_recording_refers_to": unreferenced,
        "erased": not (waiting or any(one["found"] for one in searched) or any(unreferenced.values())),
    }
    _write(url, document)
    return document


def _people(theirs: Iterable[Recording], absent: Collection[str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {
        subject: {"withdrawn_at": _now(), "recordings": 0, "hours": 0.0} for subject in absent
    }
    for one in theirs:
        entry = found.setdefault(one.subject_id, {"withdrawn_at": _now(), "recordings": 0, "hours": 0.0})
        entry["recordings"] += 1
        entry["hours"] = round(entry["hours"] + one.duration_s / 3600, 4)
    return found


def _told(done: Searched, kind: str, on_purpose: Mapping[str, str]) -> dict[str, Any]:
    """What a search found, apart from what is kept on purpose."""
    found, kept = [], dict.fromkeys(on_purpose.values(), 0)
    for one in done.sightings:
        reason = next((why for below, why in on_purpose.items() if one.path.startswith(below)), None)
        if reason is None:
            where = "a value of its rows" if one.in_rows else "its bytes"
            found.append({"path": one.path, "name_sha256": one.name_sha256, "in": where})
        else:
            kept[reason] += 1
    return {
        "kind": kind,
        "url": done.url,
        "objects": done.objects,
        "bytes": done.bytes,
        "listing_sha256": done.listing_sha256,
        "found": found,
        "kept_on_purpose": {reason: number for reason, number in kept.items() if number},
    }


def _read(url: str, corpus: Corpus) -> dict[str, Any]:
    """The document so far. Raises InputError for a file that is another thing, or of another corpus."""
    if not uri.exists(url):
        return {"format": FORMAT, "corpus": corpus.url, "corpus_id": corpus.id, "people": {}, "models": []}
    try:
        document: dict[str, Any] = json.loads(uri.read_bytes(url))
        found = document["format"], document["corpus_id"]
    except (ValueError, LookupError, TypeError) as error:
        raise _another(url, f"{type(error).__name__}: {error}") from error
    if found != (FORMAT, corpus.id):
        raise _another(url, " of corpus ".join(map(str, found)))
    return document


def _another(url: str, value: str) -> InputError:
    return InputError(
        f"--proof {url}", value=value, expected=f"{FORMAT} of this corpus, or no file", fix="choose another name"
    )


def _write(url: str, document: Mapping[str, Any]) -> None:
    uri.write_bytes(uri.checked_place(url), json.dumps(document, indent=1).encode())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
