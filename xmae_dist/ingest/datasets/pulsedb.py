"""PulseDB: 10 s segments of ECG, PPG and arterial pressure in MATLAB v7.3 files, which are HDF5."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from xmae_dist.core.errors import InputError
from xmae_dist.ingest.formats.source import HeldRecording, Origin, Raw, SourceChannel

RATE_HZ = 125.0
_SIGNALS = {"PPG_Raw": ("ppg", "nu"), "ECG_Raw": ("ecg", "nu"), "ABP_Raw": ("abp", "mmHg")}
_NUMBERS = {
    "SegSBP": "sbp_mmhg",
    "SegDBP": "dbp_mmhg",
    "Age": "age",
    "BMI": "bmi",
    "Weight": "mass_kg",
    "Height": "height_cm",
}


def pulsedb(path: Path, name: str) -> Iterator[HeldRecording]:
    """PulseDB (Wang et al. 2023): a file holds the segments of one person, as the struct array `Subj_Wins`.

    Segments are not neighbours in time and each has its own pressures, so each is a recording, `<file>/<number>`.
    Raw signals are taken: our own cleaning is zero-phase, and so were the authors' filters, but they are not ours.
    """
    import h5py  # type: ignore[import-untyped]

    try:
        with h5py.File(path, "r") as file:
            group = file.get("Subj_Wins")
            if not isinstance(group, h5py.Group):
                raise InputError(f"file {path.name}", value="no struct 'Subj_Wins'",
                                 expected="a segment file of PulseDB (PulseDB_MIMIC or PulseDB_Vital)")  # fmt: skip
            yield from _segments(file, group, path, name)
    except OSError as error:
        raise InputError(f"file {path.name}", value=f"unreadable ({error})", expected="MATLAB v7.3 (HDF5)") from error


def _segments(file: Any, group: Any, path: Path, name: str) -> Iterator[HeldRecording]:
    fields = {key: _Field(file, group[key]) for key in group}
    present = {key: what for key, what in _SIGNALS.items() if key in fields}
    if "PPG_Raw" not in present:
        raise InputError(f"file {path.name}", value="no field PPG_Raw", expected="the fields of docs/datasets.md")
    channels = tuple(
        SourceChannel(key=key, source_name=key, name=channel, rate_hz=RATE_HZ, dtype="float32", unit=unit)
        for key, (channel, unit) in present.items()
    )
    # The folder tells the two sources apart: their numbers of subjects overlap.
    source = "mimic" if "mimic" in str(path.parent).lower() else "vital"
    for number in range(len(fields["PPG_Raw"])):
        signals: dict[str, Raw] = {key: fields[key].array(number).astype(np.float32) for key in present}
        labels = {label: fields[key].number(number) for key, label in _NUMBERS.items() if key in fields}
        if "height_cm" in labels:
            labels["height_m"] = labels.pop("height_cm") / 100
        sex = fields["Gender"].text(number).strip().upper() if "Gender" in fields else ""
        if sex in ("M", "F"):
            labels["sex"] = float(sex == "M")
        origin = Origin(
            recording_id=f"{name}/{number:05d}",
            subject_id=f"{source}-{path.stem}",
            labels={label: value for label, value in labels.items() if np.isfinite(value)},
            label_text={"source": source},
        )
        yield HeldRecording(origin, channels, signals)


class _Field:
    """A field of a struct array: references to one dataset an element, or for a single struct the dataset itself."""

    def __init__(self, file: Any, dataset: Any) -> None:
        import h5py

        self._file, self._dataset = file, dataset
        self._references = dataset[()].ravel() if h5py.check_ref_dtype(dataset.dtype) else None

    def __len__(self) -> int:
        return 1 if self._references is None else len(self._references)

    def array(self, number: int) -> np.ndarray:
        return self._read(self._held(number))

    def number(self, number: int) -> float:
        """NaN where the field is empty: MATLAB writes the shape of an empty array in its place."""
        import h5py

        held = self._held(number)
        values = self._read(held)
        empty = h5py.h5a.exists(held, b"MATLAB_empty") and bool(h5py.Dataset(held).attrs["MATLAB_empty"])
        return float(values[0]) if len(values) == 1 and not empty else float("nan")

    def _held(self, number: int) -> Any:
        """The dataset of an element, by the low-level interface of h5py. A segment has one for each signal and number;
        as objects of the other interface they would make an ingest a sixth longer.
        """
        import h5py

        if self._references is None:
            return self._dataset.id
        return h5py.h5r.dereference(self._references[number], self._file.id)

    @staticmethod
    def _read(held: Any) -> np.ndarray:
        """Its values, (n,)."""
        import h5py

        values = np.empty(held.shape, held.dtype)
        held.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
        return values.ravel()

    def text(self, number: int) -> str:
        """Characters are stored as their UTF-16 codes."""
        return "".join(map(chr, self.array(number).astype(int)))
