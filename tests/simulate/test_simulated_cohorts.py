"""Cohorts: determinism, who people are, nights, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from examples import QUIET

from xmae_dist.core.errors import UsageError
from xmae_dist.simulate.cohorts import PRESETS, CohortSpec, simulate_subject
from xmae_dist.simulate.subjects import draw_subject
from xmae_dist.simulate.traits import Prevalence

SHORT = replace(PRESETS["patch_watch"], minutes=1.0)


def test_the_same_index_gives_the_same_bytes_in_any_order() -> None:
    first = simulate_subject(SHORT, 4)
    simulate_subject(SHORT, 1)
    again = simulate_subject(replace(SHORT, subjects=5), 4)
    for one, two in zip(first, again, strict=True):
        assert (one.recording_id, one.start_time_ns, one.labels) == (two.recording_id, two.start_time_ns, two.labels)
        for name, channel in one.channels.items():
            assert np.array_equal(channel.raw, two.channels[name].raw)
        assert np.array_equal(one.truth.r_true_s, two.truth.r_true_s)


@pytest.mark.parametrize("change", [{"seed": 1}, {"subject_prefix": "other"}])
def test_another_seed_or_prefix_is_another_person(change: dict) -> None:
    one, two = simulate_subject(SHORT, 0)[0], simulate_subject(replace(SHORT, **change), 0)[0]
    assert one.subject_id != two.subject_id and one.labels["age"] != two.labels["age"]


def test_the_same_person_in_two_cohorts_on_two_occasions() -> None:
    watch = simulate_subject(SHORT, 0)[0]
    ring = simulate_subject(replace(PRESETS["patch_ring"], minutes=1.0, subject_prefix=SHORT.subject_prefix), 0)[0]
    assert watch.subject_id == ring.subject_id and watch.labels["age"] == ring.labels["age"]
    assert watch.labels["heart_rate_bpm"] != ring.labels["heart_rate_bpm"]


def test_devices_of_one_session_see_one_heart() -> None:
    patch, watch = simulate_subject(SHORT, 2)
    both = np.intersect1d(patch.truth.r_true_s, watch.truth.r_true_s)
    assert both.size > 0.7 * patch.truth.r_true_s.size


def test_labels_are_finite_numbers_everywhere() -> None:
    for name, spec in PRESETS.items():
        for found in simulate_subject(replace(spec, minutes=1.0), 0):
            bad = {
                key: value for key, value in found.labels.items() if not (type(value) is float and math.isfinite(value))
            }
            assert not bad, f"{name}: {bad}"
            assert all(isinstance(value, str) for value in found.label_text.values())


def test_people_are_like_people() -> None:
    people = [draw_subject(0, f"p{index}", Prevalence()) for index in range(1500)]
    age = np.array([person.body.age_yr for person in people])
    old, young = age > 65.0, age < 40.0

    def share(values) -> tuple[float, float]:
        values = np.array(list(values), dtype=float)
        return float(values[young].mean()), float(values[old].mean())

    velocity = share(person.vessels.aortic_pwv_m_s for person in people)
    assert 5.5 < velocity[0] < 7.5 and 9.5 < velocity[1] < 12.5  # RVASC 2010: 6.5 and 10.5
    hypertension = share(person.body.hypertension for person in people)
    assert hypertension[0] < 0.15 and 0.35 < hypertension[1] < 0.75
    vagal = share(person.rhythm.rsa for person in people)
    assert 1.5 < vagal[0] / vagal[1] < 3.0
    assert share(person.rhythm.af for person in people)[1] > 4.0 * share(person.rhythm.af for person in people)[0]
    male = np.array([person.body.male for person in people])
    height = np.array([person.body.height_m for person in people])
    assert 0.08 < height[male].mean() - height[~male].mean() < 0.18
    pressure = np.array([person.body.sbp_mmhg for person in people])
    assert 115.0 < pressure.mean() < 132.0 and 0.3 < np.corrcoef(age, pressure)[0, 1] < 0.7
    # The diagnosis is not a threshold on the pressure: most patients are treated.
    treated = np.array([person.body.treated for person in people])
    assert np.mean(pressure[treated] < 140.0) > 0.3


def test_a_laboratory_value_without_mechanism_has_none() -> None:
    people = [draw_subject(0, f"p{index}", Prevalence()) for index in range(1500)]
    age = np.array([person.body.age_yr for person in people])
    ldl = np.array([person.body.blood.ldl_mg_dl for person in people])
    stiffness = np.array([person.vessels.stiffness for person in people])
    glycation = np.array([person.body.blood.hba1c_percent for person in people])
    vagal = np.log([person.rhythm.rsa for person in people])

    def partial(x, y) -> float:
        confounders = np.stack([np.ones_like(age), age, age**2], axis=1)
        x, y = (v - confounders @ np.linalg.lstsq(confounders, v, rcond=None)[0] for v in (x, y))
        return float(np.corrcoef(x, y)[0, 1])

    assert abs(partial(ldl, stiffness)) < 0.1
    assert partial(glycation, vagal) < -0.15


def test_nights_have_stages_with_their_own_physiology() -> None:
    night = replace(PRESETS["night"], minutes=180.0, motion_scale=0.3, prevalence=Prevalence(af=0.0, ectopy=0.0))
    variability: dict[str, list[float]] = {stage: [] for stage in "W123R"}
    for index in range(8):
        found = simulate_subject(night, index)[0]
        stages = found.label_text["sleep_stages"]
        assert len(stages) == 360 and set(stages) <= set("W123R")
        epoch = (found.truth.r_device_s // 30.0).astype(int)
        for number, stage in enumerate(stages):
            interval = found.truth.rr_before_s[epoch == number]
            slow = np.convolve(interval, np.ones(5) / 5, "valid")
            variability[stage].append(float(np.std(slow) / np.mean(slow)))
    assert min(len(values) for values in variability.values()) > 30
    assert np.median(variability["3"]) < 0.75 * np.median(variability["R"])
    assert "sleep_stages" not in simulate_subject(SHORT, 0)[0].label_text


def test_what_cannot_be_simulated_is_refused() -> None:
    with pytest.raises(UsageError, match="subject index"):
        simulate_subject(QUIET, QUIET.subjects)
    with pytest.raises(UsageError, match="minutes"):
        replace(QUIET, minutes=0.1)
    with pytest.raises(UsageError, match="devices"):
        CohortSpec(name="none", devices=())
