"""Aliases of bundles: moved once, refused with a reason, taken back for nothing; rows stay until retirement."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from tests.embed.evaluations import evaluated, result_of, task_of
from tests.embed.jobs import ENCODER, by_telling, embed, opened, told
from tests.embed.test_embed_killed import record
from xmae_dist.cli.main import main
from xmae_dist.core.errors import InputError, RunError
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.embed.backlog import View
from xmae_dist.embed.registry import Model, Registry, encoder_meant
from xmae_dist.embed.request import OvertakenError
from xmae_dist.embed.retirement import retire
from xmae_dist.embed.sweep import sweep
from xmae_dist.model import bundle, presets
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.table import Table

TASK = task_of("af")
OLD = dataclasses.replace(ENCODER, model_id="old")


def saved(url: str, seed: int) -> str:
    """The id of a small bundle."""
    torch.manual_seed(seed)
    lineage = {"run": "s3://runs/one"}
    return bundle.save(url, presets.build("tiny"), window_spec=WindowSpec().to_dict(), lineage=lineage)


@pytest.fixture
def urls(tmp_path: Path) -> dict[str, str]:
    return {name: f"file://{tmp_path}/{name}" for name in ("first", "second", "table", "evaluation", "other", "corpus")}


def promote(urls: dict[str, str], which: str, *more: str) -> int:
    common = ["--as", "champion", "--table", urls["table"], "--evaluation", urls["evaluation"]]
    return main(["promote", urls[which], *common, *more])


def test_a_bundle_takes_the_place_of_another_and_gives_it_back(
    urls: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = saved(urls["first"], 1), saved(urls["second"], 2)
    assert promote(urls, "first") == 2
    assert f"no result of bundle {first}" in capsys.readouterr().err
    evaluated(urls["evaluation"], result_of(first, TASK, signal=2.0), result_of(second, TASK, signal=0.0))
    assert promote(urls, "first") == 0
    assert promote(urls, "first") == 0 and "already" in capsys.readouterr().out
    registry = Registry(urls["table"])
    assert registry.resolve("champion").run == "s3://runs/one" and len(registry.state().moves) == 1

    assert promote(urls, "second") == 2
    said = capsys.readouterr()
    assert "af" in said.out and "paired, 60 people" in said.out and ": worse" in said.out
    assert "worse beyond its margin on af" in said.err and encoder_meant(urls["table"], "champion").model_id == first
    assert promote(urls, "second", "--force", "--json") == 0
    move = json.loads(capsys.readouterr().out)
    assert move["action"] == "forced" and move["number"] == 2 and move["comparison"]["tasks"][0]["verdict"] == "worse"
    assert encoder_meant(urls["table"], "champion").model_id == second

    back = ["promote", "--as", "champion", "--table", urls["table"], "--back"]
    before = Table(f"{urls['table']}/_models").version()
    assert main(back) == 0 and encoder_meant(urls["table"], "champion").model_id == first
    assert Table(f"{urls['table']}/_models").version() == before + 1
    assert main(back) == 2 and "no bundle before" in capsys.readouterr().err
    assert main(["models", urls["table"]]) == 0
    listed = capsys.readouterr().out
    assert f"champion: {first}" in listed and listed.index("promoted") < listed.index("forced") < listed.index("return")


def test_what_cannot_be_compared_is_refused(urls: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    first, second = saved(urls["first"], 1), saved(urls["second"], 2)
    evaluated(urls["evaluation"], result_of(first, TASK, signal=1.0))
    assert promote(urls, "first") == 0
    evaluated(urls["other"], result_of(second, task_of("sleep"), signal=2.0))
    alone = {**urls, "evaluation": urls["other"]}
    assert promote(alone, "second") == 2
    assert "cannot be compared" in capsys.readouterr().err
    evaluated(urls["other"], result_of(second, TASK, signal=1.5, name="others"))
    assert promote(alone, "second") == 0, "the present one's own evaluation serves, unpaired"
    assert "not paired" in capsys.readouterr().out


def test_an_alias_that_nobody_gave_and_a_bundle_that_is_not_whole(
    urls: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = saved(urls["first"], 1), saved(urls["second"], 2)
    evaluated(urls["evaluation"], *(result_of(one, TASK, signal=1.0) for one in (first, second)))
    assert promote(urls, "first") == 0
    tick = ["reembed", "--corpus", urls["corpus"], "--table", urls["table"]]
    assert main([*tick, "--model", "challenger"]) == 2
    assert "no such alias; expected one of: champion" in capsys.readouterr().err
    assert main(tick) == 2 and main([*tick, "--model", "champion", "--bundle", urls["first"]]) == 2
    assert main(["promote", urls["first"], "--as", "../x", "--table", urls["table"]]) == 2
    saved(urls["first"], 3)
    capsys.readouterr()
    assert main([*tick, "--model", "champion"]) == 1, "another bundle lies there by now"
    assert f"expected {first}, as it was promoted" in capsys.readouterr().err
    weights = tmp_path / "second" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    assert promote(urls, "second") != 0
    assert len(Registry(urls["table"]).state().moves) == 1


def test_of_two_promotions_at_once_one_wins(store_url: str) -> None:
    registry = Registry(f"{store_url}/table")
    seen = registry.state()
    registry.promote("champion", Model(model_id="a", bundle="x"), seen=seen, forced=False)
    with pytest.raises(RunError, match="another move of it came first"):
        registry.promote("champion", Model(model_id="b", bundle="y"), seen=seen, forced=False)
    assert registry.resolve("champion").model_id == "a"
    registry.promote("challenger", Model(model_id="b", bundle="y"), seen=seen, forced=False)
    assert sorted(registry.state().stacks) == ["challenger", "champion"]


def table_of_two(urls: dict[str, str]) -> tuple[Corpus, str]:
    """A table with rows of `model` and of `old`."""
    corpus, table = Corpus.create(urls["corpus"]), urls["table"]
    record(corpus, "a", {"s0": 1, "s1": 1})
    for encoder in (ENCODER, OLD):
        embed(corpus.url, table, "watch", encoder)
    return corpus, table


def models_in(table: str) -> dict[str, int]:
    rows = Table(table).read(columns=["model_id"])["model_id"].to_pylist()
    return {one: rows.count(one) for one in sorted(set(rows))}


def test_rows_stay_until_their_bundle_is_retired(urls: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    corpus, table = table_of_two(urls)
    registry = Registry(table)
    registry.promote("champion", Model(model_id="old", bundle="x"), seen=registry.state(), forced=False)
    registry.promote("champion", Model(model_id="model", bundle="y"), seen=registry.state(), forced=False)
    assert models_in(table) == {"model": 4, "old": 4}
    assert main(["retire", "model", "--table", table, "--apply"]) == 2
    assert "it is what champion means" in capsys.readouterr().err
    assert main(["retire", "none", "--table", table]) == 2 and "expected one of model, old" in capsys.readouterr().err
    before = Table(table).version()
    assert main(["retire", "old", "--table", table]) == 0 and models_in(table) == {"model": 4, "old": 4}
    assert main(["retire", "old", "--table", table, "--apply", "--json"]) == 0
    done = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert done["rows"] == 4 and done["version"] == before + 1 and models_in(table) == {"model": 4}
    assert main(["retire", "old", "--table", table, "--apply"]) == 0
    assert "nothing to do" in capsys.readouterr().out and Table(table).version() == before + 1

    with pytest.raises(InputError, match="was retired"):
        View.of(corpus.url, table).refuse_retired(OLD)
    with pytest.raises(InputError, match="was retired"):
        registry.go_back("champion")
    sweep(table, grace_s=0.0)
    assert registry.resolve("champion").model_id == "model", "the registry is nothing that a sweep may take"
    assert not list(Path(table.removeprefix("file://")).glob("model_id=old/**/*.parquet"))
    record(corpus, "b", {"s2": 1})
    corpus.withdraw(["s0"])
    assert list(View.of(corpus.url, table).with_people_who_left(ENCODER)) == []
    embed(corpus.url, table, "watch")
    assert {key[1] for key in told(table)} == {"s1", "s2"}


def test_a_job_under_way_does_not_bring_a_retired_bundle_back(urls: dict[str, str]) -> None:
    corpus, table = table_of_two(urls)
    record(corpus, "b", {"s2": 1})
    record(corpus, "c", {"r0": 1}, cohort="ring")
    jobs = [opened(corpus.url, table, OLD.lineage(cohort), OLD) for cohort in ("watch", "ring")]
    for job in jobs:
        assert job is not None
        job.finish(by_telling)
    retire(table, "old")
    assert jobs[0] is not None and jobs[0].publish().version is None
    with pytest.raises(OvertakenError):
        assert jobs[1] is not None
        jobs[1].publish()  # of a cohort that it had no rows of
    assert models_in(table) == {"model": 4}


def test_a_retirement_that_was_killed_is_finished(urls: dict[str, str]) -> None:
    _, table = table_of_two(urls)
    Registry(table).retire("old", "")  # and here it was killed
    assert models_in(table) == {"model": 4, "old": 4}
    assert retire(table, "old").version is not None and models_in(table) == {"model": 4}
