"""PPG-DaLiA and WESAD: a chest belt and an Empatica E4, handed out as Python pickles (`array_pickles`)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmae_dist.core.errors import InputError
from xmae_dist.ingest.datasets.array_pickles import load_arrays
from xmae_dist.ingest.datasets.tables import EPOCH_S, demographics, majority_letters
from xmae_dist.ingest.formats.source import HeldRecording, Origin, Raw, SourceChannel

WINDOW_S = 8.0


def ppg_dalia(path: Path, name: str) -> Iterator[HeldRecording]:
    """PPG-DaLiA (Reiss et al. 2019): E4 at the wrist, ECG at the chest; activities at 4 Hz, heart rate every 2 s.

    `activities` has a letter (0 … 8, as in the data set) per 8 s.
    """
    loaded = load_arrays(path)
    labels = _person(_part(loaded, "questionnaire", path, {}))
    if "label" in loaded:
        labels["heart_rate_bpm"] = float(np.mean(loaded["label"]))
    text = {}
    if "activity" in loaded:
        activity = np.asarray(loaded["activity"]).ravel().astype(np.int64)
        text["activities"] = majority_letters(np.clip(activity, 0, 8), 4.0, WINDOW_S, "012345678")
    yield _recording(path, name, loaded, labels, text)


def wesad(path: Path, name: str) -> Iterator[HeldRecording]:
    """WESAD (Schmidt et al. 2018): E4 at the wrist, ECG at the chest; the state of the protocol at 700 Hz.

    `states` has a letter per 30 s: 1 baseline, 2 stress, 3 amusement, 4 meditation, 0 none of these.
    """
    loaded = load_arrays(path)
    state = np.asarray(_part(loaded, "label", path)).ravel().astype(np.int64)
    text = {"states": majority_letters(np.where((state >= 1) & (state <= 4), state, 0), 700.0, EPOCH_S, "01234")}
    readme = path.with_name(f"{path.stem}_readme.txt")
    words = {}
    if readme.is_file():
        found = re.findall(r"^\s*([A-Za-z ]+)(?:\([^)]*\))?\s*:\s*(\S+)", readme.read_text("utf-8", "replace"), re.M)
        words = {key.strip().lower(): value for key, value in found}
    yield _recording(path, name, loaded, _person(words), text)


def _recording(
    path: Path, name: str, loaded: Mapping[str, Any], labels: Mapping[str, float], text: Mapping[str, str]
) -> HeldRecording:
    signal = _part(loaded, "signal", path)
    wrist, chest = _part(signal, "wrist", path), _part(signal, "chest", path)
    signals: dict[str, Raw] = {
        "wrist/BVP": _column(_part(wrist, "BVP", path)),
        "chest/ECG": _column(_part(chest, "ECG", path)),
    }
    channels = [
        _e4("wrist/BVP", "ppg", 64.0),
        SourceChannel(
            key="chest/ECG", source_name="ECG", name="ecg", rate_hz=700.0, dtype="float32", unit="mV",
            device="RespiBAN", body_site="chest",
        ),
    ]  # fmt: skip
    if "ACC" in wrist:
        for axis, values_T in zip("xyz", np.asarray(wrist["ACC"], np.float32).T, strict=True):
            signals[f"wrist/ACC_{axis}"] = np.ascontiguousarray(values_T)
            channels.append(_e4(f"wrist/ACC_{axis}", f"acc_{axis}", 32.0, unit="g", scale=1 / 64))
    subject = str(loaded.get("subject", path.stem))
    return HeldRecording(
        Origin(recording_id=name, subject_id=subject, labels=labels, label_text=text), tuple(channels), signals
    )


def _e4(key: str, name: str, rate_hz: float, *, unit: str = "nu", scale: float = 1.0) -> SourceChannel:
    return SourceChannel(
        key=key, source_name=key.rpartition("/")[2], name=name, rate_hz=rate_hz, dtype="float32", unit=unit,
        scale=scale, device="Empatica E4", body_site="wrist",
    )  # fmt: skip


def _column(values: Any) -> NDArray[np.float32]:
    return np.ascontiguousarray(np.asarray(values, np.float32).reshape(-1))


def _part(mapping: Any, key: str, path: Path, default: Any = None) -> Any:
    """`mapping[key]`, where it must be there unless a default stands for it. Raises InputError."""
    if isinstance(mapping, dict) and key in mapping:
        return mapping[key]
    if default is not None:
        return default
    raise InputError(f"file {path.name}", value=f"no {key!r}", expected="the layout of docs/datasets.md")


def _person(words: Mapping[str, Any]) -> dict[str, float]:
    plain = {str(key).lower(): str(value) for key, value in words.items()}
    labels = demographics(plain)
    height_cm, mass_kg = (_number(plain.get(key)) for key in ("height", "weight"))
    if height_cm and mass_kg:
        labels |= {"height_m": height_cm / 100, "mass_kg": mass_kg, "bmi": mass_kg / (height_cm / 100) ** 2}
    return labels


def _number(word: str | None) -> float | None:
    return float(word) if word and re.fullmatch(r"\d+(\.\d+)?", word.strip()) else None
