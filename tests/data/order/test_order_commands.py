"""`xmae plan` and `xmae audit` over a window store and over a run, as a person would call them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from xmae_dist.cli.main import main
from xmae_dist.data.order.mixture import MixtureConfig
from xmae_dist.data.order.plan import OrderConfig, plan_for
from xmae_dist.data.store.window_store import WindowStore
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.storage import parquet, uri
from xmae_dist.testing.window_store import write_window_store
from xmae_dist.train.checkpoints import checkpoint

SPEC = WindowSpec(window_s=1.0, stride_s=1.0)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> WindowStore:
    folder = tmp_path_factory.mktemp("windows")
    cohorts = {"patch": [200, 90], "watch": [70]}
    return write_window_store(str(folder), cohorts, chunk_windows=8, windows_per_subject=30, spec=SPEC)


def asked(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, object]:
    assert main([*argv, "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def test_plan_show_prints_what_a_rank_sees(store: WindowStore, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--windows", store.url, "--global-batch", "24", "--seed", "4", "--repeats", "watch", "3"]
    shown = asked(capsys, "plan", "show", *options, "--step", "31", "--steps", "2", "--world", "4", "--rank", "2")
    config = OrderConfig(seed=4, global_batch=24, mixture=MixtureConfig(repeats={"watch": 3.0}))
    plan = plan_for(store, config)
    assert [row["ids"] for row in shown["steps"]] == plan.ids_of_steps(31, 33, 4, 2).tolist()  # type: ignore[attr-defined]
    assert main(["plan", "fingerprint", *options]) == 0
    assert capsys.readouterr().out.strip() == plan.fingerprint() == shown["fingerprint"]
    assert main(["plan", "show", *options]) == 0
    said = capsys.readouterr().out
    assert "patch" in said and "subjects per batch (perfect shuffle: " in said


def test_the_quality_of_the_shuffle_is_told_against_a_perfect_one(
    store: WindowStore, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(*options: str) -> dict[str, float]:
        return asked(capsys, "plan", "show", "--windows", store.url, "--global-batch", "24", *options)["shuffle"]  # type: ignore[return-value]

    default = told()
    plan = plan_for(store, OrderConfig(global_batch=24))
    subject = dict(store.meta("train", ["window_id", "subject_id"]).to_pandas().itertuples(index=False))
    steps = range(plan.steps_per_epoch)
    assert default["subjects"] == pytest.approx(np.mean([len({subject[i] for i in plan.ids(k)}) for k in steps]))
    # A perfect shuffle, drawn: 12 subjects of 30 windows or what is left of them.
    rng, everyone = np.random.default_rng(0), list(subject.values())
    drawn = [len(set(rng.choice(everyone, 24))) for _ in range(2000)]
    assert default["perfect_subjects"] == pytest.approx(np.mean(drawn), abs=0.15)
    assert default["subjects"] > 0.9 * default["perfect_subjects"]
    assert 1.9 < default["cohorts"] <= 2.0 and default["stretches"] == 24
    # Long stretches, few of them: worse, and said so.
    poor = told("--read-windows", "64", "--block-steps", "8")
    assert poor["stretches"] == 3 and poor["subjects"] < default["subjects"]
    assert told("--quality", "none") is None


def test_the_quality_of_the_shuffle_is_estimated_from_a_sample_of_parts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cohorts = {"patch": [60] * 60, "watch": [60] * 40}
    many = write_window_store(str(tmp_path), cohorts, chunk_windows=4, windows_per_subject=12, spec=SPEC)
    options = ("plan", "show", "--windows", many.url, "--global-batch", "48")
    read: list[str] = []
    read_columns = parquet.read_columns
    monkeypatch.setattr(
        parquet, "read_columns", lambda url, *args, **named: read.append(url) or read_columns(url, *args, **named)
    )
    sampled = asked(capsys, *options)["shuffle"]
    assert len(read) == 32, "parts are read for the sample"
    whole = asked(capsys, *options, "--quality", "all")["shuffle"]
    assert len(read) == 32 + 100
    assert whole["known_share"] == pytest.approx(1) and sampled["known_share"] == pytest.approx(0.32)
    for name in ("subjects", "perfect_subjects"):
        assert sampled[name] == pytest.approx(whole[name], rel=0.1)
    assert main([*options]) == 0
    assert "estimated from 32.0% of the windows" in " ".join(capsys.readouterr().out.split())


def test_audit_of_a_run_lists_every_step_that_saw_a_subject(
    store: WindowStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = {"seed": 2, "global_batch": 16, "steps": 70, "read_windows": 16, "block_steps": 8}
    mixture = {"weights": {}, "repeats": {}, "temperature": 1.0, "epoch_windows": None}
    run = {"store": store.url, "config": {"train": train, "mixture": mixture}}
    uri.write_bytes(uri.join(str(tmp_path), "run.json"), json.dumps(run).encode())
    subject = "patch-p000000-0002"
    audited = asked(capsys, "audit", "--subject", subject, "--run", str(tmp_path))
    meta = store.meta("train", ["subject_id", "window_id"]).to_pandas()
    own = meta.window_id[meta.subject_id == subject].to_numpy()
    plan = plan_for(store, OrderConfig(seed=2, global_batch=16, read_windows=16, block_steps=8))
    expected = [
        {"step": step, "ids": ids[np.isin(ids, own)].tolist()}
        for step in range(70)
        for ids in [plan.ids(step)]
        if np.isin(ids, own).any()
    ]
    assert audited["steps"] == expected and audited["windows"] == 30
    assert audited["checkpoints"] == []
    first = expected[0]["step"]
    for step in (first, first + 1, 70):  # one of `first` steps saw those before
        checkpoint.commit(checkpoint.step_url(str(tmp_path), step), [], {})
    uri.write_bytes(uri.join(checkpoint.step_url(str(tmp_path), first + 2), "manifest.json"), b"not complete")
    audited = asked(capsys, "audit", "--subject", subject, "--run", str(tmp_path))
    assert [one["step"] for one in audited["checkpoints"]] == [first + 1, 70]  # type: ignore[attr-defined,index]
    assert main(["audit", "--subject", subject, "--run", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert f"at {len(expected)} of 70 steps" in said and f"checkpoints that saw them: {first + 1} 70" in said


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["audit", "--subject", "nobody", "--windows", "STORE"], "nobody"),
        (["plan", "show", "--windows", "STORE", "--world", "2", "--rank", "2"], "rank"),
        (["plan", "show", "--windows", "STORE/nowhere"], "nowhere"),
        (["plan", "show"], "--run"),
        (["plan", "show", "--run", "STORE"], "run.json"),
    ],
)
def test_what_cannot_be_shown_is_one_line_and_status_2(
    store: WindowStore, argv: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([word.replace("STORE", store.url) for word in argv]) == 2
    message = capsys.readouterr().err.strip()
    assert named in message and "\n" not in message
