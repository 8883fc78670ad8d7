"""Laboratory values, and the two diseases behind some of them.

Each value either acts on the signals through a stated mechanism (`subjects` applies it) or, like LDL cholesterol,
through none beyond age and body mass: a probe that "finds" it found the confounders.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Blood:
    """Values of one person, as a laboratory would report them (mechanism in brackets)."""

    diabetes: bool
    heart_failure: bool
    haemoglobin_g_dl: float
    """[Anaemia raises the heart rate and lowers the optical pulse.]"""
    hba1c_percent: float
    """[Autonomic neuropathy lowers heart rate variability; glycation stiffens arteries.]"""
    potassium_mmol_l: float
    """[Raises the T wave: visible in the ECG only.]"""
    crp_mg_l: float
    """[Inflammation raises the heart rate and lowers vagal modulation.]"""
    nt_probnp_pg_ml: float
    """[Ventricular dysfunction prolongs the pre-ejection period and weakens the pulse; also high in fibrillation.]"""
    egfr_ml_min: float
    """[Falls with age and with arterial stiffness.]"""
    ldl_mg_dl: float
    """[None.]"""
    dysfunction: float
    """Latent left ventricular dysfunction, standard normal plus heart failure; not a laboratory value."""


def draw_blood(rng: np.random.Generator, age: float, male: bool, bmi: float) -> Blood:
    """Values before the influence of rhythm and stiffness; `laboratory` adds it."""
    diabetes = _happens(rng, -5.5 + 0.055 * age + 0.13 * (bmi - 26.0))
    failure = _happens(rng, -8.2 + 0.085 * age + 0.06 * (bmi - 26.0))
    hba1c = 5.25 + 0.008 * (age - 40.0) + 0.02 * (bmi - 26.0) + rng.normal(0.0, 0.25)
    dysfunction = rng.normal() + (2.4 if failure else 0.0)
    return Blood(
        diabetes=diabetes,
        heart_failure=failure,
        haemoglobin_g_dl=float(np.clip(rng.normal(15.0 if male else 13.5, 1.25) - 0.013 * (age - 45), 7.5, 18.0)),
        hba1c_percent=float(np.clip(hba1c + (rng.gamma(3.0, 0.6) if diabetes else 0.0), 4.4, 12.0)),
        potassium_mmol_l=float(np.clip(rng.normal(4.2, 0.42), 2.9, 6.2)),
        crp_mg_l=float(np.exp(rng.normal(0.4 + 0.05 * (bmi - 26.0), 1.0))),
        nt_probnp_pg_ml=float(np.exp(3.7 + 0.03 * (age - 45.0) + 0.55 * dysfunction + rng.normal(0.0, 0.45))),
        egfr_ml_min=float(np.clip(128.0 - 0.85 * age + rng.normal(0.0, 13.0), 8.0, 140.0)),
        ldl_mg_dl=float(np.clip(rng.normal(118.0 + 0.25 * (age - 45.0) + 0.5 * (bmi - 26.0), 30.0), 40.0, 260.0)),
        dysfunction=float(dysfunction),
    )


def laboratory(blood: Blood, *, fibrillation: bool, stiffness: float) -> dict[str, float]:
    """Values as labels. `stiffness` is the log ratio of pulse wave velocity to a middle-aged person's."""
    return {
        "diabetes": float(blood.diabetes),
        "heart_failure": float(blood.heart_failure),
        "haemoglobin_g_dl": blood.haemoglobin_g_dl,
        "hba1c_percent": blood.hba1c_percent,
        "potassium_mmol_l": blood.potassium_mmol_l,
        "crp_mg_l": blood.crp_mg_l,
        "nt_probnp_pg_ml": blood.nt_probnp_pg_ml * (3.0 if fibrillation else 1.0),
        "egfr_ml_min": max(blood.egfr_ml_min - 18.0 * stiffness, 5.0),
        "ldl_mg_dl": blood.ldl_mg_dl,
    }


def _happens(rng: np.random.Generator, logit: float) -> bool:
    return bool(rng.random() < 1.0 / (1.0 + np.exp(-logit)))
