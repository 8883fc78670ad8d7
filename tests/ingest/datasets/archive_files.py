"""Small files in the formats of public data sets, written from their published descriptions (docs/datasets.md)."""

from __future__ import annotations

import gzip
import pickle
import struct
from pathlib import Path
from typing import Any

import h5py
import numpy as np


def pulse(seconds: float, rate_hz: float, *, bpm: float = 72.0) -> np.ndarray:
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    return np.sin(2 * np.pi * bpm / 60 * time_s) + 0.3 * np.sin(4 * np.pi * bpm / 60 * time_s)


def bidmc(folder: Path, number: int = 1, *, seconds: int = 60) -> None:
    """PhysioNet bidmc 1.0.0, `bidmc_csv`: names with a blank after each comma."""
    folder = folder / "bidmc_csv"
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"bidmc_{number:02d}"
    ppg = pulse(seconds, 125)
    rows = [f"{i / 125:g},{0.1 * v:.4f},{v:.4f},{v:.4f},{v / 2:.4f},{v / 3:.4f}" for i, v in enumerate(ppg)]
    (folder / f"{stem}_Signals.csv").write_text("\n".join(["Time [s], RESP, PLETH, V, AVR, II", *rows]))
    numerics = [f"{i},{70 + i % 2},{70},{20},{97}" for i in range(seconds)]
    (folder / f"{stem}_Numerics.csv").write_text("\n".join(["Time [s], HR, PULSE, RESP, SpO2", *numerics]))
    (folder / f"{stem}_Fix.txt").write_text("File: 3000063\n\nAge: 90+\nGender: F\nLocation: micu\n")


def mimic_perform_af(folder: Path, *, af: bool, number: int = 1) -> None:
    """Zenodo 6807402, CSV form."""
    folder.mkdir(parents=True, exist_ok=True)
    kind = "af" if af else "non_af"
    rows = [f"{i / 125:.3f},{v:.4f},{v / 2:.4f},NaN" for i, v in enumerate(pulse(30, 125))]
    name = f"mimic_perform_{kind}_{number:03d}_data.csv"
    (folder / name).write_text("\n".join(["Time,PPG,ECG,resp", *rows]))


def dreamt(folder: Path, subject: str = "S002") -> None:
    """PhysioNet dreamt, `data_64Hz`: three epochs of 30 s, W, N2, R, the last one mixed."""
    (folder / "data_64Hz").mkdir(parents=True, exist_ok=True)
    stages = ["P"] * 1920 + ["N2"] * 1920 + ["R"] * 1500 + ["W"] * 420
    header = "TIMESTAMP,BVP,IBI,EDA,TEMP,ACC_X,ACC_Y,ACC_Z,HR,Sleep_Stage"
    rows = [
        f"{i / 64},{v:.4f},,0.1,33.0,64,0,-32,60,{s}"
        for i, (v, s) in enumerate(zip(pulse(90, 64), stages, strict=True))
    ]
    (folder / "data_64Hz" / f"{subject}_whole_df.csv").write_text("\n".join([header, *rows]))
    (folder / "participant_info.csv").write_text(
        f"SID,AGE,GENDER,BMI,AHI\n{subject},43.0,M,31.2,12.5\nS003,50,F,25,3\n"
    )


def wesad(folder: Path, subject: str = "S2", *, protocol: int = 2) -> None:
    """The authors' readme: chest at 700 Hz, wrist BVP at 64 and ACC at 32 Hz, `label` at 700 Hz, a Python 2 pickle."""
    states = np.repeat([0, 1, 2, 6], 700 * 30).astype(np.int32)
    _belt_and_e4(folder, subject, protocol, {"label": states, "subject": subject})
    (folder / subject / f"{subject}_readme.txt").write_text(
        "### Personal information ###\nAge: 27\nHeight (cm): 175\nWeight (kg): 80\nGender: male\nDominant hand: right\n"
    )


def ppg_dalia(folder: Path, subject: str = "S1", *, protocol: int = 2) -> None:
    """UCI 495: as WESAD, with `label` the heart rate of 8 s windows every 2 s and `activity` at 4 Hz."""
    activity = np.repeat([1, 3, 7], 4 * 40).astype(float)[:, None]
    person = {"AGE": 34, "Gender": " m", "HEIGHT": 182.0, "WEIGHT": 78.0, "SKIN": 3, "SPORT": 6}
    extra = {"label": np.full(57, 72.0), "activity": activity, "questionnaire": person, "subject": subject,
             "rpeaks": np.arange(0, 700 * 120, 583)}  # fmt: skip
    _belt_and_e4(folder, subject, protocol, extra)


