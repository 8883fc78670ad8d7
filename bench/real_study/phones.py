"""Frozen encoders on recordings of phones: heart rate and RMSSD of ten seconds, against features and a random encoder.

Which of `welltory`'s 21 recordings are of one of its 13 people is not published, so folds there are by recording: a
person may be on both sides, for every encoder alike. Read differences there, not scores.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.embedding_study import probing
from bench.real_study.corpora import Phone
from bench.real_study.tasks import PHONES
from xmae_dist.evaluate.encoders.features import pulse_features
from xmae_dist.evaluate.results import Result
from xmae_dist.model.interface import PretrainModel


def embedded(model: PretrainModel, phone: Phone) -> NDArray[np.floating]:
    """(M, E) by the study's readout."""
    return probing.embedded(model, phone.windows.ppg_ML)


def features(phone: Phone, rate_hz: float) -> NDArray[np.floating]:
    """(M, F) of pulses."""
    return pulse_features(phone.windows.ppg_ML.numpy(), rate_hz)


def results(arm: str, identity: str, embedding_ME: NDArray[np.floating], phone: Phone) -> list[Result]:
    """Of the phone's tasks."""
    suite = PHONES[phone.name]
    return probing.results(arm, f"{phone.name}-{identity}", embedding_ME, phone.windows, phone.store, suite)


def told(found: list[Result]) -> Iterator[tuple[str, dict[str, Any]]]:
    """For a row: each task's score, and of how many."""
    for one in found:
        people = {"groups": one.n_subjects, "units": len(one.scored.predictions.y_N)}
        yield one.task.name, {**dataclasses.asdict(one.headline), "metric": one.task.metric, **people}
