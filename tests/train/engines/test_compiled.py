"""What a GPU would compile or run deterministically, seen on a CPU: whole graphs, and no operation that refuses."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from xmae_dist.core.errors import ConfigError
from xmae_dist.model import presets
from xmae_dist.model.blocks import Block, rotation_table
from xmae_dist.model.interface import PretrainModel
from xmae_dist.model.mask import masks
from xmae_dist.model.patch import visible_indices
from xmae_dist.testing.ranks import run_ranks
from xmae_dist.train.config import EngineConfig, ModelConfig, PretrainConfig, ResourceConfig, check
from xmae_dist.train.engines.compiled import compile_in_place
from xmae_dist.train.engines.deepspeed import DeepSpeedEngine, ZeroConfig
from xmae_dist.train.engines.optimizer import OptimizerConfig
from xmae_dist.train.engines.torch import TorchEngine

# By PyTorch's own list (`torch.use_deterministic_algorithms`), as far as a model of ours could come to use them.
UNDETERMINED = {
    "aten::upsample_linear1d_backward",
    "aten::nll_loss_forward",
    "aten::reflection_pad1d_backward",
    "aten::cumsum",
    "aten::histc",
    "aten::put_",
    "aten::median",
    "aten::grid_sampler_2d_backward",
}


def small(name: str) -> PretrainModel:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"width": 16, "heads": 2}
    return presets.build(name, **sizes) if name == "published" else presets.build(name, length=200, **sizes)


def inputs(model: PretrainModel, *, visible: bool = True) -> tuple[torch.Tensor | None, ...]:
    config = model.config
    ppg_BL, ecg_BL = torch.randn(2, 2, config.length, generator=torch.Generator().manual_seed(1))
    drawn = masks(0, 0, np.arange(2), config.n_patches, config.mask_ratio, config.mask_mode)
    mask_BN = torch.from_numpy(drawn)
    over_S = model.counts(ppg_BL, ecg_BL, mask_BN).float()
    return ppg_BL, ecg_BL, mask_BN, visible_indices(mask_BN) if visible else None, over_S


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "joint", "symmetric", "ppg_mae_50", "published"])
def test_a_model_is_one_graph_where_it_is_told_what_is_visible(name: str) -> None:
    model = small(name)
    torch._dynamo.reset()
    assert torch._dynamo.explain(model)(*inputs(model)).graph_break_count == 0
    torch._dynamo.reset()
    broken = torch._dynamo.explain(model)(*inputs(model, visible=False))
    assert broken.graph_break_count > 0, "reading the number of visible patches off the mask breaks the graph"


def test_a_block_is_one_graph() -> None:
    torch._dynamo.reset()
    block = Block(16, 2, expansion=2)
    rotation = rotation_table(torch.arange(20), 8)
    assert torch._dynamo.explain(block)(torch.randn(2, 20, 16), rotation).graph_break_count == 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_compiled_blocks_train_as_eager_ones_do() -> None:
    """By inductor on the CPU, in place: the same names, the same numbers to rounding."""
    torch.set_num_threads(1)
    losses, names = {}, {}
    for how in ("no", "blocks"):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        engine = TorchEngine(small("tiny"), optimizer=OptimizerConfig(), accumulation=1, compile=how)
        losses[how] = []
        for _ in range(4):
            losses[how].append(float(engine.forward_backward(*inputs(engine.module))))
            engine.step(1e-3)
        names[how] = list(engine.shapes())
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        assert (graphs > 0) is (how == "blocks"), "it is the engine that compiles"
    assert names["no"] == names["blocks"]
    assert losses["blocks"] == pytest.approx(losses["no"], rel=1e-5) and losses["no"][-1] < losses["no"][0]


def _marked(_rank: int, _world: int) -> dict[str, list[str]]:
    """The parts of a model that an engine marks to be compiled."""
    marked: dict[str, list[str]] = {"torch": [], "deepspeed": []}
    common: dict[str, Any] = {"optimizer": OptimizerConfig(), "accumulation": 1, "compile": "blocks"}
    with pytest.MonkeyPatch.context() as patch:
        for kind, found in marked.items():
            patch.setattr(torch.nn.Module, "compile", lambda self, found=found, **_: found.append(type(self).__name__))
            if kind == "torch":
                TorchEngine(small("tiny"), **common)
            else:
                DeepSpeedEngine(small("tiny"), zero=ZeroConfig(stage=1), micro_batch=2, **common)
    return marked


def test_both_engines_compile_the_blocks_of_their_model(tmp_path: Path) -> None:
    (marked,) = run_ranks(1, _marked, tmp_path)
    assert marked == {"torch": ["Block"] * 4, "deepspeed": ["Block"] * 4}


def test_what_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, **options: compiled.append((type(self).__name__, options))
    )
    for how in ("no", "blocks", "graphs"):
        compile_in_place(small("tiny"), how)
    assert [name for name, _ in compiled] == ["Block"] * 4 + ["XMAE"]
    assert all(options["fullgraph"] for _, options in compiled)
    assert compiled[-1][1]["mode"] == "reduce-overhead"


class Called(TorchDispatchMode):
    """The operations that were called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func._schema.name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", [name for name in presets.NAMES if name not in ("base", "large", "huge")])
def test_no_preset_but_those_that_are_refused_calls_what_cannot_be_deterministic(name: str) -> None:
    model = small(name)
    with Called() as called:
        model(*inputs(model)).backward()
    refused = bool(called.names & UNDETERMINED)
    wanted = PretrainConfig(
        corpus="/corpus",
        run="/run",
        model=ModelConfig(preset=name),
        engine=EngineConfig(deterministic=True),
        resources=ResourceConfig(gpus=True),
    )
    if refused:
        with pytest.raises(ConfigError, match=r"--engine\.deterministic: got with preset"):
            check(wanted)
    else:
        check(wanted)
    assert refused is (name in ("published", "clip", "clip_beats"))


@pytest.mark.parametrize(
    ("engine", "gpus", "expected"),
    [
        (EngineConfig(compile="blocks"), False, "blocks on CPUs"),
        (EngineConfig(compile="graphs", zero_stage=3), True, "with ZeRO stage 3"),
    ],
)
def test_compiling_where_it_cannot_help_is_refused(engine: EngineConfig, gpus: bool, expected: str) -> None:
    wanted = PretrainConfig(corpus="/corpus", run="/run", engine=engine, resources=ResourceConfig(gpus=gpus))
    with pytest.raises(ConfigError, match=expected):
        check(wanted)
    check(dataclasses.replace(wanted, engine=EngineConfig(compile="no")))
