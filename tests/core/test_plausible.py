"""Numbers that cannot be in the unit they are said to be in."""

from __future__ import annotations

import pytest

from xmae_dist.core.plausible import doubt, likely_pulse_waves


@pytest.mark.parametrize(
    ("channel", "unit", "level", "spread", "said"),
    [
        ("ecg", "mV", 0.0, 1.2, None),
        ("ecg", "mV", 0.0, 0.08, None),
        ("ecg", "mV", 0.0, 1100.0, "likely in uV"),
        ("ecg_v5", "mV", 0.0, 0.0012, "likely in V"),
        ("ecg", "mV", 0.0, 30.0, "implausible for ECG"),
        ("ecg", "nu", 0.0, 1100.0, None),
        ("abp", "mmHg", 90.0, 40.0, None),
        ("abp", "mmHg", 12.0, 5.0, "likely in kPa"),
        ("heart_rate", "bpm", 1.2, 0.1, "likely in Hz"),
        ("spo2", "%", 0.97, 0.01, "likely in a fraction of 1"),
        ("acc_x", "g", 1e6, 1e6, None),
    ],
)
def test_a_doubt_names_the_likely_unit(channel: str, unit: str, level: float, spread: float, said: str | None) -> None:
    found = doubt(channel, unit, level=level, spread=spread)
    assert found is None if said is None else said in str(found)


def test_what_may_be_a_pulse_wave() -> None:
    assert likely_pulse_waves(["ecg", "bvp_wrist", "ir", "abp", "irregular", "pulse_number", "green"]) == [
        "bvp_wrist", "green", "ir",
    ]  # fmt: skip
