"""Devices of the index beside windows, part by part."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from xmae_dist.core.errors import UsageError
from xmae_dist.evaluate.transfer.worn import with_index_columns
from xmae_dist.storage.corpus import Corpus


def corpus_with_devices(url: str) -> Corpus:
    """Two cohorts that share names of recordings; the ECG is of another device than the PPG, one device is not told."""
    corpus = Corpus.open_or_create(url)
    for cohort, devices in {"a": ["ring", "watch", ""], "b": ["patch", "ring", "watch"]}.items():
        rows = []
        with corpus.begin_part(cohort, "part") as part:
            channels = {
                name: part.channel(name, dtype=np.float32, rate_hz=50.0, unit=unit)
                for name, unit in (("ecg", "mV"), ("ppg", "nu"))
            }
            for number, device in enumerate(devices):
                named = {"subject_id": f"s{number}", "recording_id": f"r{number}", "clock_id": f"r{number}"}
                samples = np.zeros(100, np.float32)
                for name, worn in (("ppg", (device, "wrist")), ("ecg", ("monitor", "chest"))):
                    row = channels[name].add(samples, **named)
                    rows.append(dataclasses.replace(row, device=worn[0], body_site=worn[1]))
        corpus.commit_part(rows, f"made:{cohort}")
    return corpus


def test_windows_learn_the_device_of_their_source_in_their_cohort(tmp_path: Path) -> None:
    url = corpus_with_devices(f"file://{tmp_path}/c").url
    parts = [
        pa.table({"cohort": ["a"] * 4, "recording_id": ["r1", "r0", "r0", "r2"]}),
        pa.table({"cohort": ["a"], "recording_id": ["r1"]}),
        pa.table({"cohort": ["b"] * 3, "recording_id": ["r2", "r0", "unknown"]}),
    ]
    worn = with_index_columns(parts, url, "ppg", ("device", "cohort", "body_site"))
    for _ in range(2):
        tables = list(worn)
        assert [table["device"].to_pylist() for table in tables] == [
            ["watch", "ring", "ring", None], ["watch"], ["watch", "patch", None],
        ]  # fmt: skip
        assert tables[2]["body_site"].to_pylist() == ["wrist", "wrist", None]
    assert with_index_columns(parts, url, "ppg", ("cohort",)) is parts


def test_a_device_needs_a_corpus() -> None:
    with pytest.raises(UsageError, match="--corpus beside it"):
        with_index_columns([], "", "ppg", ("device",))
