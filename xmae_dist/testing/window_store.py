"""A window store of made-up windows, written in the real format: for tests and benches that need no corpus.

Every window spells its own id, so that a reader can be checked window by window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from xmae_dist.core.fingerprint import canonical_json
from xmae_dist.core.seeds import uniform01
from xmae_dist.data.store.part_index import VERSION, commit_index
from xmae_dist.data.store.window_store import FORMAT, META_SCHEMA, WindowStore, part_path
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.data.windows.split import SPLITS
from xmae_dist.storage import parquet, uri
from xmae_dist.storage.zarr_store import WindowArrayWriter

_FINGERPRINT = "made-up"
# float16 holds whole numbers up to 2048 exactly; ids are spelt in this base.
_BASE = 2048


def write_window_store(
    url: str,
    cohorts: Mapping[str, Sequence[int]],
    *,
    split: str = "train",
    chunk_windows: int = 64,
    shard_windows: int = 8192,
    windows_per_subject: int = 180,
    spec: WindowSpec | None = None,
) -> WindowStore:
    """A store whose cohorts have parts of the given numbers of windows; subjects follow one another in a part."""
    spec = spec or WindowSpec()
    rows, first_id = [], 0
    document = {
        "format": FORMAT,
        "spec": spec.to_dict(),
        "split": {},
        "chunk_windows": chunk_windows,
        "snapshot": {"fingerprint": _FINGERPRINT, "version": 0},
        "fingerprint": _FINGERPRINT,
        "index": VERSION,
        "shard_windows": shard_windows,
    }
    uri.write_bytes(uri.join(url, "store.json"), canonical_json(document))
    for cohort in sorted(cohorts):
        for number, n_windows in enumerate(cohorts[cohort]):
            part = f"p{number:06d}"
            where = uri.join(url, part_path(cohort, split, part))
            ids_B = np.arange(first_id, first_id + n_windows)
            chunk_bytes = {
                name: _write_array(uri.join(where, name), ids_B, lane, spec, chunk_windows, shard_windows)
                for lane, name in enumerate(("ecg", "ppg"))
            }
            row = _write_meta(uri.join(where, "meta.parquet"), ids_B, cohort, part, windows_per_subject)
            rows.append({**row, **_row(cohort, split, part, n_windows), "chunk_bytes": chunk_bytes})
            first_id += n_windows
    commit_index(url, _FINGERPRINT, rows)
    return WindowStore.open(url)


def spelt_ids(signal_BL: np.ndarray) -> np.ndarray:
    """The window ids that made-up windows carry in their first samples."""
    digits_B4 = np.rint(signal_BL[:, :4].astype(np.float64)).astype(np.int64)
    return digits_B4 @ np.array([1, _BASE, _BASE**2, _BASE**3])


def _write_array(
    url: str, ids_B: np.ndarray, lane: int, spec: WindowSpec, chunk_windows: int, shard_windows: int
) -> tuple[int, ...]:
    writer = WindowArrayWriter(
        url, channels=1, length=spec.length, chunk_windows=chunk_windows, shard_windows=shard_windows
    )
    for start in range(0, ids_B.size, 4096):
        here_B = ids_B[start : start + 4096]
        windows_BL = np.asarray(uniform01(lane, here_B[:, None], np.arange(spec.length))).astype(np.float16)
        windows_BL[:, :4] = here_B[:, None] // np.array([1, _BASE, _BASE**2, _BASE**3]) % _BASE
        writer.append(windows_BL[:, None, :])
    return writer.close().chunk_bytes


def _write_meta(url: str, ids_B: np.ndarray, cohort: str, part: str, windows_per_subject: int) -> dict[str, object]:
    """What the index says of it."""
    order = np.arange(ids_B.size)
    subjects = [f"{cohort}-{part}-{number:04d}" for number in order // windows_per_subject]
    columns = {
        "subject_id": pa.array(subjects, pa.string()),
        "recording_id": pa.array(subjects, pa.string()),
        "cohort": pa.array([cohort] * ids_B.size, pa.string()),
        "start_s": pa.array(order % windows_per_subject * 10.0),
    }
    arrays = [columns.get(f.name, pa.nulls(ids_B.size, f.type)) for f in META_SCHEMA]
    encoded = parquet.encode(pa.Table.from_arrays(arrays, schema=META_SCHEMA))
    uri.write_bytes(url, encoded)
    return {"first_subject": min(subjects), "last_subject": max(subjects), "meta_bytes": len(encoded)}


def _row(cohort: str, split: str, part: str, n_windows: int) -> dict[str, object]:
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is none of {SPLITS}")
    place: dict[str, object] = {"cohort": cohort, "split": split, "part": part}
    return {**place, "n_windows": n_windows, "n_recordings": 0, "n_subjects": 0, "dropped": {}}
