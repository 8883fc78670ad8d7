"""People: who they are, how their heart beats and how stiff their vessels are.

Labels are linked to signals through mechanisms and confounded as they are in people: age moves pressure,
stiffness, variability and arrhythmia at once; body mass moves pressure and voltage; treatment lowers the pressure of
most hypertensive subjects, so the diagnosis is not a threshold on today's pressure.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xmae_dist.core.seeds import generator
from xmae_dist.simulate.blood import draw_blood
from xmae_dist.simulate.traits import (
    Body,
    Electrical,
    Prevalence,
    Rhythm,
    Vessels,
    clip,
    draw_electrical,
    draw_pressure,
    draw_rhythm,
    draw_vessels,
)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One person. Pressures are the usual resting ones; a session moves around them."""

    subject_id: str
    body: Body
    vessels: Vessels
    electrical: Electrical
    rhythm: Rhythm
    pep_s: float
    """Pre-ejection period counted from the R peak at the resting rate."""
    pulse_size: float
    """Optical pulse relative to an average person's at the same site."""


def draw_subject(seed: int, subject_id: str, prevalence: Prevalence) -> Subject:
    """The person named `subject_id`: the same seed, id and prevalence always give the same person."""
    rng = generator("simulate.subject", seed, subject_id)
    body = _draw_body(rng, prevalence)
    rhythm = draw_rhythm(rng, body, prevalence)
    vessels = draw_vessels(rng, body)
    return Subject(
        subject_id=subject_id,
        body=body,
        vessels=vessels,
        electrical=draw_electrical(rng, body),
        rhythm=rhythm,
        pep_s=_pre_ejection_period(rng, body, rhythm),
        pulse_size=_pulse_size(rng, body),
    )


def _draw_body(rng: np.random.Generator, prevalence: Prevalence) -> Body:
    age = float(rng.uniform(*prevalence.age_range_yr))
    male = bool(rng.random() < 0.5)
    height = rng.normal(1.765, 0.07) if male else rng.normal(1.63, 0.065)
    bmi = clip(25.5 + 0.03 * (age - 40.0) + 4.3 * (rng.gamma(4.0, 0.5) - 2.0), 17.0, 48.0)
    hypertension, treated, sbp, dbp = draw_pressure(rng, age, male, bmi, prevalence.hypertension_odds)
    return Body(
        age_yr=age,
        male=male,
        height_m=clip(height - 0.0006 * max(age - 40.0, 0.0), 1.45, 2.05),
        bmi=bmi,
        sbp_mmhg=sbp,
        dbp_mmhg=dbp,
        hypertension=hypertension,
        treated=treated,
        blood=draw_blood(rng, age, male, bmi),
    )


def _pre_ejection_period(rng: np.random.Generator, body: Body, rhythm: Rhythm) -> float:
    # Weissler 1968: PEP = 131 ms - 0.4 HR from Q onset; the R peak comes about 40 ms after Q onset.
    period = 0.087 - 0.0004 * rhythm.heart_rate_bpm + 0.0002 * (body.age_yr - 45.0)
    period += 0.005 * body.blood.dysfunction + rng.normal(0.0, 0.010)
    return clip(period, 0.025, 0.14)


def _pulse_size(rng: np.random.Generator, body: Body) -> float:
    skin = rng.beta(2.0, 3.0)
    size = np.exp(rng.normal(0.0, 0.32) - 0.004 * (body.age_yr - 45.0) - 0.06 * body.blood.dysfunction)
    anaemia = 1.0 + 0.05 * (body.blood.haemoglobin_g_dl - 14.2)
    return float(size * (1.0 - 0.45 * skin) * clip(anaemia, 0.6, 1.2))
