"""What of a model is compiled, in place: names of parameters stay, and so do checkpoints and bundles.

``blocks`` compiles each transformer block by itself, as all blocks of a width share one compilation: seconds, whatever
the depth, and what lies between them stays as it is. ``graphs`` compiles the whole model and records it as CUDA graphs:
a step of a small model is then launched at once and not kernel by kernel.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from xmae_dist.model.blocks import Block
from xmae_dist.model.published import CrossBlock, DecoderBlock, EncoderBlock

Compile = Literal["no", "blocks", "graphs"]
_BLOCKS = (Block, EncoderBlock, DecoderBlock, CrossBlock)


def compile_in_place(module: nn.Module, how: Compile) -> None:
    """Marks `module` or its blocks to be compiled at their first call. Shapes are fixed: a micro-batch of another size
    is compiled anew. A graph that would break is an error."""
    if how == "blocks":
        for part in module.modules():
            if isinstance(part, _BLOCKS):
                part.compile(fullgraph=True, dynamic=False)
    elif how == "graphs":
        module.compile(fullgraph=True, dynamic=False, mode="reduce-overhead")


def begin_micro_batch(how: Compile) -> None:
    """To be called before each forward pass: what the graphs of the one before left in their memory may go."""
    if how == "graphs":
        torch.compiler.cudagraph_mark_step_begin()
