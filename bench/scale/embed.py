"""What re-embedding costs the driver: looking, comparing, and committing what workers left. Nothing is encoded.

Workers are stood in for: facts of files of 360 windows a recording, whose bytes are a stub. So the table can be
committed to and looked at, not read. The first operation makes the table that the others look at.
"""

from __future__ import annotations

import tempfile
import time

import numpy as np

from bench.scale.register import operation
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.embed import staging
from xmae_dist.embed.backlog import View, open_request
from xmae_dist.embed.publish import publish
from xmae_dist.embed.request import Encoder
from xmae_dist.embed.staging import Facts
from xmae_dist.embed.sweep import sweep
from xmae_dist.embed.work import Place, prepare
from xmae_dist.storage import uri
from xmae_dist.storage.file_actions import DataFile

ENCODER = Encoder(url="file:///nowhere", model_id="stub", spec=WindowSpec(require=("ppg",)))
WINDOWS_A_RECORDING = 360
_STUB = b"PAR1stubPAR1"


@operation("embed all: driver alone", aim="flat but for 4 B a recording of one cohort")
def embed_all(url: str) -> object:
    table_url = f"{url}-embeddings"
    files = rows = 0
    commits_s = 0.0
    for cohort in View.of(url, table_url).behind(ENCODER):
        with tempfile.TemporaryDirectory() as folder:
            view = View.of(url, table_url)
            request = open_request(view, ENCODER.lineage(cohort), ENCODER, folder)
            work = prepare(request, view)
            for task in work.encode:
                stand_in(task.key, len(staging.read_work(task.work_url)), work.place)
            began_s = time.process_time()
            rows += publish(request, work, view).rows
            commits_s += time.process_time() - began_s
            files += len(work.batches)
    return {"files": files, "rows": rows, "commits_cpu_s": round(commits_s, 2)}


def stand_in(key: str, recordings: int, place: Place) -> None:
    """Leaves what a worker would, of a file that is a stub."""
    path = f"model_id=stub/cohort={place.partition['cohort']}/{place.request}-{key}.parquet"
    uri.write_bytes(uri.join(place.table_url, path), _STUB)
    rows = recordings * WINDOWS_A_RECORDING
    stats = f'{{"numRecords": {rows}}}'
    add = DataFile(path=path, bytes=len(_STUB), partition=place.partition, rows=rows, stats=stats)
    windows = tuple(np.full(recordings, WINDOWS_A_RECORDING).tolist())
    staging.put_facts(place.folder, Facts(key=key, add=add, windows=windows))


@operation("tick with nothing new", aim="< 5 s, < 500 MB, < 50 requests")
def quiet_tick(url: str) -> object:
    view = View.of(url, f"{url}-embeddings")
    behind = view.behind(ENCODER)
    if behind or list(view.with_people_who_left(ENCODER)):
        raise RuntimeError(f"not up to date: {behind}")
    return len(view.positions)


@operation("difference of one cohort", aim="as 1/100 of all")
def difference_of_a_cohort(url: str) -> object:
    view = View.of(url, f"{url}-embeddings")
    cohort = view.cohorts(ENCODER)[0]
    with tempfile.TemporaryDirectory() as folder:
        return open_request(view, ENCODER.lineage(cohort), ENCODER, folder).difference.empty


@operation("vacuum of the embedding table, dry run")
def vacuum(url: str) -> object:
    return sweep(f"{url}-embeddings", grace_s=3600.0, dry_run=True).files
