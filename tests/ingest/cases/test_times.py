"""Times as devices write them: of packets, of arrival, rounded, repeated, irregular, in a unit that is not declared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from case_files import beats, mapping_text, read_table, samples, write_table
from numpy.typing import NDArray

from xmae_dist.core.errors import InputError
from xmae_dist.ingest.formats.table_clock import Limits, timeline

RATE_HZ = 64.0
N = 19_200  # five minutes
TRUE_S = 0.37 + np.arange(N) / RATE_HZ
LOST = (TRUE_S > 100.3) & (TRUE_S < 107.9)  # 486 samples


def _packets(of: int, spread_s: float) -> NDArray[np.float64]:
    """The time at which a packet of `of` samples arrived, beside each of them."""
    late = np.random.default_rng(0).exponential(spread_s, N // of + 1) if spread_s else np.zeros(N // of + 1)
    last = (np.arange(N) // of + 1) * of
    return np.maximum.accumulate(last / RATE_HZ + late[np.arange(N) // of])


def _stalled(seconds: float) -> NDArray[np.float64]:
    """A phone that holds samples back and hands them over at once."""
    return np.where((TRUE_S > 50) & (50 + seconds > TRUE_S), 50 + seconds, TRUE_S)


WHOLE = {
    "a time per row": TRUE_S,
    "rounded to milliseconds": np.round(TRUE_S, 3),
    "of packets": _packets(48, 0.0),
    "of packets as they arrived": _packets(48, 0.02),
    "whole seconds": np.floor(TRUE_S),
    "polled every 50 ms": np.ceil(TRUE_S / 0.05) * 0.05,
    "arrival with exponential delay": np.sort(TRUE_S + np.random.default_rng(1).exponential(0.02, N)),
    "arrival with jitter": np.sort(TRUE_S + np.random.default_rng(2).normal(0, 0.009, N)),
    "held back for two seconds": _stalled(2.0),
    "a clock that is 80 ppm slow": TRUE_S * (1 + 8e-5),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_no_gap_is_invented(kind: str) -> None:
    found = timeline(WHOLE[kind], Limits(rate_hz=RATE_HZ), "times")
    assert (found.gaps, found.samples) == ((), N)
    assert found.rate_hz == pytest.approx(RATE_HZ, rel=1e-3)


@pytest.mark.parametrize("kind", WHOLE)
def test_lost_samples_are_missing_where_they_were(kind: str) -> None:
    packets = "packets" in kind
    lost = np.isin(np.arange(N) // 48, range(134, 144)) if packets else LOST
    found = timeline(WHOLE[kind][~lost], Limits(rate_hz=RATE_HZ), "times")
    (gap,) = found.gaps
    assert gap[0] == pytest.approx(int(np.flatnonzero(lost)[0]), abs=60 if "whole" in kind else 4)
    assert gap[1] == pytest.approx(np.count_nonzero(lost), abs=1)


def test_many_short_gaps_leave_no_error_behind() -> None:
    kept = np.delete(np.arange(N), np.arange(5, N, 10))
    found = timeline(np.round(kept / RATE_HZ, 3), Limits(rate_hz=RATE_HZ), "times")
    assert found.samples == kept[-1] + 1
    assert {count for _, count in found.gaps} == {1}


def test_a_rare_row_that_is_late_is_no_gap() -> None:
    times_s = TRUE_S.copy()
    times_s[500:19_000:500] += 1.9 / RATE_HZ
    found = timeline(np.maximum.accumulate(times_s), Limits(rate_hz=RATE_HZ), "times")
    assert found.gaps == ()


@pytest.mark.parametrize("told", ["microseconds", "nanoseconds", "seconds"])
@pytest.mark.parametrize("start", [0, 1711845000])
def test_another_unit_is_named(tmp_path: Path, told: str, start: int) -> None:
    per_s = {"microseconds": 10**6, "nanoseconds": 10**9, "seconds": 1}[told]
    times = [f"{start * per_s + at * per_s / RATE_HZ:.6f}" for at in range(2000)]
    path = write_table(tmp_path / "w.csv", times, beats(2000, RATE_HZ))
    unix = "unix = true" if start else ""
    with pytest.raises(InputError, match=f"time.format = '{told}'"):
        samples(read_table(path, mapping_text(RATE_HZ, time=unix)))


@pytest.mark.parametrize("declared", [32.0, 66.0, 128.0])
@pytest.mark.parametrize("kind", ["rounded to milliseconds", "of packets", "arrival with jitter"])
def test_another_rate_is_refused_with_the_one_measured(kind: str, declared: float) -> None:
    with pytest.raises(InputError) as caught:
        timeline(WHOLE[kind], Limits(rate_hz=declared), "times")
    # The same whatever was declared.
    assert "64.0" in str(caught.value).replace("64 samples", "64.0 samples")


def test_repeated_rows_are_dropped_and_counted(tmp_path: Path) -> None:
    ecg = beats(4000, RATE_HZ)
    times = [1711845000000 + round(at * 1000 / RATE_HZ) for at in range(4000)]
    again = np.repeat(np.arange(4000), np.where(np.random.default_rng(0).random(4000) < 0.01, 2, 1))
    path = write_table(tmp_path / "w.csv", [times[at] for at in again], ecg[again])
    recording = read_table(path, mapping_text(RATE_HZ, time="unix = true"))
    np.testing.assert_allclose(samples(recording)["ecg"], ecg, atol=1e-6)
    assert recording.origin.notes == (f"{len(again) - 4000} repeated rows dropped (equal in time and in every value)",)


def test_equal_rows_of_a_packet_are_no_repeats(tmp_path: Path) -> None:
    flat = np.where(np.arange(N) < N // 2, 0.0, beats(N, RATE_HZ))
    path = write_table(tmp_path / "w.csv", [f"{t * 1000:.0f}" for t in WHOLE["of packets"]], flat)
    assert len(samples(read_table(path, mapping_text(RATE_HZ)))["ecg"]) == N


def test_rows_without_time_for_them_are_refused() -> None:
    again = np.repeat(TRUE_S, np.where(np.random.default_rng(0).random(N) < 0.008, 2, 1))
    with pytest.raises(InputError, match="rows too many"):
        timeline(again, Limits(rate_hz=RATE_HZ), "times")


def test_swapped_packets_are_refused_with_the_step() -> None:
    order = np.arange(1000)
    order[100:146], order[146:192] = order[146:192].copy(), order[100:146].copy()
    with pytest.raises(InputError, match=r"step back by 1\.42\d* s at row 147"):
        timeline(TRUE_S[order], Limits(rate_hz=RATE_HZ), "times")


def _camera(n: int, seed: int) -> NDArray[np.float64]:
    """Frame times of a camera whose rate wanders between 20 and 34 frames per second."""
    rng = np.random.default_rng(seed)
    rate_hz = 27 + 7 * np.sin(2 * np.pi * np.arange(n) / 900 + seed)
    return np.cumsum(np.maximum(0.001, 1 / rate_hz + rng.normal(0, 0.006, n)))


@pytest.mark.parametrize("declared", [25.0, 27.0, 30.0])
def test_irregular_times_are_refused_with_their_spread(declared: float) -> None:
    with pytest.raises(InputError) as caught:
        timeline(_camera(3000, 1), Limits(rate_hz=declared), "times")
    assert "irregular" in str(caught.value) and "nine of ten between" in str(caught.value)
    assert "resample = true" in str(caught.value)


@pytest.mark.parametrize("rate_hz", [30.0, 15.0])
def test_irregular_times_are_resampled_to_a_true_grid(tmp_path: Path, rate_hz: float) -> None:
    times_s = np.round(_camera(3000, 2), 3)
    times_s -= times_s[0]
    pulse = 100 + np.sin(2 * np.pi * 1.3 * times_s)
    path = write_table(tmp_path / "w.csv", [f"{t * 1000:.0f}" for t in times_s], pulse)
    got = samples(read_table(path, mapping_text(rate_hz, top="resample = true")))["ecg"]
    assert len(got) == int(times_s[-1] * rate_hz + 1e-6) + 1
    inner = slice(30, -30)
    expected = 100 + np.sin(2 * np.pi * 1.3 * np.arange(len(got)) / rate_hz)
    assert np.sqrt(np.nanmean((got - expected)[inner] ** 2)) < 0.02


def test_what_is_faster_than_the_new_grid_does_not_fold_into_it(tmp_path: Path) -> None:
    times_s = np.cumsum(np.random.default_rng(5).uniform(0.006, 0.014, 6000))
    times_s -= times_s[0]
    slow, fast = np.sin(2 * np.pi * 1.3 * times_s), np.sin(2 * np.pi * 18.0 * times_s)
    path = write_table(tmp_path / "w.csv", [f"{t:.6f}" for t in times_s], slow + fast)
    got = samples(read_table(path, mapping_text(20.0, "seconds", top="resample = true")))["ecg"]
    expected = np.sin(2 * np.pi * 1.3 * np.arange(len(got)) / 20.0)
    assert np.sqrt(np.nanmean((got - expected)[40:-40] ** 2)) < 0.05  # folded, the fast part alone would be 0.7


def test_a_long_step_is_a_gap_of_the_new_grid(tmp_path: Path) -> None:
    times_s = np.arange(1200) / 30.0
    kept = (times_s < 10) | (times_s > 12)
    path = write_table(tmp_path / "w.csv", [f"{t:.4f}" for t in times_s[kept]], beats(1200, 30.0)[kept])
    got = samples(read_table(path, mapping_text(30.0, "seconds", top="resample = true")))["ecg"]
    missing = np.flatnonzero(np.isnan(got))
    assert len(got) == 1200 and missing[0] == 300 and missing[-1] == 360
    np.testing.assert_allclose(got[:300], beats(1200, 30.0)[:300], atol=2e-3)
