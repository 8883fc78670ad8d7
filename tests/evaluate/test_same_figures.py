"""Figures of a small evaluation as commit 1f7bf64 made them, which held every window and every embedding in memory.

`frozen/figures.json` is what `figures` below gave when that commit ran it, in 7 digits.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.data.corpora import corpus_of
from xmae_dist.cli.main import main
from xmae_dist.core.fingerprint import sha256_hex
from xmae_dist.data.store.materialise import materialise
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.evaluate.results import Result, ResultTable
from xmae_dist.evaluate.transfer.requests import CellTable
from xmae_dist.model import bundle, presets

FROZEN = Path(__file__).parent / "frozen" / "figures.json"
TASK = '[[task]]\nname = "{0}"\ntitle = "{0}"\nlabel = "{1}"\nkind = "{2}"\nunit = "{3}"\n{4}\n'
SUITE = 'name = "s"\n' + "".join(
    TASK.format(*fields)
    for fields in [
        ("rate", "heart_rate_bpm", "regression", "window", ""),
        ("rate_within", "heart_rate_bpm", "regression", "window", "centred = true\nmin_quality = 0.7"),
        ("fast", "heart_rate_bpm", "binary", "recording", "threshold = 75.0"),
        ("sex", "sex", "binary", "subject", 'classes = ["m", "f"]'),
        ("age", "age", "regression", "subject", 'cohorts = ["patch"]'),
    ]
)


def figures(place: Path) -> dict[str, Any]:
    """Every number of an evaluation with capped windows, three protocols and a matrix over two cohorts."""
    for cohort in ("patch", "ring"):
        corpus_of(f"file://{place}/corpus", subjects=9, recordings=2, duration_s=95.0, cohort=cohort)
    materialise(f"file://{place}/corpus", f"file://{place}/windows")
    torch.manual_seed(3)
    spec = WindowSpec().to_dict()
    bundle.save(f"file://{place}/bundle", presets.build("tiny"), window_spec=spec, lineage={})
    (place / "suite.toml").write_text(SUITE)
    urls = [f"--{name}=file://{place}/{file}" for name, file in
            {"windows": "windows", "bundle": "bundle", "out": "out", "suite": "suite.toml"}.items()]  # fmt: skip
    options = ["--replicates=100", "--max-windows-per-subject=7", "--max-windows-per-recording=8"]
    more = ["--protocols", "linear", "knn", "few", "--transfer-by", "cohort", "--degrade", "noise=0"]
    assert main(["evaluate", *urls, *options, *more]) == 0
    results = {f"{r.task.name}/{r.encoder}/{r.protocol}/{r.labelled_subjects}": r
               for r in ResultTable(f"file://{place}/out").read()}  # fmt: skip
    cells = {f"{c.result.task.name}/{c.result.encoder}/{c.axis}/{c.trained}/{c.tested}": c.result
             for c in CellTable(f"file://{place}/out").read()}  # fmt: skip
    return {name: numbers(result) for name, result in (results | cells).items()}


def numbers(result: Result) -> dict[str, Any]:
    p = result.scored.predictions
    whose = [list(result.unit_names), p.subject_N.tolist(), p.fold_N.tolist()]
    return {
        "scores": [number for _, one in sorted(result.scores.items()) for number in (one.value, one.low, one.high)],
        "windows": result.n_windows,
        "fits": result.n_fits,
        "penalties": [penalty for _, penalty in sorted(result.penalties.items())],
        "whose": sha256_hex(json.dumps(whose).encode()),
        "truths": p.y_N.tolist(),
        "predictions": p.pred_NC.ravel().tolist(),
    }


@pytest.mark.slow
def test_every_number_is_as_it_was(tmp_path: Path, ray_local: None) -> None:
    """Predictions to 4 digits, scores to a swap of two ranks among 18 people: the rounding of another machine goes so
    far, at the commit of the frozen figures, too. Fits by five people are compared in what they are fits of alone,
    since rounding changes the penalty that they choose. On one machine all were the same bits.
    """
    frozen, found = json.loads(FROZEN.read_text()), figures(tmp_path)
    assert set(found) == set(frozen) and len(found) == 111
    for name, was in frozen.items():
        now = found[name]
        for exact in ("windows", "fits", "whose"):
            assert now[exact] == was[exact], f"{name}: {exact}"
        assert now["truths"] == pytest.approx(was["truths"]), f"{name}: truths"
        if "/few/" not in name:
            assert now["penalties"] == was["penalties"], f"{name}: penalties"
            assert now["predictions"] == pytest.approx(was["predictions"], rel=1e-4, abs=1e-3), f"{name}: predictions"
            assert now["scores"] == pytest.approx(was["scores"], rel=1e-3, abs=5e-3, nan_ok=True), f"{name}: scores"
