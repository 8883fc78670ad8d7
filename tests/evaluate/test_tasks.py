"""Task files and what becomes of labels."""

import itertools
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from xmae_dist.core.errors import InputError
from xmae_dist.data.store.window_store import META_SCHEMA
from xmae_dist.evaluate.examples import Examples
from xmae_dist.evaluate.gathering import Limit
from xmae_dist.evaluate.gathering import examples as gathered_examples
from xmae_dist.evaluate.pooling import Embedded, embedded_here
from xmae_dist.evaluate.tasks import Suite, Task, builtin_suites, load_suite, parse_suite
from xmae_dist.simulate.cohorts import PRESETS, simulate_subject


def windows() -> pa.Table:
    rows = [
        {
            "window_id": i,
            "subject_id": f"s{i // 4}",
            "recording_id": f"r{i // 2}",
            "cohort": "a" if i < 8 else "b",
            "start_s": 10.0 * (i % 2),
            "quality_ppg": 0.5 + 0.04 * i,
            "heart_rate_bpm": 60.0 + i if i else float("nan"),
            "labels": [("age", 40.0 + i // 4), ("pvc_per_min", float(i % 3))],
            "label_text": [("rhythm", ["sinus", "af", "paced"][i // 4])],
        }
        for i in range(12)
    ]
    text = pa.map_(pa.string(), pa.string())
    numbers = pa.map_(pa.string(), pa.float64())
    kinds = [pa.int64()] + [pa.string()] * 3 + [pa.float64(), pa.float32(), pa.float32(), numbers, text]
    return pa.Table.from_pylist(rows, schema=pa.schema(list(zip(rows[0], kinds, strict=True))))


def examples(of: Task, table: pa.Table, *, cuts: tuple[int, ...] = (5, 6), **limit: int) -> Examples:
    """As an evaluation meets them: in three parts."""
    ends = [0, *cuts, len(table)]
    parts = [table.slice(a, b - a) for a, b in itertools.pairwise(ends)]
    return gathered_examples(of, parts, limit=Limit(**limit))


def embedded(found: Examples, embedding_WE: np.ndarray) -> Embedded:
    return embedded_here([found.windows], np.arange(len(embedding_WE)), embedding_WE)


def task(**fields: object) -> Task:
    return Task(**{"name": "t", "title": "T", "kind": "regression", "label": "age"} | fields)


def test_builtin_suites_load_and_change_their_fingerprint_with_meaning_only() -> None:
    assert {"simulated", "challenge2015"} <= set(builtin_suites())
    for name in builtin_suites():
        suite = load_suite(name)
        reworded = Suite(name="x", title="y", tasks=tuple(Task(**{**vars(t), "title": "z"}) for t in suite.tasks))
        assert suite.fingerprint() == reworded.fingerprint()
        assert suite.only((suite.tasks[0].name,)).fingerprint() != suite.fingerprint()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[task]\n", "valid TOML"),
        ("title = 'x'\n", "task names"),
        ("[[task]]\nname='a'\ntitle='a'\nkind='binary'\n", "no \\['label'\\]"),
        ("[[task]]\nname='a'\ntitle='a'\nkind='ordinal'\nlabel='x'\n", "kind: got ordinal"),
        ("[[task]]\nname='a'\ntitle='a'\nkind='binary'\nlabel='x'\nmetric='mae'\n", "metric: got mae"),
        ("[[task]]\nname='a'\ntitle='a'\nkind='binary'\nlabel='x'\nwat=1\n", "key: got wat"),
        ("[[task]]\nname='a'\ntitle='a'\nkind='regression'\nlabel='x'\nvalid_range=[2,1]\n", "low below high"),
        ("[[task]]\nname='a'\ntitle='a'\nkind='multiclass'\nlabel='x'\n", "three or more classes"),
        ("[[task]]\nname='a'\ntitle='a'\nkind='binary'\nlabel='x'\nunit='epoch'\n", "seconds of an epoch"),
        (
            "[[task]]\nname='a'\ntitle='a'\nkind='regression'\nlabel='x'\nunit='subject'\ncentred=true\n",
            "several units",
        ),
    ],
)
def test_a_wrong_task_file_says_what_is_wrong(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        parse_suite(text, "mine.toml")


def test_labels_come_from_a_column_or_a_map() -> None:
    table = windows()
    rate = examples(task(label="heart_rate_bpm"), table)
    assert len(rate.y_N) == 11, "a window without a label is left out"
    assert examples(task(label="age", unit="subject"), table).y_N.tolist() == [40, 41, 42]
    plausible = examples(task(label="heart_rate_bpm", valid_range=(62.0, 65.0)), table)
    assert plausible.y_N.tolist() == [62, 63, 64, 65]
    ectopy = examples(task(label="pvc_per_min", kind="binary", threshold=1.0), table)
    assert ectopy.y_N.tolist() == [float(i % 3 >= 1) for i in range(12)]
    rhythm = examples(task(label="rhythm", kind="multiclass", classes=("sinus", "af", "paced")), table)
    assert rhythm.y_N.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    merged = examples(task(label="rhythm", kind="binary", classes=("sinus", ("af", "paced"))), table)
    assert merged.y_N.tolist() == [0] * 4 + [1] * 8


def test_a_column_without_values_leaves_its_name_to_the_recordings() -> None:
    """Windows of PPG alone have a column `heart_rate_bpm` in which nothing was measured."""
    table = windows()
    empty = pa.array([float("nan")] * 11 + [None], pa.float32())
    ppg_only = table.set_column(table.column_names.index("heart_rate_bpm"), "heart_rate_bpm", empty)
    with pytest.raises(InputError, match="none with a label"):
        examples(task(label="heart_rate_bpm"), ppg_only)
    labels = [[("heart_rate_bpm", 70.0 + i // 2)] for i in range(12)]
    carried = pa.array(labels, pa.map_(pa.string(), pa.float64()))
    place = table.column_names.index("labels")
    found = examples(task(label="heart_rate_bpm", unit="recording"), ppg_only.set_column(place, "labels", carried))
    assert found.y_N.tolist() == [70, 71, 72, 73, 74, 75]
    measured = examples(task(label="heart_rate_bpm"), table.set_column(place, "labels", carried))
    assert measured.y_N.tolist() == [60.0 + i for i in range(1, 12)], "measurements come before labels"


def test_units_pool_their_windows() -> None:
    table = windows()
    embedding_WE = np.arange(24.0).reshape(12, 2)
    by_recording = examples(task(unit="recording"), table)
    np.testing.assert_allclose(by_recording.features(embedded(by_recording, embedding_WE))[:2], [[1, 2], [5, 6]])
    assert by_recording.subject_N.tolist() == ["s0", "s0", "s1", "s1", "s2", "s2"]
    only_b = examples(task(unit="subject", cohorts=("b",), min_quality=0.89), table)
    assert only_b.name_N.tolist() == ["s2"] and only_b.windows.expanded()[0].tolist() == [10, 11]


def test_a_letter_an_epoch() -> None:
    table = windows()
    stages = [[("sleep_stages", "WR" if i < 8 else "R?")] for i in range(12)]
    column = pa.array(stages, pa.map_(pa.string(), pa.string()))
    table = table.set_column(table.column_names.index("label_text"), "label_text", column)
    awake = task(label="sleep_stages", kind="binary", classes=("R", "W"), unit="epoch", epoch_s=10.0)
    found = examples(awake, table)
    assert found.y_N.tolist() == [1, 0] * 4 + [0] * 2, "windows start at 0 and 10 s; an unscored epoch is left out"
    assert found.name_N[:2].tolist() == ["a/r0#00000", "a/r0#00001"]
    longer = examples(task(label="sleep_stages", kind="binary", classes=("R", "W"), unit="epoch", epoch_s=20.0), table)
    assert longer.y_N.tolist() == [1] * 4 + [0] * 2 and longer.windows.counts(6).tolist() == [2] * 6


def test_centred_tasks_know_nothing_of_the_person() -> None:
    table = windows()
    found = examples(task(label="heart_rate_bpm", centred=True), table)
    rng = np.random.default_rng(0)
    x_NE = found.features(embedded(found, rng.normal(size=(12, 3)) + 100 * np.arange(12)[:, None] // 4))
    for person in np.unique(found.subject_N):
        here = found.subject_N == person
        assert abs(found.y_N[here].mean()) < 1e-5 and np.ptp(found.y_N[here]) > 0
        np.testing.assert_allclose(x_NE[here].mean(axis=0), 0, atol=1e-9)


def test_below_is_the_abnormal_side() -> None:
    low = examples(task(label="age", kind="binary", below=41.0, unit="subject"), windows())
    assert low.y_N.tolist() == [1, 0, 0]


def test_the_simulated_suite_asks_only_for_labels_that_the_simulator_gives() -> None:
    given = set(META_SCHEMA.names)
    for name in ("bedside", "sleep_lab"):
        recording = simulate_subject(replace(PRESETS[name], minutes=2.0), 0)[0]
        given |= set(recording.labels) | set(recording.label_text)
    tasks = load_suite("simulated").tasks
    assert len(tasks) >= 19 and {"cardiovascular", "sleep", "laboratory", "demographics"} <= {t.family for t in tasks}
    assert {t.label for t in tasks} <= given


def test_a_cap_takes_the_same_windows_in_any_order() -> None:
    table = windows()
    capped = examples(task(), table, windows=2, seed=3)
    assert np.unique(capped.subject_N, return_counts=True)[1].tolist() == [2, 2, 2]
    order = np.random.default_rng(0).permutation(12)
    shuffled = examples(task(), table.take(order), cuts=(1, 7), windows=2, seed=3)
    assert sorted(shuffled.name_N) == sorted(capped.name_N)


def test_unusable_labels_are_named_before_any_fit() -> None:
    with pytest.raises(InputError, match=r"no 'bmi'.*age.*pvc_per_min.*rhythm"):
        examples(task(label="bmi"), windows())
    with pytest.raises(InputError, match="expected 0 or 1"):
        examples(task(label="pvc_per_min", kind="binary"), windows())
    with pytest.raises(InputError, match="got text"):
        examples(task(label="rhythm"), windows())
    with pytest.raises(InputError, match="none with a label"):
        examples(task(cohorts=("nowhere",)), windows())
