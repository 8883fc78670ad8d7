"""What a tick adds is compared with what the table knows; what is like nothing known is flagged, or held back."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.embed.devices import by_device, record_people
from tests.embed.jobs import ENCODER, Encode, opened
from xmae_dist.embed.backlog import View
from xmae_dist.embed.familiar import ALIKE, DIFFERENT, TRAINING, UNTESTED, Familiarity, sample_of
from xmae_dist.embed.pipeline import Held, embed_cohort
from xmae_dist.embed.positions import PositionLog
from xmae_dist.embed.publish import Published
from xmae_dist.embed.sample import Bounds, drawn
from xmae_dist.embed.tick import tick
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.table import Table

TRAINED = dataclasses.replace(ENCODER, pretrained_on=("bedside", "patch"))


@pytest.fixture(scope="module")
def three_devices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("three")
    corpus, table = Corpus.create(f"file://{folder}/corpus"), f"file://{folder}/table"
    for cohort, shift in (("bedside", 0.0), ("patch", 2.0), ("ring", 4.0)):
        record_people(corpus, cohort, 40)
        done = added(corpus, table, cohort, by_device(shift=shift))
        assert isinstance(done, Published)
    return folder


@pytest.fixture
def places(tmp_path: Path, three_devices: Path) -> tuple[Corpus, str]:
    shutil.copytree(three_devices, tmp_path, dirs_exist_ok=True)
    return Corpus.open(f"file://{tmp_path}/corpus"), f"file://{tmp_path}/table"


def added(corpus: Corpus, table: str, cohort: str, encode: Encode, *, hold: bool = False) -> Published | Held | None:
    """A cohort through the pipeline, its batches encoded by `encode` beforehand, as a killed job would leave them."""
    job = opened(corpus.url, table, TRAINED.lineage(cohort), TRAINED)
    if job is not None:
        job.finish(encode)
    return embed_cohort(corpus.url, TRAINED, table, cohort, hold=hold)


def compared(done: Published | Held | None) -> Familiarity:
    assert done is not None and done.familiarity is not None
    return done.familiarity


def test_a_cohort_like_a_known_device_is_published(places: tuple[Corpus, str]) -> None:
    corpus, table = places
    record_people(corpus, "fresh", 30)
    done = added(corpus, table, "fresh", by_device(), hold=True)
    found = compared(done)
    assert isinstance(done, Published) and found.state == ALIKE
    assert found.comparisons[0].known == "bedside", found.comparisons
    assert {one.known for one in found.comparisons} == {"bedside", "patch", "ring", TRAINING}
    told = json.loads(Table(table).history(1)[0]["lineage"])["drift"]
    assert told["state"] == ALIKE and len(told["comparisons"]) == 4


def test_a_cohort_like_nothing_known_is_flagged_with_its_first_explanations(places: tuple[Corpus, str]) -> None:
    corpus, table = places
    record_people(corpus, "odd", 20, rate_hz=25.0)
    done = added(corpus, table, "odd", by_device(shift=-5.0, quality=0.5))
    found = compared(done)
    assert isinstance(done, Published) and found.state == DIFFERENT and "DRIFT" in str(found)
    assert any("sampled at 25 Hz, bedside at 100 Hz" in why for why in found.reasons)
    assert any("signal quality -0.40" in why and "AUC 1.00" in why for why in found.reasons)
    stated = PositionLog(table).stated(Table(table).version())[TRAINED.lineage("odd")].likeness
    assert stated is not None and stated.state == DIFFERENT and stated.nearest == "bedside"
    (specs,) = json.loads(Table(table).history(1)[0]["xmae_lineages"])["models"].values()
    (spec,) = specs.values()
    assert {len(one) for one in spec["cohorts"].values()} == {4}, "what readers of before take whole"


def test_a_held_cohort_is_not_seen_until_it_is_embedded_by_name(places: tuple[Corpus, str]) -> None:
    corpus, table = places
    record_people(corpus, "odd", 20)
    before = Table(table).version()
    done = added(corpus, table, "odd", by_device(shift=-5.0), hold=True)
    assert isinstance(done, Held) and Table(table).version() == before
    again = tick(corpus.url, TRAINED, table, hold=True)
    assert isinstance(again.outcomes["odd"], Held) and again.state == "attention"
    assert "status=attention" in again.line and "held=1" in again.line and "oldest=odd" in again.line
    assert again.lag.lag_s > 0 and list(again.lag.lag_s_of) == ["odd"]
    assert isinstance(embed_cohort(corpus.url, TRAINED, table, "odd"), Published), "what was encoded is taken as it is"
    done_now = tick(corpus.url, TRAINED, table, hold=True)
    assert done_now.state == "ok" and done_now.lag.lag_s == 0 and done_now.likeness["odd"].state == DIFFERENT


def test_whoever_was_withdrawn_leaves_a_held_cohort_all_the_same(places: tuple[Corpus, str]) -> None:
    corpus, table = places
    corpus.withdraw(["ring-a-003"])
    record_people(corpus, "ring", 20, part="firmware")
    done = added(corpus, table, "ring", by_device(shift=-5.0), hold=True)
    assert isinstance(done, Held) and done.withdrawn == 1
    rows = Table(table).read(columns=["subject_id"], filters=[("cohort", "=", "ring")])["subject_id"].to_pylist()
    assert "ring-a-003" not in rows and not any("firmware" in one for one in rows) and len(rows) == 39 * 6


def test_few_people_or_an_empty_table_are_not_tested(tmp_path: Path, places: tuple[Corpus, str]) -> None:
    corpus, table = places
    record_people(corpus, "pilot", 3)
    found = compared(added(corpus, table, "pilot", by_device(shift=-5.0), hold=True))
    assert found.state == UNTESTED and "3 people with windows, 8 are needed" in str(found)
    record_people(corpus, "first", 20)
    found = compared(added(corpus, f"file://{tmp_path}/empty", "first", by_device(), hold=True))
    assert found.state == UNTESTED and "no cohort with 16 other people" in str(found)


def test_a_sample_is_of_the_people_of_least_hash_and_moves_only_with_them(places: tuple[Corpus, str]) -> None:
    corpus, table = places
    lineage, bounds = TRAINED.lineage("ring"), Bounds(people=10, windows=3)
    view = View.of(corpus.url, table)
    whole, some = sample_of(view, lineage), sample_of(view, lineage, bounds)
    assert len(whole.subject_P) == 40 and list(some.subject_P) == list(whole.subject_P[:10])
    assert np.bincount(some.person_N).tolist() == [3] * 10
    gone = str(some.subject_P[2])
    corpus.withdraw([gone])
    added(corpus, table, "ring", by_device(shift=4.0))
    after = sample_of(View.of(corpus.url, table), lineage, bounds)
    assert list(after.subject_P) == [one for one in whole.subject_P[:11] if one != gone]
    assert drawn("none", table, [], lineage.spec_id).embedding_NE.shape == (0, 0)
