"""What is kept of the presets is what counting them gives, and a start that knows them does not count."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest

from xmae_dist.model import presets
from xmae_dist.train.sizing import flops, known, memory, recount

STARTED = """
import sys
from xmae_dist.recipes import recipe
from xmae_dist.train.config import model_config
from xmae_dist.train.sizing import flops, memory
config = recipe(sys.argv[1])
flops.flops_per_window(model_config(config))
held = {"CPU": 64.0, "GPU": 8.0, "accelerator_type:H100": 1.0}
memory.check_fits(config, [{"Alive": True, "Resources": held}])
assert "torch._dynamo" not in sys.modules and "sympy" not in sys.modules
"""


@pytest.mark.slow
def test_every_preset_is_kept_as_it_is_counted() -> None:
    kept = json.loads(known.FILE.read_text())
    assert recount.count_presets() == kept, "python -m xmae_dist.train.sizing.recount"


def test_small_presets_are_kept_as_they_are_counted() -> None:
    kept = json.loads(known.FILE.read_text())
    counted = recount.count_presets(("paper", "tiny", "clip"))
    assert len(counted) == 3 and counted.items() <= kept.items(), "python -m xmae_dist.train.sizing.recount"
    assert all(known.sizes_of(config) for config in presets.PRESETS.values()), (
        "python -m xmae_dist.train.sizing.recount"
    )


@pytest.mark.parametrize("name", ["debug_cpu2", "paper_h100x1"])
def test_a_run_of_a_preset_starts_without_the_compiler(name: str) -> None:
    done = subprocess.run([sys.executable, "-c", STARTED, name], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_another_model_is_counted() -> None:
    other = dataclasses.replace(presets.TINY, width=96)
    assert known.sizes_of(presets.TINY) is not None and known.sizes_of(other) is None
    assert flops.flops_per_window(other) > flops.flops_per_window(presets.TINY)
    assert memory.count(other, fused=False).parameters > 0