def _belt_and_e4(folder: Path, subject: str, protocol: int, extra: dict[str, Any]) -> None:
    (folder / subject).mkdir(parents=True, exist_ok=True)
    loaded = {
        "signal": {
            "chest": {"ECG": pulse(120, 700)[:, None], "ACC": np.zeros((700 * 120, 3))},
            "wrist": {"BVP": pulse(120, 64)[:, None], "ACC": np.tile([64.0, 0.0, -32.0], (32 * 120, 1))
                      + np.random.default_rng(0).normal(0, 1, (32 * 120, 3))},
        },
        **extra,
    }  # fmt: skip
    (folder / subject / f"{subject}.pkl").write_bytes(pickle.dumps(loaded, protocol=protocol))


def pulsedb(folder: Path, subject: str = "p000001", *, segments: int = 3) -> None:
    """MATLAB v7.3: struct array `Subj_Wins`, a dataset of references per field; text as UTF-16 codes."""
    folder = folder / "PulseDB_Vital"
    folder.mkdir(parents=True, exist_ok=True)
    with h5py.File(folder / f"{subject}.mat", "w") as file:
        group = file.create_group("Subj_Wins")
        for name, value in _segment_fields(subject):
            values = [value(i) for i in range(segments)]
            if segments == 1:
                group.create_dataset(name, data=values[0])
                continue
            column = group.create_dataset(name, (segments, 1), dtype=h5py.ref_dtype)
            for i, one in enumerate(values):
                column[i, 0] = file.create_dataset(f"#refs#/{name}{i}", data=one).ref
            if name == "BMI":
                file[f"#refs#/{name}0"].attrs["MATLAB_empty"] = np.uint8(1)


def _segment_fields(subject: str) -> list[tuple[str, Any]]:
    text = lambda word: np.array([[ord(c)] for c in word], np.uint16)  # noqa: E731
    number = lambda value: np.array([[float(value)]])  # noqa: E731
    signal = pulse(10, 125)[None]
    return [
        ("SubjectID", lambda i: text(subject)), ("Gender", lambda i: text("F")), ("Age", lambda i: number(61)),
        ("BMI", lambda i: number(24)), ("SegSBP", lambda i: number(110 + i)), ("SegDBP", lambda i: number(70 + i)),
        ("PPG_Raw", lambda i: signal + i), ("ECG_Raw", lambda i: signal), ("ABP_Raw", lambda i: 90 + 20 * signal),
        ("PPG_F", lambda i: signal), ("SegmentID", lambda i: number(i + 1)),
    ]  # fmt: skip


def vital(folder: Path, case: int = 7) -> None:
    """Vital Recorder's format 3: PLETH and ART in raw integers, ECG_II in floats, a hole of 2 s in PLETH."""
    (folder / "vital_files").mkdir(parents=True, exist_ok=True)
    header = b"VITA" + struct.pack("<IH", 3, 26) + bytes(26)
    packets = [_packet(9, struct.pack("<I", 5) + _text("SNUADC") + _text("SNUADC") + _text(""))]
    tracks = {1: ("PLETH", 5, 0.01, 3.0), 2: ("ECG_II", 1, 1.0, 0.0), 3: ("ART", 5, 0.1, 0.0), 4: ("HR", 1, 1.0, 0.0)}
    for number, (name, fmt, gain, offset) in tracks.items():
        kind = 2 if name == "HR" else 1
        body = struct.pack("<HBB", number, kind, fmt) + _text(name) + _text("")
        body += struct.pack("<ffIfddB", 0, 0, 0, 100.0 if kind == 1 else 0.0, gain, offset, 0) + struct.pack("<I", 5)
        packets.append(_packet(0, body))
    for second in range(20):
        at_s = 1000.0 + second
        part = pulse(20, 100)[second * 100 : (second + 1) * 100]
        for number, dtype in ((1, "<i2"), (2, "<f4"), (3, "<i2")):
            if number == 1 and second in (8, 9):
                continue
            raw = (part * 100).astype(dtype) if dtype == "<i2" else part.astype(dtype)
            body = struct.pack("<HdH", 10, at_s, number) + struct.pack("<I", len(raw)) + raw.tobytes()
            packets.append(_packet(1, body))
        packets.append(_packet(1, struct.pack("<HdHf", 10, at_s, 4, 71.0)))
    (folder / "vital_files" / f"{case:04d}.vital").write_bytes(gzip.compress(header + b"".join(packets)))
    (folder / "clinical_data.csv").write_text(
        f"caseid,subjectid,age,sex,bmi,preop_htn,preop_hb\n{case},5955,77,M,26.3,1,14.1\n8,2487,54,F,22.0,0,\n"
    )


def _packet(kind: int, body: bytes) -> bytes:
    return struct.pack("<bI", kind, len(body)) + body


def _text(word: str) -> bytes:
    return struct.pack("<I", len(word)) + word.encode()
