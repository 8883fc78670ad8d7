"""How a person's circulation is drawn: vessels, electrical heart and rhythm, each from the body it belongs to.

Relations are published regressions or their order of magnitude, each with its scatter (docs/simulator.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xmae_dist.simulate.blood import Blood

PWV_PER_MMHG = 0.0085
"""Relative change of pulse wave velocity per mmHg: half of Hughes' exponent, 0.017 per mmHg (Moens-Korteweg)."""

REFERENCE_MAP_MMHG = 88.0
REFERENCE_PWV_M_S = 7.3
"""Aortic pulse wave velocity of a middle-aged person, from which stiffness is counted."""


@dataclass(frozen=True, kw_only=True)
class Prevalence:
    """How common conditions are in a cohort, and which ages it recruits."""

    af: float = 0.12
    """Share of subjects with atrial fibrillation at about age 62; doubles until 85, and falls below."""
    ectopy: float = 0.20
    """Share of subjects with frequent (mostly over 1 per minute) ectopic beats, near age 58."""
    hypertension_odds: float = 1.0
    """Multiplies the odds of hypertension that age and body mass give."""
    age_range_yr: tuple[float, float] = (20.0, 85.0)


@dataclass(frozen=True, kw_only=True)
class Body:
    """What the other traits are drawn from."""

    age_yr: float
    male: bool
    height_m: float
    bmi: float
    sbp_mmhg: float
    dbp_mmhg: float
    hypertension: bool
    treated: bool
    blood: Blood

    @property
    def map_mmhg(self) -> float:
        """Mean arterial pressure."""
        return self.dbp_mmhg + (self.sbp_mmhg - self.dbp_mmhg) / 3.0


@dataclass(frozen=True, kw_only=True)
class Vessels:
    """Arterial tree at the subject's usual pressure."""

    aortic_pwv_m_s: float
    arm_pwv_m_s: float
    reflection_ratio: float
    """Height of the reflected wave relative to the systolic one."""
    stiffness_index_m_s: float
    """Body height over the time from the systolic to the reflected peak."""
    crest_time_s: float
    microvascular_delay_s: float

    @property
    def stiffness(self) -> float:
        """Log ratio of the aortic pulse wave velocity to a middle-aged person's."""
        return float(np.log(self.aortic_pwv_m_s / REFERENCE_PWV_M_S))


@dataclass(frozen=True, kw_only=True)
class Electrical:
    """What the surface ECG shows of this heart."""

    axis_deg: float
    r_mv: float
    q_ratio: float
    s_ratio: float
    t_mv: float
    t_axis_deg: float
    p_mv: float
    qrs_scale: float
    pr_s: float
    qtc_s: float
    ectopic_axis_deg: float
    ectopic_scale: float
    fibrillation_hz: float
    fibrillation_mv: float


@dataclass(frozen=True, kw_only=True)
class Rhythm:
    """Resting rate, its variability (standard deviations as fractions of the rate), and arrhythmia."""

    heart_rate_bpm: float
    respiration_rate_bpm: float
    rsa: float
    low_frequency: float
    very_low_frequency: float
    af: bool
    af_paroxysmal: bool
    af_irregularity: float
    ectopy: bool
    pvc_per_min: float
    pac_per_min: float
    pvc_coupling: float
    pac_coupling: float


def draw_pressure(
    rng: np.random.Generator, age: float, male: bool, bmi: float, odds: float
) -> tuple[bool, bool, float, float]:
    """Hypertension (diagnosis), whether it is treated, and usual systolic and diastolic pressure in mmHg."""
    logit = -5.0 + 0.075 * age + 0.10 * (bmi - 26.0) + np.log(max(odds, 1e-9))
    hypertension = bool(rng.random() < 1.0 / (1.0 + np.exp(-logit)))
    treated = hypertension and bool(rng.random() < 0.6)
    shift = (22.0 - 14.0 * treated + rng.normal(0.0, 6.0)) if hypertension else 0.0
    scatter = rng.normal(0.0, 8.0)
    sbp = 112.0 + 0.28 * (age - 30.0) + 0.5 * (bmi - 25.0) + 4.0 * male + scatter + shift
    # Diastolic pressure rises until about 55 and falls afterwards (Franklin 1997).
    dbp = 71.0 + 0.32 * (min(age, 55.0) - 30.0) - 0.35 * max(age - 55.0, 0.0) + 0.35 * (bmi - 25.0)
    dbp += 0.4 * scatter + 0.45 * shift + rng.normal(0.0, 4.5)
    sbp = clip(sbp, 88.0, 205.0)
    return hypertension, treated, sbp, clip(dbp, 45.0, sbp - 24.0)


def draw_vessels(rng: np.random.Generator, body: Body) -> Vessels:
    """Stiffness from age, pressure and glycation, with the scatter that equals share."""
    shared = rng.normal()
    pressure = np.exp(PWV_PER_MMHG * (body.map_mmhg - REFERENCE_MAP_MMHG))
    # Reference Values for Arterial Stiffness' Collaboration 2010, at optimal pressure.
    aortic = (5.55 + 0.83e-3 * body.age_yr**2) * pressure
    aortic *= (1.05 if body.hypertension else 1.0) * (1.0 + 0.03 * (body.blood.hba1c_percent - 5.4))
    aortic *= np.exp(0.12 * shared + 0.05 * rng.normal())
    # Muscular arm arteries stiffen little with age (Bia and Zocalo 2021).
    arm = (8.8 + 0.018 * body.age_yr) * pressure * np.exp(0.035 * shared + 0.05 * rng.normal())
    stiffness = np.log(aortic / REFERENCE_PWV_M_S)
    crest = 0.115 + 0.04 * stiffness + 0.0003 * (body.age_yr - 45.0) + rng.normal(0.0, 0.014)
    return Vessels(
        aortic_pwv_m_s=float(aortic),
        arm_pwv_m_s=float(arm),
        reflection_ratio=clip(0.44 + 0.18 * stiffness + rng.normal(0.0, 0.10), 0.18, 0.85),
        # Millasseau 2002: related to the aortic velocity with r about 0.65.
        stiffness_index_m_s=clip(2.6 + 0.55 * aortic + rng.normal(0.0, 1.0), 4.0, 15.0),
        crest_time_s=clip(crest, 0.08, 0.20),
        microvascular_delay_s=clip(rng.normal(0.040, 0.008), 0.02, 0.07),
    )


