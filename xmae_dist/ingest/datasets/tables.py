"""Data sets of CSV files: BIDMC, DREAMT and MIMIC PERform AF."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from xmae_dist.core.errors import InputError
from xmae_dist.ingest.formats.source import HeldRecording, Origin, SourceChannel

Floats = NDArray[np.float32]
EPOCH_S = 30.0
# The letters of the simulator's `sleep_stages`; what was not staged has a letter that no task lists.
_STAGES = {"W": "W", "N1": "1", "N2": "2", "N3": "3", "R": "R"}
_UNSTAGED = "-"
_FEMALE_MALE = {"f": 0.0, "female": 0.0, "m": 1.0, "male": 1.0}


def bidmc(path: Path, name: str) -> Iterator[HeldRecording]:
    """BIDMC PPG and Respiration (Pimentel et al. 2017), CSV form: 8 minutes at 125 Hz; labels are means over them.

    Columns `Time [s], RESP, PLETH, V, AVR, II` (leads vary); numerics at 1 Hz `Time [s], HR, PULSE, RESP, SpO2`;
    `Fix.txt` has `Age: 60` and `Gender: F`.
    """
    columns = _columns(path)
    signals = {"PLETH": "ppg", "RESP": "resp", **{lead: f"ecg_{lead.lower()}" for lead in ("V", "AVR", "MCL")}}
    signals["II"] = "ecg"
    held = {key: columns[key] for key in signals if key in columns}
    _need(held, "PLETH", path)
    channels = [
        _channel(key, signals[key], 125.0, unit="mV" if signals[key].startswith("ecg") else "nu") for key in held
    ]
    numerics = _columns(path.with_name(path.name.replace("_Signals.csv", "_Numerics.csv")), required=False)
    means = {"HR": "heart_rate_bpm", "RESP": "respiration_rate_bpm", "SpO2": "spo2_percent"}
    labels = {label: float(np.nanmean(numerics[c])) for c, label in means.items() if _has_number(numerics.get(c))}
    fixed = path.with_name(path.name.replace("_Signals.csv", "_Fix.txt"))
    labels |= demographics(_colon_lines(fixed))
    record = path.name.removesuffix("_Signals.csv")
    yield _held(name, record, channels, held, labels)


def mimic_perform_af(path: Path, name: str) -> Iterator[HeldRecording]:
    """MIMIC PERform AF (Charlton et al. 2022), CSV form: 20 minutes at 125 Hz, columns `Time, PPG, ECG, resp`.

    The file's name says whether the person was in atrial fibrillation throughout.
    """
    columns = _columns(path)
    names = ["PPG", "ECG", "resp"]
    held = {key: columns[key] for key in names if key in columns}
    _need(held, "PPG", path)
    channels = [_channel(key, key.lower(), 125.0) for key in held]
    record = path.name.removesuffix("_data.csv")
    yield _held(name, record, channels, held, {"af": 0.0 if "_non_af_" in path.name else 1.0})


def dreamt(path: Path, name: str) -> Iterator[HeldRecording]:
    """DREAMT (Wang et al. 2024), `data_64Hz`: a night of an Empatica E4, all columns brought to 64 Hz.

    `Sleep_Stage` (P, W, N1, N2, N3, R, Missing) becomes a letter per 30 s of the recording, by majority.
    """
    wanted = {"BVP": "ppg", "ACC_X": "acc_x", "ACC_Y": "acc_y", "ACC_Z": "acc_z"}
    table = _read(path, [*wanted, "Sleep_Stage"])
    held = {key: _numbers(table[key]) for key in wanted if key in table.column_names}
    _need(held, "BVP", path)
    channels = [
        _channel(key, wanted[key], 64.0, unit="nu" if key == "BVP" else "g", scale=1.0 if key == "BVP" else 1 / 64,
                 device="Empatica E4", body_site="wrist")
        for key in held
    ]  # fmt: skip
    subject = path.name.split("_")[0]
    labels = demographics(_row_of(_participants(path), "SID", subject))
    text = {"sleep_stages": _letters(table["Sleep_Stage"], 64.0)} if "Sleep_Stage" in table.column_names else {}
    yield _held(name, subject, channels, held, labels, text)


def demographics(words: Mapping[str, str]) -> dict[str, float]:
    """`age`, `sex` (1 male), `bmi` and the like from a table's or a text's own names; what is not a number is left."""
    known = {"age": "age", "bmi": "bmi", "ahi": "ahi_per_h", "oahi": "oahi_per_h"}
    labels = {}
    for word, value in words.items():
        plain = re.sub(r"[^a-z]", "", word.lower())
        if plain in ("sex", "gender") and value.strip().lower() in _FEMALE_MALE:
            labels["sex"] = _FEMALE_MALE[value.strip().lower()]
        # Ages over 89 are written as "90+" where a law wants it.
        elif plain in known and (found := re.match(r"\s*(\d+(\.\d+)?)", value)):
            labels[known[plain]] = float(found.group(1))
    return labels


def majority_letters(code_T: NDArray[np.integer], rate_hz: float, epoch_s: float, letters: str) -> str:
    """One letter per epoch, that of the most frequent code; a last piece of an epoch is left out."""
    per_epoch = round(rate_hz * epoch_s)
    whole = code_T[: len(code_T) // per_epoch * per_epoch].reshape(-1, per_epoch)
    return "".join(letters[np.bincount(epoch, minlength=len(letters)).argmax()] for epoch in whole)


def _letters(column: pa.ChunkedArray, rate_hz: float) -> str:
    coded = column.combine_chunks().dictionary_encode()
    words = [str(word).strip() for word in coded.dictionary.to_pylist()] + [""]
    letters = "".join(_STAGES.get(word, _UNSTAGED) for word in words)
    code_T = coded.indices.fill_null(len(words) - 1).to_numpy(zero_copy_only=False)
    return majority_letters(code_T, rate_hz, EPOCH_S, letters)


def _held(
    name: str,
    subject: str,
    channels: list[SourceChannel],
    signals: Mapping[str, Floats],
    labels: Mapping[str, float],
    text: Mapping[str, str] | None = None,
) -> HeldRecording:
    origin = Origin(recording_id=name, subject_id=subject, labels=labels, label_text=text or {})
    return HeldRecording(origin, tuple(channels), dict(signals))


def _channel(
    key: str, name: str, rate_hz: float, *, unit: str = "nu", scale: float = 1.0, device: str = "", body_site: str = ""
) -> SourceChannel:
    return SourceChannel(
        key=key, source_name=key, name=name, rate_hz=rate_hz, dtype="float32", unit=unit, scale=scale,
        device=device or None, body_site=body_site or None,
    )  # fmt: skip


def _columns(path: Path, *, required: bool = True) -> dict[str, Floats]:
    """All columns of numbers by their names, without the blanks around them; {} for a file that may be missing."""
    if not required and not path.is_file():
        return {}
    table = _read(path, None)
    return {name.strip(): _numbers(table.column(i)) for i, name in enumerate(table.column_names)}


def _read(path: Path, columns: list[str] | None) -> pa.Table:
    try:
        with pa.csv.open_csv(path) as reader:
            present = [c for c in columns if c in reader.schema.names] if columns else None
        convert = pa.csv.ConvertOptions(include_columns=present, column_types={"Sleep_Stage": pa.string()})
        return pa.csv.read_csv(path, convert_options=convert, read_options=pa.csv.ReadOptions(use_threads=False))
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"file {path.name}", value=f"unreadable ({error})", expected="a CSV file") from error


def _numbers(column: pa.ChunkedArray) -> Floats:
    try:
        return np.asarray(column.cast(pa.float64()).to_numpy(), np.float32)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return np.full(len(column), np.nan, np.float32)  # a column of words, such as one that says nothing


def _need(held: Mapping[str, Floats], name: str, path: Path) -> None:
    if name not in held:
        raise InputError(f"file {path.name}", value=f"no column {name!r}", expected="the columns of docs/datasets.md")


def _has_number(values: Floats | None) -> bool:
    return values is not None and bool(np.isfinite(values).any())


def _colon_lines(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    pairs = (line.partition(":") for line in path.read_text("utf-8", "replace").splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, _, value in pairs}


def _participants(path: Path) -> Path:
    folder = path.parent.parent if path.parent.name.startswith("data_") else path.parent
    return folder / "participant_info.csv"


def _row_of(path: Path, key: str, value: str) -> dict[str, str]:
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.DictReader(file) if (row.get(key) or "").strip() == value]
    return {name: cell or "" for name, cell in rows[0].items()} if rows else {}
