"""Which window store an evaluation takes, among those that training runs left."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from tests.data.corpora import corpus_of
from tests.data.store.test_window_store import CONFIG, plain_store
from xmae_dist.core.errors import InputError
from xmae_dist.evaluate.run import find_store
from xmae_dist.storage import uri
from xmae_dist.storage.table import Table
from xmae_dist.testing.window_store import write_window_store


def test_the_only_complete_store_is_taken_and_what_a_dead_job_left_is_passed_over(tmp_path: Path) -> None:
    write_window_store(f"{tmp_path}/w/a", {"band": [70]})
    uri.write_bytes(f"{tmp_path}/w/dead/store.json", Path(f"{tmp_path}/w/a/store.json").read_bytes())
    Table(f"{tmp_path}/w/dead/index").create(Table(f"{tmp_path}/w/a/index").read().schema)
    assert find_store(f"{tmp_path}/w").url.endswith("/w/a")
    write_window_store(f"{tmp_path}/w/b", {"band": [70]})
    with pytest.raises(InputError, match="2 complete window stores"):
        find_store(f"{tmp_path}/w")
    assert find_store(f"{tmp_path}/w/b").url.endswith("/w/b"), "a store itself may be named"


def test_the_split_of_the_bundle_and_the_cohorts_asked_for_choose_the_store(tmp_path: Path) -> None:
    corpus = corpus_of(f"{tmp_path}/c", subjects=3)
    corpus_of(corpus.url, subjects=3, cohort="other")
    split = dataclasses.replace(CONFIG.split, seed=11)
    configs = {
        "other cohorts": dataclasses.replace(CONFIG, cohorts=("bench",)),
        "on the fly": dataclasses.replace(CONFIG, on_the_fly=True),
        "another split": dataclasses.replace(CONFIG, split=split),
        "whole": CONFIG,
    }
    urls = {name: plain_store(corpus, f"{tmp_path}/w", config).url for name, config in configs.items()}

    def found(**choice: object) -> str:
        return find_store(f"{tmp_path}/w", corpus_url=corpus.url, spec=CONFIG.spec, **choice).url  # type: ignore[arg-type]

    assert found(split=CONFIG.split) == urls["whole"]
    assert found(split=split) == urls["another split"]
    assert found(split=CONFIG.split, cohorts=["other"]) == urls["whole"]
    shutil.rmtree(urls["whole"].removeprefix("file://"))
    assert found(split=CONFIG.split) == urls["on the fly"], "rather than one without a cohort, or of another split"
    shutil.rmtree(urls["on the fly"].removeprefix("file://"))
    assert found(split=CONFIG.split, cohorts=["bench"]) == urls["other cohorts"]


def test_a_store_that_is_made_for_an_evaluation_has_the_split_of_the_bundle(tmp_path: Path, ray_local: None) -> None:
    corpus = corpus_of(f"{tmp_path}/c", subjects=3)
    split = dataclasses.replace(CONFIG.split, seed=11)
    made = find_store(f"{tmp_path}/w", corpus_url=corpus.url, spec=CONFIG.spec, split=split)
    assert made.split_config == split and made.n_windows


def test_a_store_of_earlier_measures_is_read_where_it_is_named_and_not_chosen(tmp_path: Path, ray_local: None) -> None:
    corpus = corpus_of(f"{tmp_path}/c", subjects=3)
    old = plain_store(corpus, f"{tmp_path}/w")
    document = Path(old.url.removeprefix("file://"), "store.json")
    values = json.loads(document.read_text())
    assert values.pop("measures")
    document.write_text(json.dumps(values))
    assert find_store(old.url).n_windows == old.n_windows
    shutil.move(old.url.removeprefix("file://"), f"{tmp_path}/w/of-an-earlier-version")
    chosen = find_store(f"{tmp_path}/w", corpus_url=corpus.url, spec=CONFIG.spec, split=CONFIG.split)
    assert chosen.url != f"file://{tmp_path}/w/of-an-earlier-version" and chosen.document["measures"]


def test_an_old_store_of_withdrawn_subjects_does_not_stop_the_newest(tmp_path: Path) -> None:
    corpus = corpus_of(f"{tmp_path}/c", subjects=3)
    lazy = dataclasses.replace(CONFIG, on_the_fly=True)
    plain_store(corpus, f"{tmp_path}/w", lazy)
    corpus.withdraw(["bench-s00"])
    newest = plain_store(corpus, f"{tmp_path}/w")
    assert find_store(f"{tmp_path}/w", corpus_url=corpus.url, spec=CONFIG.spec).url == newest.url
