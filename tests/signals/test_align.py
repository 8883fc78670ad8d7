"""Clocks of two devices found again from their beats; the full study is `bench/align.py`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from xmae_dist.signals.align import REASONS, Alignment, AlignSpec, align
from xmae_dist.signals.beats import pulse_feet, r_peaks
from xmae_dist.signals.defects import fill_gaps
from xmae_dist.signals.drift import fit_clock
from xmae_dist.signals.filter import bandpass
from xmae_dist.signals.resample import resample
from xmae_dist.simulate.traits import Prevalence
from xmae_dist.testing.beat_trains import BeatTrainPair, PairSpec, beat_train_pair


def _worst_s(found: Alignment, pair: BeatTrainPair) -> float:
    """Largest misalignment at any time of the recording."""
    true_s = np.linspace(pair.r_true_s[0], pair.r_true_s[-1], 200)
    told_s = found.to_reference(pair.clock.wall_s(true_s))
    return float(np.abs(pair.misalignment_s(told_s, true_s, found.arrival_prior_s)).max())


@pytest.mark.parametrize("seed", range(6))
def test_offset_and_drift_with_a_change_are_found_again(seed: int) -> None:
    pair = beat_train_pair(
        PairSpec(
            seed=seed,
            missing=(0.05, 0.15, 0.3)[seed % 3],
            other_hz=(25.0, 64.0, 500.0)[seed % 3],
            prevalence=Prevalence(ectopy=1.0, af=0.3),
        )
    )
    found = align(pair.reference_s, pair.other_s)
    assert found.accepted, found
    assert _worst_s(found, pair) < 0.04  # the study judges how often it stays under 0.025
    assert 0.02 > found.lag_std_s > 0.001
    assert found.matched_fraction > 0.6


def test_a_steady_clock_has_one_segment_and_a_broken_one_two() -> None:
    steady = beat_train_pair(PairSpec(seed=5, change=False, wander_s=0.003))
    found = align(steady.reference_s, steady.other_s)
    assert len(found.segments) == 1
    assert found.segments[0][3] == pytest.approx(steady.clock.drift_ppm, abs=6.0)
    other_s = steady.other_s + 120e-6 * np.maximum(steady.other_s - 2000.0, 0.0)
    broken = align(steady.reference_s, other_s)
    (_, to_s, _, before_ppm), (from_s, _, lag_s, after_ppm) = broken.segments
    assert to_s == from_s == pytest.approx(2000.0, abs=200.0)
    assert after_ppm - before_ppm == pytest.approx(120.0, abs=20.0)
    assert broken.lag(np.array([from_s]))[0] == pytest.approx(lag_s)
    assert broken.lag(np.array([from_s - 1e-6]))[0] == pytest.approx(lag_s, abs=1e-6)  # no step at the change


def test_the_prior_moves_the_constant_and_nothing_else() -> None:
    pair = beat_train_pair(PairSpec(seed=3, minutes=10.0))
    one, two = (align(pair.reference_s, pair.other_s, AlignSpec(arrival_prior_s=p)) for p in (0.2, 0.3))
    assert one.offset_s - two.offset_s == pytest.approx(0.1)
    assert [s[3] for s in one.segments] == [s[3] for s in two.segments]


@pytest.mark.parametrize("minutes", [5.0, 20.0])
def test_unrelated_people_are_rejected(minutes: float) -> None:
    pairs = [beat_train_pair(PairSpec(seed=seed, minutes=minutes, missing=0.05)) for seed in range(3)]
    for one in pairs:
        for two in pairs:
            if one is not two:
                found = align(one.reference_s, two.other_s)
                assert not found.accepted
                assert found.reason in REASONS


def test_a_metronome_fits_everywhere_and_is_rejected() -> None:
    regular_s = np.arange(0.0, 1800.0, 0.8)
    noise_s = np.random.default_rng(0).normal(0, 0.01, regular_s.size)
    assert align(regular_s, regular_s + 12.3 + noise_s).reason == "ambiguous"


def test_a_clock_that_was_set_is_rejected() -> None:
    pair = beat_train_pair(PairSpec(seed=1, change=False))
    assert not align(pair.reference_s, pair.other_s + 0.3 * (pair.other_s > 1700.0)).accepted


@pytest.mark.parametrize("n", [0, 1, 30])
def test_too_few_beats(n: int) -> None:
    pair = beat_train_pair(PairSpec(seed=2, minutes=5.0))
    assert align(pair.reference_s, pair.other_s[:n]).reason == "too_few_beats"
    assert align(pair.reference_s[:n], pair.other_s).reason == "too_few_beats"
    with pytest.raises(ValueError, match="too_few_beats"):
        align(pair.reference_s[:n], pair.other_s).to_reference(np.zeros(1))


def test_wander_is_not_taken_for_a_change() -> None:
    at_s = np.arange(0.0, 3600.0, 1.0)
    lag_s = 5.0 + 40e-6 * at_s + 0.012 * np.sin(2 * np.pi * at_s / 400.0)
    fit = fit_clock(at_s, lag_s, (0.0, 3600.0))
    assert fit is not None
    assert np.abs(fit.lag(at_s) - 5.0 - 40e-6 * at_s).max() < 0.008


def _real_beats(folder: Path, every: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """R peaks and pulse feet, seconds on the monitor's clock, of good records of challenge2015, one a patient.

    Some records are stretches of one recording that overlap: paired, they are rightly accepted.
    """
    import csv

    wfdb = pytest.importorskip("wfdb")
    with open(folder / "manifest.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["quality"] == "good"]
    rows = list({row["patient_proxy"]: row for row in rows}.values())[::every]
    found = {}
    for row in rows:
        record = wfdb.rdrecord(str(folder / row["record"]))
        ecg, ppg = (
            resample(fill_gaps(record.p_signal[:, record.sig_name.index(name)])[0], record.fs, 125.0)
            for name in (row["ecg_used"], "PLETH")
        )
        found[row["record"]] = (
            r_peaks(bandpass(ecg, 125.0, (0.5, 40.0)), 125.0),
            pulse_feet(bandpass(ppg, 125.0, (0.5, 8.0)), 125.0),
        )
    return found


@pytest.mark.recordings
@pytest.mark.parametrize("every", [9, pytest.param(1, marks=[pytest.mark.slow, pytest.mark.timeout(1500)])])
def test_real_records_are_recovered_and_different_patients_rejected(recordings_dir: Path, every: int) -> None:
    beats = _real_beats(recordings_dir / "challenge2015", every)
    rng = np.random.default_rng(0)
    errors_s, accepted = [], 0
    for r_s, foot_s in beats.values():
        offset_s, drift = rng.uniform(-55, 55), rng.uniform(-100e-6, 100e-6)
        found = align(r_s, foot_s * (1 + drift) + offset_s)
        accepted += found.accepted
        if found.accepted:
            plain = align(r_s, foot_s)  # what the monitor's own delay looks like
            at_s = np.linspace(foot_s[0], foot_s[-1], 50)
            told_s = found.to_reference(at_s * (1 + drift) + offset_s)
            errors_s.append(np.abs(told_s - plain.to_reference(at_s)).max())
            assert np.median(_delay(r_s, at_s, told_s, foot_s)) == pytest.approx(found.arrival_prior_s, abs=0.03)
    assert max(errors_s) < 0.025
    assert accepted >= 0.5 * len(beats)
    names = sorted(beats, key=lambda name: np.median(np.diff(beats[name][0])))  # neighbours: nearly one heart rate
    for index, name in enumerate(names):
        other = beats[names[(index + 1) % len(names)]][1]
        assert not align(beats[name][0], other + rng.uniform(-55, 55)).accepted


def _delay(r_s: np.ndarray, at_s: np.ndarray, told_s: np.ndarray, foot_s: np.ndarray) -> np.ndarray:
    """Delays from R peaks to the next foot, with feet told on the reference clock."""
    told_foot_s = np.interp(foot_s, at_s, told_s)
    following = np.searchsorted(told_foot_s, r_s)
    inside = following < told_foot_s.size
    delay_s = told_foot_s[following[inside]] - r_s[inside]
    return delay_s[delay_s < 0.7]
