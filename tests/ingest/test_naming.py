"""Channel names from source names."""

from __future__ import annotations

import pytest

from xmae_dist.ingest.naming import channel_names, ecg_lead


@pytest.mark.parametrize(
    ("source", "names"),
    [
        (["II", "V", "PLETH", "RESP"], ["ecg", "ecg_v", "ppg", "resp"]),
        (["V", "PLETH"], ["ecg", "ppg"]),
        (["III", "I", "V", "ABP", "PAP"], ["ecg_iii", "ecg", "ecg_v", "abp", "pap"]),
        (["ECG MLII", "ART", "SpO2 Pleth"], ["ecg", "abp", "ppg"]),
        (["MDC_ECG_LEAD_II", "Lead aVF"], ["ecg", "ecg_avf"]),
        (["PLETH", "PLETH"], ["ppg", "ppg_2"]),
        (["ECG", "ECG 1"], ["ecg", "ecg_1"]),
        (["T°C", ""], ["t_c", "channel"]),
    ],
)
def test_names(source: list[str], names: list[str]) -> None:
    assert channel_names(source) == names


def test_names_are_always_distinct() -> None:
    names = channel_names(["II", "II", "ecg", "V", "v", "PPG", "pleth", "x", "X "])
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", ["PLETH", "RESP", "ABP", "Vent", "CO2", "irregular"])
def test_what_is_no_ecg(name: str) -> None:
    assert ecg_lead(name) is None
