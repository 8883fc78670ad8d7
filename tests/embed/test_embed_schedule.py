"""Ticks of a schedule: at once, late, beside a damaged cohort; what they say, and how far behind the table is."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.data.corpora import corpus_of
from tests.embed.devices import by_device, record_people
from tests.embed.jobs import ENCODER, embed, opened, told
from tests.embed.test_embed_killed import record
from xmae_dist.cli.main import main
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.embed import metrics, pipeline
from xmae_dist.embed.backlog import View
from xmae_dist.embed.familiar import Familiarity, familiarity
from xmae_dist.embed.lag import lag
from xmae_dist.embed.request import Request
from xmae_dist.embed.tick import tick
from xmae_dist.embed.work import Work
from xmae_dist.model import bundle, presets
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.table import Table

PROCESS = """
import sys
from tests.embed import jobs
print("ready", flush=True)
sys.stdin.readline()
for cohort in sys.argv[3:]:
    jobs.embed(sys.argv[1], sys.argv[2], cohort)
"""


def test_ticks_of_several_processes_at_once_add_each_window_once(tmp_path: Path) -> None:
    corpus, table = Corpus.create(f"file://{tmp_path}/corpus"), f"file://{tmp_path}/table"
    cohorts = ["watch", "ring"]
    for cohort in cohorts:
        record(corpus, cohort, {f"{cohort}-{i}": 1 for i in range(3)}, cohort=cohort)
    command = [sys.executable, "-c", PROCESS, corpus.url, table, *cohorts]
    jobs = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
        for _ in range(4)
    ]
    for job in jobs:
        assert job.stdout is not None and job.stdout.readline() == b"ready\n"
    for job in jobs:
        job.communicate(b"go\n", timeout=240)
    assert [job.returncode for job in jobs] == [0] * 4
    assert len(told(table)) == 2 * 2 * 3 and View.of(corpus.url, table).behind(ENCODER) == []
    assert sum(one["operation"] == "WRITE" and "request" in one for one in Table(table).history()) == 2


def test_a_tick_whose_work_another_commits_meanwhile_ends_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other takes the staged facts with it while this one is about to compare them."""
    corpus, table = Corpus.create(f"file://{tmp_path}/corpus"), f"file://{tmp_path}/table"
    record_people(corpus, "ring", 9)
    other = opened(corpus.url, table, ENCODER.lineage("ring"), ENCODER)
    assert other is not None
    other.finish(by_device())

    def late(request: Request, work: Work, view: View) -> Familiarity:
        assert other.publish().version is not None
        return familiarity(request, work, view)

    monkeypatch.setattr(pipeline, "familiarity", late)
    done = tick(corpus.url, ENCODER, table)
    assert done.state == "ok" and done.outcomes == {"ring": None} and not done.lag.lag_s_of
    assert len(Table(table).read()) == 9 * 6


def test_a_tick_with_nothing_new_opens_corpus_and_table_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its requests are those of opening both."""
    corpus, table = Corpus.create(f"file://{tmp_path}/corpus"), f"file://{tmp_path}/table"
    record_people(corpus, "ring", 2)
    embed(corpus.url, table, "ring")
    opened_: list[View] = []
    first = View.of
    monkeypatch.setattr(View, "of", lambda *places: opened_.append(first(*places)) or opened_[-1])
    done = tick(corpus.url, ENCODER, table)
    assert done.state == "ok" and done.outcomes == {"ring": None} and len(opened_) == 1


def test_the_lag_is_that_of_the_oldest_change_that_is_not_embedded(tmp_path: Path) -> None:
    corpus, table = Corpus.create(f"file://{tmp_path}/corpus"), f"file://{tmp_path}/table"
    begun_s = time.time()
    record(corpus, "a", {"s0": 1})
    embed(corpus.url, table, "watch")
    assert lag(View.of(corpus.url, table), ENCODER).lag_s_of == {}
    time.sleep(0.6)
    changed_s = time.time()
    record(corpus, "b", {"s1": 1})
    record(corpus, "r", {"r0": 1}, cohort="ring")
    time.sleep(0.3)
    record(corpus, "c", {"s2": 1})
    found = lag(View.of(corpus.url, table), ENCODER)
    now_s = time.time()
    assert found.oldest == "watch" and set(found.lag_s_of) == {"watch", "ring"}
    assert 0.29 < found.lag_s <= now_s - changed_s + 0.01 < now_s - begun_s - 0.5
    assert found.lag_s_of["ring"] < found.lag_s
    embed(corpus.url, table, "watch")
    assert list(lag(View.of(corpus.url, table), ENCODER).lag_s_of) == ["ring"]


def test_gauges_are_what_the_tick_says(tmp_path: Path) -> None:
    corpus, table = Corpus.create(f"file://{tmp_path}/corpus"), f"file://{tmp_path}/table"
    for cohort in ("bedside", "odd"):
        record_people(corpus, cohort, 20)
        job = opened(corpus.url, table, ENCODER.lineage(cohort), ENCODER)
        assert job is not None
        job.finish(by_device(shift=0.0 if cohort == "bedside" else -6.0))
        done = tick(corpus.url, ENCODER, table, hold=True)
    file = tmp_path / "xmae.prom"
    metrics.write(str(file), done, table)
    found = {
        (sample.name, *(value for label, value in sample.labels.items() if label != "table")): sample.value
        for family in text_string_to_metric_families(file.read_text())
        for sample in family.samples
    }
    assert found["xmae_embed_held", "odd"] == 1 and found["xmae_embed_held", "bedside"] == 0
    assert found[("xmae_embed_tick_status",)] == 3 and found[("xmae_embed_cohorts_behind",)] == 1
    assert found[("xmae_embed_lag_s",)] == pytest.approx(done.lag.lag_s) and done.lag.lag_s > 0
    assert abs(found[("xmae_embed_tick_time_s",)] - time.time()) < 60
    assert ("xmae_embed_drift", "odd") not in found, "what is held is not in the table"
    pipeline.embed_cohort(corpus.url, ENCODER, table, "odd")
    metrics.write(str(file), tick(corpus.url, ENCODER, table), table)
    assert 'xmae_embed_drift_auc{cohort="odd",nearest="bedside"' in file.read_text()


def test_a_damaged_cohort_does_not_keep_the_others_waiting(
    ray_local: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, table, bundle_url = (f"file://{tmp_path}/{name}" for name in ("corpus", "table", "bundle"))
    bundle.save(bundle_url, presets.build("tiny"), window_spec=WindowSpec().to_dict(), lineage={})
    for cohort in ("bench", "ring"):
        corpus_of(corpus, subjects=2, recordings=1, cohort=cohort)
    shards = [
        one for one in (tmp_path / "corpus").rglob("*") if one.is_file() and "bench" in str(one) and "/c/" in str(one)
    ]
    for shard in shards:
        data = bytearray(shard.read_bytes())
        data[len(data) // 3] ^= 0xFF
        shard.write_bytes(data)
    asked = ["reembed", "--corpus", corpus, "--bundle", bundle_url, "--table", table]
    assert main([*asked, "--look"]) == 3
    assert "behind=2" in capsys.readouterr().out
    assert main(asked) == 1
    said = capsys.readouterr().out
    assert "bench: FAILED" in said and "status=failed" in said.splitlines()[-1] and "oldest=bench" in said
    assert set(Table(table).read(columns=["cohort"])["cohort"].to_pylist()) == {"ring"}
    assert main([*asked, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["failed"].keys() == {"bench"}
