"""The table of docs/gpu-memory.md is what `train.sizing.memory` computes."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from xmae_dist.model import presets
from xmae_dist.train.config import EngineConfig
from xmae_dist.train.sizing.memory import Counted, count, state_need

TEXT = (Path(__file__).resolve().parents[3] / "docs/gpu-memory.md").read_text()
ROWS = re.findall(r"^\| `(\w+)` \| (\d+) \| (\d) \| (.+) \|$", TEXT, flags=re.MULTILINE)


@cache
def counted(preset: str) -> Counted:
    return count(presets.config(preset), fused=True)


def test_the_sizes_are_there() -> None:
    assert {preset for preset, *_ in ROWS} == {"paper", "base", "large", "huge"}


@pytest.mark.parametrize(("preset", "gpus", "stage", "figures"), ROWS)
def test_a_row_is_computed(preset: str, gpus: str, stage: str, figures: str) -> None:
    found = counted(preset)
    engine = EngineConfig(kind="deepspeed", zero_stage=int(stage))  # type: ignore[arg-type]
    copies = (2 if stage == "3" else 6) * found.parameters
    state = state_need(found.parameters, engine, int(gpus)).state + copies
    head = re.search(r"^\| preset \| GPUs \| ZeRO stage \| (.+) \|$", TEXT, flags=re.MULTILINE)
    assert head is not None
    sizes = [state + found.bf16_activation_bytes * int(windows) for windows in head[1].split(" | ")]
    assert figures == " | ".join(f"{size / 2**30:.1f}" for size in sizes)


@pytest.mark.parametrize("preset", ["paper", "base", "large", "huge"])
def test_the_activations_are_those_counted(preset: str) -> None:
    megabytes = counted(preset).bf16_activation_bytes / 1e6
    said = re.search(rf"([\d.]+) MB(?: per window)? for\s+`{preset}`", TEXT)
    assert said is not None and float(said[1]) == round(megabytes, 1 if megabytes < 10 else None)
