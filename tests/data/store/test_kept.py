"""The share of windows kept, by what is known of the people."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.data.corpora import corpus_of
from tests.data.store.test_window_store import CONFIG, plain_store
from xmae_dist.cli.main import main
from xmae_dist.data.store.kept import SOURCES, SOURCES_SCHEMA, KeptGroup, kept_by_label
from xmae_dist.storage import uri
from xmae_dist.storage.corpus import Corpus


def sources(*rows: tuple[str, int, dict[str, int], dict[str, float], dict[str, str]]) -> list[pa.Table]:
    """A table a recording, as parts of one recording each would have it."""
    table = pa.Table.from_pylist(
        [
            {
                "cohort": "c",
                "recording_id": f"r{number}",
                "subject_id": subject,
                "kept": kept,
                "dropped": list(dropped.items()),
                "labels": list(labels.items()),
                "label_text": list(texts.items()),
            }
            for number, (subject, kept, dropped, labels, texts) in enumerate(rows)
        ],
        schema=SOURCES_SCHEMA,
    )
    return [table.slice(number, 1) for number in range(len(table))]


def test_texts_yes_or_no_and_numbers_make_groups() -> None:
    table = sources(
        ("a", 80, {"ecg_low_quality": 15, "ppg_flat": 5}, {"af": 0.0, "ectopy_per_min": 0.0}, {"rhythm": "sinus"}),
        ("a", 90, {"ppg_low_quality": 10}, {"af": 0.0, "ectopy_per_min": 2.0}, {"rhythm": "sinus"}),
        ("b", 10, {"ppg_low_quality": 90}, {"af": 1.0, "ectopy_per_min": 9.0}, {"rhythm": "fibrillation"}),
        ("c", 5, {}, {}, {}),
    )
    rhythm = kept_by_label(table, ("rhythm",))
    assert rhythm[1] == KeptGroup(
        label="rhythm", group="sinus", recordings=2, subjects=1, kept=170, low_quality=25, other=5
    )
    assert [(g.group, g.kept_share) for g in rhythm] == [("fibrillation", 0.1), ("sinus", 0.85)]
    assert [(g.label, g.group, g.kept) for g in kept_by_label(table) if g.label != "rhythm"] == [
        ("af", "no", 170),
        ("af", "yes", 10),
        ("ectopy_per_min", "0", 80),
        ("ectopy_per_min", "up to 5.5", 90),
        ("ectopy_per_min", "over 5.5", 10),
    ]
    assert kept_by_label(table, ("nothing",)) == [] and np.isnan(KeptGroup(label="x", group="y").kept_share)
    ids = sources(*[(f"s{n}", 1, {}, {}, {"note": f"text {n}"}) for n in range(20)])
    assert kept_by_label(ids, ("note",)) == []


@pytest.mark.parametrize("on_the_fly", [False, True])
def test_a_store_knows_what_it_kept_of_each_recording(tmp_path: Path, on_the_fly: bool) -> None:
    corpus = corpus_of(f"{tmp_path}/c", subjects=4)
    noisy = irregular(corpus)
    store = plain_store(corpus, f"{tmp_path}/w", replace(CONFIG, on_the_fly=on_the_fly))
    found = pa.concat_tables(store.sources() or ())
    assert found.schema.equals(SOURCES_SCHEMA) and len(found) == 4 * 2 + 1
    assert sum(found["kept"].to_pylist()) == store.n_windows
    assert sum(sum(dict(d).values()) for d in found["dropped"].to_pylist()) == sum(
        sum(reasons.values()) for reasons in store.dropped().values()
    )
    groups = {group.group: group for group in kept_by_label([found], ("rhythm",))}
    assert groups["irregular"].recordings == 1 and noisy in found["recording_id"].to_pylist()
    assert groups["irregular"].kept_share < 0.5 and groups["irregular"].low_quality > 0
    assert {group.group: group.recordings for group in kept_by_label([found], ("sex",))} == {"f": 4, "m": 4}


def irregular(corpus: Corpus) -> str:
    """A recording whose beats all differ, as noise does and some hearts do."""
    rng = np.random.default_rng(0)
    named: dict[str, Any] = {"subject_id": "odd", "recording_id": "odd-1", "clock_id": "odd-1"}
    with corpus.begin_part("bench", "odd") as part:
        ecg = part.channel("ecg", dtype=np.float32, rate_hz=250.0, unit="mV")
        ppg = part.channel("ppg", dtype=np.float32, rate_hz=125.0, unit="nu")
        texts = {"label_text": {"rhythm": "irregular"}}
        rows = [
            channel.add(rng.normal(size=int(65 * rate_hz)).astype(np.float32), **named, **texts)
            for channel, rate_hz in ((ecg, 250.0), (ppg, 125.0))
        ]
    corpus.commit_part(rows, "odd")
    return "odd-1"


def test_the_command_tells_shares_by_label(tmp_path: Path, ray_local: None, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = corpus_of(f"{tmp_path}/c", subjects=4)
    irregular(corpus)
    command = ["windows", "--corpus", corpus.url, "--out", f"{tmp_path}/w"]
    assert main([*command, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    (group,) = document["kept_by_label"]
    assert (group["label"], group["group"], group["recordings"]) == ("rhythm", "irregular", 1)
    assert main([*command, "--by", "sex"]) == 0
    said = capsys.readouterr().out
    assert "Kept, by label" in said and "sex" in said
    for old in uri.list_urls(document["url"] + "/parts", recursive=True):
        if old.endswith(SOURCES):  # a store of an earlier version
            Path(old.removeprefix("file://")).unlink()
    assert main([*command, "--by", "sex"]) == 0
    assert "Kept, by label" not in capsys.readouterr().out
