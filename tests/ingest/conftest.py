"""Folders of small WFDB records, good and bad."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from wfdb_files import pulse, write_record


@pytest.fixture
def good_folder(tmp_path: Path) -> Path:
    """Three records of 20 s, `r0` … `r2`, each with II and PLETH, all of one gain."""
    folder = tmp_path / "good"
    for at in range(3):
        write_record(folder, f"r{at}", {"II": pulse(2000, at), "PLETH": pulse(2000, at + 0.5)})
    return folder


@pytest.fixture
def mixed_folder(good_folder: Path) -> Path:
    """The three good records beside one of each fault."""
    n = 2000
    write_record(good_folder, "ecg_only", {"II": pulse(n, 1)})
    write_record(good_folder, "nan_channel", {"II": np.full(n, np.nan), "V": pulse(n, 2), "PLETH": pulse(n, 3)})
    write_record(good_folder, "flat_channel", {"II": pulse(n, 4), "PLETH": np.full(n, 0.5)})
    write_record(good_folder, "all_flat", {"II": np.full(n, 0.25), "PLETH": np.full(n, 0.5)})
    for name in ("truncated", "no_header", "no_signal", "bad_header", "damaged"):
        write_record(good_folder, name, {"II": pulse(n, 5), "PLETH": pulse(n, 6)})
    whole = (good_folder / "truncated.dat").read_bytes()
    (good_folder / "truncated.dat").write_bytes(whole[: len(whole) // 2])
    (good_folder / "no_header.hea").unlink()
    (good_folder / "no_signal.dat").unlink()
    (good_folder / "bad_header.hea").write_text("bad_header two 100 2000\nnonsense\n")
    samples = np.fromfile(good_folder / "damaged.dat", dtype="<i2")
    samples[10] += 77
    samples.tofile(good_folder / "damaged.dat")
    return good_folder
