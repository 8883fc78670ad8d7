"""What the driver tells of a run: no time left before the speed is known, and whether the model uses its source."""

from __future__ import annotations

import pytest

from xmae_dist.cli.pretrain import changed
from xmae_dist.train.observe import display
from xmae_dist.train.observe.verdict import verdict


def _step(step: int, windows_per_s: float) -> dict[str, object]:
    return {
        "kind": "step", "step": step, "windows_seen": 32 * step, "loss": 0.1, "lr": 1e-3,
        "windows_per_s": windows_per_s, "data_stall": 0.0,
    }  # fmt: skip


def test_the_slow_first_step_says_nothing_of_the_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(display, "_LINE_EVERY_S", -1.0)
    shown = display.Display(101)
    shown.show({"kind": "start", "step": 0, "world": 2, "imports_s": 1.0})
    shown.show(_step(1, 0.5))  # as if all would take 6,400 s
    for step in range(2, 6):
        shown.show(_step(step, 32.0))
    shown.close()
    lines = [line for line in capsys.readouterr().err.splitlines() if " step " in line and "/101" in line]
    assert [" left" in line for line in lines] == [False, False, False, False, True]
    assert "1 min 36 s left" in lines[-1]


@pytest.mark.parametrize(
    ("own", "other", "none", "said"),
    [
        (0.0436, 0.0878, 0.0766, "uses the ppg"),
        (0.0764, 0.0790, 0.0766, "does not use the ppg yet"),
        (0.0641, 0.0652, 0.1302, "does not use the ppg yet"),  # no source is worse only because it was never seen
        (0.0229, 0.0229, 0.0229, "reads one signal"),
    ],
)
def test_the_verdict(own: float, other: float, none: float, said: str) -> None:
    sentence = verdict({"own": own, "other": other, "none": none}, "ppg")
    assert said in sentence
    assert f"own {own:.4f}" in sentence and f"none {none:.4f}" in sentence


def test_only_options_that_differ_from_the_recipe_are_told() -> None:
    usual = {"train": {"steps": 1000, "global_batch": 32}, "corpus": None}
    chosen = {"train": {"steps": 300, "global_batch": 32}, "corpus": "s3://b/c"}
    assert changed(chosen, usual) == ["  --train.steps 300", "  --corpus s3://b/c"]
