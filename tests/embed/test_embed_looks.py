"""Looking at a table: neighbours are those of a full search, and a map shows what it says."""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.embed.devices import by_device, embeddings, record_people
from tests.embed.jobs import ENCODER, embed, opened
from xmae_dist.cli.map_picture import picture
from xmae_dist.cli.tick_page import tick_page
from xmae_dist.core.errors import InputError
from xmae_dist.embed.backlog import View
from xmae_dist.embed.embedding_map import embedding_map
from xmae_dist.embed.neighbours import neighbours
from xmae_dist.embed.pooled import KEYS, By, Pooling, pooled
from xmae_dist.embed.tick import tick
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.table import PinnedTable, Table


@pytest.fixture
def places(tmp_path: Path) -> tuple[Corpus, str]:
    corpus, table = Corpus.create(f"file://{tmp_path}/corpus"), f"file://{tmp_path}/table"
    for cohort, shift in (("bedside", 0.0), ("ring", 1.0)):
        for part in ("a", "b"):
            record_people(corpus, cohort, 12, part=part)
            embed(corpus.url, table, cohort, encode_task=by_device(shift=shift))
    return corpus, table


def pinned(table: str) -> PinnedTable:
    found = Table(table).newest()
    assert found is not None
    return found


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_neighbours_are_those_of_a_full_search(places: tuple[Corpus, str], distance: str) -> None:
    _, table = places
    rows = Table(table).read().to_pylist()
    x_NE = np.array([row["embedding"] for row in rows])
    found = neighbours(pinned(table), ENCODER, cohort="ring", recording_id="ring-a-003", k=7, distance=distance)
    assert [one.window.start_s for one in found] == [10.0 * i for i in range(6)]
    for query in found:
        own_E = embeddings("ring-a-003", 6, shift=1.0)[int(query.window.start_s / 10)]
        if distance == "cosine":
            distance_N = 1 - (x_NE @ own_E) / np.linalg.norm(x_NE, axis=1) / np.linalg.norm(own_E)
        else:
            distance_N = np.linalg.norm(x_NE - own_E, axis=1)
        others = sorted((d, r["recording_id"], r["start_s"]) for d, r in zip(distance_N, rows, strict=True)
                        if r["subject_id"] != "ring-a-003")[:7]  # fmt: skip
        assert [(one.recording_id, one.start_s) for one in query.neighbours] == [other[1:] for other in others]
        assert np.allclose([one.distance for one in query.neighbours], [other[0] for other in others], atol=1e-4)


def test_whom_to_look_among(places: tuple[Corpus, str]) -> None:
    _, table = places
    asked = {"cohort": "ring", "recording_id": "ring-a-003"}
    (one,) = neighbours(pinned(table), ENCODER, **asked, start_s=25.0, k=500, cohorts=["bedside"])
    assert one.window.start_s == 20.0 and {n.cohort for n in one.neighbours} == {"bedside"}
    assert len(one.neighbours) == 24 * 6
    (own,) = neighbours(pinned(table), ENCODER, **asked, start_s=0.0, k=500, same_person=True)
    assert len(own.neighbours) == 48 * 6 - 1, "all but the window itself"
    assert sum(n.subject_id == "ring-a-003" for n in own.neighbours) == 5
    with pytest.raises(InputError, match="no window by bundle"):
        neighbours(pinned(table), ENCODER, cohort="ring", recording_id="nobody")


