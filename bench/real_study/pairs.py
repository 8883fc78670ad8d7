"""Whether a model uses one signal to rebuild another: masked errors by person, with the own signal, another's, none.

Shapes: M windows, S people, R draws of people.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.embedding_study import training
from bench.embedding_study.people import People, Windows
from bench.embedding_study.unfinished import Unfinished
from xmae_dist.evaluate.scores.bootstrap import draws, interval
from xmae_dist.model import presets
from xmae_dist.model.diagnose import window_errors
from xmae_dist.model.interface import PretrainModel
from xmae_dist.model.xmae import XMAEConfig

_DRAWS = 1000


@dataclass(frozen=True)
class Stage:
    """Another pair of signals than ECG from PPG."""

    name: str
    about: str

    def config(self, people: People) -> XMAEConfig:
        """`tiny`, the other way round."""
        tiny = presets.config("tiny", length=people.store.spec.length, rate_hz=people.store.spec.rate_hz)
        assert isinstance(tiny, XMAEConfig)
        return dataclasses.replace(tiny, objective="reversed", mirrored_lags=True)


PRESSURE = Stage("pressure_from_ecg", "arterial pressure from the ECG, patients of the Challenge 2015")
WRIST = Stage("wrist_from_chest", "the wrist's PPG from the chest's ECG, simulated people")


def trained(stage: Stage, people: People, run: training.Run, kept: Unfinished) -> dict[str, Any]:
    """A row: the model's errors on held-out people, and what it took."""
    model, work = training.train(stage.config(people), run, people, lambda _: None, kept)
    return {
        "train_people": len(np.unique(people.train.subjects)),
        "train_windows": len(people.train),
        **used(model, people.probed),
        "train_s": work.train_s,
    }


def used(model: PretrainModel, windows: Windows) -> dict[str, Any]:
    """Mean errors over people, and how far own lies below other, as a share, with a 95 % interval over people."""
    ppg_ML, ecg_ML = windows.pair(slice(None))
    mask_MN = training.fixed_masks(model.config, len(windows))
    by_person = _by_person(window_errors(model, ecg_ML, ppg_ML, windows.subjects, mask_MN), windows.subjects)
    below = reduction(by_person["own"], by_person["other"])
    errors = {name: float(error_S.mean()) for name, error_S in by_person.items()}
    return {"people": len(by_person["own"]), "windows_tested": len(windows), "errors": errors, "below_other": below}


def reduction(own_S: NDArray[np.floating], other_S: NDArray[np.floating]) -> dict[str, float]:
    """1 - own / other of the mean errors of people, with a percentile interval over draws of them."""
    draws_RS = draws(len(own_S), _DRAWS, 0, "reduction")
    found = interval(_share(own_S.mean(), other_S.mean()), _share(draws_RS @ own_S, draws_RS @ other_S))
    return {"value": found.value, "low": found.low, "high": found.high}


def _share(own: Any, other: Any) -> Any:
    return 1.0 - own / other


def _by_person(error_of: dict[str, NDArray[np.float32]], subject_M: NDArray[np.str_]) -> dict[str, NDArray[np.float64]]:
    """Means over each person's windows."""
    code_M = np.unique(subject_M, return_inverse=True)[1]
    count_S = np.bincount(code_M)
    return {name: np.bincount(code_M, weights=error_M) / count_S for name, error_M in error_of.items()}
