"""The command on a real store through real Ray: once, again, killed in the middle, and with wrong input."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.data.corpora import corpus_of
from xmae_dist.cli.main import main
from xmae_dist.core.errors import IntegrityError
from xmae_dist.data.store.kept import KeptGroup
from xmae_dist.data.store.materialise import StoreConfig, materialise
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.data.windows.split import SplitConfig
from xmae_dist.evaluate.results import Result, ResultTable, predictions_digest
from xmae_dist.model import bundle, kinds, presets
from xmae_dist.train.checkpoints.retention import RetentionConfig
from xmae_dist.train.checkpoints.upload import Saver
from xmae_dist.train.engines.optimizer import OptimizerConfig
from xmae_dist.train.engines.torch import TorchEngine
from xmae_dist.train.step.collective import Ranks

SUITE = """
name = "bench"
title = "Bench people"
[[task]]
name = "rate"
title = "Heart rate"
label = "heart_rate_bpm"
kind = "regression"
[[task]]
name = "sex"
title = "Sex"
label = "sex"
kind = "binary"
classes = ["m", "f"]
unit = "recording"
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> Path:
    """A corpus of 12 people, its window store, and a bundle."""
    folder = tmp_path_factory.mktemp("evaluate")
    corpus_of(f"file://{folder}/corpus", subjects=12, recordings=1)
    materialise(f"file://{folder}/corpus", f"file://{folder}/windows")
    known = {"split": dataclasses.asdict(SplitConfig()), "cohorts": ["bench"]}
    spec = WindowSpec().to_dict()
    bundle.save(f"file://{folder}/bundle", presets.build("tiny"), window_spec=spec, lineage={}, pretrained_on=known)
    (folder / "suite.toml").write_text(SUITE)
    return folder


def command(place: Path, out: str, *more: str) -> list[str]:
    options = {"--windows": "windows", "--bundle": "bundle", "--out": out, "--suite": "suite.toml"}
    paths = [word for name, file in options.items() for word in (name, f"file://{place}/{file}")]
    return ["evaluate", *paths, "--replicates", "100", *more]


def numbers(place: Path, out: str) -> dict[str, tuple[float, float, float, str]]:
    rows = ResultTable(f"file://{place}/{out}").read()
    return {
        r.request: (r.headline.value, r.headline.low, r.headline.high, predictions_digest(r.scored.predictions))
        for r in rows
    }


@pytest.fixture(scope="module")
def document(place: Path) -> dict[str, Any]:
    """The whole suite evaluated once, under `out`; what the report says of it."""
    assert main(command(place, "out")) == 0
    return dict(json.loads((place / "out" / "report" / "report.json").read_text()))


def test_once_again_and_the_report_from_results(place: Path, document: dict[str, Any]) -> None:
    assert len(document["results"]) == 6 and document["tallies"]
    by_name = {(r["task"], r["encoder"]): r for r in document["results"]}
    features = by_name["rate", "rate + morphology"]
    assert features["value"] < 3.0, "pulse features read the rate of a clean pulse wave"
    assert {e for _, e in by_name} == {"xmae", "random init", "rate + morphology"}

    first, versions = numbers(place, "out"), ResultTable(f"file://{place}/out")._table.version()
    assert main(command(place, "out")) == 0
    assert numbers(place, "out") == first
    assert ResultTable(f"file://{place}/out")._table.version() == versions, "nothing is committed twice"

    (place / "run" / "figures").mkdir(parents=True, exist_ok=True)
    (place / "run" / "figures" / "reconstruction.png").write_bytes(b"\x89PNG fake")
    assert main(["report", f"file://{place}/out", "--run", f"file://{place}/run", "--out", str(place / "copy")]) == 0
    page = (place / "copy" / "report.html").read_text()
    assert page.count('src="data:image/png;base64,') >= 5 and "ECG reconstructed from PPG" in page
    assert "http://" not in page and "https://" not in page, "nothing is loaded from elsewhere"
    again = json.loads((place / "copy" / "report.json").read_text())
    assert again["differences"] == document["differences"]


