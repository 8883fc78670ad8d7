"""Units that are gathered part by part, against the plain way that holds every window: whatever the parts, the same."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmae_dist.core.errors import InputError
from xmae_dist.core.seeds import hash_u64
from xmae_dist.data.store.window_store import META_SCHEMA
from xmae_dist.evaluate import gathering
from xmae_dist.evaluate.gathering import Limit, examples, gathered, gathered_by
from xmae_dist.evaluate.pooling import embedded_here
from xmae_dist.evaluate.tasks import Task

SCHEMA = pa.schema([("window_id", pa.int64()), *META_SCHEMA])
TASKS = (
    Task(name="rate", title="", label="heart_rate_bpm", kind="regression"),
    Task(name="good", title="", label="heart_rate_bpm", kind="regression", unit="recording", min_quality=0.5),
    Task(name="af", title="", label="af", kind="binary", unit="recording"),
    Task(name="age", title="", label="age", kind="regression", unit="subject", cohorts=("b",)),
    Task(name="stage", title="", label="stages", kind="binary", unit="epoch", epoch_s=20.0, classes=("W", ("1", "2"))),
    Task(name="within", title="", label="heart_rate_bpm", kind="regression", centred=True, valid_range=(61, 79)),
)


def rows_of(seed: int, n: int) -> list[dict[str, Any]]:
    """Windows of a few people whose recordings are long and short, some labels missing, people in two cohorts."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    while len(rows) < n:
        person, cohort = f"p{rng.integers(4)}", "ab"[rng.integers(2)]
        name = f"{person}-{rng.integers(3)}"
        labels = [("age", 40.0 + rng.integers(9))] if rng.random() < 0.8 else []
        labels += [("af", float(rng.integers(2)))] if rng.random() < 0.7 else []
        text = [("stages", "".join(rng.choice(list("W12?"), 3)))] if rng.random() < 0.8 else []
        start = float(rng.integers(1000)) * 100
        for place in range(int(rng.integers(1, 12))):
            measured = 60 + 20 * rng.random() if rng.random() < 0.8 else float("nan")
            rows.append({
                "window_id": len(rows), "subject_id": person, "recording_id": name, "cohort": cohort,
                "start_s": start + 10.0 * place, "quality_ppg": rng.random(), "heart_rate_bpm": measured,
                "labels": labels, "label_text": text,
            })  # fmt: skip
    return rows


def in_parts(rows: list[dict[str, Any]], cuts: list[int]) -> list[pa.Table]:
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    ends = sorted({0, len(rows), *(cut % len(rows) for cut in cuts)})
    return [table.slice(a, b - a) for a, b in itertools.pairwise(ends)]


def label_of(task: Task, row: dict[str, Any]) -> float | None:
    if task.label == "heart_rate_bpm":
        value = float(np.float32(row["heart_rate_bpm"]))
        inside = not task.valid_range or task.valid_range[0] <= value <= task.valid_range[1]
        return value if np.isfinite(value) and inside else None
    if task.label == "stages":
        letters, place = dict(row["label_text"]).get("stages", ""), int(row["start_s"] // task.epoch_s)
        letter = letters[place] if place < len(letters) else "?"
        return {"W": 0.0, "1": 1.0, "2": 1.0}.get(letter)
    return dict(row["labels"]).get(task.label)


def plainly(task: Task, rows: list[dict[str, Any]], limit: int, seed: int) -> dict[str, tuple[float, str, list[int]]]:
    """Unit -> (label before centring, subject, ids of its windows), one window after another."""
    kept = [
        (row, y)
        for row in rows
        if (y := label_of(task, row)) is not None
        and np.float32(row["quality_ppg"]) >= task.min_quality
        and (not task.cohorts or row["cohort"] in task.cohorts)
    ]
    if task.unit == "window" and limit:

        def rank(row: dict[str, Any]) -> int:
            name = hash_u64(f"{row['cohort']}/{row['recording_id']}")
            return int(hash_u64("subsample", seed, name, round(row["start_s"] * 1000)))

        drawn: dict[str, list[int]] = {}
        for row, _ in sorted(kept, key=lambda one: rank(one[0])):
            drawn.setdefault(row["subject_id"], []).append(row["window_id"])
        taken = {window for windows in drawn.values() for window in windows[:limit]}
        kept = [(row, y) for row, y in kept if row["window_id"] in taken]
    units: dict[str, list[tuple[dict[str, Any], float]]] = {}
    for row, y in kept:
        recording = f"{row['cohort']}/{row['recording_id']}"
        key = {
            "window": f"{recording}@{row['start_s']} {row['window_id']}",
            "recording": recording,
            "subject": row["subject_id"],
            "epoch": f"{recording}#{int(row['start_s'] // (task.epoch_s or 1)):05d}",
        }[task.unit]
        units.setdefault(key, []).append((row, y))
    found = {}
    for key, members in units.items():
        values = [y for _, y in members]
        most = Counter(values).most_common()
        y = np.mean(values) if task.kind == "regression" else min(v for v, n in most if n == most[0][1])
        found[key] = (float(y), members[0][0]["subject_id"], [row["window_id"] for row, _ in members])
    return found


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), cuts=st.lists(st.integers(1, 10**6), max_size=6), limit=st.sampled_from([0, 1, 4]))
def test_parts_change_nothing(seed: int, cuts: list[int], limit: int) -> None:
    rows = rows_of(seed, 60)
    embedding_WE = np.random.default_rng(seed).normal(size=(len(rows), 3)).astype(np.float32)
    found = gathered(TASKS, in_parts(rows, cuts), limit=Limit(windows=limit, seed=seed))
    for task in TASKS:
        want, units = plainly(task, rows, limit, seed), found[task.name]
        if not want:
            assert isinstance(units, InputError)
            continue
        assert not isinstance(units, InputError)
        order = list(want) if task.unit == "window" else sorted(want)
        if task.unit != "window":
            assert units.name_N.tolist() == order
        ids_M, unit_M = units.windows.expanded()
        assert ids_M.tolist() == sorted(ids_M.tolist())
        assert [ids_M[unit_M == i].tolist() for i in range(len(order))] == [want[key][2] for key in order]
        assert units.subject_N.tolist() == [want[key][1] for key in order]
        mean_NE = np.stack([embedding_WE[want[key][2]].astype(float).mean(axis=0) for key in order])
        y_N = np.array([want[key][0] for key in order])
        if task.centred:
            for person in set(units.subject_N.tolist()):
                here = units.subject_N == person
                mean_NE[here] -= mean_NE[here].mean(axis=0)
                y_N[here] -= y_N[here].mean()
        np.testing.assert_allclose(units.y_N, y_N, rtol=1e-12, atol=1e-12)
        embedded = embedded_here([units.windows], np.arange(len(rows)), embedding_WE)
        np.testing.assert_allclose(units.features(embedded), mean_NE, rtol=1e-9, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), cuts=st.lists(st.integers(1, 10**6), max_size=6), most=st.sampled_from([2, 5, 9]))