def draw_electrical(rng: np.random.Generator, body: Body) -> Electrical:
    """Axis, voltages and intervals: horizontal heart in the heavy and old, high voltage and strain in hypertension."""
    older, heavier = body.age_yr - 45.0, body.bmi - 26.0
    axis = 52.0 - 0.45 * older - 0.9 * heavier + rng.normal(0.0, 17.0)
    strain = 18.0 * body.hypertension + 0.15 * older
    r_mv = np.exp(rng.normal(0.15, 0.25)) * (1.0 + 0.15 * body.hypertension) * (1.0 - 0.010 * heavier)
    t_ratio = rng.normal(0.27, 0.05) * (1.0 - 0.004 * older) * (1.12 if body.male else 0.95)
    t_ratio *= 1.0 + 0.22 * (body.blood.potassium_mmol_l - 4.2)
    return Electrical(
        axis_deg=clip(axis, -20.0, 95.0),
        r_mv=clip(r_mv, 0.45, 2.6),
        q_ratio=float(rng.uniform(0.02, 0.14)),
        s_ratio=float(rng.uniform(0.05, 0.38)),
        t_mv=clip(r_mv * t_ratio, 0.06, 0.8),
        t_axis_deg=float(axis + rng.choice((-1.0, 1.0)) * abs(rng.normal(strain, 14.0)) * 0.7),
        p_mv=clip(rng.normal(0.13, 0.03), 0.05, 0.24),
        qrs_scale=clip(rng.normal(1.0, 0.09) + 0.04 * body.male + 0.05 * body.hypertension, 0.8, 1.4),
        pr_s=clip(rng.normal(0.158, 0.018) + 0.00035 * older, 0.115, 0.25),
        qtc_s=clip(rng.normal(0.405 if body.male else 0.420, 0.015), 0.36, 0.48),
        ectopic_axis_deg=float(rng.uniform(-170.0, 170.0)),
        ectopic_scale=float(rng.uniform(1.1, 1.7)),
        fibrillation_hz=clip(rng.normal(6.3, 0.8), 4.2, 9.0),
        fibrillation_mv=float(np.exp(rng.normal(np.log(0.055), 0.45))),
    )


def draw_rhythm(rng: np.random.Generator, body: Body, prevalence: Prevalence) -> Rhythm:
    """Rate, variability and arrhythmia."""
    age, blood = body.age_yr, body.blood
    af = bool(rng.random() < prevalence.af * 2.0 * _sigmoid((age - 62.0) / 8.0) * (1.0 + blood.heart_failure))
    ectopy = bool(rng.random() < prevalence.ectopy * (0.6 + 0.9 * _sigmoid((age - 60.0) / 8.0)))
    burden = np.exp(rng.normal(np.log(3.0), 0.7)) if ectopy else np.exp(rng.normal(np.log(0.03), 1.0))
    ventricular = rng.beta(0.8, 0.8)
    fitness = rng.normal()
    inflammation = np.log(blood.crp_mg_l) - 0.4
    rate = 69.0 - 2.5 * body.male + 0.3 * (body.bmi - 26.0) - 4.5 * fitness - 3.0 * body.treated
    rate += 1.2 * (14.2 - blood.haemoglobin_g_dl) + 1.5 * inflammation + 6.0 * blood.heart_failure
    # Vagal modulation halves between 25 and 65 years (Umetani 1998; Voss 2015).
    neuropathy = 0.12 * (blood.hba1c_percent - 5.4)
    vagal = np.exp(-0.017 * (age - 40.0) + 0.15 * fitness - neuropathy - 0.08 * inflammation)
    return Rhythm(
        heart_rate_bpm=clip(rate + rng.normal(0.0, 5.5) + 14.0 * af, 44.0, 118.0),
        respiration_rate_bpm=clip(rng.normal(14.5, 2.4) + 0.12 * (body.bmi - 26.0), 8.5, 24.0),
        rsa=clip(0.036 * vagal * np.exp(rng.normal(0.0, 0.35)), 0.004, 0.14),
        low_frequency=clip(0.026 * vagal**0.7 * np.exp(rng.normal(0.0, 0.3)), 0.004, 0.08),
        very_low_frequency=clip(0.034 * vagal**0.5 * np.exp(rng.normal(0.0, 0.3)), 0.006, 0.09),
        af=af,
        af_paroxysmal=bool(rng.random() < 0.4),
        af_irregularity=float(rng.uniform(0.17, 0.27)),
        ectopy=ectopy,
        pvc_per_min=float(min(burden * ventricular, 14.0)),
        pac_per_min=float(min(burden * (1.0 - ventricular), 14.0)),
        pvc_coupling=float(rng.uniform(0.52, 0.72)),
        pac_coupling=float(rng.uniform(0.60, 0.82)),
    )


def clip(value: float, low: float, high: float) -> float:
    """`value` held within the limits of the plausible."""
    return float(min(max(value, low), high))


def _sigmoid(x: float) -> float:
    return float(1.0 / (1.0 + np.exp(-x)))
