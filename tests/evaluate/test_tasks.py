"""Task files and what becomes of labels."""

import numpy as np
import pyarrow as pa
import pytest

from xmae_dist.core.errors import InputError
from xmae_dist.evaluate.examples import examples
from xmae_dist.evaluate.tasks import Suite, Task, builtin_suites, load_suite, parse_suite


def windows() -> pa.Table:
    rows = [
        {
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
    kinds = [pa.string()] * 3 + [pa.float64(), pa.float32(), pa.float32(), numbers, text]
    return pa.Table.from_pylist(rows, schema=pa.schema(list(zip(rows[0], kinds, strict=True))))


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


def test_units_pool_their_windows() -> None:
    table = windows()
    embedding_WE = np.arange(24.0).reshape(12, 2)
    by_recording = examples(task(unit="recording"), table)
    np.testing.assert_allclose(by_recording.features(embedding_WE)[:2], [[1, 2], [5, 6]])
    assert by_recording.subject_N.tolist() == ["s0", "s0", "s1", "s1", "s2", "s2"]
    only_b = examples(task(unit="subject", cohorts=("b",), min_quality=0.89), table)
    assert only_b.name_N.tolist() == ["s2"] and only_b.rows_M.tolist() == [10, 11]


def test_a_cap_takes_the_same_windows_in_any_order() -> None:
    table = windows()
    capped = examples(task(), table, max_windows_per_subject=2, seed=3)
    assert np.unique(capped.subject_N, return_counts=True)[1].tolist() == [2, 2, 2]
    order = np.random.default_rng(0).permutation(12)
    shuffled = examples(task(), table.take(order), max_windows_per_subject=2, seed=3)
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
