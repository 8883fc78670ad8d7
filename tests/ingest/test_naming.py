"""Channel names from source names."""

from __future__ import annotations

import re
from pathlib import Path

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
        (["pleth_1"], ["ppg"]),
        (["pleth_1", "pleth_2"], ["ppg", "ppg_2"]),
        (["pleth_1", "PLETH"], ["ppg_2", "ppg"]),
        (["pleth_1", "ppg_2", "ir"], ["ppg_2", "ppg_3", "ppg"]),
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


PAGE = (Path(__file__).resolve().parents[2] / "docs/ingest.md").read_text()
_SECTION = PAGE.partition("## My channel is called")[2].partition("\n## ")[0]
_ROWS = re.findall(r"^\| (.*`.*) \| `(ppg|ecg|abp|resp)` \|$", _SECTION, flags=re.MULTILINE)


@pytest.mark.parametrize(("named", "becomes"), _ROWS)
def test_the_page_says_what_names_become(named: str, becomes: str) -> None:
    assert {name: channel_names([name])[0] for name in re.findall(r"`([^`]+)`", named)} == dict.fromkeys(
        re.findall(r"`([^`]+)`", named), becomes
    )


def test_the_page_has_a_row_for_each_kind() -> None:
    assert {becomes for _, becomes in _ROWS} == {"ppg", "ecg", "abp", "resp"}
