"""People: who they are, how their heart beats and how stiff their vessels are.

Every trait is drawn from published relations with their scatter, so that labels are linked to signals through
mechanisms and confounded as they are in people: age moves pressure, stiffness, variability and arrhythmia at
once; body mass moves pressure and voltage; treatment lowers the pressure of most hypertensive subjects, so
the diagnosis is not a threshold on today's pressure. docs/simulator.md lists the sources.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xmae_dist.core.seeds import generator

PWV_PER_MMHG = 0.0085
"""Relative change of pulse wave velocity per mmHg: half of Hughes' exponent (0.017 per mmHg) by Moens-Korteweg."""

REFERENCE_MAP_MMHG = 88.0


@dataclass(frozen=True, kw_only=True)
class Prevalence:
    """How common conditions are in a cohort, and which ages it recruits."""

    af: float = 0.12
    """Share of subjects with atrial fibrillation, near age 62; rises with age."""
    ectopy: float = 0.20
    """Share of subjects with frequent (over about 1 per minute) ectopic beats."""
    hypertension_odds: float = 1.0
    """Multiplies the odds of hypertension that age and body mass give."""
    age_range_yr: tuple[float, float] = (20.0, 85.0)


@dataclass(frozen=True, kw_only=True)
class Vessels:
    """Arterial tree at the subject's usual pressure."""

    aortic_pwv_m_s: float
    arm_pwv_m_s: float
    reflection_ratio: float
    """Height of the reflected wave relative to the systolic one."""
    crest_time_s: float
    microvascular_delay_s: float


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
    pvc_per_min: float
    pac_per_min: float
    pvc_coupling: float
    pac_coupling: float


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One person. Pressures are the usual resting ones; a session moves around them."""

    subject_id: str
    age_yr: float
    male: bool
    height_m: float
    bmi: float
    sbp_mmhg: float
    dbp_mmhg: float
    hypertension: bool
    treated: bool
    ectopy: bool
    pep_s: float
    """Pre-ejection period counted from the R peak at the resting rate."""
    perfusion: float
    skin_attenuation: float
    vessels: Vessels
    electrical: Electrical
    rhythm: Rhythm

    @property
    def map_mmhg(self) -> float:
        """Mean arterial pressure."""
        return self.dbp_mmhg + (self.sbp_mmhg - self.dbp_mmhg) / 3.0


def draw_subject(seed: int, subject_id: str, prevalence: Prevalence) -> Subject:
    """The person named `subject_id`: the same seed, id and prevalence always give the same person."""
    rng = generator("simulate.subject", seed, subject_id)
    age = float(rng.uniform(*prevalence.age_range_yr))
    male = bool(rng.random() < 0.5)
    height = float(rng.normal(1.765, 0.07) if male else rng.normal(1.63, 0.065)) - 0.0006 * max(
        age - 40.0, 0.0
    )
    bmi = float(np.clip(25.5 + 0.03 * (age - 40.0) + 4.3 * (rng.gamma(4.0, 0.5) - 2.0), 17.0, 48.0))
    hypertension, treated, sbp, dbp = _pressure(rng, age, male, bmi, prevalence.hypertension_odds)
    rhythm, ectopy = _rhythm(rng, age, male, bmi, treated, prevalence)
    return Subject(
        subject_id=subject_id,
        age_yr=age,
        male=male,
        height_m=height,
        bmi=bmi,
        sbp_mmhg=sbp,
        dbp_mmhg=dbp,
        hypertension=hypertension,
        treated=treated,
        ectopy=ectopy,
        # Weissler 1968: PEP = 131 ms - 0.4 HR from Q onset; the R peak comes about 40 ms after Q onset.
        pep_s=float(
            np.clip(
                0.091 - 0.0004 * rhythm.heart_rate_bpm + 0.0002 * (age - 45) + rng.normal(0, 0.011),
                0.025,
                0.14,
            )
        ),
        perfusion=float(np.exp(rng.normal(0.0, 0.35) - 0.004 * (age - 45.0))),
        skin_attenuation=float(rng.beta(2.0, 3.0)),
        vessels=_vessels(rng, age, hypertension, dbp + (sbp - dbp) / 3.0),
        electrical=_electrical(rng, age, male, bmi, hypertension),
        rhythm=rhythm,
    )


def _pressure(
    rng: np.random.Generator, age: float, male: bool, bmi: float, odds: float
) -> tuple[bool, bool, float, float]:
    logit = -5.4 + 0.075 * age + 0.10 * (bmi - 26.0) + np.log(max(odds, 1e-9))
    hypertension = bool(rng.random() < 1.0 / (1.0 + np.exp(-logit)))
    treated = hypertension and bool(rng.random() < 0.6)
    shift = (22.0 - 14.0 * treated + rng.normal(0.0, 6.0)) if hypertension else 0.0
    scatter = rng.normal(0.0, 8.0)
    sbp = 112.0 + 0.28 * (age - 30.0) + 0.5 * (bmi - 25.0) + 4.0 * male + scatter + shift
    # Diastolic pressure rises until about 55 and falls afterwards (Franklin 1997).
    dbp = 71.0 + 0.32 * (min(age, 55.0) - 30.0) - 0.35 * max(age - 55.0, 0.0) + 0.35 * (bmi - 25.0)
    dbp += 0.4 * scatter + 0.45 * shift + rng.normal(0.0, 4.5)
    sbp = float(np.clip(sbp, 88.0, 205.0))
    return hypertension, treated, sbp, float(np.clip(dbp, 45.0, sbp - 24.0))


def _vessels(rng: np.random.Generator, age: float, hypertension: bool, map_mmhg: float) -> Vessels:
    shared = rng.normal()
    # Reference Values for Arterial Stiffness' Collaboration 2010: about 5.55 + 0.83e-3 age^2 at optimal pressure.
    pressure = np.exp(PWV_PER_MMHG * (map_mmhg - REFERENCE_MAP_MMHG))
    remodelling = 1.05 if hypertension else 1.0
    aortic = (5.55 + 0.83e-3 * age**2) * pressure * remodelling * np.exp(0.09 * shared + 0.05 * rng.normal())
    # Muscular arm arteries stiffen little with age (Bia and Zocalo 2021).
    arm = (8.8 + 0.018 * age) * pressure * np.exp(0.035 * shared + 0.05 * rng.normal())
    stiffness = np.log(aortic / 7.3)
    return Vessels(
        aortic_pwv_m_s=float(aortic),
        arm_pwv_m_s=float(arm),
        reflection_ratio=float(np.clip(0.46 + 0.22 * stiffness + rng.normal(0.0, 0.08), 0.18, 0.85)),
        crest_time_s=float(
            np.clip(0.115 + 0.05 * stiffness + 0.0003 * (age - 45) + rng.normal(0, 0.010), 0.08, 0.20)
        ),
        microvascular_delay_s=float(np.clip(rng.normal(0.040, 0.008), 0.02, 0.07)),
    )


def _electrical(
    rng: np.random.Generator, age: float, male: bool, bmi: float, hypertension: bool
) -> Electrical:
    axis = 52.0 - 0.45 * (age - 45.0) - 0.9 * (bmi - 26.0) + rng.normal(0.0, 17.0)
    strain = 18.0 * hypertension + 0.15 * (age - 45.0)
    r_mv = np.exp(rng.normal(0.15, 0.25)) * (1.0 + 0.15 * hypertension) * (1.0 - 0.010 * (bmi - 26.0))
    return Electrical(
        axis_deg=float(np.clip(axis, -20.0, 95.0)),
        r_mv=float(np.clip(r_mv, 0.45, 2.6)),
        q_ratio=float(rng.uniform(0.02, 0.14)),
        s_ratio=float(rng.uniform(0.05, 0.38)),
        t_mv=float(
            np.clip(
                r_mv * rng.normal(0.27, 0.06) * (1.0 - 0.004 * (age - 45.0)) * (1.12 if male else 0.95),
                0.06,
                0.8,
            )
        ),
        t_axis_deg=float(axis + rng.choice((-1.0, 1.0)) * abs(rng.normal(strain, 14.0)) * 0.7),
        p_mv=float(np.clip(rng.normal(0.13, 0.03), 0.05, 0.24)),
        qrs_scale=float(np.clip(rng.normal(1.0, 0.09) + 0.04 * male + 0.05 * hypertension, 0.8, 1.4)),
        pr_s=float(np.clip(rng.normal(0.158, 0.018) + 0.00035 * (age - 45.0), 0.115, 0.25)),
        qtc_s=float(np.clip(rng.normal(0.405 if male else 0.420, 0.015), 0.36, 0.48)),
        ectopic_axis_deg=float(rng.uniform(-170.0, 170.0)),
        ectopic_scale=float(rng.uniform(1.1, 1.7)),
        fibrillation_hz=float(np.clip(rng.normal(6.3, 0.8), 4.2, 9.0)),
        fibrillation_mv=float(np.exp(rng.normal(np.log(0.055), 0.45))),
    )


def _rhythm(
    rng: np.random.Generator, age: float, male: bool, bmi: float, treated: bool, prevalence: Prevalence
) -> tuple[Rhythm, bool]:
    af = bool(rng.random() < prevalence.af * 2.0 / (1.0 + np.exp(-(age - 62.0) / 8.0)))
    ectopy = bool(rng.random() < prevalence.ectopy * (0.6 + 0.9 / (1.0 + np.exp(-(age - 60.0) / 8.0))))
    burden = np.exp(rng.normal(np.log(3.0), 0.7)) if ectopy else np.exp(rng.normal(np.log(0.03), 1.0))
    ventricular = rng.beta(0.8, 0.8)
    fitness = rng.normal()
    rate = 69.0 - 2.5 * male + 0.35 * (bmi - 26.0) - 4.5 * fitness - 3.0 * treated + rng.normal(0.0, 6.0)
    # Vagal modulation halves between 25 and 65 years (Umetani 1998; Voss 2015).
    vagal = np.exp(-0.017 * (age - 40.0) + 0.15 * fitness)
    return Rhythm(
        heart_rate_bpm=float(np.clip(rate + 14.0 * af, 44.0, 118.0)),
        respiration_rate_bpm=float(np.clip(rng.normal(14.5, 2.4) + 0.12 * (bmi - 26.0), 8.5, 24.0)),
        rsa=float(np.clip(0.036 * vagal * np.exp(rng.normal(0.0, 0.35)), 0.004, 0.14)),
        low_frequency=float(np.clip(0.026 * vagal**0.7 * np.exp(rng.normal(0.0, 0.3)), 0.004, 0.08)),
        very_low_frequency=float(np.clip(0.034 * vagal**0.5 * np.exp(rng.normal(0.0, 0.3)), 0.006, 0.09)),
        af=af,
        af_paroxysmal=bool(rng.random() < 0.4),
        af_irregularity=float(rng.uniform(0.17, 0.27)),
        pvc_per_min=float(min(burden * ventricular, 14.0)),
        pac_per_min=float(min(burden * (1.0 - ventricular), 14.0)),
        pvc_coupling=float(rng.uniform(0.52, 0.72)),
        pac_coupling=float(rng.uniform(0.60, 0.82)),
    ), ectopy
