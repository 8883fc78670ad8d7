"""Linear probes on frozen embeddings, by the evaluation's own parts: tasks, nested folds by person, intervals.

Shapes: M windows, L samples, E numbers of an embedding.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.embedding_study.people import Windows
from xmae_dist.core.errors import InputError
from xmae_dist.evaluate.encoders.spec import EncoderSpec
from xmae_dist.evaluate.gathering import examples
from xmae_dist.evaluate.pooling import embedded_here
from xmae_dist.evaluate.protocols.probe import cross_fit
from xmae_dist.evaluate.results import Result
from xmae_dist.evaluate.run import EvaluateConfig, fit, folds_of, plan
from xmae_dist.evaluate.scores.metrics import METRICS
from xmae_dist.evaluate.tasks import Suite, Task, load_suite
from xmae_dist.model.interface import PretrainModel
from xmae_dist.model.readout import READOUTS

CONFIG = EvaluateConfig(n_train_replicates=100, max_windows_per_subject=16, pooling="moments")
"""For all arms alike: recordings and people are mean, spread and extremes of all their probed windows."""


@dataclasses.dataclass(frozen=True)
class Probes:
    """What is asked of every embedding."""

    suite: Suite
    curve_tasks: tuple[str, ...]
    """Tasks of the curves: regressions, whose probes are cheap."""


SIMULATED = Probes(
    load_suite("simulated"),
    ("heart_rate", "respiration_rate", "sdnn", "age", "sbp", "pulse_arrival", "pulse_arrival_change"),
)
READOUT = READOUTS["spectrum"]
"""Of every model, trained or not."""
_AT_ONCE = 256


@torch.inference_mode()
def embedded(model: PretrainModel, ppg_ML: Tensor) -> NDArray[np.float32]:
    """(M, E) by the study's readout; the model keeps its own."""
    parts = [READOUT(model.tokens(part.float())) for part in ppg_ML.split(_AT_ONCE)]
    return torch.cat(parts).numpy()


def effective_rank(embedding_ME: NDArray[np.floating]) -> float:
    """Over how many directions the standardised numbers spread: exp of the entropy of their shares of variance."""
    z_ME = np.asarray(embedding_ME, float) - embedding_ME.mean(axis=0)
    z_ME /= np.maximum(z_ME.std(axis=0), 1e-9)
    share_E = np.linalg.eigvalsh(z_ME.T @ z_ME)
    share_E = share_E[share_E > 1e-9 * max(share_E.max(), 1e-9)] / max(share_E.sum(), 1e-9)
    return float(np.exp(-np.sum(share_E * np.log(share_E))))


def results(
    arm: str, identity: str, embedding_ME: NDArray[np.floating], windows: Windows, store: str, suite: Suite
) -> list[Result]:
    """Of every task that these people can carry; `identity` names what the embedding is, the seed included."""
    spec = EncoderSpec(name=arm, kind="bundle", identity=identity)
    planned = plan(suite, (spec,), [windows.table], store, CONFIG, skip_unusable=True)
    ids_M = windows.table["window_id"].to_numpy()
    found = []
    for request in planned.requests:
        units = planned.examples_of_task[request.task.name]
        found.append(fit(request, units, embedded_here([units.windows], ids_M, embedding_ME, CONFIG.pooling)))
    return found


def values(embedding_ME: NDArray[np.floating], windows: Windows, probes: Probes) -> dict[str, float]:
    """Scores of the curve's tasks, without intervals."""
    return {
        task.name: score
        for task in probes.suite.only(probes.curve_tasks).tasks
        if (score := _value(task, embedding_ME, windows)) is not None
    }


def _value(task: Task, embedding_ME: NDArray[np.floating], windows: Windows) -> float | None:
    """None where these people cannot carry the task."""
    try:
        units = examples(task, [windows.table], limit=CONFIG.limit)
        fold_N = folds_of(task, units, CONFIG)
    except InputError:
        return None
    ids_M = windows.table["window_id"].to_numpy()
    x_NE = units.features(embedded_here([units.windows], ids_M, embedding_ME, CONFIG.pooling))
    data = (x_NE, units.y_N, units.subject_N, fold_N)
    fitted = cross_fit(*data, kind=task.kind, config=CONFIG.probe, task=task.name)
    return METRICS[task.metric].value(units.y_N, fitted.predictions.pred_NC, fold_N)