def test_of_many_predictions_a_share_takes_part_and_is_reported(
    place: Path, document: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(place, "limited", "--tasks", "rate", "--max-units", "30")) == 0
    said = capsys.readouterr().out
    assert "left out: rate: " in said and "drawn by a hash (--max-units)" in said
    limited = ResultTable(f"file://{place}/limited").read()
    assert len(limited) == 3 and numbers(place, "limited").keys().isdisjoint(numbers(place, "out"))
    people, each = np.unique(limited[0].scored.predictions.subject_N, return_counts=True)
    assert len(people) == 12 and set(each.tolist()) == {2}, "everybody gives two of at most 30 / 12"
    assert "predictions, drawn by a hash" in (place / "limited" / "report" / "report.html").read_text()


def test_people_whom_pretraining_saw_are_counted_on_the_terminal_in_json_and_in_the_report(
    place: Path, document: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    people = [f"bench-s{number:02d}" for number in range(12)]
    seen = sum(SplitConfig().of(name) == "train" for name in people)
    assert seen > 0
    told = {r["encoder"]: r["pretrained_subjects"] for r in document["results"] if r["task"] == "sex"}
    assert told == {"xmae": seen, "random init": 0, "rate + morphology": 0}
    assert main(command(place, "out", "--tasks", "sex")) == 0
    said = capsys.readouterr().out
    assert said.count(f"12 subjects ({seen} in pretraining's train split)") == 1, said
    assert main([*command(place, "out", "--tasks", "sex"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)["results"]
    assert {r["encoder"]: r["pretrained_subjects"] for r in printed} == told
    page = (place / "out" / "report" / "report.html").read_text()
    assert f'<td class="n">12</td><td class="n">{seen}</td>' in page and "pretrained on bench" in page


def test_the_report_tells_how_much_was_kept_by_rhythm(place: Path, document: dict[str, Any]) -> None:
    known = place / "out" / "kept.json"
    store = document["results"][0]["store"]
    assert json.loads(known.read_text()) == {store: []}, "these recordings name no rhythm"
    group = KeptGroup(label="rhythm", group="fibrillation", recordings=3, subjects=2, kept=10, low_quality=29, other=1)
    known.write_text(json.dumps({store: [dataclasses.asdict(group)]}))
    assert main(["report", f"file://{place}/out", "--out", f"{place}/kept-report"]) == 0
    page = (place / "kept-report" / "report.html").read_text()
    assert "Windows kept" in page and '<td class="n">25.0 %</td><td class="n">72.5 %</td>' in page
    (told,) = json.loads((place / "kept-report" / "report.json").read_text())["kept_by_label"]
    assert (told["group"], told["kept_share"], told["store"]) == ("fibrillation", 0.25, store)


def test_held_out_splits_need_a_bundle_of_that_split(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle.save(f"file://{place}/silent", presets.build("tiny"), window_spec=WindowSpec().to_dict(), lineage={})
    silent = [word.replace("/bundle", "/silent") for word in command(place, "held", "--splits", "test")]
    assert main(silent) == 2
    assert "does not say how" in capsys.readouterr().err
    split = SplitConfig(seed=5, fractions=(0.1, 0.1, 0.8))
    store = materialise(f"file://{place}/corpus", f"file://{place}/elsewhere", StoreConfig(split=split))
    words = command(place, "held", "--splits", "test", "--tasks", "rate")
    assert main([store.url if word.endswith("/windows") else word for word in words]) == 2
    assert "pretrained under another split" in capsys.readouterr().err
    assert not ResultTable(f"file://{place}/held").committed()


def test_protocols_add_to_the_same_results(place: Path, document: dict[str, Any]) -> None:
    before = numbers(place, "out")
    assert main(command(place, "out", "--protocols", "linear", "knn", "few", "finetune", "--tasks", "sex")) == 0
    after = ResultTable(f"file://{place}/out").read()
    assert before.items() <= numbers(place, "out").items()
    made = {(r.encoder, r.protocol, r.labelled_subjects) for r in after if r.request not in before}
    everyone = {"xmae", "random init", "rate + morphology"}
    assert {e for e, p, _ in made if p == "knn"} == everyone == {e for e, p, n in made if (p, n) == ("few", 5)}
    assert {e for e, p, _ in made if p == "finetune"} == {"xmae", "random init"}, "features have no weights to tune"
    assert all(r.headline.low <= r.headline.value <= r.headline.high for r in after)
    again = json.loads((place / "out" / "report" / "report.json").read_text())
    assert {r["protocol"] for r in again["results"]} == {"linear", "knn", "few", "finetune"}


def test_a_control_bundle_stands_beside(place: Path, document: dict[str, Any]) -> None:
    bundle.save(f"file://{place}/another", presets.build("tiny"), window_spec=WindowSpec().to_dict(), lineage={})
    out = command(place, "beside", "--control", f"other=file://{place}/another", "--tasks", "rate")
    assert main(out) == 0
    told = json.loads((place / "beside" / "report" / "report.json").read_text())
    assert {r["encoder"]: r["role"] for r in told["results"]}["other"] == "control"
    assert {(t["encoder"], t["against"]) for t in told["tallies"]} == {
        ("xmae", "other"), ("xmae", "random init"), ("xmae", "rate + morphology")
    }  # fmt: skip
    assert main(command(place, "beside", "--control", f"file://{place}/another")) == 2, "a control has a name"
    assert main(command(place, "beside", "--control", f"same=file://{place}/bundle")) == 2, "one encoder, two names"
    assert main(command(place, "beside", "--protocols", "linaer")) == 2
    assert main(command(place, "beside", "--cohorts", "elsewhere")) == 2


def saved_run(url: str, steps: int) -> None:
    """A run of the real engine with a checkpoint after each step."""
    model = presets.build("tiny")
    engine = TorchEngine(model, optimizer=OptimizerConfig(), accumulation=1, rank=0, world=1, saved=None)
    saver = Saver(url, Ranks(), RetentionConfig(keep_recent=9), lambda *_, **__: None, "attempt")
    signal_BL = torch.randn(4, 1000, generator=torch.Generator().manual_seed(0))
    for step in range(1, steps + 1):
        engine.forward_backward(signal_BL, signal_BL, torch.arange(100).expand(4, 100) % 2 == 0)
        engine.step(lr=0.01)
        about = {
            "state": {"step": step, "windows_seen": 4 * step, "optimizer_steps": step},
            "model": kinds.to_dict(model.config),
            "config": {"model": {"preset": "tiny"}},
            "identity": {},
            "spec": WindowSpec().to_dict(),
        }
        saver.start(engine, step, about)
        saver.finish()


def test_checkpoints_are_evaluated_as_they_appear(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = place / "followed"
    saved_run(f"file://{run}", 3)
    (run / "checkpoints" / "step-00000003" / "COMPLETE").unlink()
    shard = next((run / "checkpoints" / "step-00000001").glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-9] + b"#########")
    command = ["evaluate", "--follow", f"file://{run}", "--windows", f"file://{place}/windows", "--tasks", "rate"]
    command += ["--suite", f"file://{place}/suite.toml", "--out", f"file://{place}/beside-run", "--replicates", "50"]
    assert main([*command, "--poll-s", "0.1", "--patience-s", "0.3"]) == 0
    assert "step 1 passed over" in capsys.readouterr().err
    (result,) = ResultTable(f"file://{place}/beside-run").read()
    assert (result.encoder, result.role) == ("step 000002", "checkpoint"), "the third was never complete"
    saved_run(f"file://{run}", 4)
    assert main([*command, "--poll-s", "0.1", "--last-step", "4"]) == 0
    names = [r.encoder for r in ResultTable(f"file://{place}/beside-run").read()]
    assert names == [f"step {step:06d}" for step in (1, 2, 3, 4)], "the second was not evaluated again"


def test_a_changed_prediction_is_found_out(place: Path, document: dict[str, Any]) -> None:
    result = ResultTable(f"file://{place}/out").read()[0]
    row = result.to_row()
    assert Result.from_row(row).request == result.request
    row["pred_value"][3] += 1e-9
    with pytest.raises(IntegrityError, match="digest"):
        Result.from_row(row)


KILLER = """
import os, sys
from xmae_dist.cli.main import main
from xmae_dist.core.errors import IntegrityError
from xmae_dist.evaluate.results import ResultTable
commit, made = ResultTable.commit, []
def counted(self, result):
    made.append(commit(self, result))
    if len(made) == 2:
        os.kill(os.getpid(), 9)
    return made[-1]
ResultTable.commit = counted
sys.exit(main(sys.argv[1:]))
"""


def test_killed_and_restarted_gives_the_same_and_repeats_nothing(
    place: Path, document: dict[str, Any], join_ray_local: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILLER, *command(place, "killed")],
        env={**os.environ, **join_ray_local},
        capture_output=True,
        text=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    held = numbers(place, "killed")
    assert len(held) == 2

    computed: list[str] = []
    commit = ResultTable.commit
    monkeypatch.setattr(ResultTable, "commit", lambda self, r: computed.append(r.request) or commit(self, r))
    assert main(command(place, "killed")) == 0
    assert len(computed) == 4 and not set(computed) & set(held)
    after = numbers(place, "killed")
    assert len(after) == 6
    assert after.items() <= numbers(place, "out").items(), "other tests may have added protocols there"


def test_wrong_input_is_one_line_before_any_fit(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "bad.toml").write_text(SUITE.replace('"heart_rate_bpm"', '"heart_rate"'))
    bad = [w.replace("suite.toml", "bad.toml") for w in command(place, "bad")]
    assert main(bad) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "no 'heart_rate'" in said[0] and "heart_rate_bpm" in said[0]
    assert not ResultTable(f"file://{place}/bad").committed()
    assert main(command(place, "bad", "--tasks", "rat")) == 2
    assert main([*bad, "--skip-unusable"]) == 0
    assert "left out: rate" in capsys.readouterr().out
    bundle.save(
        f"file://{place}/other", presets.build("tiny"), lineage={},
        window_spec={**WindowSpec().to_dict(), "ppg_band_hz": [0.5, 12.0]},
    )  # fmt: skip
    other = [w.replace("/bundle", "/other") for w in command(place, "mixed")]
    assert main(other) == 2
    assert "ppg_band_hz" in capsys.readouterr().err


def test_an_encoder_of_a_signal_that_the_store_lacks_is_one_line(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = StoreConfig(spec=WindowSpec(require=("ppg",)))
    store = materialise(f"file://{place}/corpus", f"file://{place}/of-ppg", config)
    model = presets.build("ecg_mae_80", width=32, heads=2)
    bundle.save(f"file://{place}/of-ecg", model, window_spec=WindowSpec().to_dict(), lineage={})
    words = [
        w.replace(f"{place}/windows", store.url.removeprefix("file://"))
        for w in command(place, "lacking", "--tasks", "sex")
    ]
    assert main([w.replace("/bundle", "/of-ecg") for w in words]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert "encoder xmae: got reads ecg" in said[-1] and not any("Traceback" in line for line in said)


def test_features_are_finite_whatever_the_window() -> None:
    from xmae_dist.evaluate.encoders.features import pulse_features

    time_s = np.arange(1000) / 100
    windows = np.stack([np.zeros(1000), np.ones(1000), np.sin(2 * np.pi * 1.5 * time_s), np.r_[1.0, np.zeros(999)]])
    got = pulse_features(windows, 100.0)
    assert np.isfinite(got).all() and got.dtype == np.float32
    assert abs(got[2, 1] - 90) < 2, "a pulse at 1.5 Hz is 90 a minute"
