"""The training loop: knows an engine, a stream of batches and a saver; knows nothing of Ray or DeepSpeed.

One step: take this rank's share, mask it, make one small all-reduce, run the share through the engine in
micro-batches, and let the engine apply or skip the step on all ranks alike. The all-reduce carries whatever ranks must
agree on (a wish to stop, how uploads stand, how many samples the loss is a mean over), so every rank runs the same
number of steps, always; and the figures of the step before, which are on the device until then.

It is queued before the step's own work and read after that, so a GPU has all of a step to do when it is waited for: its
queue never runs empty. What a step came to is therefore told one step late.
"""

from __future__ import annotations

import dataclasses
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
from xmae_dist.train.step.batch import Masking, Share, seed_dropout
from xmae_dist.train.step.clock import Spent
from xmae_dist.train.step.collective import Ranks, Summed
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


@dataclass(frozen=True, kw_only=True)
class _Untold:
    """A step whose figures are still on the device, or that nobody was told of yet."""

    row: dict[str, Any]
    figures: torch.Tensor
    """Loss, whether the step was applied, norm of the gradient, then what `LossTable.take` gave; (3 + T,)."""
    spent: Spent


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
    _untold: _Untold | None = None

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
            state, stopping, row, figures = self._step(batch, state)
            self.measures.clock.mark("other")
            stopping = self._validate(state, stopping)
            self.measures.clock.mark("validation")
            self._save(state, stopping)
            self.measures.clock.mark("checkpoint")
            self._untold = _Untold(row=row, figures=figures, spent=self.measures.clock.take())
            if stopping or self._is_last(state):
                self._tell_last(self.ranks.sum_later((), figures).read())
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

    def _step(
        self, batch: TensorBatch, state: TrainState
    ) -> tuple[TrainState, Stop | None, dict[str, Any], torch.Tensor]:
        """(the state after it, why any rank wants to stop, the row as far as it is known, what `_Untold` holds)."""
        config = self.config
        seen = state.windows_seen + config.global_batch
        ratio = mask_ratio(config.schedule, config.model_mask_ratio, seen, config.steps * config.global_batch)
        lr = learning_rate(config.schedule, seen, config.steps * config.global_batch)
        seed_dropout(config.seed, batch.step, self.ranks.rank)
        mask_BN = self.masking.draw(batch, ratio)
        share = Share.of(batch, mask_BN, self.measures.cohorts.of_windows(batch.ids_B), self._model)
        counts = share.counts(self._model)
        agreement = self._agreement(counts)
        self.measures.clock.mark("other")
        loss = self._forward_backward(share, agreement.on_device[: len(counts)])
        outcome = self.engine.step(lr)
        self.measures.clock.mark("optimizer")
        figures = self._figures(loss, outcome)
        measured, stopping = self._agree(agreement.read()[len(counts) :])
        state = TrainState(step=state.step + 1, windows_seen=seen, optimizer_steps=state.optimizer_steps)
        row = {"step": state.step, "windows_seen": seen, **measured, "lr": lr, "mask_ratio": ratio}
        return state, stopping, row, figures

    @property
    def _model(self) -> PretrainModel:
        return cast(PretrainModel, self.engine.module)

    def _forward_backward(self, share: Share, counts_S: torch.Tensor) -> torch.Tensor:
        """This rank's part of the loss over the global batch, times its windows, 0-dim; `counts_S` are of all ranks."""
        losses, parts = [], self.ranks.world * self.config.accumulation
        # Every micro-batch of every rank divides by the same, so that each sample weighs alike wherever it lies.
        over_S = (counts_S.clamp(min=1) / parts).float()
        for inputs in share.micro_batches(self.config.accumulation, self.engine.device):
            loss = self.engine.forward_backward(*inputs.forward, over_S, inputs.measured_MK)
            losses.append(loss * (self.config.global_batch / parts))
            self.measures.losses.add(self._model.errors, inputs.cohort_M)
        return torch.stack(losses).sum()

    def _figures(self, loss: torch.Tensor, outcome: StepOutcome) -> torch.Tensor:
        same_on_all = torch.stack([x.to(loss.device, torch.float64) for x in (outcome.applied, outcome.grad_norm)])
        if self.ranks.rank:
            same_on_all = torch.zeros_like(same_on_all)  # ranks are summed over
        return torch.cat([loss.double()[None], same_on_all, self.measures.losses.take().double()])

    def _agreement(self, counts: list[float]) -> Summed:
        """Begins the sum over ranks of what the loss is over, of wishes and states, and of the last step's figures."""
        busy, failed = self.saver.status
        wish = self.callbacks.wants_stop()
        validating = self.validator is not None and self.validator.busy
        known = [*counts, busy, failed, validating, *(wish is why for why in Stop), *self.measures.take()]
        none = torch.zeros(0, device=self.engine.device)
        return self.ranks.sum_later(known, none if self._untold is None else self._untold.figures)

    def _agree(self, summed: list[float]) -> tuple[dict[str, Any], Stop | None]:
        """(what is measured of this step, why any rank wants to stop); tells of the step before, and settles a save or
        a validation that has ended."""
        busy, failed, validating, *summed = summed
        wishes, summed = summed[: len(Stop)], summed[len(Stop) :]
        measured, figures = summed[: self.measures.slots], summed[self.measures.slots :]
        self._tell_last(figures)  # before a save becomes visible: a run that goes on from it will not tell it again
        self.saver.settle(busy=bool(busy), failed=bool(failed))
        if self.validator is not None:
            self.validator.settle(busy=bool(validating))
        stopping = next((why for why, votes in zip(Stop, wishes, strict=True) if votes), None)
        return self.measures.read(measured), stopping

    def _tell_last(self, figures: list[float]) -> None:
        """Tells of the step whose figures, summed over ranks, these are. Raises RunError after too many bad ones."""
        if self._untold is None:
            return
        untold, self._untold = self._untold, None
        loss, applied, grad_norm, *table = figures
        row = untold.row | {
            "loss": loss / self.config.global_batch,
            "losses": self.measures.losses.means(table),
            "grad_norm": grad_norm,
            "applied": bool(applied),
        }
        self.callbacks.on_step(self.measures.finish(row, untold.spent, self.config.global_batch))
        self._note_bad(row)

    def _note_bad(self, row: dict[str, Any]) -> None:
        if row["applied"]:
            self._bad_steps = 0
            return
        self._bad_steps += 1
        self.callbacks.on_event("step_skipped", step=row["step"], grad_norm=str(row["grad_norm"]))
        if self._bad_steps >= self.config.max_bad_steps:
            raise RunError(
                "gradients",
                value=f"not finite for {self._bad_steps} steps up to step {row['step']}",
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
            state = dataclasses.replace(state, optimizer_steps=self.engine.optimizer_steps)
            self.saver.start(self.engine, state.step, self.about(state))
            self._saved_step = state.step
