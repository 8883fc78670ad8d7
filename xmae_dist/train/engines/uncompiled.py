"""Keeps torch's compiler from being set up where nothing is compiled: 4 s of CPU time a worker at every start.

DeepSpeed decorates its Muon kernels with `torch.compile`, and both DeepSpeed and `torch.optim` wrap functions so that
the compiler, if there is one, leaves them alone; the first call of any of these imports compiler and inductor.
Used on CPUs alone, where two cores start everything and nothing is compiled.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


class AdamW(torch.optim.AdamW):
    """torch's AdamW, bit for bit, with the step that lies under the compiler's wrapping."""

    _step_as_written = inspect.unwrap(torch.optim.AdamW.step)

    def __init__(self, *args: Any, **options: Any) -> None:
        _prepare_optimizers()
        super().__init__(*args, **options)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        return self._step_as_written(closure)


def _prepare_optimizers() -> None:
    """Tells `torch.optim` beforehand how its other methods are called uncompiled: as they are."""
    for method in vars(torch.optim.Optimizer).values():
        wrapped = getattr(method, "__wrapped__", None)
        if wrapped is not None and not isinstance(method, staticmethod):
            wrapped.__dict__.setdefault("__dynamo_disable", wrapped)


def import_deepspeed(*, uncompiled: bool) -> Any:
    """DeepSpeed; with `uncompiled`, its decorators for the compiler do nothing."""
    if not uncompiled:
        return importlib.import_module("deepspeed")
    with _decorators_that_do_nothing():
        deepspeed = importlib.import_module("deepspeed")
        importlib.import_module("deepspeed.runtime.zero.muon.original_muon")
    return deepspeed


@contextmanager
def _decorators_that_do_nothing() -> Iterator[None]:
    compile_, disable = torch.compile, torch._disable_dynamo
    torch.compile = torch._disable_dynamo = _unchanged  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compile, torch._disable_dynamo = compile_, disable  # type: ignore[assignment]


def _unchanged(function: Callable[..., Any] | None = None, *_: Any, **__: Any) -> Any:
    """`@compile` and `@compile(...)` alike."""
    return function if function is not None else _unchanged
