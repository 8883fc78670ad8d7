"""Validation beside training: each rank runs its share of the held-out windows in a thread, on a copy of the weights.

Training waits for the copy alone. That all ranks have done their share is learned, as with saves, from the loop's
all-reduce, so every rank knows a result after the same step. Under ZeRO-3 no rank has the whole model: there validation
is a collective pass that training waits for.

What follows from results is the same on every rank and after any resume: whether to stop is asked only at the steps at
which a validation is due, and then from all earlier ones, waited for if need be. A save waits for an earlier validation
too, so a checkpoint knows every result up to its step but that of its own step, which a resumed run finds again. Only
where a machine is about to be taken away nothing is waited for, and a validation under way is lost.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from xmae_dist.model import kinds
from xmae_dist.model.diagnose import window_errors
from xmae_dist.model.interface import PretrainModel
from xmae_dist.train.engines.protocol import Engine
from xmae_dist.train.step.collective import Ranks
from xmae_dist.train.validation.held_out import HeldOut, rebuilt_panel

SOURCES = ("own", "other", "none", "mean")


@dataclass(frozen=True, kw_only=True)
class Patience:
    """When a run has learned all it will."""

    validations: int = 0
    """Validations in a row that do not gain; 0: never stop early."""
    least_gain: float = 0.0
    """Share by which the error must fall below the best before to count as a gain."""

    def exhausted(self, history: Mapping[int, float], before_step: int) -> bool:
        """Whether the validations before a step end in so many without a gain."""
        best, since = float("inf"), 0
        for step in sorted(step for step in history if step < before_step):
            gained = history[step] < best * (1 - self.least_gain)
            best, since = (history[step], 0) if gained else (best, since + 1)
        return bool(self.validations) and since >= self.validations


class Validator:
    """One rank's side. `tell(step=…, **row)` hears results; `keep_panel(step, rebuilt)` gets what rank 0 rebuilt."""

    def __init__(
        self,
        share: HeldOut,
        ranks: Ranks,
        *,
        batch: int,
        patience: Patience,
        tell: Callable[..., None],
        keep_panel: Callable[[int, NDArray[np.float32]], None],
        history: Mapping[int, float],
    ) -> None:
        self._share, self._ranks, self._batch, self._patience = share, ranks, batch, patience
        self._tell, self._keep_panel = tell, keep_panel
        self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="validation")
        self._pending: tuple[int, Future[list[float]]] | None = None
        self._copy: PretrainModel | None = None
        self.history = dict(history)
        """Masked error with the own source by step: the same on all ranks."""

    @property
    def pending_step(self) -> int | None:
        """The step whose validation is under way; the same on all ranks."""
        return None if self._pending is None else self._pending[0]

    @property
    def busy(self) -> bool:
        """Whether this rank is still at it: what it tells the others each step."""
        return self._pending is not None and not self._pending[1].done()

    def exhausted(self, step: int) -> bool:
        """Whether the run should end at `step`, from what came before it."""
        return self._patience.exhausted(self.history, step)

    def kept_steps(self) -> set[int]:
        """Steps whose checkpoints are not to go: the best, and one that may turn out to be."""
        best = {min(self.history, key=lambda step: (self.history[step], step))} if self.history else set()
        return best | ({self.pending_step} if self.pending_step is not None else set())

    def start(self, engine: Engine, step: int) -> None:
        """Begins with the weights as they are now. All ranks call it at the same step, none while pending."""
        module = cast(PretrainModel, engine.module)
        if any(hasattr(p, "ds_id") for p in module.parameters()):
            done: Future[list[float]] = Future()
            with engine.autocast():
                done.set_result(self._work(module, step, engine.device))
            self._pending = step, done
            self.settle(busy=False)
            return
        if self._copy is None:
            self._copy = kinds.from_config(module.config).to(engine.device)
        with torch.no_grad():
            for own, trained in zip(self._copy.state_dict().values(), module.state_dict().values(), strict=True):
                own.copy_(trained)
        stream, ready = None, None
        if engine.device.type == "cuda":
            stream, ready = torch.cuda.Stream(engine.device), torch.cuda.Event()
            ready.record()
            stream.wait_event(ready)
        threads = torch.get_num_threads()
        self._pending = step, self._threads.submit(self._aside, self._copy, step, engine, stream, threads)

    def settle(self, *, busy: bool) -> None:
        """Ends the pending validation unless any rank is still `busy`; the argument is the same on all ranks."""
        if self._pending is None or busy:
            return
        (step, work), self._pending = self._pending, None
        sums = self._ranks.sum(torch.tensor(work.result(), dtype=torch.float64)).reshape(-1, 2)
        mean = (sums[:, 0] / sums[:, 1].clamp(min=1)).tolist()
        errors = dict(zip(SOURCES, mean, strict=False))
        self.history[step] = errors["own"]
        cohorts = {
            name: error
            for name, error, seen in zip(
                self._share.cohorts, mean[len(SOURCES) :], sums[len(SOURCES) :, 1], strict=True
            )
            if seen
        }
        self._tell(step=step, **errors, cohorts=cohorts)

    def finish(self) -> None:
        """Waits for all ranks' shares of the pending validation. Collective."""
        if self._pending is not None:
            self._pending[1].exception()  # waits
            self.settle(busy=False)

    def _aside(self, model: PretrainModel, step: int, engine: Engine, stream: Any, threads: int) -> list[float]:
        torch.set_num_threads(threads)  # is a setting of each thread, as are autocast and the stream
        with engine.autocast(), torch.cuda.stream(stream) if stream is not None else contextlib.nullcontext():
            return self._work(model, step, engine.device)

    def _work(self, model: PretrainModel, step: int, device: torch.device) -> list[float]:
        """(sum, number) of errors by source, then of own errors by cohort, flat; keeps the panel on rank 0."""
        share = self._share
        found = window_errors(model, share.ecg, share.ppg, share.subject, share.mask, self._batch)
        compared = ~np.isnan(found["mean"])  # not those that lack the target
        pairs = [(float(found[source][compared].sum()), int(compared.sum())) for source in SOURCES]
        for place in range(len(share.cohorts)):
            own = found["own"][compared & (share.cohort == place)]
            pairs.append((float(own.sum()), len(own)))
        rebuilt_BL = rebuilt_panel(model, share, device)
        if self._ranks.rank == 0:
            self._keep_panel(step, rebuilt_BL)
        return [number for pair in pairs for number in pair]
