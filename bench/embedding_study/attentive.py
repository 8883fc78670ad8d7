"""The attentive readout: where in a window to look is learned in the probe, nested in its folds.

A few queries are learned with a linear head, on the windows of a fit's training people alone, each with its unit's
label; what they attend to stands beside the fixed readout, and the same linear probe as ever is fitted to both. So a
difference to the fixed readout is what attention adds. Queries are learned anew for each of the 15 training sets of
five nested folds.

Shapes: M windows, N units, T tokens, D width, Q queries, E numbers of the fixed readout, C outputs.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from bench.embedding_study.people import Windows
from bench.embedding_study.probing import CONFIG, READOUT
from xmae_dist.core.seeds import generator
from xmae_dist.evaluate.encoders.spec import EncoderSpec
from xmae_dist.evaluate.examples import Examples
from xmae_dist.evaluate.pooling import embedded_here
from xmae_dist.evaluate.protocols.probe import learned_fit, targets
from xmae_dist.evaluate.results import Result
from xmae_dist.evaluate.run import FitRequest, folds_of, plan, scored
from xmae_dist.evaluate.tasks import Suite
from xmae_dist.model.interface import PretrainModel

QUERIES = 4
TASKS = ("af", "ectopy", "heart_rate", "respiration_rate", "sdnn", "pulse_arrival_change")
"""Rhythm and timing: what a mean over time may hide."""
_STEPS, _RIDGE, _AT_ONCE = 40, 1e-3, 512
_LEARNED_FROM = 3072
"""Windows at most that queries are learned from, evenly spaced."""


@torch.inference_mode()
def tokens(model: PretrainModel, ppg_ML: Tensor) -> Tensor:
    """(M, T, D) float16: 13 kB a window of 100 tokens of width 64."""
    return torch.cat([model.tokens(part.float()).half() for part in ppg_ML.split(_AT_ONCE)])


def results(arm: str, identity: str, model: PretrainModel, windows: Windows, store: str, suite: Suite) -> list[Result]:
    """Of those of `TASKS` that these people can carry."""
    spec = EncoderSpec(name=arm, kind="bundle", identity=identity)
    planned = plan(suite.only(TASKS), (spec,), [windows.table], store, CONFIG, skip_unusable=True)
    tokens_MTD = tokens(model, windows.ppg_ML)
    return [
        _fitted(request, planned.examples_of_task[request.task.name], tokens_MTD, windows)
        for request in planned.requests
    ]


def _fitted(request: FitRequest, units: Examples, tokens_MTD: Tensor, windows: Windows) -> Result:
    began_s = time.monotonic()
    task, config = request.task, request.config
    fold_N = folds_of(task, units, config)
    attention = _Attention(units, tokens_MTD, windows.table["window_id"].to_numpy(), task.kind)
    fit = learned_fit(
        *(attention.features, units.y_N, units.subject_N, fold_N), kind=task.kind, config=config.probe, task=task.name
    )
    return scored(request, units, fit, began_s)


class _Attention:
    """Features of a task's units by what training units alone teach."""

    def __init__(self, units: Examples, tokens_MTD: Tensor, ids_M: NDArray[np.int64], kind: str) -> None:
        self._units, self._tokens_MTD, self._ids_M, self._kind = units, tokens_MTD, ids_M, kind
        self._fixed_ME = torch.cat([READOUT(part.float()) for part in tokens_MTD.split(_AT_ONCE)]).numpy()
        ids_K, self._unit_K = units.windows.expanded()
        self._row_K = np.searchsorted(ids_M, ids_K)

    def features(self, train_N: NDArray[np.bool_]) -> NDArray[np.float64]:
        """(N, E) of all units, pooled as every arm's."""
        taught_K = np.flatnonzero(train_N[self._unit_K])
        some_K = taught_K[np.unique(np.linspace(0, len(taught_K) - 1, min(_LEARNED_FROM, len(taught_K))).astype(int))]
        target_KC = torch.tensor(targets(self._kind, self._units.y_N)[self._unit_K[some_K]], dtype=torch.float32)
        query_QD = learned(self._tokens_MTD[self._row_K[some_K]].float(), target_KC, self._kind)
        parts = [attended(part.float(), query_QD) for part in self._tokens_MTD.split(_AT_ONCE)]
        seen_ME = np.concatenate([self._fixed_ME, torch.cat(parts).numpy()], axis=1)
        return self._units.features(embedded_here([self._units.windows], self._ids_M, seen_ME, CONFIG.pooling))


def learned(tokens_KTD: Tensor, target_KC: Tensor, kind: str) -> Tensor:
    """(Q, D) queries, learned with a linear head by L-BFGS on a penalised loss; the head is let go."""
    rng = generator("attention", len(tokens_KTD))
    width, outputs = tokens_KTD.shape[2], target_KC.shape[1]
    query_QD = torch.tensor(rng.normal(size=(QUERIES, width)) / np.sqrt(width), dtype=torch.float32, requires_grad=True)
    head = torch.nn.Linear(QUERIES * width, outputs)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    if kind == "regression":
        target_KC = (target_KC - target_KC.mean(dim=0)) / target_KC.std(dim=0).clamp(min=1e-6)
    fit = torch.optim.LBFGS([query_QD, *head.parameters()], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        fit.zero_grad()
        found_KC = head(attended(tokens_KTD, query_QD))
        misfit = (F.mse_loss if kind == "regression" else F.binary_cross_entropy_with_logits)(found_KC, target_KC)
        value = misfit + _RIDGE * (query_QD.square().sum() + head.weight.square().sum())
        value.backward()
        return value

    fit.step(loss)
    return query_QD.detach()


def attended(tokens_MTD: Tensor, query_QD: Tensor) -> Tensor:
    """(M, Q D): tokens averaged with the weights that each query gives them."""
    weight_MTQ = (tokens_MTD @ query_QD.T).softmax(dim=1)
    return (weight_MTQ.transpose(1, 2) @ tokens_MTD).flatten(1)