def test_of_more_units_than_the_limit_everybody_gives_as_many(seed: int, cuts: list[int], most: int) -> None:
    rows = rows_of(seed, 60)
    every = gathered(TASKS, in_parts(rows, []))
    found = gathered(TASKS, in_parts(rows, cuts), limit=Limit(units=most, seed=seed))
    for task in TASKS:
        units, whole = found[task.name], every[task.name]
        if isinstance(whole, InputError):
            continue
        assert not isinstance(units, InputError)
        n, there, given_ = len(units.y_N), Counter(whole.subject_N.tolist()), Counter(units.subject_N.tolist())
        assert units.left_out == len(whole.y_N) - n and n <= most and (units.left_out == 0) == (len(whole.y_N) <= most)
        share = max(given_.values())
        others = sum(given_[person] < min(count, share) for person, count in there.items())
        assert others == 0 or share == 1, "all of a person, or as much as of anybody"
        more = sum(count > share for count in there.values())
        assert not units.left_out or n == most or n + more > most, "nobody who has more could give one more"
        place_N = [whole.name_N.tolist().index(name) for name in units.name_N.tolist()]
        if task.unit != "window":  # windows of a recording that start together have one name
            assert place_N == sorted(place_N)
            want_M, unit_M = whole.windows.expanded()
            have_K, unit_K = units.windows.expanded()
            for i, place in enumerate(place_N):
                assert have_K[unit_K == i].tolist() == want_M[unit_M == place].tolist()
        if not task.centred:
            np.testing.assert_array_equal(units.y_N, whole.y_N[place_N])


def test_what_was_drawn_of_people_in_many_parts_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of(3, 400)
    parts = in_parts(rows, list(range(5, 400, 5)))
    want = examples(TASKS[0], parts, limit=Limit(windows=3))
    held: list[int] = []
    keep = gathering._Windows._keep

    def counted(self: Any, *columns: Any) -> None:
        keep(self, *columns)
        held.append(self._held)

    monkeypatch.setattr(gathering, "_HELD_WINDOWS", 20)
    monkeypatch.setattr(gathering._Windows, "_keep", counted)
    found = examples(TASKS[0], parts, limit=Limit(windows=3))
    assert found.name_N.tolist() == want.name_N.tolist() and len(want.y_N) == 12
    # Twice what is left when all was gone through, and a part.
    assert max(held) <= 2 * 12 + 5 + 20


def test_a_recording_that_takes_part_whole_is_one_run_a_part() -> None:
    rows = [{**row, "labels": [("age", 50.0)]} for row in rows_of(1, 300)]
    task = Task(name="t", title="", label="age", kind="regression", unit="subject")
    runs = examples(task, in_parts(rows, [100, 200])).windows
    changes = sum(a["subject_id"] != b["subject_id"] for a, b in itertools.pairwise(rows))
    assert len(runs.first_R) <= changes + 3 and runs.n_windows == len(rows)


def test_a_label_that_is_measured_late_is_measured_everywhere() -> None:
    """Recordings carry the name too: what the windows say goes before it, also where it was met first."""
    rows = [{**row, "heart_rate_bpm": float("nan"), "labels": [("heart_rate_bpm", 1.0)]} for row in rows_of(2, 60)]
    task = Task(name="t", title="", label="heart_rate_bpm", kind="regression")
    carried = examples(task, in_parts(rows, [20, 40]))
    assert set(carried.y_N.tolist()) == {1.0} and len(carried.y_N) == len(rows)
    rows[-1]["heart_rate_bpm"] = 70.0
    assert examples(task, in_parts(rows, [20, 40])).y_N.tolist() == [70.0]


def test_conditions_are_gathered_in_one_pass() -> None:
    rows = rows_of(5, 200)
    passes: list[int] = []

    class Windows:
        def __iter__(self) -> Iterator[pa.Table]:
            passes.append(1)
            return iter(in_parts(rows, [30, 90, 130]))

    found = gathered_by("cohort", TASKS, Windows(), limit=Limit(windows=2))
    assert len(passes) == 1
    for task in TASKS:
        for cohort in ("a", "b"):
            here = [row for row in rows if row["cohort"] == cohort]
            want = plainly(task, here, 2, 0)
            units = found[task.name].get(cohort)
            assert (units is None) == (not want)
            if units is not None:
                assert sorted(units.windows.expanded()[0].tolist()) == sorted(
                    i for one in want.values() for i in one[2]
                )
