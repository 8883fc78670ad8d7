"""People leave the results of an evaluation: predictions go, and scores are those of the people who stay."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.embed.evaluations import evaluated, result_of, task_of
from xmae_dist.evaluate.report.rows import read as read_rows
from xmae_dist.evaluate.report.rows import recomputed
from xmae_dist.evaluate.results import SCHEMA, ResultTable, predictions_digest
from xmae_dist.evaluate.transfer.matrix import Cell
from xmae_dist.evaluate.transfer.requests import CellTable
from xmae_dist.evaluate.withdrawal import take_out, vacuum_evaluation
from xmae_dist.storage import parquet, uri
from xmae_dist.storage.table import Table


@pytest.fixture
def out(store_url: str) -> str:
    """Two results and a cell of one evaluation, and its report's Parquet."""
    url = f"{store_url}/evaluation"
    results = [result_of("model", task_of(name), signal=1.0) for name in ("af", "sex")]
    evaluated(url, *results)
    CellTable(url).commit([Cell(axis="site", trained="finger", tested="wrist", result=results[0])])
    rows = pa.Table.from_pylist([one.to_row() for one in results], schema=SCHEMA)
    uri.write_bytes(f"{url}/report/results.parquet", parquet.encode(rows))
    return url


def test_predictions_go_and_scores_are_of_who_stays(out: str) -> None:
    before = {one.request: one for one in ResultTable(out).read()}
    somebody = str(next(iter(before.values())).scored.predictions.subject_N[0])
    versions = Table(f"{out}/results").version()
    assert take_out(out, [somebody, "nobody"]) == 3
    assert Table(f"{out}/results").version() == versions + 2, "a commit for each result"
    after = ResultTable(out).read()
    assert len(after) == len(before)
    for one in after:
        was, now = before[one.request].scored.predictions, one.scored.predictions
        stays = was.subject_N != somebody
        assert 0 < stays.sum() < len(stays)
        assert np.array_equal(now.subject_N, was.subject_N[stays]) and np.array_equal(now.pred_NC, was.pred_NC[stays])
        assert one.unit_names.tolist() == before[one.request].unit_names[stays].tolist()
        assert (
            one.n_subjects == before[one.request].n_subjects - 1
            and one.scores.keys() == before[one.request].scores.keys()
        )
        assert one.headline.value == recomputed(one).value != before[one.request].headline.value
        assert predictions_digest(now) != predictions_digest(was)
    (cell,) = CellTable(out).read()
    assert (cell.axis, cell.tested) == ("site", "wrist") and somebody not in cell.result.scored.predictions.subject_N
    report = parquet.decode(uri.read_bytes(f"{out}/report/results.parquet"))
    assert len(report) == 2 and not any(somebody in row for row in report["pred_subject"].to_pylist())
    assert [told.result.n_subjects for told in read_rows(f"{out}/report/results.parquet")] == [
        one.n_subjects for one in after
    ]
    assert take_out(out, [somebody, "nobody"]) == 0


def test_a_task_that_loses_all_of_one_class_has_no_score(out: str) -> None:
    one = ResultTable(out).read()[0]
    p = one.scored.predictions
    take_out(out, set(p.subject_N[p.y_N == 1].tolist()))
    (left,) = [now for now in ResultTable(out).read() if now.request == one.request]
    assert not left.scored.predictions.y_N.any() and math.isnan(left.headline.value)


def test_an_interrupted_call_goes_on(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    somebody = str(ResultTable(out).read()[0].scored.predictions.subject_N[0])
    rewrite, left = Table.rewrite, [1]

    def dies(self: Table, *args: object, **options: object) -> object:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return rewrite(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Table, "rewrite", dies)
    with pytest.raises(KeyboardInterrupt):
        take_out(out, [somebody])
    monkeypatch.setattr(Table, "rewrite", rewrite)
    assert take_out(out, [somebody]) == 2
    assert not any(somebody in one.scored.predictions.subject_N for one in ResultTable(out).read())


def test_a_result_of_nobody_is_none(out: str) -> None:
    everybody = set(ResultTable(out).read()[0].scored.predictions.subject_N.tolist())
    take_out(out, everybody)
    assert ResultTable(out).read() == [] and CellTable(out).read() == []


def test_old_files_and_kept_embeddings_go_after_the_grace_period(out: str) -> None:
    somebody = str(ResultTable(out).read()[0].scored.predictions.subject_N[0])
    uri.write_bytes(f"{out}/embeddings/block.npy", b"numbers")
    take_out(out, [somebody])
    assert vacuum_evaluation(out, grace_s=3600.0) == 0
    assert vacuum_evaluation(out, grace_s=0.0) == 4
    assert uri.list_urls(f"{out}/embeddings") == []
    assert len(ResultTable(out).read()) == 2


def test_an_evaluation_without_results(tmp_path: Path) -> None:
    assert take_out(str(tmp_path), ["somebody"]) == 0
    assert vacuum_evaluation(str(tmp_path), grace_s=0.0) == 0
