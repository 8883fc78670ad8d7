"""The training loop: knows an engine, a stream of batches and a saver; knows nothing of Ray or DeepSpeed.

One step: take this rank's share, mask it, run it through the engine in micro-batches, let the engine apply or
skip the step on all ranks alike, and make one small all-reduce that carries the loss, a wish to stop, and how
uploads stand. Whatever ranks must agree on rides on that, so every rank runs the same number of steps, always.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch

from xmae_dist.core.errors import RunError
from xmae_dist.data.stream.collate import TensorBatch
from xmae_dist.model.interface import PretrainModel
from xmae_dist.storage import uri
from xmae_dist.train.checkpoints.state import TrainState
from xmae_dist.train.checkpoints.upload import Saver
from xmae_dist.train.engines.protocol import Engine, StepOutcome
from xmae_dist.train.observe.measure import Measures
from xmae_dist.train.step.batch import Masking, micro_batches, seed_dropout
from xmae_dist.train.step.collective import Ranks
from xmae_dist.train.step.schedule import ScheduleConfig, learning_rate, mask_ratio
from xmae_dist.train.validation.validator import Validator


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """The numbers the loop needs; `train.worker` takes them from the run's configuration."""

    steps: int
    global_batch: int
    accumulation: int
    """Micro-batches of each rank in a step."""
    seed: int
    model_mask_ratio: float
    schedule: ScheduleConfig
    checkpoint_every: int
    validate_every: int
    max_bad_steps: int = 20


class Stop(enum.Enum):
    """Why a run ends before its last step."""

    ASKED = "asked"
    """Somebody wants it to stop (SIGTERM, `ray job stop`)."""
    PREEMPTED = "preempted"
    """A node is about to be taken away; the run goes on elsewhere."""
    RESIZED = "resized"
    """The cluster has changed; the run goes on with another number of workers."""
    CONVERGED = "converged"
    """Validations have not gained for long enough."""


class Callbacks(Protocol):
    """What the loop tells and asks: this rank's own affair."""

    def on_step(self, row: dict[str, Any]) -> None: ...
    def on_event(self, kind: str, **fields: Any) -> None: ...
    def wants_stop(self) -> Stop | None:
        """Whether this rank has been asked to stop, and by whom."""
        ...