def test_a_map_holds_a_bounded_sample_of_each_cohort(places: tuple[Corpus, str], tmp_path: Path) -> None:
    corpus, table = places
    view = View.of(corpus.url, table)
    found = embedding_map(view, ENCODER)
    assert len(found.cohort_N) == 2 * 24 * 6 and set(found.cohort_N) == {"bedside", "ring"}
    first, second = found.explained
    assert first > second > 0
    assert found.place_N2.var(axis=0)[0] > found.place_N2.var(axis=0)[1]
    figure = picture(found, title="map")
    figure.savefig(tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    assert [one.get_title() for one in figure.axes[:3]] == ["device (cohort)", "person", "signal quality"]
    with pytest.raises(InputError, match="--label"):
        embedding_map(view, ENCODER, label="age")


class _Balanced(HTMLParser):
    """Raises AssertionError for an element that is not closed in its turn."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_of_a_tick_says_what_each_cohort_got(places: tuple[Corpus, str]) -> None:
    corpus, table = places
    record_people(corpus, "odd", 20)
    job = opened(corpus.url, table, ENCODER.lineage("odd"), ENCODER)
    assert job is not None
    job.finish(by_device(shift=-8.0))
    done = tick(corpus.url, ENCODER, table, hold=True)
    drawn = picture(embedding_map(View.of(corpus.url, table), ENCODER), title="")
    done = dataclasses.replace(done, failed={"ring": "recording <b> is damaged"})
    html = tick_page(done, table_url=table, ended="today", drawn=drawn)
    parser = _Balanced()
    parser.feed(html)
    assert parser.open == []
    assert "failed: recording &lt;b&gt; is damaged" in html
    assert "held back; DRIFT, like no known cohort" in html and "nothing new" in html
    assert html.count("<tr>") == 2 + 3 + len(done.outcomes["odd"].familiarity.comparisons)  # type: ignore[union-attr]
    assert 'src="data:image/png;base64,' in html


def test_labels_are_those_of_the_index(tmp_path: Path) -> None:
    corpus, table = Corpus.create(f"file://{tmp_path}/corpus"), f"file://{tmp_path}/table"
    with corpus.begin_part("ring", "a") as part:
        ppg = part.channel("ppg", dtype=np.float32, rate_hz=100.0, unit="nu")
        rows = [
            ppg.add(np.zeros(9, np.float32), subject_id=name, recording_id=name, clock_id=name,
                    labels={"age": 40.0 + i} if i else {}, label_text={"sex": "f"})
            for i, name in enumerate(["s0", "s1", "s2"])
        ]  # fmt: skip
    corpus.commit_part(rows, "a")
    embed(corpus.url, table, "ring", encode_task=by_device())
    view = View.of(corpus.url, table)
    aged = embedding_map(view, ENCODER, label="age")
    assert aged.label_N is not None
    assert dict(zip(aged.subject_N.tolist(), aged.label_N, strict=True)) == {"s0": None, "s1": 41.0, "s2": 42.0}
    assert picture(aged, title="map", label="age").axes[3].get_title() == "age"
    sexed = embedding_map(view, ENCODER, label="sex")
    assert picture(sexed, title="map", label="sex").axes[3].get_title() == "sex" and json.dumps(sexed.label_N)


@pytest.mark.parametrize("by", ["subject", "recording"])
@pytest.mark.parametrize("pooling", ["mean", "moments"])
def test_pooled_rows_are_those_of_all_windows_in_memory(places: tuple[Corpus, str], by: By, pooling: Pooling) -> None:
    _, table = places
    of: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in Table(table).read().to_pylist():
        if row["quality"] >= 0.5:
            of[tuple(row[name] for name in KEYS[by])].append(row)
    files = dict(pooled(pinned(table), ENCODER, by=by, pooling=pooling, min_quality=0.5))
    assert sorted(files) == (["subjects"] if by == "subject" else ["bedside", "ring"])
    rows = [row for _, file in sorted(files.items()) for row in file.to_pylist()]
    assert [tuple(row[name] for name in KEYS[by]) for row in rows] == sorted(of)
    for row in rows:
        windows = of[tuple(row[name] for name in KEYS[by])]
        x_KE = np.array([one["embedding"] for one in windows])
        expected = [x_KE.mean(0), x_KE.std(0), x_KE.min(0), x_KE.max(0)][: 1 if pooling == "mean" else 4]
        assert np.allclose(row["embedding"], np.concatenate(expected), atol=2e-4)
        assert row["windows"] == len(windows)
        assert row["quality"] == pytest.approx(np.mean([one["quality"] for one in windows]), abs=1e-6)


def test_what_is_not_there_is_not_pooled(places: tuple[Corpus, str]) -> None:
    _, table = places
    with pytest.raises(InputError, match="none in cohorts bedside, ring of quality 2 or more"):
        list(pooled(pinned(table), ENCODER, by="subject", min_quality=2.0))
    with pytest.raises(InputError, match="watch; expected cohorts of the table: bedside, ring"):
        list(pooled(pinned(table), ENCODER, by="recording", cohorts=["watch"]))