@dataclass
class Loop:
    """A run on one rank. `about(state)` is what a checkpoint's manifest says beside its files."""

    config: LoopConfig
    engine: Engine
    masking: Masking
    ranks: Ranks
    saver: Saver
    callbacks: Callbacks
    about: Callable[[TrainState], dict[str, Any]]
    measures: Measures
    validator: Validator | None = None
    _bad_steps: int = 0
    _saved_step: int = -1

    def run(self, batches: Iterable[TensorBatch], state: TrainState) -> tuple[TrainState, Stop | None]:
        """Trains from `state` to the last step, or until any rank wants to stop; saves before it returns.

        Raises RunError after `max_bad_steps` consecutive steps with non-finite gradients, where batches end early, and
        where the store refuses the last checkpoint for as long as its patience allows. A group that only makes room
        for the next returns all the same: that goes on from what is stored.
        """
        stopping: Stop | None = None
        self._saved_step = state.step
        if self._resumed_validation(state):
            return state, Stop.CONVERGED
        for batch in batches:
            self.measures.clock.mark("data")
            state, stopping, row = self._step(batch, state)
            self.measures.clock.mark("other")
            stopping = self._validate(state, stopping)
            self.measures.clock.mark("validation")
            self._save(state, stopping)
            self.measures.clock.mark("checkpoint")
            self.callbacks.on_step(self.measures.finish(row, self.config.global_batch))
            if stopping:
                break
        why = self.saver.finish(uri.patience_s())
        if not stopping and not self._is_last(state):
            raise RunError(
                "batches", value=f"none after step {state.step}", expected=f"batches up to step {self.config.steps}"
            )
        if why and stopping not in (Stop.PREEMPTED, Stop.RESIZED):
            raise self.saver.lost(state.step, self.config.steps, why)
        return state, stopping

    def _step(self, batch: TensorBatch, state: TrainState) -> tuple[TrainState, Stop | None, dict[str, Any]]:
        config = self.config
        seen = state.windows_seen + config.global_batch
        ratio = mask_ratio(config.schedule, config.model_mask_ratio, seen, config.steps * config.global_batch)
        lr = learning_rate(config.schedule, seen, config.steps * config.global_batch)
        loss_sum = self._forward_backward(batch, ratio)
        outcome = self.engine.step(lr)
        self.measures.clock.mark("optimizer")
        agreed, stopping = self._agree(loss_sum)
        state = TrainState(step=state.step + 1, windows_seen=seen, optimizer_steps=self.engine.optimizer_steps)
        self._note_bad(outcome, state.step)
        row = {
            "step": state.step,
            "windows_seen": state.windows_seen,
            **agreed,
            "lr": lr,
            "mask_ratio": ratio,
            "grad_norm": outcome.grad_norm,
            "applied": outcome.applied,
        }
        return state, stopping, row

    def _forward_backward(self, batch: TensorBatch, ratio: float) -> torch.Tensor:
        """The sum of the losses of this rank's windows, 0-dim."""
        seed_dropout(self.config.seed, batch.step, self.ranks.rank)
        mask_BN = self.masking.draw(batch, ratio)
        cohort_B = self.measures.cohorts.of_windows(batch.ids_B)
        model = cast(PretrainModel, self.engine.module)
        count, losses, start = self.config.accumulation, [], 0
        even = self.config.global_batch / (self.ranks.world * count)
        self.measures.clock.mark("other")
        for ppg, ecg, mask in micro_batches(batch, mask_BN, count, self.engine.device):
            # A world size that does not divide the batch gives shares that differ by a window; every window
            # still counts 1/G in the gradient.
            loss = self.engine.forward_backward(ppg, ecg, mask, weight=len(mask) / even)
            losses.append(loss * len(mask))
            self.measures.losses.add(model.errors, cohort_B[start : start + len(mask)])
            start += len(mask)
        return torch.stack(losses).sum()

    def _agree(self, loss_sum: torch.Tensor) -> tuple[dict[str, Any], Stop | None]:
        """(what all ranks tell of this step, why any rank wants to stop); settles a save whose uploads have ended."""
        busy, failed = self.saver.status
        wish = self.callbacks.wants_stop()
        validating = self.validator is not None and self.validator.busy
        mine = [float(loss_sum), busy, failed, validating, *(wish is why for why in Stop)]  # waits for the device
        vector = torch.tensor([*mine, *self.measures.take()], dtype=torch.float64)
        loss, busy, failed, validating, *rest = self.ranks.sum(vector).tolist()
        self.saver.settle(busy=bool(busy), failed=bool(failed))
        if self.validator is not None:
            self.validator.settle(busy=bool(validating))
        wishes, rest = rest[: len(Stop)], rest[len(Stop) :]
        stopping = next((why for why, votes in zip(Stop, wishes, strict=True) if votes), None)
        return {"loss": loss / self.config.global_batch, **self.measures.read(rest)}, stopping

    def _note_bad(self, outcome: StepOutcome, step: int) -> None:
        if outcome.applied:
            self._bad_steps = 0
            return
        self._bad_steps += 1
        self.callbacks.on_event("step_skipped", step=step, grad_norm=str(outcome.grad_norm))
        if self._bad_steps >= self.config.max_bad_steps:
            raise RunError(
                "gradients",
                value=f"not finite for {self._bad_steps} steps up to step {step}",
                expected="finite gradients",
                fix="lower --schedule.peak-lr, or look for bad windows with `xmae verify`",
            )

    def _due(self, every: int, state: TrainState, stopping: Stop | None) -> bool:
        return self._is_last(state) or stopping is not None or bool(every and state.step % every == 0)

    def _validate(self, state: TrainState, stopping: Stop | None) -> Stop | None:
        """Begins a validation where one is due, and says whether those before it end the run."""
        if self.validator is None or stopping or not self._due(self.config.validate_every, state, stopping):
            return stopping
        self.validator.finish()  # waits only where a validation takes longer than the steps between two
        if not self._is_last(state) and self.validator.exhausted(state.step):
            return Stop.CONVERGED
        self.validator.start(self.engine, state.step)
        if self._is_last(state):
            self.validator.finish()
        return None

    def _resumed_validation(self, state: TrainState) -> bool:
        """Begins the validation of the step that the run goes on from, if it had one; True where the run is over."""
        every = self.config.validate_every
        if self.validator is None or not state.step or not every or state.step % every or self._is_last(state):
            return False
        if self.validator.exhausted(state.step):
            return True
        if state.step not in self.validator.history:
            self.validator.start(self.engine, state.step)
        return False

    def _is_last(self, state: TrainState) -> bool:
        return state.step >= self.config.steps

    def _save(self, state: TrainState, stopping: Stop | None) -> None:
        if not self._due(self.config.checkpoint_every, state, stopping):
            return
        earlier = self.validator is not None and self.validator.pending_step not in (None, state.step)
        if self.validator is not None and earlier and stopping is not Stop.PREEMPTED:
            self.validator.finish()  # so that the checkpoint knows its result
        if stopping or self._is_last(state):
            self.saver.finish()
        elif self.saver.pending:
            self.callbacks.on_event("checkpoint_missed", step=state.step, why="the last one is still uploading")
            return
        if state.step != self._saved_step:
            self.saver.start(self.engine, state.step, self.about(state))
            self._saved_step = state.step
